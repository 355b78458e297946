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
    clock::{Moment, Timestamp},
    decision::{Decision, Reason, Route, Verdict, relation},
    gate::{Gate, live::Live},
    identity::{Identity, Refusal},
    policy::Circumstances,
    session::Session,
    workspace::{
        Destination,
        host::Host,
        pattern::Scratch,
        registry::{Found, Mark, Snapshot},
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
            _ = ticks.tick() => sweeper.round(Timestamp::now(), Moment::now()),
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
    last: Moment,
    rest_until: Moment,
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
            last: Moment::default(),
            rest_until: Moment::default(),
            ends: 0,
            settled: false,
        }
    }

    /// One round.
    pub fn round(&mut self, now: Timestamp, at: Moment) {
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
        let ends = gate.sign_in.as_ref().map_or(0, |sign_in| sign_in.sessions.ends());
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
    fn settled(&mut self, gate: &Gate, at: Moment) -> bool {
        if !self.settled {
            let workspaces = gate.registry.snapshot();
            let count = gate.registry.names().len();
            let mut states = (0..count).filter_map(|number| workspaces.state(number));
            self.settled =
                states.all(|state| state.age.is_some()) || at.since(Moment::default()) >= SETTLE;
        }
        self.settled
    }
}

/// Why a tunnel's time is over: it has a time to end at, or belongs to a session.
fn past(gate: &Gate, tunnel: &Tunnel, settings: &Settings, now: Timestamp) -> Option<Cause> {
    let sessions = gate.sign_in.as_ref().map(|sign_in| &sign_in.sessions);
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
        about: tunnel.circumstances(now),
        identity: tunnel.identity.clone(),
        session: tunnel.session.as_ref(),
        route: tunnel.route.as_ref(),
    };
    judge_held(gate, workspaces, held, scratch)
}

/// An allow that lasts, with what it rests on.
pub struct Held<'h> {
    /// The host.
    pub host: &'h Host,
    /// What else may matter of the request, and the time.
    pub about: Circumstances<'h>,
    /// Who asked.
    pub identity: Option<Arc<Identity>>,
    /// The session that said so, if one did.
    pub session: Option<&'h Arc<Session>>,
    /// Where it leads.
    pub route: Option<&'h Route>,
}

/// Whether an allow would be one now, and would lead to the same place.
///
/// # Errors
/// Why it would not.
pub fn judge_held(
    gate: &Gate,
    workspaces: &Snapshot,
    held: Held<'_>,
    scratch: &mut Scratch,
) -> Result<(), Cause> {
    // Whoever vouched for them is configured otherwise now, or not at all: what they showed would have to be
    // verified anew, and is not here. Sessions go on, as the configuration says now.
    if held.session.is_none()
        && let Some(identity) = &held.identity
        && !gate.authorities().any(|authority| Arc::ptr_eq(authority, &identity.authority))
    {
        return Err(Cause::Refused(Reason::Refused(Refusal::Issuer)));
    }
    // A session's person may have other groups by now.
    let identity = held.session.map(|session| session.identity()).or(held.identity);
    let decision = gate.judge_in(workspaces, held.host, &held.about, identity, scratch);
    let same_place = match decision.verdict() {
        Verdict::Allow => same(held.route, decision.route.as_ref()),
        // A name that does not resolve at this moment moves nobody who is there already.
        _ if decision.reason == Reason::DestinationUnresolved => {
            is_named(workspaces, &decision, held.route)
        }
        Verdict::SignIn | Verdict::Deny | Verdict::Unavailable => {
            return Err(Cause::Refused(decision.reason));
        }
    };
    if same_place { Ok(()) } else { Err(Cause::Moved) }
}

/// Whether two routes lead to one place. A name is one place, whatever its address is at the moment.
fn same(was: Option<&Route>, is: Option<&Route>) -> bool {
    match (was, is) {
        (Some(Route::Named(_, was)), Some(Route::Named(_, is))) => was == is,
        (was, is) => was == is,
    }
}

/// Whether the workspace is still where the tunnel leads, by name.
fn is_named(workspaces: &Snapshot, decision: &Decision, route: Option<&Route>) -> bool {
    let (Some(Route::Named(_, was)), Some(workspace), Some(endpoint)) =
        (route, &decision.workspace, &decision.endpoint)
    else {
        return false;
    };
    match workspaces.find(None, workspace.id.as_str()) {
        Found::Workspace(record) => {
            matches!(relation::destination(&record, endpoint), Some(Destination::Gateway(is)) if is == *was)
        }
        Found::Unknown | Found::NotLoaded | Found::Ambiguous => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Gateway;

    #[test]
    fn a_name_is_one_place_whatever_its_address_is() {
        let named = |at: &str, url: &str| {
            Some(Route::Named(at.parse().unwrap(), Arc::new(Gateway::parse(url).unwrap())))
        };
        let was = named("10.0.0.1:80", "http://a.test");
        assert!(same(was.as_ref(), named("10.0.0.2:80", "http://a.test").as_ref()));
        for other in [
            named("10.0.0.1:80", "http://b.test"),
            named("10.0.0.1:80", "https://a.test"),
            named("10.0.0.1:80", "http://a.test:81"),
            Some(Route::Direct("10.0.0.1:80".parse().unwrap())),
            Some(Route::Backend("a".into())),
            None,
        ] {
            assert!(!same(was.as_ref(), other.as_ref()), "{other:?}");
        }
    }
}
