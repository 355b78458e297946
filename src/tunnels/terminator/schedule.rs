//! The schedule of one socket: when to list processes, scan streams and terminate tunnels.
//!
//! All streams are scanned every two seconds, more often after requests were allowed, and at once
//! when something must be terminated. A failure is followed by a pause that grows with each
//! failure.
//!
//! Each process of HAProxy is handled by a task of its own, and by one at a time: a process that is
//! slow or does not answer delays no other. This module decides when; [`Site`] does the work.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    select,
    task::{Id, JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Site, Socket, Tunnels};
use crate::{
    backoff::Backoff,
    gate::live::Live,
    haproxy::{AskError, Process, SocketId},
    time::MonotonicTime,
    tunnels::table::Round,
};

/// Time between two scans of all streams.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// The same after requests were allowed. If a scan takes longer, the time between two is this many
/// times its length.
const SOON: Duration = Duration::from_millis(500);
const REST: u32 = 4;
/// The first pause after a failure, and the time between two searches for a tunnel that must end.
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause after a failure, while a tunnel must be terminated and while none must.
const RETRY_DUE: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Terminates tunnels behind one socket.
pub struct TunnelTerminator {
    site: Arc<Site>,
    /// Running tasks, and the process of each.
    tasks: JoinSet<Result<Outcome, AskError>>,
    busy: HashMap<Id, Process>,
    /// The known processes, when their list was requested, and whether a master listed them.
    processes: HashMap<Process, Standing>,
    asked: MonotonicTime,
    is_master: bool,
    /// The failures to list the processes.
    master: Trouble,
    /// When all streams are scanned again, and the earliest time for a scan that something urgent
    /// needs.
    next: MonotonicTime,
    hurry: MonotonicTime,
    /// How long the last scan of a process took.
    took: Duration,
    /// The count of changes that the last scan included.
    change: u64,
    /// Whether a failure was logged last.
    fails: bool,
}

/// A task in a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// Terminate the located streams that must end.
    Terminate,
    /// Scan all streams, and terminate those that must end.
    Seek,
}

/// The outcome of a task.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// What had to be terminated was.
    Terminated,
    /// All streams were scanned.
    Sought(Sight),
}

/// A complete scan of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// When the scan began.
    pub asked: MonotonicTime,
    /// The id of the process; `None` if it is starting or ending and has no streams.
    pub id: Option<u32>,
}

/// The state of one process.
#[derive(Default)]
struct Standing {
    seen: Option<Sight>,
    /// Its streams must be scanned as soon as the running task is done.
    is_owed: bool,
    trouble: Trouble,
}

/// Failures in a row.
#[derive(Default)]
struct Trouble {
    failures: u32,
    error: Option<String>,
    /// Whether the last failure was a timeout.
    is_late: bool,
    /// The earliest time for the next attempt.
    again: MonotonicTime,
}

impl Trouble {
    fn failed(&mut self, error: &AskError, most: Duration) {
        let pause = Backoff { first: RETRY, longest: most }.pause(self.failures.min(5));
        *self = Self {
            failures: self.failures.saturating_add(1),
            error: Some(error.to_string()),
            is_late: matches!(error, AskError::Late(_)),
            again: MonotonicTime::now().plus(pause),
        };
    }

    fn succeeded(&mut self) {
        *self = Self { again: MonotonicTime::now().plus(RETRY), ..Self::default() };
    }

    /// Allows an attempt earlier, because something must be terminated.
    fn hasten(&mut self, now: MonotonicTime) {
        self.again = if self.failures == 0 { now } else { self.again.min(now.plus(RETRY)) };
    }
}

