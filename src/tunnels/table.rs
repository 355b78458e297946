//! The table of live tunnels, bounded in size.
//!
//! A tunnel is entered while its authorization request is decided, before HAProxy gets the
//! response, so that no tunnel is open and unknown. Everything else (revalidation, termination,
//! writing the file) happens in other tasks. It holds the lock for one pass over the table at
//! most.
//!
//! The table also writes the audit records of tunnels, and counts for the metrics. It decides
//! nothing: [`revalidation`](super::revalidation) says which tunnels must end, and [`terminator`](super::terminator) ends
//! them.

mod state;

use std::{
    path::Path,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use state::ShareHolder;
pub(super) use state::{LocatedStream, PendingTermination, SocketScan, TableEntry, TableState};

use super::{
    AllowedRequest, TerminationCause, Tunnel, TunnelSettings,
    journal::Journal,
    recent::{LONG_REQUEST_AGE, RecentRequests},
    store,
};
use crate::{
    audit::{AuditEvent, AuditLog},
    authz::{decision::DecisionId, reason::Reason},
    haproxy::runtime::Detail,
    lock::Mutex,
    time::{MonotonicTime, Timestamp},
    tunnels::record::{StreamTerminated, TunnelEvent},
};

/// One person, or one client address without a person, may have the table's size divided by this.
const SHARE_DIVISOR: usize = 8;
/// Tunnels without a person may have the table's size divided by this; the rest is for people.
const ANONYMOUS_DIVISOR: usize = 2;
/// A termination that takes longer than this is reported and recorded as failed. It is still tried.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(1);

/// The table of live tunnels.
pub struct Tunnels {
    pub(super) settings: TunnelSettings,
    audit_log: Arc<AuditLog>,
    /// The journal that outlives this process; none unless a file is configured.
    journal: Option<Journal>,
    state: Mutex<TableState>,
    /// Plain requests that were allowed in the last seconds.
    pub(super) recent: RecentRequests,
    /// Allows that HAProxy may reuse, and how long it may reuse one at most; none unless verdicts
    /// are cached.
    pub(super) reusable: Option<RecentRequests>,
    reuse: Duration,
    wake: watch::Sender<()>,
    /// Counts the changes after which earlier decisions may be wrong.
    changes: AtomicU64,
    pub(super) counts: TunnelCounts,
}

/// Counters for the metrics.
#[derive(Default)]
pub(super) struct TunnelCounts {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) terminated: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) unidentified: AtomicU64,
    pub(super) termination_micros: AtomicU64,
    pub(super) revalidations: AtomicU64,
    pub(super) revalidation_micros: AtomicU64,
}

/// A tunnel or request that cannot be tracked: there is no room for it, its person has too many, or
/// its stream could not be found in HAProxy later. It must not be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotTrack;

impl Tunnels {
    /// An empty table, for HAProxies with this many sockets of the runtime API.
    #[must_use]
    pub fn new(settings: TunnelSettings, sockets: usize, audit_log: Arc<AuditLog>) -> Self {
        let state = TableState {
            frontends: settings.frontends.iter().cloned().collect(),
            scans: (0..sockets).map(|_| None).collect(),
            errors: (0..sockets).map(|_| None).collect(),
            ..TableState::default()
        };
        Self {
            settings,
            audit_log,
            journal: None,
            state: Mutex::new(state),
            recent: RecentRequests::new(),
            reusable: None,
            reuse: Duration::ZERO,
            wake: watch::Sender::new(()),
            changes: AtomicU64::new(0),
            counts: TunnelCounts::default(),
        }
    }

    /// The same table, which also writes each new tunnel to the journal of the file `path`.
    #[must_use]
    pub fn with_journal(self, path: &Path) -> Self {
        Self { journal: Some(Journal::of_file(path)), ..self }
    }

    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// The same table, for a HAProxy that may reuse an allow for this long.
    #[must_use]
    pub fn reusing(self, longest: Option<Duration>) -> Self {
        let reusable = longest.map(|_| RecentRequests::new());
        Self { reusable, reuse: longest.unwrap_or_default(), ..self }
    }

