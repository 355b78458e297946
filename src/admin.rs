//! The admin API: HTTP on a unix socket, for the commands of this program and for scripts.
//!
//! It lists and ends sessions and tunnels, revokes access, shows workspaces and their sources, takes workspaces of sources of
//! kind `api`, and serves the status, metrics and health checks. Each path has a module here.
//!
//! Write permission on the socket is the only credential: a process that may connect is the administrator. So the mode of the
//! socket is 0600 by default. Every change is recorded in the audit log with the user id of the process that made it.

use std::{io, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, connect_info::Connected},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use serde_json::json;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    audit::AuditLog,
    gate::live::Live,
    identity::revocation::Revocations,
    sessions::BrowserSessions,
    tunnels::Tunnels,
    unix_socket::{SocketFile, SocketOwner, bind_unix},
    verdict_cache::VerdictCache,
};
use std::path::PathBuf;

pub mod metrics;
mod parts;
mod revocations;
mod sessions;
pub mod status;
mod tunnels;
mod workspaces;

#[cfg(test)]
mod tests;

pub use revocations::RevocationViews;
pub use sessions::{SessionSelection, SessionView, SessionViews};
pub use workspaces::{EndpointView, SourceView, SourceViews, WorkspaceView, WorkspaceViews};

/// The settings of the admin API, from `[admin]`.
#[derive(Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// The path of the unix socket.
    pub socket: PathBuf,
    /// The mode of the socket. Users who may write to it are administrators.
    pub socket_mode: u32,
    /// The owner of the socket.
    pub socket_owner: SocketOwner,
    /// The file in which revocations are stored.
    pub revocations: PathBuf,
}

/// The path of revocations.
pub const REVOCATIONS: &str = "/v1/revocations";
/// The path of browser sessions.
pub const SESSIONS: &str = "/v1/sessions";
/// The path of workspaces.
pub const WORKSPACES: &str = "/v1/workspaces";
/// The path of the sources of workspaces.
pub const SOURCES: &str = "/v1/sources";
/// The path of the status of the agent.
pub const STATUS: &str = "/v1/status";
/// The path of live tunnels.
pub const TUNNELS: &str = "/v1/tunnels";
/// The longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The admin API, bound to its socket and not yet serving.
pub struct AdminServer {
    listener: UnixListener,
    _file: SocketFile,
    state: Arc<AdminState>,
}

/// The parts of the agent that the API shows and changes.
pub struct AdminState {
    /// The gate that decides, with its sources and metrics.
    pub live: Arc<Live>,
    /// The revocations.
    pub revocations: Arc<Revocations>,
    /// The audit log, which records every change.
    pub audit_log: Arc<AuditLog>,
    /// The browser sessions, if people sign in with a browser.
    pub browser: Option<Arc<BrowserSessions>>,
    /// The live tunnels, if they are tracked.
    pub tunnels: Option<Arc<Tunnels>>,
    /// The verdict cache, if HAProxy may reuse decisions.
    pub verdict_cache: Option<Arc<VerdictCache>>,
}

/// The process at the other end of the socket.
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Option<u32>,
}

impl AdminServer {
    /// Binds the socket. Must be called within the Tokio runtime.
    ///
    /// # Errors
    /// Another process answers at the path, or the agent may not create or change it.
    pub fn bind(config: &AdminSettings, state: Arc<AdminState>) -> io::Result<Self> {
        let path: &Path = &config.socket;
        let (listener, file) = bind_unix(path, config.socket_owner, config.socket_mode)?;
        Ok(Self { listener, _file: file, state })
    }

    /// Serves requests until `stop`.
    pub async fn serve(self, stop: CancellationToken) {
        let router = router(self.state).into_make_service_with_connect_info::<Caller>();
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = serving.await {
            error!(%error, "the admin API stopped: restart the agent");
        }
    }
}

/// All paths of the API.
fn router(state: Arc<AdminState>) -> Router {
    let revocations = get(revocations::list).post(revocations::revoke).delete(revocations::lift);
    let one = get(workspaces::show_held).put(workspaces::put).delete(workspaces::delete);
    Router::new()
        .route(REVOCATIONS, revocations)
        .route(SESSIONS, get(sessions::list).delete(sessions::end))
        .route(WORKSPACES, get(workspaces::list))
        .route("/v1/workspaces/{id}", get(workspaces::show))
        .route(SOURCES, get(workspaces::sources))
        .route("/v1/sources/{source}/workspaces", get(workspaces::held))
        .route("/v1/sources/{source}/workspaces/{id}", one)
        .route(TUNNELS, get(tunnels::list).delete(tunnels::terminate))
        .route(STATUS, get(status::show))
        .merge(metrics::routes())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

/// A reply that says why a request failed.
fn failed(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(json!({ "error": error.into() }))).into_response()
}
