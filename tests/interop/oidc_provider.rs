//! Tokens of the npm package oidc-provider, a certified implementation in JavaScript.

use std::process::Command;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::time::Timestamp;
use serde_json::json;

use crate::{gate::Gate, provider::Provider, state, until};

/// What the agent accepts unless the configuration says less; Ed25519 is a second name of EdDSA
/// (RFC 9864).
const ACCEPTED: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "Ed25519"];

/// What it never accepts.
const REFUSED: [&str; 4] = ["ES512", "HS256", "HS384", "HS512"];

async fn start() -> Provider {
    let mut node = Command::new(state().join("node"));
    node.arg("server.mjs").current_dir(state().join("oidc-provider"));
    Provider::start(node).await
}

/// A token of a kind for an audience, and how it is to be sent.
async fn token_for(provider: &Provider, audience: &str, kind: &str) -> String {
    let resource = format!("https://{audience}.test/{kind}");
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "interop"),
        ("client_secret", "secret"),
        ("scope", "reach"),
        ("resource", &resource),
    ];
    provider.token("/token", &form, &[]).await
}

async fn token(provider: &Provider, kind: &str) -> String {
    token_for(provider, "workspaces", kind).await
}

async fn tokens(provider: &Provider) -> Vec<String> {
    let mut tokens = Vec::new();
    for algorithm in ACCEPTED {
        tokens.push(token(provider, algorithm).await);
    }
    tokens
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn oidc_provider_tokens_of_every_algorithm_that_we_accept_allow() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "").await;
    let mut peer = gate.peer().await;
    for algorithm in ACCEPTED {
        let token = token(&provider, algorithm).await;
        assert_eq!(peer.ask(&token).await, "owner", "{algorithm}");
        println!("oidc-provider {algorithm}: owner");
    }
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn oidc_provider_tokens_of_other_algorithms_are_refused() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "").await;
    let mut peer = gate.peer().await;
    for algorithm in REFUSED {
        let token = token(&provider, algorithm).await;
        assert_eq!(peer.ask(&token).await, "token_algorithm", "{algorithm}");
        println!("oidc-provider {algorithm}: token_algorithm");
    }
    let gate = Gate::start(&provider, "interop", "algorithms = ['PS256']").await;
    let mut peer = gate.peer().await;
    for algorithm in ACCEPTED {
        let want = if algorithm == "PS256" { "owner" } else { "token_algorithm" };
        let token = token(&provider, algorithm).await;
        assert_eq!(peer.ask(&token).await, want, "{algorithm}");
    }
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn an_oidc_provider_token_counts_for_its_audience_its_subject_and_its_time_only() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "leeway_seconds = 0").await;
    let mut peer = gate.peer().await;
    let elsewhere = token_for(&provider, "elsewhere", "RS256").await;
    assert_eq!(peer.ask(&elsewhere).await, "token_audience");
    let brief = token(&provider, "brief").await;
    until("the token to expire", async || {
        let reason = peer.ask(&brief).await;
        assert!(["owner", "token_expired"].contains(&&*reason), "{reason}");
        (reason == "token_expired").then_some(())
    })
    .await;
    let other = Gate::start(&provider, "another-client", "").await;
    let token = token(&provider, "ES256").await;
    assert_eq!(other.peer().await.ask(&token).await, "not_permitted");
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn an_oidc_provider_token_of_other_content_has_no_good_signature() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "").await;
    let mut peer = gate.peer().await;
    for algorithm in ACCEPTED {
        // Each signed well, over something else.
        let (one, two) = (token(&provider, algorithm).await, token(&provider, algorithm).await);
        let (content, _) = one.rsplit_once('.').unwrap();
        let (_, signature) = two.rsplit_once('.').unwrap();
        let mixed = format!("{content}.{signature}");
        assert_eq!(peer.ask(&mixed).await, "token_signature", "{algorithm}");
    }
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn opaque_and_encrypted_oidc_provider_tokens_are_refused() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "").await;
    let mut peer = gate.peer().await;
    let opaque = token(&provider, "opaque").await;
    let encrypted = token(&provider, "encrypted").await;
    assert_eq!((opaque.split('.').count(), encrypted.split('.').count()), (1, 5));
    assert_eq!(peer.ask(&opaque).await, "token_malformed");
    assert_eq!(peer.ask(&encrypted).await, "token_encrypted");
    // Its provider knows it: what is refused is not garbage.
    let form = [("client_id", "interop"), ("client_secret", "secret"), ("token", &opaque)];
    let known = provider.post("/token/introspection", &form, &[]).await;
    assert_eq!((&known["active"], &known["sub"]), (&json!(true), &json!(null)), "{known}");
    assert_eq!(known["client_id"], "interop");
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn i1_oidc_provider_is_asked_about_its_opaque_tokens() {
    let provider = start().await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "sec/ret+&\n").unwrap();
    // A client's own token has no subject but the client.
    let settings = format!(
        "[issuer.claims]\nsubject = 'client_id'\n[issuer.introspection]\nclient_id = 'gate'\nclient_secret_file = '{}'\n",
        secret.path().display()
    );
    let gate = Gate::start(&provider, "interop", &settings).await;
    let mut peer = gate.peer().await;
    let opaque = token(&provider, "opaque").await;
    assert_eq!(peer.ask(&opaque).await, "owner");
    assert_eq!(peer.ask("made-up").await, "token_inactive");
    let strangers = Gate::start(&provider, "stranger", &settings).await;
    assert_eq!(strangers.peer().await.ask(&opaque).await, "not_permitted");
    println!("oidc-provider opaque: owner, by introspection");
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn an_oidc_provider_token_that_is_bound_to_a_key_is_refused() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "").await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "interop"),
        ("client_secret", "secret"),
        ("scope", "reach"),
        ("resource", "https://workspaces.test/ES256"),
    ];
    let proof = proof_of_possession(&format!("{}/token", provider.issuer));
    let token = provider.token("/token", &form, &[("dpop", &proof)]).await;
    assert_eq!(gate.peer().await.ask(&token).await, "token_bound");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the providers: make interop"]
