//! Which tokens count: the verifier against tokens of an independent signer.

use std::sync::Arc;

use identity_spoa::{
    config::Config,
    identity::{
        Authentication, TokenError,
        cache::TokenCache,
        issuers::{Issuers, Outcome},
        pending::Waiting,
        provider::{Fetcher, Provider},
    },
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::support;
use dev_idp::{DevIdp, TokenRequest};

/// The issuers of the stage's configuration, their keys fetched.
struct Verifier {
    issuers: Issuers,
    idps: Vec<DevIdp>,
}

impl Verifier {
    async fn start(settings: &str) -> Self {
        Self::several(&[settings]).await
    }

    async fn several(settings: &[&str]) -> Self {
        // The program does it in main.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let mut idps = Vec::new();
        let mut text = String::from(
            "[agent]\nlisten = ['127.0.0.1:0']\n[workspaces]\nfile = 'w.yaml'\n[[host]]\npreset = 'ona'\ndomain = 'x.test'\n",
        );
        for (n, settings) in settings.iter().enumerate() {
            let idp = DevIdp::start().await;
            text += &format!(
                "[[issuer]]\nname = 'n{n}'\nissuer = '{}'\naudience = 'workspaces'\n{settings}\n",
                idp.issuer()
            );
            idps.push(idp);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        let mut providers = Vec::new();
        for issuer in config.issuers {
            let provider =
                Provider::new(issuer.profile, issuer.schedule, Fetcher::new(None, None).unwrap());
            provider.fetch().await.unwrap();
            providers.push(Arc::new(provider));
        }
        Self { issuers: Issuers::new(providers, TokenCache::new(100).unwrap()), idps }
    }

    fn try_token(&self, token: &str) -> Result<String, TokenError> {
        self.try_at(token, Timestamp::now())
    }

    fn try_at(&self, token: &str, now: Timestamp) -> Result<String, TokenError> {
        match self.issuers.authenticate(token.as_bytes(), None, now, Waiting::Never) {
            Outcome::Settled(Authentication::Known(identity)) => Ok(identity.label().to_owned()),
            Outcome::Settled(Authentication::Refused(error)) => Err(error),
            _ => panic!("not settled"),
        }
    }

    fn with(&self, request: &TokenRequest) -> Result<String, TokenError> {
        self.try_token(&self.idps[0].token(request))
    }

    fn with_claims(&self, claims: Value) -> Result<String, TokenError> {
        self.with(&TokenRequest { claims: object(claims), ..TokenRequest::default() })
    }

    fn with_header(&self, header: Value) -> Result<String, TokenError> {
        self.with(&TokenRequest { header: object(header), ..TokenRequest::default() })
    }
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    let Value::Object(object) = value else { panic!() };
    object
}

const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

#[tokio::test]
async fn a_token_of_each_algorithm_is_verified() {
    let verifier = Verifier::start("").await;
    for alg in ALGORITHMS {
        let request = TokenRequest { alg: alg.into(), ..TokenRequest::default() };
        assert_eq!(verifier.with(&request), Ok("alice".into()), "{alg}");
    }
}

#[tokio::test]
async fn j1_only_configured_algorithms_count_and_none_never() {
    let verifier = Verifier::start("algorithms = ['RS256']").await;
    for alg in ALGORITHMS {
        let request = TokenRequest { alg: alg.into(), ..TokenRequest::default() };
        let want = if alg == "RS256" { Ok("alice".into()) } else { Err(TokenError::Algorithm) };
        assert_eq!(verifier.with(&request), want, "{alg}");
    }
    let request = TokenRequest { alg: "none".into(), ..TokenRequest::default() };
    assert_eq!(verifier.with(&request), Err(TokenError::Algorithm));
    for none in ["none", "None", "NONE", "nOnE", "rs256", "RS256 ", ""] {
        assert_eq!(
            verifier.with_header(json!({"alg": none})),
            Err(TokenError::Algorithm),
            "{none}"
        );
    }
}

#[tokio::test]
async fn j2_a_public_key_is_not_a_shared_secret() {
    let verifier = Verifier::start("").await;
    let request = TokenRequest { alg: "HS256".into(), ..TokenRequest::default() };
    assert_eq!(verifier.with(&request), Err(TokenError::Algorithm));
}

#[tokio::test]
async fn j3_key_type_must_match_algorithm() {
    let verifier = Verifier::start("").await;
    // Signed well by the one key, but the header names the other.
    let header = object(json!({"kid": "rsa-1"}));
    let request = TokenRequest { alg: "ES256".into(), header, ..TokenRequest::default() };
    assert_eq!(verifier.with(&request), Err(TokenError::Algorithm));
    // The header says RS256, the signature and the key are of ES256.
    assert_eq!(verifier.with_header(json!({"alg": "RS256"})), Err(TokenError::Algorithm));
}

#[tokio::test]
async fn j4_keys_that_a_token_brings_along_are_not_looked_at() {
    let verifier = Verifier::start("").await;
    let idp = &verifier.idps[0];
    let request = |sign_with: &str| TokenRequest {
        sign_with: sign_with.into(),
        header: object(json!({
            "kid": "p256-1", "jwk": {"kty": "EC"}, "jku": format!("{}/jwks", idp.issuer()), "x5u": "https://x", "x5c": ["x"]
        })),
        ..TokenRequest::default()
    };
    let before = idp.counters();
    assert_eq!(verifier.with(&request("current")), Ok("alice".into()));
    assert_eq!(verifier.with(&request("unpublished")), Err(TokenError::Signature));
    assert_eq!(idp.counters(), before);
}

#[tokio::test]
async fn j5_a_critical_extension_is_refused_even_if_it_looks_harmless() {
    let verifier = Verifier::start("").await;
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!("x"), json!({})] {
        assert_eq!(
            verifier.with_header(json!({"crit": crit})),
            Err(TokenError::Algorithm),
            "{crit}"
        );
    }
}

#[tokio::test]
async fn j7_j8_the_form_is_strict() {
    let verifier = Verifier::start("").await;
    let good = verifier.idps[0].token_of("alice");
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{good}."),
        format!("{good}.x"),
        format!("{header}.{payload}.x.y"),
        format!("{header}=.{payload}.{signature}"),
        format!("{good}="),
        format!("{good}\n"),
        format!("{header}.{payload}. {signature}"),
        format!("{header}.{payload}.{}+", &signature[..signature.len() - 1]),
        format!("{{\"payload\":\"{payload}\"}}"),
        "é.é.é".into(),
    ] {
        assert_eq!(verifier.try_token(&bad), Err(TokenError::Malformed), "{bad}");
    }
    let huge = format!("{header}.{}.{signature}", "A".repeat(17_000));
    assert_eq!(verifier.try_token(&huge), Err(TokenError::Oversized));
    let long_header = json!({"pad": "x".repeat(2100)});
    assert_eq!(verifier.with_header(long_header), Err(TokenError::Oversized));
}

