//! The web server of sign-in, behind HAProxy: at the login host, and at the reserved path of each workspace's host.
//!
//! HAProxy sends only these requests here, and never sends them to a workspace. [`attempt`] begins a sign-in and takes
//! the provider's response; [`hand_over`] gives a workspace's host its cookie; [`back_channel`] takes logout tokens; the
//! other pages are here: the start page, signing out, and the pages of people who were denied.
//!
//! Every request is a stranger's until its cookie or message is verified. Invariants: no sign-in or sign-out happens without
//! an audit record; a redirect leads only to the login host, to a workspace's host or to a configured provider; a
//! request has a time limit.

use std::{collections::BTreeMap, fmt::Display, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Form, Query, Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE},
    },
    middleware::{self, Next},
    response::{AppendHeaders, IntoResponse, Response},
    routing::{any, get, post},
};
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    client::Client,
    page::{self, Outage, PageLoad, Pages, Refused},
};
use crate::{
    audit::{AuditEvent, AuditLog},
    authz::{
        decision::Decision,
        reason::{Reason, Verdict},
    },
    gate::live::Live,
    identity::Identity,
    request::{
        cookie::{self, CookieLifetime, set_cookie},
        is_frame,
    },
    sessions::{
        LOGIN_COOKIE, Session, Sessions,
        flow::{self, Aim, PATHS, PublicUrls, Start, decision_id},
        keyring::Keyring,
        replay::ReplayGuard,
    },
    sign_in::{Configured, SignIn, record::SessionEvent},
    time::Timestamp,
    workspaces::{host::Host, pattern::Scratch},
};

mod attempt;
mod back_channel;
mod hand_over;

/// How long a request may take. Its body is a stranger's, and the provider may be slow.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests under way may take when the agent stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often sessions that are over are removed.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);

/// The server of the sign-in pages.
pub struct Web {
    /// The sessions, the providers and the pages.
    pub sign_in: Arc<SignIn>,
    /// Decides whether a person who signed in may reach the workspace.
    pub live: Arc<Live>,
    /// The states, tickets and logout tokens that were used.
    pub replay: ReplayGuard,
    /// Where the events of sessions are recorded.
    pub audit_log: Arc<AuditLog>,
}

type WebState = State<Arc<Web>>;
type Parameters = BTreeMap<String, String>;

