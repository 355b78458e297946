//! How large requests may be: the room for the headers that the gate adds, frames as large as HAProxy offers, and what happens
//! beyond them.

use std::path::Path;

use dev_idp::TokenRequest;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    ALICES, Client, Haproxy, LOGIN, Reply, Stage, Version, haproxy::copy_with_browser_args, host,
    port_host, until,
};

/// The lines of the shipped file about its buffers.
const SHIPPED: [&str; 2] = ["    tune.bufsize 28672\n", "    tune.maxrewrite 11264\n"];

/// A copy of the shipped files whose HAProxy has buffers of other sizes.
fn files(sizes: &str) -> TempDir {
    let files = tempfile::tempdir().unwrap();
    copy_with_browser_args(files.path());
    let path = files.path().join("haproxy.cfg");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (line, instead) in SHIPPED.into_iter().zip([sizes, ""]) {
        assert!(text.contains(line), "{line}");
        text = text.replace(line, instead);
    }
    std::fs::write(path, text).unwrap();
    files
}

/// Starts another HAProxy in place of the stage's.
async fn replace(stage: &mut Stage, version: &Version, files: &Path) {
    let (agent, named) = (stage.agent.socket(), stage.bob.address());
    stage.haproxy =
        Haproxy::start_from(files, version, stage.directory.path(), &agent, named).await;
    until("the gate to open", async || {
        (stage.get(&host(ALICES), Some("alice")).await.status == 200).then_some(())
    })
    .await;
}

/// Groups as Entra names them.
fn guids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:08x}-0000-4000-8000-{n:012x}")).collect()
}

