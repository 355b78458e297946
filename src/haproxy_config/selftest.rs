//! `haproxy selftest`: tries a running gate from outside, and reports whether it refuses what it must refuse.
//!
//! It sends what a stranger could send, byte by byte over HTTP/1.1. The status shows whether a request got through:
//! some are only sent by a workspace, or by HAProxy on the way to one. With `--echo` the workspace answers with the
//! request that arrived, which is checked too. It changes nothing, and prints no token.

use std::{fmt, time::Duration};

use secrecy::SecretString;

mod checks;
pub mod client;

use client::{Client, Reply};

/// The limit for one response.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is tried, and with which credentials.
pub struct Target {
    /// The connection to the gate.
    pub client: Client,
    /// The host of a workspace that is running and not public.
    pub host: String,
    /// A token of a person who may reach the workspace. Without one, nothing is tried that needs an allow.
    pub token: Option<SecretString>,
    /// Whether the workspace answers with the request as it arrived.
    pub echo: bool,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The gate did what it must; with what it answered.
    Pass(String),
    /// The gate is open, or did something else; with what it answered.
    Fail(String),
    /// The check was not made, with the reason.
    Skip(&'static str),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The id, which never changes.
    pub id: &'static str,
    /// What must be true.
    pub what: &'static str,
    /// The result.
    pub outcome: Outcome,
    /// What to do if the check fails.
    pub fix: &'static str,
}

impl Check {
    /// Whether the check failed.
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

/// Makes all checks, one after another, and calls `tell` after each.
pub async fn run(target: &Target, tell: impl FnMut(&Check)) -> Vec<Check> {
    checks::run(target, tell).await
}

/// What a response says about the place it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyKind {
    /// The gate refused.
    Refused,
    /// The gate redirected to sign-in.
    SignIn,
    /// The connection was closed without a response.
    Closed,
    /// The request got through.
    LetThrough,
}

impl ReplyKind {
    fn classify(reply: Option<&Reply>) -> Self {
        match reply.map(|reply| reply.status) {
            None => Self::Closed,
            Some(302 | 303) => Self::SignIn,
            // HAProxy answers 502 and 504 when it asked a server.
            Some(400..=499 | 501 | 503) => Self::Refused,
            Some(_) => Self::LetThrough,
        }
    }
}