impl Web {
    /// Serves until stopped.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let sign_in = Arc::clone(&self.sign_in);
        let path = |name: &str| format!("{PATHS}{name}");
        let router = Router::new()
            .route("/", get(home))
            .route(&path("start"), get(attempt::start))
            .route(&path("callback/{issuer}"), get(attempt::callback))
            .route(&path("finish"), get(hand_over::finish))
            .route(&path("arrived"), get(hand_over::arrived))
            .route(&path("late"), get(hand_over::late))
            .route(&path("sign-out"), get(ask_sign_out).post(sign_out))
            .route(&path("signed-out"), get(signed_out))
            .route(&path("back-channel/{issuer}"), post(back_channel::back_channel))
            .route(&path("refused"), any(refused))
            .route(&path("switch"), get(switch))
            .route(&path("style.css"), get(style))
            .route(&path("logo"), get(logo))
            .fallback(nothing)
            .layer(middleware::from_fn(with_timeout))
            .with_state(Arc::new(self));
        tokio::spawn(remove_expired(sign_in, stop.clone()));
        let ending = stop.clone();
        let serving = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let too_late = async {
            ending.cancelled().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            end = serving.into_future() => if let Err(error) = end {
                error!(%error, "the server of the sign-in pages stopped: restart the agent");
            },
            () = too_late => info!("ending with sign-in requests under way"),
        }
    }

    fn sessions(&self) -> &Arc<Sessions> {
        &self.sign_in.browser.sessions
    }

    fn keyring(&self) -> &Keyring {
        &self.sign_in.browser.keyring
    }

    fn urls(&self) -> &PublicUrls {
        &self.sign_in.browser.urls
    }

    /// The providers and pages of the current configuration.
    fn configured(&self) -> Arc<Configured> {
        self.sign_in.configured()
    }

    /// The providers at which people sign in; at least one.
    fn clients(&self) -> Arc<[Arc<Client>]> {
        Arc::clone(&self.configured().clients)
    }

    fn client(&self, issuer: &str) -> Option<Arc<Client>> {
        self.configured().client(issuer)
    }

    fn pages(&self) -> Arc<Pages> {
        Arc::clone(&self.configured().pages)
    }

    /// The login host's session of a browser, with its cookie.
    async fn login(&self, headers: &HeaderMap, now: Timestamp) -> Option<(String, Arc<Session>)> {
        let cookie = cookie(headers, LOGIN_COOKIE)?;
        let login = &self.urls().login;
        let session = self.find(&cookie, login, now).await?;
        Some((cookie, session))
    }

    /// The session of a cookie, unless it is revoked. Then a new sign-in shows whether the person may have one.
    async fn find(&self, cookie: &str, host: &str, now: Timestamp) -> Option<Arc<Session>> {
        let session = self.sessions().find_anywhere(cookie.as_bytes(), host, now).await?;
        (!self.live.load().revocations.cover(&session.identity.load())).then_some(session)
    }

    /// Whether the session store answers. Without it no sign-in can be completed.
    async fn is_store_reachable(&self) -> bool {
        self.sessions().store().is_reachable().await
    }

    /// The page for a sign-in that cannot go on now, with an error id that is in the log. `again` is where the person
    /// begins again; empty for the page itself.
    fn unavailable(&self, outage: Outage<'_>, error: &dyn Display, again: &str) -> Response {
        let error_id = decision_id().unwrap_or_else(|_| "none".into());
        let issuer = match outage {
            Outage::Provider(issuer) => Some(issuer),
            _ => None,
        };
        warn!(
            error_id,
            issuer,
            reason = outage.id(),
            %error,
            "a sign-in is refused with status 503: the person's page shows this error id"
        );
        self.pages().unavailable(outage, &error_id, again)
    }

    /// The same page for an error of this program, such as missing random numbers.
    fn internal(&self, error: &dyn Display) -> Response {
        self.unavailable(Outage::Internal, error, "")
    }

    /// Records an event of a person's session. Returns whether it is on record.
    fn record(&self, event: AuditEvent, identity: &Identity, host: Option<&str>) -> bool {
        let (time, identity) = (Timestamp::now(), Some(identity));
        self.record_event(&SessionEvent { time, event, identity, host, ..SessionEvent::default() })
    }

    fn record_event(&self, event: &SessionEvent) -> bool {
        event.record(&self.audit_log, &self.live.load().metrics)
    }

    /// Ends a session at every host.
    async fn end(&self, session: Arc<Session>) {
        let (sessions, ended) = (Arc::clone(self.sessions()), Arc::clone(&session));
        let end = move || sessions.end_where(|other| other.is_same(&ended));
        if !matches!(blocking(end).await, Some(Ok(_))) {
            error!(
                "storing the end of a session failed: it is ended now, but may be valid again after a restart"
            );
        }
        let identity = session.identity();
        info!(user = identity.label(), "signed out");
        self.record(AuditEvent::SignOut, &identity, None);
        if let Some(client) = self.configured().client_of(&identity) {
            client.revoke_refresh_token(&session.tokens()).await;
        }
    }

    /// Whether this is the login host.
    fn is_login(&self, headers: &HeaderMap) -> bool {
        host(headers).is_some_and(|host| host.as_str() == &*self.urls().login)
    }

    /// The response to a request that is not for the login host, or loads no page.
    fn refuse_other_than_page_load(&self, headers: &HeaderMap) -> Option<Response> {
        if !self.is_login(headers) {
            return Some(self.pages().nothing());
        }
        (!is_page_load(headers)).then(|| self.pages().failed())
    }

    /// Sends a browser on to its workspace, or says why the person may not go there.
    fn go(&self, start: &Start, login: &str, session: &Session, now: Timestamp) -> Response {
        let identity = session.identity();
        let Ok(host) = Host::parse(start.host.as_bytes()) else {
            return self.pages().failed();
        };
        let known = Arc::clone(&identity);
        let decision = self.live.load().decide_for_page(&host, start.path.as_bytes(), known, now);
        // Only a lasting denial is shown here. A workspace that is starting shows its own page soon, and a policy may
        // allow the request that follows, with values that are not known here.
        let is_denied = decision.verdict() == Verdict::Deny;
        if is_denied && decision.reason != Reason::PolicyError {
            return self.deny(start, session, &decision, now);
        }
        self.hand_over(start, login, session, now)
    }

    /// Says why a workspace is not for this person, and what they can do.
    fn deny(
        &self,
        start: &Start,
        session: &Session,
        decision: &Decision,
        now: Timestamp,
    ) -> Response {
        let reason = decision.reason;
        let made = decision_id().and_then(|id| Ok((id, start.seal(self.keyring(), self.urls())?)));
        let (id, sealed) = match made {
            Ok(made) => made,
            Err(error) => return self.internal(&error),
        };
        let identity = session.identity();
        self.record_event(&SessionEvent {
            time: now,
            event: AuditEvent::SignInDenied,
            identity: Some(&identity),
            host: Some(&start.host),
            reason: Some(reason.id()),
            decision_id: Some(&id),
            ..SessionEvent::default()
        });
        self.pages().refused(&Refused {
            reason,
            decision: &id,
            user: Some(&self.person(&identity)),
            host: &start.host,
            owner: decision.owner.as_deref(),
            switch: &format!("{PATHS}start?ask=1&r={sealed}"),
            sign_out: &format!("{PATHS}sign-out"),
            load: PageLoad::Opened,
            origin: &self.urls().origin(&start.host),
            path: &start.path,
        })
    }

    /// What a person is called on pages.
    fn person(&self, identity: &Identity) -> String {
        self.pages().person(identity.label(), Some(&identity.authority.name))
    }
}

