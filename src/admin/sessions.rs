//! Who is signed in: listed, and ended.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Caller, Shared, failed};
use crate::{audit::AuditEvent, sessions::Session, sign_in::record::SessionEvent, time::Timestamp};

/// One session, for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Tells it from others; no cookie.
    pub id: String,
    /// The configured name of the issuer.
    pub issuer: String,
    /// The subject at the issuer.
    pub subject: String,
    /// The login name, else the e-mail address, else the subject.
    pub user: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When it was used last.
    pub last_ms: u64,
    /// When it ends whatever happens.
    pub end_ms: u64,
    /// The hosts that have a cookie of it.
    pub hosts: Vec<String>,
}

/// An answer to the administrator.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionViews {
    /// The sessions it is about.
    pub sessions: Vec<SessionView>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which sessions are to end: one by its id, or all of a person.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhichSessions {
    /// The configured name of the issuer; of any unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The id of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// All of a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// All of a user, as the list names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl WhichSessions {
    fn is_one(&self) -> bool {
        let named = [&self.id, &self.subject, &self.user];
        named.into_iter().flatten().count() == 1
    }

    fn names(&self, session: &Session) -> bool {
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
    failed(StatusCode::NOT_FOUND, "the configuration has no [sign_in] table: nobody has a session")
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let Some(sign_in) = &shared.browser else { return no_sign_in() };
    let mut sessions: Vec<_> =
        sign_in.sessions.active(Timestamp::now()).iter().map(|session| view(session)).collect();
    sessions.sort_by_key(|session| session.began_ms);
    Json(SessionViews { sessions, error: None }).into_response()
}

pub(super) async fn end(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Result<Json<WhichSessions>, JsonRejection>,
) -> Response {
    let which = match body {
        Ok(Json(which)) => which,
        Err(error) => return failed(error.status(), error.body_text()),
    };
    if !which.is_one() {
        let error = "expected exactly one of 'id', 'subject' and 'user'";
        return failed(StatusCode::UNPROCESSABLE_ENTITY, error);
    }
    let Some(sign_in) = shared.browser.clone() else { return no_sign_in() };
    let ended = tokio::task::spawn_blocking(move || {
        let alive = sign_in.sessions.active(Timestamp::now());
        let over: Vec<_> = alive.into_iter().filter(|session| which.names(session)).collect();
        let told =
            sign_in.sessions.end_where(|session| over.iter().any(|other| other.is_same(session)));
        for session in &over {
            let identity = session.identity();
            info!(user = identity.label(), uid = caller.uid, "an administrator ends a session");
            let record = SessionEvent {
                time: Timestamp::now(),
                event: AuditEvent::EndSession,
                identity: Some(&identity),
                uid: caller.uid,
                ..SessionEvent::default()
            };
            record.record(&shared.audit_log, &shared.live.load().metrics);
        }
        let views: Vec<_> = over.iter().map(|session| view(session)).collect();
        (views, told.err())
    });
    match ended.await {
        Ok((sessions, None)) => Json(SessionViews { sessions, error: None }).into_response(),
        Ok((_, Some(error))) => {
            let error = format!("ended at this agent, but they may come back: {error}");
            failed(StatusCode::SERVICE_UNAVAILABLE, error)
        }
        Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the agent: see its log"),
    }
}
