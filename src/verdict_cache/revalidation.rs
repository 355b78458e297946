//! Decides again about the allows that HAProxy may reuse, and invalidates all of them as soon as one
//! does not hold any more.
//!
//! [`Revalidator`](crate::gate::revalidator::Revalidator) calls this in rounds, 100 times a second.
//! However much changes, it takes a fifth of one core at most.

use std::{sync::Arc, time::Duration};

use super::{AllowKey, CacheState, CachedAllow, PARTS, VerdictCache};
use crate::{
    authz::policy::RequestContext,
    gate::{
        Gate,
        revalidate::{HeldAllow, revalidate},
        revalidator::{Change, HeldAllows, Round, Schedule, Scope},
    },
    sessions::table::SessionValidity,
    time::{MonotonicTime, Timestamp},
    workspaces::{pattern::Scratch, registry::Snapshot},
};

/// When reused allows are decided about.
const SCHEDULE: Schedule = Schedule { interval: Duration::from_millis(10), rest: 4 };
/// How far the wall clock may go back, against the monotonic clock, between two rounds. HAProxy's
/// deadlines are by the wall clock.
const MAX_CLOCK_STEP: Duration = Duration::from_millis(500);

/// The allows that HAProxy may reuse, for the revalidator.
pub struct CacheRevalidation {
    cache: Arc<VerdictCache>,
    scratch: Scratch,
    /// Both clocks at the round before.
    clocks: Option<(Timestamp, MonotonicTime)>,
}

impl CacheRevalidation {
    /// For the allows of this cache.
    #[must_use]
    pub fn new(cache: Arc<VerdictCache>) -> Self {
        Self { cache, scratch: Scratch::default(), clocks: None }
    }

    /// Whether an allow would be refused now. Sessions are looked at in every round; decisions are
    /// made about new allows, or about all. Requests need the lock, so it is held for one part of the
    /// table at a time.
    fn has_ended(&mut self, round: &Round<'_>) -> bool {
        (0..PARTS).any(|number| self.has_ended_in(number, round))
    }

    fn has_ended_in(&mut self, number: usize, round: &Round<'_>) -> bool {
        let Round { gate, scope, now, at, .. } = *round;
        let sessions = gate.browser.as_ref().map(|sign_in| &sign_in.sessions);
        let mut wanted: Vec<(AllowKey, CachedAllow)> = Vec::new();
        {
            let mut state = self.cache.lock();
            let CacheState { parts, count, .. } = &mut *state;
            let Some(part) = parts.get_mut(number) else { return false };
            if scope == Scope::All {
                let before = part.len();
                // HAProxy does not reuse these any more.
                part.retain(|_, given| given.until > at);
                *count = count.saturating_sub(before.saturating_sub(part.len()));
            }
            for (key, given) in part {
                if let Some(session) = &given.session
                    && sessions.is_none_or(|sessions| {
                        sessions.validity(session, now) != SessionValidity::Valid
                    })
                {
                    return true;
                }
                if scope == Scope::All || given.is_new {
                    given.is_new = false;
                    wanted.push((key.clone(), given.clone()));
                }
            }
        }
        if wanted.is_empty() {
            return false;
        }
        // Taken after the allows, so that it is not older than what they were decided from.
        let workspaces = gate.registry.snapshot();
        wanted.iter().any(|(key, given)| self.is_over(gate, &workspaces, (key, given), now))
    }

    fn is_over(
        &mut self,
        gate: &Gate,
        workspaces: &Snapshot,
        (key, given): (&AllowKey, &CachedAllow),
        now: Timestamp,
    ) -> bool {
        let held = HeldAllow {
            host: &key.host,
            context: RequestContext { now, ..RequestContext::default() },
            identity: given.identity.clone(),
            session: given.session.as_ref(),
            route: given.route.as_ref(),
        };
        revalidate(gate, workspaces, held, &mut self.scratch).is_err()
    }

    /// Whether the wall clock was set back. Forwards, deadlines by the wall clock only come earlier.
    fn clock_went_back(&mut self, now: Timestamp, at: MonotonicTime) -> bool {
        let before = self.clocks.replace((now, at));
        before.is_some_and(|(wall, steady)| wall.plus(at.since(steady)).since(now) > MAX_CLOCK_STEP)
    }
}

impl HeldAllows for CacheRevalidation {
    fn schedule(&self) -> Schedule {
        SCHEDULE
    }

    fn expire(&mut self, _: &Gate, now: Timestamp, at: MonotonicTime) {
        if self.clock_went_back(now, at) {
            self.cache.invalidate_all();
        }
    }

    fn decide(&mut self, round: &Round<'_>) {
        // HAProxy asks again about everything that another configuration allowed.
        if round.change == Change::Gate || self.has_ended(round) {
            self.cache.invalidate_all();
        }
    }
}
