//! Tokens in other places than the Authorization header, through real HAProxies.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    support::{ALICES, AgentProcess, BOBS, Haproxy, Stage, Version, haproxy::root, host, until},
    wire::Bare,
};
use dev_idp::DevIdp;

pub(crate) const CREDENTIALS: &str =
    "\n[credentials]\ncookie = 'token'\nquery = 'access_token'\nsubprotocol = true\n";
pub(crate) const ARGS: &str = " upgrade=req.fhdr(upgrade) fetch_mode=req.fhdr(sec-fetch-mode) fetch_dest=req.fhdr(sec-fetch-dest) \
    fetch_site=req.fhdr(sec-fetch-site) origin=req.fhdr(origin) query=query protocols=req.fhdr(sec-websocket-protocol) \
    protocol_lines=req.fhdr_cnt(sec-websocket-protocol)\n";

/// A stage that takes tokens from everywhere.
pub(crate) async fn stage(version: &Version) -> Stage {
    let mut stage = Stage::start(version).await;
    let directory = stage.directory.path().to_owned();
    let config = std::fs::read_to_string(directory.join("agent.toml")).unwrap() + CREDENTIALS;
    std::fs::write(directory.join("agent.toml"), config).unwrap();
    assert!(stage.agent.end().await);
    stage.agent = AgentProcess::start(&directory).await;
    let changed = tempfile::tempdir().unwrap();
    for file in ["haproxy.cfg", "tcp.cfg", "identity.spoe.cfg"] {
        let text = std::fs::read_to_string(root().join("haproxy").join(file)).unwrap();
        let args = "cookies=req.fhdr_cnt(cookie)";
        let text = text.replace(args, &format!("{args}{}", ARGS.trim_end()));
        std::fs::write(changed.path().join(file), text).unwrap();
    }
    let (agent, named) = (stage.agent.socket(), stage.bob.address());
    stage.haproxy = Haproxy::start_from(changed.path(), version, &directory, &agent, named).await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn j17_p1_a_token_counts_where_configured_and_never_travels_on() {
    for version in Version::all() {
        let stage = stage(version).await;
        let token = stage.idp.token_of("alice");
        until("the keys", async || {
            (stage.get(&host(ALICES), Some("alice")).await.status == 200).then_some(())
        })
        .await;
        let encoded = URL_SAFE_NO_PAD.encode(&token);
        let ask = async |target: &str, lines: &str| {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", host(ALICES));
            stage.client().await.raw(request.as_bytes()).await
        };
        let in_cookie = format!("Cookie: a=1; token={token}; b=2\r\n");
        let in_query = format!("/x?a=1&access_token={token}&b=2");
        let in_protocol = format!(
            "Sec-WebSocket-Protocol: v1.chat, base64url.bearer.authorization.k8s.io.{encoded}\r\n"
        );
        for (target, lines, left) in [
            ("/x", &*in_cookie, "cookie: a=1; b=2"),
            (&in_query, "", "/x?a=1&b=2"),
            ("/x", &in_protocol, "sec-websocket-protocol: v1.chat"),
        ] {
            let reply = ask(target, lines).await;
            assert_eq!(reply.status, 200, "{version:?} {lines} {}", reply.body);
            assert!(reply.body.to_lowercase().contains(left), "{version:?} {left}: {}", reply.body);
            for secret in [&*token, &encoded] {
                assert!(!reply.body.contains(secret), "{version:?} {}", reply.body);
            }
        }
        // Two of them, even the same, and two headers that HAProxy would join.
        let bearer = format!("Authorization: Bearer {token}\r\n");
        for (target, lines) in [
            ("/x", format!("{in_cookie}{bearer}")),
            (&*in_query, in_cookie.clone()),
            ("/x", format!("{in_protocol}{in_cookie}")),
            ("/x", format!("{in_protocol}{in_protocol}")),
        ] {
            let reply = ask(target, &lines).await;
            assert_eq!(reply.status, 400, "{version:?} {}", reply.body);
            assert!(reply.body.contains("credential_repeated"), "{}", reply.body);
        }
        // A browser sends the cookie along for a page of a sibling host too, and the rest not.
        let (own, sibling) = (host(ALICES), host(BOBS));
        let page = |site: &str, origin: &str| {
            format!(
                "Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nOrigin: http://{origin}\r\n"
            )
        };
        let socket = |origin: &str| format!("Connection: Upgrade\r\nUpgrade: none\r\n{origin}");
        for (target, lines, status) in [
            ("/x", format!("{in_cookie}{}", page("same-site", &sibling)), 403),
            ("/x", format!("{in_cookie}{}", page("same-origin", &own)), 200),
            // s15: a page of plain http is another site to what is asked for by https, and so is this.
            ("/x", format!("{in_cookie}{}", page("cross-site", &own)), 403),
            ("/x", format!("{in_cookie}{}", page("something", &own)), 403),
            (
                "/x",
                format!("{in_cookie}{}", page("cross-site", &own)).replace("http:", "https:"),
                200,
            ),
            ("/x", format!("{in_cookie}{}", page("cross-site", &format!("3000-{own}"))), 403),
            ("/x", format!("{in_cookie}{}", page("same-site", &format!("3000-{own}"))), 200),
            ("/x", format!("{in_cookie}{}", page("same-site", &format!("3000-{own}:81"))), 403),
            ("/x", format!("{in_cookie}{}", socket(&format!("Origin: http://{sibling}\r\n"))), 403),
            ("/x", format!("{in_cookie}{}", socket(&format!("Origin: http://{own}\r\n"))), 200),
            ("/x", format!("{in_cookie}{}", socket("")), 200),
            (&*in_query, page("same-site", &sibling), 200),
            ("/x", format!("{bearer}{}", page("cross-site", "evil.test")), 200),
        ] {
            let reply = ask(target, &lines).await;
            assert_eq!(reply.status, status, "{version:?} {lines} {}", reply.body);
            assert_eq!(reply.body.contains("origin_foreign"), status == 403, "{}", reply.body);
        }
        let log = stage.haproxy.log() + &stage.agent.log();
        assert!(!log.contains(&token) && !log.contains(&encoded), "{version:?}: a token in a log");
    }
}

#[tokio::test]
async fn a_place_that_haproxy_does_not_pass_refuses_everything() {
    let mut bare = Bare::start().await;
    let path = bare.directory.path().join("agent.toml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + CREDENTIALS).unwrap();
    assert!(bare.agent.end().await);
    bare.agent = AgentProcess::start(bare.directory.path()).await;
    let mut peer = bare.unix().await;
    assert_eq!(peer.ask_public().await.as_deref(), Some("message_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_a_challenge_names_the_document_that_names_the_issuers() {
    for version in Version::all() {
        let stage = Stage::changed(version, DevIdp::start().await, |_, config, _| {
            *config = config.replace("[agent]", "[agent]\nresource_metadata = true");
        })
        .await;
        let document = format!("https://{}/.well-known/oauth-protected-resource", host(ALICES));
        let reply = stage.get(&host(ALICES), None).await;
        let challenge = reply.header("www-authenticate").unwrap();
        assert!(challenge.contains(&format!("resource_metadata=\"{document}\"")), "{challenge}");
        assert!(!challenge.contains("error="), "e1: {challenge}");
        let ask = async |path: &str, host: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            stage.client().await.raw(request.as_bytes()).await
        };
        let path = "/.well-known/oauth-protected-resource";
        let reply = ask(path, &host(ALICES)).await;
        assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
        let said: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(said["resource"], format!("https://{}", host(ALICES)));
        assert_eq!(said["authorization_servers"], serde_json::json!([stage.idp.issuer()]));
        // Neither below that path nor on other hosts.
        assert_eq!(ask(&format!("{path}/x"), &host(ALICES)).await.status, 401);
        assert_eq!(ask(path, "elsewhere.test").await.status, 421);
    }
}
