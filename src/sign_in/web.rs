//! The pages behind HAProxy: at the login host, and at the reserved path of each workspace's host.
//!
//! HAProxy leads only these here, and never leads them to a workspace.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Form, Path, Query, Request, State},
    http::{
        HeaderMap, StatusCode,
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
    client::{Client, SignedIn},
    page::{self, Pages, Refused},
};
use crate::{
    audit::{AuditEvent, AuditLog},
    authz::{decision::Decision, reason::Reason},
    gate::live::Live,
    identity::Identity,
    request::cookie,
    sessions::{
        LOGIN_COOKIE, Session,
        flow::{self, ATTEMPT_COOKIE, Attempt, PATHS, Places, Start, Used, decision_id},
    },
    sign_in::{Configured, SignIn, record::SessionEvent},
    time::Timestamp,
    workspaces::{host::Host, pattern::Scratch},
};

mod hand_over;

/// How long a request may take: its body is a stranger's, and the provider may be slow.
const WITHIN: Duration = Duration::from_secs(30);
/// How long requests under way have when the agent ends.
const DRAIN: Duration = Duration::from_secs(5);
/// The most attempts to sign in that one browser can have under way; beyond it, the oldest are dropped.
const MAX_ATTEMPTS: usize = 5;
/// The same for their length in bytes: HAProxy takes 16 KiB of headers in all.
const MAX_ATTEMPTS_LENGTH: usize = 8 * 1024;

/// How often sessions that are over are forgotten.
const TIDY: Duration = Duration::from_secs(30);

/// The pages.
pub struct Web {
    /// What they share with the gate.
    pub sign_in: Arc<SignIn>,
    /// Decides where a ticket may lead; the providers and what people see are the current configuration's.
    pub live: Arc<Live>,
    /// What was used.
    pub used: Used,
    /// Where what happens to sessions is recorded.
    pub audit_log: Arc<AuditLog>,
}

type Shared = State<Arc<Web>>;
type Parameters = BTreeMap<String, String>;

