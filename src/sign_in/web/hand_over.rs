//! The hand-over: how a workspace's host gets its session cookie (docs/decisions/0014-hand-over.md).
//!
//! Code of the workspace runs at that host, so neither its pages nor its service worker may see the ticket. A page of
//! the login host delivers the ticket to [`finish`] in a request of its own, whose response sets the cookie; then the
//! browser goes on to [`arrived`], which leads to the workspace.
//!
//! Invariants: a ticket is used up by its first request, wherever that comes from; it sets a cookie only in the browser
//! that has the secret of the same sign-in; and a browser that did not get the cookie stops at [`arrived`], so that
//! it cannot go round in circles.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, COOKIE, ORIGIN,
            SET_COOKIE, VARY,
        },
    },
    response::{AppendHeaders, IntoResponse, Response},
};
use tracing::{error, warn};

use super::{
    Parameters, Web, WebState, blocking, cookie, expired_cookie, host, see_other, session_cookie,
};
use crate::{
    audit::AuditEvent,
    identity::Identity,
    sessions::{
        COOKIE as SESSION_COOKIE,
        flow::{self, PATHS, Start, Ticket},
        replay::Taken,
        store::StoreError,
    },
    sign_in::page::{self, HandOver, Outage},
    time::Timestamp,
    workspaces::host::Host,
};

impl Web {
    /// The page that delivers a ticket to the workspace's host. `login` is the login host's cookie of the session.
    pub(super) fn hand_over(
        &self,
        start: &Start,
        login: &str,
        identity: &Identity,
        now: Timestamp,
    ) -> Response {
        let (urls, host) = (self.urls(), &*start.host);
        let ticket = match start.ticket(self.keyring(), login, identity, now) {
            Ok(ticket) => ticket,
            Err(error) => return self.internal(&error),
        };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("to", &start.path);
        let page = self.pages().hand_over(&HandOver {
            host,
            origin: &urls.origin(host),
            ticket: &format!("{}?t={ticket}", urls.page_at(host, "finish")),
            next: &format!("{}?{}", urls.page_at(host, "arrived"), query.finish()),
        });
        page.unwrap_or_else(|| self.internal(&"an address is not the value of a header"))
    }

    /// The Set-Cookie headers for a ticket; none if it is not valid in this browser.
    async fn redeem(
        &self,
        host: &Host,
        ticket: &Ticket,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Vec<String> {
        // HAProxy joins several Cookie headers into one.
        let cookies = headers.get(COOKIE).map_or(&b""[..], |header| header.as_bytes());
        let mut secrets = flow::secrets(cookies);
        let Some((name, _)) = secrets.find(|(_, secret)| ticket.belongs_to(secret)) else {
            return Vec::new();
        };
        let login = &self.urls().login;
        let Some(session) = self.find(&ticket.session, login, now).await else {
            return Vec::new();
        };
        let here = match cookie(headers, SESSION_COOKIE) {
            Some(id) => self.find(&id, host.as_str(), now).await,
            None => None,
        };
        if here.is_some_and(|here| here.is_same(&session)) {
            // Requests of another tab that are under way have this cookie, so it must stay valid.
            return vec![expired_cookie(name)];
        }
        if !self.record(AuditEvent::SessionHost, &session.identity.load(), Some(host.as_str())) {
            return Vec::new();
        }
        let made = {
            let (sessions, host) = (Arc::clone(self.sessions()), host.clone());
            blocking(move || sessions.add_cookie(&session, host.as_str(), now)).await
        };
        match made {
            Some(Ok(id)) => vec![session_cookie(SESSION_COOKIE, &id), expired_cookie(name)],
            Some(Err(error)) => {
                error!(%error, "storing a session failed: the sign-in is refused");
                Vec::new()
            }
            None => Vec::new(),
        }
    }
}

/// A ticket arrives at a workspace's host. The login host's page gets the same response whether the ticket was valid or
/// not.
pub(super) async fn finish(
    State(web): WebState,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let now = Timestamp::now();
    let ticket = match (host(&headers), query.get("t")) {
        (Some(host), Some(text)) => {
            let ticket = Ticket::open(web.keyring(), host.as_str(), text, now);
            ticket.map(|ticket| (host, ticket))
        }
        _ => None,
    };
    let ticket = match ticket {
        Some((host, ticket)) if ticket.take(&web.replay, now).await == Taken::First => {
            Some((host, ticket))
        }
        _ => None,
    };
    let login = web.urls().origin(&web.urls().login);
    if headers.get(ORIGIN).is_none_or(|origin| *origin != *login) {
        // A person opened the address as a page. The redirect takes the ticket out of the address bar.
        return see_other(&format!("{PATHS}late"), []);
    }
    let cookies = match &ticket {
        Some((host, ticket)) => web.redeem(host, ticket, &headers, now).await,
        None => Vec::new(),
    };
    if cookies.is_empty() && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
    {
        warn!(
            login = &*web.urls().login,
            "a sign-in cannot be finished: the login host and the workspaces are on different sites, so the browser sends no cookies; choose a host of [sign_in] below the workspaces' registrable domain"
        );
    }
    delivered(&login, cookies)
}

/// The response to a ticket, which the login host's page may load.
fn delivered(login: &str, cookies: Vec<String>) -> Response {
    let cookies = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)).collect::<Vec<_>>();
    let mut response = (StatusCode::NO_CONTENT, AppendHeaders(cookies)).into_response();
    let headers = response.headers_mut();
    page::protect(headers);
    if let Ok(login) = HeaderValue::from_str(login) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, login);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// The browser goes on after a ticket was delivered. Without a session it gets a page that says why, and no redirect.
pub(super) async fn arrived(
    State(web): WebState,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let Some(host) = host(&headers) else { return web.pages().nothing() };
    let path = query.get("to").filter(|path| flow::is_path(path)).map_or("/", String::as_str);
    let address = format!("{}{path}", web.urls().origin(host.as_str()));
    let here = match cookie(&headers, SESSION_COOKIE) {
        Some(id) => web.find(&id, host.as_str(), Timestamp::now()).await,
        None => None,
    };
    if here.is_some() {
        return see_other(&address, []);
    }
    // Without the store no ticket can be used, however early the browser comes.
    if !web.is_store_reachable().await {
        return web.unavailable(Outage::SessionStore, &StoreError::Timeout, &address);
    }
    web.pages().late(&address)
}

/// The page of a browser that opened the address of a ticket.
pub(super) async fn late(State(web): WebState) -> Response {
    web.pages().late("/")
}