/// A large body, of which HAProxy gets more at once than a buffer holds.
async fn post(stage: &Stage, groups: &[String]) -> Reply {
    let claims = json!({ "groups": groups }).as_object().unwrap().clone();
    let token = TokenRequest { user: "alice".into(), claims, ..TokenRequest::default() };
    let body = "x".repeat(100_000);
    let request = format!(
        "POST /echoed HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        host(ALICES),
        stage.idp.token(&token),
        body.len()
    );
    stage.client().await.raw(request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_a_large_post_of_a_person_with_many_groups_arrives_with_all_of_them() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        for count in [4, 30, 110, 200] {
            let groups = guids(count);
            for _ in 0..10 {
                let reply = post(&stage, &groups).await;
                assert_eq!(reply.status, 200, "{version:?} {count} groups: {}", reply.body);
                let seen = stage.alice.requests().pop().unwrap();
                let arrived = seen.headers.get("x-forwarded-groups").unwrap();
                assert_eq!(arrived.to_str().unwrap(), groups.join(","), "{version:?} {count}");
                assert!(!seen.headers.contains_key("x-identity-groups-incomplete"), "{version:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_groups_for_which_a_frame_has_no_room_are_reported_as_missing() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        // HAProxy's own sizes: a frame of 16,380 bytes.
        replace(&mut stage, version, files("").path()).await;
        let claims = json!({ "groups": guids(100) }).as_object().unwrap().clone();
        let token = TokenRequest { user: "alice".into(), claims, ..TokenRequest::default() };
        let token = stage.idp.token(&token);
        for (size, whole) in [(10, true), (8_500, false)] {
            // Ours has to be taken out, so the answer has the other cookies.
            let cookie = format!("a={}; __Host-identity=x", "x".repeat(size));
            let lines = format!("Authorization: Bearer {token}\r\nCookie: {cookie}\r\n");
            let reply = stage.client().await.send(&host(ALICES), lines.as_bytes()).await;
            let arrived = reply.arrived("x-forwarded-groups").concat();
            // The frame of the answer has groups and cookies, 4 and 8 KB, or says what it lacks.
            assert_eq!(reply.status, 200, "{version:?} {size} {}", reply.body);
            let incomplete = reply.arrived("x-identity-groups-incomplete");
            assert_eq!(arrived == guids(100).join(","), incomplete.is_empty(), "{version:?}");
            assert!(!whole || incomplete.is_empty(), "{version:?} {size}");
        }
    }
}

/// A request with cookies of this size at a public port.
async fn with_cookies(gate: std::net::SocketAddr, size: usize, more: &str) -> Reply {
    let cookie = format!("big={}", "x".repeat(size));
    let lines = format!("{more}Cookie: {cookie}\r\n");
    Client::connect(gate).await.send(&port_host(3000, ALICES), lines.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn q10_a_frame_is_as_large_as_haproxy_offers_up_to_64_kib() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        let files = files("    tune.bufsize 65536\n    tune.maxrewrite 11264\n");
        replace(&mut stage, version, files.path()).await;
        for size in [16_000, 30_000, 50_000] {
            let reply = with_cookies(stage.haproxy.http, size, "").await;
            assert_eq!(reply.status, 200, "{version:?} {size} {}", reply.body);
            assert_eq!(reply.arrived("cookie")[0].len(), "big=".len() + size, "{version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q10_a_request_that_fits_no_frame_is_told_so_and_is_in_the_log() {
    let navigation =
        "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n";
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        let env = format!("GATE_LOGIN_HOST={LOGIN}\n");
        std::fs::write(stage.directory.path().join("haproxy.env"), env).unwrap();
        let files = files("    tune.bufsize 131072\n    tune.maxrewrite 11264\n");
        replace(&mut stage, version, files.path()).await;
        let before = stage.alice.requests().len();
        // Again and again: HAProxy learns only from the first connection of each thread what the agent takes.
        for (more, kind) in [("", "text/plain"), (navigation, "text/html; charset=utf-8")].repeat(4)
        {
            let reply = with_cookies(stage.haproxy.http, 90_000, more).await;
            let log = stage.haproxy.log();
            assert_eq!(reply.status, 431, "{version:?} {} {log}", reply.body);
            assert_eq!(reply.header("content-type").as_deref(), Some(kind), "{version:?}");
            assert_eq!(reply.header("cache-control").as_deref(), Some("no-store"), "{version:?}");
            assert!(reply.body.contains("request_too_large"), "{version:?} {}", reply.body);
            assert!(!reply.body.contains("%["), "{version:?} {}", reply.body);
        }
        let logged = until("the log", async || {
            let log = stage.haproxy.log();
            let lines: Vec<_> =
                log.lines().filter(|l| l.contains(" 431 ")).map(str::to_owned).collect();
            (lines.len() == 8).then_some(lines)
        })
        .await;
        for line in logged {
            assert!(line.contains(" refusal=request_too_large "), "{version:?} {line}");
            let code = line.rsplit("spoe_error=").next().unwrap();
            assert!(["3", "259"].contains(&code), "{version:?} {line}");
            assert!(line.contains(" allow=- "), "{version:?} {line}");
        }
        assert_eq!(stage.alice.requests().len(), before, "{version:?}");
        // The agent goes on, and what it did not answer for another cause is a 503 as before.
        for _ in 0..5 {
            let reply = with_cookies(stage.haproxy.http, 20_000, "").await;
            assert_eq!(reply.status, 200, "{version:?} {}", reply.body);
        }
        stage.agent.kill();
        let reply = with_cookies(stage.haproxy.http, 100, "").await;
        assert_eq!(reply.status, 503, "{version:?} {}", reply.body);
        let line = until("the line of the request that had no answer", async || {
            let log = stage.haproxy.log();
            log.lines().find(|line| line.contains(" 503 ")).map(str::to_owned)
        })
        .await;
        assert!(!line.contains("request_too_large"), "{version:?} {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q9_every_haproxy_of_the_tests_says_its_release_to_doctor() {
    use identity_spoa::{haproxy::Socket, haproxy_config::known_bugs::Release};
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let socket = format!("unix:{}", stage.directory.path().join("master.sock").display());
        let socket = socket.parse::<Socket>().unwrap();
        let processes = until("the master", async || socket.processes().await.ok()).await;
        for process in &processes {
            let said = process.version().await.unwrap();
            let release = said.parse::<Release>().unwrap().to_string();
            if let Version::Container(tag) = version {
                assert!(release.starts_with(&format!("{tag}.")), "{said}");
            }
        }
        assert!(!processes.is_empty(), "{version:?}");
    }
}

/// What the largest request is, by the unit in which it grows.
#[derive(Clone, Copy)]
enum Grows {
    /// One Cookie header over HTTP/1.1.
    Cookie,
    /// The query over HTTP/1.1.
    Query,
    /// Headers of one byte over HTTP/1.1.
    Headers,
    /// One Cookie header over HTTP/2.
    CookieOverHttp2,
}

/// The status of a request of this size at a public port, or what the connection said instead.
async fn sized(stage: &Stage, grows: Grows, size: usize) -> String {
    let at = port_host(3000, ALICES);
    let request = match grows {
        Grows::Cookie => {
            format!("GET / HTTP/1.1\r\nHost: {at}\r\nCookie: a={}\r\n\r\n", "x".repeat(size))
        }
        Grows::Query => format!("GET /?{} HTTP/1.1\r\nHost: {at}\r\n\r\n", "x".repeat(size)),
        Grows::Headers => {
            let lines = (0..size).map(|n| format!("X-{n}: x\r\n")).collect::<Vec<_>>().concat();
            format!("GET / HTTP/1.1\r\nHost: {at}\r\n{lines}\r\n")
        }
        Grows::CookieOverHttp2 => {
            let client = reqwest::Client::builder()
                .no_proxy()
                .tls_danger_accept_invalid_certs(true)
                .resolve(&at, stage.haproxy.https)
                .build()
                .unwrap();
            let url = format!("https://{at}:{}/", stage.haproxy.https.port());
            let cookie = format!("a={}", "x".repeat(size));
            return match client.get(url).header("cookie", cookie).send().await {
                Ok(reply) => reply.status().as_u16().to_string(),
                Err(_) => "the stream is reset".into(),
            };
        }
    };
    let mut client = Client::connect(stage.haproxy.http).await;
    let reply = client.raw_unless_closed(request.as_bytes());
    reply.await.map_or_else(|_| "closed".into(), |reply| reply.status.to_string())
}

/// Prints the table of docs/scaling.md: `cargo test --locked --test it how_large -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and is run for docs/scaling.md"]
async fn how_large_requests_may_be_is_measured() {
    eprintln!("| HAProxy | what grows | the largest that passes | the first that does not |");
    eprintln!("|---|---|---|---|");
    for version in Version::all() {
        let stage = Stage::start(version).await;
        for (grows, what) in [
            (Grows::Cookie, "a cookie, HTTP/1.1"),
            (Grows::Query, "the query, HTTP/1.1"),
            (Grows::Headers, "number of headers, HTTP/1.1"),
            (Grows::CookieOverHttp2, "a cookie, HTTP/2"),
        ] {
            let (mut passes, mut fails) = (1, 40_000);
            let mut status = sized(&stage, grows, fails).await;
            while fails - passes > 1 {
                let middle = usize::midpoint(passes, fails);
                let said = sized(&stage, grows, middle).await;
                if said == "200" {
                    passes = middle;
                } else {
                    (fails, status) = (middle, said);
                }
            }
            let Version::Container(version) = version else { continue };
            eprintln!("| {version} | {what} | {passes} | {status} |");
        }
    }
}
