//! What the answers were, against what they may have been.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{
    client::Reply,
    truth::{Attempt, Credential, Span},
};

/// Counts of one stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Right answers: let in, and refused.
    pub allowed: u64,
    pub refused: u64,
    /// Let in who must not be, or to the wrong place.
    pub wrong_allows: u64,
    /// Refused who must be let in, as if it were their fault.
    pub wrong_denies: u64,
    /// Should have been let in, as far as the oracle knows; got 502, 503, 504 or no answer.
    pub lost: u64,
    /// No answer at all, and should have been refused.
    pub silent: u64,
    /// Statuses with reasons.
    pub answers: BTreeMap<String, u64>,
    /// Microseconds of requests that were answered.
    pub micros: Vec<u32>,
    /// What was lost, by cause.
    pub causes: BTreeMap<String, u64>,
}

impl Counts {
    pub fn asked(&self) -> u64 {
        self.allowed
            + self.refused
            + self.wrong_allows
            + self.wrong_denies
            + self.lost
            + self.silent
    }

    pub fn add(&mut self, other: &Self) {
        self.allowed += other.allowed;
        self.refused += other.refused;
        self.wrong_allows += other.wrong_allows;
        self.wrong_denies += other.wrong_denies;
        self.lost += other.lost;
        self.silent += other.silent;
        for (answer, count) in &other.answers {
            *self.answers.entry(answer.clone()).or_default() += count;
        }
        for (cause, count) in &other.causes {
            *self.causes.entry(cause.clone()).or_default() += count;
        }
    }
}

/// All that was counted.
pub struct Tally {
    start: Instant,
    now: Mutex<Counts>,
    /// Surprises, in words.
    pub surprises: Mutex<Vec<String>>,
    /// When the last answer was lost, and the last one right.
    pub last_lost: Mutex<Option<Instant>>,
    /// Until when an agent that began may not have all workspaces.
    pub loading: Mutex<Option<Instant>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            now: Mutex::default(),
            surprises: Mutex::default(),
            last_lost: Mutex::default(),
            loading: Mutex::default(),
        }
    }
}

impl Tally {
    /// Counts one answer.
    pub fn judge(
        &self,
        attempt: &Attempt,
        answer: &Result<Reply, String>,
        span: Span,
        took: Duration,
    ) {
        let possible = attempt.possible(span);
        let mut now = self.now.lock().unwrap();
        let reply = match answer {
            Ok(reply) => reply,
            Err(what) => {
                *now.answers.entry("none".into()).or_default() += 1;
                *now.causes.entry(what.clone()).or_default() += 1;
                let count = if possible.allow { &mut now.lost } else { &mut now.silent };
                *count += 1;
                *self.last_lost.lock().unwrap() = Some(Instant::now());
                return;
            }
        };
        now.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        let reason = if reply.status == 200 { "" } else { reply.reason() };
        *now.answers.entry(format!("{} {reason}", reply.status)).or_default() += 1;
        match reply.status {
            // A workspace's answer and nothing else has this line.
            200 if reply.told("slot").is_some() => {
                let place = attempt.is_right_place(|what| reply.told(what).map(str::to_owned));
                match place {
                    Ok(()) if possible.allow => now.allowed += 1,
                    Ok(()) => {
                        now.wrong_allows += 1;
                        self.surprise(format!("WRONG ALLOW: {}", attempt.describe()));
                    }
                    Err(what) => {
                        now.wrong_allows += 1;
                        self.surprise(format!("WRONG PLACE: {what}: {}", attempt.describe()));
                    }
                }
            }
            // A person who must be refused does not get "not possible at the moment", unless the workspace
            // itself is not ready.
            502..=504
                if possible.allow
                    && !matches!(reason, "workspace_starting" | "workspace_interrupted") =>
            {
                now.lost += 1;
                *now.causes.entry(format!("{} {reason}", reply.status)).or_default() += 1;
                *self.last_lost.lock().unwrap() = Some(Instant::now());
            }
            _ if possible.refuse => now.refused += 1,
            // Strangers learn nothing of workspaces that are not known yet: at a public port too they get 401.
            401 | 502..=504 if reply.status > 401 || self.is_loading(attempt, span) => {
                now.lost += 1;
                *now.causes.entry(format!("{} {reason}", reply.status)).or_default() += 1;
                *self.last_lost.lock().unwrap() = Some(Instant::now());
            }
            status => {
                now.wrong_denies += 1;
                self.surprise(format!("WRONG DENY {status} {reason}: {}", attempt.describe()));
            }
        }
    }

    fn is_loading(&self, attempt: &Attempt, span: Span) -> bool {
        let until = *self.loading.lock().unwrap();
        matches!(attempt.credential, Credential::Nothing)
            && until.is_some_and(|until| span.start < until)
    }

    /// One of a tunnel.
    pub fn wrong_allow(&self) {
        self.now.lock().unwrap().wrong_allows += 1;
    }

    /// One of a tunnel.
    pub fn wrong_deny(&self) {
        self.now.lock().unwrap().wrong_denies += 1;
    }

    pub fn surprise(&self, what: impl std::fmt::Display) {
        let what = format!("{:8.1} s {what}", self.start.elapsed().as_secs_f64());
        eprintln!("{what}");
        let mut all = self.surprises.lock().unwrap();
        if all.len() < 1000 {
            all.push(what);
        }
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut self.now.lock().unwrap())
    }
}

/// Percentiles of microseconds, which are sorted for it.
pub fn percentiles<const N: usize>(micros: &mut [u32], percents: [f64; N]) -> [f64; N] {
    micros.sort_unstable();
    percents.map(|percent| {
        if micros.is_empty() {
            return 0.0;
        }
        let last = micros.len() - 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let at = (last as f64 * percent / 100.0).round() as usize;
        f64::from(micros[at.min(last)])
    })
}
