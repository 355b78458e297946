//! The loop that decides again about what was allowed earlier: tunnels, and allows that HAProxy may
//! reuse.
//!
//! A table of earlier allows implements [`HeldAllows`] and registers with the [`Revalidator`]. Each
//! table has a [`Schedule`]. In each of its rounds the table first looks at what ends by the clock or
//! with a session, which is cheap. Then it decides again: about all allows when the gate, the
//! workspaces or the revocations have changed, and once a second in any case, since what no source
//! confirms grows stale without a change; otherwise only about new allows.
//!
//! A round of decisions is followed by a rest in proportion to its length, so that a table of any
//! size takes a fixed part of one core at most. A change during the rest is noticed right after it.
//!
//! Invariant: what an allow was decided from ([`Basis`]) is read before the allow is decided about,
//! so that a change in between leads to another round.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Gate, live::Live};
use crate::{
    time::{MonotonicTime, Timestamp},
    workspaces::registry::SnapshotMark,
};

/// Time between two rounds about all allows when nothing has changed.
const FULL_ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// A table of earlier allows.
pub trait HeldAllows: Send {
    /// When its rounds are.
    fn schedule(&self) -> Schedule;

    /// Ends what is over by the clock or with its session. Called in every round, also in a rest.
    fn expire(&mut self, gate: &Gate, now: Timestamp, at: MonotonicTime);

    /// Decides again about all allows or about the new ones, as the round says.
    fn decide(&mut self, round: &Round<'_>);
}

/// When the rounds of a table are.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time between two rounds.
    pub interval: Duration,
    /// The rest after decisions, as a multiple of the time that they took.
    pub rest: u32,
}

/// One round of decisions.
pub struct Round<'r> {
    /// The gate that decides.
    pub gate: &'r Arc<Gate>,
    /// What has changed since the round before.
    pub change: Change,
    /// Which allows are decided about.
    pub scope: Scope,
    /// The time.
    pub now: Timestamp,
    /// The time by the monotonic clock.
    pub at: MonotonicTime,
}

/// Which allows a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those that were not decided about again yet: something may have changed while they were being
    /// allowed.
    New,
}

/// What has changed since the round before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Workspaces or revocations; or this is the first round.
    Facts,
    /// The gate: it comes from another configuration.
    Gate,
}

/// What decisions were made from.
struct Basis {
    gate: Arc<Gate>,
    workspaces: SnapshotMark,
    revocations: u64,
}

impl Basis {
    fn read(gate: &Arc<Gate>) -> Self {
        Self {
            gate: Arc::clone(gate),
            workspaces: gate.registry.mark(),
            revocations: gate.revocations.version(),
        }
    }

    /// What has changed from an earlier basis to this one.
    fn change_since(&self, earlier: Option<&Self>) -> Change {
        match earlier {
            Some(earlier) if !Arc::ptr_eq(&earlier.gate, &self.gate) => Change::Gate,
            Some(earlier)
                if earlier.workspaces == self.workspaces
                    && earlier.revocations == self.revocations =>
            {
                Change::Nothing
            }
            _ => Change::Facts,
        }
    }
}

/// Decides again about the allows of all registered tables.
pub struct Revalidator {
    live: Arc<Live>,
    tables: Vec<Registered>,
}

/// A table, and what its rounds remember.
struct Registered {
    allows: Box<dyn HeldAllows>,
    schedule: Schedule,
    /// What the round before decided from.
    basis: Option<Basis>,
    last_full_round: MonotonicTime,
    rest_until: MonotonicTime,
}

impl Revalidator {
    /// A revalidator without tables, which decides by the current gate of `live`.
    #[must_use]
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, tables: Vec::new() }
    }

    /// Adds a table.
    pub fn register(&mut self, allows: impl HeldAllows + 'static) {
        self.tables.push(Registered {
            schedule: allows.schedule(),
            allows: Box::new(allows),
            basis: None,
            last_full_round: MonotonicTime::default(),
            rest_until: MonotonicTime::default(),
        });
    }

    /// Runs the rounds of all tables until stopped. Each table has a task of its own, so that a long
    /// round of one delays no other.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for table in self.tables {
            tasks.spawn(table.run(Arc::clone(&self.live), stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Runs one round of every table, whatever the schedule says.
    pub fn round(&mut self, now: Timestamp, at: MonotonicTime) {
        for table in &mut self.tables {
            table.round(&self.live, now, at);
        }
    }
}

impl Registered {
    async fn run(mut self, live: Arc<Live>, stop: CancellationToken) {
        let mut ticks = interval(self.schedule.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.round(&live, Timestamp::now(), MonotonicTime::now()),
            }
        }
    }

    fn round(&mut self, live: &Live, now: Timestamp, at: MonotonicTime) {
        // One gate for the whole round, so that no decision is made from parts of two.
        let gate = live.gate();
        self.allows.expire(&gate, now, at);
        if at < self.rest_until {
            return;
        }
        let basis = Basis::read(&gate);
        let change = basis.change_since(self.basis.as_ref());
        self.basis = Some(basis);
        let is_time = at.since(self.last_full_round) >= FULL_ROUND_INTERVAL;
        let scope = if change != Change::Nothing || is_time { Scope::All } else { Scope::New };
        if scope == Scope::All {
            self.last_full_round = at;
        }
        let start = Instant::now();
        self.allows.decide(&Round { gate: &gate, change, scope, now, at });
        self.rest_until = at.plus(start.elapsed() * self.schedule.rest);
    }
}

#[cfg(test)]
mod tests;
