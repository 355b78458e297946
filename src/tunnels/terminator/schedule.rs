//! The schedule of one socket: when to list processes, scan streams and terminate tunnels.
//!
//! All streams are scanned every two seconds, more often after requests were allowed, and at once
//! when something must be terminated. A failure is followed by a pause that grows with each
//! failure.
//!
//! Each process of HAProxy is handled by a task of its own, and by one at a time: a process that is
//! slow or does not answer delays no other. This module decides when; [`SocketWorker`] does the work.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    select,
    task::{Id, JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Socket, SocketWorker, Tunnels};
use crate::{
    backoff::Backoff,
    gate::live::Live,
    haproxy::{AskError, Process, SocketId},
    time::MonotonicTime,
    tunnels::table::SocketScan,
};

/// Time between two scans of all streams.
pub(super) const SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// The same after requests were allowed. If a scan takes longer, the time between two is this many
/// times its length.
const RECENT_SCAN_INTERVAL: Duration = Duration::from_millis(500);
const SCAN_REST: u32 = 4;
/// The first pause after a failure, and the time between two searches for a tunnel that must end.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause after a failure, while a tunnel must be terminated and while none must.
const MAX_BACKOFF_DUE: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Terminates tunnels behind one socket.
pub struct TunnelTerminator {
    worker: Arc<SocketWorker>,
    /// Running tasks, and the process of each.
    tasks: JoinSet<Result<TaskOutcome, AskError>>,
    busy: HashMap<Id, Process>,
    /// The known processes, when their list was requested, and whether a master listed them.
    processes: HashMap<Process, ProcessState>,
    asked: MonotonicTime,
    is_master: bool,
    /// The failures to list the processes.
    master: Failures,
    /// When all streams are scanned again, and the earliest time for a scan that something urgent
    /// needs.
    next_scan: MonotonicTime,
    urgent_scan: MonotonicTime,
    /// How long the last scan of a process took.
    took: Duration,
    /// The count of changes that the last scan included.
    change: u64,
    /// Whether a failure was logged last.
    fails: bool,
}

/// A task in a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum ProcessTask {
    /// Terminate the located streams that must end.
    Terminate,
    /// Scan all streams, and terminate those that must end.
    Scan,
}

/// The outcome of a task.
#[derive(Clone, Copy, Debug)]
pub(super) enum TaskOutcome {
    /// What had to be terminated was.
    Terminated,
    /// All streams were scanned.
    Scanned(ProcessScan),
}

/// A complete scan of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessScan {
    /// When the scan began.
    pub asked: MonotonicTime,
    /// The id of the process; `None` if it is starting or ending and has no streams.
    pub id: Option<u32>,
}

/// The state of one process.
#[derive(Default)]
struct ProcessState {
    seen: Option<ProcessScan>,
    /// Its streams must be scanned as soon as the running task is done.
    needs_scan: bool,
    failures: Failures,
}

/// Failures in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    error: Option<String>,
    /// Whether the last failure was a timeout.
    was_timeout: bool,
    /// The earliest time for the next attempt.
    next_attempt: MonotonicTime,
}

impl Failures {
    fn failed(&mut self, error: &AskError, max: Duration) {
        let pause = Backoff { first: FIRST_BACKOFF, longest: max }.pause(self.count.min(5));
        *self = Self {
            count: self.count.saturating_add(1),
            error: Some(error.to_string()),
            was_timeout: matches!(error, AskError::Late(_)),
            next_attempt: MonotonicTime::now().plus(pause),
        };
    }

    fn succeeded(&mut self) {
        *self = Self { next_attempt: MonotonicTime::now().plus(FIRST_BACKOFF), ..Self::default() };
    }

