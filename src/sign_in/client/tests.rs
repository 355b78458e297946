//! The client against a provider on loopback whose documents and answers each test chooses.

use std::collections::BTreeMap;

use axum::{
    Form, Router,
    extract::State,
    http::{HeaderMap, StatusCode as Status},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dev_idp::keys::Keys;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    identity::{
        profile::{Authority, MatchBy},
        provider::FetchSchedule,
        settings::{AuthorizeParameters, ClientKey},
    },
    lock::Mutex as Lock,
};

/// What the provider says, and what it was sent.
struct Peer {
    issuer: String,
    keys: Keys,
    said: Lock<Said>,
    seen: Lock<Seen>,
}

#[derive(Clone)]
struct Said {
    /// Members of the discovery document over the usual ones; null takes one away.
    discovery: Value,
    /// Claims of ID tokens over the usual ones.
    id_token: Value,
    access_token: Value,
    userinfo: (u16, String),
    nonce: String,
}

#[derive(Default)]
struct Seen {
    /// The header Authorization and the form of each request of the token endpoint.
    token: Vec<(Option<String>, BTreeMap<String, String>)>,
    /// The header Authorization of each request of userinfo.
    userinfo: Vec<Option<String>>,
}

impl Peer {
    async fn start() -> Arc<Self> {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let said = Said {
            discovery: json!({}),
            id_token: json!({}),
            access_token: json!("access-canary"),
            userinfo: (200, json!({ "sub": "alice" }).to_string()),
            nonce: String::new(),
        };
        let peer = Arc::new(Self {
            issuer,
            keys: Keys::generate(1),
            said: Lock::new(said),
            seen: Lock::default(),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(Arc::clone(&peer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        peer
    }

    /// A client of it, whose people are matched by these fields.
    fn client(&self, matching: &[MatchBy], settings: ClientSettings) -> Client {
        let authority = Arc::new(Authority::new("corp", &self.issuer, matching.to_vec()));
        let issuer = self.issuer.parse().unwrap();
        let profile =
            Profile { authority, ..Profile::new("corp", issuer, vec!["programs".into()]) };
        Self::client_of(profile, settings)
    }

    fn client_of(profile: Profile, settings: ClientSettings) -> Client {
        let fetcher = || Fetcher::new(None, None).unwrap();
        let provider = Provider::new(Arc::new(profile), FetchSchedule::default(), fetcher());
        let authentication = match &settings.key {
            ClientKey::Public => ClientAuthentication::Public,
            ClientKey::Secret(_, method) => ClientAuthentication::Secret {
                secret: "s3cret&+".to_owned().into(),
                method: *method,
            },
            ClientKey::PrivateKey(..) => settings.key.authentication().unwrap(),
        };
        let refresh = Some(Duration::from_mins(1));
        Client::new(Arc::new(provider), fetcher(), settings, authentication, refresh)
    }

    /// Signs in.
    async fn sign_in(&self, client: &Client) -> Result<SignedIn, SignInError> {
        let attempt = Attempt::new("corp", None, Timestamp::now()).unwrap();
        self.said.lock().nonce.clone_from(&attempt.nonce);
        client.exchange(&attempt, &urls(), "code-canary", None).await
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock());
    }

    /// How often userinfo was asked.
    fn asked(&self) -> usize {
        self.seen.lock().userinfo.len()
    }

    fn id_token(&self) -> String {
        let said = self.said.lock().clone();
        let now = Timestamp::now().as_millis() / 1000;
        let mut claims = json!({
            "iss": self.issuer, "sub": "alice", "aud": "gate", "exp": now + 60, "iat": now,
            "nonce": said.nonce,
        });
        over(&mut claims, &said.id_token);
        let header = json!({ "alg": "ES256", "kid": self.keys.id("ES256") });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.keys.sign("ES256", message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn over(value: &mut Value, more: &Value) {
    let members = value.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
}

async fn discovery(State(peer): State<Arc<Peer>>) -> String {
    let issuer = &peer.issuer;
    let mut document = json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"),
        "authorization_endpoint": format!("{issuer}/authorize?policy=p"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
    });
    over(&mut document, &peer.said.lock().discovery);
    document.to_string()
}

async fn jwks(State(peer): State<Arc<Peer>>) -> String {
    json!({ "keys": peer.keys.jwks() }).to_string()
}

async fn token(
    State(peer): State<Arc<Peer>>,
    headers: HeaderMap,
    Form(form): Form<BTreeMap<String, String>>,
) -> String {
    let header = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    peer.seen.lock().token.push((header, form));
    let access = peer.said.lock().access_token.clone();
    let answer =
        json!({ "id_token": peer.id_token(), "access_token": access, "refresh_token": "r" });
    answer.to_string()
}

async fn userinfo(State(peer): State<Arc<Peer>>, headers: HeaderMap) -> (Status, String) {
    let header = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    peer.seen.lock().userinfo.push(header);
    let (status, body) = peer.said.lock().userinfo.clone();
    (Status::from_u16(status).unwrap(), body)
}

fn urls() -> PublicUrls {
    PublicUrls { login: "login.example.com".into(), port: 443 }
}

fn settings() -> ClientSettings {
    ClientSettings {
        id: "gate".into(),
        key: ClientKey::Secret(crate::secret::SecretLocation::Env("UNUSED".into()), None),
        scopes: "openid".into(),
        userinfo: None,
        authorize: AuthorizeParameters::default(),
        ask_prompt: None,
        label: None,
    }
}

fn groups(identity: &Identity) -> Vec<&str> {
    identity.groups.iter().map(|group| &**group).collect()
}

fn said(claims: Value) -> (u16, String) {
    let Value::Object(claims) = claims else { panic!("not an object: {claims}") };
    let mut all = Map::from_iter([("sub".to_owned(), json!("alice"))]);
    all.extend(claims);
    all.retain(|_, value| !value.is_null());
    (200, Value::Object(all).to_string())
}

#[tokio::test]
async fn q15_groups_and_names_that_only_userinfo_has_are_those_of_the_person() {
    let peer = Peer::start().await;
    let client = peer.client(&[MatchBy::Email], settings());
    peer.change(|it| {
        it.userinfo = said(json!({
            "groups": ["engineers"], "preferred_username": "al",
            "email": "Alice@corp.test", "email_verified": true, "aud": "elsewhere", "exp": 1,
        }));
    });
    let SignedIn { identity, tokens } = peer.sign_in(&client).await.unwrap();
    assert_eq!(groups(&identity), ["engineers"]);
    assert_eq!(identity.username.as_deref(), Some("al"));
    assert_eq!(identity.email.as_deref(), Some("alice@corp.test"));
    let header = peer.seen.lock().userinfo[0].clone();
    assert_eq!(header.as_deref(), Some("Bearer access-canary"));
    // What the provider says later counts from the next refresh on.
    peer.change(|it| it.userinfo = said(json!({ "groups": ["sales"] })));
    let refreshed = client.refresh(&identity, &tokens).await.unwrap();
    assert_eq!(groups(&refreshed.identity), ["sales"]);
    assert_eq!(refreshed.identity.email, None);
}

#[tokio::test]
async fn q15_userinfo_is_asked_only_where_it_is_needed_and_allowed() {
    let peer = Peer::start().await;
    let client = peer.client(&[MatchBy::Subject], settings());
    peer.change(|it| it.id_token = json!({ "groups": ["own"] }));
    assert_eq!(groups(&peer.sign_in(&client).await.unwrap().identity), ["own"]);
    assert_eq!(peer.asked(), 0, "the ID token has everything");
    peer.change(|it| it.id_token = json!({}));
    let never = ClientSettings { userinfo: Some(UserinfoUse::Never), ..settings() };
    let never = peer.client(&[MatchBy::Subject], never);
    assert!(peer.sign_in(&never).await.unwrap().identity.groups.is_empty());
    assert_eq!(peer.asked(), 0, "switched off");
    peer.change(|it| it.discovery = json!({ "userinfo_endpoint": null }));
    let without = peer.client(&[MatchBy::Subject], settings());
    assert!(peer.sign_in(&without).await.unwrap().identity.groups.is_empty());
    assert_eq!(peer.asked(), 0, "there is none");
    peer.sign_in(&client).await.unwrap();
    assert_eq!(peer.asked(), 1);
    // A bad address matters only where it is needed.
    peer.change(|it| it.discovery = json!({ "userinfo_endpoint": "http://idp.example.com/me" }));
    let bad = peer.client(&[MatchBy::Subject], settings());
    let error = peer.sign_in(&bad).await.err().unwrap().to_string();
    assert!(error.contains("http://idp.example.com/me"), "{error}");
    peer.change(|it| it.id_token = json!({ "groups": ["own"] }));
    peer.sign_in(&bad).await.unwrap();
    assert_eq!(peer.asked(), 1);
}

#[tokio::test]
async fn q15_userinfo_about_another_person_signs_no_person_in_and_ends_a_session() {
    let peer = Peer::start().await;
    let client = peer.client(&[MatchBy::Subject], settings());
    let SignedIn { identity, tokens } = peer.sign_in(&client).await.unwrap();
    for sub in [json!("mallory"), json!(null), json!(7)] {
        peer.change(|it| it.userinfo = said(json!({ "sub": sub, "groups": ["admins"] })));
        let error = peer.sign_in(&client).await.err().unwrap();
        assert!(matches!(error, SignInError::Userinfo(UserinfoError::Person)), "{error}");
        let error = client.refresh(&identity, &tokens).await.err().unwrap();
        assert!(matches!(error, RefreshError::Over(_)), "{error}");
    }
}

#[tokio::test]
async fn q15_without_an_answer_of_userinfo_no_person_is_signed_in_with_less() {
    let peer = Peer::start().await;
    let client = peer.client(&[MatchBy::Subject], settings());
    let SignedIn { identity, tokens } = peer.sign_in(&client).await.unwrap();
    for (userinfo, want) in [
        ((500, String::new()), "lacks groups"),
        ((401, r#"{"error":"invalid_token"}"#.into()), "status 401"),
        ((302, String::new()), "status 302"),
        ((200, "<html>".into()), "not a JSON object"),
        ((200, "eyJhbGciOiJFUzI1NiJ9.e30.AAAA".into()), "a signed one"),
        ((200, "x".repeat(MAX_BODY + 1)), "larger than"),
    ] {
        peer.change(|it| it.userinfo.clone_from(&userinfo));
        let error = peer.sign_in(&client).await.err().unwrap().to_string();
        assert!(error.contains(want) && !error.contains("canary"), "{want}: {error}");
        // A session stays as it is, and is asked about again later.
        let error = client.refresh(&identity, &tokens).await.err().unwrap();
        assert!(matches!(error, RefreshError::Failed(_)), "{error}");
    }
    for token in [json!(null), json!("with\nbreak")] {
        peer.change(|it| (it.access_token, it.userinfo) = (token.clone(), said(json!({}))));
        let error = peer.sign_in(&client).await.err().unwrap();
        assert!(matches!(error, SignInError::NoAccessToken), "{token} {error}");
    }
}

#[tokio::test]
async fn q15_no_access_token_leaves_before_its_id_token_is_known_to_be_good() {
    let peer = Peer::start().await;
    let client = peer.client(&[MatchBy::Subject], settings());
    for claims in [
        json!({ "nonce": "of another sign-in" }),
        json!({ "nonce": null }),
        json!({ "aud": "elsewhere" }),
        json!({ "aud": ["gate", "stranger"], "azp": "gate" }),
        json!({ "exp": 1 }),
        json!({ "iss": "https://elsewhere.example.com" }),
        json!({ "at_hash": "AAAA" }),
    ] {
        peer.change(|it| it.id_token.clone_from(&claims));
        assert!(peer.sign_in(&client).await.is_err(), "{claims}");
    }
    assert_eq!(peer.asked(), 0);
}

#[tokio::test]
async fn q14_an_id_token_that_names_strangers_is_refused_by_their_names() {
    let peer = Peer::start().await;
    peer.change(|it| {
        it.id_token = json!({ "aud": ["285@p", "gate", "project"], "azp": "gate", "groups": [] });
    });
    let error = peer.sign_in(&peer.client(&[], settings())).await.err().unwrap().to_string();
    assert!(error.contains(r#"also for "285@p", "project""#), "{error}");
    assert!(error.contains("'trusted_audiences'"), "{error}");
    let trusting = |trusted: &[&str]| {
        let profile = Profile::new("corp", peer.issuer.parse().unwrap(), vec!["programs".into()]);
        let trusted_audiences = trusted.iter().map(|name| (*name).into()).collect();
        Peer::client_of(Profile { trusted_audiences, ..profile }, settings())
    };
    peer.sign_in(&trusting(&["project", "285@p"])).await.unwrap();
    assert!(peer.sign_in(&trusting(&["project"])).await.is_err());
    for azp in [json!(null), json!("project")] {
        peer.change(|it| it.id_token["azp"] = azp.clone());
        let error = peer.sign_in(&trusting(&["project", "285@p"])).await.err().unwrap();
        assert!(matches!(error, SignInError::Audience(AudienceError::Party(_))), "{azp} {error}");
    }
}

#[tokio::test]
async fn q16_the_client_authenticates_as_the_provider_offers() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
    std::fs::write(&file, pair.serialize_pem() + &certificate.pem()).unwrap();
    let secret = settings().key;
    let key = ClientKey::PrivateKey(file, Some("k".into()), None);
    for (key, methods, want) in [
        (secret.clone(), json!(null), "basic"),
        (secret.clone(), json!(["client_secret_post", "client_secret_basic"]), "basic"),
        (secret.clone(), json!(["client_secret_post"]), "post"),
        (key, json!(["private_key_jwt"]), "assertion"),
        (ClientKey::Public, json!(["none"]), "none"),
    ] {
        let peer = Peer::start().await;
        peer.change(|it| {
            it.discovery = json!({ "token_endpoint_auth_methods_supported": methods });
        });
        let client = peer.client(&[], ClientSettings { key, ..settings() });
        let SignedIn { identity, tokens } = peer.sign_in(&client).await.unwrap();
        client.refresh(&identity, &tokens).await.unwrap();
        let seen = std::mem::take(&mut peer.seen.lock().token);
        assert_eq!(seen.len(), 2);
        for (header, form) in seen {
            assert_eq!(header.is_some(), want == "basic", "{want}");
            assert_eq!(form.contains_key("client_secret"), want == "post", "{want}");
            assert_eq!(form.contains_key("client_id"), want != "basic", "{want}");
            let assertion = form.get("client_assertion");
            assert_eq!(assertion.is_some(), want == "assertion", "{want}");
            if let Some(assertion) = assertion {
                let header = URL_SAFE_NO_PAD.decode(assertion.split('.').next().unwrap()).unwrap();
                let header: Map<String, Value> = serde_json::from_slice(&header).unwrap();
                let digest =
                    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
                assert_eq!(header["x5t#S256"], json!(URL_SAFE_NO_PAD.encode(digest)));
                assert_eq!((&header["kid"], &header["alg"]), (&json!("k"), &json!("ES256")));
            }
            // PKCE protects the code in any case.
            let is_code = form["grant_type"] == "authorization_code";
            assert_eq!(form.contains_key("code_verifier"), is_code);
        }
    }
    let peer = Peer::start().await;
    peer.change(|it| it.discovery = json!({ "token_endpoint_auth_methods_supported": ["none"] }));
    let error = peer.sign_in(&peer.client(&[], settings())).await.err().unwrap().to_string();
    assert!(error.contains("offers \"none\"") && error.contains("'auth_method'"), "{error}");
    assert!(peer.seen.lock().token.is_empty(), "no secret was sent");
}

#[tokio::test]
async fn q16_parameters_of_the_operator_are_added_to_those_of_the_agent() {
    let peer = Peer::start().await;
    let authorize = AuthorizeParameters(vec![
        ("access_type", "offline".into()),
        ("prompt", "consent".into()),
        ("acr_values", "urn:a b".into()),
    ]);
    let google = ClientSettings {
        authorize: authorize.clone(),
        ask_prompt: Some("select_account"),
        ..settings()
    };
    let usual = ClientSettings { authorize, ..settings() };
    for (settings, ask, prompt) in [
        (google.clone(), false, "consent"),
        (google, true, "select_account"),
        (usual.clone(), false, "consent"),
        (usual, true, "login"),
    ] {
        let client = peer.client(&[], settings);
        let attempt = Attempt::new("corp", None, Timestamp::now()).unwrap();
        let url = client.authorize(&attempt, &urls(), ask).await.unwrap();
        let all: Vec<_> = url.query_pairs().into_owned().collect();
        let of = |name: &str| {
            let mut values = all.iter().filter(|(found, _)| found == name);
            let value = values.next().map(|(_, value)| value.clone());
            assert!(values.next().is_none(), "{name} is there twice: {url}");
            value
        };
        assert_eq!(of("prompt").as_deref(), Some(prompt), "{url}");
        assert_eq!(of("access_type").as_deref(), Some("offline"));
        assert_eq!(of("acr_values").as_deref(), Some("urn:a b"));
        assert_eq!(of("policy").as_deref(), Some("p"), "of the discovery document");
        assert_eq!(of("state"), Some(attempt.state.clone()));
        assert_eq!(of("nonce"), Some(attempt.nonce.clone()));
        assert_eq!(of("code_challenge"), Some(attempt.challenge()));
    }
}