impl Web {
    /// Serves until stopped.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let sign_in = Arc::clone(&self.sign_in);
        let path = |name: &str| format!("{PATHS}{name}");
        let router = Router::new()
            .route("/", get(home))
            .route(&path("start"), get(start))
            .route(&path("callback/{issuer}"), get(callback))
            .route(&path("finish"), get(hand_over::finish))
            .route(&path("arrived"), get(hand_over::arrived))
            .route(&path("late"), get(hand_over::late))
            .route(&path("sign-out"), get(ask_sign_out).post(sign_out))
            .route(&path("signed-out"), get(signed_out))
            .route(&path("back-channel/{issuer}"), post(back_channel))
            .route(&path("refused"), any(refused))
            .route(&path("switch"), get(switch))
            .route(&path("style.css"), get(style))
            .route(&path("logo"), get(logo))
            .fallback(nothing)
            .layer(middleware::from_fn(in_time))
            .with_state(Arc::new(self));
        tokio::spawn(tidy(sign_in, stop.clone()));
        let ending = stop.clone();
        let serving = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let too_late = async {
            ending.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            end = serving.into_future() => if let Err(error) = end {
                error!(%error, "the server of the sign-in pages stopped: restart the agent");
            },
            () = too_late => info!("ending with sign-in requests under way"),
        }
    }

    fn places(&self) -> &Places {
        &self.sign_in.browser.places
    }

    /// The login host's session of a browser, with its cookie.
    async fn login(&self, headers: &HeaderMap, now: Timestamp) -> Option<(String, Arc<Session>)> {
        let cookie = cookie(headers, LOGIN_COOKIE)?;
        let login = &self.places().login;
        let session = self.find(&cookie, login, now).await?;
        Some((cookie, session))
    }

    /// The session of a cookie, unless it is revoked: a new sign-in shows whether the person may have one.
    async fn find(&self, cookie: &str, host: &str, now: Timestamp) -> Option<Arc<Session>> {
        let sessions = &self.sign_in.browser.sessions;
        let session = sessions.find_anywhere(cookie.as_bytes(), host, now).await?;
        (!self.live.load().revocations.cover(&session.identity.load())).then_some(session)
    }

    /// Records what happened. Returns whether it is on record.
    fn record(&self, event: AuditEvent, identity: &Identity, host: Option<&str>) -> bool {
        let (time, identity) = (Timestamp::now(), Some(identity));
        self.keep(&SessionEvent { time, event, identity, host, ..SessionEvent::default() })
    }

    /// Ends a session at every host.
    async fn end(&self, session: Arc<Session>) {
        let (sign_in, ended) = (Arc::clone(&self.sign_in), Arc::clone(&session));
        let end = move || sign_in.browser.sessions.end(|other| other.is(&ended));
        if !matches!(blocking(end).await, Some(Ok(_))) {
            error!(
                "storing the end of a session failed: it is ended now, but may be valid again after a restart"
            );
        }
        let identity = session.identity();
        info!(user = identity.label(), "signed out");
        self.record(AuditEvent::SignOut, &identity, None);
        if let Some(client) = self.configured().client_of(&identity) {
            client.give_back(&session.tokens()).await;
        }
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

    fn keep(&self, event: &SessionEvent) -> bool {
        event.record(&self.audit_log, &self.live.load().metrics)
    }

    /// Whether this is the login host.
    fn is_login(&self, headers: &HeaderMap) -> bool {
        host(headers).is_some_and(|host| host.as_str() == &*self.places().login)
    }

    /// Sends a browser on to its workspace, if whoever signed in may go there.
    fn go(&self, start: &Start, login: &str, session: &Session, now: Timestamp) -> Response {
        let identity = session.identity();
        let Ok(place) = Host::parse(start.host.as_bytes()) else {
            return self.pages().failed();
        };
        let known = Arc::clone(&identity);
        let decision = self.live.load().judge(&place, start.path.as_bytes(), known, now);
        // Only whoever may never reach it is told so here; a workspace that is starting is on its own
        // host soon, and what policies cannot tell yet they tell there.
        let denied = decision.verdict() == crate::authz::reason::Verdict::Deny;
        if denied && decision.reason != Reason::PolicyError {
            return self.deny(start, session, &decision, now);
        }
        self.hand_over(start, login, &identity, now)
    }

    /// Tells a person why a workspace is not for them, and what they can do.
    fn deny(
        &self,
        start: &Start,
        session: &Session,
        decision: &Decision,
        now: Timestamp,
    ) -> Response {
        let reason = decision.reason;
        let (Ok(id), Ok(sealed)) =
            (decision_id(), start.seal(&self.sign_in.browser.sealer, self.places()))
        else {
            return self.pages().unavailable();
        };
        let identity = session.identity();
        self.keep(&SessionEvent {
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
        })
    }

    /// What a person is called.
    fn person(&self, identity: &Identity) -> String {
        self.pages().person(identity.label(), Some(&identity.authority.name))
    }

    /// Where somebody begins again who was on the way there.
    fn again(&self, start: Option<&Start>) -> String {
        let sealed =
            start.and_then(|start| start.seal(&self.sign_in.browser.sealer, self.places()).ok());
        match sealed {
            Some(sealed) => format!("{PATHS}start?r={sealed}"),
            None => format!("{PATHS}start"),
        }
    }

    async fn begin(
        &self,
        client: &Client,
        start: Option<Start>,
        headers: &HeaderMap,
        ask: bool,
    ) -> Response {
        let now = Timestamp::now();
        let attempt = Attempt::new(client.issuer(), start, now);
        let Ok(attempt) = attempt else { return self.pages().unavailable() };
        let address = match client.authorize(&attempt, self.places(), ask).await {
            Ok(address) => address,
            Err(error) => {
                warn!(issuer = client.issuer(), %error, "starting a sign-in failed: the provider's metadata is not available");
                return self.pages().unavailable();
            }
        };
        let Ok(cookie) = attempt.cookie(&self.sign_in.browser.sealer, self.places()) else {
            return self.pages().unavailable();
        };
        // Browsers send the oldest first.
        let old = attempts(headers);
        let mut length: usize = cookie.len() + old.iter().map(|(_, length)| length).sum::<usize>();
        let mut count = old.len() + 1;
        let too_many = old.iter().take_while(|(_, of_one)| {
            let is = count > MAX_ATTEMPTS || length > MAX_ATTEMPTS_LENGTH;
            count -= 1;
            length = length.saturating_sub(*of_one);
            is
        });
        let dropped: Vec<_> = too_many.map(|(name, _)| expired(name)).collect();
        let cookies = dropped.into_iter().chain([cookie]);
        see_other(address.as_str(), cookies)
    }
}