/// Ends a request that takes too long, so that a slow client does not hold a connection.
async fn with_timeout(request: Request, next: Next) -> Response {
    let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    response.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// Removes sessions that are over, until stopped.
async fn remove_expired(sign_in: Arc<SignIn>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EXPIRY_INTERVAL) => {}
        }
        let sessions = Arc::clone(&sign_in.browser.sessions);
        let removed = blocking(move || sessions.remove_expired(Timestamp::now())).await;
        if let Some(Err(error)) = removed {
            error!(%error, "storing when sessions were last used failed: after a restart they may end earlier by inactivity");
        }
    }
}

/// The start page of the login host.
async fn home(State(web): WebState, headers: HeaderMap) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    match web.login(&headers, Timestamp::now()).await {
        Some((_, session)) => web.pages().home(&web.person(&session.identity())),
        None => attempt::choose(&web, None, false),
    }
}

async fn ask_sign_out(State(web): WebState, headers: HeaderMap) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    web.pages().ask_sign_out()
}

async fn sign_out(State(web): WebState, headers: HeaderMap, Form(_): Form<Parameters>) -> Response {
    // A workspace's page must not sign a person out. Fetch Metadata decides where the browser sends it: such a browser may
    // call our own origin "null", since our pages send no referrer.
    let ours = web.urls().origin(&web.urls().login);
    let is_ours = match (headers.get("sec-fetch-site"), headers.get(ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => *origin == *ours,
        (None, None) => true,
    };
    if !web.is_login(&headers) || !is_ours {
        return web.pages().nothing();
    }
    let mut address = web.urls().page("signed-out");
    if let Some((_, session)) = web.login(&headers, Timestamp::now()).await {
        web.end(Arc::clone(&session)).await;
        if let Some(client) = web.configured().client_of(&session.identity())
            && let Some(url) =
                client.sign_out(session.tokens().id_token.expose_secret(), web.urls()).await
        {
            address = url.into();
        }
    }
    see_other(&address, [expired_cookie(LOGIN_COOKIE)])
}

async fn signed_out(State(web): WebState) -> Response {
    let urls = web.urls();
    web.pages().signed_out(&format!("{}/", urls.origin(&urls.login)))
}

/// HAProxy refused a person who opens a page at a workspace's host, and gets the page here. The decision is in headers
/// that HAProxy removes from clients' requests first; method and Fetch Metadata are the client's own.
async fn refused(State(web): WebState, method: Method, headers: HeaderMap) -> Response {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        value.filter(|value| !value.is_empty())
    };
    let Some(reason) = text("x-identity-reason").and_then(|id| Reason::from_id(&id)) else {
        return web.pages().nothing();
    };
    let gate = web.live.gate();
    let issuer = text("x-identity-issuer").and_then(|issuer| {
        let mut profiles = gate.issuers.profiles();
        profiles.find(|profile| profile.accepts(&issuer).is_some())
    });
    let issuer = issuer.map(|profile| &*profile.authority.name);
    let user = text("x-identity-user").map(|user| web.pages().person(&user, issuer));
    let host = host(&headers);
    // Without a host the page has no address, and a path alone could lead to another host ("//evil.test").
    let path = text("x-identity-path").filter(|path| host.is_some() && flow::is_path(path));
    let path = path.unwrap_or_else(|| "/".into());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("to", &path);
    web.pages().refused(&Refused {
        reason,
        decision: &text("x-identity-decision-id").unwrap_or_default(),
        user: user.as_deref(),
        host: host.as_ref().map_or("", Host::as_str),
        owner: text("x-identity-owner").as_deref(),
        switch: &format!("{PATHS}switch?{}", query.finish()),
        sign_out: &web.urls().page("sign-out"),
        load: page_load(&method, &headers),
        origin: &host.as_ref().map_or_else(String::new, |host| web.urls().origin(host.as_str())),
        path: &path,
    })
}

