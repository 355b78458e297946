//! The administrator's API: HTTP on a unix socket.
//!
//! Whoever can write to the socket is the administrator; there is no other credential, so the socket's
//! mode is 0600 unless the operator says otherwise. What is done here is on record with the user id of
//! who did it.

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
    verdict_cache::Edge,
};
use std::path::PathBuf;

pub mod metrics;
mod parts;
mod revocations;
mod sessions;
mod tunnels;
mod workspaces;

#[cfg(test)]
mod tests;

pub use revocations::Answer;
pub use sessions::{SessionView, SessionViews, WhichSessions};
pub use workspaces::{EndpointView, SourceView, Sources, View, Views};

/// How administrators reach the agent.
#[derive(Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// The unix socket.
    pub socket: PathBuf,
    /// Its mode: who may write to it acts as administrator.
    pub socket_mode: u32,
    /// Who owns it.
    pub socket_owner: SocketOwner,
    /// The file of revocations.
    pub revocations: PathBuf,
}

/// Where revocations are.
pub const REVOCATIONS: &str = "/v1/revocations";
/// Where sessions are.
pub const SESSIONS: &str = "/v1/sessions";
/// Where workspaces are.
pub const WORKSPACES: &str = "/v1/workspaces";
/// Where the sources of workspaces are.
pub const SOURCES: &str = "/v1/sources";
/// Where live tunnels are.
pub const TUNNELS: &str = "/v1/tunnels";
/// The longest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The API, bound and not yet serving.
pub struct Admin {
    listener: UnixListener,
    _file: SocketFile,
    shared: Arc<Shared>,
}

/// What the API is about.
pub struct Subject {
    /// What decides, with what it counts.
    pub live: Arc<Live>,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
    /// Where what is done is recorded.
    pub audit_log: Arc<AuditLog>,
    /// Who is signed in, where people sign in.
    pub browser: Option<Arc<BrowserSessions>>,
    /// Live tunnels, where they are tracked.
    pub tunnels: Option<Arc<Tunnels>>,
    /// What HAProxy may reuse, where it may.
    pub edge: Option<Arc<Edge>>,
}

type Shared = Subject;

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Option<u32>,
}

impl Admin {
    /// Binds the socket. Must be called within the runtime.
    ///
    /// # Errors
    /// The path is taken, or not permitted.
    pub fn bind(config: &AdminSettings, subject: Arc<Subject>) -> io::Result<Self> {
        let path: &Path = &config.socket;
        let (listener, file) = bind_unix(path, config.socket_owner, config.socket_mode)?;
        Ok(Self { listener, _file: file, shared: subject })
    }

    /// Serves until stopped.
    pub async fn serve(self, stop: CancellationToken) {
        let router = router(self.shared).into_make_service_with_connect_info::<Caller>();
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = serving.await {
            error!(%error, "the admin API stopped: restart the agent");
        }
    }
}

/// Every path.
fn router(shared: Arc<Shared>) -> Router {
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
        .merge(metrics::routes())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

fn failed(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(json!({ "error": error.into() }))).into_response()
}
