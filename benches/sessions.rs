//! What sessions cost: memory of 100,000 of them with two cookies each, and a look-up.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark prints its figures"
)]

use std::{
    alloc::System,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::{
    identity::{
        Identity, TokenIds,
        groups::JoinedGroups,
        profile::{Authority, MatchBy},
    },
    sessions::{Lifetime, Sessions, Tokens, keyring::Keyring},
    time::Timestamp,
};
use secrecy::SecretString;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const COUNT: usize = 100_000;

fn main() {
    let keyring = Arc::new(Keyring::parse(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap());
    let authority = Arc::new(Authority::new(
        "corp",
        "https://idp.example.com/realms/corp",
        vec![MatchBy::Subject],
    ));
    let day = Duration::from_hours(24);
    let now = Timestamp::now();
    let region = Region::new(ALLOCATOR);
    let sessions = Sessions::in_memory(Lifetime { idle: day, absolute: day }, keyring);
    let mut cookies = Vec::new();
    let started = Instant::now();
    for number in 0..COUNT {
        let groups: Vec<Box<str>> = (0..5).map(|group| format!("group-{group}").into()).collect();
        let identity = Identity {
            authority: Arc::clone(&authority),
            issuer: "https://idp.example.com/realms/corp".into(),
            subject: format!("00u{number:017}").into(),
            email: Some(format!("person{number}@example.com").into()),
            username: Some(format!("person{number}").into()),
            groups_joined: JoinedGroups::new(&groups),
            groups,
            groups_overage: false,
            organization: Some("acme".into()),
            token: TokenIds::default(),
            bound_to: None,
            expires: now.plus(day),
        };
        let tokens = Tokens {
            // As long as a usual ID token and a usual refresh token.
            id_token: SecretString::from("i".repeat(1000)),
            refresh_token: Some(SecretString::from("r".repeat(200))),
            nonce: "n".repeat(43).into(),
            refreshed: now,
            refresh_due: now,
        };
        let (_, session) = sessions.begin(identity, tokens, "login.example.com", now).unwrap();
        let host = format!("workspace-{number}.ws.example.com");
        let cookie = sessions.add_cookie(&session, &host, now).unwrap();
        if number % 100 == 0 {
            cookies.push((cookie, host));
        }
    }
    let took = started.elapsed();
    let change = region.change();
    let bytes = change.bytes_allocated - change.bytes_deallocated;
    println!(
        "{COUNT} sessions of two cookies: {:.1} MiB, {:.1} us to begin one",
        bytes as f64 / 1024.0 / 1024.0,
        took.as_secs_f64() * 1e6 / COUNT as f64,
    );
    let started = Instant::now();
    let rounds = 200;
    for _ in 0..rounds {
        for (cookie, host) in &cookies {
            assert!(black_box(sessions.find(cookie.as_bytes(), host, now)).is_some());
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e9 / (rounds * cookies.len()) as f64;
    println!("a look-up: {each:.0} ns");
}
