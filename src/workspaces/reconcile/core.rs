//! Decides what to request from a platform and which responses to believe.
//!
//! [`Core`] is a state machine without I/O and without a clock: [`Core::handle`] takes inputs and
//! returns commands, and [`super::driver`] carries them out. Events are hints: each leads to one
//! read of the workspace that it names. Complete lists find what events did not report.
//!
//! Invariants: a workspace whose end was reported is removed at once. A workspace that changed in a
//! way that cannot be read in time is closed until it can be read. Only complete lists make the
//! source count as confirmed.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tracing::{error, info, warn};

use super::{
    super::{
        Workspace, WorkspaceId,
        directory::{Directory, Member},
        registry::{ListExtent, Observed, Publisher},
    },
    status::{Health, Status},
};
use crate::{
    backoff::Backoff,
    time::MonotonicTime,
    workspaces::source::{Abilities, Event, SourceError},
};

/// Intervals and time limits of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time between complete lists.
    pub resync: Duration,
    /// How long a reported change may stay unread before its workspace is closed.
    pub unread: Duration,
    /// The longest pause after a failure. The first pause is a sixteenth of it.
    pub retry: Duration,
    /// How long one connection for events is used before it is replaced.
    pub recycle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            resync: Duration::from_mins(1),
            unread: Duration::from_secs(4),
            retry: Duration::from_secs(16),
            recycle: Duration::from_mins(12),
        }
    }
}

/// How many reads run at the same time.
const READS: usize = 32;
/// With more unread changes than this, a complete list is quicker than single reads.
const MANY: usize = 512;
/// The shortest time between the starts of two lists.
const BETWEEN_LISTS: Duration = Duration::from_secs(1);
/// After this time a connection for events that has sent nothing is taken to be established.
const QUIET_CONNECT: Duration = Duration::from_secs(2);

/// Something that happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once for each question")]
pub enum Input {
    /// Time passed.
    Tick,
    /// The platform sent an event.
    Event(Event),
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
pub struct Core {
    publisher: Publisher,
    abilities: Abilities,
    timing: Timing,
    jitter: fn() -> f64,
    watch: Watch,
    lists: Asking,
    accounts: Asking,
    reads: HashMap<WorkspaceId, Unread>,
    queue: VecDeque<WorkspaceId>,
    reading: usize,
    status: Status,
    now: MonotonicTime,
}

#[derive(Default)]
struct Watch {
    open: Option<MonotonicTime>,
    connected: Option<MonotonicTime>,
    retry_at: MonotonicTime,
    failures: u32,
    /// When to list because a silent connection for events has probably been established.
    list_at: Option<MonotonicTime>,
}

/// A request that is repeated at an interval.
#[derive(Default)]
struct Asking {
    running: bool,
    due: MonotonicTime,
    /// Repeat it as soon as the running one ends.
    again: bool,
    failures: u32,
    started: Option<MonotonicTime>,
    /// When the last answered request was sent.
    good: Option<MonotonicTime>,
}

/// How far the read of a workspace is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    /// It waits for its time.
    #[default]
    Due,
    /// It waits for one of the running reads to end.
    Queued,
    /// The request is running.
    Running,
}

/// A workspace that must be read.
#[derive(Default)]
struct Unread {
    step: Step,
    /// Another change was reported after the running read began.
    again: bool,
    /// When the first unread change was reported.
    changed: Option<MonotonicTime>,
    failures: u32,
    due: MonotonicTime,
    wanted: bool,
    /// The workspace was closed because the change stayed unread.
    closed: bool,
}