/// Nobody holds a connection for longer, whatever they send and however slowly.
async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(WITHIN, next.run(request)).await;
    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// Forgets what is over, now and then.
async fn tidy(sign_in: Arc<SignIn>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TIDY) => {}
        }
        let sign_in = Arc::clone(&sign_in);
        let tidied = blocking(move || sign_in.browser.sessions.tidy(Timestamp::now())).await;
        if let Some(Err(error)) = tidied {
            error!(%error, "storing when sessions were last used failed: after a restart they may end earlier by inactivity");
        }
    }
}

/// Somebody opened the login host itself.
async fn home(State(web): Shared, headers: HeaderMap) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    match web.login(&headers, Timestamp::now()).await {
        Some((_, session)) => web.pages().home(&web.person(&session.identity())),
        None => choose(&web, None, false),
    }
}

async fn start(
    State(web): Shared,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    if !is_page_load(&headers) {
        return web.pages().failed();
    }
    let now = Timestamp::now();
    let sealed = query.get("r");
    let start = sealed.and_then(|r| Start::open(&web.sign_in.browser.sealer, web.places(), r, now));
    if let (Some(sealed), None) = (sealed, &start) {
        let late = Start::of(&web.sign_in.browser.sealer, web.places(), sealed);
        return match late {
            Some(late) => web.pages().late(&late.address(web.places())),
            None => web.pages().failed(),
        };
    }
    // Somebody else wants to sign in.
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

/// A page to choose a provider from.
fn choose(web: &Web, start: Option<&Start>, ask: bool) -> Response {
    let sealed =
        start.map(|start| start.seal(&web.sign_in.browser.sealer, web.places())).transpose();
    let Ok(sealed) = sealed else { return web.pages().unavailable() };
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
async fn callback(
    State(web): Shared,
    Path(issuer): Path<String>,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    let again = || web.pages().failed();
    if !is_page_load(&headers) {
        return again();
    }
    let now = Timestamp::now();
    let parameter = |name: &str| query.get(name).map(String::as_str);
    let state = parameter("state").unwrap_or_default();
    let name = Attempt::cookie_of(state);
    let attempt = cookie(&headers, &name).and_then(|sealed| {
        Attempt::open(&web.sign_in.browser.sealer, web.places(), &sealed, state, now)
    });
    let Some(attempt) = attempt.filter(|attempt| attempt.issuer == issuer) else {
        return again();
    };
    let until = now.plus(crate::sessions::flow::ATTEMPT_FOR);
    if !web.used.take(&attempt.state, until, now).await {
        return again();
    }
    if let Some(error) = parameter("error") {
        web.used.give_back(&attempt.state).await;
        let error: String = error.chars().take(64).flat_map(char::escape_debug).collect();
        info!(issuer, error, "the provider did not sign the person in");
        return web.pages().not_signed_in(&issuer, true, &web.again(attempt.start.as_ref()));
    }
    let client = web.client(&issuer);
    let (Some(client), Some(code)) = (client, parameter("code")) else {
        web.used.give_back(&attempt.state).await;
        return again();
    };
    let signed_in = match client.exchange(&attempt, web.places(), code, parameter("iss")).await {
        Ok(signed_in) => signed_in,
        Err(error) => {
            web.used.give_back(&attempt.state).await;
            warn!(issuer, %error, "a sign-in failed after the provider sent the browser back");
            let address = web.again(attempt.start.as_ref());
            return web.pages().not_signed_in(&issuer, false, &address);
        }
    };
    // One person who signs in again and again does not keep others from it.
    if !web.used.charge(&flow::person(&signed_in.identity), until, now) {
        web.used.give_back(&attempt.state).await;
        warn!(
            issuer,
            user = signed_in.identity.label(),
            "a sign-in is refused: the same person signed in too often within minutes"
        );
        return web.pages().unavailable();
    }
    let login = web.places().login.clone();
    let before = web.login(&headers, now).await;
    // A browser has one session of a person, however many tabs they sign in with at once: what signs out ends
    // all of it.
    let is_same = |(_, before): &(String, Arc<Session>)| {
        before.identity.load().is_same_person(&signed_in.identity)
    };
    let same = before.clone().filter(is_same);
    let begun = {
        let (sign_in, login) = (Arc::clone(&web.sign_in), login.clone());
        let SignedIn { identity, tokens } = signed_in;
        blocking(move || {
            if let Some((id, session)) = same
                && sign_in
                    .browser
                    .sessions
                    .renew(&session, identity.clone(), tokens.clone())
                    .is_ok()
            {
                return Ok((id, session));
            }
            sign_in.browser.sessions.begin(identity, tokens, &login, now)
        })
        .await
    };
    let Some(Ok((id, session))) = begun else { return web.pages().unavailable() };
    let identity = session.identity();
    info!(user = identity.label(), issuer, "signed in");
    if let Some((_, before)) = before
        && !before.identity.load().is_same_person(&identity)
    {
        // Somebody else used this browser, and is gone.
        web.end(before).await;
    }
    // Nobody is signed in without a record of it.
    if !web.record(AuditEvent::SignIn, &identity, None) {
        return web.pages().unavailable();
    }
    let cookies = [session_cookie(LOGIN_COOKIE, &id), expired(&name)];
    let mut response = match &attempt.start {
        Some(start) => web.go(start, &id, &session, now),
        None => see_other(&web.places().origin(&login), []),
    };
    for cookie in cookies {
        if let Ok(value) = cookie.parse() {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
    response
}

async fn ask_sign_out(State(web): Shared, headers: HeaderMap) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    web.pages().ask_sign_out()
}

async fn sign_out(State(web): Shared, headers: HeaderMap, Form(_): Form<Parameters>) -> Response {
    // A workspace's page must not sign anybody out. Browsers that say where a request comes from may call
    // our own origin "null", as the page they are at lets no referrer out.
    let ours = web.places().origin(&web.places().login);
    let is_ours = match (headers.get("sec-fetch-site"), headers.get(ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => *origin == *ours,
        (None, None) => true,
    };
    if !web.is_login(&headers) || !is_ours {
        return web.pages().nothing();
    }
    let mut address = web.places().page("signed-out");
    if let Some((_, session)) = web.login(&headers, Timestamp::now()).await {
        web.end(Arc::clone(&session)).await;
        if let Some(client) = web.configured().client_of(&session.identity())
            && let Some(url) =
                client.sign_out(session.tokens().id.expose_secret(), web.places()).await
        {
            address = url.into();
        }
    }
    see_other(&address, [expired(LOGIN_COOKIE)])
}

/// A provider says that sessions ended there (OIDC Back-Channel Logout section 2.5).
async fn back_channel(
    State(web): Shared,
    Path(issuer): Path<String>,
    headers: HeaderMap,
    Form(form): Form<Parameters>,
) -> Response {
    if !web.is_login(&headers) {
        return web.pages().nothing();
    }
    let answer = |status: StatusCode, error: &str| {
        let body = serde_json::json!({ "error": "invalid_request", "error_description": error });
        let body = if error.is_empty() { String::new() } else { body.to_string() };
        let mut response = (status, body).into_response();
        page::protect(response.headers_mut());
        response
    };
    let client = web.client(&issuer);
    let (Some(client), Some(token)) = (client, form.get("logout_token")) else {
        return answer(StatusCode::BAD_REQUEST, "expected a logout_token of a known issuer");
    };
    let ended = match client.logout(token).await {
        Ok(ended) => ended,
        Err(error) => {
            warn!(issuer, %error, "a back-channel logout is refused: its logout token is not valid");
            return answer(StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    let now = Timestamp::now();
    let until = now.plus(Duration::from_mins(10));
    let once = format!("{} {}", ended.issuer, ended.id);
    if !web.used.take(&once, until, now).await {
        return answer(StatusCode::BAD_REQUEST, "the token was used before");
    }
    let sign_in = Arc::clone(&web.sign_in);
    let end = move || sign_in.browser.sessions.end(|session| ended.names(&session.identity()));
    // The provider asks again.
    let Some(Ok(count)) = blocking(end).await else {
        web.used.give_back(&once).await;
        return answer(StatusCode::BAD_REQUEST, "the sessions ended but may come back");
    };
    // That nobody is signed in (any more) is a success too, and the answer the same (section 2.7): the provider
    // has nothing to ask again for, and learns nothing. If it should have been a session, the operator must know.
    let event = if count == 0 {
        warn!(issuer, "a back-channel logout names no session of this agent: nothing was ended");
        AuditEvent::BackChannelLogoutUnmatched
    } else {
        info!(issuer, sessions = count, "sessions ended at their provider");
        AuditEvent::BackChannelLogout
    };
    web.keep(&SessionEvent { time: now, event, sessions: Some(count), ..SessionEvent::default() });
    answer(StatusCode::OK, "")
}

async fn signed_out(State(web): Shared) -> Response {
    let places = web.places();
    web.pages().signed_out(&format!("{}/", places.origin(&places.login)))
}

/// HAProxy refused somebody who opens a page at a workspace's host, and has the page of us. What it says
/// of the refusal is in headers that it takes from clients first.
async fn refused(State(web): Shared, headers: HeaderMap) -> Response {
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
    let path = text("x-identity-path").unwrap_or_else(|| "/".into());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("to", &path);
    web.pages().refused(&Refused {
        reason,
        decision: &text("x-identity-decision-id").unwrap_or_default(),
        user: user.as_deref(),
        host: host.as_ref().map_or("", Host::as_str),
        owner: text("x-identity-owner").as_deref(),
        switch: &format!("{PATHS}switch?{}", query.finish()),
        sign_out: &web.places().page("sign-out"),
    })
}

/// Somebody at a workspace's host wants to be somebody else.
async fn switch(
    State(web): Shared,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let is_workspace =
        |host: &Host| web.live.load().patterns.resolve(host, &mut Scratch::default()).is_some();
    let Some(host) = host(&headers).filter(is_workspace) else { return web.pages().nothing() };
    let to = query.get("to").map_or("/", String::as_str);
    let held = headers.get(COOKIE).map_or(&b""[..], |header| header.as_bytes());
    let (sealer, now) = (&web.sign_in.browser.sealer, Timestamp::now());
    match Start::offer(sealer, web.places(), host.as_str(), to, held, now) {
        Ok(offer) => see_other(&format!("{}&ask=1", offer.location), [offer.cookie]),
        Err(_) => web.pages().unavailable(),
    }
}

async fn style() -> Response {
    page::style()
}

async fn logo(State(web): Shared) -> Response {
    web.pages().logo().unwrap_or_else(|| web.pages().nothing())
}

async fn nothing(State(web): Shared) -> Response {
    web.pages().nothing()
}

/// Sends a browser on with a GET, whatever it came with (RFC 9700 section 4.12).
fn see_other(address: &str, cookies: impl IntoIterator<Item = String>) -> Response {
    let cookies: Vec<_> = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)).collect();
    let headers = [(LOCATION, address.to_owned())];
    let mut response = (StatusCode::SEE_OTHER, headers, AppendHeaders(cookies)).into_response();
    page::protect(response.headers_mut());
    response
}

fn session_cookie(name: &str, id: &str) -> String {
    format!("{name}={id}; Path=/; Secure; HttpOnly; SameSite=Lax")
}

fn expired(name: &str) -> String {
    format!("{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// Does something that may wait for the disk; `None` after a panic.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The host of a request without its port.
fn host(headers: &HeaderMap) -> Option<Host> {
    Host::parse(headers.get(HOST)?.as_bytes()).ok()
}

/// Whether a browser loads a page in a window of its own, as far as it says (Fetch Metadata section 2.1): nothing
/// is handed over in a frame, or to a script that asks for our addresses.
fn is_page_load(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-dest").is_none_or(|dest| dest == "document")
}

/// The value of a cookie that is there once; of two, nobody knows which is ours.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter();
    let mut found = lines.flat_map(|line| cookie::values(line.as_bytes(), name.as_bytes()));
    let value = found.next().filter(|_| found.next().is_none())?;
    String::from_utf8(value.to_vec()).ok()
}

/// The names of the cookies of attempts that a browser has, and how long each is.
fn attempts(headers: &HeaderMap) -> Vec<(String, usize)> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| cookie::pairs(line.as_bytes()));
    let ours = pairs.filter(|pair| pair.starts_with(ATTEMPT_COOKIE.as_bytes()));
    let named = ours.filter_map(|pair| {
        let name = pair.split(|byte| *byte == b'=').next()?;
        // It is written into a header again.
        let is_name = name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte));
        Some((String::from_utf8(name.to_vec()).ok().filter(|_| is_name)?, pair.len()))
    });
    named.collect()
}

/// Binds where HAProxy finds the pages.
///
/// # Errors
/// The address is taken, or not this machine's.
pub fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
