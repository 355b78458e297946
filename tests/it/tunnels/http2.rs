//! Tunnels over HTTP/2 (RFC 8441): many on one connection, each in a stream of its own.

use std::time::Instant;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use tokio::{net::TcpStream, time::timeout};

use super::{
    scene::{Figures, Scene, at, id},
    versions,
};
use crate::support::{PATIENCE, Version, until};

struct Stream {
    user: &'static str,
    workspace: usize,
    send: SendStream<Bytes>,
    receive: RecvStream,
}

type Meant = fn(&Stream) -> bool;

async fn connect(scene: &Scene) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(scene.haproxies[0].0.http).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let client = client.ready().await.unwrap();
    until("extended CONNECT to be offered", async || {
        client.is_extended_connect_protocol_enabled().then_some(())
    })
    .await;
    client
}

async fn open(
    client: &SendRequest<Bytes>,
    scene: &Scene,
    user: &'static str,
    workspace: usize,
) -> Stream {
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://{}/ws", at(workspace, 3000)))
        .header("authorization", format!("Bearer {}", scene.idp.token_of(user)))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let mut client = client.clone().ready().await.unwrap();
    let (response, send) = client.send_request(request, false).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    Stream { user, workspace, send, receive: response.into_body() }
}

impl Stream {
    async fn echoes(&mut self) {
        // A text of two letters, masked with zeros (RFC 6455 section 5.2).
        self.send.send_data(Bytes::from_static(b"\x81\x82\0\0\0\0hi"), false).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 4 {
            let data = timeout(PATIENCE, self.receive.data()).await.unwrap();
            let data = data.unwrap_or_else(|| panic!("{} was terminated", self.user)).unwrap();
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        assert_eq!(heard, b"\x81\x02hi");
    }

    async fn ended(&mut self) -> Instant {
        timeout(PATIENCE, async { while let Some(Ok(_)) = self.receive.data().await {} })
            .await
            .unwrap_or_else(|_| panic!("{} is still connected to {}", self.user, self.workspace));
        Instant::now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_stream_is_terminated_and_its_connection_goes_on() {
    for version in versions() {
        let mut scene = Scene::start(version, 4, 1, "").await;
        let (one, two) = (connect(&scene).await, connect(&scene).await);
        let mut streams = Vec::new();
        for workspace in 0..4 {
            for (client, user) in [(&one, "u0"), (&one, "u1"), (&two, "u0"), (&two, "u2")] {
                streams.push(open(client, &scene, user, workspace).await);
            }
        }
        let mut figures = Figures::default();
        let triggers: [(&str, Meant); 3] = [
            ("stopped", |stream| stream.workspace == 0),
            ("revoked", |stream| stream.user == "u1"),
            ("by workspace", |stream| stream.workspace == 3),
        ];
        for (what, is_selected) in triggers {
            let mut since = Instant::now();
            match what {
                "stopped" => {
                    scene.listed(0).phase = "stopped";
                    since = scene.write();
                }
                "revoked" => drop(scene.done(&["revoke", "--subject", "sub-u1"])),
                _ => drop(scene.done(&["tunnels", "terminate", "--workspace", &id(3)])),
            }
            let (selected, others): (Vec<_>, Vec<_>) = streams.drain(..).partition(is_selected);
            assert!(!selected.is_empty());
            let mut took = Vec::new();
            for mut stream in selected {
                took.push(stream.ended().await.saturating_duration_since(since));
            }
            figures.add(what, took);
            streams = others;
            for stream in &mut streams {
                stream.echoes().await;
            }
        }
        assert!(scene.records("tunnel_open").iter().all(|record| record["kind"] == "upgrade"));
        // A new one on the same connection.
        open(&one, &scene, "u0", 1).await.echoes().await;
        figures.judge(&format!("haproxy {version:?}, HTTP/2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_websocket_over_http2_ends_within_a_second_on_every_version() {
    for version in Version::all() {
        let has_numbers = versions().any(|named| named == version);
        let mut scene = Scene::start(version, 3, 1, "").await;
        // A client need not wait until extended CONNECT is offered.
        let (one, two) = (connect(&scene).await, connect(&scene).await);
        let mut figures = Figures::default();
        for (way, workspace) in [("by user", 1), ("stopped", 1), ("revoked", 2)] {
            let mut selected = open(&one, &scene, "u1", workspace).await;
            let mut neighbour = open(&one, &scene, "u0", 0).await;
            let mut elsewhere = open(&two, &scene, "u2", 0).await;
            for stream in [&mut selected, &mut neighbour, &mut elsewhere] {
                stream.echoes().await;
            }
            let mut since = Instant::now();
            match way {
                "by user" => drop(scene.done(&["tunnels", "terminate", "--user", "u1"])),
                "stopped" => {
                    scene.listed(workspace).phase = "stopped";
                    since = scene.write();
                }
                _ => drop(scene.done(&["revoke", "--subject", "sub-u1"])),
            }
            figures.add(way, vec![selected.ended().await.saturating_duration_since(since)]);
            elsewhere.echoes().await;
            if has_numbers {
                neighbour.echoes().await;
            } else {
                neighbour.ended().await;
            }
            // The connection itself goes on.
            open(&one, &scene, "u0", 0).await.echoes().await;
        }
        figures.judge(&format!("haproxy {version:?}, WebSockets over HTTP/2"));
        let terminated = scene.records("tunnel_terminate");
        assert!(terminated.iter().all(|record| record["user"] == "u1"), "{terminated:?}");
        assert!(scene.records("tunnel_terminate_failed").is_empty());
    }
}
