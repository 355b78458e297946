//! Tunnels of browser sessions: they end with their session, and count as its use.

use std::time::Instant;

use reqwest::Upgraded;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::scene::Figures;
use crate::{
    sign_in::{Browser, Changes, LOGIN, Stage},
    support::{self, ALICES, BOBS, PATIENCE, Version, host, redis::Redis, until},
};
use dev_idp::TokenRequest;

const HAPROXY: &str = "\n[haproxy]\nsockets = ['unix:master.sock']\n";

async fn open(stage: &Stage, browser: &Browser, host: &str) -> Upgraded {
    let port = stage.haproxy.https.port();
    let http = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .tls_danger_accept_invalid_certs(true)
        .resolve(host, stage.haproxy.https)
        .build()
        .unwrap();
    let id = &browser.cookies[host]["__Host-identity"];
    let response = http
        .get(format!("https://{host}:{port}/ws"))
        .header("cookie", format!("__Host-identity={id}"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("origin", format!("https://{host}:{port}"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 101, "{}", stage.agent.log());
    response.upgrade().await.unwrap()
}

async fn echoes(tunnel: &mut Upgraded) {
    tunnel.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    let mut heard = [0; 4];
    timeout(PATIENCE, tunnel.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"\x81\x02hi");
}

async fn ended(tunnel: &mut Upgraded) -> Instant {
    let read = timeout(PATIENCE, tunnel.read_u8()).await.expect("still connected");
    assert!(read.is_err(), "{read:?}");
    Instant::now()
}

/// Two tunnels of one session of alice, and one of bob.
async fn both(stage: &Stage) -> (Browser, [Upgraded; 2], Upgraded) {
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    stage.idp.set_user("bob");
    let mut bob = stage.browser();
    assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
    let name = host(ALICES);
    let hers = [open(stage, &alice, &name).await, open(stage, &alice, &name).await];
    let his = open(stage, &bob, &host(BOBS)).await;
    (alice, hers, his)
}

fn revoke(stage: &Stage, subject: &str) {
    let output = std::process::Command::new(support::agent::program())
        .args(["revoke", "--subject", subject, "--before", "now", "--config"])
        .arg(stage.directory.path().join("agent.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_l12_a_session_that_ends_ends_its_tunnels_and_no_others() {
    for version in super::versions() {
        let mut figures = Figures::default();
        for way in ["signed out", "ended by the provider", "ended by an administrator"] {
            let stage = Stage::with(version, HAPROXY).await;
            let (mut alice, mut hers, mut his) = both(&stage).await;
            echoes(&mut his).await;
            let gate = stage.haproxy.https.port();
            let since = Instant::now();
            match way {
                "signed out" => {
                    let path = "/.well-known/identity-spoa/sign-out";
                    let origin = format!("https://{LOGIN}:{gate}");
                    let headers = [
                        ("content-type", "application/x-www-form-urlencoded"),
                        ("origin", origin.as_str()),
                    ];
                    assert_eq!(alice.ask("POST", LOGIN, path, &headers).await.status, 303);
                }
                "ended by the provider" => {
                    let claims = json!({
                        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
                        "jti": "1", "sub": "sub-alice", "email": null, "groups": null, "org": null,
                        "preferred_username": null,
                    });
                    let token = stage.idp.token(&TokenRequest {
                        audience: json!("gate"),
                        claims: claims.as_object().unwrap().clone(),
                        header: json!({ "typ": "logout+jwt" }).as_object().unwrap().clone(),
                        ..TokenRequest::default()
                    });
                    let path = "/.well-known/identity-spoa/back-channel/dev";
                    let request = alice.http.post(format!("https://{LOGIN}:{gate}{path}"));
                    let request =
                        request.header("content-type", "application/x-www-form-urlencoded");
                    let reply = request.body(format!("logout_token={token}")).send().await;
                    assert_eq!(reply.unwrap().status(), 200);
                }
                _ => revoke(&stage, "sub-alice"),
            }
            let mut took = Vec::new();
            for tunnel in &mut hers {
                took.push(ended(tunnel).await.saturating_duration_since(since));
            }
            figures.add(way, took);
            echoes(&mut his).await;
        }
        figures.judge(&format!("haproxy {version:?}, sessions"));
    }
}

/// The causes in the records of terminated tunnels.
fn causes(stage: &Stage) -> Vec<String> {
    let text = std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let terminated = records.filter(|record| record["event"] == "tunnel_terminate");
    terminated.map(|record| record["cause"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_a_lost_session_store_closes_tunnels_for_that_reason_and_not_as_if_the_session_had_ended()
 {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start(directory.path()).await;
    let tables = format!("{}{HAPROXY}", redis.table("max_staleness_seconds = 1"));
    let changes = Changes { tables: &tables, ..Changes::default() };
    let stage = Stage::changed(Version::newest(), &changes).await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    let mut tunnel = open(&stage, &alice, &host(ALICES)).await;
    echoes(&mut tunnel).await;
    redis.signal("-STOP");
    ended(&mut tunnel).await;
    let found =
        until("the record", async || Some(causes(&stage)).filter(|causes| !causes.is_empty()))
            .await;
    assert_eq!(found, ["sessions_unavailable"]);
    // The session itself has not ended: with the store it is valid again, and so are its tunnels.
    redis.signal("-CONT");
    until("the session to be valid", async || {
        (alice.get(&host(ALICES), "/").await.status == 200).then_some(())
    })
    .await;
    let mut tunnel = open(&stage, &alice, &host(ALICES)).await;
    echoes(&mut tunnel).await;
    // A session that ends is another case.
    let path = "/.well-known/identity-spoa/sign-out";
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(alice.ask("POST", LOGIN, path, &form).await.status, 303);
    ended(&mut tunnel).await;
    until("both records", async || {
        (causes(&stage) == ["sessions_unavailable", "session_ended"]).then_some(())
    })
    .await;
}
