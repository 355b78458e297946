//! What ends the reuse of an allow early: the end of a credential, and a change of the rules.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{ADMIN, ask, id, last_allow};
use crate::{
    sign_in,
    support::{ALICES, Stage, Version, host, until},
};
use dev_idp::{DevIdp, TokenRequest};

#[tokio::test(flavor = "multi_thread")]
async fn no_allow_is_reused_after_its_token_has_expired() {
    for version in Version::all() {
        for agent_dies in [false, true] {
            let idp = DevIdp::start().await;
            let mut stage = Stage::changed(version, idp, |directory, config, _| {
                std::fs::write(directory.join("haproxy.env"), "GATE_REUSE=60000\n").unwrap();
                *config = config
                    .replace("[agent]\n", "[agent]\nverdict_cache_ms = 60000\n")
                    .replace("audience =", "leeway_seconds = 0\naudience =");
                config.push_str(ADMIN);
            })
            .await;
            let since_epoch = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let request = TokenRequest { expires_in: 4, ..Default::default() };
            // Not before: it may be issued in the second before this one.
            let expires = Duration::from_secs(since_epoch().as_secs() + 5);
            let token = stage.idp.token(&request);
            let head = format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n",
                host(ALICES)
            );
            let mut client = stage.client().await;
            let first = id(&ask(&mut client, &head).await);
            if agent_dies {
                stage.agent.kill();
            }
            let (mut passed, mut ids) = (0, BTreeSet::from([first]));
            let (last, reply) = loop {
                let sent = since_epoch();
                let reply = ask(&mut client, &head).await;
                if reply.status != 200 {
                    break (sent, reply);
                }
                assert!(sent < expires, "{version:?}");
                ids.insert(id(&reply));
                passed += 1;
            };
            // In the last milliseconds it is asked about again.
            let most = if agent_dies { 1 } else { 4 };
            assert!(passed > 20 && ids.len() <= most, "{version:?} {passed} {ids:?}");
            assert_eq!(reply.status, if agent_dies { 503 } else { 401 }, "{}", reply.body);
            // And for no less time than it is good for.
            assert!(
                last + Duration::from_millis(2500) > expires,
                "{version:?} {last:?} {expires:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_who_signs_out_is_out_where_an_allow_is_reused() {
    for (told, millis) in [(true, 60_000), (false, 1200)] {
        let stage = sign_in::Stage::changed(
            Version::newest(),
            &sign_in::Changes {
                tables: if told { "[haproxy]\nsockets = ['unix:admin.sock']\n" } else { "" },
                verdict_cache_ms: Some(millis),
                ..Default::default()
            },
        )
        .await;
        let mut browser = stage.browser();
        assert_eq!(browser.browse(&host(ALICES), "/").await.status, 200);
        let decision = |reply: &sign_in::Reply| {
            let mut lines = reply.body.lines();
            lines.find(|line| line.starts_with("x-identity-decision-id")).map(str::to_owned)
        };
        until("reuse", async || {
            let one = browser.get(&host(ALICES), "/").await;
            let two = browser.get(&host(ALICES), "/").await;
            (decision(&one).is_some() && decision(&one) == decision(&two)).then_some(())
        })
        .await;
        let mut other = browser.clone();
        let asking = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                let sent = Instant::now();
                let reply = other.get(&host(ALICES), "/").await;
                if reply.status != 200 {
                    return (last, reply.status);
                }
                last = sent;
            }
        });
        let form = ("content-type", "application/x-www-form-urlencoded");
        let ours = [form, ("origin", "null"), ("sec-fetch-site", "same-origin")];
        let path = "/.well-known/identity-spoa/sign-out";
        let reply = browser.ask("POST", sign_in::LOGIN, path, &ours).await;
        assert_eq!(reply.status, 303);
        let out = Instant::now();
        let (last, status) = asking.await.unwrap();
        assert_eq!(status, 302);
        let late = last.saturating_duration_since(out);
        eprintln!("told={told}: last allow sent {late:?} after the answer to the sign-out");
        let bound = if told { Duration::from_secs(1) } else { Duration::from_millis(millis) };
        assert!(late <= bound, "told={told} {late:?}");
        assert_eq!(browser.get(&host(ALICES), "/").await.status, 302);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_comes_ends_every_reuse_and_there_is_none_with_it() {
    let stage = super::stage(Version::newest(), 60_000, true).await;
    let token = stage.idp.token_of("alice");
    let head = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n",
            host(ALICES)
        )
    };
    let mut client = stage.client().await;
    let first = id(&ask(&mut client, &head("/secret")).await);
    assert_eq!(id(&ask(&mut client, &head("/secret")).await), first);
    let at = stage.directory.path();
    std::fs::create_dir(at.join("policies")).unwrap();
    std::fs::write(
        at.join("policies/p.cedar"),
        "@id(\"no-secrets\")\nforbid(principal, action, resource)\nwhen { context has path && context.path == \"/secret\" };\n",
    )
    .unwrap();
    stage.configure(&(stage.configured() + "[policy]\ndirectory = 'policies'\n"));
    let since = Instant::now();
    let record = until("the reload", async || {
        let all = stage.audit();
        all.into_iter()
            .find(|r| r["event"].as_str().is_some_and(|event| event.starts_with("reload")))
    })
    .await;
    assert_eq!(record["event"], "reload", "{record}");
    let took = last_allow(&mut client, &head("/secret"), since).await;
    eprintln!("a policy comes: last allow sent after {took:?}");
    assert_eq!(ask(&mut client, &head("/secret")).await.status, 403);
    let one = id(&ask(&mut client, &head("/")).await);
    assert_ne!(id(&ask(&mut client, &head("/")).await), one);
}
