//! The administrator's API: HTTP on a unix socket.
//!
//! Whoever can write to the socket is the administrator; there is no other credential, so the socket's
//! mode is 0600 unless the operator says otherwise. What is done here is on record with the user id of
//! who did it.

use std::{io, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, State, connect_info::Connected, rejection::JsonRejection,
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    agent::{SocketFile, bind_unix},
    audit::{AdminAct, Trail},
    clock::Timestamp,
    config,
    identity::revocation::{Revocation, Revocations, RevokeError},
};

/// Where revocations are.
pub const REVOCATIONS: &str = "/v1/revocations";
/// The longest request body, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// The API, bound and not yet serving.
pub struct Admin {
    listener: UnixListener,
    _file: SocketFile,
    shared: Arc<Shared>,
}

struct Shared {
    revocations: Arc<Revocations>,
    trail: Arc<Trail>,
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Option<u32>,
}

/// An answer to the administrator.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The revocations it is about.
    pub revocations: Vec<Revocation>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Admin {
    /// Binds the socket. Must be called within the runtime.
    ///
    /// # Errors
    /// The path is taken, or not permitted.
    pub fn bind(
        config: &config::Admin,
        revocations: Arc<Revocations>,
        trail: Arc<Trail>,
    ) -> io::Result<Self> {
        let path: &Path = &config.socket;
        let (listener, file) = bind_unix(path, config.socket_owner, config.socket_mode)?;
        Ok(Self { listener, _file: file, shared: Arc::new(Shared { revocations, trail }) })
    }

    /// Serves until stopped.
    pub async fn serve(self, stop: CancellationToken) {
        let router = Router::new()
            .route(REVOCATIONS, get(list).post(revoke).delete(lift))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self.shared)
            .into_make_service_with_connect_info::<Caller>();
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = serving.await {
            error!(%error, "the administrator's API ended");
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

type Body = Result<Json<Revocation>, JsonRejection>;

async fn list(State(shared): State<Arc<Shared>>) -> Json<Answer> {
    Json(Answer { revocations: shared.revocations.list(), error: None })
}

async fn revoke(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body,
) -> Response {
    change(shared, caller, body, "revoke", |revocations, revocation| {
        revocations.revoke(revocation, Timestamp::now()).map(Some)
    })
    .await
}

async fn lift(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body,
) -> Response {
    change(shared, caller, body, "lift", |revocations, revocation| {
        revocations.lift(revocation.clone()).map(|was| was.then_some(revocation))
    })
    .await
}

async fn change(
    shared: Arc<Shared>,
    caller: Caller,
    body: Body,
    act: &'static str,
    change: impl FnOnce(&Revocations, Revocation) -> Result<Option<Revocation>, RevokeError>
    + Send
    + 'static,
) -> Response {
    let revocation = match body {
        Ok(Json(revocation)) => revocation,
        Err(error) => return failed(error.status(), error.body_text()),
    };
    // The journal is synced to disk, which is not to be waited for here.
    let changed = tokio::task::spawn_blocking(move || {
        let changed = change(&shared.revocations, revocation);
        if let Ok(Some(revocation)) = &changed {
            info!(act, uid = caller.uid, issuer = &*revocation.issuer, "an administrator's act");
            let record = AdminAct { time: Timestamp::now(), act, uid: caller.uid, revocation };
            if shared.trail.keep(&record).is_err() {
                error!(act, "done, but the audit trail has no room for the record of it");
            }
        }
        changed
    });
    match changed.await {
        Ok(Ok(Some(revocation))) => {
            Json(Answer { revocations: vec![revocation], error: None }).into_response()
        }
        Ok(Ok(None)) => failed(StatusCode::NOT_FOUND, "nothing of the kind is revoked"),
        Ok(Err(error @ (RevokeError::Full | RevokeError::Journal(_)))) => {
            failed(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
        }
        Ok(Err(error)) => failed(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the agent: see its log"),
    }
}

fn failed(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(Answer { revocations: vec![], error: Some(error.into()) })).into_response()
}
