//! Browser sessions: lists them, and ends those that an administrator selects.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{AdminState, Caller, failed};
use crate::{audit::AuditEvent, sessions::Session, sign_in::record::SessionEvent, time::Timestamp};

/// One session, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The id of the session in this list. It is not the cookie, and grants nothing.
    pub id: String,
    /// The configured name of the issuer.
    pub issuer: String,
    /// The subject at the issuer.
    pub subject: String,
    /// The name of the user: the login name, or else the e-mail address, or else the subject.
    pub user: String,
    /// When the person signed in, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When the session was last used.
    pub last_ms: u64,
    /// When the session ends at the latest.
    pub end_ms: u64,
    /// The hosts that have a cookie of the session.
    pub hosts: Vec<String>,
}

/// Sessions, or an error.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionViews {
    /// All sessions, or those that were ended.
    pub sessions: Vec<SessionView>,
    /// Why the request failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which sessions to end: one by its id, or all of a person.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSelection {
    /// The configured name of the issuer. By default sessions of any issuer match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The id of one session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The subject whose sessions end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The user whose sessions end, by the name in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl SessionSelection {
    fn names_one(&self) -> bool {
        let named = [&self.id, &self.subject, &self.user];
        named.into_iter().flatten().count() == 1
    }

    fn matches(&self, session: &Session) -> bool {
        let identity = session.identity();
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        is(&self.issuer, &identity.authority.name)
            && is(&self.id, &session.id())
            && is(&self.subject, &identity.subject)
            && is(&self.user, identity.label())
    }
}

fn view(session: &Session) -> SessionView {
    let identity = session.identity();
    SessionView {
        id: session.id(),
        issuer: identity.authority.name.to_string(),
        subject: identity.subject.to_string(),
        user: identity.label().to_owned(),
        began_ms: session.began().as_millis(),
        last_ms: session.last_used().as_millis(),
        end_ms: session.end().as_millis(),
        hosts: session.host_names(),
    }
}

fn no_sign_in() -> Response {
    failed(
        StatusCode::NOT_FOUND,
        "the configuration has no [sign_in] table, so there are no sessions",
    )
}

pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Response {
    let Some(sign_in) = &state.browser else { return no_sign_in() };
    let mut sessions: Vec<_> =
        sign_in.sessions.active(Timestamp::now()).iter().map(|session| view(session)).collect();
    sessions.sort_by_key(|session| session.began_ms);
    Json(SessionViews { sessions, error: None }).into_response()
}

pub(super) async fn end(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Result<Json<SessionSelection>, JsonRejection>,
) -> Response {
    let which = match body {
        Ok(Json(which)) => which,
        Err(error) => return failed(error.status(), error.body_text()),
    };
    if !which.names_one() {
        let error = "expected exactly one of 'id', 'subject' and 'user'";
        return failed(StatusCode::UNPROCESSABLE_ENTITY, error);
    }
    let Some(sign_in) = state.browser.clone() else { return no_sign_in() };
    let ended = tokio::task::spawn_blocking(move || {
        let alive = sign_in.sessions.active(Timestamp::now());
        let over: Vec<_> = alive.into_iter().filter(|session| which.matches(session)).collect();
        let stored =
            sign_in.sessions.end_where(|session| over.iter().any(|other| other.is_same(session)));
        for session in &over {
            let identity = session.identity();
            info!(user = identity.label(), uid = caller.uid, "an administrator ends a session");
            let event = SessionEvent {
                time: Timestamp::now(),
                event: AuditEvent::EndSession,
                identity: Some(&identity),
                uid: caller.uid,
                ..SessionEvent::default()
            };
            event.record(&state.audit_log, &state.live.load().metrics);
        }
        let views: Vec<_> = over.iter().map(|session| view(session)).collect();
        (views, stored.err())
    });
    match ended.await {
        Ok((sessions, None)) => Json(SessionViews { sessions, error: None }).into_response(),
        Ok((_, Some(error))) => {
            let error =
                format!("ended at this agent, but the session store still has them: {error}");
            failed(StatusCode::SERVICE_UNAVAILABLE, error)
        }
        Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "the agent failed: see its log"),
    }
}