#[tokio::test]
async fn every_changed_byte_of_a_token_is_refused() {
    let verifier = Verifier::start("").await;
    for alg in ["RS256", "ES256", "EdDSA"] {
        let good =
            verifier.idps[0].token(&TokenRequest { alg: alg.into(), ..TokenRequest::default() });
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).unwrap();
            assert!(verifier.try_token(&bad).is_err(), "{alg} at {at}");
        }
    }
}

#[tokio::test]
async fn j10_a_key_of_one_issuer_never_verifies_another() {
    let verifier = Verifier::several(&["", ""]).await;
    let [one, two] = &verifier.idps[..] else { panic!() };
    assert!(verifier.try_token(&one.token_of("alice")).is_ok());
    assert!(verifier.try_token(&two.token_of("alice")).is_ok());
    let claims = object(json!({"iss": one.issuer()}));
    let forged = two.token(&TokenRequest { claims, ..TokenRequest::default() });
    assert_eq!(verifier.try_token(&forged), Err(TokenError::Signature));
    let with_slash = format!("{}/", one.issuer());
    for iss in [
        json!(with_slash),
        json!("https://elsewhere"),
        json!([one.issuer()]),
        json!(null),
        json!(7),
    ] {
        assert_eq!(verifier.with_claims(json!({"iss": iss})), Err(TokenError::Issuer), "{iss}");
    }
}

