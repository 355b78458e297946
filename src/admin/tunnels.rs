//! Live tunnels: lists them, and terminates those that an administrator selects.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tracing::info;

use super::{AdminState, Caller, failed};
use crate::{
    time::Timestamp,
    tunnels::{
        Tunnels,
        view::{TunnelList, TunnelSelection},
    },
};

const UNTRACKED: &str =
    "tunnels are not tracked: give the configuration a table [haproxy] with 'sockets'";

pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Response {
    with(&state, |tunnels| {
        Json(tunnels.views(&TunnelSelection::default(), Timestamp::now())).into_response()
    })
}

pub(super) async fn terminate(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Result<Json<TunnelSelection>, JsonRejection>,
) -> Response {
    let selection = match body {
        Ok(Json(selection)) => selection,
        Err(error) => return failed(error.status(), error.body_text()),
    };
    if selection.is_empty() {
        let error = "expected 'user', 'workspace' or 'id'";
        return failed(StatusCode::UNPROCESSABLE_ENTITY, error);
    }
    with(&state, |tunnels| {
        // The audit log has each with the user id once it is terminated.
        let count = tunnels.terminate(caller.uid, |tunnel| selection.covers(tunnel));
        info!(uid = caller.uid, count, "an administrator terminates tunnels");
        Json(TunnelList { terminating: Some(count), ..TunnelList::default() }).into_response()
    })
}

fn with(state: &AdminState, answer: impl FnOnce(&Tunnels) -> Response) -> Response {
    match &state.tunnels {
        Some(tunnels) => answer(tunnels),
        None => failed(StatusCode::NOT_FOUND, UNTRACKED),
    }
}
