//! An attempt to sign in: from the login host to a provider, and back with the provider's response.
//!
//! [`start`] redirects the browser to a provider, or straight to the workspace if it has a session. [`callback`] verifies
//! the provider's response and begins a session. The attempt itself is an encrypted cookie, so a stranger costs no
//! memory until a provider has vouched for a person.
//!
//! A response is accepted once, in the browser that began the attempt, from the provider that was asked (RFC 9700
//! section 4). When something that it takes is away, the person gets a 503 that says what.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, header::COOKIE},
    response::Response,
};
use tracing::{error, info, warn};

use super::{
    Parameters, Web, WebState, blocking, cookie, expired_cookie, hand_over::Arrival, see_other,
    session_cookie,
};
use crate::{
    audit::AuditEvent,
    request::cookie::with_prefix,
    sessions::{
        LOGIN_COOKIE, Session,
        flow::{self, ATTEMPT_COOKIE, ATTEMPT_TIME, Aim, Attempt, PATHS, Start},
        replay::Taken,
        store::StoreError,
        table::BeginError,
    },
    sign_in::{
        client::{Client, SignedIn},
        page::Outage,
    },
    time::Timestamp,
};

/// The most attempts that one browser can have under way. When it begins another one, the oldest are dropped.
const MAX_ATTEMPTS: usize = 5;
/// The longest that the cookies of these attempts may be, in bytes. HAProxy takes 16 KiB of headers in all.
const MAX_ATTEMPTS_LENGTH: usize = 8 * 1024;

impl Web {
    /// The address at which a person begins again.
    fn again(&self, start: Option<&Start>) -> String {
        let sealed = start.and_then(|start| start.seal(self.keyring(), self.urls()).ok());
        match sealed {
            Some(sealed) => format!("{PATHS}start?r={sealed}"),
            None => format!("{PATHS}start"),
        }
    }

    /// Redirects a browser to a provider. With `ask`, the provider asks who it is even if it knows.
    async fn begin(
        &self,
        client: &Client,
        start: Option<Start>,
        headers: &HeaderMap,
        ask: bool,
    ) -> Response {
        let attempt = match Attempt::new(client.issuer(), start, Timestamp::now()) {
            Ok(attempt) => attempt,
            Err(error) => return self.internal(&error),
        };
        let address = match client.authorize(&attempt, self.urls(), ask).await {
            Ok(address) => address,
            Err(error) => {
                return self.unavailable(Outage::Provider(client.issuer()), &error, "");
            }
        };
        let cookie = match attempt.cookie(self.keyring(), self.urls()) {
            Ok(cookie) => cookie,
            Err(error) => return self.internal(&error),
        };
        let dropped = too_many_attempts(headers, cookie.len());
        let dropped = dropped.iter().map(|name| expired_cookie(name));
        see_other(address.as_str(), dropped.chain([cookie]))
    }

    /// Begins a session for a person whom a provider has just signed in. If the browser already has a session of the
    /// same person, that one is refreshed: signing out ends all of it, however many tabs signed in at once.
    async fn begin_session(
        &self,
        signed_in: SignedIn,
        before: Option<(String, Arc<Session>)>,
        now: Timestamp,
    ) -> Result<(String, Arc<Session>), BeginError> {
        let SignedIn { identity, tokens } = signed_in;
        let same = before.filter(|(_, before)| before.identity.load().is_same_person(&identity));
        let (sessions, login) = (Arc::clone(self.sessions()), self.urls().login.clone());
        let begun = blocking(move || {
            if let Some((id, session)) = same
                && sessions.refresh(&session, identity.clone(), tokens.clone()).is_ok()
            {
                return Ok((id, session));
            }
            sessions.begin(identity, tokens, &login, now)
        });
        begun.await.unwrap_or(Err(BeginError::Ended))
    }
}

/// Begins a sign-in. `r` is the encrypted [`Start`]; `with` names a provider; `ask` is there if another person wants to
/// sign in.
pub(super) async fn start(
    State(web): WebState,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    if let Some(response) = web.refuse_other_than_page_load(&headers) {
        return response;
    }
    let now = Timestamp::now();
    let sealed = query.get("r");
    let start = sealed.and_then(|r| Start::open(web.keyring(), web.urls(), r, now));
    if let (Some(sealed), None) = (sealed, &start) {
        return match Start::open_late(web.keyring(), web.urls(), sealed) {
            Some(late) => web.pages().late(&late.address(web.urls())),
            None => web.pages().failed(),
        };
    }
    if let Some(start) = start.as_ref().filter(|start| start.aim == Aim::OtherHosts) {
        return match web.login(&headers, now).await {
            Some((login, session)) => web.go(start, &login, &session, now),
            // The person has a session where they go, and is asked for nothing.
            None => see_other(&web.arrived(start, Arrival::Alone), []),
        };
    }
    // Said before the person types a password at the provider, and not only afterwards.
    if !web.is_store_reachable().await {
        return web.unavailable(Outage::SessionStore, &StoreError::Timeout, "");
    }
    let ask = query.contains_key("ask");
    if let Some(start) = start.as_ref().filter(|_| !ask)
        && let Some((login, session)) = web.login(&headers, now).await
    {
        return web.go(start, &login, &session, now);
    }
    let named = query.get("with").map(String::as_str);
    let client = match (named, &*web.clients()) {
        (Some(named), _) => web.client(named),
        (None, [only]) => Some(Arc::clone(only)),
        (None, _) => None,
    };
    match client {
        Some(client) => web.begin(&client, start, &headers, ask).await,
        None => choose(&web, start.as_ref(), ask),
    }
}