#[tokio::test]
async fn j11_the_audience_must_be_ours() {
    let verifier = Verifier::start("").await;
    for (aud, want) in [
        (json!(["other", "workspaces"]), Ok("alice".into())),
        (json!("other"), Err(TokenError::Audience)),
        (json!(["other"]), Err(TokenError::Audience)),
        (json!([]), Err(TokenError::Audience)),
        (json!("workspaces "), Err(TokenError::Audience)),
        (json!(["workspaces", 7]), Err(TokenError::Claims)),
        (json!(123), Err(TokenError::Claims)),
        (json!({"a": "workspaces"}), Err(TokenError::Claims)),
        (json!(null), Err(TokenError::Claims)),
    ] {
        assert_eq!(verifier.with_claims(json!({"aud": aud})), want, "{aud}");
    }
}

#[tokio::test]
async fn j12_times_are_required_numbers_and_hold() {
    let verifier = Verifier::start("leeway_seconds = 30").await;
    let now = i64::try_from(Timestamp::now().as_millis() / 1000).unwrap();
    for (claims, want) in [
        (json!({"exp": now - 20}), Ok("alice".into())),
        (json!({"exp": now - 40}), Err(TokenError::Expired)),
        (json!({"exp": now + 100, "nbf": now + 20}), Ok("alice".into())),
        (json!({"nbf": now + 60}), Err(TokenError::NotYetValid)),
        (json!({"iat": now + 60}), Err(TokenError::NotYetValid)),
        (json!({"exp": null}), Err(TokenError::Claims)),
        (json!({"exp": (now + 100).to_string()}), Err(TokenError::Claims)),
        (json!({"exp": -1}), Err(TokenError::Claims)),
        (json!({"exp": 1e300}), Err(TokenError::Claims)),
        (json!({"nbf": "now"}), Err(TokenError::Claims)),
        (json!({"nbf": [now]}), Err(TokenError::Claims)),
    ] {
        assert_eq!(verifier.with_claims(claims.clone()), want, "{claims}");
    }
    #[allow(clippy::cast_precision_loss)]
    let fraction = json!({"exp": now as f64 + 100.5});
    assert_eq!(verifier.with_claims(fraction), Ok("alice".into()));
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_expires() {
    let verifier = Verifier::start("leeway_seconds = 0").await;
    let token = verifier.idps[0].token_of("alice");
    let now = Timestamp::now();
    let later = |seconds| now.plus(std::time::Duration::from_secs(seconds));
    assert!(verifier.try_at(&token, now).is_ok());
    assert!(verifier.try_at(&token, later(290)).is_ok());
    assert_eq!(verifier.try_at(&token, later(301)), Err(TokenError::Expired));
}

#[tokio::test]
async fn j13_tokens_of_other_kinds_give_no_access() {
    let verifier = Verifier::start("").await;
    for (typ, want) in [
        (json!("at+jwt"), Ok("alice".into())),
        (json!("application/AT+JWT"), Ok("alice".into())),
        (json!(null), Ok("alice".into())),
        (json!("logout+jwt"), Err(TokenError::Type)),
        (json!("dpop+jwt"), Err(TokenError::Type)),
        (json!("secevent+jwt"), Err(TokenError::Type)),
        (json!(7), Err(TokenError::Malformed)),
    ] {
        assert_eq!(verifier.with_header(json!({"typ": typ})), want, "{typ}");
    }
    let events = json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}});
    assert_eq!(verifier.with_claims(events), Err(TokenError::Type));
}

