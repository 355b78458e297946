//! The variable `groups` and what says that it lacks some, through each real HAProxy.

use dev_idp::{DevIdp, TokenRequest};
use serde_json::json;

use crate::support::{ALICES, Haproxy, Stage, Version, haproxy::root, host, until};

/// A stage whose HAProxy has rules of an operator's own by group, as docs/variables.md shows them.
async fn stage(version: &Version, reuse: &str) -> Stage {
    let mut stage = Stage::changed(version, DevIdp::start().await, |directory, config, _| {
        std::fs::write(directory.join("haproxy.env"), reuse).unwrap();
        *config = config.replace("[agent]\n", "[agent]\nverdict_cache_ms = 60000\n");
    })
    .await;
    let changed = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(changed.path().join("pages")).unwrap();
    for file in [
        "pages/style.css",
        "pages/too-large.html",
        "pages/unavailable.html",
        "tcp.cfg",
        "identity.spoe.cfg",
        "haproxy.cfg",
    ] {
        let text = std::fs::read_to_string(root().join("haproxy").join(file)).unwrap();
        let routes = "    use_backend %[var(txn.identity.backend)] if ";
        let rules = "    acl in_gpu var(txn.identity.groups) -m reg (^|,)gpu(,|$)\n\
                     \x20   acl maybe_gpu var(txn.identity.groups_incomplete) -m bool\n\
                     \x20   http-request set-header X-Own gpu if in_gpu\n\
                     \x20   http-request set-header X-Own maybe if maybe_gpu !in_gpu\n";
        if file == "haproxy.cfg" {
            assert!(text.contains(routes));
        }
        std::fs::write(
            changed.path().join(file),
            text.replacen(routes, &format!("{rules}{routes}"), 1),
        )
        .unwrap();
    }
    let (directory, agent) = (stage.directory.path().to_owned(), stage.agent.socket());
    let named = stage.bob.address();
    stage.haproxy = Haproxy::start_from(changed.path(), version, &directory, &agent, named).await;
    until("the gate to open", async || {
        (stage.get(&host(ALICES), Some("alice")).await.status == 200).then_some(())
    })
    .await;
    stage
}

/// The token of alice with these claims.
fn token(stage: &Stage, claims: &serde_json::Value) -> String {
    let claims = claims.as_object().unwrap().clone();
    stage.idp.token(&TokenRequest { user: "alice".into(), claims, ..TokenRequest::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_can_tell_a_cut_list_of_groups_from_a_whole_one() {
    let many: Vec<_> =
        (0..90).map(|number| format!("group-{number:02}-{}", "x".repeat(91))).collect();
    let overage = json!({"groups": null, "_claim_names": {"groups": "src1"}});
    for version in Version::all() {
        let stage = stage(version, "").await;
        for (claims, groups, incomplete, own) in [
            (json!({"groups": ["a", "gpu"]}), Some("a,gpu".to_owned()), false, Some("gpu")),
            (json!({"groups": ["a"]}), Some("a".into()), false, None),
            (json!({"groups": []}), None, false, None),
            (json!({"groups": ["a,b", "c"]}), Some("c".into()), true, Some("maybe")),
            (json!({"groups": ["a,b", "gpu"]}), Some("gpu".into()), true, Some("gpu")),
            (json!({"groups": many}), Some(many[..81].join(",")), true, Some("maybe")),
            (overage.clone(), None, true, Some("maybe")),
        ] {
            let token = token(&stage, &claims);
            // What a client sends under that name never arrives.
            let headers = format!(
                "Authorization: Bearer {token}\r\nX-Identity-Groups-Incomplete: 7\r\nX_Identity_Groups_Incomplete: 7\r\n"
            );
            let reply = stage.client().await.send(&host(ALICES), headers.as_bytes()).await;
            assert_eq!(reply.status, 200, "{version:?} {claims} {}", reply.body);
            let arrived = |name: &str| reply.arrived(name);
            assert_eq!(
                arrived("x-forwarded-groups"),
                groups.iter().collect::<Vec<_>>(),
                "{version:?}"
            );
            let want: &[&str] = if incomplete { &["1"] } else { &[] };
            assert_eq!(arrived("x-identity-groups-incomplete"), want, "{version:?} {claims}");
            assert_eq!(
                arrived("x-own"),
                own.into_iter().collect::<Vec<_>>(),
                "{version:?} {claims}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_allow_says_that_groups_were_cut_too() {
    for version in Version::all() {
        let stage = stage(version, "GATE_REUSE=60000\n").await;
        for (groups, want) in [(json!(["a,b", "c"]), &["1"][..]), (json!(["c"]), &[])] {
            let token = token(&stage, &json!({"groups": groups}));
            until("a reused allow", async || {
                let mut client = stage.client().await;
                let replies = [
                    client.get(&host(ALICES), Some(&token)).await,
                    client.get(&host(ALICES), Some(&token)).await,
                ];
                for reply in &replies {
                    assert_eq!(reply.arrived("x-forwarded-groups"), ["c"], "{version:?}");
                    assert_eq!(reply.arrived("x-identity-groups-incomplete"), want, "{version:?}");
                }
                let [first, second] =
                    replies.each_ref().map(|r| r.arrived("x-identity-decision-id"));
                (first == second).then_some(())
            })
            .await;
        }
    }
}
