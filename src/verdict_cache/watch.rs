//! Deciding again about what was given for reuse.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Edge, Given, Key, PARTS, State};
use crate::{
    authz::policy::RequestContext,
    gate::{
        Gate,
        live::Live,
        revalidate::{Held, revalidate},
    },
    time::{MonotonicTime, Timestamp},
    workspaces::{
        pattern::Scratch,
        registry::{Mark, Snapshot},
    },
};

/// Between two looks at whether something changed.
const EVERY: Duration = Duration::from_millis(10);
/// Between two looks at everything when nothing changed: what nobody confirms grows stale by itself.
const IN_ANY_CASE: Duration = Duration::from_secs(1);
/// A round is followed by so many times its length of rest.
const REST: u32 = 4;
/// By how much the wall clock may move against the steady one between two looks. HAProxy's deadlines are by
/// the wall clock.
const DRIFT: Duration = Duration::from_millis(500);

/// Decides again until stopped.
pub async fn run(edge: Arc<Edge>, live: Arc<Live>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watcher = Watcher::new(&edge, &live);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => watcher.round(Timestamp::now(), MonotonicTime::now()),
        }
    }
}

/// What a round remembers of the one before.
pub struct Watcher<'e> {
    edge: &'e Edge,
    live: &'e Live,
    scratch: Scratch,
    seen: Option<(Arc<Gate>, Mark, u64)>,
    clocks: Option<(Timestamp, MonotonicTime)>,
    last: MonotonicTime,
    rest_until: MonotonicTime,
}

impl<'e> Watcher<'e> {
    /// Before the first round.
    #[must_use]
    pub fn new(edge: &'e Edge, live: &'e Live) -> Self {
        Self {
            edge,
            live,
            scratch: Scratch::default(),
            seen: None,
            clocks: None,
            last: MonotonicTime::default(),
            rest_until: MonotonicTime::default(),
        }
    }

    /// One round.
    pub fn round(&mut self, now: Timestamp, at: MonotonicTime) {
        if self.clock_moved(now, at) {
            self.edge.end_all();
        }
        if at < self.rest_until {
            return;
        }
        let gate = self.live.gate();
        let (mark, version) = (gate.registry.mark(), gate.revocations.version());
        let same = self
            .seen
            .as_ref()
            .is_some_and(|(_, marked, counted)| *marked == mark && *counted == version);
        let all = !same || at.since(self.last) >= IN_ANY_CASE;
        // What another configuration allowed, HAProxy asks about again.
        let other = self.seen.as_ref().is_some_and(|(before, ..)| !Arc::ptr_eq(before, &gate));
        self.seen = Some((Arc::clone(&gate), mark, version));
        if all {
            self.last = at;
        }
        let start = Instant::now();
        if other || self.has_ended(&gate, all, now, at) {
            self.edge.end_all();
        }
        self.rest_until = at.plus(start.elapsed() * REST);
    }

    /// Whether one of those that were given would be refused now. Looks at sessions in every round, at the
    /// rest of what is new, and with `all` of everything. The lock, which requests need, is held for a part at a time.
    fn has_ended(&mut self, gate: &Gate, all: bool, now: Timestamp, at: MonotonicTime) -> bool {
        (0..PARTS).any(|number| self.has_ended_in(number, (gate, all), now, at))
    }

    fn has_ended_in(
        &mut self,
        number: usize,
        (gate, all): (&Gate, bool),
        now: Timestamp,
        at: MonotonicTime,
    ) -> bool {
        let sessions = gate.browser.as_ref().map(|sign_in| &sign_in.sessions);
        let mut wanted: Vec<(Key, Given)> = Vec::new();
        {
            let mut state = self.edge.lock();
            let State { parts, count, .. } = &mut *state;
            let Some(part) = parts.get_mut(number) else { return false };
            if all {
                let before = part.len();
                part.retain(|_, given| given.until > at);
                *count = count.saturating_sub(before.saturating_sub(part.len()));
            }
            for (key, given) in part {
                if let Some(session) = &given.session
                    && sessions.is_none_or(|sessions| !sessions.counts(session, now))
                {
                    return true;
                }
                if all || given.fresh {
                    given.fresh = false;
                    wanted.push((key.clone(), given.clone()));
                }
            }
        }
        if wanted.is_empty() {
            return false;
        }
        // Taken after what is decided about, so that it is not older.
        let workspaces = gate.registry.snapshot();
        wanted.iter().any(|(key, given)| self.is_over(gate, &workspaces, (key, given), now))
    }

    fn is_over(
        &mut self,
        gate: &Gate,
        workspaces: &Snapshot,
        (key, given): (&Key, &Given),
        now: Timestamp,
    ) -> bool {
        let held = Held {
            host: &key.host,
            about: RequestContext { now, ..RequestContext::default() },
            identity: given.identity.clone(),
            session: given.session.as_ref(),
            route: given.route.as_ref(),
        };
        revalidate(gate, workspaces, held, &mut self.scratch).is_err()
    }

    fn clock_moved(&mut self, now: Timestamp, at: MonotonicTime) -> bool {
        let before = self.clocks.replace((now, at));
        before.is_some_and(|(wall, steady)| {
            // Forwards only ends earlier what ends by the clock.
            wall.plus(at.since(steady)).since(now) > DRIFT
        })
    }
}
