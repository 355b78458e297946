//! Deciding about live tunnels again.
//!
//! There is one way for every reason: what would be refused if it were asked for now is due. Deadlines and
//! sessions are looked at in each round, a few times a second; the whole decision is made when workspaces
//! or revocations changed, for a tunnel that is new, and once a second, since what nobody confirms grows
//! stale by itself. However much changes, a tenth of one core at most goes into it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{By, Cause, Settings, Tunnel, Tunnels};
use crate::{
    authz::reason::Reason,
    gate::{
        Gate,
        live::Live,
        revalidate::{Held, revalidate},
    },
    identity::Refusal,
    time::{MonotonicTime, Timestamp},
    workspaces::{
        pattern::Scratch,
        registry::{Mark, Snapshot},
        source::SourceId,
    },
};

/// Between two rounds.
const EVERY: Duration = Duration::from_millis(50);
/// Between two decisions about a tunnel when nothing changed.
const IN_ANY_CASE: Duration = Duration::from_secs(1);
/// A round of decisions is followed by so many times its length of rest.
const REST: u32 = 9;
/// How long a source of a restarted agent may be silent before that ends tunnels of the agent before it.
const SETTLE: Duration = Duration::from_mins(1);

/// Decides about live tunnels until stopped.
pub async fn run(tunnels: Arc<Tunnels>, live: Arc<Live>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeper = Sweeper::new(&tunnels, &live);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => sweeper.round(Timestamp::now(), MonotonicTime::now()),
        }
    }
}

/// What a round remembers of the one before.
pub struct Sweeper<'t> {
    tunnels: &'t Tunnels,
    live: &'t Live,
    scratch: Scratch,
    /// What was decided from, so that the tunnels of another configuration are decided about anew.
    seen: Option<(Arc<Gate>, Mark, u64)>,
    last: MonotonicTime,
    rest_until: MonotonicTime,
    /// How often sessions had ended.
    ends: u64,
    settled: bool,
}

impl<'t> Sweeper<'t> {
    /// Before the first round.
    #[must_use]
    pub fn new(tunnels: &'t Tunnels, live: &'t Live) -> Self {
        Self {
            tunnels,
            live,
            scratch: Scratch::default(),
            seen: None,
            last: MonotonicTime::default(),
            rest_until: MonotonicTime::default(),
            ends: 0,
            settled: false,
        }
    }

    /// One round.
    pub fn round(&mut self, now: Timestamp, at: MonotonicTime) {
        self.deadlines(now);
        self.note_ended_sessions();
        if at >= self.rest_until {
            let gate = self.live.gate();
            let settled = self.settled(&gate, at);
            let (mark, version) = (gate.registry.mark(), gate.revocations.version());
            let changed = !self.seen.as_ref().is_some_and(|(before, marked, counted)| {
                Arc::ptr_eq(before, &gate) && *marked == mark && *counted == version
            });
            if changed {
                self.tunnels.changed();
            }
            let all = changed || at.since(self.last) >= IN_ANY_CASE;
            self.seen = Some((Arc::clone(&gate), mark, version));
            if all {
                self.last = at;
            }
            let start = Instant::now();
            self.decide(&gate, all, settled, now);
            self.rest_until = at.plus(start.elapsed() * REST);
        }
        self.tunnels.review();
    }

    /// Requests that were let pass a moment ago may be of a session that ended.
    fn note_ended_sessions(&mut self) {
        let gate = self.live.load();
        let ends = gate.browser.as_ref().map_or(0, |sign_in| sign_in.sessions.ends());
        if ends != self.ends {
            self.ends = ends;
            self.tunnels.changed();
        }
    }

    /// What has a time to end at, and what belongs to a session.
    fn deadlines(&self, now: Timestamp) {
        let gate = self.live.load();
        let mut due = Vec::new();
        {
            let state = self.tunnels.lock();
            for entry in state.entries.values().filter(|entry| entry.due.is_none()) {
                let cause = past(&gate, &entry.tunnel, &self.tunnels.settings, now);
                due.extend(cause.map(|cause| (entry.tunnel.id, cause)));
            }
        }
        self.tunnels.due(due);
    }

