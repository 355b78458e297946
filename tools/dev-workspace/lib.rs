//! A tiny workspace: answers with what reached it, so that a test or a person can see. Keeps every
//! request for assertions. FOR TESTS AND THE DEMO ONLY.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    missing_docs,
    clippy::format_push_string,
    reason = "test support: a broken stage must stop the test"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{
        Request, State,
        ws::{WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A running workspace; stops when dropped.
pub struct DevWorkspace {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    name: String,
    seen: Mutex<Vec<Seen>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

impl DevWorkspace {
    /// Starts on a free port of loopback.
    pub async fn start(name: &str) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), name).await.unwrap()
    }

    pub async fn start_at(address: SocketAddr, name: &str) -> std::io::Result<Self> {
        assert!(address.ip().is_loopback(), "a development workspace serves loopback only");
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { name: name.into(), seen: Mutex::default() });
        let router = Router::new()
            .route("/ws", get(websocket))
            .route("/set-cookies", get(set_cookies))
            .route("/endless", any(endless))
            .route("/echoed", any(echoed))
            .route("/cors", any(cors))
            .fallback(any(tell))
            .with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                served = axum::serve(listener, router) => served.unwrap(),
            }
        });
        Ok(Self { address, shared, stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for DevWorkspace {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn keep(&self, request: &Request) {
        self.seen.lock().unwrap().push(Seen {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        });
    }
}

async fn tell(State(shared): State<Arc<Shared>>, request: Request) -> String {
    shared.keep(&request);
    let mut text = format!("workspace {}\n{} {}\n", shared.name, request.method(), request.uri());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", value.as_bytes().escape_ascii());
    }
    text
}

/// Answers with a Set-Cookie header for each line of the header `x-cookies`, separated by `|`.
async fn set_cookies(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.keep(&request);
    let mut response = "cookies\n".into_response();
    let wanted = request.headers().get("x-cookies").map_or(&b""[..], HeaderValue::as_bytes);
    for cookie in wanted.split(|b| *b == b'|') {
        let value = HeaderValue::from_bytes(cookie).unwrap();
        response.headers_mut().append(HeaderName::from_static("set-cookie"), value);
    }
    response
}

/// Server-sent events without an end.
async fn endless(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.keep(&request);
    let events = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, Infallible>("data: hi\n\n"), ()))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

/// Answers CORS by itself, for every origin, and in two lines where one is right.
async fn cors(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.keep(&request);
    let headers = axum::response::AppendHeaders([
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://app.test"),
        ("access-control-allow-headers", "x-app"),
        ("vary", "Accept"),
    ]);
    (headers, "own answer\n").into_response()
}

/// Answers with the body, while it comes.
async fn echoed(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.keep(&request);
    Body::from_stream(request.into_body().into_data_stream()).into_response()
}

async fn websocket(
    State(shared): State<Arc<Shared>>,
    upgrade: WebSocketUpgrade,
    request: Request,
) -> Response {
    shared.keep(&request);
    upgrade.on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}