impl Core {
    /// A source about which nothing is known yet. `jitter` returns numbers from 0 to 1.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        abilities: Abilities,
        timing: Timing,
        jitter: fn() -> f64,
    ) -> Self {
        Self {
            publisher,
            abilities,
            timing,
            jitter,
            watch: Watch::default(),
            lists: Asking::default(),
            accounts: Asking::default(),
            reads: HashMap::new(),
            queue: VecDeque::new(),
            reading: 0,
            status: Status::default(),
            now: MonotonicTime::default(),
        }
    }

    /// The state of the source, for people and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        let pending = self.reads.values().filter(|unread| unread.changed.is_some()).count();
        Status { pending, ..self.status.clone() }
    }

    fn health(&self) -> Health {
        match (self.good(), self.stale_at()) {
            (Some(_), Some(stale)) if self.now > stale => Health::Stale,
            (Some(_), _) if self.abilities.watches && self.watch.open.is_none() => Health::Degraded,
            (Some(_), _) => Health::Live,
            (None, _) => Health::Starting,
        }
    }

    /// When all workspaces of the source become too old to be used.
    fn stale_at(&self) -> Option<MonotonicTime> {
        let snapshot = self.publisher.registry().snapshot_at(self.now);
        let rules = snapshot.rules(self.publisher.source())?;
        self.good().map(|good| good.plus(rules.stale_after))
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
            self.take(input, out);
        }
        self.go_on(out);
        self.notice();
    }

    /// Logs the health of the source when it changes.
    fn notice(&mut self) {
        let health = self.health();
        let before = std::mem::replace(&mut self.status.health, health);
        let source = self.publisher.name();
        match health {
            _ if health == before => {}
            Health::Stale => {
                error!(
                    source,
                    "a source of workspaces has not answered for too long: requests for its workspaces are refused"
                );
            }
            Health::Degraded => warn!(
                source,
                "a source of workspaces sends no events: ended workspaces are noticed late, with the next full list"
            ),
            Health::Starting | Health::Live => info!(source, ?health, "the source's state"),
        }
    }

    fn take(&mut self, input: Input, out: &mut Vec<Command>) {
        match input {
            Input::Tick => {}
            Input::Event(event) => self.event(event, out),
            Input::WatchEnded(error) => self.watch_ended(&error),
            Input::Listed(started, result) => self.listed(started, result),
            Input::Read(id, started, result) => self.read(id, started, result, out),
            Input::Accounts(started, result) => self.took_accounts(started, result),
            Input::Wanted(id) => self.wanted(id, out),
        }
    }

    /// When [`Self::handle`] must be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> MonotonicTime {
        let asking = |asking: &Asking| (!asking.running).then_some(asking.due);
        let watch = match self.watch.open {
            _ if !self.abilities.watches => None,
            None => Some(self.watch.retry_at),
            Some(open) => Some(open.plus(self.timing.recycle)),
        };
        let reads = self.reads.values().filter(|r| r.step == Step::Due).map(|r| r.due);
        // A read that hangs must not keep its workspace open.
        let closes =
            self.reads.values().filter_map(|r| r.changed).map(|at| at.plus(self.timing.unread));
        let closes = closes.filter(|at| *at > self.now);
        let stale = self.stale_at().map(|at| at.plus(Duration::from_millis(1)));
        let stale = stale.filter(|at| *at > self.now);
        [asking(&self.lists), self.accounts_due(), watch, self.watch.list_at, stale]
            .into_iter()
            .flatten()
            .chain(reads)
            .chain(closes)
            .min()
            .unwrap_or_else(|| self.now.plus(self.timing.resync))
    }

    fn accounts_due(&self) -> Option<MonotonicTime> {
        (self.abilities.accounts && !self.accounts.running).then_some(self.accounts.due)
    }

    fn event(&mut self, event: Event, out: &mut Vec<Command>) {
        self.status.events += 1;
        match event {
            Event::Connected => {
                self.watch.connected = Some(self.now);
                self.watch.list_at = None;
                self.lists.soon(self.now);
            }
            Event::Changed(id) if self.abilities.reads => {
                let unread = self.reads.entry(id.clone()).or_default();
                unread.changed.get_or_insert(self.now);
                if unread.step == Step::Running {
                    unread.again = true;
                } else {
                    unread.due = self.now;
                    self.enqueue(id);
                }
                if self.reads.len() > MANY {
                    self.lists.soon(self.now);
                }
            }
            Event::Ended(id) => {
                self.publisher.end(&id, self.now);
                // The running read was requested before the end, so its response will be dropped.
                if let Some(unread) = self.reads.get_mut(&id) {
                    unread.changed = None;
                    unread.again = false;
                    if unread.step != Step::Running {
                        self.forget(&id, out);
                    }
                }
            }
            Event::Described(workspace) => {
                let id = workspace.id.clone();
                self.publisher.observe(*workspace, self.now, self.now);
                if let Some(unread) = self.reads.get_mut(&id) {
                    unread.changed = None;
                }
            }
            Event::Everything(list, started) => self.listed(started, Ok(list)),
            Event::Accounts => self.accounts.soon(self.now),
            Event::Changed(_) | Event::Anything => self.lists.soon(self.now),
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
        self.watch = Watch {
            failures: self.watch.failures.saturating_add(1),
            retry_at: self.now.plus(pause),
            ..Watch::default()
        };
        // Events since then are lost, and only a list can show what they were.
        self.lists.soon(self.now);
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
        let extent =
            if self.abilities.whole_lists { ListExtent::Snapshot } else { ListExtent::Pages };
        let count = list.len();
        let completed = self.publisher.complete(list, started, self.now, extent);
        if self.good().is_none() || completed.changed > 0 || completed.removed > 0 {
            info!(
                source = self.publisher.name(),
                workspaces = count,
                changed = completed.changed,
                removed = completed.removed,
                "workspaces listed"
            );
        }
        // The list was requested after these changes were reported, so it includes them.
        for unread in self.reads.values_mut() {
            if unread.changed.is_some_and(|at| at < started) && !unread.again {
                unread.changed = None;
                unread.failures = 0;
            }
        }
        for id in completed.unclear {
            if self.abilities.reads {
                self.enqueue(id);
            } else {
                // The source cannot read one workspace, so only another list can tell which
                // description is newer.
                self.publisher.doubt(&id);
                self.lists.again = true;
            }
        }
        let resync = self.timing.resync.mul_f64(0.8 + 0.4 * (self.jitter)());
        self.lists.succeeded(started, self.now.plus(resync));
        self.confirm();
    }

    fn took_accounts(&mut self, started: MonotonicTime, result: Result<Vec<Member>, SourceError>) {
        match result {
            Ok(members) => {
                self.succeeded();
                self.publisher.set_directory(Directory::new(members));
                let resync = self.timing.resync.mul_f64(0.8 + 0.4 * (self.jitter)());
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

    /// When the last complete information was requested: a list, and the accounts if the source has
    /// some.
    fn good(&self) -> Option<MonotonicTime> {
        let accounts = if self.abilities.accounts { self.accounts.good } else { self.lists.good };
        self.lists.good.min(accounts)
    }

    fn confirm(&mut self) {
        if let Some(good) = self.good() {
            self.publisher.confirm(good);
        }
    }

    fn read(
        &mut self,
        id: WorkspaceId,
        started: MonotonicTime,
        result: Result<Option<Workspace>, SourceError>,
        out: &mut Vec<Command>,
    ) {
        self.reading = self.reading.saturating_sub(1);
        self.status.reads += 1;
        let ended = match result {
            Ok(Some(workspace)) if workspace.id == id => {
                let observed = self.publisher.observe(workspace, started, self.now);
                if observed == Observed::Overlap
                    && let Some(unread) = self.reads.get_mut(&id)
                {
                    unread.again = true;
                }
                Ok(())
            }
            Ok(Some(other)) => {
                Err(SourceError::Protocol(format!("asked for '{id}', got '{}'", other.id)))
            }
            Ok(None) => {
                self.publisher.absent(&id, started, self.now);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match &ended {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed("a workspace", error),
        }
        let pause = ended.as_ref().err().map(|error| {
            let failures = self.reads.get(&id).map_or(0, |unread| unread.failures);
            // The owner of a closed workspace cannot work, so the read is repeated sooner than a
            // list, unless the platform asked for a pause.
            self.pause(failures, error)
                / if matches!(error, SourceError::RateLimited(_)) { 1 } else { 4 }
        });
        let Some(unread) = self.reads.get_mut(&id) else { return };
        unread.step = Step::Due;
        if unread.wanted {
            unread.wanted = false;
            out.push(Command::Answered(id.clone()));
        }
        match pause {
            None if unread.again => {
                unread.again = false;
                unread.failures = 0;
                unread.changed = Some(self.now);
                unread.due = self.now;
                self.enqueue(id);
            }
            None => self.forget(&id, out),
            Some(pause) => {
                unread.again = false;
                unread.failures = unread.failures.saturating_add(1);
                unread.due = self.now.plus(pause);
                if unread.changed.is_none() {
                    // No change was reported, so the next list is soon enough.
                    self.forget(&id, out);
                }
            }
        }
    }

    fn wanted(&mut self, id: WorkspaceId, out: &mut Vec<Command>) {
        if !self.abilities.reads {
            out.push(Command::Answered(id));
            return;
        }
        let unread = self.reads.entry(id.clone()).or_default();
        unread.wanted = true;
        if unread.step != Step::Running {
            unread.due = self.now;
            self.enqueue(id);
        }
    }

    fn enqueue(&mut self, id: WorkspaceId) {
        let unread = self.reads.entry(id.clone()).or_default();
        if unread.step == Step::Due {
            unread.step = Step::Queued;
            self.queue.push_back(id);
        }
    }

    fn forget(&mut self, id: &WorkspaceId, out: &mut Vec<Command>) {
        if let Some(unread) = self.reads.remove(id)
            && unread.wanted
        {
            out.push(Command::Answered(id.clone()));
        }
    }

    /// Starts the requests that are due.
    fn go_on(&mut self, out: &mut Vec<Command>) {
        let now = self.now;
        if self.abilities.watches {
            // A connection can be dead without notice, so each is replaced after a while.
            let over = self.watch.open.is_some_and(|at| now.since(at) >= self.timing.recycle);
            if over || (self.watch.open.is_none() && now >= self.watch.retry_at) {
                self.watch.open = Some(now);
                self.watch.connected = None;
                self.watch.list_at = Some(now.plus(QUIET_CONNECT));
                out.push(Command::Watch);
            }
            if self.watch.list_at.is_some_and(|at| now >= at) {
                self.watch.list_at = None;
                self.lists.soon(now);
            }
        }
        if self.lists.start(now) {
            out.push(Command::List);
        }
        if self.abilities.accounts && self.accounts.start(now) {
            out.push(Command::Accounts);
        }
        self.close_unread();
        let due: Vec<WorkspaceId> = self
            .reads
            .iter()
            .filter(|(_, unread)| unread.step == Step::Due && unread.due <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.enqueue(id);
        }
        while self.reading < READS
            && let Some(id) = self.queue.pop_front()
        {
            let Some(unread) = self.reads.get_mut(&id) else { continue };
            unread.step = Step::Running;
            self.reading += 1;
            out.push(Command::Read(id));
        }
    }

    /// Closes every workspace whose change could not be read in time.
    fn close_unread(&mut self) {
        let over = |at: MonotonicTime| self.now.since(at) >= self.timing.unread;
        for (id, unread) in &mut self.reads {
            let late = unread.changed.is_some_and(over);
            if late && !unread.closed {
                self.publisher.doubt(id);
            }
            unread.closed = late;
        }
    }

    fn pause(&self, failures: u32, error: &SourceError) -> Duration {
        if let SourceError::RateLimited(after) = error {
            return (*after).clamp(Duration::from_millis(100), Duration::from_mins(5));
        }
        let longest = self.timing.retry;
        let pause = Backoff { first: longest / 16, longest }.pause(failures);
        pause.mul_f64(0.5 + 0.5 * (self.jitter)())
    }

    fn failed(&mut self, what: &str, error: &SourceError) {
        let source = self.publisher.name();
        self.status.failures += 1;
        let news = self.status.last_error.is_none();
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

impl Asking {
    fn soon(&mut self, now: MonotonicTime) {
        if self.running {
            self.again = true;
        } else if self.failures == 0 {
            self.due = self.due.min(now);
        }
    }

    /// Returns whether to send the request now, and marks it as running.
    fn start(&mut self, now: MonotonicTime) -> bool {
        let free = self.started.is_none_or(|at| now.since(at) >= BETWEEN_LISTS);
        if !free && self.due <= now && !self.running {
            self.due = self.started.unwrap_or(now).plus(BETWEEN_LISTS);
        }
        let start = !self.running && self.due <= now;
        if start {
            self.running = true;
            self.started = Some(now);
        }
        start
    }

    fn succeeded(&mut self, started: MonotonicTime, next: MonotonicTime) {
        self.good = self.good.max(Some(started));
        self.failures = 0;
        self.running = false;
        self.due = if std::mem::take(&mut self.again) { MonotonicTime::default() } else { next };
    }

    fn failed(&mut self, next: MonotonicTime) {
        self.failures = self.failures.saturating_add(1);
        self.running = false;
        self.again = false;
        self.due = next;
    }
}