    /// Allows an attempt earlier, because something must be terminated.
    fn expedite(&mut self, now: MonotonicTime) {
        self.next_attempt =
            if self.count == 0 { now } else { self.next_attempt.min(now.plus(FIRST_BACKOFF)) };
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
            worker: Arc::new(SocketWorker::new(socket, number, tunnels, live)),
            tasks: JoinSet::new(),
            busy: HashMap::new(),
            processes: HashMap::new(),
            asked: MonotonicTime::default(),
            is_master: false,
            master: Failures::default(),
            next_scan: MonotonicTime::default(),
            urgent_scan: MonotonicTime::default(),
            took: Duration::ZERO,
            change: 0,
            fails: false,
        }
    }

    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wakes = self.worker.tunnels.wakes();
        loop {
            select! {
                () = stop.cancelled() => return,
                // Listing the processes can take as long as the timeout of a command.
                () = self.dispatch() => {}
            }
            let pause = if self.worker.has_due() {
                FIRST_BACKOFF
            } else {
                self.next_scan.since(MonotonicTime::now())
            };
            select! {
                () = stop.cancelled() => return,
                Some(done) = self.tasks.join_next_with_id() => self.finish_task(done),
                _ = wakes.changed() => self.expedite(),
                () = sleep(pause) => {}
            }
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.finish_task(done);
            }
            self.report();
        }
    }

    /// Starts the tasks that are needed now: terminations, and a scan if one is scheduled or a
    /// tunnel that must end is not located yet.
    async fn dispatch(&mut self) {
        let (due, needs_scan) = self.worker.pending();
        for process in due {
            self.start(&process, ProcessTask::Terminate);
        }
        let now = MonotonicTime::now();
        if now >= self.next_scan || (needs_scan && now >= self.urgent_scan) || self.must_scan(now) {
            self.scan().await;
        }
    }

    /// Lists the processes, and starts a scan of each.
    async fn scan(&mut self) {
        let (asked, change) = (MonotonicTime::now(), self.worker.tunnels.change());
        let processes = match self.worker.socket.processes().await {
            Ok(processes) => processes,
            Err(error) => {
                self.master.failed(&error, self.max_backoff());
                (self.next_scan, self.urgent_scan) =
                    (self.master.next_attempt, self.master.next_attempt);
                return;
            }
        };
        self.master.succeeded();
        (self.asked, self.change) = (asked, change);
        self.is_master = processes.iter().all(|process| process.id().is_some());
        self.worker.gone_with_their_process(&processes, self.is_master);
        // The pauses of a process that has ended go with it.
        self.processes.retain(|process, _| processes.contains(process));
        let now = MonotonicTime::now();
        (self.next_scan, self.urgent_scan) = (now.plus(self.scan_pause()), now.plus(FIRST_BACKOFF));
        for process in processes {
            self.processes.entry(process.clone()).or_default().needs_scan = true;
            self.start(&process, ProcessTask::Scan);
        }
    }

    /// Whether decisions may have changed since the last scan, so that a plain request that was
    /// allowed may have to end.
    fn must_scan(&self, now: MonotonicTime) -> bool {
        self.worker.tunnels.change() != self.change
            && now >= self.urgent_scan.max(self.asked.plus(self.took.saturating_mul(SCAN_REST)))
            && self.worker.tunnels.has_recent()
    }

    /// The time to the next scan. A plain request can only be terminated after a scan, so while
    /// there are any, scans are more frequent.
    fn scan_pause(&self) -> Duration {
        if self.worker.tunnels.has_recent() {
            self.took.saturating_mul(SCAN_REST).clamp(RECENT_SCAN_INTERVAL, SCAN_INTERVAL)
        } else {
            SCAN_INTERVAL
        }
    }

    /// Starts a task in a process, unless one is running there or the pause after a failure lasts.
    fn start(&mut self, process: &Process, task: ProcessTask) {
        let process_state = self.processes.entry(process.clone()).or_default();
        let is_early = match task {
            // After a success there is a short pause too, so that one termination does not follow
            // the other without end.
            ProcessTask::Terminate => MonotonicTime::now() < process_state.failures.next_attempt,
            ProcessTask::Scan => {
                process_state.failures.count > 0
                    && MonotonicTime::now() < process_state.failures.next_attempt
            }
        };
        // Never two tasks in one process: they would compare the table with two different lists.
        if is_early || self.busy.values().any(|busy| busy == process) {
            return;
        }
        if matches!(task, ProcessTask::Scan) {
            process_state.needs_scan = false;
        }
        let (worker, process, was_late) =
            (Arc::clone(&self.worker), process.clone(), process_state.failures.was_timeout);
        let key = process.clone();
        let task = async move { worker.work(&process, task, was_late).await };
        self.busy.insert(self.tasks.spawn(task).id(), key);
    }

    fn finish_task(&mut self, done: Result<(Id, Result<TaskOutcome, AskError>), JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, Some(result)),
            // The task panicked, which was logged. The next scan repeats its work.
            Err(error) => (error.id(), None),
        };
        let most = self.max_backoff();
        let Some(process) = self.busy.remove(&id) else { return };
        let Some(process_state) = self.processes.get_mut(&process) else { return };
        match result {
            Some(Ok(outcome)) => {
                process_state.failures.succeeded();
                // The length of a scan sets how often there is one.
                if let TaskOutcome::Scanned(scan) = outcome {
                    self.took = MonotonicTime::now().since(scan.asked);
                    process_state.seen = Some(scan);
                }
            }
            Some(Err(error)) => {
                if process_state.failures.count == 0 {
                    warn!(%process, %error, "listing the streams of a HAProxy process failed: it is tried again");
                }
                process_state.failures.failed(&error, most);
                // Nothing of this process is known now, so the next scan comes as soon as the pause
                // allows.
                self.next_scan = self.next_scan.min(process_state.failures.next_attempt);
            }
            None => {}
        }
        if process_state.needs_scan {
            self.start(&process, ProcessTask::Scan);
        }
        self.publish_scan();
    }

    /// Publishes the scan of all processes, if each was scanned. A tunnel that was opened before
    /// the first of them was listed, and is in none, has ended.
    fn publish_scan(&self) {
        let seen = self.processes.values().map(|process_state| process_state.seen);
        // A process that was not scanned yet may have any tunnel.
        let Some(seen) = seen.collect::<Option<Vec<_>>>() else { return };
        let Some(asked) = seen.iter().map(|scan| scan.asked).min() else { return };
        let scan = SocketScan {
            started: asked.min(self.asked),
            processes: seen.iter().filter_map(|scan| scan.id).collect(),
            is_master: self.is_master,
        };
        if let Some(slot) = self.worker.tunnels.lock().scans.get_mut(self.worker.number.index()) {
            *slot = Some(scan);
        }
        self.worker.tunnels.forget_recent();
    }

    fn expedite(&mut self) {
        let now = MonotonicTime::now();
        self.master.expedite(now);
        self.urgent_scan = self.master.next_attempt;
        self.next_scan = self.next_scan.min(now.plus(self.scan_pause()));
        self.processes.values_mut().for_each(|process_state| process_state.failures.expedite(now));
    }

    fn max_backoff(&self) -> Duration {
        if self.worker.has_due() { MAX_BACKOFF_DUE } else { MAX_BACKOFF }
    }

    /// Logs when the socket begins to fail, and when it works again.
    fn report(&mut self) {
        let mut troubles = self.processes.values().map(|process_state| &process_state.failures);
        let error = self.master.error.as_ref().or_else(|| troubles.find_map(|t| t.error.as_ref()));
        let error = error.map(|error| format!("{}: {error}", self.worker.socket));
        match &error {
            Some(error) if !self.fails => {
                error!(
                    error,
                    "HAProxy's runtime API does not answer: its tunnels cannot be terminated until it does"
                );
            }
            None if self.fails => {
                info!(socket = %self.worker.socket, "HAProxy's runtime API answers again");
            }
            _ => {}
        }
        self.fails = error.is_some();
        self.worker.set_error(error);
    }
}
