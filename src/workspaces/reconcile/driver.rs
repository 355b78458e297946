//! Carries out the commands of [`Reconciler`]: sends requests to the platform, each with a time limit,
//! and returns the responses as inputs.
//!
//! A panic in an adapter is caught and counted as a failed request, so one strange response cannot
//! end the synchronization of a source. [`Driver::run`] is the only task of a source that changes
//! its [`Reconciler`].

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    core::{Command, Input, Reconciler},
    lookup::Lookup,
    status::SourceStatus,
};
use crate::{
    lock::Mutex,
    time::MonotonicTime,
    workspaces::{
        WorkspaceId,
        source::{Source, SourceError, SourceEvent},
    },
};

/// The time limit of a list or of the accounts, over all pages. It is shorter than the time for
/// which owners have access without a confirmation.
const LIST_TIMEOUT: Duration = Duration::from_mins(4);
/// The time limit of reading one workspace.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How many events are queued before the adapter must wait.
const EVENT_QUEUE: usize = 4096;

/// A source with everything that is needed to follow it.
pub struct Driver<S> {
    /// The platform.
    pub source: Arc<S>,
    /// The state machine.
    pub core: Reconciler,
    /// Wakes requests that wait for a workspace.
    pub lookup: Lookup,
    /// The workspaces that requests wait for.
    pub lookups: mpsc::Receiver<WorkspaceId>,
    /// Where the state is published for people and metrics.
    pub status: Arc<Mutex<SourceStatus>>,
}

impl<S: Source> Driver<S> {
    /// Follows the platform until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tasks: JoinSet<Input> = JoinSet::new();
        let mut watching: Option<AbortHandle> = None;
        let (_, mut events) = mpsc::channel::<SourceEvent>(EVENT_QUEUE);
        let mut inputs = vec![Input::Tick];
        let mut commands = Vec::new();
        let mut batch = Vec::new();
        loop {
            let now = MonotonicTime::now();
            self.core.handle(inputs.drain(..), now, &mut commands);
            *self.status.lock() = self.core.status();
            for command in commands.drain(..) {
                match command {
                    Command::Answered(id) => self.lookup.finish(&id, now),
                    Command::Watch => {
                        if let Some(old) = watching.take() {
                            old.abort();
                        }
                        // A new channel drops events of the old connection that were not handled
                        // yet.
                        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
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
                count = events.recv_many(&mut batch, EVENT_QUEUE), if watching.is_some() => {
                    if count > 0 {
                        inputs.extend(batch.drain(..).map(Input::Event));
                    }
                }
                // An aborted task has no result.
                Some(Ok(input)) = tasks.join_next() => inputs.push(input),
                Some(id) = self.lookups.recv() => inputs.push(Input::Wanted(id)),
                () = tokio::time::sleep(pause) => inputs.push(Input::Tick),
            }
            if inputs.iter().any(|input| matches!(input, Input::WatchEnded(_))) {
                watching = None;
                // Events that arrived before the end of the connection are handled first.
                while let Ok(event) = events.try_recv() {
                    inputs.insert(0, Input::Event(event));
                }
            }
        }
    }

    fn watch(&self, events: mpsc::Sender<SourceEvent>) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move {
            let ended = catch_panic(async { Err::<(), _>(source.watch(events).await) }).await;
            Input::WatchEnded(ended.err().unwrap_or(SourceError::Timeout))
        }
    }

    fn list(&self, now: MonotonicTime) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move { Input::Listed(now, with_timeout(LIST_TIMEOUT, source.list()).await) }
    }

    fn accounts(&self, now: MonotonicTime) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move { Input::Accounts(now, with_timeout(LIST_TIMEOUT, source.accounts()).await) }
    }

    fn read(&self, id: WorkspaceId, now: MonotonicTime) -> impl Future<Output = Input> + use<S> {
        let source = Arc::clone(&self.source);
        async move {
            let result = with_timeout(READ_TIMEOUT, source.read(&id)).await;
            Input::Read(id, now, result)
        }
    }
}

async fn with_timeout<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(limit, catch_panic(request)).await {
        Ok(result) => result,
        Err(_) => Err(SourceError::Timeout),
    }
}

/// Turns a panic in an adapter into a failed request.
async fn catch_panic<T>(
    request: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    AssertUnwindSafe(request).catch_unwind().await.unwrap_or_else(|_| {
        Err(SourceError::Protocol("a fault of the agent: please report the lines above".into()))
    })
}
