//! Revocation, by the command line of an administrator against a running agent.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use serde_json::json;

use crate::{
    support::{ALICES, AgentProcess, agent::program, host, port_host, until},
    wire::Bare,
};
use dev_idp::TokenRequest;

const ADMIN: &str = "[admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n";

async fn stage() -> Bare {
    Bare::changed(|config| *config = format!("{ADMIN}{config}")).await
}

fn command(bare: &Bare, args: &[&str]) -> Output {
    let config = bare.directory.path().join("agent.toml");
    let (name, rest) = args.split_first().unwrap();
    Command::new(program()).arg(name).arg("--config").arg(config).args(rest).output().unwrap()
}

fn done(bare: &Bare, args: &[&str]) -> String {
    let output = command(bare, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn token(bare: &Bare, claims: &serde_json::Value) -> String {
    let claims = claims.as_object().unwrap().clone();
    bare.idp.token(&TokenRequest { claims, ..TokenRequest::default() })
}

#[tokio::test]
async fn what_is_revoked_is_refused_from_the_next_request_until_it_is_lifted() {
    let bare = stage().await;
    let mut peer = bare.unix().await;
    let token = token(&bare, &json!({"jti": "t-1", "sid": "s-1"}));
    for target in [["--subject", "sub-alice"], ["--session", "s-1"], ["--token", "t-1"]] {
        assert_eq!(peer.ask(&host(ALICES), Some(&token)).await.as_deref(), Some("owner"));
        let said = done(&bare, &["revoke", target[0], target[1], "--note", "left the company"]);
        assert!(said.starts_with("revoked: dev:") && said.contains(target[1]), "{said}");
        let answer = peer.ask(&host(ALICES), Some(&token)).await;
        assert_eq!(answer.as_deref(), Some("token_revoked"), "{target:?}");
        // Access of another person, and public ports, go on.
        let bob = bare.idp.token_of("bob");
        assert_eq!(peer.ask(&host(ALICES), Some(&bob)).await.as_deref(), Some("not_permitted"));
        assert_eq!(
            peer.ask(&port_host(3000, ALICES), Some(&token)).await.as_deref(),
            Some("public")
        );
        let listed = done(&bare, &["revocations"]);
        assert!(listed.contains(target[1]) && listed.contains("left the company"), "{listed}");
        done(&bare, &["revoke", "--lift", target[0], target[1]]);
    }
    assert_eq!(peer.ask(&host(ALICES), Some(&token)).await.as_deref(), Some("owner"));
    assert_eq!(done(&bare, &["revocations", "--json"]), "[]\n");
}

#[tokio::test]
async fn what_was_issued_until_now_is_revoked_and_a_new_token_counts() {
    let bare = stage().await;
    let mut peer = bare.unix().await;
    let now = identity_spoa::time::Timestamp::now().as_millis() / 1000;
    let old = token(&bare, &json!({"iat": now - 10}));
    let new = token(&bare, &json!({"iat": now + 5}));
    done(&bare, &["revoke", "--subject", "sub-alice", "--before", "now"]);
    assert_eq!(peer.ask(&host(ALICES), Some(&old)).await.as_deref(), Some("token_revoked"));
    assert_eq!(peer.ask(&host(ALICES), Some(&new)).await.as_deref(), Some("owner"));
}

#[tokio::test]
async fn a_revocation_outlives_the_agent_and_is_on_record() {
    let mut bare = stage().await;
    let token = bare.idp.token_of("alice");
    done(&bare, &["revoke", "--subject", "sub-alice", "--note", "a \u{1f600} \"note\""]);
    // The socket is the administrator's alone.
    let socket = bare.directory.path().join("admin.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(bare.agent.end().await);
    assert!(!socket.exists());
    let record = std::fs::read_to_string(bare.directory.path().join("audit.jsonl")).unwrap();
    let record: serde_json::Value = record
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .find(|r: &serde_json::Value| r["event"] == "revoke")
        .unwrap();
    assert_eq!((&record["issuer"], &record["subject"]), (&json!("dev"), &json!("sub-alice")));
    assert_eq!(record["note"], "a \u{1f600} \"note\"");
    assert_eq!(record["uid"], nix::unistd::getuid().to_string());
    // Without the agent, nothing is revoked, and the command says so.
    let output = command(&bare, &["revoke", "--subject", "sub-bob"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is the agent running"));
    bare.agent = AgentProcess::start(bare.directory.path()).await;
    let mut peer = bare.unix().await;
    // An agent that begins has no keys for a moment.
    let reason = until("the keys", async || {
        let reason = peer.ask(&host(ALICES), Some(&token)).await.unwrap();
        (reason != "keys_unavailable").then_some(reason)
    })
    .await;
    assert_eq!(reason, "token_revoked");
    let explained = command(&bare, &["explain", "--host", &host(ALICES)]);
    assert_eq!(explained.status.code(), Some(1), "reads the journal while the agent runs");
    assert_eq!(peer.ask(&host(ALICES), Some(&token)).await.as_deref(), Some("token_revoked"));
}

#[tokio::test]
async fn a_revocation_that_says_too_little_or_too_much_is_refused() {
    let bare = stage().await;
    for (args, want) in [
        (&["revoke"][..], "required"),
        (&["revoke", "--subject", "a", "--token", "b"], "cannot be used with"),
        (&["revoke", "--subject", ""], "1 to 512"),
        (&["revoke", "--subject", "a", "--issuer", "unknown"], "\"dev\""),
        (&["revoke", "--subject", "a", "--before", "yesterday"], "seconds since 1970"),
        (&["revoke", "--lift", "--subject", "a"], "no such revocation"),
    ] {
        let output = command(&bare, args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(want), "{args:?}: {text}");
    }
    let plain = Bare::start().await;
    let output = command(&plain, &["revoke", "--subject", "a"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("[admin]"));
}

#[tokio::test]
async fn s10_neither_another_name_nor_its_return_lifts_what_is_revoked_of_an_issuer() {
    let mut bare = stage().await;
    let mut peer = bare.unix().await;
    let token = token(&bare, &json!({"jti": "t-1", "sid": "s-1"}));
    let other = dev_idp::DevIdp::start().await;
    let first = std::fs::read_to_string(bare.directory.path().join("agent.toml")).unwrap();
    for target in [["--subject", "sub-alice"], ["--session", "s-1"], ["--token", "t-1"]] {
        done(&bare, &["revoke", "--issuer", "dev", target[0], target[1]]);
        test_stage::reload(&bare.agent, bare.directory.path(), |text| {
            text.replace("name = \"dev\"", "name = \"acme\"")
        })
        .await;
        let asked = peer.ask(&host(ALICES), Some(&token)).await;
        assert_eq!(asked.as_deref(), Some("token_revoked"), "{target:?}");
        let listed = done(&bare, &["revocations"]);
        assert!(listed.starts_with("acme:") && listed.contains(target[1]), "{listed}");
        // Away, its name another's, and back.
        test_stage::reload(&bare.agent, bare.directory.path(), |_| {
            first.replace(bare.idp.issuer(), other.issuer())
        })
        .await;
        let asked = peer.ask(&host(ALICES), Some(&token)).await;
        assert_eq!(asked.as_deref(), Some("token_issuer"), "{target:?}");
        let namesake = other.token_of("alice");
        let asked = peer.ask(&host(ALICES), Some(&namesake)).await;
        assert_eq!(asked.as_deref(), Some("owner"), "nothing was revoked of that one");
        let listed = done(&bare, &["revocations"]);
        assert!(listed.starts_with(bare.idp.issuer()), "{listed}");
        test_stage::reload(&bare.agent, bare.directory.path(), |_| first.clone()).await;
        let asked = peer.ask(&host(ALICES), Some(&token)).await;
        assert_eq!(asked.as_deref(), Some("token_revoked"), "{target:?}");
        done(&bare, &["revoke", "--lift", "--issuer", bare.idp.issuer(), target[0], target[1]]);
        let asked = peer.ask(&host(ALICES), Some(&token)).await;
        assert_eq!(asked.as_deref(), Some("owner"), "{target:?}");
    }
    // Nor does a restart under another name.
    done(&bare, &["revoke", "--subject", "sub-alice"]);
    assert!(bare.agent.end().await);
    let path = bare.directory.path().join("agent.toml");
    std::fs::write(&path, first.replace("name = \"dev\"", "name = \"acme\"")).unwrap();
    bare.agent = AgentProcess::start(bare.directory.path()).await;
    let mut peer = bare.unix().await;
    let reason = until("the keys", async || {
        let reason = peer.ask(&host(ALICES), Some(&token)).await.unwrap();
        (reason != "keys_unavailable").then_some(reason)
    })
    .await;
    assert_eq!(reason, "token_revoked");
}