    /// Whether HAProxy may be told to reuse another allow: there is still room to remember it, so
    /// that requests that pass by it and last can be recognized.
    #[must_use]
    pub fn can_offer_reuse(&self) -> bool {
        self.reusable.as_ref().is_none_or(|given| given.lock().has_room())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, TableState> {
        // Each change of the state is complete before anything that can panic, so a poisoned lock
        // is safe.
        self.state.lock()
    }

    /// Notified when a tunnel must be terminated.
    pub(super) fn wakes(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// The count of changes after which earlier decisions may be wrong.
    pub(super) fn change(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Notes that earlier decisions may be wrong, so that requests that were allowed in the last
    /// seconds are scanned for.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.wake.send_replace(());
    }

    /// Adds a tunnel.
    ///
    /// # Errors
    /// There is no room for it: it must not be opened.
    pub fn open(&self, tunnel: Tunnel) -> Result<(), CannotTrack> {
        let mut state = self.lock();
        self.check_room(&state, &tunnel)?;
        if !state.frontends.contains(&tunnel.location.frontend) && state.frontends.len() < 64 {
            state.frontends.insert(tunnel.location.frontend.clone());
        }
        state.insert(tunnel);
        drop(state);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Counts a request that is refused because HAProxy does not say which of its streams it is.
    pub fn cannot_be_found(&self) {
        if self.counts.unidentified.fetch_add(1, Ordering::Relaxed) == 0 {
            error!(
                "requests are refused: HAProxy passes neither the number nor the source address of their streams, so they could not be terminated; compare the args lines with haproxy/identity.spoe.cfg. Behind a unix socket this needs HAProxy 3.0"
            );
        }
    }

    /// Remembers an allowed request that is not yet a tunnel. It becomes one if it lasts.
    ///
    /// # Errors
    /// Its stream could not be found in HAProxy later: it must not be allowed.
    pub fn note(&self, allowed: &AllowedRequest<'_>) -> Result<(), CannotTrack> {
        self.recent.note(allowed)
    }

    /// Remembers an allow that HAProxy may reuse.
    ///
    /// # Errors
    /// As for [`Self::note`].
    pub fn note_reusable(&self, allowed: &AllowedRequest<'_>) -> Result<(), CannotTrack> {
        self.reusable.as_ref().map_or(Ok(()), |given| given.note(allowed))
    }

    /// Fails if there is no room for another tunnel of that person or address.
    fn check_room(&self, state: &TableState, tunnel: &Tunnel) -> Result<(), CannotTrack> {
        let holder = ShareHolder::from_tunnel(tunnel);
        let holds = state.held_by.get(&holder).copied().unwrap_or_default();
        // An endpoint may be public. Without this, clients without a credential could fill the
        // table.
        let strangers_full = matches!(holder, ShareHolder::Address(_))
            && state.anonymous >= self.settings.max.div_ceil(ANONYMOUS_DIVISOR);
        let full = state.entries.len() >= self.settings.max;
        if full || strangers_full || holds >= self.share() {
            let count = state.entries.len();
            if self.counts.full.fetch_add(1, Ordering::Relaxed) == 0 {
                warn!(
                    count,
                    holds,
                    "a tunnel is refused: the table is full, or one person or address has its share of it; see [tunnels]"
                );
            }
            return Err(CannotTrack);
        }
        Ok(())
    }

    /// Adds a plain request that lasts, with its stream. With a cause, it is terminated at once.
    /// Other tunnels that were thought to be this stream have ended.
    ///
    /// # Errors
    /// There is no room for it: its stream must be terminated.
    pub(super) fn promote(
        &self,
        tunnel: Tunnel,
        found: Option<LocatedStream>,
        cause: Option<TerminationCause>,
    ) -> Result<(), CannotTrack> {
        let id = tunnel.id;
        // A stream carries one request at a time, so other tunnels at this stream have ended.
        let others = found.as_ref().map(|found| self.lock().others_at(found, &tunnel));
        match others {
            // The connection carries one stream at a time, and a newer request is on it.
            Some(None) => return Ok(()),
            Some(Some(ended)) => self.ended(&ended),
            None => {}
        }
        let mut state = self.lock();
        if state.entries.contains_key(&id) {
            return Ok(());
        }
        self.check_room(&state, &tunnel)?;
        state.insert(tunnel);
        if let Some(entry) = state.entries.get_mut(&id) {
            entry.ambiguous_since = found.is_none().then(MonotonicTime::now);
            entry.located = found;
        }
        drop(state);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        if self.record_opening(&id).is_err() {
            error!(decision_id = %id, "a request that lasts has no record in the audit log: its tunnel is followed all the same");
        }
        self.mark_for_termination(cause.map(|cause| (id, cause)));
        Ok(())
    }

    /// Adds a tunnel that an earlier agent opened.
    pub(super) fn adopt(&self, tunnel: Tunnel) {
        self.lock().insert(tunnel);
    }

    fn share(&self) -> usize {
        self.settings.max.div_ceil(SHARE_DIVISOR)
    }

    /// Removes a tunnel whose allow was never sent to HAProxy.
    pub fn forget(&self, id: &DecisionId) {
        if self.lock().remove(id).is_some() {
            self.counts.opened.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Marks tunnels to be terminated. A tunnel that is marked already keeps its first cause.
    pub(super) fn mark_for_termination(
        &self,
        tunnels: impl IntoIterator<Item = (DecisionId, TerminationCause)>,
    ) {
        let mut any = false;
        let since = MonotonicTime::now();
        let mut state = self.lock();
        for (id, cause) in tunnels {
            let Some(entry) = state.entries.get_mut(&id) else { continue };
            if entry.due.is_none() {
                entry.due = Some(PendingTermination { cause, since, reported: false });
                any = true;
                debug!(decision_id = %id, cause = cause.id(), "a tunnel must be terminated");
            }
        }
        drop(state);
        if any {
            self.wake.send_replace(());
        }
    }

    /// Marks the tunnels that an administrator selects. Returns how many there are.
    pub fn terminate(&self, uid: Option<u32>, is_selected: impl Fn(&Tunnel) -> bool) -> usize {
        let selected: Vec<_> = {
            let state = self.lock();
            let all = state.entries.values().map(|entry| &entry.tunnel);
            all.filter(|tunnel| is_selected(tunnel)).map(|tunnel| tunnel.id).collect()
        };
        let count = selected.len();
        self.mark_for_termination(
            selected.into_iter().map(|id| (id, TerminationCause::Administrator(uid))),
        );
        count
    }

    /// Notes that HAProxy ended the streams of these tunnels, and records it.
    pub(super) fn note_terminated(&self, ids: impl IntoIterator<Item = DecisionId>) {
        let now = MonotonicTime::now();
        let mut terminated = Vec::new();
        let mut state = self.lock();
        for id in ids {
            let Some(entry) = state.entries.get_mut(&id) else { continue };
            let Some(due) = entry.due else { continue };
            // A stream that is still there is ended again, which is not counted twice.
            if entry.terminated_at.replace(now).is_none() {
                let took = now.since(due.since);
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.counts.terminated.fetch_add(1, Ordering::Relaxed);
                self.counts.termination_micros.fetch_add(micros, Ordering::Relaxed);
                terminated.push((Arc::clone(&entry.tunnel), due.cause, took));
            }
        }
        drop(state);
        for (tunnel, cause, took) in terminated {
            info!(decision_id = %tunnel.id, cause = cause.id(), ?took, "a tunnel was terminated");
            self.record(AuditEvent::TunnelTerminate, &tunnel, Some(cause), None);
        }
    }

    /// Removes tunnels whose streams have ended, and records it.
    pub(super) fn ended(&self, ids: &[DecisionId]) {
        let ended: Vec<_> = {
            let mut state = self.lock();
            ids.iter().filter_map(|id| state.remove(id)).collect()
        };
        for TableEntry { tunnel, due, attempted, .. } in ended {
            self.counts.closed.fetch_add(1, Ordering::Relaxed);
            // A tunnel that closed by itself, before HAProxy was asked to end it, was not
            // terminated.
            let cause = due.filter(|_| attempted).map(|due| due.cause);
            self.record(AuditEvent::TunnelClose, &tunnel, cause, None);
        }
    }

    /// Reports terminations that take too long, and removes tunnels that no process of HAProxy has.
    pub(super) fn review(&self) {
        let now = MonotonicTime::now();
        let mut failed = Vec::new();
        let mut state = self.lock();
        let error = state.errors.iter().flatten().next().cloned();
        for entry in state.entries.values_mut() {
            let Some(due) = &mut entry.due else { continue };
            if entry.terminated_at.is_none()
                && !due.reported
                && now.since(due.since) >= TERMINATION_TIMEOUT
            {
                due.reported = true;
                let error = match &error {
                    _ if !entry.tunnel.location.can_be_found() => {
                        "HAProxy does not tell which stream it is".into()
                    }
                    Some(error) => error.clone(),
                    None if entry.ambiguous_since.is_some() => {
                        "several streams of HAProxy could be it".into()
                    }
                    None => "no process of HAProxy that is reached has it".into(),
                };
                failed.push((Arc::clone(&entry.tunnel), due.cause, error));
            }
        }
        let nowhere = state.nowhere(now);
        drop(state);
        for (tunnel, cause, error) in failed {
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
            error!(decision_id = %tunnel.id, cause = cause.id(), error, "terminating a tunnel failed: it is tried again until it is closed, or HAProxy has not shown it for an hour");
            self.record(AuditEvent::TunnelTerminateFailed, &tunnel, Some(cause), Some(&error));
        }
        self.ended(&nowhere);
    }

    /// Writes the audit record of something that happened to a tunnel. Returns whether it was
    /// written.
    pub(super) fn record(
        &self,
        event: AuditEvent,
        tunnel: &Tunnel,
        cause: Option<TerminationCause>,
        error: Option<&str>,
    ) -> bool {
        let record = TunnelEvent { time: Timestamp::now(), event, tunnel, cause, error };
        self.audit_log.record_event(event, tunnel.id, &record)
    }

    /// Records the termination of a stream that this agent did not allow.
    pub(super) fn record_unknown(&self, detail: &Detail, process: u32, cause: TerminationCause) {
        self.counts.terminated.fetch_add(1, Ordering::Relaxed);
        let record = StreamTerminated { time: Timestamp::now(), detail, process, cause };
        self.audit_log.record_event(AuditEvent::TunnelTerminate, "an unknown tunnel", &record);
    }

    /// Records the termination of a request that lasts and has no room in the table.
    pub(super) fn record_untracked(&self, tunnel: &Tunnel) {
        self.counts.terminated.fetch_add(1, Ordering::Relaxed);
        self.record(
            AuditEvent::TunnelTerminate,
            tunnel,
            Some(TerminationCause::Refused(Reason::TunnelsFull)),
            None,
        );
    }

    /// Notes that HAProxy may have ended these, so that their end is recorded with its cause.
    pub(super) fn note_attempts(&self, ids: &[DecisionId]) {
        let mut state = self.lock();
        for id in ids {
            if let Some(entry) = state.entries.get_mut(id) {
                entry.attempted = true;
            }
        }
    }

    /// Whether a plain request was allowed in the last seconds, and so may last.
    pub(super) fn has_recent(&self) -> bool {
        let is_some = |recent: &RecentRequests| !recent.lock().is_empty();
        is_some(&self.recent) || self.reusable.as_ref().is_some_and(is_some)
    }

    /// Forgets the plain requests that every socket was scanned for: they have ended, or are in the
    /// table.
    pub(super) fn forget_recent(&self) {
        let started = {
            let state = self.lock();
            let rounds = state.scans.iter().map(|round| round.as_ref().map(|r| r.started));
            rounds.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min())
        };
        let Some(before) = started.and_then(|started| started.before(LONG_REQUEST_AGE)) else {
            return;
        };
        self.recent.tidy(before);
        self.recent.found_lost(before);
        if let (Some(given), Some(before)) =
            (&self.reusable, before.before(self.reuse + LONG_REQUEST_AGE))
        {
            given.tidy(before);
        }
    }

    /// Records the opening of a tunnel in the audit log and in the journal.
    ///
    /// # Errors
    /// It could not be recorded, and must not be opened.
    pub fn record_opening(&self, id: &DecisionId) -> Result<(), CannotTrack> {
        let tunnel = self.lock().entries.get(id).map(|entry| Arc::clone(&entry.tunnel));
        let Some(tunnel) = tunnel else { return Ok(()) };
        if !self.record(AuditEvent::TunnelOpen, &tunnel, None, None) {
            return Err(CannotTrack);
        }
        if let (Some(journal), Some(line)) = (&self.journal, store::line(&tunnel)) {
            journal.append(&line);
        }
        Ok(())
    }
}
