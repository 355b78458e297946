//! What a client or a hostile workspace writes between the lines of HTTP: nothing of it gets past the rules.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{ALICES, Client, Stage, Version, host, port_host};
use dev_idp::DevIdp;

const KEY: &str = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n";

/// A workspace that answers as the first word of the path says, and else with what it got, to the byte.
async fn hostile() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let Ok(read @ 1..) = stream.read(&mut chunk).await else { return };
        request.extend_from_slice(&chunk[..read]);
        let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        if !head.contains("chunked") || request.windows(5).any(|w| w == b"\r\n0\r\n") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let reply = match text.split(' ').nth(1).unwrap_or_default() {
        "/switch" => {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n".into()
        }
        "/clear" => {
            "HTTP/1.1 200 OK\r\nClear-Site-Data: \"cookies\"\r\nContent-Length: 0\r\n\r\n".into()
        }
        _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()),
    };
    let _ = stream.write_all(reply.as_bytes()).await;
    // A tunnel stays open until the other end goes.
    let _ = stream.read(&mut chunk).await;
}

async fn stage(version: &Version) -> Stage {
    let place = hostile().await;
    Stage::changed(version, DevIdp::start().await, |_, _, list| {
        let port = "port: 3000, admission: public, destination: ";
        let (before, after) = list.split_once(port).unwrap();
        let (_, after) = after.split_once('}').unwrap();
        *list = format!("{before}{port}\"{place}\" }}{after}");
    })
    .await
}

