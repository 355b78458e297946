//! Decides what to request from a platform and which responses to believe.
//!
//! [`Reconciler`] is a state machine without I/O and without a clock: [`Reconciler::handle`] takes inputs and
//! returns commands, and [`super::driver`] carries them out. Events are hints: each leads to one
//! read of the workspace that it names. Complete lists find what events did not report.
//!
//! Invariants: a workspace whose end was reported is removed at once. A workspace that changed in a
//! way that cannot be read in time is closed until it can be read. Only complete lists make the
//! source count as confirmed.

mod reads;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tracing::{error, info, warn};

use super::{
    super::{
        Workspace, WorkspaceId,
        directory::{Directory, Member},
        registry::{ListExtent, Publisher},
    },
    requests::{PendingRead, ReadStep, RepeatedRequest, WatchState},
    status::{SourceHealth, SourceStatus},
};
use crate::{
    backoff::Backoff,
    time::MonotonicTime,
    workspaces::source::{Capabilities, SourceError, SourceEvent},
};

/// Intervals and time limits of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconcileTiming {
    /// The time between complete lists.
    pub list_interval: Duration,
    /// How long a reported change may stay unread before its workspace is closed.
    pub read_deadline: Duration,
    /// The longest pause after a failure. The first pause is a sixteenth of it.
    pub longest_pause: Duration,
    /// How long one connection for events is used before it is replaced.
    pub connection_lifetime: Duration,
}

impl Default for ReconcileTiming {
    fn default() -> Self {
        Self {
            list_interval: Duration::from_mins(1),
            read_deadline: Duration::from_secs(4),
            longest_pause: Duration::from_secs(16),
            connection_lifetime: Duration::from_mins(12),
        }
    }
}

/// How many reads run at the same time.
const MAX_READS: usize = 32;
/// With more pending changes than this, a complete list is quicker than single reads.
const LIST_THRESHOLD: usize = 512;
/// How many owners without an account are remembered. When there are more, all are forgotten and looked up again.
const MAX_UNKNOWN_OWNERS: usize = 1024;
/// After this time a connection for events that has sent nothing is taken to be established.
const SILENT_CONNECT_DELAY: Duration = Duration::from_secs(2);

/// Something that happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once for each response")]
pub enum Input {
    /// Time passed.
    Tick,
    /// The platform sent an event.
    Event(SourceEvent),
    /// The connection for events ended.
    WatchEnded(SourceError),
    /// A list that was requested at this moment.
    Listed(MonotonicTime, Result<Vec<Workspace>, SourceError>),
    /// A workspace that was requested at this moment.
    Read(WorkspaceId, MonotonicTime, Result<Option<Workspace>, SourceError>),
    /// The accounts, requested at this moment.
    Accounts(MonotonicTime, Result<Vec<Member>, SourceError>),
    /// A request of HAProxy waits for this workspace.
    Wanted(WorkspaceId),
}

/// Something that the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a connection for events, in place of the current one.
    Watch,
    /// Request a list.
    List,
    /// Request one workspace.
    Read(WorkspaceId),
    /// Request the accounts.
    Accounts,
    /// Wake the requests that wait for this workspace: the read has ended.
    Answered(WorkspaceId),
}

/// The state of one source.
pub struct Reconciler {
    publisher: Publisher,
    capabilities: Capabilities,
    timing: ReconcileTiming,
    jitter: fn() -> f64,
    watch: WatchState,
    lists: RepeatedRequest,
    accounts: RepeatedRequest,
    /// The owners that the accounts were requested for and did not have.
    unknown_owners: HashSet<Box<str>>,
    reads: HashMap<WorkspaceId, PendingRead>,
    queue: VecDeque<WorkspaceId>,
    reading: usize,
    status: SourceStatus,
    now: MonotonicTime,
}

