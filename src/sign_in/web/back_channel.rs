//! Back-channel logout: a provider says that sessions ended there (OIDC Back-Channel Logout section 2.5).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Form, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use tracing::{info, warn};

use super::{Parameters, WebState, blocking, page};
use crate::{
    audit::AuditEvent, sessions::replay::Taken, sign_in::record::SessionEvent, time::Timestamp,
};

/// How long the id of a logout token is remembered; longer than a token is valid.
const REMEMBER_TIME: Duration = Duration::from_mins(10);

/// Ends the sessions that a logout token names.
pub(super) async fn back_channel(
    State(web): WebState,
    Path(issuer): Path<String>,
    headers: HeaderMap,
    Form(form): Form<Parameters>,
) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    let client = web.client(&issuer);
    let (Some(client), Some(token)) = (client, form.get("logout_token")) else {
        return refuse("expected a logout_token of a known issuer");
    };
    let ended = match client.logout(token).await {
        Ok(ended) => ended,
        Err(error) => {
            warn!(issuer, %error, "a back-channel logout is refused: its logout token is not valid");
            return refuse(&error.to_string());
        }
    };
    let now = Timestamp::now();
    let once = format!("{} {}", ended.issuer, ended.id);
    match web.replay.take(&once, now.plus(REMEMBER_TIME), now).await {
        Taken::First => {}
        Taken::Repeated => return refuse("the token was used before"),
        Taken::Full => return refuse("too many tokens at the moment: try again"),
        Taken::StoreUnreachable => return refuse("the session store does not answer: try again"),
    }
    let sessions = Arc::clone(web.sessions());
    let end = move || sessions.end_where(|session| ended.names(&session.identity()));
    let Some(Ok(count)) = blocking(end).await else {
        // The token must be valid again, since the provider repeats it.
        web.replay.give_back(&once).await;
        return refuse("the sessions ended but may come back");
    };
    // That no session is known is a success too, with the same response (section 2.7): the provider has no reason to
    // repeat it, and learns nothing. The operator should know, in case there should have been one.
    let event = if count == 0 {
        warn!(issuer, "a back-channel logout names no session of this agent: nothing was ended");
        AuditEvent::BackChannelLogoutUnmatched
    } else {
        info!(issuer, sessions = count, "sessions ended at their provider");
        AuditEvent::BackChannelLogout
    };
    let sessions = Some(count);
    web.record_event(&SessionEvent { time: now, event, sessions, ..SessionEvent::default() });
    protected(StatusCode::OK, String::new())
}

/// The error response of section 2.8.
fn refuse(error: &str) -> Response {
    let body = serde_json::json!({ "error": "invalid_request", "error_description": error });
    protected(StatusCode::BAD_REQUEST, body.to_string())
}

fn protected(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    page::protect(response.headers_mut());
    response
}
