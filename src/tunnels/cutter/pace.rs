//! When the work at a socket is done.
//!
//! Each process is worked at in a task of its own, never in two at a time: one that is slow, or does not answer, holds
//! up no other.

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

/// Between two looks at all streams.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// The same while requests are let pass; unless it took longer, a rest of so many times that.
const SOON: Duration = Duration::from_millis(500);
const REST: u32 = 4;
/// The pause after a failure at first, and between two looks for a tunnel that is due.
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause after a failure while a tunnel is due, and while none is.
const RETRY_DUE: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Works at one socket.
pub struct Cutter {
    site: Arc<Site>,
    /// Work that is under way, and in which process.
    tasks: JoinSet<Result<Outcome, AskError>>,
    busy: HashMap<Id, Process>,
    /// The processes there are, the moment before they were asked for, and whether a master told them.
    processes: HashMap<Process, Standing>,
    asked: MonotonicTime,
    is_master: bool,
    /// How it stands with asking for them.
    master: Trouble,
    /// When all streams are looked at again, and when they may be if a tunnel that is due is to be found.
    next: MonotonicTime,
    hurry: MonotonicTime,
    /// How long the last look at a process took.
    took: Duration,
    /// Which change of what decides was looked for last.
    change: u64,
    /// Whether the last report was of a failure.
    fails: bool,
}

/// What is to be done in a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// End what is due and was found there.
    Cut,
    /// Look at all streams, and end what is due.
    Seek,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// What was due was ended.
    Cut,
    /// All streams were looked at.
    Sought(Sight),
}

/// A look at all streams of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// The moment before they were asked for.
    pub asked: MonotonicTime,
    /// The id that the process has for itself; `None` where it is starting or ending and has no streams.
    pub id: Option<u32>,
}

/// How it stands with a process.
#[derive(Default)]
struct Standing {
    seen: Option<Sight>,
    /// Its streams are to be looked at once the task that is under way is done.
    is_owed: bool,
    trouble: Trouble,
}

/// Failures in a row.
#[derive(Default)]
struct Trouble {
    failures: u32,
    error: Option<String>,
    /// It was the time limit that was missed.
    is_late: bool,
    /// Nothing is asked before this moment.
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

    /// Something has become due.
    fn hasten(&mut self, now: MonotonicTime) {
        self.again = if self.failures == 0 { now } else { self.again.min(now.plus(RETRY)) };
    }
}

impl Cutter {
    /// For one of the table's sockets, by its number. Plain requests that last are followed with `live`, which decides.
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

    /// Works until stopped.
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

    /// Starts what is to be done: cuts what is due and found here, and looks at all streams when it is time to or
    /// something that is due is not found yet.
    async fn dispatch(&mut self) {
        let (due, is_sought) = self.site.wanted();
        for process in due {
            self.start(&process, Task::Cut);
        }
        let now = MonotonicTime::now();
        if now >= self.next || (is_sought && now >= self.hurry) || self.must_look(now) {
            self.seek().await;
        }
    }

    /// Asks which processes there are, and looks at the streams of each.
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

    /// Whether what decides changed, so that a request that was let pass a moment ago may have to end.
    fn must_look(&self, now: MonotonicTime) -> bool {
        self.site.tunnels.change() != self.change
            && now >= self.hurry.max(self.asked.plus(self.took.saturating_mul(REST)))
            && self.site.tunnels.has_recent()
    }

    /// How long after a look at all streams there is another one. What was let pass a moment ago is ended only after a
    /// look.
    fn pace(&self) -> Duration {
        if self.site.tunnels.has_recent() {
            self.took.saturating_mul(REST).clamp(SOON, EVERY)
        } else {
            EVERY
        }
    }

    /// Starts work in a process, unless some is under way there or it is too early after a failure.
    fn start(&mut self, process: &Process, task: Task) {
        let standing = self.processes.entry(process.clone()).or_default();
        let is_early = match task {
            Task::Cut => MonotonicTime::now() < standing.trouble.again,
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
            // It panicked, which is logged. It is done again in time.
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

    /// Says what is known of all processes: whatever was opened before the first of them was asked, and is in none, is
    /// gone.
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

    /// Says whether something fails, in the log when that changes.
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
