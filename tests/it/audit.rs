//! The audit log of the running agent, and the commands that read it.

use std::{
    path::Path,
    process::{Command, Output},
};

use identity_spoa::{audit::AuditEvent, fingerprint::Fingerprint, spop::Value as Spop};
use serde_json::{Value, json};

use crate::{
    support::{ALICES, agent::program, haproxy::root, host, port_host, records, until},
    wire::Bare,
};
use dev_idp::TokenRequest;

fn audit(directory: &Path, args: &[&str]) -> Output {
    Command::new(program()).arg("audit").args(args).current_dir(directory).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn token(bare: &Bare, claims: Value) -> String {
    let Value::Object(claims) = claims else { panic!("{claims}") };
    bare.idp.token(&TokenRequest { claims, ..TokenRequest::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a2_a_record_says_what_a_decision_rests_on() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let token = token(&bare, json!({"jti": "t-17"}));
    for _ in 0..2 {
        assert_eq!(peer.ask(&host(ALICES), Some(&token)).await.as_deref(), Some("owner"));
    }
    let jti = Fingerprint::of_bytes(b"t-17").to_string();
    let about = until("the records", async || {
        let all = records(bare.directory.path());
        let of: Vec<_> = all.into_iter().filter(|record| record["token"] == *jti).collect();
        (of.len() == 2).then_some(of)
    })
    .await;
    let all = records(bare.directory.path());
    let keys = all.iter().find(|record| record["event"] == "key_set").unwrap();
    let config = std::fs::read(bare.directory.path().join("agent.toml")).unwrap();
    for (record, cached) in about.iter().zip([false, true]) {
        assert_eq!(record["cached"], cached, "{record}");
        assert_eq!(record["credential"], "bearer");
        assert_eq!(record["key_set"], keys["key_set"]);
        assert_eq!(record["config"], Fingerprint::of_bytes(&config).to_string());
        assert_eq!((&record["user"], &record["subject"]), (&json!("alice"), &json!("sub-alice")));
        assert_eq!((&record["workspace"], &record["endpoint"]), (&json!(ALICES), &json!("main")));
        assert!(record["latency_us"].as_u64().is_some_and(|us| us < 1_000_000), "{record}");
        assert!(record["seq"].is_u64() && record["decision_id"].is_string());
    }
    assert!(!Value::from(all).to_string().contains("t-17"), "the token's id itself is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a3_the_agents_own_acts_and_new_keys_are_on_record() {
    let mut bare = Bare::start().await;
    bare.idp.rotate(false);
    let mut peer = bare.unix().await;
    let token = bare.idp.token_of("alice");
    until("the new keys", async || {
        (peer.ask(&host(ALICES), Some(&token)).await.as_deref() == Some("owner")).then_some(())
    })
    .await;
    assert!(bare.agent.end().await);
    let all = records(bare.directory.path());
    let events =
        |event: &str| -> Vec<_> { all.iter().filter(|record| record["event"] == event).collect() };
    let keys = events("key_set");
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(keys[0]["before"], Value::Null);
    assert_eq!(keys[1]["before"], keys[0]["key_set"]);
    assert_eq!(keys[1]["issuer"], "dev");
    assert_eq!(events("start").len(), 1);
    assert_eq!(events("stop")[0]["note"], "SIGTERM");
    assert_eq!((&all[0]["event"], &all[0]["seq"]), (&json!("open"), &json!(1)));
    let last = all.last().unwrap();
    assert_eq!((&last["event"], &last["end"]), (&json!("checkpoint"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_a_log_is_proved_offline_and_a_change_is_found() {
    let mut bare = Bare::start().await;
    assert!(bare.agent.end().await);
    let directory = bare.directory.path();
    let key = audit(directory, &["public-key", "--config", "agent.toml"]);
    assert!(key.status.success());
    std::fs::write(directory.join("audit.pub"), &key.stdout).unwrap();
    assert!(stdout(&key).starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let audit_log = std::fs::read_to_string(directory.join("audit.jsonl")).unwrap();
    std::fs::write(directory.join("kept"), audit_log.lines().last().unwrap()).unwrap();
    let proof = ["--public-key", "audit.pub", "--checkpoint", "kept"];
    let verify = |more: &[&str]| {
        let output = audit(directory, &[&["verify"], more, &proof].concat());
        (output.status.code().unwrap(), stdout(&output))
    };
    let (code, said) = verify(&["--config", "agent.toml"]);
    assert_eq!((code, said.ends_with("\nwhole\n")), (0, true), "{said}");
    let (code, said) = verify(&["audit.jsonl", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["whole"], &said["ended"]), (0, &json!(true), &json!(true)));
    // The record of one user is changed to name another.
    let edited = audit_log.replacen("\"user\":\"alice\"", "\"user\":\"mallory\"", 1);
    assert_ne!(edited, audit_log);
    std::fs::write(directory.join("edited"), edited).unwrap();
    let (code, said) = verify(&["edited"]);
    assert_eq!((code, said.contains("was changed"), said.contains("NOT WHOLE")), (1, true, true));
    let cut: Vec<_> = audit_log.lines().collect();
    std::fs::write(directory.join("cut"), cut[..cut.len() - 3].join("\n") + "\n").unwrap();
    let (code, said) = verify(&["cut"]);
    assert_eq!((code, said.contains("the end is cut off")), (1, true), "{said}");
    for (args, said) in [
        (&["verify"][..], "expected the files"),
        (&["verify", "missing"], "cannot read missing"),
        (&["verify", "audit.jsonl", "--public-key", "agent.toml"], "expected PEM"),
        (&["verify", "audit.jsonl", "--checkpoint", "audit.pub"], "not a line of an audit log"),
        (&["query", "audit.jsonl", "--since", "yesterday"], "such as 36h or 7d"),
    ] {
        let output = audit(directory, args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.contains(said)), (Some(2), true), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_found_by_its_decision_and_by_each_name_of_its_user() {
    let mut bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let carol = token(
        &bare,
        json!({"sub": "sub-carol", "preferred_username": "carol",
            "email": "Carol@corp.example", "email_verified": true}),
    );
    peer.ask(&host(ALICES), Some(&carol)).await;
    let dave = token(
        &bare,
        json!({"sub": "sub-dave", "preferred_username": "dave",
            "email": "carol@corp.example", "email_verified": false}),
    );
    peer.ask(&host(ALICES), Some(&dave)).await;
    assert!(bare.agent.end().await);
    let query = |args: &[&str]| -> Vec<Value> {
        let all = [&["query", "--config=agent.toml", "--json"], args].concat();
        let output = audit(bare.directory.path(), &all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for name in ["carol", "carol@corp.example", "Carol@Corp.Example", "sub-carol"] {
        let found = query(&["--user", name]);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert_eq!(
            (&found[0]["user"], &found[0]["email"]),
            (&json!("carol"), &json!("carol@corp.example"))
        );
    }
    // An address that the issuer did not verify is not recorded.
    let [record] = &query(&["--user", "dave"])[..] else { panic!() };
    assert_eq!(record.get("email"), None);
    let id = record["decision_id"].as_str().unwrap();
    assert_eq!(query(&["--decision", id]), std::slice::from_ref(record));
    assert_eq!(query(&["--decision", id, "--user", "carol"]).len(), 0);
    assert_eq!(query(&["--decision", &id[1..]]).len(), 0, "a part of an id is not an id");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown_on_a_terminal_only() {
    let mut bare = Bare::start().await;
    assert!(bare.agent.end().await);
    let directory = bare.directory.path();
    for command in ["verify", "query", "export"] {
        let output = audit(directory, &[command, "--config", "agent.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command}: {said}");
    }
    let command = format!("TERM=xterm {} audit verify --config agent.toml", program().display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).current_dir(directory);
    let output = script.stdin(std::process::Stdio::null()).output().unwrap();
    let screen = stdout(&output);
    assert!(screen.contains("verifying") && screen.trim_end().ends_with("whole"), "{screen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_and_exported_for_an_auditor() {
    let mut bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let formula = token(&bare, json!({"preferred_username": "=1+1|' /C calc'!A0"}));
    let bob = bare.idp.token_of("bob");
    peer.ask(&host(ALICES), Some(&bob)).await;
    peer.ask(&host(ALICES), Some(&formula)).await;
    peer.ask(&port_host(3000, ALICES), None).await;
    assert!(bare.agent.end().await);
    let directory = bare.directory.path();
    let run = |args: &[&str]| {
        let output = audit(directory, args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    let all = "--config=agent.toml";
    let found = run(&["query", all, "--user", "bob", "--workspace", ALICES, "--since", "1h"]);
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(found.contains("not_permitted  bob"), "{found}");
    assert_eq!(run(&["query", all, "--user", "bob", "--until", "1h"]), "");
    assert_eq!(run(&["query", all, "--user", "bob", "--since", "2099-01-01"]), "");
    assert_eq!(run(&["query", all, "--event", "start"]).lines().count(), 1);
    let json = run(&["query", all, "--verdict", "deny", "--json"]);
    let record: Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!(record["reason"], "not_permitted");
    let csv = run(&["export", all, "--format", "csv"]);
    assert!(csv.starts_with("\"seq\",\"time\",\"event\""), "{csv}");
    assert!(csv.contains("\"'=1+1|' /C calc'!A0\""), "{csv}");
    assert!(!csv.contains("\"=1+1"), "{csv}");
    let lines = std::fs::read_to_string(directory.join("audit.jsonl")).unwrap();
    assert_eq!(csv.lines().count(), lines.lines().count() + 1);
    assert_eq!(run(&["export", all, "--format", "jsonl"]), lines);
    let summary = run(&["export", all, "--summary", "--format", "jsonl"]);
    let bob = summary.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let bob: Vec<_> = bob.filter(|line| line["user"] == "bob").collect();
    assert_eq!(bob.len(), 1, "{summary}");
    assert_eq!((&bob[0]["allowed"], &bob[0]["refused"]), (&json!(0), &json!(1)));
    assert_eq!(bob[0]["reasons"], json!({"not_permitted": 1}));
    let csv = run(&["export", all, "--summary"]);
    assert_eq!(csv.lines().count(), summary.lines().count() + 1);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one way through every path and every output")]
async fn a1_no_secret_gets_into_any_output_at_any_level() {
    const SECRET: &str = "canary-client-s3cret";
    let bare = Bare::changed_in(|directory, config| {
        std::fs::write(directory.join("agent.level"), "trace,notify=info,mio=info").unwrap();
        std::fs::write(directory.join("secret"), SECRET).unwrap();
        let table = "\n[issuer.introspection]\nclient_id = 'gate'\nclient_secret_file = 'secret'\n\n[[host]]";
        *config = config.replacen("\n[[host]]", table, 1)
            + "[admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n\
               [metrics]\nlisten = '127.0.0.1:0'\n\
               [credentials]\ncookie = 'tok'\n";
    })
    .await;
    let mut peer = bare.unix().await;
    let mut canaries = vec![SECRET.to_owned()];
    let with = |user: &str| {
        bare.idp.token(&TokenRequest { user: user.into(), expires_in: 299, ..Default::default() })
    };
    let expired = TokenRequest { expires_in: -3600, ..TokenRequest::default() };
    let foreign = TokenRequest { sign_with: "unpublished".into(), ..TokenRequest::default() };
    let tokens = [
        with("alice"),
        with("bob"),
        bare.idp.token(&expired),
        bare.idp.token(&foreign),
        "opaque-alice".to_owned(),
        "opaque-canary-inactive".to_owned(),
        "canary\u{1b}[31m\"not\\a-token".to_owned(),
        format!("{}.canary", with("alice")),
    ];
    for token in &tokens {
        for place in 0..6 {
            let bearer = format!("Bearer {token}");
            let dpop = format!("DPoP {token}");
            let basic = format!("Basic {token}");
            let cookie = format!("tok={token}; __Host-identity=canary-session; theme=canary-theme");
            let query = format!("access_token={token}&code=canary-code");
            let protocol =
                format!("base64url.bearer.authorization.k8s.io.{token}, canary-protocol");
            let null = Spop::Null;
            let text = |yes: bool, text: &str| if yes { text.to_owned() } else { String::new() };
            let authorization = [&bearer, &dpop, &basic].get(place).map(|text| text.as_str());
            let cookie = text(place == 3, &cookie);
            let query = text(place == 4, &query);
            let protocol = text(place == 5, &protocol);
            let frame = peer.notify(&[(
                b"authorize",
                &[
                    (b"unique_id", Spop::Str(b"u-1")),
                    (b"host", Spop::Str(host(ALICES).as_bytes())),
                    (b"hosts", Spop::Int64(1)),
                    (b"path", Spop::Str(b"/a/canary-canary-canary-canary-path")),
                    (
                        b"authorization",
                        authorization.map_or(null, |text| Spop::Str(text.as_bytes())),
                    ),
                    (b"authorizations", Spop::Int64(i64::from(authorization.is_some()))),
                    (b"cookie", Spop::Str(cookie.as_bytes())),
                    (b"cookies", Spop::Int64(1)),
                    (b"query", Spop::Str(query.as_bytes())),
                    (b"protocols", Spop::Str(protocol.as_bytes())),
                    (b"protocol_lines", Spop::Int64(1)),
                    (b"origin", Spop::Str(b"https://canary-origin.test")),
                    (b"fetch_site", Spop::Str(b"canary-site")),
                ],
            )]);
            peer.write(&frame).await;
            assert!(peer.reason().await.is_some(), "{place} {token}");
        }
    }
    // A message that cannot be read, a broken frame.
    let frame =
        peer.notify(&[(b"authorize", &[(b"authorization", Spop::Str(b"Bearer canary-unread"))])]);
    peer.write(&frame).await;
    peer.write(b"\x00\x00\x00\x20canary-frame-canary-frame-canary").await;
    canaries.extend(tokens.iter().map(|token| token.rsplit('.').next().unwrap().to_owned()));
    canaries.push("canary".into());
    canaries.push("opaque-".into());
    let client = reqwest::Client::builder()
        .unix_socket(bare.directory.path().join("admin.sock"))
        .build()
        .unwrap();
    let metrics = client.get("http://agent/metrics").send().await.unwrap().text().await.unwrap();
    let ready = client.get("http://agent/readyz").send().await.unwrap().text().await.unwrap();
    let revoke =
        client.post("http://agent/v1/revocations").header("content-type", "application/json");
    let said =
        revoke.body("{\"subject\": 7, \"x\": \"y\"}").send().await.unwrap().text().await.unwrap();
    let mut bare = bare;
    assert!(bare.agent.end().await);
    let audit_log = std::fs::read_to_string(bare.directory.path().join("audit.jsonl")).unwrap();
    let log = bare.agent.log();
    assert!(log.contains("\"TRACE\""), "the level is the lowest");
    for (place, output) in [
        ("log", &log),
        ("audit log", &audit_log),
        ("metrics", &metrics),
        ("readiness", &ready),
        ("error", &said),
    ] {
        for canary in &canaries {
            let at = output.find(canary.as_str());
            let near = at.map(|at| output[..at].lines().last().unwrap_or_default());
            assert!(at.is_none(), "{canary} in the {place}: {near:?}");
        }
    }
}

#[test]
fn every_event_is_in_the_document_with_its_meaning() {
    let text = std::fs::read_to_string(root().join("docs/audit.md")).unwrap();
    for event in AuditEvent::ALL {
        let row = format!("| `{}` | {} |", event.id(), event.meaning());
        assert!(text.contains(&row), "docs/audit.md lacks {row}");
    }
    let known: Vec<_> = AuditEvent::ALL.iter().map(|event| event.id()).collect();
    let section = text.split("| `event` |").nth(1).unwrap().split("\n\n").next().unwrap();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let id = row.split('`').nth(1).unwrap();
        assert!(known.contains(&id), "docs/audit.md names '{id}', which is not an event");
    }
}