#[tokio::test]
async fn j14_the_subject_is_there_and_plain() {
    let verifier = Verifier::start("").await;
    let long = "x".repeat(256);
    for sub in
        [json!(null), json!(""), json!(7), json!(long), json!("a\nb"), json!("é"), json!(["a"])]
    {
        assert_eq!(verifier.with_claims(json!({"sub": sub})), Err(TokenError::Claims), "{sub}");
    }
}

#[tokio::test]
async fn j18_a_bound_token_is_refused_as_a_bearer_token() {
    let verifier = Verifier::start("").await;
    for cnf in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({}), json!("x")] {
        assert_eq!(verifier.with_claims(json!({"cnf": cnf})), Err(TokenError::Bound), "{cnf}");
    }
}

#[tokio::test]
async fn j19_j20_claims_count_only_in_their_proper_form() {
    let verifier = Verifier::start("").await;
    let identity = |claims: Value| {
        let request = TokenRequest { claims: object(claims), ..TokenRequest::default() };
        let token = verifier.idps[0].token(&request);
        match verifier.issuers.authenticate(
            token.as_bytes(),
            None,
            Timestamp::now(),
            Waiting::Never,
        ) {
            Outcome::Settled(Authentication::Known(identity)) => identity,
            _ => panic!(),
        }
    };
    assert_eq!(identity(json!({})).email.as_deref(), Some("alice@example.com"));
    for verified in [json!(false), json!("true"), json!(1), json!(null)] {
        assert_eq!(identity(json!({"email_verified": verified})).email, None, "{verified}");
    }
    for (groups, want) in [
        (json!("one two,three"), vec!["one two,three"]),
        (json!(["a", "b"]), vec!["a", "b"]),
        (json!(["a", 7]), vec![]),
        (json!({"a": true}), vec![]),
        (json!(["a\r\nX-Evil: 1", "b"]), vec!["b"]),
    ] {
        let identity = identity(json!({"groups": groups}));
        let found: Vec<_> = identity.groups.iter().map(|g| &**g).collect();
        assert_eq!(found, want, "{groups}");
    }
    let joined = identity(json!({"groups": ["a,b", "c"]})).groups_joined.clone();
    assert_eq!((joined.as_str(), joined.left_out()), ("c", true));
    assert_eq!(identity(json!({"preferred_username": "a\r\nb"})).username, None);
    // U+212A reads "K" and would be "k" in lower case: another person's address.
    let sign = identity(json!({"email": "Mi\u{212a}E@Example.com"})).email.clone();
    assert_eq!(sign.as_deref(), Some("mi\u{212a}e@example.com"));
}

#[tokio::test]
async fn an_unknown_issuer_is_refused_without_a_fetch() {
    let verifier = Verifier::start("").await;
    let stranger = DevIdp::start().await;
    assert_eq!(verifier.try_token(&stranger.token_of("alice")), Err(TokenError::Issuer));
    assert_eq!(stranger.counters().jwks, 0);
    // The configuration that these tests share is one that the program takes.
    assert!(support::config(stranger.issuer()).contains("[[issuer]]"));
}

#[tokio::test]
async fn j16_an_encrypted_token_has_its_own_reason() {
    let verifier = Verifier::start("").await;
    assert_eq!(
        verifier.try_token("eyJhbGciOiJkaXIifQ..aaaa.bbbb.cccc"),
        Err(TokenError::Encrypted)
    );
}

#[tokio::test]
async fn a_token_for_microsoft_graph_has_its_own_reason() {
    let verifier = Verifier::start("").await;
    assert_eq!(verifier.with_header(json!({"nonce": "x"})), Err(TokenError::Graph));
}
