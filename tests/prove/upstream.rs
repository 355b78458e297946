//! Workspaces: servers that say which of them was reached, and as whom. Keeps nothing.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{
        State,
        ws::{WebSocket, WebSocketUpgrade},
    },
    http::HeaderMap,
    response::Response,
    routing::{any, get},
};
use tokio::net::TcpListener;

/// Starts so many; the place of each by number. They serve as long as the program runs.
pub async fn start(count: usize) -> Vec<SocketAddr> {
    let mut places = Vec::new();
    for slot in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        places.push(listener.local_addr().unwrap());
        serve(listener, slot);
    }
    places
}

/// Serves one, as long as the program runs.
pub fn serve(listener: TcpListener, slot: usize) {
    let router = Router::new().route("/ws", get(upgrade)).fallback(any(tell)).with_state(slot);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}

async fn tell(State(slot): State<usize>, headers: HeaderMap) -> String {
    let told = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (workspace, subject) = (told("x-identity-workspace"), told("x-identity-subject"));
    format!("slot {slot}\nworkspace {workspace}\nsubject {subject}\n")
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}
