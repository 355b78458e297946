//! Who passes and who does not, through each real HAProxy.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::support::{ALICES, BOBS, Stage, Version, host, machine, port_host, until};
use dev_idp::TokenRequest;

#[tokio::test(flavor = "multi_thread")]
async fn each_person_reaches_what_is_theirs_and_nothing_else() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        for (host, user, status, reason) in [
            (host(ALICES), Some("alice"), 200, "owner"),
            (host(ALICES), Some("bob"), 403, "not_permitted"),
            (host(ALICES), Some("carol"), 200, "granted_user"),
            (host(ALICES), None, 401, "credential_missing"),
            (host(BOBS), Some("bob"), 200, "owner"),
            (host(BOBS), Some("alice"), 403, "not_permitted"),
            (port_host(3000, ALICES), None, 200, "public"),
            (port_host(3000, ALICES), Some("bob"), 200, "public"),
            (port_host(4000, ALICES), Some("bob"), 200, "granted_group"),
            (port_host(5000, ALICES), Some("bob"), 200, "organization"),
            (port_host(6000, ALICES), Some("bob"), 200, "organization"),
            (port_host(6000, ALICES), None, 401, "credential_missing"),
            (port_host(7000, ALICES), Some("carol"), 403, "not_permitted"),
            (port_host(7000, ALICES), Some("alice"), 200, "owner"),
            (port_host(9999, ALICES), Some("alice"), 403, "endpoint_undeclared"),
            (port_host(9999, ALICES), Some("bob"), 403, "not_permitted"),
            (
                "unknown-workspace-thisonehere.ws.gitpod.test".into(),
                Some("alice"),
                404,
                "workspace_unknown",
            ),
            (
                "unknown-workspace-thisonehere.ws.gitpod.test".into(),
                None,
                401,
                "credential_missing",
            ),
            ("www.gitpod.test".into(), Some("alice"), 421, "host_unmatched"),
            (format!("{}.evil.com", host(ALICES)), Some("alice"), 421, "host_unmatched"),
            (format!("{}.", host(ALICES)), Some("alice"), 400, "host_invalid"),
        ] {
            let reply = stage.get(&host, user).await;
            assert_eq!(reply.status, status, "{version:?} {host} {user:?}: {}", reply.body);
            // The record is written off the request's way.
            let id = if status == 200 {
                reply.arrived("x-identity-decision-id")[0].to_owned()
            } else {
                assert!(reply.body.contains(reason), "{}", reply.body);
                reply
                    .body
                    .rsplit("(decision ")
                    .next()
                    .unwrap()
                    .trim_end()
                    .trim_end_matches(')')
                    .to_owned()
            };
            let record = until("the record of this decision", || {
                let found = stage.audit().into_iter().find(|r| r["decision_id"] == *id);
                async { found }
            })
            .await;
            assert_eq!(record["reason"], reason, "{version:?} {host} {user:?}");
            assert_eq!(record["host"], *host);
            assert_eq!(record["user"].as_str(), user.filter(|_| ![400, 421].contains(&status)));
        }
        let claims = serde_json::json!({"org": "elsewhere"}).as_object().unwrap().clone();
        let guest = TokenRequest { user: "guest".into(), claims, ..TokenRequest::default() };
        let guest = stage.idp.token(&guest);
        for (port, status) in [(5000, 403), (6000, 200)] {
            let reply = stage.get_with(&port_host(port, ALICES), Some(&guest)).await;
            assert_eq!(reply.status, status, "{version:?} {}", reply.body);
        }
        let line = until("the line of the denied request", async || {
            let log = stage.haproxy.log();
            log.lines().find(|l| l.contains("reason=not_permitted")).map(str::to_owned)
        })
        .await;
        assert!(
            line.contains("user=\"bob\"") && line.contains(&format!("workspace={ALICES}")),
            "{line}"
        );
        assert!(stage.agent.log().contains("ready"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e1_e2_a_refusal_challenges_as_rfc_6750_says() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let challenge = async |token: Option<&str>| {
            let reply = stage.get_with(&host(ALICES), token).await;
            (reply.status, reply.header("www-authenticate").unwrap())
        };
        assert_eq!(challenge(None).await, (401, "Bearer realm=\"workspaces\"".into()));
        let expired = TokenRequest { expires_in: -3600, ..TokenRequest::default() };
        let (status, value) = challenge(Some(&stage.idp.token(&expired))).await;
        assert_eq!(status, 401);
        assert_eq!(
            value,
            "Bearer realm=\"workspaces\", error=\"invalid_token\", error_description=\"the token is expired\""
        );
        let (status, value) = challenge(Some(&stage.idp.token_of("bob"))).await;
        assert_eq!((status, value.contains("insufficient_scope")), (403, true));
        let (status, value) = challenge(Some("nonsense")).await;
        assert_eq!((status, value.contains("invalid_token")), (401, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_stops_is_gone_within_a_second() {
    let stage = Stage::start(Version::newest()).await;
    let token = stage.idp.token_of("alice");
    let mut client = stage.client().await;
    assert_eq!(client.get(&host(ALICES), Some(&token)).await.status, 200);
    let start = Instant::now();
    stage.set_phase("stopped");
    let reply = loop {
        let reply = client.get(&host(ALICES), Some(&token)).await;
        if reply.status != 200 {
            break reply;
        }
    };
    let end = Instant::now();
    assert_eq!(reply.status, 404, "{}", reply.body);
    assert!(reply.body.contains("workspace_stopped"), "{}", reply.body);
    machine::within(
        Duration::from_secs(1),
        "from the edited file to the first refusal",
        start,
        end,
    );
    // The public port is closed too, and says no more to strangers than for an unknown workspace.
    assert_eq!(stage.get(&port_host(3000, ALICES), None).await.status, 401);
    // A person who may not reach it does not learn that it is stopped.
    assert_eq!(stage.get(&host(ALICES), Some("bob")).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_list_of_workspaces_keeps_the_last_good_one_and_says_so() {
    let stage = Stage::start(Version::newest()).await;
    std::fs::write(stage.workspaces_file(), "workspaces:\n  - id: x\n    fase: running\n").unwrap();
    until("the complaint", || {
        let log = stage.agent.log();
        let said = log.contains("workspaces.yaml:3:5: unknown key 'fase': did you mean 'phase'?");
        async move { said.then_some(()) }
    })
    .await;
    assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 200);
    std::fs::remove_file(stage.workspaces_file()).unwrap();
    until("the complaint", || {
        let said = stage.agent.log().contains("cannot read the file");
        async move { said.then_some(()) }
    })
    .await;
    assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 200);
    // A good one by renaming, as editors and Kubernetes do it.
    test_stage::replace(&stage.workspaces_file(), "workspaces: []\n");
    until("the empty list", || async {
        (stage.get(&host(ALICES), Some("alice")).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_an_address_or_a_backend_and_nothing_else() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let reply = stage.get(&port_host(8000, BOBS), Some("bob")).await;
        assert_eq!(
            (reply.status, reply.body.starts_with("workspace bobs")),
            (200, true),
            "{version:?}"
        );
        let reply = stage.get(&port_host(8001, BOBS), Some("bob")).await;
        assert_eq!(
            (reply.status, reply.body.contains("no destination")),
            (503, true),
            "{version:?} {}",
            reply.body
        );
        // Two workspaces in turn on one client connection: each answer is of its own.
        let mut client = stage.client().await;
        let (alice, bob) = (stage.idp.token_of("alice"), stage.idp.token_of("bob"));
        for _ in 0..3 {
            let reply = client.get(&host(ALICES), Some(&alice)).await;
            assert!(reply.body.starts_with("workspace alices"), "{version:?} {}", reply.body);
            let reply = client.get(&host(BOBS), Some(&bob)).await;
            assert!(reply.body.starts_with("workspace bobs"), "{version:?} {}", reply.body);
            assert_eq!(client.get(&host(BOBS), Some(&alice)).await.status, 403);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_for_the_owner_only() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let connect = async |user: &str| {
            let stream = TcpStream::connect(stage.haproxy.http).await.unwrap();
            let mut request = format!("ws://{}/ws", host(ALICES)).into_client_request().unwrap();
            let value = format!("Bearer {}", stage.idp.token_of(user)).parse().unwrap();
            request.headers_mut().insert("authorization", value);
            client_async(request, stream).await
        };
        let (mut socket, _) = connect("alice").await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(answer, Message::text("hello"), "{version:?}");
        let refused = connect("bob").await.unwrap_err();
        assert!(refused.to_string().contains("403"), "{version:?} {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_http2_over_tls_is_judged_stream_by_stream() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let https = stage.haproxy.https;
        let client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true)
            .resolve(&host(ALICES), https)
            .resolve(&host(BOBS), https)
            .build()
            .unwrap();
        let url = |workspace| format!("https://{}:{}/", host(workspace), https.port());
        for (workspace, user, want) in
            [(ALICES, "alice", 200), (ALICES, "bob", 403), (BOBS, "bob", 200), (BOBS, "alice", 403)]
        {
            let token = stage.idp.token_of(user);
            let request = client
                .get(url(workspace))
                .bearer_auth(token)
                .header("cookie", "a=1")
                .header("cookie", "b=2");
            let reply = request.send().await.unwrap();
            assert_eq!(reply.version(), reqwest::Version::HTTP_2);
            assert_eq!(reply.status().as_u16(), want, "{version:?} {workspace} {user}");
            if want == 200 {
                // HTTP/2 may split cookies; HAProxy joins them before it asks.
                let text = reply.text().await.unwrap();
                assert!(text.contains("cookie: a=1; b=2"), "{text}");
                assert!(text.contains("x-forwarded-proto: https"), "{text}");
            }
        }
    }
}
