//! A gate without network and files, for unit tests: one issuer, one certificate rule, one session
//! and two workspaces.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Gate, Versions};
use crate::{
    authz::limits::Limits,
    identity::{
        Authority, Identity, Profile,
        cache::TokenCache,
        certificate::{CertificateField, CertificateRule},
        client_auth::ClientAuthentication,
        credential::TokenLocations,
        introspection::{IntrospectionClient, Introspector},
        issuers::Issuers,
        keys::KeySet,
        profile::MatchBy,
        provider::{FetchSchedule, Fetcher, Provider},
        revocation::Revocations,
    },
    sessions::{
        BrowserSessions, COOKIE, Lifetime, Sessions, Tokens, flow::PublicUrls, keyring::Keyring,
    },
    sources::WatchedSource,
    time::{MonotonicTime, Timestamp},
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, EndpointOrigins, Grant, Grantee,
        IssuerNames, Person, Phase, Protocol, Revision, Workspace,
        destination::resolver::Resolver,
        pattern::{HostPatterns, Preset},
        registry::{ListExtent, Publisher, Registry, SourceRules},
        source::SourceId,
    },
};

/// The workspace of alice. The machine `build` has a grant for it.
pub(crate) const ALICES: &str = "pinkpanda-demo-ns35kd21abc";
/// The workspace of bob.
pub(crate) const BOBS: &str = "greenfrog-demo-ns35kd21abc";
const ISSUER: &str = "https://corp.example.com";

/// A gate, and what a test needs to pass it.
pub(crate) struct Scene {
    /// The gate. A test may change it before it decides.
    pub(crate) gate: Gate,
    /// Changes the workspaces.
    pub(crate) publisher: Publisher,
    /// The Cookie header with alice's session at the host of her workspace.
    pub(crate) cookie: String,
    pub(crate) now: Timestamp,
    key: Ed25519KeyPair,
}

/// The host of a workspace, or with `port` ("3000-") that of one of its ports.
pub(crate) fn host(port: &str, workspace: &str) -> String {
    format!("{port}{workspace}.ws.x.test")
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with_rules(SourceRules::default())
    }

    /// A scene whose source has these rules.
    pub(crate) fn with_rules(rules: SourceRules) -> Self {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let now = Timestamp::now();
        let key = Ed25519KeyPair::generate().unwrap();
        let profile = Profile::new("corp", ISSUER.parse().unwrap(), vec!["workspaces".into()]);
        let corp = Arc::clone(&profile.authority);
        let keys = json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "kid": "k",
            "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref()),
        }]});
        let fetcher = Fetcher::new(None, None).unwrap();
        let provider = Provider::new(Arc::new(profile), FetchSchedule::default(), fetcher)
            .with_keys(KeySet::parse(keys.to_string().as_bytes()).unwrap(), now);
        let machines = Authority {
            accepted: vec![].into(),
            ..Authority::new("machines", "machines", vec![MatchBy::Subject])
        };
        let machines = Arc::new(machines);
        let (browser, cookie) = sign_in(&corp, now);
        let rules = rules.never_stale();
        let registry = Arc::new(Registry::new(&[("test", rules)], Arc::new(Resolver::default())));
        let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(0));
        let moment = MonotonicTime::now();
        let all = vec![workspace(ALICES, "alice", 1), workspace(BOBS, "bob", 2)];
        publisher.complete(all, moment, moment, ListExtent::Snapshot);
        publisher.confirm(moment);
        let gate = Gate {
            patterns: HostPatterns::new(&[Preset::Gitpod.spec("x.test", "main")]).unwrap(),
            issuers: Arc::new(Issuers::new(
                vec![Arc::new(provider)],
                TokenCache::new(100).unwrap(),
            )),
            token_locations: Some(Arc::new(TokenLocations {
                cookie: Some("token".into()),
                ..TokenLocations::default()
            })),
            metadata: None,
            certificates: vec![CertificateRule {
                authority: Arc::clone(&machines),
                field: CertificateField::CommonName,
                prefix: "machine:".into(),
                issuer: None,
            }],
            browser: Some(Arc::new(browser)),
            revocations: Arc::new(Revocations::open(vec![corp, machines], None).unwrap()),
            registry,
            lookups: vec![],
            watched: vec![WatchedSource {
                name: "test".into(),
                status: Arc::default(),
                leases: None,
            }],
            limits: Limits::default(),
            policies: None,
            versions: Versions::default(),
            metrics: Arc::default(),
        };
        Self { gate, publisher, cookie, now, key }
    }

    /// The same gate, which asks its issuer about opaque tokens.
    pub(crate) fn introspecting(mut self) -> Self {
        let profile = Arc::clone(self.gate.issuers.profiles().next().unwrap());
        let secret = SecretString::from("secret");
        let secret = ClientAuthentication::Secret { secret, method: None };
        let fetcher = Fetcher::new(None, None).unwrap();
        let client = IntrospectionClient::new(fetcher, "gate".into(), secret, None);
        let introspector = Introspector::new(profile, client, Duration::from_mins(1), 100);
        let none = Arc::new(Issuers::new(vec![], TokenCache::new(1).unwrap()));
        let issuers = Arc::into_inner(std::mem::replace(&mut self.gate.issuers, none)).unwrap();
        self.gate.issuers = Arc::new(issuers.with_introspector(introspector));
        self
    }

    /// Changes who reaches the editor of alice's workspace.
    pub(crate) fn admit(&self, admission: Admission) {
        let mut alices = workspace(ALICES, "alice", 1);
        for endpoint in &mut alices.endpoints {
            endpoint.admission = admission;
        }
        let (now, all) = (MonotonicTime::now(), vec![alices, workspace(BOBS, "bob", 2)]);
        self.publisher.complete(all, now, now, ListExtent::Snapshot);
        self.publisher.confirm(now);
    }

    /// A token of alice, with the claims of `change` added or replaced.
    pub(crate) fn token(&self, change: &Value) -> String {
        let mut claims = json!({
            "iss": ISSUER, "sub": "alice", "aud": "workspaces", "jti": "1",
            "exp": self.now.plus(Duration::from_mins(10)).as_millis() / 1000,
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.signed(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"}), &claims)
    }

    /// A token with this header and these claims, signed by the issuer.
    pub(crate) fn signed(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let text = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()).as_ref());
        format!("{text}.{signature}")
    }
}