async fn oidc_provider_rotates_its_keys_under_traffic_and_no_token_is_refused() {
    let provider = start().await;
    // With the schedule of keys that is the default: what works here works in production.
    let gate = Gate::start(&provider, "interop", "").await;
    let traffic = gate.traffic(tokens(&provider).await).await;
    traffic.settle().await;
    provider.post("/interop/rotate", &[], &[]).await;
    for algorithm in ACCEPTED {
        // Every connection sends it as soon as it is there.
        traffic.add(token(&provider, algorithm).await);
    }
    traffic.settle().await;
    println!("oidc-provider, keys rotated: {}", traffic.end());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the providers: make interop"]
async fn oidc_provider_retires_its_old_keys_and_their_tokens_end() {
    let provider = start().await;
    let gate = Gate::start(&provider, "interop", "").await;
    let (mut peer, old) = (gate.peer().await, tokens(&provider).await);
    for token in &old {
        assert_eq!(peer.ask(token).await, "owner");
    }
    provider.post("/interop/rotate", &[], &[]).await;
    provider.post("/interop/retire", &[], &[]).await;
    let traffic = gate.traffic(tokens(&provider).await).await;
    traffic.settle().await;
    for token in &old {
        assert_eq!(peer.ask(token).await, "token_key");
    }
    traffic.settle().await;
    println!("oidc-provider, keys retired: {}", traffic.end());
}

/// A DPoP proof for the token endpoint (RFC 9449 section 4.2), by a key made for it.
fn proof_of_possession(endpoint: &str) -> String {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)});
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
    let now = Timestamp::now().as_millis() / 1000;
    let claims = json!({"jti": encode(x), "htm": "POST", "htu": endpoint, "iat": now});
    let content = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
    let signature = key.sign(&random, content.as_bytes()).unwrap();
    format!("{content}.{}", encode(signature.as_ref()))
}
