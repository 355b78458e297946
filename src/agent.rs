//! The server that HAProxy connects to: listeners, connections, limits, and an orderly end.
//!
//! Each connection is one task. It reads what has arrived, decides what can be decided at once, and
//! writes all responses together. A request that must wait (for keys, a session or a workspace) is
//! moved to a task of its own and comes back when the wait is over, so that it delays no other.
//!
//! [`handler`] decides one request and records it, [`ack`] encodes the response, [`variables`]
//! lists the variables that HAProxy gets. The server decides nothing itself: that is
//! [`crate::gate`].
//!
//! Invariant: every NOTIFY gets exactly one ACK, a refusal if nothing else is possible, and no
//! allow is sent before it is recorded.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{audit::AuditLog, gate::live::Live, tunnels::Tunnels, verdict_cache::VerdictCache};

mod ack;
mod connection;
mod handler;
mod listener;
pub mod record;
mod settings;
pub mod variables;

pub use crate::agent::ack::Batch;
pub use handler::SpoeHandler;
pub use listener::{BindError, Listener, Stream};
pub use settings::{AgentSettings, Listen, ListenError};

/// How long connections may take to write their last responses when the agent ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the system refused a connection (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server, bound to its addresses and not yet serving.
pub struct Server {
    listeners: Vec<Listener>,
    shared: Arc<ServerContext>,
}

/// What all connections share.
struct ServerContext {
    handler: SpoeHandler,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    response_timeout: Duration,
}

impl Server {
    /// Binds all listeners. Allowed tunnels are entered into `tunnels`, and allows that HAProxy may
    /// reuse into `cache`.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn bind(
        config: &AgentSettings,
        live: Arc<Live>,
        audit_log: Arc<AuditLog>,
        tunnels: Option<Arc<Tunnels>>,
        cache: Option<Arc<VerdictCache>>,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.extend(Listener::bind(address, config)?);
        }
        let shared = ServerContext {
            handler: SpoeHandler::new(live, audit_log).tracking(tunnels).reusing(cache),
            connections: Arc::new(Semaphore::new(config.max_connections)),
            pending: Arc::new(Semaphore::new(config.max_pending)),
            response_timeout: config.response_timeout,
        };
        Ok(Self { listeners, shared: Arc::new(shared) })
    }

    /// The addresses of the server, with the ports that the system chose.
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

async fn accept(listener: Listener, shared: Arc<ServerContext>, stop: CancellationToken) {
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
                // A refused connection is closed at once, so that HAProxy tries another agent.
                let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
                    warn!(%listener, "a connection from HAProxy was closed at once: max_connections of [agent] is reached");
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
    // No new connections from here on. Dropping the listener removes the file of a unix socket.
    drop(listener);
    let open = connections.len();
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_ok() {
        info!(connections = open, "all connections are closed");
    } else {
        warn!(
            left = connections.len(),
            "connections were closed at the end before they were finished"
        );
    }
}
