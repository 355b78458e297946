//! A development OpenID provider on loopback: discovery, key set, key rotation, tokens for made-up
//! people, faults on demand. FOR TESTS AND THE DEMO ONLY: it gives a token to every client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    missing_docs,
    reason = "test support: a broken stage must stop the test"
)]

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Form, Query, State},
    http::{HeaderMap, Response, StatusCode, header},
    routing::{get, post},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub mod keys;

use keys::Keys;

/// A running provider; stops when dropped.
pub struct DevIdp {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: CancellationToken,
}

struct Shared {
    issuer: String,
    state: Mutex<Inner>,
}

struct Inner {
    keys: Arc<Keys>,
    previous: Option<Arc<Keys>>,
    publish_previous: bool,
    faults: Faults,
    counters: Counters,
    /// Who is signed in at the provider.
    user: String,
    /// What was promised for each code.
    codes: HashMap<String, HashMap<String, String>>,
    /// Whose each refresh token is; one that was used is gone.
    refresh: HashMap<String, String>,
    /// The person of each device code, once one signed in with it.
    devices: HashMap<String, Option<String>>,
    /// Claims over the usual ones of ID tokens that are given for a refresh token.
    renewed: Map<String, Value>,
    /// The same for those that are given for a code.
    signed_in: Map<String, Value>,
}

/// What goes wrong at each endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    pub discovery: Fault,
    pub jwks: Fault,
    pub introspection: Fault,
    pub refresh: Fault,
}

/// What goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    #[default]
    Ok,
    /// This status.
    Status(u16),
    /// An answer after so many milliseconds.
    Slow(u64),
    /// No answer at all.
    Hang,
    /// Something that is not JSON.
    Garbage,
    /// Two megabytes.
    Oversize,
    /// A redirect to the same endpoint of another provider.
    Redirect(String),
    /// Nothing in the body.
    Empty,
    /// The discovery document of another issuer.
    WrongIssuer,
    /// Keys that never signed anything, under the ids of those that did.
    WrongKeys,
}

/// How often each endpoint was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub discovery: u64,
    pub jwks: u64,
    pub introspection: u64,
    /// Refresh tokens that were used.
    pub refresh: u64,
    /// Refresh tokens that were used again, or never given.
    pub refused: u64,
    /// Tokens that were given back.
    pub given_back: u64,
}

/// A token to be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRequest {
    /// `alice`, `bob`, or any other name.
    pub user: String,
    /// The algorithm, `none` and `HS256` (with the public RSA key as secret) among them.
    pub alg: String,
    /// The audience: text or a list.
    pub audience: Value,
    /// Seconds from now; may be negative.
    pub expires_in: i64,
    /// Claims over the usual ones; null takes one away.
    pub claims: Map<String, Value>,
    /// Header members over the usual ones; null takes one away.
    pub header: Map<String, Value>,
    /// `current`, `previous` or `unpublished`.
    pub sign_with: String,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self {
            user: "alice".into(),
            alg: "ES256".into(),
            audience: json!("workspaces"),
            expires_in: 300,
            claims: Map::new(),
            header: Map::new(),
            sign_with: "current".into(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    keep_previous: bool,
}

impl DevIdp {
    /// Starts on a free port of loopback.
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), "").await.unwrap()
    }

    /// Starts at an address; the issuer gets the path.
    pub async fn start_at(address: SocketAddr, path: &str) -> std::io::Result<Self> {
        assert!(address.ip().is_loopback(), "a development provider serves loopback only");
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            issuer: format!("http://{address}{path}"),
            state: Mutex::new(Inner {
                keys: Arc::new(Keys::generate(1)),
                previous: None,
                publish_previous: false,
                faults: Faults::default(),
                counters: Counters::default(),
                user: "alice".into(),
                codes: HashMap::new(),
                refresh: HashMap::new(),
                devices: HashMap::new(),
                renewed: Map::new(),
                signed_in: Map::new(),
            }),
        });
        let idp = Self { shared, address, stop: CancellationToken::new() };
        idp.serve(listener, path);
        Ok(idp)
    }

    fn serve(&self, listener: TcpListener, path: &str) {
        let router = Router::new()
            .route(&format!("{path}/.well-known/openid-configuration"), get(discovery))
            .route(&format!("{path}/jwks"), get(jwks))
            .route(&format!("{path}/introspect"), post(introspect))
            .route(&format!("{path}/authorize"), get(authorize))
            .route(&format!("{path}/token"), post(exchange))
            .route(&format!("{path}/end-session"), get(end_session))
            .route(&format!("{path}/revoke"), post(give_back))
            .route(&format!("{path}/device"), post(device))
            .route("/dev/token", post(token))
            .route("/dev/rotate", post(rotate))
            .route("/dev/faults", post(faults))
            .route("/dev/counters", get(counters))
            .with_state(Arc::clone(&self.shared));
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                served = axum::serve(listener, router) => served.unwrap(),
            }
        });
    }

    /// Stops answering; the keys stay for [`Self::restart`].
    pub fn halt(&mut self) {
        self.stop.cancel();
    }

    /// Answers again at the same address with the same keys.
    pub async fn restart(&mut self) {
        self.stop = CancellationToken::new();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.serve(listener, "");
    }

    pub fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    pub fn token(&self, request: &TokenRequest) -> String {
        self.shared.token(request)
    }

    /// The token of a user with everything else as usual.
    pub fn token_of(&self, user: &str) -> String {
        self.token(&TokenRequest { user: user.into(), ..TokenRequest::default() })
    }

    /// The RSA key that signs at present, as PEM.
    pub fn rsa_pem(&self) -> String {
        self.shared.lock().keys.rsa_pem()
    }

    /// Who is signed in at the provider, and so signs in elsewhere without being asked.
    pub fn set_user(&self, user: &str) {
        self.shared.lock().user = user.into();
    }

    /// New keys; the old ones stay in the key set or not.
    pub fn rotate(&self, keep_previous: bool) {
        self.shared.rotate(keep_previous);
    }

    /// Says something else of people when it is asked again.
    pub fn set_renewed(&self, claims: &Value) {
        self.shared.lock().renewed.clone_from(claims.as_object().unwrap());
    }

    /// Says something else in the ID tokens that are given for a code; null takes a claim away.
    pub fn set_signed_in(&self, claims: &Value) {
        self.shared.lock().signed_in.clone_from(claims.as_object().unwrap());
    }

    /// Signs this person in on every device that waits for a code.
    pub fn approve_devices(&self, user: &str) {
        self.shared.lock().devices.values_mut().for_each(|who| *who = Some(user.into()));
    }

    /// How many devices wait for a person.
    pub fn devices(&self) -> usize {
        self.shared.lock().devices.len()
    }

    /// Takes every refresh token back.
    pub fn forget_refresh_tokens(&self) {
        self.shared.lock().refresh.clear();
    }

    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }
}

