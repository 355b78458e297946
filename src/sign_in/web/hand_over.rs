//! The hand-over: how a workspace's host gets its session cookie (docs/decisions/0014-hand-over.md).
//!
//! Code of the workspace runs at that host, so neither its pages nor its service worker may see the ticket. A page of
//! the login host delivers the ticket to [`finish`] in a request of its own, whose response sets the cookie; then the
//! browser goes on to [`arrived`], which leads to the workspace.
//!
//! The workspace's other hosts get tickets of their own with the same page (docs/decisions/0018-cross-origin.md).
//!
//! Invariants: a ticket is used up by its first request, wherever that comes from; at the host that was opened it sets a
//! cookie only in the browser that has the secret of the same sign-in; and a browser that did not get the cookie stops at
//! [`arrived`], so that it cannot go round in circles.

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
    sessions::{
        COOKIE as SESSION_COOKIE, Session,
        flow::{self, PATHS, Start, Ticket},
        replay::Taken,
        store::StoreError,
    },
    sign_in::page::{self, HandOver, Outage},
    time::Timestamp,
    workspaces::{host::Host, pattern::Scratch},
};

/// How a browser goes on from the login host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Tickets were delivered.
    WithTickets,
    /// The login host has no session of the browser, so none could be delivered.
    Alone,
}

/// The parameter of [`arrived`] for [`Arrival::Alone`].
const ALONE: &str = "alone";

/// A ticket as it arrives.
enum Delivery {
    /// For the host that was opened.
    Opened(Ticket),
    /// For the host of another endpoint of the workspace.
    Sibling(Ticket),
}

impl Delivery {
    /// The ticket of a request, if it is valid at this host.
    fn open(web: &Web, host: &Host, query: &Parameters, now: Timestamp) -> Option<Self> {
        let (keyring, host) = (web.keyring(), host.as_str());
        match (query.get("t"), query.get("s")) {
            (Some(text), None) => Ticket::open(keyring, host, text, now).map(Self::Opened),
            (None, Some(text)) => Ticket::open_sibling(keyring, host, text, now).map(Self::Sibling),
            _ => None,
        }
    }

    const fn ticket(&self) -> &Ticket {
        match self {
            Self::Opened(ticket) | Self::Sibling(ticket) => ticket,
        }
    }
}

impl Web {
    /// The page that delivers tickets to the workspace's host, and to the hosts of its other endpoints that have no cookie
    /// of the session. `login` is the login host's cookie of the session.
    pub(super) fn hand_over(
        &self,
        start: &Start,
        login: &str,
        session: &Session,
        now: Timestamp,
    ) -> Response {
        let (urls, identity) = (self.urls(), session.identity());
        let ticket = match start.ticket(self.keyring(), login, &identity, now) {
            Ok(ticket) => ticket,
            Err(error) => return self.internal(&error),
        };
        let mut origins = vec![urls.origin(&start.host)];
        let mut tickets = vec![format!("{}?t={ticket}", urls.page_at(&start.host, "finish"))];
        for host in self.hosts_without_cookie(&start.host, session, now) {
            let host = host.as_str();
            // Without random numbers the host that was opened is enough.
            let Ok(ticket) = flow::sibling_ticket(self.keyring(), host, login, &identity, now)
            else {
                break;
            };
            session.note_cookie_sent(host, now);
            origins.push(urls.origin(host));
            tickets.push(format!("{}?s={ticket}", urls.page_at(host, "finish")));
        }
        let page = self.pages().hand_over(&HandOver {
            host: &start.host,
            origins: &origins,
            tickets: &tickets,
            next: &self.arrived(start, Arrival::WithTickets),
        });
        page.unwrap_or_else(|| self.internal(&"an address is not the value of a header"))
    }

