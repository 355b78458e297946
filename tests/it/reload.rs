//! The configuration changes while the agent runs: completely or not at all, and no request is lost or decided wrongly
//! meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::{
    support::{ALICES, Stage, Version, host, port_host, until},
    tunnels::scene::Scene,
};
use dev_idp::{DevIdp, TokenRequest};
use dev_workspace::DevWorkspace;

/// Waits until this many reloads were tried; returns the record of the last one.
async fn reloads(stage: &Stage, count: usize) -> Value {
    until("a reload", async || {
        let all: Vec<Value> = stage.audit().into_iter().filter(is_reload).collect();
        (all.len() >= count).then(|| all[count - 1].clone())
    })
    .await
}

fn is_reload(record: &Value) -> bool {
    matches!(record["event"].as_str(), Some("reload" | "reload_refused"))
}

const ADMIN: &str = "\n[admin]\nsocket = 'agent-admin.sock'\nrevocations = 'revocations.jsonl'\n";

async fn admin_stage() -> Stage {
    let idp = DevIdp::start().await;
    Stage::changed(Version::newest(), idp, |_, config, _| config.push_str(ADMIN)).await
}

/// A stage whose list says whose people it names, so that there may be several issuers.
async fn plain_stage() -> Stage {
    Stage::changed(Version::newest(), DevIdp::start().await, |_, _, list| {
        *list = list
            .replace("owner: { ", "owner: { issuer: dev, ")
            .replace("user: { ", "user: { issuer: dev, ")
            .replace("      - group: engineers\n        endpoints: [4000]\n", "");
    })
    .await
}