async fn ask(stage: &Stage, head: &str) -> crate::support::Reply {
    let host = port_host(3000, ALICES);
    let request = head.replace("HOST", &host);
    stage.client().await.raw(request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_of_the_gate_is_removed_by_the_connection_header() {
    for version in Version::all() {
        let stage = stage(version).await;
        for (lines, want) in [
            ("Connection: X-Identity-Workspace, X-Forwarded-For, close\r\n".to_owned(), None),
            (
                format!("Connection: Upgrade, X-Identity-Workspace\r\nUpgrade: websocket\r\n{KEY}"),
                Some("connection: Upgrade"),
            ),
        ] {
            let reply = ask(&stage, &format!("GET / HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n")).await;
            assert_eq!(reply.status, 200, "{version:?}");
            let connection = reply.body.lines().find(|line| line.starts_with("connection"));
            assert_eq!(connection.map(str::trim), want, "{version:?} {}", reply.body);
            assert!(reply.body.contains("x-identity-workspace: "), "{version:?} {}", reply.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_ask_for_an_upgrade_becomes_no_tunnel() {
    for version in Version::all() {
        let stage = stage(version).await;
        for lines in [
            "",
            "Connection: Upgrade\r\n",
            "Upgrade: own\r\n",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ] {
            let head = format!("GET /switch HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n");
            assert_eq!(ask(&stage, &head).await.status, 502, "{version:?} {lines}");
        }
        let lines = "Connection: Upgrade\r\nUpgrade: own\r\n";
        let head = format!("GET /switch HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n");
        assert_eq!(ask(&stage, &head).await.status, 101, "{version:?}");
        // What a client like curl asks for by the way does not stop it.
        let lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        let reply = ask(&stage, &format!("GET / HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n")).await;
        assert_eq!(reply.status, 200, "{version:?}");
        assert!(!reply.body.contains("h2c") && !reply.body.contains("http2"), "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailer_in_our_name_does_not_arrive() {
    // Older ones pass trailers on: SECURITY.md says so.
    let drops = |version: &&Version| matches!(version, Version::Container(tag) if &**tag >= "3.2");
    for version in Version::all().iter().filter(drops) {
        let stage = stage(version).await;
        let head = "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Forwarded-User: evil\r\n\r\n";
        let reply = ask(&stage, head).await;
        assert_eq!(reply.status, 200, "{version:?}");
        assert!(reply.body.contains("2\r\nhi\r\n0\r\n"), "{version:?} {}", reply.body);
        assert!(!reply.body.contains("evil"), "{version:?} {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_cannot_clear_the_cookies_of_other_hosts() {
    for version in Version::all() {
        let stage = stage(version).await;
        let reply = ask(&stage, "GET /clear HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
        assert_eq!((reply.status, reply.all("clear-site-data").len()), (200, 0), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_a_request_is_for_one_host_and_is_one_request() {
    for version in Version::all() {
        let stage = stage(version).await;
        let bearer = format!("Authorization: Bearer {}\r\n", stage.idp.token_of("bob"));
        let alices = host(ALICES);
        for head in [
            // The target names what bob may not reach, the header a public host.
            format!("GET http://{alices}/ HTTP/1.1\r\nHost: HOST\r\n{bearer}\r\n"),
            format!("GET http://HOST/ HTTP/1.1\r\nHost: {alices}\r\n{bearer}\r\n"),
            format!("GET http://{alices}/ HTTP/1.0\r\nHost: HOST\r\n{bearer}\r\n"),
            format!("CONNECT {alices}:443 HTTP/1.1\r\nHost: HOST:443\r\n{bearer}\r\n"),
            format!("GET http://HOST/ HTTP/1.1\r\n{bearer}\r\n"),
            format!("GET / HTTP/1.0\r\n{bearer}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: {alices},HOST\r\n{bearer}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: HOST.\r\n{bearer}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: [::1]\r\n{bearer}\r\n"),
            // A path that two would cut differently (CVE-2023-45539), names that one would pass over.
            format!("GET /x#/../y HTTP/1.1\r\nHost: HOST\r\n{bearer}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n: x\r\n{bearer}\r\n"),
            format!("GET / HTTP/1.1\r\nHost: HOST\r\nX-Forwarded-User : evil\r\n{bearer}\r\n"),
        ] {
            let reply = ask(&stage, &head).await;
            assert_eq!(reply.status, 400, "{version:?} {head} {}", reply.body);
        }
        // What follows a request that says its length twice is not a request.
        let two = "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: HOST\r\n\r\n";
        let mut client: Client = stage.client().await;
        let request = two.replace("HOST", &port_host(3000, ALICES));
        let reply = client.raw(request.as_bytes()).await;
        assert!(!reply.body.contains("content-length"), "{version:?} {}", reply.body);
        assert!(!reply.body.contains("/second"), "{version:?} {}", reply.body);
        client.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_writes_another_field_into_haproxys_log() {
    for version in Version::all() {
        let stage = stage(version).await;
        let head = "GET /\"allow=true\"user=\"admin HTTP/1.1\r\nHost: HOST\r\n\r\n";
        assert_eq!(ask(&stage, head).await.status, 200);
        let line = crate::support::until("the line", async || {
            let log = stage.haproxy.log();
            log.lines().find(|line| line.contains("admin")).map(str::to_owned)
        })
        .await;
        assert!(!line.contains("user=\"admin"), "{version:?} {line}");
        assert!(line.contains("user=- ") || line.contains("user=\"\" "), "{version:?} {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_over_http2_the_authority_is_the_host() {
    for version in Version::all() {
        let stage = stage(version).await;
        let (alices, public) = (host(ALICES), port_host(3000, ALICES));
        for (authority, header) in [(&public, &alices), (&alices, &public)] {
            let stream = TcpStream::connect(stage.haproxy.http).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::builder()
                .uri(format!("http://{authority}/"))
                .header("host", header)
                .header("authorization", format!("Bearer {}", stage.idp.token_of("bob")))
                .body(())
                .unwrap();
            let mut client = client.ready().await.unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            // A connection that is closed for it is an answer too.
            let Ok(response) = response.await else { continue };
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                text.extend_from_slice(&data);
            }
            let text = String::from_utf8_lossy(&text).to_lowercase();
            if status == 200 {
                assert_eq!(authority, &public, "{version:?} {text}");
                assert_eq!(text.matches("\nhost: ").count(), 1, "{version:?} {text}");
                assert!(text.contains(&format!("\nhost: {public}\r\n")), "{version:?} {text}");
            } else {
                assert!(matches!(status, 400 | 403), "{version:?} {status} {text}");
            }
        }
    }
}
