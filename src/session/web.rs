//! The pages behind HAProxy: at the login host, and at the reserved path of each workspace's host.
//!
//! HAProxy leads only these here, and never leads them to a workspace.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Form, Path, Query, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE},
    },
    response::{AppendHeaders, IntoResponse, Response},
    routing::{get, post},
};
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    COOKIE as SESSION, LOGIN_COOKIE, Session, SignIn,
    client::{Client, SignedIn},
    flow::{ATTEMPT_COOKIE, Attempt, PATHS, PRE_COOKIE, Places, Start, Ticket, Used, decision_id},
    page::{self, Page, STYLE},
};
use crate::{
    audit::{SessionAct, Trail},
    clock::Timestamp,
    decision::Reason,
    gate::Gate,
    identity::Identity,
    workspace::host::Host,
};

/// How long requests under way have when the agent ends.
const DRAIN: Duration = Duration::from_secs(5);
/// The most attempts to sign in that one browser can have under way; beyond it, the others are dropped.
const MAX_ATTEMPTS: usize = 5;

/// How often sessions that are over are forgotten.
const TIDY: Duration = Duration::from_secs(30);

/// The pages.
pub struct Web {
    /// What they share with the gate.
    pub sign_in: Arc<SignIn>,
    /// Decides where a ticket may lead.
    pub gate: Arc<Gate>,
    /// The providers at which people sign in; at least one.
    pub clients: Vec<Client>,
    /// What was used.
    pub used: Used,
    /// Where what happens to sessions is recorded.
    pub trail: Arc<Trail>,
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
            .route(&path("finish"), get(finish))
            .route(&path("sign-out"), get(ask_sign_out).post(sign_out))
            .route(&path("signed-out"), get(signed_out))
            .route(&path("back-channel/{issuer}"), post(back_channel))
            .route(&path("style.css"), get(style))
            .fallback(nothing)
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
                error!(%error, "the sign-in pages ended");
            },
            () = too_late => info!("ending with sign-in requests under way"),
        }
    }

    fn places(&self) -> &Places {
        &self.sign_in.places
    }

    /// The login host's session of a browser, with its cookie.
    fn login(&self, headers: &HeaderMap, now: Timestamp) -> Option<(String, Arc<Session>)> {
        let cookie = cookie(headers, LOGIN_COOKIE)?;
        let login = &self.places().login;
        let session = self.sign_in.sessions.find(cookie.as_bytes(), login, now)?;
        // A new sign-in shows whether the person may have one.
        (!self.gate.revocations.cover(&session.identity)).then_some((cookie, session))
    }

    /// Records what happened. Returns whether it is on record.
    fn record(&self, act: &'static str, identity: &Identity, host: Option<&str>) -> bool {
        let (time, identity) = (Timestamp::now(), Some(identity));
        self.keep(&SessionAct { time, act, identity, host, ..SessionAct::default() })
    }

    /// Ends a session at every host.
    async fn end(&self, session: Arc<Session>) {
        let (sign_in, ended) = (Arc::clone(&self.sign_in), Arc::clone(&session));
        let end = move || sign_in.sessions.end(|other| other.is(&ended));
        if !matches!(blocking(end).await, Some(Ok(_))) {
            error!("a session that was signed out may come back with the next start");
        }
        info!(user = session.identity.label(), "signed out");
        self.record("sign_out", &session.identity, None);
    }

    fn keep(&self, act: &SessionAct) -> bool {
        let kept = self.trail.keep(act).is_ok();
        self.gate.metrics.session_act(act.act);
        if !kept {
            error!(act = act.act, "the audit trail has no room for the record of it");
        }
        kept
    }

    /// Whether this is the login host.
    fn is_login(&self, headers: &HeaderMap) -> bool {
        host(headers).is_some_and(|host| host.as_str() == &*self.places().login)
    }

    /// Sends a browser on to its workspace, if whoever signed in may go there.
    fn go(&self, start: &Start, login: &str, session: &Session, now: Timestamp) -> Response {
        let identity = Arc::clone(&session.identity);
        let Ok(place) = Host::parse(start.host.as_bytes()) else {
            return problem("That is no workspace's address", "Please open the workspace again.");
        };
        let decision = self.gate.judge(&place, start.path.as_bytes(), identity);
        // Only whoever may never reach it is told so here; a workspace that is starting is on its own
        // host soon.
        if decision.verdict() == crate::decision::Verdict::Deny {
            return self.deny(start, session, decision.reason, now);
        }
        match start.ticket(&self.sign_in.sealer, self.places(), login, now) {
            Ok(address) => see_other(&address, []),
            Err(_) => unavailable(),
        }
    }

    /// Tells a person why a workspace is not for them, and what they can do.
    fn deny(&self, start: &Start, session: &Session, reason: Reason, now: Timestamp) -> Response {
        let (Ok(id), Ok(sealed)) = (decision_id(), start.seal(&self.sign_in.sealer, self.places()))
        else {
            return unavailable();
        };
        self.keep(&SessionAct {
            time: now,
            act: "sign_in_denied",
            identity: Some(&session.identity),
            host: Some(&start.host),
            reason: Some(reason.id()),
            decision_id: Some(&id),
            sessions: None,
        });
        let text = format!(
            "You are signed in as {}, who may not open {}: {reason}. Ask the workspace's owner to share it with you, and name the decision {id} to whoever looks into it.",
            session.identity.label(),
            start.host,
        );
        let links = [
            (format!("{PATHS}start?ask=1&r={sealed}"), "Sign in as somebody else".to_owned()),
            (format!("{PATHS}sign-out"), "Sign out".to_owned()),
        ];
        let (title, status) = ("No access", StatusCode::FORBIDDEN);
        Page { status, title, text: &text, links: &links, form: None }.into_response()
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
        let Ok(attempt) = attempt else { return unavailable() };
        let address = match client.authorize(&attempt, self.places(), ask).await {
            Ok(address) => address,
            Err(error) => {
                warn!(issuer = client.issuer(), %error, "nobody can sign in at this provider");
                return unavailable();
            }
        };
        let Ok(cookie) = attempt.cookie(&self.sign_in.sealer, self.places()) else {
            return unavailable();
        };
        let old = attempts(headers);
        let dropped = if old.len() >= MAX_ATTEMPTS { old } else { vec![] };
        let cookies = dropped.iter().map(|name| expired(name)).chain([cookie]);
        see_other(address.as_str(), cookies)
    }
}

