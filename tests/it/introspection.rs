//! Opaque tokens: their issuer is asked, off the request's way, and believed for a short time.

use std::os::unix::fs::PermissionsExt;

use crate::{
    support::{ALICES, Stage, Version, agent::program, host, port_host, until},
    wire::Bare,
};
use dev_idp::{DevIdp, Fault, Faults};

const TABLE: &str =
    "\n[issuer.introspection]\nclient_id = 'gate'\nclient_secret_file = 'secret'\n\n[[host]]";
const SECRET: &str = "s3cret&+";

fn configured(directory: &std::path::Path, config: &mut String) {
    let secret = directory.join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    *config = config.replacen("\n[[host]]", TABLE, 1);
}

async fn stage() -> Bare {
    Bare::changed_in(configured).await
}

fn fault(introspection: Fault) -> Faults {
    Faults { introspection, ..Faults::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_an_opaque_token_counts_when_its_issuer_says_so() {
    for version in Version::all() {
        let stage = Stage::changed(version, DevIdp::start().await, |directory, config, _| {
            configured(directory, config);
        })
        .await;
        for (token, status, reason) in [
            ("opaque-alice", 200, ""),
            ("opaque-bob", 403, "not_permitted"),
            ("opaque-inactive", 401, "token_inactive"),
            ("opaque-elsewhere", 401, "token_audience"),
            ("opaque-textual", 503, "introspection_unavailable"),
        ] {
            let reply = stage.get_with(&host(ALICES), Some(token)).await;
            assert_eq!(reply.status, status, "{version:?} {token} {}", reply.body);
            assert!(reply.body.contains(reason) || status == 200, "{token} {}", reply.body);
            assert!(!reply.body.contains(token), "it does not travel on");
        }
        let said = stage.haproxy.log() + &stage.agent.log();
        assert!(
            !said.contains("opaque-") && !said.contains(SECRET),
            "{version:?}: a secret in a log"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_many_requests_with_one_token_cause_one_introspection_and_a_jwt_causes_none() {
    let bare = stage().await;
    bare.idp.set_faults(fault(Fault::Slow(50)));
    let mut peer = bare.unix().await;
    let frames: Vec<_> = (0..50)
        .flat_map(|_| peer.authorize(host(ALICES).as_bytes(), Some("opaque-alice")))
        .collect();
    peer.write(&frames).await;
    for _ in 0..50 {
        assert_eq!(peer.reason().await.as_deref(), Some("owner"));
    }
    for _ in 0..950 {
        assert_eq!(peer.ask(&host(ALICES), Some("opaque-alice")).await.as_deref(), Some("owner"));
    }
    assert_eq!(bare.idp.counters().introspection, 1);
    let jwt = bare.idp.token_of("alice");
    for token in [&*jwt, "a.b.c", "not a token", &"x".repeat(5000)] {
        let _ = peer.ask(&host(ALICES), Some(token)).await;
    }
    assert_eq!(bare.idp.counters().introspection, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_an_issuer_that_cannot_be_asked_allows_nothing_and_recovers() {
    let bare = stage().await;
    let mut peer = bare.unix().await;
    for (n, (broken, want)) in [
        (Fault::Status(500), "introspection_unavailable"),
        (Fault::Status(401), "introspection_unavailable"),
        (Fault::Garbage, "introspection_unavailable"),
        (Fault::Empty, "introspection_unavailable"),
        (Fault::Oversize, "introspection_unavailable"),
        (Fault::Redirect("http://127.0.0.1:1/".into()), "introspection_unavailable"),
        (Fault::Hang, "deadline"),
    ]
    .into_iter()
    .enumerate()
    {
        bare.idp.set_faults(fault(broken.clone()));
        let token = format!("opaque-user{n}");
        let answer = peer.ask(&host(ALICES), Some(&token)).await;
        assert_eq!(answer.as_deref(), Some(want), "{broken:?}");
        assert_eq!(peer.ask_public().await.as_deref(), Some("public"), "others go on");
    }
    bare.idp.set_faults(Faults::default());
    assert_eq!(peer.ask(&host(ALICES), Some("opaque-alice")).await.as_deref(), Some("owner"));
    // The one that failed is asked about again after a second.
    until("another introspection", async || {
        let answer = peer.ask(&host(ALICES), Some("opaque-user0")).await;
        (answer.as_deref() == Some("not_permitted")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_an_answer_ends_with_its_token() {
    let bare = stage().await;
    let mut peer = bare.unix().await;
    // Over in two seconds, with the leeway.
    let asked = async |peer: &mut crate::wire::Peer| {
        peer.ask(&host(ALICES), Some("opaque-short")).await.unwrap()
    };
    assert_eq!(asked(&mut peer).await, "not_permitted");
    let before = bare.idp.counters().introspection;
    assert_eq!(asked(&mut peer).await, "not_permitted");
    assert_eq!(bare.idp.counters().introspection, before);
    until("the end of what was learnt", async || {
        let _ = asked(&mut peer).await;
        (bare.idp.counters().introspection > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_without_the_table_an_opaque_token_is_malformed_and_there_is_no_introspection() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let answer = peer.ask(&host(ALICES), Some("opaque-alice")).await;
    assert_eq!(answer.as_deref(), Some("token_malformed"));
    assert_eq!(bare.idp.counters().introspection, 0);
    // A private key signs instead of a secret.
    let bare = Bare::changed_in(|directory, config| {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(directory.join("key.pem"), key).unwrap();
        let table = TABLE.replace("client_secret_file = 'secret'", "private_key_file = 'key.pem'");
        *config = config.replacen("\n[[host]]", &table, 1);
    })
    .await;
    let mut peer = bare.unix().await;
    let answer = peer.ask(&host(ALICES), Some("opaque-alice")).await;
    assert_eq!(answer.as_deref(), Some("owner"));
    assert_eq!(peer.ask(&port_host(3000, ALICES), None).await.as_deref(), Some("public"));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_asks_about_an_opaque_token_too() {
    let bare = stage().await;
    let token = bare.directory.path().join("token");
    for (text, code) in [("opaque-alice", 0), ("opaque-inactive", 1)] {
        std::fs::write(&token, text).unwrap();
        let config = bare.directory.path().join("agent.toml");
        let (token, host) = (token.clone(), host(ALICES));
        let output = tokio::task::spawn_blocking(move || {
            let mut explain = std::process::Command::new(program());
            explain.args(["explain", "--host", &host, "--config"]).arg(config);
            explain.arg("--token-file").arg(token).output().unwrap()
        });
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