impl TunnelTerminator {
    /// For one socket of the table. With `live`, plain requests that last become tunnels.
    #[must_use]
    pub fn new(
        socket: Socket,
        number: SocketId,
        tunnels: Arc<Tunnels>,
        live: Option<Arc<Live>>,
    ) -> Self {
        Self {
            site: Arc::new(Site::new(socket, number, tunnels, live)),
            tasks: JoinSet::new(),
            busy: HashMap::new(),
            processes: HashMap::new(),
            asked: MonotonicTime::default(),
            is_master: false,
            master: Trouble::default(),
            next: MonotonicTime::default(),
            hurry: MonotonicTime::default(),
            took: Duration::ZERO,
            change: 0,
            fails: false,
        }
    }

    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wakes = self.site.tunnels.wakes();
        loop {
            select! {
                () = stop.cancelled() => return,
                () = self.dispatch() => {}
            }
            let pause =
                if self.site.has_due() { RETRY } else { self.next.since(MonotonicTime::now()) };
            select! {
                () = stop.cancelled() => return,
                Some(done) = self.tasks.join_next_with_id() => self.absorb(done),
                _ = wakes.changed() => self.hasten(),
                () = sleep(pause) => {}
            }
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.absorb(done);
            }
            self.report();
        }
    }

    /// Starts the tasks that are needed now: terminations, and a scan if one is scheduled or a
    /// tunnel that must end is not located yet.
    async fn dispatch(&mut self) {
        let (due, is_sought) = self.site.wanted();
        for process in due {
            self.start(&process, Task::Terminate);
        }
        let now = MonotonicTime::now();
        if now >= self.next || (is_sought && now >= self.hurry) || self.must_look(now) {
            self.seek().await;
        }
    }

    /// Lists the processes, and starts a scan of each.
    async fn seek(&mut self) {
        let (asked, change) = (MonotonicTime::now(), self.site.tunnels.change());
        let processes = match self.site.socket.processes().await {
            Ok(processes) => processes,
            Err(error) => {
                self.master.failed(&error, self.most());
                (self.next, self.hurry) = (self.master.again, self.master.again);
                return;
            }
        };
        self.master.succeeded();
        (self.asked, self.change) = (asked, change);
        self.is_master = processes.iter().all(|process| process.id().is_some());
        self.site.gone_with_their_process(&processes, self.is_master);
        self.processes.retain(|process, _| processes.contains(process));
        let now = MonotonicTime::now();
        (self.next, self.hurry) = (now.plus(self.pace()), now.plus(RETRY));
        for process in processes {
            self.processes.entry(process.clone()).or_default().is_owed = true;
            self.start(&process, Task::Seek);
        }
    }

    /// Whether decisions may have changed since the last scan, so that a plain request that was
    /// allowed may have to end.
    fn must_look(&self, now: MonotonicTime) -> bool {
        self.site.tunnels.change() != self.change
            && now >= self.hurry.max(self.asked.plus(self.took.saturating_mul(REST)))
            && self.site.tunnels.has_recent()
    }

    /// The time to the next scan. A plain request can only be terminated after a scan, so while
    /// there are any, scans are more frequent.
    fn pace(&self) -> Duration {
        if self.site.tunnels.has_recent() {
            self.took.saturating_mul(REST).clamp(SOON, EVERY)
        } else {
            EVERY
        }
    }

    /// Starts a task in a process, unless one is running there or the pause after a failure lasts.
    fn start(&mut self, process: &Process, task: Task) {
        let standing = self.processes.entry(process.clone()).or_default();
        let is_early = match task {
            Task::Terminate => MonotonicTime::now() < standing.trouble.again,
            Task::Seek => {
                standing.trouble.failures > 0 && MonotonicTime::now() < standing.trouble.again
            }
        };
        if is_early || self.busy.values().any(|busy| busy == process) {
            return;
        }
        if matches!(task, Task::Seek) {
            standing.is_owed = false;
        }
        let (site, process, was_late) =
            (Arc::clone(&self.site), process.clone(), standing.trouble.is_late);
        let place = process.clone();
        let task = async move { site.work(&process, task, was_late).await };
        self.busy.insert(self.tasks.spawn(task).id(), place);
    }

    fn absorb(&mut self, done: Result<(Id, Result<Outcome, AskError>), JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, Some(result)),
            // The task panicked, which was logged. The next scan repeats its work.
            Err(error) => (error.id(), None),
        };
        let most = self.most();
        let Some(process) = self.busy.remove(&id) else { return };
        let Some(standing) = self.processes.get_mut(&process) else { return };
        match result {
            Some(Ok(outcome)) => {
                standing.trouble.succeeded();
                if let Outcome::Sought(sight) = outcome {
                    self.took = MonotonicTime::now().since(sight.asked);
                    standing.seen = Some(sight);
                }
            }
            Some(Err(error)) => {
                if standing.trouble.failures == 0 {
                    warn!(%process, %error, "listing the streams of a HAProxy process failed: it is tried again");
                }
                standing.trouble.failed(&error, most);
                self.next = self.next.min(standing.trouble.again);
            }
            None => {}
        }
        if standing.is_owed {
            self.start(&process, Task::Seek);
        }
        self.round();
    }

    /// Publishes the scan of all processes, if each was scanned. A tunnel that was opened before
    /// the first of them was listed, and is in none, has ended.
    fn round(&self) {
        let seen = self.processes.values().map(|standing| standing.seen);
        let Some(seen) = seen.collect::<Option<Vec<_>>>() else { return };
        let Some(asked) = seen.iter().map(|sight| sight.asked).min() else { return };
        let round = Round {
            started: asked.min(self.asked),
            processes: seen.iter().filter_map(|sight| sight.id).collect(),
            is_master: self.is_master,
        };
        if let Some(place) = self.site.tunnels.lock().rounds.get_mut(self.site.number.index()) {
            *place = Some(round);
        }
        self.site.tunnels.forget_recent();
    }

    fn hasten(&mut self) {
        let now = MonotonicTime::now();
        self.master.hasten(now);
        self.hurry = self.master.again;
        self.next = self.next.min(now.plus(self.pace()));
        self.processes.values_mut().for_each(|standing| standing.trouble.hasten(now));
    }

    fn most(&self) -> Duration {
        if self.site.has_due() { RETRY_DUE } else { RETRY_MOST }
    }

    /// Logs when the socket begins to fail, and when it works again.
    fn report(&mut self) {
        let mut troubles = self.processes.values().map(|standing| &standing.trouble);
        let error = self.master.error.as_ref().or_else(|| troubles.find_map(|t| t.error.as_ref()));
        let error = error.map(|error| format!("{}: {error}", self.site.socket));
        match &error {
            Some(error) if !self.fails => {
                error!(
                    error,
                    "HAProxy's runtime API does not answer: its tunnels cannot be terminated until it does"
                );
            }
            None if self.fails => {
                info!(socket = %self.site.socket, "HAProxy's runtime API answers again");
            }
            _ => {}
        }
        self.fails = error.is_some();
        self.site.tell(error);
    }
}