impl Drop for DevIdp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap()
    }

    fn rotate(&self, keep_previous: bool) {
        let mut state = self.lock();
        let next = Arc::new(Keys::generate(state.keys.generation + 1));
        state.previous = Some(std::mem::replace(&mut state.keys, next));
        state.publish_previous = keep_previous;
    }

    fn token(&self, request: &TokenRequest) -> String {
        let keys = match request.sign_with.as_str() {
            "previous" => self.lock().previous.clone().expect("there was no rotation yet"),
            "unpublished" => Arc::new(Keys::generate(9999)),
            _ => Arc::clone(&self.lock().keys),
        };
        let mut header = json!({"alg": request.alg, "typ": "JWT", "kid": keys.id(&request.alg)});
        let now =
            i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let user = &request.user;
        let groups =
            if user == "alice" { json!(["engineers", "leads"]) } else { json!(["engineers"]) };
        let mut claims = json!({
            "iss": self.issuer, "aud": request.audience, "sub": format!("sub-{user}"),
            "iat": now - 1, "exp": now + request.expires_in,
            "email": format!("{user}@example.com"), "email_verified": true,
            "preferred_username": user, "groups": groups, "org": "acme",
        });
        merge(&mut header, &request.header);
        merge(&mut claims, &request.claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(keys.sign(&request.alg, message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn merge(value: &mut Value, over: &Map<String, Value>) {
    let members = value.as_object_mut().unwrap();
    for (name, value) in over {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let fault = {
        let mut state = shared.lock();
        state.counters.discovery += 1;
        state.faults.discovery.clone()
    };
    let issuer = if fault == Fault::WrongIssuer { "http://127.0.0.1:1" } else { &shared.issuer };
    let document = json!({
        "issuer": issuer,
        "jwks_uri": format!("{}/jwks", shared.issuer),
        "introspection_endpoint": format!("{}/introspect", shared.issuer),
        "authorization_endpoint": format!("{}/authorize", shared.issuer),
        "token_endpoint": format!("{}/token", shared.issuer),
        "end_session_endpoint": format!("{}/end-session", shared.issuer),
        "revocation_endpoint": format!("{}/revoke", shared.issuer),
        "device_authorization_endpoint": format!("{}/device", shared.issuer),
        "authorization_response_iss_parameter_supported": true,
    });
    respond(&fault, &document).await
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let (fault, document) = {
        let mut state = shared.lock();
        state.counters.jwks += 1;
        let mut keys = match state.faults.jwks {
            Fault::WrongKeys => Keys::generate(state.keys.generation).jwks(),
            _ => state.keys.jwks(),
        };
        if let Some(previous) = state.previous.as_ref().filter(|_| state.publish_previous) {
            keys.extend(previous.jwks());
        }
        (state.faults.jwks.clone(), json!({"keys": keys}))
    };
    respond(&fault, &document).await
}

/// What an opaque token says: `opaque-USER` is that user's for a minute, and the others say what their
/// names say. The client is `gate` with the secret `s3cret&+`, form-encoded as it must be.
async fn introspect(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> Response<Body> {
    let fault = {
        let mut state = shared.lock();
        state.counters.introspection += 1;
        state.faults.introspection.clone()
    };
    let known = format!("Basic {}", STANDARD.encode("gate:s3cret%26%2B"));
    let authorized = headers.get(header::AUTHORIZATION).is_some_and(|value| value == &known);
    if !authorized && !body.contains("client_assertion=") {
        return respond(&Fault::Status(401), &Value::Null).await;
    }
    let token = body.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let user = token.strip_prefix("opaque-").unwrap_or_default();
    let mut answer = json!({
        "active": true, "iss": shared.issuer, "aud": "workspaces", "sub": format!("sub-{user}"),
        "exp": now + 60, "token_type": "Bearer", "preferred_username": user,
    });
    match user {
        "" | "inactive" => answer = json!({"active": false}),
        "textual" => answer["active"] = json!("true"),
        "elsewhere" => answer["aud"] = json!("elsewhere"),
        "short" => answer["exp"] = json!(now - 28),
        _ => {}
    }
    respond(&fault, &answer).await
}

/// Signs in the person who is signed in here, without a form (OIDC Core section 3.1.2).
async fn authorize(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response<Body> {
    for (name, value) in [("response_type", "code"), ("code_challenge_method", "S256")] {
        assert_eq!(query[name], value, "{query:?}");
    }
    assert!(matches!(query["client_id"].as_str(), "gate" | "cli"), "{query:?}");
    let code = {
        let mut state = shared.lock();
        let code = format!("code-{}", state.codes.len());
        let mut promised = query.clone();
        promised.insert("user".into(), state.user.clone());
        state.codes.insert(code.clone(), promised);
        code
    };
    let issuer = shared.issuer.replace(':', "%3A").replace('/', "%2F");
    let (to, state) = (&query["redirect_uri"], &query["state"]);
    let to = format!("{to}?code={code}&state={state}&iss={issuer}");
    Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).unwrap()
}

/// Gives an ID token for a code, once, to who has its verifier (RFC 7636 section 4.6).
async fn exchange(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response<Body> {
    let known = format!("Basic {}", STANDARD.encode("gate:s3cret%26%2B"));
    let authorized = headers.get(header::AUTHORIZATION).is_some_and(|value| value == &known);
    // The command line's, which has no secret.
    let public = form.get("client_id").is_some_and(|id| id == "cli");
    if form["grant_type"] == "refresh_token" {
        return renew(&shared, authorized || public, &form["refresh_token"]).await;
    }
    if public && form.contains_key("device_code") {
        let user = shared.lock().devices.get(&form["device_code"]).cloned();
        let answer = match user {
            None => json!({ "error": "invalid_grant" }),
            Some(None) => json!({ "error": "authorization_pending" }),
            Some(Some(user)) => shared.for_programs(&user),
        };
        return respond(&Fault::Ok, &answer).await;
    }
    let promised = shared.lock().codes.remove(&form["code"]);
    let challenge = {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
        URL_SAFE_NO_PAD.encode(digest)
    };
    let promised = promised.filter(|promised| {
        (authorized || public && promised["client_id"] == "cli")
            && promised["code_challenge"] == challenge
            && promised["redirect_uri"] == form["redirect_uri"]
    });
    let Some(promised) = promised else {
        return respond(&Fault::Status(400), &Value::Null).await;
    };
    if public {
        return respond(&Fault::Ok, &shared.for_programs(&promised["user"])).await;
    }
    let mut claims = json!({ "nonce": promised["nonce"], "sid": "idp-session" });
    claims.as_object_mut().unwrap().extend(shared.lock().signed_in.clone());
    let id_token = shared.token(&TokenRequest {
        user: promised["user"].clone(),
        audience: json!("gate"),
        claims: claims.as_object().unwrap().clone(),
        ..TokenRequest::default()
    });
    let mut answer =
        json!({ "id_token": id_token, "access_token": "opaque", "token_type": "Bearer" });
    answer["refresh_token"] = shared.lock().new_refresh(&promised["user"]).into();
    respond(&Fault::Ok, &answer).await
}

impl Shared {
    /// The tokens of a person at a terminal.
    fn for_programs(&self, user: &str) -> Value {
        let request = TokenRequest { user: user.into(), ..TokenRequest::default() };
        let refresh = self.lock().new_refresh(user);
        json!({ "access_token": self.token(&request), "token_type": "Bearer", "expires_in": 300, "refresh_token": refresh })
    }
}

/// A code for a browser somewhere else (RFC 8628 section 3.2).
async fn device(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let code = format!("device-{:016x}", rand());
    shared.lock().devices.insert(code.clone(), None);
    let answer = json!({
        "device_code": code, "user_code": "WDJB-MJHT", "interval": 1, "expires_in": 60,
        "verification_uri": format!("{}/enter", shared.issuer),
    });
    respond(&Fault::Ok, &answer).await
}

impl Inner {
    fn new_refresh(&mut self, user: &str) -> String {
        let token = format!("refresh-canary-{:016x}", rand());
        self.refresh.insert(token.clone(), user.to_owned());
        token
    }
}

fn rand() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes)
}

/// Gives new tokens for a refresh token, once (RFC 6749 section 6).
async fn renew(shared: &Shared, authorized: bool, token: &str) -> Response<Body> {
    let (fault, answer) = {
        let mut state = shared.lock();
        let fault = state.faults.refresh.clone();
        let user = state.refresh.get(token).cloned().filter(|_| authorized);
        let answer = match user {
            _ if fault != Fault::Ok => None,
            None => {
                state.counters.refused += 1;
                None
            }
            Some(user) => {
                state.counters.refresh += 1;
                state.refresh.remove(token);
                let next = state.new_refresh(&user);
                Some((user, next, state.renewed.clone()))
            }
        };
        (fault, answer)
    };
    let Some((user, next, claims)) = answer else {
        let document = json!({ "error": "invalid_grant" });
        let mut response = respond(&fault, &document).await;
        if fault == Fault::Ok {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        return response;
    };
    let audience = json!("gate");
    let access = shared.token(&TokenRequest { user: user.clone(), ..TokenRequest::default() });
    let id_token =
        shared.token(&TokenRequest { user, audience, claims, ..TokenRequest::default() });
    let answer = json!({ "id_token": id_token, "access_token": access, "expires_in": 300, "refresh_token": next });
    respond(&Fault::Ok, &answer).await
}

/// Takes a token back (RFC 7009).
async fn give_back(
    State(shared): State<Arc<Shared>>,
    Form(form): Form<HashMap<String, String>>,
) -> StatusCode {
    let mut state = shared.lock();
    if state.refresh.remove(&form["token"]).is_some() {
        state.counters.given_back += 1;
    }
    StatusCode::OK
}

/// Where a person signs out; sends them back.
async fn end_session(Query(query): Query<HashMap<String, String>>) -> Response<Body> {
    assert!(query["id_token_hint"].split('.').count() == 3);
    let to = &query["post_logout_redirect_uri"];
    Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).unwrap()
}

async fn respond(fault: &Fault, document: &Value) -> Response<Body> {
    let response = |status: u16, body: Vec<u8>| {
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap()
    };
    match fault {
        Fault::Ok | Fault::WrongIssuer | Fault::WrongKeys => {}
        Fault::Status(status) => return response(*status, Vec::new()),
        Fault::Slow(millis) => tokio::time::sleep(Duration::from_millis(*millis)).await,
        Fault::Hang => {
            let (): () = std::future::pending().await;
        }
        Fault::Garbage => return response(200, b"<html>\xff".to_vec()),
        Fault::Oversize => {
            // Without a length, so that only counting helps.
            let chunks = (0..32).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 64 * 1024])));
            return Response::new(Body::from_stream(Chunks(chunks.collect())));
        }
        Fault::Redirect(to) => {
            return Response::builder()
                .status(302)
                .header(header::LOCATION, to)
                .body(Body::empty())
                .unwrap();
        }
        Fault::Empty => return response(200, Vec::new()),
    }
    response(200, document.to_string().into_bytes())
}

/// A body in pieces.
struct Chunks(std::collections::VecDeque<Result<Bytes, Infallible>>);

impl futures_core::Stream for Chunks {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

async fn token(State(shared): State<Arc<Shared>>, Json(request): Json<TokenRequest>) -> String {
    shared.token(&request)
}

async fn rotate(State(shared): State<Arc<Shared>>, Json(rotation): Json<Rotation>) -> StatusCode {
    shared.rotate(rotation.keep_previous);
    StatusCode::NO_CONTENT
}

async fn faults(State(shared): State<Arc<Shared>>, Json(faults): Json<Faults>) -> StatusCode {
    shared.lock().faults = faults;
    StatusCode::NO_CONTENT
}

async fn counters(State(shared): State<Arc<Shared>>) -> Json<Counters> {
    Json(shared.lock().counters)
}
