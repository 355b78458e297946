//! The API of configurable-http-proxy, by which a JupyterHub reports its routes.
//!
//! Every request must carry the hub's token, since a client that can write routes decides where
//! requests of all users go. [`Hub`] stores the routes.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{super::http::ApiCredential, Hub, RouteError};

/// The largest body of a route in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The settings of this API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteApiSettings {
    /// The address to listen at: on this machine, or protected from other clients than the hub.
    pub address: SocketAddr,
    /// The token that the hub sends (its `CONFIGPROXY_AUTH_TOKEN`).
    pub token: ApiCredential,
}

/// The API, bound and not yet serving.
pub struct Server {
    listener: std::net::TcpListener,
    hub: Arc<Hub>,
    token: ApiCredential,
}

#[derive(Clone)]
struct ApiState {
    hub: Arc<Hub>,
    token: ApiCredential,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is in use, or does not belong to this machine.
    pub fn bind(listen: &RouteApiSettings, hub: Arc<Hub>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen.address)?;
        // Tokio requires this for a listener that it did not open itself.
        listener.set_nonblocking(true)?;
        if !listen.address.ip().is_loopback() {
            warn!(
                address = %listen.address,
                "the API for the routes of JupyterHub listens without TLS at an address other machines may reach: let only the hub reach it"
            );
        }
        info!(address = %listener.local_addr()?, "listening for the routes of a JupyterHub");
        Ok(Self { listener, hub, token: listen.token.clone() })
    }

    /// Serves until stopped.
    pub async fn serve(self, stop: CancellationToken) {
        let state = ApiState { hub: self.hub, token: self.token };
        let one = get(list).post(add_root).delete(remove_root);
        let router = Router::new()
            .route("/api/routes", one.clone())
            .route("/api/routes/", one)
            .route("/api/routes/{*path}", axum::routing::post(add).delete(remove))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn_with_state(state.clone(), require_token))
            .with_state(state);
        let serving = async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            axum::serve(listener, router)
                .with_graceful_shutdown(async move { stop.cancelled().await })
                .await
        };
        if let Err(error) = serving.await {
            error!(%error, "the API for the routes of JupyterHub stopped: restart the agent");
        }
    }
}

/// Refuses requests without the hub's token.
async fn require_token(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    // Read for each request, so the token can be replaced without a restart.
    let Ok(token) = state.token.read() else {
        warn!(
            "reading the file with the token of JupyterHub failed: requests of the hub are refused"
        );
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let given = request.headers().get(AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
    let given = given.and_then(|value| value.strip_prefix(b"token ")).unwrap_or_default();
    // In constant time, so that the duration does not reveal how much of the token was right.
    let same =
        aws_lc_rs::constant_time::verify_slices_are_equal(given, token.expose_secret().as_bytes());
    if same.is_err() {
        warn!(
            "a request to the API for the routes of JupyterHub is refused: its token is not the hub's"
        );
        return StatusCode::FORBIDDEN.into_response();
    }
    next.run(request).await
}

async fn list(State(state): State<ApiState>) -> Json<Map<String, Value>> {
    Json(state.hub.routes())
}

async fn add(State(state): State<ApiState>, Path(path): Path<String>, body: Bytes) -> Response {
    add_route(&state, &path, &body)
}

async fn add_root(State(state): State<ApiState>, body: Bytes) -> Response {
    add_route(&state, "/", &body)
}

fn add_route(state: &ApiState, path: &str, body: &[u8]) -> Response {
    let Ok(body) = serde_json::from_slice(body) else {
        return refused(StatusCode::BAD_REQUEST, "expected a JSON object");
    };
    match state.hub.add(path, body) {
        Ok(()) => StatusCode::CREATED.into_response(),
        Err(error) => {
            error!(%error, "a route that JupyterHub sent is refused: it is not added");
            let status = match error {
                RouteError::Host(..) | RouteError::Target(_) => StatusCode::BAD_REQUEST,
                RouteError::Full => StatusCode::INSUFFICIENT_STORAGE,
            };
            refused(status, &error.to_string())
        }
    }
}

async fn remove(State(state): State<ApiState>, Path(path): Path<String>) -> StatusCode {
    if state.hub.remove(&path) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn remove_root(State(state): State<ApiState>) -> StatusCode {
    if state.hub.remove("/") { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

fn refused(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}
