//! Revocations: lists, adds and lifts them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::{AdminState, Caller, failed, parts};
use crate::{
    audit::{AuditEvent, AuditRecord, JsonObject},
    identity::revocation::{Revocation, Revocations, RevokeError},
    time::Timestamp,
};

/// Revocations, or an error.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevocationViews {
    /// All revocations, or those that were changed.
    pub revocations: Vec<Revocation>,
    /// Why the request failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

type Body = Result<Json<Revocation>, JsonRejection>;

pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Response {
    let all = state.revocations.list().into_iter();
    let named = move |one: Arc<Revocation>| state.revocations.named(Revocation::clone(&one));
    parts::list("revocations", all.map(named))
}

pub(super) async fn revoke(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body,
) -> Response {
    change(state, caller, body, AuditEvent::Revoke, |revocations, revocation| {
        revocations.revoke(revocation, Timestamp::now()).map(Some)
    })
    .await
}

pub(super) async fn lift(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body,
) -> Response {
    change(state, caller, body, AuditEvent::Lift, |revocations, revocation| {
        revocations.lift(revocation.clone(), Timestamp::now()).map(|was| was.then_some(revocation))
    })
    .await
}

async fn change(
    state: Arc<AdminState>,
    caller: Caller,
    body: Body,
    event: AuditEvent,
    change: impl FnOnce(&Revocations, Revocation) -> Result<Option<Revocation>, RevokeError>
    + Send
    + 'static,
) -> Response {
    let revocation = match body {
        Ok(Json(revocation)) => revocation,
        Err(error) => return failed(error.status(), error.body_text()),
    };
    // The file of revocations is synced to disk, which must not block a thread of the runtime.
    let changed = tokio::task::spawn_blocking(move || {
        let changed = change(&state.revocations, revocation);
        let named = changed.as_ref().ok().and_then(Option::as_ref);
        let named = named.map(|revocation| state.revocations.named(revocation.clone()));
        if let (Ok(Some(changed)), Some(revocation)) = (&changed, &named) {
            info!(
                event = event.id(),
                uid = caller.uid,
                issuer = &*revocation.issuer,
                "an administrator changed a revocation"
            );
            let record =
                RevocationEvent { time: Timestamp::now(), event, uid: caller.uid, revocation };
            state.audit_log.record_event(event, &revocation.issuer, &record);
            if event == AuditEvent::Revoke
                && let Err(error) = state.revocations.share_revoked(changed, Timestamp::now())
            {
                error!(
                    error,
                    "telling other agents of a revocation failed: it is in force here, and telling them is retried"
                );
                return Err(RevokeError::Others(error));
            }
        }
        changed.map(|_| named)
    });
    match changed.await {
        Ok(Ok(Some(revocation))) => {
            Json(RevocationViews { revocations: vec![revocation], error: None }).into_response()
        }
        Ok(Ok(None)) => failed(StatusCode::NOT_FOUND, "there is no such revocation"),
        Ok(Err(error @ (RevokeError::Full | RevokeError::Journal(_)))) => {
            failed(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
        }
        Ok(Err(error @ (RevokeError::Others(_) | RevokeError::Stays(_)))) => {
            failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        Ok(Err(error)) => failed(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "the agent failed: see its log"),
    }
}

/// The audit record of a revocation that an administrator added or lifted.
pub(super) struct RevocationEvent<'a> {
    /// The time of the change.
    pub time: Timestamp,
    /// `revoke` or `lift`.
    pub event: AuditEvent,
    /// The user id of the process at the other end of the socket.
    pub uid: Option<u32>,
    /// The revocation.
    pub revocation: &'a Revocation,
}

impl AuditRecord for RevocationEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.display("uid", self.uid);
        line.text("issuer", &self.revocation.issuer);
        line.optional("subject", self.revocation.subject.as_deref());
        line.display("before_ms", self.revocation.before_ms);
        line.optional("session", self.revocation.session.as_deref());
        line.optional("token_id", self.revocation.token.as_deref());
        line.optional("note", self.revocation.note.as_deref());
        line.end();
    }
}
