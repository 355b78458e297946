//! Decides again about live tunnels, and says which must be terminated.
//!
//! There is one rule for every reason: a tunnel that would be refused if it were opened now must end.
//! [`Revalidator`](crate::gate::revalidator::Revalidator) calls this in rounds. Deadlines and
//! sessions are compared in each round, 20 times a second. The whole decision is made after changes
//! and once a second. However much changes, it takes a tenth of one core at most.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{TerminationCause, Tunnel, TunnelCredential, TunnelSettings, Tunnels};
use crate::{
    authz::reason::Reason,
    gate::{
        Gate,
        revalidate::{HeldAllow, revalidate},
        revalidator::{Change, HeldAllows, Round, Schedule, Scope},
    },
    identity::TokenError,
    sessions::table::SessionValidity,
    time::{MonotonicTime, Timestamp},
    workspaces::{pattern::Scratch, registry::Snapshot, source::SourceId},
};

/// When tunnels are decided about.
const SCHEDULE: Schedule = Schedule { interval: Duration::from_millis(50), rest: 9 };
/// How long the sources of a restarted agent may take for their first list. Until then, workspaces
/// that are not loaded end no tunnel of the agent before it.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The live tunnels, for the revalidator.
pub struct TunnelRevalidation {
    tunnels: Arc<Tunnels>,
    scratch: Scratch,
    /// How many sessions had ended at the last round.
    session_ends: u64,
    /// Whether every source was listed, or had the time to.
    is_settled: bool,
}

impl TunnelRevalidation {
    /// For the tunnels of this table.
    #[must_use]
    pub fn new(tunnels: Arc<Tunnels>) -> Self {
        Self { tunnels, scratch: Scratch::default(), session_ends: 0, is_settled: false }
    }

    /// Notes that sessions have ended: a plain request of one may last.
    fn note_ended_sessions(&mut self, gate: &Gate) {
        let ends = gate.browser.as_ref().map_or(0, |sign_in| sign_in.sessions.removals());
        if ends != self.session_ends {
            self.session_ends = ends;
            self.tunnels.changed();
        }
    }

    /// Marks the tunnels whose deadline has passed or whose session has ended.
    fn mark_expired(&self, gate: &Gate, now: Timestamp) {
        let mut due = Vec::new();
        {
            let state = self.tunnels.lock();
            for entry in state.entries.values().filter(|entry| entry.due.is_none()) {
                let cause = expired(gate, &entry.tunnel, &self.tunnels.settings, now);
                due.extend(cause.map(|cause| (entry.tunnel.id, cause)));
            }
        }
        self.tunnels.mark_for_termination(due);
    }

    /// Whether every source was listed once, or had the time to.
    fn is_settled(&mut self, gate: &Gate, at: MonotonicTime) -> bool {
        if !self.is_settled {
            let workspaces = gate.registry.snapshot();
            let count = gate.registry.names().len();
            let mut states =
                (0..count).filter_map(|number| workspaces.state(SourceId::new(number)));
            self.is_settled = states.all(|state| state.age.is_some())
                || at.since(MonotonicTime::default()) >= SETTLE_TIMEOUT;
        }
        self.is_settled
    }
}

impl HeldAllows for TunnelRevalidation {
    fn schedule(&self) -> Schedule {
        SCHEDULE
    }

    fn expire(&mut self, gate: &Gate, now: Timestamp, _: MonotonicTime) {
        self.mark_expired(gate, now);
        self.note_ended_sessions(gate);
        self.tunnels.review();
    }

    fn decide(&mut self, round: &Round<'_>) {
        let Round { gate, change, scope, now, at } = *round;
        if change != Change::Nothing {
            self.tunnels.changed();
        }
        let is_settled = self.is_settled(gate, at);
        let start = Instant::now();
        let tunnels: Vec<Arc<Tunnel>> = {
            let state = self.tunnels.lock();
            let open = state.entries.values().filter(|entry| entry.due.is_none());
            let wanted = open.filter(|entry| scope == Scope::All || !entry.revalidated);
            wanted.map(|entry| Arc::clone(&entry.tunnel)).collect()
        };
        if tunnels.is_empty() {
            return;
        }
        // Decided without the lock: requests need it.
        let workspaces = gate.registry.snapshot();
        let mut due = Vec::new();
        for tunnel in &tunnels {
            // A restarted agent has no workspaces until its sources were listed: that must not end
            // the tunnels of the agent before it.
            match judge(gate, &workspaces, tunnel, now, &mut self.scratch) {
                Err(TerminationCause::Refused(Reason::WorkspacesNotLoaded)) if !is_settled => {}
                Err(cause) => due.push((tunnel.id, cause)),
                Ok(()) => {}
            }
        }
        drop(workspaces);
        {
            let mut state = self.tunnels.lock();
            for tunnel in &tunnels {
                if let Some(entry) = state.entries.get_mut(&tunnel.id) {
                    entry.revalidated = true;
                }
            }
        }
        self.tunnels.mark_for_termination(due);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.tunnels.counts.revalidations.fetch_add(1, Ordering::Relaxed);
        self.tunnels.counts.revalidation_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Why a tunnel is over by the clock or with its session.
fn expired(
    gate: &Gate,
    tunnel: &Tunnel,
    settings: &TunnelSettings,
    now: Timestamp,
) -> Option<TerminationCause> {
    let sessions = gate.browser.as_ref().map(|sign_in| &sign_in.sessions);
    let validity = match &tunnel.session {
        Some(session) => {
            sessions.map_or(SessionValidity::Ended, |sessions| sessions.validity(session, now))
        }
        // The session ended with the agent before this one.
        None if tunnel.credential == TunnelCredential::Session => SessionValidity::Ended,
        None => SessionValidity::Valid,
    };
    match validity {
        SessionValidity::Valid => {}
        SessionValidity::Ended => return Some(TerminationCause::SessionEnded),
        // The session has not ended as far as this agent knows, and the record must not say so. A request would get 503
        // for the same reason.
        SessionValidity::Unknown => {
            return Some(TerminationCause::Refused(Reason::SessionsUnavailable));
        }
    }
    if tunnel.identity.is_none() && tunnel.credential != TunnelCredential::None {
        // The agent before this one knew the person by an issuer that is not configured any more.
        return Some(TerminationCause::Refused(Reason::Refused(TokenError::Issuer)));
    }
    tunnel.end(settings).filter(|(end, _)| now >= *end).map(|(_, cause)| cause)
}

/// Why a tunnel must end, if it must: by the clock, with its session, or by decision.
pub(super) fn ends(
    (gate, workspaces): (&Gate, &Snapshot),
    tunnel: &Tunnel,
    settings: &TunnelSettings,
    now: Timestamp,
    scratch: &mut Scratch,
) -> Option<TerminationCause> {
    expired(gate, tunnel, settings, now)
        .or_else(|| judge(gate, workspaces, tunnel, now, scratch).err())
}

/// Checks that a tunnel would be allowed now.
///
/// # Errors
/// Why it would not.
pub fn judge(
    gate: &Gate,
    workspaces: &Snapshot,
    tunnel: &Tunnel,
    now: Timestamp,
    scratch: &mut Scratch,
) -> Result<(), TerminationCause> {
    let held = HeldAllow {
        host: &tunnel.host,
        context: tunnel.request_context(now),
        identity: tunnel.identity.clone(),
        session: tunnel.session.as_ref(),
        route: tunnel.route.as_ref(),
    };
    Ok(revalidate(gate, workspaces, held, scratch)?)
}