/// Forgets what is over, now and then.
async fn tidy(sign_in: Arc<SignIn>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TIDY) => {}
        }
        let sign_in = Arc::clone(&sign_in);
        let tidied = blocking(move || sign_in.sessions.tidy(Timestamp::now())).await;
        if let Some(Err(error)) = tidied {
            error!(%error, "when sessions were used last is not kept");
        }
    }
}

/// Somebody opened the login host itself.
async fn home(State(web): Shared, headers: HeaderMap) -> Response {
    if !web.is_login(&headers) {
        return nothing().await;
    }
    match web.login(&headers, Timestamp::now()) {
        Some((_, session)) => {
            let text = format!("You are signed in as {}.", session.identity.label());
            let address = format!("{PATHS}sign-out");
            let form = Some((address.as_str(), "Sign out"));
            let (status, title) = (StatusCode::OK, "Signed in");
            Page { status, title, text: &text, links: &[], form }.into_response()
        }
        None => choose(&web, None, false).unwrap_or_else(unavailable),
    }
}

async fn start(
    State(web): Shared,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    if !web.is_login(&headers) {
        return nothing().await;
    }
    let now = Timestamp::now();
    let sealed = query.get("r");
    let start = sealed.and_then(|r| Start::open(&web.sign_in.sealer, web.places(), r, now));
    if sealed.is_some() && start.is_none() {
        return problem("That took too long", "Please open the workspace again.");
    }
    // Somebody else wants to sign in.
    let ask = query.contains_key("ask");
    if !ask && let (Some(start), Some((login, session))) = (&start, web.login(&headers, now)) {
        return web.go(start, &login, &session, now);
    }
    let named = query.get("with").map(String::as_str);
    let client = match (named, web.clients.as_slice()) {
        (Some(named), clients) => clients.iter().find(|client| client.issuer() == named),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    match client {
        Some(client) => web.begin(client, start, &headers, ask).await,
        None => choose(&web, start.as_ref(), ask).unwrap_or_else(unavailable),
    }
}

/// A page to choose a provider from.
fn choose(web: &Web, start: Option<&Start>, ask: bool) -> Option<Response> {
    let sealed = match start {
        Some(start) => Some(start.seal(&web.sign_in.sealer, web.places()).ok()?),
        None => None,
    };
    let link = |client: &Client| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("with", client.issuer());
        if let Some(sealed) = &sealed {
            query.append_pair("r", sealed);
        }
        if ask {
            query.append_pair("ask", "1");
        }
        let address = format!("{PATHS}start?{}", query.finish());
        (address, format!("Sign in with {}", client.issuer()))
    };
    let links: Vec<_> = web.clients.iter().map(link).collect();
    let (status, title) = (StatusCode::OK, "Sign in");
    let text = "Choose where you have an account.";
    Some(Page { status, title, text, links: &links, form: None }.into_response())
}