/// A page with a choice of providers.
pub(super) fn choose(web: &Web, start: Option<&Start>, ask: bool) -> Response {
    let sealed = start.map(|start| start.seal(web.keyring(), web.urls())).transpose();
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(error) => return web.internal(&error),
    };
    let clients = web.clients();
    let links = clients.iter().map(|client| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("with", client.issuer());
        if let Some(sealed) = &sealed {
            query.append_pair("r", sealed);
        }
        if ask {
            query.append_pair("ask", "1");
        }
        (format!("{PATHS}start?{}", query.finish()), client.issuer())
    });
    web.pages().choose(start.map(|start| &*start.host), &links.collect::<Vec<_>>())
}

/// The provider sends the browser back (OIDC Core section 3.1.2.5).
pub(super) async fn callback(
    State(web): WebState,
    Path(issuer): Path<String>,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    if let Some(response) = web.refuse_other_than_page_load(&headers) {
        return response;
    }
    let now = Timestamp::now();
    let parameter = |name: &str| query.get(name).map(String::as_str);
    let state = parameter("state").unwrap_or_default();
    let name = Attempt::cookie_name(state);
    let attempt = cookie(&headers, &name)
        .and_then(|sealed| Attempt::open(web.keyring(), web.urls(), &sealed, state, now));
    // Each issuer has a callback of its own, so that the response of one is not taken for another's (RFC 9700
    // section 4.4).
    let Some(attempt) = attempt.filter(|attempt| attempt.issuer == issuer) else {
        return web.pages().failed();
    };
    let again = || web.again(attempt.start.as_ref());
    let until = now.plus(ATTEMPT_TIME);
    match web.replay.take(&attempt.state, until, now).await {
        Taken::First => {}
        Taken::Repeated => return web.pages().failed(),
        Taken::Full => {
            let error = "too many sign-ins are under way";
            return web.unavailable(Outage::TooManySignIns, &error, &again());
        }
        Taken::StoreUnreachable => {
            return web.unavailable(Outage::SessionStore, &StoreError::Timeout, &again());
        }
    }
    if let Some(error) = parameter("error") {
        web.replay.give_back(&attempt.state).await;
        let error: String = error.chars().take(64).flat_map(char::escape_debug).collect();
        info!(issuer, error, "the provider did not sign the person in");
        return web.pages().refused_by_provider(&issuer, &again());
    }
    let client = web.client(&issuer);
    let (Some(client), Some(code)) = (client, parameter("code")) else {
        web.replay.give_back(&attempt.state).await;
        return web.pages().failed();
    };
    let signed_in = match client.exchange(&attempt, web.urls(), code, parameter("iss")).await {
        Ok(signed_in) => signed_in,
        Err(error) => {
            web.replay.give_back(&attempt.state).await;
            warn!(issuer, %error, "a sign-in failed after the provider sent the browser back");
            return web.pages().unverified(&issuer, &again());
        }
    };
    // One person who signs in again and again must not use up the room that others need.
    if !web.replay.charge(&flow::person(&signed_in.identity), until, now) {
        web.replay.give_back(&attempt.state).await;
        let user = signed_in.identity.label();
        let error = format!("the same person signed in too often within minutes: {user:?}");
        return web.unavailable(Outage::TooManySignIns, &error, &again());
    }
    let before = web.login(&headers, now).await;
    let (id, session) = match web.begin_session(signed_in, before.clone(), now).await {
        Ok(begun) => begun,
        Err(error) => {
            error!(%error, "storing a session failed: the sign-in is refused");
            let outage = match error {
                BeginError::Store(_) => Outage::SessionStore,
                BeginError::Full => Outage::TooManySignIns,
                BeginError::Ended | BeginError::Seal(_) => Outage::Internal,
            };
            return web.unavailable(outage, &error, &again());
        }
    };
    let identity = session.identity();
    info!(user = identity.label(), issuer, "signed in");
    if let Some((_, before)) = before
        && !before.identity.load().is_same_person(&identity)
    {
        // Another person used this browser before, and must not stay signed in.
        web.end(before).await;
    }
    if !web.record(AuditEvent::SignIn, &identity, None) {
        let error = "the audit record was not written";
        return web.unavailable(Outage::AuditLog, &error, &again());
    }
    let mut response = match &attempt.start {
        Some(start) => web.go(start, &id, &session, now),
        None => see_other(&web.urls().origin(&web.urls().login), []),
    };
    for cookie in [session_cookie(LOGIN_COOKIE, &id), expired_cookie(&name)] {
        if let Ok(value) = cookie.parse() {
            response.headers_mut().append(axum::http::header::SET_COOKIE, value);
        }
    }
    response
}

/// The names of the oldest cookies with attempts, which must go so that one more of `length` bytes has room.
fn too_many_attempts(headers: &HeaderMap, length: usize) -> Vec<String> {
    let old = attempts(headers);
    let mut length: usize = length + old.iter().map(|(_, length)| length).sum::<usize>();
    let mut count = old.len() + 1;
    // Browsers send the oldest first.
    let too_many = old.into_iter().take_while(|(_, of_one)| {
        let is_too_much = count > MAX_ATTEMPTS || length > MAX_ATTEMPTS_LENGTH;
        count -= 1;
        length = length.saturating_sub(*of_one);
        is_too_much
    });
    too_many.map(|(name, _)| name).collect()
}

/// The names of the cookies with attempts that a browser has, and how long each is.
fn attempts(headers: &HeaderMap) -> Vec<(String, usize)> {
    let lines = headers.get_all(COOKIE).iter();
    let ours = lines.flat_map(|line| with_prefix(line.as_bytes(), ATTEMPT_COOKIE));
    // The name is written into a header again.
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    ours.filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name.to_owned(), name.len() + 1 + value.len()))
        .collect()
}