/// A person at a workspace's host wants to sign in as another person.
async fn switch(
    State(web): WebState,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let is_workspace =
        |host: &Host| web.live.load().patterns.resolve(host, &mut Scratch::default()).is_some();
    let Some(host) = host(&headers).filter(is_workspace) else { return web.pages().nothing() };
    let to = query.get("to").map_or("/", String::as_str);
    let cookies = headers.get(COOKIE).map_or(&b""[..], |header| header.as_bytes());
    let now = Timestamp::now();
    match Start::redirect(web.keyring(), web.urls(), host.as_str(), to, cookies, Aim::SignIn, now) {
        Ok(redirect) => see_other(&format!("{}&ask=1", redirect.location), [redirect.cookie]),
        Err(error) => web.internal(&error),
    }
}

async fn style() -> Response {
    page::style()
}

async fn logo(State(web): WebState) -> Response {
    web.pages().logo().unwrap_or_else(|| web.pages().nothing())
}

async fn nothing(State(web): WebState) -> Response {
    web.pages().nothing()
}

/// Redirects a browser with a GET, whatever method its request had (RFC 9700 section 4.12).
fn see_other(address: &str, cookies: impl IntoIterator<Item = String>) -> Response {
    let cookies: Vec<_> = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)).collect();
    let headers = [(LOCATION, address.to_owned())];
    let mut response = (StatusCode::SEE_OTHER, headers, AppendHeaders(cookies)).into_response();
    page::protect(response.headers_mut());
    response
}

fn session_cookie(name: &str, id: &str) -> String {
    set_cookie(name, id, CookieLifetime::BrowserSession)
}

fn expired_cookie(name: &str) -> String {
    set_cookie(name, "", CookieLifetime::Expired)
}

/// Runs something that may block on the disk or the store; `None` after a panic.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The host of a request without its port.
fn host(headers: &HeaderMap) -> Option<Host> {
    Host::parse(headers.get(HOST)?.as_bytes()).ok()
}

/// How a browser came to the page of a refusal, as far as it says.
fn page_load(method: &Method, headers: &HeaderMap) -> PageLoad {
    let dest = headers.get("sec-fetch-dest").map(HeaderValue::as_bytes);
    if dest.is_some_and(is_frame) {
        PageLoad::Framed
    } else if method.is_safe() {
        PageLoad::Opened
    } else {
        PageLoad::Submitted
    }
}

/// Whether a browser loads a page in a window, as far as it says (Fetch Metadata section 2.1). No sign-in happens in a
/// frame, or for a script that requests our addresses.
fn is_page_load(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-dest").is_none_or(|dest| dest == "document")
}

/// The value of the only cookie with this name.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    String::from_utf8(cookie::only_in(lines, name.as_bytes())?.to_vec()).ok()
}

/// Binds the address at which HAProxy finds the pages.
///
/// # Errors
/// The address is in use, or does not belong to this machine.
pub fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