impl Reconciler {
    /// A source about which nothing is known yet. `jitter` returns numbers from 0 to 1.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        capabilities: Capabilities,
        timing: ReconcileTiming,
        jitter: fn() -> f64,
    ) -> Self {
        Self {
            publisher,
            capabilities,
            timing,
            jitter,
            watch: WatchState::default(),
            lists: RepeatedRequest::default(),
            accounts: RepeatedRequest::default(),
            unknown_owners: HashSet::new(),
            reads: HashMap::new(),
            queue: VecDeque::new(),
            reading: 0,
            status: SourceStatus::default(),
            now: MonotonicTime::default(),
        }
    }

    /// The state of the source, for people and metrics.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let pending = self.reads.values().filter(|pending| pending.changed.is_some()).count();
        SourceStatus { pending, ..self.status.clone() }
    }

    fn health(&self) -> SourceHealth {
        match (self.last_confirmed(), self.stale_at()) {
            (Some(_), Some(stale)) if self.now > stale => SourceHealth::Stale,
            (Some(_), _) if self.capabilities.watches && self.watch.open.is_none() => {
                SourceHealth::Degraded
            }
            (Some(_), _) => SourceHealth::Live,
            (None, _) => SourceHealth::Starting,
        }
    }

    /// When all workspaces of the source become too old to be used.
    fn stale_at(&self) -> Option<MonotonicTime> {
        let snapshot = self.publisher.registry().snapshot_at(self.now);
        let rules = snapshot.rules(self.publisher.source())?;
        self.last_confirmed().map(|last_answered| last_answered.plus(rules.stale_after))
    }

    /// Applies inputs and appends the commands that follow from them.
    pub fn handle(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now: MonotonicTime,
        out: &mut Vec<Command>,
    ) {
        self.now = now;
        for input in inputs {
            self.apply(input, out);
        }
        self.start_due(out);
        self.log_health();
    }

    /// Logs the health of the source when it changes.
    fn log_health(&mut self) {
        let health = self.health();
        let before = std::mem::replace(&mut self.status.health, health);
        let source = self.publisher.name();
        match health {
            _ if health == before => {}
            SourceHealth::Stale => {
                error!(
                    source,
                    "a source of workspaces has not answered for too long: requests for its workspaces are refused"
                );
            }
            SourceHealth::Degraded => warn!(
                source,
                "a source of workspaces sends no events: ended workspaces are noticed late, with the next full list"
            ),
            SourceHealth::Starting | SourceHealth::Live => {
                info!(source, ?health, "the source's state");
            }
        }
    }

    fn apply(&mut self, input: Input, out: &mut Vec<Command>) {
        match input {
            Input::Tick => {}
            Input::Event(event) => self.event(event, out),
            Input::WatchEnded(error) => self.watch_ended(&error),
            Input::Listed(started, result) => self.listed(started, result),
            Input::Read(id, started, result) => self.read(id, started, result, out),
            Input::Accounts(started, result) => self.accounts_received(started, result),
            Input::Wanted(id) => self.wanted(id, out),
        }
    }

    /// When [`Self::handle`] must be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> MonotonicTime {
        let asking = |asking: &RepeatedRequest| (!asking.running).then_some(asking.due);
        let watch = match self.watch.open {
            _ if !self.capabilities.watches => None,
            None => Some(self.watch.retry_at),
            Some(open) => Some(open.plus(self.timing.connection_lifetime)),
        };
        let reads = self.reads.values().filter(|r| r.step == ReadStep::Due).map(|r| r.due);
        // A read that hangs must not keep its workspace open.
        let closes = self
            .reads
            .values()
            .filter_map(|r| r.changed)
            .map(|at| at.plus(self.timing.read_deadline));
        let closes = closes.filter(|at| *at > self.now);
        let stale = self.stale_at().map(|at| at.plus(Duration::from_millis(1)));
        let stale = stale.filter(|at| *at > self.now);
        [asking(&self.lists), self.accounts_due(), watch, self.watch.list_at, stale]
            .into_iter()
            .flatten()
            .chain(reads)
            .chain(closes)
            .min()
            .unwrap_or_else(|| self.now.plus(self.timing.list_interval))
    }

    fn accounts_due(&self) -> Option<MonotonicTime> {
        (self.capabilities.accounts && !self.accounts.running).then_some(self.accounts.due)
    }

    fn event(&mut self, event: SourceEvent, out: &mut Vec<Command>) {
        self.status.events += 1;
        match event {
            SourceEvent::Connected => {
                self.watch.connected = Some(self.now);
                self.watch.list_at = None;
                self.lists.request_soon(self.now);
            }
            SourceEvent::Changed(id) if self.capabilities.reads => {
                let pending = self.reads.entry(id.clone()).or_default();
                pending.changed.get_or_insert(self.now);
                if pending.step == ReadStep::Running {
                    pending.again = true;
                } else {
                    pending.due = self.now;
                    self.enqueue(id);
                }
                if self.reads.len() > LIST_THRESHOLD {
                    self.lists.request_soon(self.now);
                }
            }
            SourceEvent::Ended(id) => {
                // Removed without a read, since access must end at once.
                self.publisher.end(&id, self.now);
                // The running read was requested before the end, so its response will be dropped.
                if let Some(pending) = self.reads.get_mut(&id) {
                    pending.changed = None;
                    pending.again = false;
                    if pending.step != ReadStep::Running {
                        self.forget(&id, out);
                    }
                }
            }
            SourceEvent::Described(workspace) => {
                let id = workspace.id.clone();
                self.look_up_owner(&workspace);
                self.publisher.observe(*workspace, self.now, self.now);
                if let Some(pending) = self.reads.get_mut(&id) {
                    pending.changed = None;
                }
            }
            SourceEvent::Listed(list, started) => self.listed(started, Ok(list)),
            SourceEvent::Accounts => self.accounts.request_soon(self.now),
            SourceEvent::Changed(_) | SourceEvent::AnyWorkspace => {
                self.lists.request_soon(self.now);
            }
        }
    }

    fn watch_ended(&mut self, error: &SourceError) {
        let served = self.watch.connected.map(|at| self.now.since(at)).unwrap_or_default();
        // A connection that worked for a while was not refused, so the pauses begin again with the
        // shortest.
        if served > Duration::from_mins(1) {
            self.watch.failures = 0;
        }
        self.failed("events", error);
        let pause = self.pause(self.watch.failures, error);
        self.watch = WatchState {
            failures: self.watch.failures.saturating_add(1),
            retry_at: self.now.plus(pause),
            ..WatchState::default()
        };
        // Events since then are lost, and only a list can show what they were.
        self.lists.request_soon(self.now);
    }

    fn listed(&mut self, started: MonotonicTime, result: Result<Vec<Workspace>, SourceError>) {
        let list = match result {
            Ok(list) => list,
            Err(error) => {
                self.failed("the list of workspaces", &error);
                let pause = self.pause(self.lists.failures, &error);
                self.lists.failed(self.now.plus(pause));
                return;
            }
        };
        self.succeeded();
        self.status.lists += 1;
        let extent = if self.capabilities.lists_are_snapshots {
            ListExtent::Snapshot
        } else {
            ListExtent::Pages
        };
        let count = list.len();
        let completed = self.publisher.complete(list, started, self.now, extent);
        if self.last_confirmed().is_none() || completed.changed > 0 || completed.removed > 0 {
            info!(
                source = self.publisher.name(),
                workspaces = count,
                changed = completed.changed,
                removed = completed.removed,
                "workspaces listed"
            );
        }
        // The list was requested after these changes were reported, so it includes them.
        for pending in self.reads.values_mut() {
            if pending.changed.is_some_and(|at| at < started) && !pending.again {
                pending.changed = None;
                pending.failures = 0;
            }
        }
        for id in completed.unclear {
            if self.capabilities.reads {
                self.enqueue(id);
            } else {
                // The source cannot read one workspace, so only another list can tell which
                // description is newer.
                self.publisher.doubt(&id);
                self.lists.again = true;
            }
        }
        let resync = self.timing.list_interval.mul_f64(0.8 + 0.4 * (self.jitter)());
        self.lists.succeeded(started, self.now.plus(resync));
        self.confirm();
    }

    fn accounts_received(
        &mut self,
        started: MonotonicTime,
        result: Result<Vec<Member>, SourceError>,
    ) {
        match result {
            Ok(members) => {
                self.succeeded();
                let directory = Directory::new(members);
                self.unknown_owners.retain(|owner| directory.account(owner).is_none());
                self.publisher.set_directory(directory);
                let resync = self.timing.list_interval.mul_f64(0.8 + 0.4 * (self.jitter)());
                self.accounts.succeeded(started, self.now.plus(resync));
                self.confirm();
            }
            Err(error) => {
                self.failed("the accounts", &error);
                let pause = self.pause(self.accounts.failures, &error);
                self.accounts.failed(self.now.plus(pause));
            }
        }
    }

    /// Requests the accounts when a workspace's owner has none: an account can be younger than the last list of them, as that
    /// of a person who has just signed in at the platform for the first time. One request for each such owner.
    fn look_up_owner(&mut self, workspace: &Workspace) {
        let Some(owner) = &workspace.owner.account else { return };
        if !self.capabilities.accounts || self.unknown_owners.contains(owner) {
            return;
        }
        let snapshot = self.publisher.registry().snapshot_at(self.now);
        let directory = snapshot.directory(self.publisher.source());
        if directory.is_some_and(|directory| directory.account(owner).is_some()) {
            return;
        }
        if self.unknown_owners.len() >= MAX_UNKNOWN_OWNERS {
            self.unknown_owners.clear();
        }
        self.unknown_owners.insert(owner.clone());
        self.accounts.request_soon(self.now);
    }

    /// When the last complete information was requested: a list, and the accounts if the source has
    /// some.
    fn last_confirmed(&self) -> Option<MonotonicTime> {
        let accounts = if self.capabilities.accounts {
            self.accounts.last_answered
        } else {
            self.lists.last_answered
        };
        self.lists.last_answered.min(accounts)
    }

    fn confirm(&mut self) {
        if let Some(last_answered) = self.last_confirmed() {
            self.publisher.confirm(last_answered);
        }
    }

    /// Starts the requests that are due.
    fn start_due(&mut self, out: &mut Vec<Command>) {
        let now = self.now;
        if self.capabilities.watches {
            // A connection can be dead without notice, so each is replaced after a while.
            let over =
                self.watch.open.is_some_and(|at| now.since(at) >= self.timing.connection_lifetime);
            if over || (self.watch.open.is_none() && now >= self.watch.retry_at) {
                self.watch.open = Some(now);
                self.watch.connected = None;
                self.watch.list_at = Some(now.plus(SILENT_CONNECT_DELAY));
                out.push(Command::Watch);
            }
            if self.watch.list_at.is_some_and(|at| now >= at) {
                self.watch.list_at = None;
                self.lists.request_soon(now);
            }
        }
        if self.lists.start(now) {
            out.push(Command::List);
        }
        if self.capabilities.accounts && self.accounts.start(now) {
            out.push(Command::Accounts);
        }
        self.close_unread();
        self.start_reads(out);
    }

    fn pause(&self, failures: u32, error: &SourceError) -> Duration {
        if let SourceError::RateLimited(after) = error {
            // The platform's own pause is respected, within limits that keep the source usable.
            return (*after).clamp(Duration::from_millis(100), Duration::from_mins(5));
        }
        let longest = self.timing.longest_pause;
        let pause = Backoff { first: longest / 16, longest }.pause(failures);
        // Spreads the retries of several agents.
        pause.mul_f64(0.5 + 0.5 * (self.jitter)())
    }

    fn failed(&mut self, what: &str, error: &SourceError) {
        let source = self.publisher.name();
        self.status.failures += 1;
        let news = self.status.last_error.is_none();
        // Logged once, since the error repeats until the credential is replaced.
        if error.is_credential() && !self.status.unauthorized {
            self.status.unauthorized = true;
            error!(source, what, %error, "a source of workspaces refuses the agent's credential, which must be replaced: what is known of its workspaces goes out of date");
        } else if news {
            warn!(source, what, %error, "a request to a source of workspaces failed: it is tried again, and the last known state stays in use");
        }
        self.status.last_error = Some(format!("{what}: {error}"));
    }

    fn succeeded(&mut self) {
        if self.status.last_error.take().is_some() {
            info!(source = self.publisher.name(), "the source answers again");
        }
        self.status.unauthorized = false;
    }
}