    /// The address at the workspace's host to which the browser goes on.
    pub(super) fn arrived(&self, start: &Start, how: Arrival) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("to", &start.path);
        if how == Arrival::Alone {
            query.append_pair(ALONE, "1");
        }
        format!("{}?{}", self.urls().page_at(&start.host, "arrived"), query.finish())
    }

    /// The hosts of the workspace's other endpoints to which a cookie should be sent.
    fn hosts_without_cookie(&self, host: &str, session: &Session, now: Timestamp) -> Vec<Host> {
        let Ok(host) = Host::parse(host.as_bytes()) else { return vec![] };
        let gate = self.live.load();
        let workspaces = gate.registry.snapshot();
        let scratch = &mut Scratch::default();
        gate.hosts_without_cookie(session, &host, &workspaces, now, scratch)
    }

    /// The Set-Cookie headers for a ticket of the host that was opened; none if it is not valid in this browser.
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
        let Some(made) = self.give_cookie(host, ticket, headers, now).await else {
            return Vec::new();
        };
        made.into_iter().chain([expired_cookie(name)]).collect()
    }

    /// The same for the host of another endpoint. Only an image of the login host's page may bring the ticket, as a browser
    /// says that shows where its requests come from.
    async fn redeem_sibling(
        &self,
        host: &Host,
        ticket: &Ticket,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Vec<String> {
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| *found == *value);
        if !is("sec-fetch-dest", "image") || !is("sec-fetch-site", "same-site") {
            return Vec::new();
        }
        let made = self.give_cookie(host, ticket, headers, now).await;
        made.flatten().into_iter().collect()
    }

    /// Makes a cookie of the session of a ticket: `Some(None)` if the browser has one, `None` if it must not get one.
    async fn give_cookie(
        &self,
        host: &Host,
        ticket: &Ticket,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Option<Option<String>> {
        let session = self.find(&ticket.session, &self.urls().login, now).await?;
        let here = match cookie(headers, SESSION_COOKIE) {
            Some(id) => self.find(&id, host.as_str(), now).await,
            None => None,
        };
        if here.is_some_and(|here| here.is_same(&session)) {
            // Requests of another tab that are under way have this cookie, so it must stay valid.
            return Some(None);
        }
        if !self.record(AuditEvent::SessionHost, &session.identity.load(), Some(host.as_str())) {
            return None;
        }
        let made = {
            let (sessions, host) = (Arc::clone(self.sessions()), host.clone());
            blocking(move || sessions.add_cookie(&session, host.as_str(), now)).await
        };
        match made? {
            Ok(id) => Some(Some(session_cookie(SESSION_COOKIE, &id))),
            Err(error) => {
                error!(%error, "storing a session failed: the sign-in is refused");
                None
            }
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
    let found = host(&headers)
        .and_then(|host| Delivery::open(&web, &host, &query, now).map(|found| (host, found)));
    // Used up wherever it comes from.
    let found = match found {
        Some((host, delivery))
            if delivery.ticket().take(&web.replay, now).await == Taken::First =>
        {
            Some((host, delivery))
        }
        _ => None,
    };
    let login = web.urls().origin(&web.urls().login);
    if headers.get(ORIGIN).is_none_or(|origin| *origin != *login) {
        // A person opened the address as a page. The redirect takes the ticket out of the address bar.
        return see_other(&format!("{PATHS}late"), []);
    }
    let cookies = match &found {
        Some((host, Delivery::Opened(ticket))) => web.redeem(host, ticket, &headers, now).await,
        Some((host, Delivery::Sibling(ticket))) => {
            web.redeem_sibling(host, ticket, &headers, now).await
        }
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
    let now = Timestamp::now();
    let here = match cookie(&headers, SESSION_COOKIE) {
        Some(id) => web.find(&id, host.as_str(), now).await,
        None => None,
    };
    if let Some(session) = here {
        if query.contains_key(ALONE) {
            // Not again for a while: the browser would be led round for nothing.
            for other in web.hosts_without_cookie(host.as_str(), &session, now) {
                session.note_cookie_sent(other.as_str(), now);
            }
        }
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
