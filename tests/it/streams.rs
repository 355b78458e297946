//! TCP streams reach what is declared as TCP and nothing else; HTTP requests the rest, through a real HAProxy.

use std::path::PathBuf;

use crate::{
    certificates,
    conformance::through_tls,
    destinations::add_port,
    support::{ALICES, BOBS, Stage, Version, certificates::Authority, host, port_host, until},
};
use dev_idp::DevIdp;

/// What a client must not be able to say of itself.
const FORGED: &str = "GET / HTTP/1.1\r\nHost: any\r\nX-Forwarded-User: alice\r\n\
    X-Identity-Subject: sub-alice\r\nX-Forwarded-For: 10.0.0.1\r\nConnection: close\r\n\r\n";

/// Sends the forged request through a stream; what comes back.
async fn stream(stage: &Stage, name: &str, certificate: Option<PathBuf>) -> String {
    let (gate, name) = (stage.haproxy.tcp, name.to_owned());
    let ask = move || through_tls(gate, &name, certificate.as_deref(), FORGED);
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// Waits for the record of a stream at this host, with this reason.
async fn recorded(stage: &Stage, host: &str, reason: &str) {
    until("the record of the stream", async || {
        let found = |r: &serde_json::Value| r["host"] == *host && r["reason"] == *reason;
        stage.audit().iter().any(found).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_a_stream_at_an_http_endpoint_is_refused_for_every_client() {
    let authority = Authority::new("corp");
    for version in Version::all() {
        let stage = certificates::stage(version, &authority).await;
        let guest = stage.directory.path().join("ci.pem");
        std::fs::write(&guest, authority.of_uri("spiffe://corp/ci").pem).unwrap();
        for (name, certificate) in [
            // Open to everyone, and shared with the guest: the editor, and a port.
            (port_host(3000, ALICES), None),
            (port_host(3000, ALICES), Some(guest.clone())),
            (host(ALICES), Some(guest.clone())),
            (port_host(4000, ALICES), Some(guest.clone())),
        ] {
            let answer = stream(&stage, &name, certificate).await;
            assert_eq!(answer, "", "{version:?} {name}");
            recorded(&stage, &name, "endpoint_not_tcp").await;
        }
        // Nothing of it arrived: what the workspace saw came by HTTP, with headers of the gate's.
        let seen = stage.alice.requests();
        assert!(seen.iter().all(|seen| seen.headers.contains_key("x-identity-decision-id")));
        // What is declared as TCP is reached by the same people.
        let answer = stream(&stage, &port_host(2222, ALICES), Some(guest)).await;
        assert!(answer.contains("workspace alices"), "{version:?} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_a_stream_reaches_neither_a_backend_nor_what_is_behind_a_gateway() {
    for version in Version::all() {
        let stage = Stage::changed(version, DevIdp::start().await, |_, _, list| {
            let port = list.rsplit("destination: 127.0.0.1:").next().unwrap();
            let port = port.split_whitespace().next().unwrap().to_owned();
            *list = add_port(list, 8100, &format!("http://localhost:{port}"));
            *list = list
                .replace("port: 8000, destination", "port: 8000, admission: public, destination");
            *list = list
                .replace("port: 8100, destination", "port: 8100, admission: public, destination");
        })
        .await;
        for name in [port_host(8000, BOBS), port_host(8100, ALICES)] {
            assert_eq!(stream(&stage, &name, None).await, "", "{version:?} {name}");
            recorded(&stage, &name, "endpoint_not_tcp").await;
            // By HTTP the same endpoint is open.
            until("the endpoint by HTTP", async || {
                (stage.get(&name, None).await.status == 200).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_a_request_at_a_tcp_endpoint_is_refused_websockets_too() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for (port, user) in [(2223, None), (2223, Some("bob")), (2222, Some("alice"))] {
            let token = user.map(|user| stage.idp.token_of(user));
            let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
            let bearer = bearer.unwrap_or_default();
            for lines in [bearer.clone(), format!("{bearer}{upgrade}")] {
                let mut client = stage.client().await;
                let reply = client.send(&port_host(port, ALICES), lines.as_bytes()).await;
                assert_eq!(reply.status, 403, "{version:?} {port} {user:?} {}", reply.body);
                assert!(reply.body.contains("endpoint_is_tcp"), "{version:?} {}", reply.body);
            }
        }
        // Who may not reach it is told nothing of what it speaks.
        let reply = stage.get(&port_host(2222, ALICES), Some("bob")).await;
        assert!(reply.body.contains("not_permitted"), "{}", reply.body);
    }
}