async fn metric(stage: &Stage, line: &str) -> bool {
    let socket = stage.directory.path().join("agent-admin.sock");
    let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    let text = client.get("http://agent/metrics").send().await.unwrap().text().await.unwrap();
    text.lines().any(|known| known == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_holds_without_a_restart_and_is_on_record() {
    let stage = admin_stage().await;
    let (port, public) = (port_host(3000, ALICES), host(ALICES));
    assert_eq!(stage.status(&port, None).await, 200);
    let before = stage.audit().last().unwrap()["config"].clone();
    let text = stage.configured();
    let stricter = text.replace(
        "file = \"workspaces.yaml\"",
        "file = \"workspaces.yaml\"\nmax_admission = \"authenticated\"",
    );
    stage.configure(&stricter);
    let record = reloads(&stage, 1).await;
    assert_eq!(record["event"], "reload", "{record}");
    assert_eq!(record["note"], "workspaces.max_admission: \"authenticated\" is new");
    assert_eq!(stage.status(&port, None).await, 401);
    assert_eq!(stage.status(&public, Some("alice")).await, 200);
    // Records are written a moment after the answer.
    until("decisions that name what decided", async || {
        let decided = stage.audit().into_iter().rfind(|r| r["decision_id"].is_string())?;
        (decided["config"] == record["config"]).then_some(())
    })
    .await;
    assert_ne!(record["config"], before);
    assert!(metric(&stage, "identity_spoa_config_reloads_total{result=\"applied\"} 1").await);
    // Back again by the signal alone.
    stage.configure(&text);
    let record = reloads(&stage, 2).await;
    assert_eq!((&record["event"], &record["config"]), (&json!("reload"), &before));
    assert_eq!(stage.status(&port, None).await, 200);
    stage.agent.signal("-HUP");
    let record = reloads(&stage, 3).await;
    assert_eq!(
        record["event"], "reload",
        "a signal also reads the files that are named again: {record}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_says_where_it_is_broken() {
    let stage = admin_stage().await;
    let text = stage.configured();
    let broken = text.replace("audience = \"workspaces\"", "audience = \"workspaces\"\nwhat = 1");
    stage.configure(&broken);
    let record = reloads(&stage, 1).await;
    assert_eq!(record["event"], "reload_refused");
    let note = record["note"].as_str().unwrap();
    let line = broken.lines().position(|line| line == "what = 1").unwrap() + 1;
    assert!(note.contains(&format!("agent.toml:{line}:")) && note.contains("what"), "{note}");
    assert!(stage.agent.log().contains("nothing has changed"));
    assert!(metric(&stage, "identity_spoa_config_current 0").await);
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 200);
    // What holds comes back to the file: nothing to do, and no alarm any more.
    stage.configure(&text);
    until("the alarm to end", async || {
        metric(&stage, "identity_spoa_config_current 1").await.then_some(())
    })
    .await;
    std::fs::remove_file(stage.config_file()).unwrap();
    stage.agent.signal("-HUP");
    let record = reloads(&stage, 2).await;
    assert_eq!(record["event"], "reload_refused", "a file that is away: {record}");
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_refused_by_name_with_all_that_came_along() {
    let stage = Stage::start(Version::newest()).await;
    let text = stage
        .configured()
        .replace("\"127.0.0.1:0\"]", "\"127.0.0.1:0\", \"unix:more.sock\"]")
        .replace("file = \"audit.jsonl\"", "file = \"other.jsonl\"")
        .replace("audience = \"workspaces\"", "audience = \"elsewhere\"");
    stage.configure(&text);
    let record = reloads(&stage, 1).await;
    assert_eq!(record["event"], "reload_refused");
    let note = record["note"].as_str().unwrap();
    assert!(note.contains("[agent] listen") && note.contains("[audit]"), "{note}");
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 200, "the audience stays too");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_judged_by_the_issuers_that_are_configured_now() {
    let other = DevIdp::start().await;
    let second = format!(
        "\n[[issuer]]\nname = \"second\"\nissuer = \"{}\"\naudience = \"workspaces\"\n",
        other.issuer()
    );
    let stage = plain_stage().await;
    let (name, text) = (host(ALICES), stage.configured());
    let theirs = other.token_of("alice");
    assert_eq!(stage.get_with(&name, Some(&theirs)).await.status, 401);
    stage.configure(&format!("{text}{second}"));
    assert_eq!(reloads(&stage, 1).await["event"], "reload");
    let status = stage.get_with(&name, Some(&theirs)).await.status;
    assert_eq!(status, 403, "known, and not the owner; the keys are there when it counts");
    // Remembered by now; and forgotten with its issuer.
    stage.configure(&text);
    assert_eq!(reloads(&stage, 2).await["event"], "reload");
    assert_eq!(stage.get_with(&name, Some(&theirs)).await.status, 401);
    // A remembered token does not outlive the rule that it met.
    let token = stage.idp.token_of("alice");
    assert_eq!(stage.get_with(&name, Some(&token)).await.status, 200);
    stage.configure(&text.replace("audience = \"workspaces\"", "audience = \"elsewhere\""));
    assert_eq!(reloads(&stage, 3).await["event"], "reload");
    assert_eq!(stage.get_with(&name, Some(&token)).await.status, 401);
    let audience = json!("elsewhere");
    let request = TokenRequest { user: "alice".into(), audience, ..TokenRequest::default() };
    assert_eq!(stage.get_with(&name, Some(&stage.idp.token(&request))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_without_keys_does_not_take_over() {
    let mut other = DevIdp::start().await;
    let stage = plain_stage().await;
    let more = format!(
        "{}\n[[issuer]]\nname = \"second\"\nissuer = \"{}\"\naudience = \"workspaces\"\n",
        stage.configured(),
        other.issuer()
    );
    other.halt();
    stage.configure(&more);
    let record = reloads(&stage, 1).await;
    assert_eq!(record["event"], "reload_refused");
    let note = record["note"].as_str().unwrap();
    assert!(note.contains("the issuer 'second' gave no keys"), "{note}");
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_change_without_a_gap_and_leases_go_along() {
    let api = "\n[[source]]\nname = 'builds'\nkind = 'api'\nlease_seconds = 600\n";
    let idp = DevIdp::start().await;
    let stage = Stage::changed(Version::newest(), idp, |_, config, _| {
        config.push_str(ADMIN);
        config.push_str(api);
    })
    .await;
    let (build, third) = (DevWorkspace::start("build").await, DevWorkspace::start("third").await);
    let address = build.address();
    let socket = stage.directory.path().join("agent-admin.sock");
    let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    let path = "http://agent/v1/sources/builds/workspaces/build-demo-ns35kd21abc";
    let body = |port: u16| {
        json!({ "id": "build-demo-ns35kd21abc", "owner": { "subject": "sub-bob" },
            "phase": "running", "destination": format!("127.0.0.1:{port}") })
        .to_string()
    };
    let reply = client.put(path).body(body(address.port())).send().await.unwrap();
    assert_eq!(reply.status(), 200, "{}", reply.text().await.unwrap());
    let name = host("build-demo-ns35kd21abc");
    let status = stage.status(&name, Some("bob")).await;
    assert_eq!(status, 200, "{}", stage.haproxy.log());

    // Another list, with one more workspace; the ones that were there stay all the while.
    let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
    let more = format!(
        "{list}  - id: third-demo-ns35kd21abc\n    owner: {{ subject: sub-alice }}\n    \
         phase: running\n    destination: {}\n",
        third.address()
    );
    std::fs::write(stage.directory.path().join("other.yaml"), more).unwrap();
    let ended = AtomicBool::new(false);
    let asking = async {
        let mut client = stage.client().await;
        let token = stage.idp.token_of("alice");
        let mut asked = 0;
        while !ended.load(Ordering::Relaxed) {
            assert_eq!(client.get(&host(ALICES), Some(&token)).await.status, 200);
            asked += 1;
        }
        asked
    };
    let changing = async {
        let text = stage.configured().replace("\"workspaces.yaml\"", "\"other.yaml\"");
        stage.configure(&text);
        let record = reloads(&stage, 1).await;
        ended.store(true, Ordering::Relaxed);
        record
    };
    let (asked, record) = tokio::join!(asking, changing);
    assert_eq!(record["event"], "reload", "{record}");
    assert!(asked > 0);
    assert_eq!(stage.status(&host("third-demo-ns35kd21abc"), Some("alice")).await, 200);
    assert_eq!(stage.status(&name, Some("bob")).await, 200, "written before, holds after");
    let reply = client.delete(path).send().await.unwrap();
    assert!(reply.status().is_success());
    assert_eq!(stage.status(&name, Some("bob")).await, 404);

    // A list that is broken does not take over.
    std::fs::write(stage.directory.path().join("broken.yaml"), "workspaces: [{ id: 1 }]").unwrap();
    stage.configure(&stage.configured().replace("\"other.yaml\"", "\"broken.yaml\""));
    let record = reloads(&stage, 2).await;
    assert_eq!(record["event"], "reload_refused");
    assert!(record["note"].as_str().unwrap().contains("broken.yaml:1:"), "{record}");
    assert_eq!(stage.status(&host("third-demo-ns35kd21abc"), Some("alice")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_when_the_rules_that_let_it_in_are_gone() {
    let scene = Scene::start(Version::newest(), 2, 1, "").await;
    let other = DevIdp::start().await;
    let text = std::fs::read_to_string(scene.directory.path().join("agent.toml")).unwrap();
    let second = format!(
        "\n[[issuer]]\nname = \"second\"\nissuer = \"{}\"\naudience = \"workspaces\"\n",
        other.issuer()
    );
    test_stage::replace(&scene.directory.path().join("agent.toml"), format!("{text}{second}"));
    let reloads = async |count: usize| {
        until("a reload", async || (scene.records("reload").len() >= count).then_some(())).await;
    };
    reloads(1).await;
    let token = other.token_of("guest");
    let mut theirs = scene.try_open(0, "guest", &token, 0, 3000).await.unwrap();
    let mut ours = scene.open("u0", 0, 3000).await;
    // What does not concern an issuer does not concern its tunnels either.
    test_stage::replace(
        &scene.directory.path().join("agent.toml"),
        format!("{text}{second}[credentials]\ncookie = 'token'\n"),
    );
    reloads(2).await;
    theirs.echoes().await;
    ours.echoes().await;
    test_stage::replace(&scene.directory.path().join("agent.toml"), &text);
    reloads(3).await;
    theirs.ended().await;
    ours.echoes().await;
    until("the record of the termination", async || {
        let terminated = scene.records("tunnel_terminate");
        terminated.iter().any(|record| record["cause"] == "token_issuer").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_hold_from_the_signal_on_and_broken_ones_change_nothing() {
    let forbid = |path: &str| {
        format!(
            "@id(\"closed\") forbid(principal, action, resource) when {{ context has path && context.path like \"{path}\" }};\n"
        )
    };
    let idp = DevIdp::start().await;
    let stage = Stage::changed(Version::newest(), idp, |directory, config, _| {
        std::fs::create_dir(directory.join("policies")).unwrap();
        std::fs::write(directory.join("policies/one.cedar"), forbid("/nowhere")).unwrap();
        config.push_str("[policy]\ndirectory = 'policies'\n");
    })
    .await;
    let file = stage.directory.path().join("policies/one.cedar");
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 200);
    std::fs::write(&file, forbid("/*")).unwrap();
    stage.agent.signal("-HUP");
    let record = reloads(&stage, 1).await;
    assert_eq!(record["event"], "reload", "{record}");
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 403);
    std::fs::write(&file, "forbid(").unwrap();
    stage.agent.signal("-HUP");
    let record = reloads(&stage, 2).await;
    assert_eq!(record["event"], "reload_refused");
    assert!(record["note"].as_str().unwrap().contains("one.cedar:1:"), "{record}");
    assert_eq!(stage.status(&host(ALICES), Some("alice")).await, 403, "those before hold");
}

/// Two configurations in turn, under load. What both allow is allowed throughout, what neither does never;
/// and after each reload the verdict is the new one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reloads_under_load_gives_no_wrong_verdict_and_loses_no_request() {
    let stage = Arc::new(Stage::start(Version::newest()).await);
    let one = stage.configured();
    // Everything that can change at once does: issuers, sources, patterns, admission.
    let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
    std::fs::write(stage.directory.path().join("other.yaml"), list).unwrap();
    let other = one
        .replace("audience = \"workspaces\"", "audience = [\"workspaces\", \"more\"]")
        .replace(
            "file = \"workspaces.yaml\"",
            "file = \"other.yaml\"\nmax_admission = \"authenticated\"",
        )
        .replace("[[host]]", "[[host]]\npreset = \"ona\"\ndomain = \"ona.test\"\n\n[[host]]");
    let ended = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (stage, ended, asked) = (Arc::clone(&stage), Arc::clone(&ended), Arc::clone(&asked));
        load.spawn(async move {
            let (owner, stranger) = (stage.idp.token_of("alice"), stage.idp.token_of("mallory"));
            let mut client = stage.client().await;
            let (own, port, public) =
                (host(ALICES), port_host(7000, ALICES), port_host(3000, ALICES));
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(client.get(&own, Some(&owner)).await.status, 200);
                assert_eq!(client.get(&port, Some(&owner)).await.status, 200);
                assert_eq!(client.get(&own, Some(&stranger)).await.status, 403);
                assert_eq!(client.get(&own, None).await.status, 401);
                // The two differ about it.
                let status = client.get(&public, None).await.status;
                assert!(status == 200 || status == 401, "{status}");
                asked.fetch_add(5, Ordering::Relaxed);
            }
        });
    }
    let mut reloads = 0;
    let rounds = 30;
    let audience = json!("more");
    let more = TokenRequest { user: "alice".into(), audience, ..TokenRequest::default() };
    let more = stage.idp.token(&more);
    for round in 0..rounds {
        let strict = round % 2 == 0;
        stage.configure(if strict { &other } else { &one });
        stage.agent.signal("-HUP");
        reloads += 1;
        // The signal and the change of the file may each be one: what counts is which one holds.
        until("the configuration to hold", async || {
            let status = stage.status(&port_host(3000, ALICES), None).await;
            (status == if strict { 401 } else { 200 }).then_some(())
        })
        .await;
        let status = stage.get_with(&host(ALICES), Some(&more)).await.status;
        assert_eq!(status, if strict { 200 } else { 401 }, "all of it or nothing");
        // A burst of signals has the effect of one.
        for _ in 0..5 {
            stage.agent.signal("-HUP");
        }
    }
    ended.store(true, Ordering::Relaxed);
    while let Some(done) = load.join_next().await {
        done.unwrap();
    }
    let count = |event: &str| stage.audit().iter().filter(|r| r["event"] == event).count();
    let applied = until("the records", async || {
        let applied = count("reload");
        (applied >= reloads).then_some(applied)
    })
    .await;
    let refused = count("reload_refused");
    let asked = asked.load(Ordering::Relaxed);
    eprintln!("{applied} reloads under {asked} requests, none wrong, none lost");
    assert_eq!(refused, 0);
    assert!(asked > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_follow_file_only_the_signal_counts() {
    let idp = DevIdp::start().await;
    let stage = Stage::changed(Version::newest(), idp, |_, config, _| {
        *config = config.replace("[agent]", "[agent]\nfollow_file = false");
    })
    .await;
    let text = stage.configured().replace(
        "file = \"workspaces.yaml\"",
        "file = \"workspaces.yaml\"\nmax_admission = \"authenticated\"",
    );
    let follower = Stage::start(Version::newest()).await;
    stage.configure(&text);
    // An agent that follows its file sees such a change that was made later.
    follower.configure(&format!("{}# changed\n", follower.configured()));
    reloads(&follower, 1).await;
    assert!(!stage.audit().iter().any(is_reload));
    assert_eq!(stage.status(&port_host(3000, ALICES), None).await, 200);
    stage.agent.signal("-HUP");
    assert_eq!(reloads(&stage, 1).await["event"], "reload");
    assert_eq!(stage.status(&port_host(3000, ALICES), None).await, 401);
}
