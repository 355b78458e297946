//! Asks a platform what [`Core`] wants to know.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    core::{Command, Core, Input},
    lookup::Lookup,
    status::Status,
};
use crate::{
    time::MonotonicTime,
    workspaces::{
        WorkspaceId,
        source::{Event, Source, SourceError},
    },
};

/// The longest that a list or the accounts, over all pages, may take; less than owners are let in for
/// without one.
const LIST_WITHIN: Duration = Duration::from_mins(4);
/// The longest that one read may take.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How many events wait to be taken in before the platform is made to wait.
const EVENTS: usize = 4096;

/// A platform with what is needed to follow it.
pub struct Driver<S> {
    /// The platform.
    pub source: Arc<S>,
    /// What to ask it.
    pub core: Core,
    /// Answers requests that wait.
    pub lookup: Lookup,
    /// What requests ask.
    pub questions: mpsc::Receiver<WorkspaceId>,
    /// How it is going.
    pub status: Arc<Mutex<Status>>,
}

impl<S: Source> Driver<S> {
    /// Follows the platform until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tasks: JoinSet<Input> = JoinSet::new();
        let mut watching: Option<AbortHandle> = None;
        let (_, mut events) = mpsc::channel::<Event>(EVENTS);
        let mut inputs = vec![Input::Tick];
        let mut commands = Vec::new();
        let mut batch = Vec::new();
        loop {
            let now = MonotonicTime::now();
            self.core.handle(inputs.drain(..), now, &mut commands);
            *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.core.status();
            for command in commands.drain(..) {
                match command {
                    Command::Answered(id) => self.lookup.ended(&id, now),
                    Command::Watch => {
                        if let Some(old) = watching.take() {
                            old.abort();
                        }
                        // Events of the connection before are not this one's.
                        let (sender, receiver) = mpsc::channel(EVENTS);
                        events = receiver;
                        watching = Some(tasks.spawn(self.watch(sender)));
                    }
                    Command::List => {
                        tasks.spawn(self.list(now));
                    }
                    Command::Accounts => {
                        tasks.spawn(self.accounts(now));
                    }
                    Command::Read(id) => {
                        tasks.spawn(self.read(id, now));
                    }
                }
            }
            let pause = self.core.deadline().since(MonotonicTime::now());
            tokio::select! {
                () = stop.cancelled() => return,
                count = events.recv_many(&mut batch, EVENTS), if watching.is_some() => {
                    if count > 0 {
                        inputs.extend(batch.drain(..).map(Input::Event));
                    }
                }
                // A task that was aborted has nothing to say.
                Some(Ok(input)) = tasks.join_next() => inputs.push(input),
                Some(id) = self.questions.recv() => inputs.push(Input::Wanted(id)),
                () = tokio::time::sleep(pause) => inputs.push(Input::Tick),
            }
            if inputs.iter().any(|input| matches!(input, Input::WatchEnded(_))) {
                watching = None;
                // What it told before its end counts.
                while let Ok(event) = events.try_recv() {
                    inputs.insert(0, Input::Event(event));
                }
            }
        }
    }

    fn watch(&self, events: mpsc::Sender<Event>) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move {
            let ended = contained(async { Err::<(), _>(source.watch(events).await) }).await;
            Input::WatchEnded(ended.err().unwrap_or(SourceError::Timeout))
        }
    }

    fn list(&self, now: MonotonicTime) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move { Input::Listed(now, within(LIST_WITHIN, source.list()).await) }
    }

    fn accounts(&self, now: MonotonicTime) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move { Input::Accounts(now, within(LIST_WITHIN, source.accounts()).await) }
    }

    fn read(&self, id: WorkspaceId, now: MonotonicTime) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move {
            let result = within(READ_WITHIN, source.read(&id)).await;
            Input::Read(id, now, result)
        }
    }
}

async fn within<T>(
    limit: Duration,
    question: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(limit, contained(question)).await {
        Ok(result) => result,
        Err(_) => Err(SourceError::Timeout),
    }
}

/// A panic while reading an answer is a failure of that answer.
async fn contained<T>(
    question: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    AssertUnwindSafe(question).catch_unwind().await.unwrap_or_else(|_| {
        Err(SourceError::Protocol("a fault of the agent: please report the lines above".into()))
    })
}
