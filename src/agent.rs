//! The server that HAProxy asks: listeners, connections, limits, drain.
//!
//! Each connection is one task with one writer: it reads what is there, decides what can be decided
//! at once, and writes all answers in one piece. Decisions that wait for keys leave that loop and
//! come back to it. Every NOTIFY is answered, with a refusal where nothing better is to be had.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{audit::AuditLog, gate::live::Live, tunnels::Tunnels, verdict_cache::Edge};

mod answer;
mod connection;
mod listener;
pub mod record;
mod reply;
mod settings;
pub mod variables;

pub use crate::agent::reply::Batch;
pub use answer::SpoeHandler;
pub use listener::{BindError, Listener, Stream};
pub use settings::{AgentSettings, Listen, ListenError};

/// How long connections may take to write their last answers when the agent ends.
const DRAIN: Duration = Duration::from_secs(5);
/// A pause when the system gives no more connections (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server, bound and not yet serving.
pub struct Server {
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
}

/// What all connections have in common.
struct Shared {
    handler: SpoeHandler,
    connections: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    answer_within: Duration,
}

impl Server {
    /// Binds all listeners. What is allowed to last is entered into `tunnels`, and what
    /// HAProxy may reuse into `edge`.
    ///
    /// # Errors
    /// The first that cannot be bound.
    pub fn bind(
        config: &AgentSettings,
        live: Arc<Live>,
        audit_log: Arc<AuditLog>,
        tunnels: Option<Arc<Tunnels>>,
        edge: Option<Arc<Edge>>,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.extend(Listener::bind(address, config)?);
        }
        let shared = Shared {
            handler: SpoeHandler::new(live, audit_log).tracking(tunnels).reusing(edge),
            connections: Arc::new(Semaphore::new(config.connections)),
            waiting: Arc::new(Semaphore::new(config.waiting)),
            answer_within: config.answer_within,
        };
        Ok(Self { listeners, shared: Arc::new(shared) })
    }

    /// Where the server listens, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(ToString::to_string).collect()
    }

    /// Serves until stopped, then lets the connections finish.
    pub async fn serve(self, stop: CancellationToken) {
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
            accepting.spawn(accept(listener, shared, stop));
        }
        while accepting.join_next().await.is_some() {}
    }
}

async fn accept(listener: Listener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            // Ended connections are collected as they end, so that the set stays small.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok(stream) => {
                let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
                    warn!(%listener, "a connection from HAProxy was closed at once: the limit of connections in [agent] is reached");
                    continue;
                };
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                connections.spawn(async move {
                    let _counted = shared.handler.metrics().connections.hold();
                    connection::serve(stream, &shared, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%listener, %error, "accepting a connection failed: it is tried again after a pause");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // No new connections from here on; the socket file goes too.
    drop(listener);
    let open = connections.len();
    let drained =
        tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_ok() {
        info!(connections = open, "all connections are closed");
    } else {
        warn!(
            left = connections.len(),
            "connections were closed at the end before they were finished"
        );
    }
}
