//! Tries a running gate from outside: whether it refuses what it must refuse.
//!
//! Sends what a stranger could send, on HTTP/1.1, byte by byte. What the gate lets through is known by the
//! status: one that only a workspace, or HAProxy on its way to one, would answer with. With an echo (a
//! workspace whose answer shows the request), what arrived there is looked at, too.

use std::{fmt, time::Duration};

use secrecy::SecretString;

mod checks;
pub mod client;

use client::{Client, Reply};

/// How long one answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What is tried.
pub struct Target {
    /// How the gate is reached.
    pub client: Client,
    /// The host of a workspace that is running and not public.
    pub host: String,
    /// A token of somebody who may reach it; without one, what happens after an allow is not tried.
    pub token: Option<SecretString>,
    /// Whether the workspace answers with the request as it arrived.
    pub echo: bool,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must be.
    Pass(String),
    /// Open, or not what was asked for.
    Fail(String),
    /// Could not be tried, and why.
    Skip(&'static str),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, which does not change.
    pub id: &'static str,
    /// What must be so.
    pub what: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What to do if it fails.
    pub fix: &'static str,
}

impl Check {
    /// Whether it failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Fail(_))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, what, outcome, fix } = self;
        match outcome {
            Outcome::Pass(saw) => write!(f, "pass  {id}: {what} ({saw})"),
            Outcome::Skip(why) => write!(f, "skip  {id}: {what} ({why})"),
            Outcome::Fail(saw) => write!(f, "FAIL  {id}: {what} ({saw})\n      fix: {fix}"),
        }
    }
}

/// Tries everything, one after another, and tells of each check as it ends.
pub async fn run(target: &Target, tell: impl FnMut(&Check)) -> Vec<Check> {
    checks::run(target, tell).await
}

/// What an answer says about where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// A refusal.
    Refused,
    /// A redirect to sign in.
    SignIn,
    /// The connection was closed without an answer.
    Closed,
    /// Somebody was let through.
    Through,
}

impl From {
    fn of(reply: Option<&Reply>) -> Self {
        match reply.map(|reply| reply.status) {
            None => Self::Closed,
            Some(302 | 303) => Self::SignIn,
            // 502 and 504 are HAProxy's when it asked a server.
            Some(400..=499 | 501 | 503) => Self::Refused,
            Some(_) => Self::Through,
        }
    }
}