    /// Decides about all tunnels, or about those that are new: something may have changed while they were
    /// being opened.
    fn decide(&mut self, gate: &Gate, all: bool, settled: bool, now: Timestamp) {
        let start = Instant::now();
        let tunnels: Vec<Arc<Tunnel>> = {
            let state = self.tunnels.lock();
            let open = state.entries.values().filter(|entry| entry.due.is_none());
            let wanted = open.filter(|entry| all || !entry.judged);
            wanted.map(|entry| Arc::clone(&entry.tunnel)).collect()
        };
        if tunnels.is_empty() {
            return;
        }
        let workspaces = gate.registry.snapshot();
        let mut due = Vec::new();
        for tunnel in &tunnels {
            match judge(gate, &workspaces, tunnel, now, &mut self.scratch) {
                Err(Cause::Refused(Reason::WorkspacesNotLoaded)) if !settled => {}
                Err(cause) => due.push((tunnel.id, cause)),
                Ok(()) => {}
            }
        }
        drop(workspaces);
        {
            let mut state = self.tunnels.lock();
            for tunnel in &tunnels {
                if let Some(entry) = state.entries.get_mut(&tunnel.id) {
                    entry.judged = true;
                }
            }
        }
        self.tunnels.due(due);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.tunnels.counts.sweeps.fetch_add(1, Ordering::Relaxed);
        self.tunnels.counts.sweep_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Whether every source has said what it knows, or has had the time to.
    fn settled(&mut self, gate: &Gate, at: MonotonicTime) -> bool {
        if !self.settled {
            let workspaces = gate.registry.snapshot();
            let count = gate.registry.names().len();
            let mut states =
                (0..count).filter_map(|number| workspaces.state(SourceId::new(number)));
            self.settled = states.all(|state| state.age.is_some())
                || at.since(MonotonicTime::default()) >= SETTLE;
        }
        self.settled
    }
}

/// Why a tunnel's time is over: it has a time to end at, or belongs to a session.
fn past(gate: &Gate, tunnel: &Tunnel, settings: &Settings, now: Timestamp) -> Option<Cause> {
    let sessions = gate.browser.as_ref().map(|sign_in| &sign_in.sessions);
    let ended = match &tunnel.session {
        Some(session) => sessions.is_none_or(|sessions| !sessions.counts(session, now)),
        // It did not outlive the agent before this one.
        None => tunnel.by == By::Session,
    };
    if ended {
        return Some(Cause::SessionEnded);
    }
    if tunnel.identity.is_none() && tunnel.by != By::Nobody {
        // Who opened it was known to the agent before this one, by an issuer that is not configured any more.
        return Some(Cause::Refused(Reason::Refused(Refusal::Issuer)));
    }
    tunnel.end(settings).filter(|(end, _)| now >= *end).map(|(_, cause)| cause)
}

/// Why something that was allowed may not go on, if it may not.
pub(super) fn over(
    (gate, workspaces): (&Gate, &Snapshot),
    tunnel: &Tunnel,
    settings: &Settings,
    now: Timestamp,
    scratch: &mut Scratch,
) -> Option<Cause> {
    past(gate, tunnel, settings, now)
        .or_else(|| judge(gate, workspaces, tunnel, now, scratch).err())
}

/// Whether a tunnel may go on.
///
/// # Errors
/// Why it may not.
pub fn judge(
    gate: &Gate,
    workspaces: &Snapshot,
    tunnel: &Tunnel,
    now: Timestamp,
    scratch: &mut Scratch,
) -> Result<(), Cause> {
    let held = Held {
        host: &tunnel.host,
        about: tunnel.request_context(now),
        identity: tunnel.identity.clone(),
        session: tunnel.session.as_ref(),
        route: tunnel.route.as_ref(),
    };
    Ok(revalidate(gate, workspaces, held, scratch)?)
}
