//! How a workspace's host gets its session's cookie: docs/decisions/0014-hand-over.md.
//!
//! Code of the workspace runs at that host, so neither its pages nor its service worker may see the ticket. A page
//! of the login host delivers it, in a request of its own; then the browser goes on to [`arrived`].

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
use tracing::warn;

use super::{Parameters, Shared, Web, blocking, cookie, expired, host, see_other, session_cookie};
use crate::{
    audit::AuditEvent,
    identity::Identity,
    sessions::{
        COOKIE as SESSION,
        flow::{self, PATHS, Start, Ticket},
    },
    sign_in::page::{self, HandOver},
    time::Timestamp,
    workspaces::host::Host,
};

impl Web {
    /// Gives the workspace's host a session's cookie, whose cookie at the login host is `login`.
    pub(super) fn hand_over(
        &self,
        start: &Start,
        login: &str,
        identity: &Identity,
        now: Timestamp,
    ) -> Response {
        let (places, host) = (self.places(), &*start.host);
        let Ok(ticket) = start.ticket(&self.sign_in.browser.sealer, login, identity, now) else {
            return self.pages().unavailable();
        };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("to", &start.path);
        self.pages().hand_over(&HandOver {
            host,
            origin: &places.origin(host),
            ticket: &format!("{}?t={ticket}", places.page_at(host, "finish")),
            next: &format!("{}?{}", places.page_at(host, "arrived"), query.finish()),
        })
    }

    /// The Set-Cookie headers that a ticket is worth; none unless it is good in this browser.
    async fn redeem(
        &self,
        host: &Host,
        ticket: &Ticket,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Vec<String> {
        // HAProxy makes one of several Cookie headers, if there are some.
        let held = headers.get(COOKIE).map_or(&b""[..], |header| header.as_bytes());
        let mut secrets = flow::secrets(held);
        let Some((name, _)) = secrets.find(|(_, secret)| ticket.is_of(secret)) else {
            return Vec::new();
        };
        let login = &self.places().login;
        let Some(session) = self.find(&ticket.session, login, now).await else {
            return Vec::new();
        };
        let here = match cookie(headers, SESSION) {
            Some(id) => self.find(&id, host.as_str(), now).await,
            None => None,
        };
        if here.is_some_and(|here| here.is(&session)) {
            // Requests of another tab that are under way have that cookie, so it stays.
            return vec![expired(name)];
        }
        if !self.record(AuditEvent::SessionHost, &session.identity.load(), Some(host.as_str())) {
            return Vec::new();
        }
        let id = {
            let (sign_in, host) = (Arc::clone(&self.sign_in), host.clone());
            blocking(move || sign_in.browser.sessions.handle(&session, host.as_str(), now)).await
        };
        let Some(Ok(id)) = id else { return Vec::new() };
        vec![session_cookie(SESSION, &id), expired(name)]
    }
}

/// A ticket arrives at a workspace's host. Wherever it comes from it is used up, and the login host's page gets the
/// same response whether it was good or not.
pub(super) async fn finish(
    State(web): Shared,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let now = Timestamp::now();
    let ticket = match (host(&headers), query.get("t")) {
        (Some(host), Some(text)) => {
            let ticket = Ticket::open(&web.sign_in.browser.sealer, host.as_str(), text, now);
            ticket.map(|ticket| (host, ticket))
        }
        _ => None,
    };
    let ticket = match ticket {
        Some((host, ticket)) if ticket.take(&web.used, now).await => Some((host, ticket)),
        _ => None,
    };
    let login = web.places().origin(&web.places().login);
    if headers.get(ORIGIN).is_none_or(|origin| *origin != *login) {
        // Somebody opened it as a page: away from the address, and nothing said about the ticket.
        return see_other(&format!("{PATHS}late"), []);
    }
    let cookies = match &ticket {
        Some((host, ticket)) => web.redeem(host, ticket, &headers, now).await,
        None => Vec::new(),
    };
    if cookies.is_empty() && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
    {
        warn!(
            login = &*web.places().login,
            "a sign-in cannot be finished: the login host and the workspaces are on different sites, so the browser sends no cookies; choose a host of [sign_in] below the workspaces' registrable domain"
        );
    }
    delivered(&login, cookies)
}

/// What the login host's page gets for a ticket.
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

/// The browser goes on after a ticket was delivered. Without the session's cookie it stops here, so that it
/// cannot go round in circles.
pub(super) async fn arrived(
    State(web): Shared,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let Some(host) = host(&headers) else { return web.pages().nothing() };
    let path = query.get("to").filter(|path| flow::is_path(path)).map_or("/", String::as_str);
    let address = format!("{}{path}", web.places().origin(host.as_str()));
    let here = match cookie(&headers, SESSION) {
        Some(id) => web.find(&id, host.as_str(), Timestamp::now()).await,
        None => None,
    };
    match here {
        Some(_) => see_other(&address, []),
        None => web.pages().late(&address),
    }
}

/// What a browser gets that opened the address of a ticket.
pub(super) async fn late(State(web): Shared) -> Response {
    web.pages().late("/")
}
