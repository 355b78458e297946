//! Tokens of Canaille, an identity provider in Python over Authlib: of a person, not of a program.

use std::process::Command;

use crate::{gate::Gate, provider::Provider, root, state};

/// What it signs with an RSA key and an Edwards one, and we accept.
const ACCEPTED: [&str; 8] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA", "Ed25519"];

async fn start() -> Provider {
    let mut python = Command::new(state().join("python/bin/python"));
    python.arg("-u").arg(root().join("tests/interop/canaille/server.py")).current_dir(state());
    Provider::start(python).await
}

/// An access token of alice's, from a client that wants this algorithm.
async fn token(provider: &Provider, client: &str) -> String {
    let form = [
        ("grant_type", "password"),
        ("username", "alice"),
        ("password", "correct horse"),
        ("client_id", client),
        ("client_secret", "secret"),
        ("scope", "openid profile email"),
    ];
    provider.token("/oauth/token", &form, &[]).await
}

async fn tokens(provider: &Provider) -> Vec<String> {
    let mut tokens = Vec::new();
    for algorithm in ACCEPTED.into_iter().chain(["ES256"]) {
        tokens.push(token(provider, algorithm).await);
    }
    tokens
}

async fn rotate(provider: &Provider, curve: &str) {
    provider.post(&format!("/interop/rotate?curve={curve}"), &[], &[]).await;
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn canaille_tokens_of_every_algorithm_that_we_accept_allow() {
    let provider = start().await;
    let gate = Gate::start(&provider, "alice", "").await;
    let mut peer = gate.peer().await;
    for algorithm in ACCEPTED.into_iter().chain(["ES256"]) {
        let token = token(&provider, algorithm).await;
        assert_eq!(peer.ask(&token).await, "owner", "{algorithm}");
        println!("Canaille {algorithm}: owner");
    }
    rotate(&provider, "P-384").await;
    assert_eq!(peer.ask(&token(&provider, "ES384").await).await, "owner");
    println!("Canaille ES384: owner");
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn canaille_tokens_of_other_algorithms_people_and_audiences_are_refused() {
    let provider = start().await;
    let gate = Gate::start(&provider, "alice", "").await;
    let mut peer = gate.peer().await;
    rotate(&provider, "P-521").await;
    assert_eq!(peer.ask(&token(&provider, "ES512").await).await, "token_algorithm");
    println!("Canaille ES512: token_algorithm");
    assert_eq!(peer.ask(&token(&provider, "elsewhere").await).await, "token_audience");
    let bobs = Gate::start(&provider, "bob", "").await;
    assert_eq!(bobs.peer().await.ask(&token(&provider, "RS256").await).await, "not_permitted");
}

#[tokio::test]
#[ignore = "needs the providers: make interop"]
async fn a_token_of_one_provider_says_nothing_to_an_agent_that_trusts_another() {
    let (one, two) = (start().await, start().await);
    let gate = Gate::start(&one, "alice", "").await;
    let mut peer = gate.peer().await;
    assert_eq!(peer.ask(&token(&one, "RS256").await).await, "owner");
    assert_eq!(peer.ask(&token(&two, "RS256").await).await, "token_issuer");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the providers: make interop"]
async fn canaille_rotates_its_keys_under_traffic_and_no_token_is_refused() {
    let provider = start().await;
    let gate = Gate::start(&provider, "alice", "").await;
    let traffic = gate.traffic(tokens(&provider).await).await;
    traffic.settle().await;
    rotate(&provider, "P-384").await;
    for algorithm in ACCEPTED.into_iter().chain(["ES384"]) {
        traffic.add(token(&provider, algorithm).await);
    }
    traffic.settle().await;
    println!("Canaille, keys rotated: {}", traffic.end());
}
