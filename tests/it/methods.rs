//! Methods that would end the rules of a connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use h2::ext::Protocol;
use identity_spoa::spop::{Value, client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    support::{ALICES, Stage, Version, port_host, until},
    wire::Bare,
};
use dev_idp::DevIdp;

type Seen = Arc<Mutex<Vec<u8>>>;

/// A workspace that answers every request with 200, whatever its method, and remembers all bytes.
async fn agreeable() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while let Ok(read @ 1..) = stream.read_buf(&mut bytes).await {
                    let start = bytes.len() - read;
                    all.lock().unwrap().extend_from_slice(&bytes[start..]);
                    while let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                        bytes.drain(..end + 4);
                        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(reply).await.unwrap();
                    }
                }
            });
        }
    });
    (address, seen)
}

async fn stage(version: &Version) -> (Stage, Seen) {
    let (place, seen) = agreeable().await;
    let stage = Stage::changed(version, DevIdp::start().await, |_, _, list| {
        let port = "port: 3000, admission: public, destination: ";
        let start = list.find(port).unwrap() + port.len();
        let end = start + list[start..].find('}').unwrap();
        list.replace_range(start..end, &format!("\"{place}\" "));
    })
    .await;
    (stage, seen)
}

fn text(seen: &Seen) -> String {
    String::from_utf8_lossy(&seen.lock().unwrap()).to_lowercase()
}

/// Sends one request, and behind its answer another with a header in our name. Returns the first answer.
async fn two(stage: &Stage, head: &str, to: &str) -> String {
    let mut stream = TcpStream::connect(stage.haproxy.http).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), read).await.expect("no answer");
    let second = format!("GET /second HTTP/1.1\r\nHost: {to}\r\nX-Forwarded-User: forged\r\n\r\n");
    // The other end may have closed.
    let _ = stream.write_all(second.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_millis(150), stream.read_buf(&mut rest)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_no_method_ends_the_rules_of_its_connection() {
    for version in Version::all() {
        let (stage, seen) = stage(version).await;
        let to = port_host(3000, ALICES);
        for head in [
            format!("CONNECT {to}:80 HTTP/1.1\r\nHost: {to}:80\r\n\r\n"),
            format!("CONNECT {to}:443 HTTP/1.1\r\nHost: {to}:443\r\n\r\n"),
            format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"),
            format!("CONNECT {to}:80 HTTP/1.0\r\nHost: {to}:80\r\n\r\n"),
            format!("CONNECT http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n"),
            format!(
                "CONNECT {to}:80 HTTP/1.1\r\nHost: {to}:80\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            ),
        ] {
            let answer = two(&stage, &head, &to).await;
            let status = answer.get(9..12).unwrap_or_default();
            // HAProxy itself refuses what it cannot read.
            assert!(["405", "400"].contains(&status), "{version:?} {head} {answer}");
            assert!(!text(&seen).contains("connect"), "{version:?} {head} {}", text(&seen));
        }
        let plain = format!("CONNECT {to}:80 HTTP/1.1\r\nHost: {to}:80\r\n\r\n");
        assert!(two(&stage, &plain, &to).await.contains(" 405 "), "{version:?}");
        for method in ["TRACE", "OPTIONS", "connect", "Connect", "PROPFIND", "PATCH", "XCONNECT"] {
            let head = format!("{method} /first HTTP/1.1\r\nHost: {to}\r\n\r\n");
            let answer = two(&stage, &head, &to).await;
            assert!(!answer.is_empty(), "{version:?} {method}");
        }
        until("the last request", async || text(&seen).contains("xconnect /first").then_some(()))
            .await;
        assert!(!text(&seen).contains("forged"), "{version:?} {}", text(&seen));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_over_http2_connect_is_refused_and_a_websocket_arrives_as_get() {
    for version in Version::all() {
        let (stage, seen) = stage(version).await;
        let to = port_host(3000, ALICES);
        let connect = async || {
            let stream = TcpStream::connect(stage.haproxy.http).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            client.ready().await.unwrap()
        };
        let mut client = connect().await;
        let request =
            http::Request::builder().method("CONNECT").uri(format!("{to}:80")).body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        // A stream that is reset is refused, too.
        if let Ok(response) = response.await {
            assert!(response.status().is_client_error(), "{version:?} {response:?}");
        }
        let forged = format!("GET / HTTP/1.1\r\nHost: {to}\r\nX-Forwarded-User: forged\r\n\r\n");
        let _ = send.send_data(forged.into(), true);
        let mut client = connect().await;
        until("extended CONNECT to be offered", async || {
            client.is_extended_connect_protocol_enabled().then_some(())
        })
        .await;
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri(format!("http://{to}/ws"))
            .header("sec-websocket-version", "13")
            .body(())
            .unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (_response, _send) = client.send_request(request, false).unwrap();
        until("the WebSocket", async || {
            let text = text(&seen);
            (text.contains("get /ws ") && text.contains("\r\nupgrade: websocket")).then_some(())
        })
        .await;
        assert!(!text(&seen).contains("connect "), "{version:?} {}", text(&seen));
        assert!(!text(&seen).contains("forged"), "{version:?} {}", text(&seen));
    }
}

#[tokio::test]
async fn s7_the_agent_refuses_connect_whatever_haproxys_rules_are() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let to = port_host(3000, ALICES);
    for (method, reason) in
        [("GET", "public"), ("CONNECT", "method_refused"), ("connect", "method_refused")]
    {
        let args: &[client::Arg<'_>] = &[
            (b"host", Value::Str(to.as_bytes())),
            (b"hosts", Value::Int64(1)),
            (b"authorization", Value::Null),
            (b"authorizations", Value::Int64(0)),
            (b"cookies", Value::Int64(0)),
            (b"method", Value::Str(method.as_bytes())),
        ];
        let notify = peer.notify(&[(b"authorize", args)]);
        peer.write(&notify).await;
        assert_eq!(peer.reason().await.as_deref(), Some(reason), "{method}");
    }
}
