//! Sessions whose provider is asked again, with refresh tokens.

use serde_json::{Value, json};

use crate::{
    sign_in::{Changes, LOGIN, Stage},
    support::{ALICES, Version, host, port_host, redis::Redis, until},
};
use dev_idp::{Fault, Faults};

async fn stage() -> Stage {
    Stage::with(Version::newest(), "refresh_seconds = 1").await
}

fn events(stage: &Stage, event: &str) -> usize {
    let text = std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_change_of_groups_counts_when_the_provider_is_asked_again() {
    let stage = stage().await;
    stage.idp.set_user("dave");
    let mut dave = stage.browser();
    // Port 4000 is granted to the group 'engineers'.
    let place = port_host(4000, ALICES);
    assert_eq!(dave.browse(&place, "/").await.status, 200);
    stage.idp.set_renewed(&json!({ "groups": ["sales"] }));
    until("the group to be gone", async || {
        let reply = dave.get(&place, "/").await;
        (reply.status == 403).then_some(())
    })
    .await;
    until("the record of it", async || (events(&stage, "session_changed") == 1).then_some(()))
        .await;
    stage.idp.set_renewed(&json!({ "groups": ["engineers"] }));
    until("the group to be back", async || {
        (dave.get(&place, "/").await.status == 200).then_some(())
    })
    .await;
    let counters = stage.idp.counters();
    assert_eq!(counters.refused, 0, "each token was used once: {counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_provider_that_says_no_ends_the_session_and_one_that_is_silent_does_not() {
    let stage = stage().await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    stage.idp.set_faults(Faults { refresh: Fault::Status(503), ..Faults::default() });
    until("a refresh that failed", async || {
        assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
        stage.agent.log().contains("refreshing a session at its provider failed").then_some(())
    })
    .await;
    assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
    stage.idp.set_faults(Faults::default());
    stage.idp.forget_refresh_tokens();
    let mut bob = stage.browser();
    stage.idp.set_user("bob");
    assert_eq!(bob.browse(&port_host(6000, ALICES), "/").await.status, 200);
    stage.idp.forget_refresh_tokens();
    until("the end of the session", async || {
        let reply = bob.get(&port_host(6000, ALICES), "/").await;
        (reply.status == 302).then_some(())
    })
    .await;
    until("the record of it", async || (events(&stage, "session_refused") == 1).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_response_about_another_person_ends_the_session() {
    for claims in [json!({ "sub": "sub-mallory" }), json!({ "nonce": "another" })] {
        let stage = stage().await;
        let mut alice = stage.browser();
        assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
        stage.idp.set_renewed(&claims);
        until("the end of the session", async || {
            let reply = alice.get(&host(ALICES), "/").await;
            (reply.status == 302).then_some(())
        })
        .await;
        until("the record", async || (events(&stage, "session_refused") == 1).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_refresh_token_is_used_by_one_agent_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start(directory.path()).await;
    let tables = redis.table("");
    let changes = Changes {
        sign_in: "refresh_seconds = 1",
        tables: &tables,
        two: true,
        ..Changes::default()
    };
    let stage = Stage::changed(Version::newest(), &changes).await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    until("several refreshes", async || {
        assert_eq!(alice.get(&host(ALICES), "/").await.status, 200);
        (stage.idp.counters().refresh >= 3).then_some(())
    })
    .await;
    // A token that two agents used would have been refused once, and the session ended.
    assert_eq!(stage.idp.counters().refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_revoked_is_not_brought_back_by_asking_again() {
    let stage = stage().await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    let output = std::process::Command::new(crate::support::agent::program())
        .args(["revoke", "--subject", "sub-alice", "--before", "now", "--config"])
        .arg(stage.directory.path().join("agent.toml"))
        .output()
        .unwrap();
    assert!(output.status.success());
    // New tokens would say that they were issued later.
    let mut bob = stage.browser();
    stage.idp.set_user("bob");
    assert_eq!(bob.browse(&port_host(6000, ALICES), "/").await.status, 200);
    let before = stage.idp.counters().refresh;
    until("others to be asked about", async || {
        let reply = alice.ask("GET", &host(ALICES), "/", &[("accept", "*/*")]).await;
        assert_eq!(reply.status, 401, "{reply:?}");
        assert_eq!(bob.get(&port_host(6000, ALICES), "/").await.status, 200);
        (stage.idp.counters().refresh >= before + 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_out_gives_the_refresh_token_back() {
    let stage = stage().await;
    let mut alice = stage.browser();
    assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
    let path = "/.well-known/identity-spoa/sign-out";
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(alice.ask("POST", LOGIN, path, &[form]).await.status, 303);
    assert_eq!(stage.idp.counters().given_back, 1);
    // a1: nothing of it in any output.
    for file in ["agent.log", "audit.jsonl", "haproxy.log"] {
        let text = std::fs::read_to_string(stage.directory.path().join(file)).unwrap();
        assert!(!text.contains("refresh-canary"), "{file}");
    }
}