/// The provider sends the browser back (OIDC Core section 3.1.2.5).
async fn callback(
    State(web): Shared,
    Path(issuer): Path<String>,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    if !web.is_login(&headers) {
        return nothing().await;
    }
    let now = Timestamp::now();
    let again = || problem("That did not work", "Please open the workspace again.");
    let parameter = |name: &str| query.get(name).map(String::as_str);
    let state = parameter("state").unwrap_or_default();
    let name = Attempt::cookie_of(state);
    let attempt = cookie(&headers, &name)
        .and_then(|sealed| Attempt::open(&web.sign_in.sealer, web.places(), &sealed, state, now));
    let Some(attempt) = attempt.filter(|attempt| attempt.issuer == issuer) else {
        return again();
    };
    let until = now.plus(super::flow::ATTEMPT_FOR);
    if !web.used.take(&attempt.state, until, now) {
        return again();
    }
    if let Some(error) = parameter("error") {
        let error: String = error.chars().take(64).flat_map(char::escape_debug).collect();
        info!(issuer, error, "the provider signed nobody in");
        return problem("You are not signed in", "The provider did not sign you in.");
    }
    let client = web.clients.iter().find(|client| client.issuer() == issuer);
    let (Some(client), Some(code)) = (client, parameter("code")) else { return again() };
    let signed_in = match client.exchange(&attempt, web.places(), code, parameter("iss")).await {
        Ok(signed_in) => signed_in,
        Err(error) => {
            warn!(issuer, %error, "a sign-in failed");
            return problem("That did not work", "The provider's answer could not be verified.");
        }
    };
    let login = web.places().login.clone();
    let begun = {
        let (sign_in, login) = (Arc::clone(&web.sign_in), login.clone());
        let SignedIn { identity, id_token } = signed_in;
        blocking(move || sign_in.sessions.begin(identity, id_token, &login, now)).await
    };
    let Some(Ok((id, session))) = begun else { return unavailable() };
    info!(user = session.identity.label(), issuer, "signed in");
    if let Some((_, before)) = web.login(&headers, now)
        && (&before.identity.issuer, &before.identity.subject)
            != (&session.identity.issuer, &session.identity.subject)
    {
        // Somebody else used this browser, and is gone.
        web.end(before).await;
    }
    // Nobody is signed in without a record of it.
    if !web.record("sign_in", &session.identity, None) {
        return unavailable();
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

/// A ticket arrives at a workspace's host.
async fn finish(
    State(web): Shared,
    headers: HeaderMap,
    Query(query): Query<Parameters>,
) -> Response {
    let now = Timestamp::now();
    let again = || problem("That took too long", "Please open this workspace again.");
    let (Some(host), Some(text)) = (host(&headers), query.get("t")) else { return again() };
    let ticket = cookie(&headers, PRE_COOKIE)
        .and_then(|secret| Ticket::open(&web.sign_in.sealer, host.as_str(), text, &secret, now));
    let Some(ticket) = ticket.filter(|ticket| ticket.take(&web.used, now)) else {
        return again();
    };
    let login = &web.places().login;
    let sessions = &web.sign_in.sessions;
    let Some(session) = sessions.find(ticket.session.as_bytes(), login, now) else {
        return again();
    };
    if !web.record("session_host", &session.identity, Some(host.as_str())) {
        return unavailable();
    }
    let id = {
        let (sign_in, host) = (Arc::clone(&web.sign_in), host.clone());
        blocking(move || sign_in.sessions.handle(&session, host.as_str(), now)).await
    };
    let Some(Ok(id)) = id else { return unavailable() };
    let address = format!("{}{}", web.places().origin(host.as_str()), ticket.path);
    see_other(&address, [session_cookie(SESSION, &id), expired(PRE_COOKIE)])
}

async fn ask_sign_out(State(web): Shared, headers: HeaderMap) -> Response {
    if !web.is_login(&headers) {
        return nothing().await;
    }
    let address = format!("{PATHS}sign-out");
    let form = Some((address.as_str(), "Sign out"));
    let (status, title) = (StatusCode::OK, "Sign out");
    let text = "This ends your session at every workspace.";
    Page { status, title, text, links: &[], form }.into_response()
}

async fn sign_out(State(web): Shared, headers: HeaderMap, Form(_): Form<Parameters>) -> Response {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    // A workspace's page must not sign anybody out.
    let ours = web.places().origin(&web.places().login);
    if !web.is_login(&headers) || origin.is_some_and(|origin| origin != ours) {
        return nothing().await;
    }
    let mut address = web.places().page("signed-out");
    if let Some((_, session)) = web.login(&headers, Timestamp::now()) {
        web.end(Arc::clone(&session)).await;
        let issuer = &*session.identity.authority.name;
        if let Some(client) = web.clients.iter().find(|client| client.issuer() == issuer)
            && let Some(url) = client.sign_out(session.id_token.expose_secret(), web.places()).await
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
        return nothing().await;
    }
    let answer = |status: StatusCode, error: &str| {
        let body = serde_json::json!({ "error": "invalid_request", "error_description": error });
        let body = if error.is_empty() { String::new() } else { body.to_string() };
        let mut response = (status, body).into_response();
        page::protect(response.headers_mut());
        response
    };
    let client = web.clients.iter().find(|client| client.issuer() == issuer);
    let (Some(client), Some(token)) = (client, form.get("logout_token")) else {
        return answer(StatusCode::BAD_REQUEST, "expected a logout_token of a known issuer");
    };
    let ended = match client.logout(token).await {
        Ok(ended) => ended,
        Err(error) => {
            warn!(issuer, %error, "a logout token is refused");
            return answer(StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    let now = Timestamp::now();
    let until = now.plus(Duration::from_mins(10));
    if !web.used.take(&format!("{} {}", ended.issuer, ended.id), until, now) {
        return answer(StatusCode::BAD_REQUEST, "the token was used before");
    }
    let sign_in = Arc::clone(&web.sign_in);
    let end = move || {
        sign_in.sessions.end(|session| {
            let identity = &session.identity;
            let session = ended.session.as_ref();
            let session = session.map(|sid| identity.token.session.as_ref() == Some(sid));
            let subject = ended.subject.as_ref().map(|subject| identity.subject == *subject);
            // With both, the session is one of the subject's.
            identity.issuer == ended.issuer
                && session.unwrap_or(true)
                && subject.unwrap_or(true)
                && (session.is_some() || subject.is_some())
        })
    };
    // The provider asks again.
    let Some(Ok(count)) = blocking(end).await else {
        return answer(StatusCode::BAD_REQUEST, "the sessions ended but may come back");
    };
    info!(issuer, sessions = count, "sessions ended at their provider");
    let act = "back_channel_logout";
    web.keep(&SessionAct { time: now, act, sessions: Some(count), ..SessionAct::default() });
    answer(StatusCode::OK, "")
}

async fn signed_out() -> Response {
    let (status, title) = (StatusCode::OK, "Signed out");
    let text = "Your session has ended at every workspace.";
    Page { status, title, text, links: &[], form: None }.into_response()
}

async fn style() -> Response {
    let mut response = STYLE.into_response();
    page::protect(response.headers_mut());
    if let Ok(kind) = "text/css; charset=utf-8".parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

async fn nothing() -> Response {
    let (status, title) = (StatusCode::NOT_FOUND, "There is nothing here");
    Page { status, title, text: "Please check the address.", links: &[], form: None }
        .into_response()
}

/// A page that never leads on by itself, so that nothing can go round in circles.
fn problem(title: &str, text: &str) -> Response {
    let status = StatusCode::BAD_REQUEST;
    Page { status, title, text, links: &[], form: None }.into_response()
}

fn unavailable() -> Response {
    let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "Not possible at the moment");
    Page { status, title, text: "Please try again in a minute.", links: &[], form: None }
        .into_response()
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

/// The value of a cookie that is there once; of two, nobody knows which is ours.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let values =
        headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let mut found = values.filter_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    });
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// The names of the cookies of attempts that a browser has.
fn attempts(headers: &HeaderMap) -> Vec<String> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let names =
        pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| pair.trim().split('=').next());
    names.filter(|name| name.starts_with(ATTEMPT_COOKIE)).map(str::to_owned).collect()
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