/// A certificate with this common name, as DER.
pub(crate) fn certificate(name: &str) -> Vec<u8> {
    let mut about = rcgen::CertificateParams::default();
    about.distinguished_name = rcgen::DistinguishedName::new();
    about.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    about.self_signed(&key).unwrap().der().to_vec()
}

/// Signs alice in. Returns her cookie at the host of her workspace.
fn sign_in(corp: &Arc<Authority>, now: Timestamp) -> (BrowserSessions, String) {
    let keyring = Arc::new(Keyring::parse(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap());
    let lifetime = Lifetime { idle: Duration::from_mins(10), absolute: Duration::from_hours(1) };
    let sessions = Arc::new(Sessions::in_memory(lifetime, Arc::clone(&keyring)));
    let identity = Identity::plain(Arc::clone(corp), ISSUER, "alice");
    let id_token = SecretString::from("id");
    let tokens = Tokens {
        id_token,
        refresh_token: None,
        nonce: "n".into(),
        refreshed: now,
        refresh_due: now,
    };
    let (_, session) = sessions.begin(identity, tokens, "login.x.test", now).unwrap();
    let handle = sessions.add_cookie(&session, &host("", ALICES), now).unwrap();
    let urls = PublicUrls { login: "login.x.test".into(), port: 443 };
    let browser = BrowserSessions { sessions, redis: None, keyring, urls };
    (browser, format!("{COOKIE}={handle}"))
}

/// A running workspace.
pub(crate) fn workspace(id: &str, owner: &str, address: u8) -> Workspace {
    let person = |issuer, subject: &str| Person {
        issuers: IssuerNames::one(issuer),
        subject: Some(subject.into()),
        ..Person::default()
    };
    let main = Endpoint {
        name: EndpointName::Main,
        protocol: Protocol::Http,
        admission: Admission::Grants,
        destination: Destination::Address(format!("10.0.0.{address}:80").parse().unwrap()),
        origins: EndpointOrigins::default(),
    };
    Workspace {
        id: id.parse().unwrap(),
        instance: None,
        revision: Revision::default(),
        organization: None,
        owner_label: owner.into(),
        owner: person("corp", owner),
        grants: vec![Grant { to: Grantee::User(person("machines", "build")), endpoints: None }],
        phase: Phase::Running,
        address: None,
        template: None,
        endpoints: vec![main],
        paths: vec![],
    }
}
