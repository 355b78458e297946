//! Plain requests that last: server-sent events, downloads, and chunked POSTs whose response begins
//! early.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    scene::{Figures, Scene, at, id},
    versions,
};
use crate::{
    sign_in::{Browser, Changes, LOGIN, Stage},
    support::{ALICES, AgentProcess, BOBS, Client, PATIENCE, Version, agent::program, host, until},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Endless,
    Echo,
}

/// A request whose response does not end.
struct Exchange {
    user: String,
    workspace: usize,
    what: What,
    stream: TcpStream,
}

async fn open(scene: &Scene, user: &str, workspace: usize, what: What) -> Exchange {
    let token = scene.idp.token_of(user);
    open_with(scene, user, &token, workspace, what).await
}

async fn open_with(
    scene: &Scene,
    user: &str,
    token: &str,
    workspace: usize,
    what: What,
) -> Exchange {
    let stream = TcpStream::connect(scene.haproxies[0].0.http).await.unwrap();
    begin(stream, user, token, workspace, what).await
}

/// Sends a request on a connection that may have been used before.
async fn begin(
    mut stream: TcpStream,
    user: &str,
    token: &str,
    workspace: usize,
    what: What,
) -> Exchange {
    let (line, more, body) = match what {
        What::Endless => ("GET /endless", "", ""),
        What::Echo => ("POST /echoed", "Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n"),
    };
    let host = at(workspace, 3000);
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{more}\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut exchange = Exchange { user: user.into(), workspace, what, stream };
    let head = exchange.heard("hi").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    exchange
}

impl Exchange {
    /// Reads until this text has arrived.
    async fn heard(&mut self, what: &str) -> String {
        let mut all = String::new();
        while !all.contains(what) {
            let mut some = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut some)).await.unwrap();
            let count = read.unwrap_or_else(|error| panic!("{}: {error}", self.user));
            assert!(count > 0, "{} to {} was ended: {all}", self.user, self.workspace);
            all += &String::from_utf8_lossy(&some[..count]);
        }
        all
    }

    /// Makes sure that the exchange goes on.
    async fn goes_on(&mut self) {
        if self.what == What::Echo {
            self.stream.write_all(b"2\r\nhi\r\n").await.unwrap();
        }
        self.heard("hi").await;
    }

    async fn ended(&mut self) -> Instant {
        let mut some = vec![0; 4096];
        let read = async { while !matches!(self.stream.read(&mut some).await, Ok(0) | Err(_)) {} };
        timeout(PATIENCE, read)
            .await
            .unwrap_or_else(|_| panic!("{} goes on with {}", self.user, self.workspace));
        Instant::now()
    }
}

/// Waits for the end of the selected ones; makes sure that all others go on.
async fn end(
    all: &mut Vec<Exchange>,
    since: Instant,
    is_selected: impl Fn(&Exchange) -> bool,
) -> Vec<Duration> {
    let (selected, others): (Vec<_>, Vec<_>) = all.drain(..).partition(is_selected);
    assert!(!selected.is_empty() && !others.is_empty());
    let mut took = Vec::new();
    for mut exchange in selected {
        took.push(exchange.ended().await.saturating_duration_since(since));
    }
    *all = others;
    for exchange in all {
        exchange.goes_on().await;
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_what_lasts_is_listed_and_ends_with_its_access() {
    for version in Version::all() {
        let mut scene = Scene::start(version, 4, 1, "").await;
        let mut idle = Client::connect(scene.haproxies[0].0.http).await;
        let token = scene.idp.token_of("u9");
        assert_eq!(idle.get(&at(3, 3000), Some(&token)).await.status, 200);
        let mut all = Vec::new();
        for user in ["u0", "u1", "u2", "u3"] {
            for workspace in [0, 1] {
                for what in [What::Endless, What::Echo] {
                    all.push(open(&scene, user, workspace, what).await);
                }
            }
        }
        // On a connection that carried other requests before.
        let token = scene.idp.token_of("u4");
        let mut used = TcpStream::connect(scene.haproxies[0].0.http).await.unwrap();
        for _ in 0..3 {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
                at(1, 3000)
            );
            used.write_all(request.as_bytes()).await.unwrap();
            let mut some = [0; 8192];
            assert!(used.read(&mut some).await.unwrap() > 0);
        }
        all.push(begin(used, "u4", &token, 1, What::Echo).await);
        until("all to be listed", async || {
            let list = scene.tunnels();
            assert!(list.iter().all(|tunnel| tunnel["kind"] == "request"), "{list:?}");
            (list.len() == all.len()).then_some(())
        })
        .await;
        // Others come and go meanwhile, and are not listed.
        let mut client = Client::connect(scene.haproxies[0].0.http).await;
        for _ in 0..20 {
            let token = scene.idp.token_of("u8");
            assert_eq!(client.get(&at(3, 3000), Some(&token)).await.status, 200);
        }
        let mut figures = Figures::default();
        scene.listed(0).phase = "stopped";
        let since = scene.write();
        figures.add("stopped", end(&mut all, since, |e| e.workspace == 0).await);
        let since = Instant::now();
        scene.done(&["revoke", "--subject", "sub-u1"]);
        figures.add("revoked", end(&mut all, since, |e| e.user == "u1").await);
        let since = Instant::now();
        scene.done(&["tunnels", "terminate", "--user", "u2"]);
        figures.add("by an administrator", end(&mut all, since, |e| e.user == "u2").await);
        let since = Instant::now();
        scene.done(&["revoke", "--subject", "sub-u4"]);
        figures.add("on a used connection", end(&mut all, since, |e| e.user == "u4").await);
        let (token, since) = scene.token_for(6, "u5");
        for what in [What::Endless, What::Echo] {
            all.push(open_with(&scene, "u5", &token, 1, what).await);
        }
        figures.add("token expired", end(&mut all, since, |e| e.user == "u5").await);
        // So young that they are not tunnels yet.
        let (token, since) = scene.token_for(2, "u6");
        for what in [What::Endless, What::Echo] {
            all.push(open_with(&scene, "u6", &token, 1, what).await);
        }
        figures.add("token expired soon", end(&mut all, since, |e| e.user == "u6").await);
        for what in [What::Endless, What::Echo] {
            all.push(open(&scene, "u7", 2, what).await);
        }
        scene.listed(2).phase = "stopped";
        let since = scene.write();
        figures.add("stopped soon", end(&mut all, since, |e| e.user == "u7").await);
        figures.judge(&format!("haproxy {version:?}, plain requests"));
        until("the ends", async || (scene.tunnels().len() == all.len()).then_some(())).await;
        for record in scene.records("tunnel_open") {
            assert_eq!(record["kind"], "request");
            assert!(record["user"] != "u8" && record["user"] != "u9", "{record}");
        }
        for cause in ["workspace_stopped", "token_revoked", "administrator", "token_expired"] {
            assert!(
                scene.records("tunnel_terminate").iter().any(|r| r["cause"] == cause),
                "{cause}"
            );
        }
        assert!(scene.records("tunnel_terminate_failed").is_empty());
        // A connection that waits for its next request is none of it.
        let token = scene.idp.token_of("u9");
        assert_eq!(idle.get(&at(3, 3000), Some(&token)).await.status, 200);
        assert!(scene.tunnels().iter().all(|tunnel| tunnel["workspace"] == id(1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_restarted_agent_knows_what_was_allowed_a_moment_before() {
    for version in Version::all() {
        let prepare = |directory: &std::path::Path| {
            std::fs::write(directory.join("haproxy.env"), "GATE_REUSE=30000\n").unwrap();
        };
        let more = "verdict_cache_ms = 30000\n[tunnels]\nfile = 'tunnels.json'\n";
        let mut scene = Scene::with(version, 3, 1, more, prepare).await;
        let mut all = Vec::new();
        for user in ["u0", "u1", "u2"] {
            for workspace in [0, 1] {
                all.push(open(&scene, user, workspace, What::Endless).await);
            }
            all.push(open(&scene, user, 1, What::Echo).await);
        }
        all.push(reused(&scene, "u3", 0).await);
        all.push(reused(&scene, "u4", 1).await);
        assert!(scene.agent.end().await);
        let recent = scene.directory.path().join("tunnels.json.recent");
        let rights = std::fs::metadata(&recent).unwrap().permissions();
        let rights = std::os::unix::fs::PermissionsExt::mode(&rights);
        assert_eq!(rights & 0o777, 0o600, "people's names are in it");
        // Access to one ends while there is no agent.
        scene.listed(0).phase = "stopped";
        let _ = scene.write();
        scene.agent = AgentProcess::start(scene.directory.path()).await;
        assert!(!recent.exists(), "it is used up");
        let mut figures = Figures::default();
        end(&mut all, Instant::now(), |e| e.workspace == 0).await;
        for user in ["u1", "u4"] {
            let since = Instant::now();
            scene.done(&["revoke", "--subject", &format!("sub-{user}")]);
            figures.add("revoked", end(&mut all, since, |e| e.user == user).await);
        }
        figures.judge(&format!("haproxy {version:?}, after a restart"));
        until("those that go on", async || (scene.tunnels().len() == all.len()).then_some(()))
            .await;
    }
}

/// Server-sent events of a browser's session.
async fn events(stage: &Stage, browser: &Browser, host: &str) -> reqwest::Response {
    let id = &browser.cookies[host]["__Host-identity"];
    let http = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .tls_danger_accept_invalid_certs(true)
        .resolve(host, stage.haproxy.https)
        .build()
        .unwrap();
    let port = stage.haproxy.https.port();
    let request = http
        .get(format!("https://{host}:{port}/endless"))
        .header("cookie", format!("__Host-identity={id}"))
        .header("sec-fetch-site", "same-origin");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", stage.agent.log());
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_what_lasts_ends_with_its_browser_session() {
    for version in Version::all() {
        let tables = "[haproxy]\nsockets = ['unix:master.sock']\n";
        let stage = Stage::changed(version, &Changes { tables, ..Changes::default() }).await;
        let mut alice = stage.browser();
        assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
        stage.idp.set_user("bob");
        let mut bob = stage.browser();
        assert_eq!(bob.browse(&host(BOBS), "/").await.status, 200);
        let mut hers = events(&stage, &alice, &host(ALICES)).await;
        let mut his = events(&stage, &bob, &host(BOBS)).await;
        assert!(hers.chunk().await.unwrap().is_some());
        let since = Instant::now();
        let path = "/.well-known/identity-spoa/sign-out";
        let origin = format!("https://{LOGIN}:{}", stage.haproxy.https.port());
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("origin", origin.as_str())];
        assert_eq!(alice.ask("POST", LOGIN, path, &headers).await.status, 303);
        timeout(PATIENCE, async { while let Ok(Some(_)) = hers.chunk().await {} })
            .await
            .expect("it goes on");
        let mut figures = Figures::default();
        figures.add("signed out", vec![since.elapsed()]);
        figures.judge(&format!("haproxy {version:?}, server-sent events of a session"));
        assert!(his.chunk().await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_what_a_session_opened_a_moment_before_a_restart_ends_if_the_session_does() {
    for version in Version::all() {
        for outlives in [false, true] {
            let tables =
                "[haproxy]\nsockets = ['unix:master.sock']\n[tunnels]\nfile = 'tunnels.json'\n";
            let sign_in = if outlives { "sessions_file = 'sessions'\n" } else { "" };
            let changes = Changes { sign_in, tables, ..Changes::default() };
            let mut stage = Stage::changed(version, &changes).await;
            let mut alice = stage.browser();
            assert_eq!(alice.browse(&host(ALICES), "/").await.status, 200);
            let mut hers = events(&stage, &alice, &host(ALICES)).await;
            assert!(hers.chunk().await.unwrap().is_some());
            assert!(stage.agent.end().await);
            stage.agent = AgentProcess::start(stage.directory.path()).await;
            if outlives {
                let tunnels = || {
                    let list = std::process::Command::new(program())
                        .args(["tunnels", "--config", "agent.toml"])
                        .current_dir(stage.directory.path())
                        .output()
                        .unwrap();
                    String::from_utf8(list.stdout).unwrap()
                };
                until("it to be known", async || tunnels().contains("request").then_some(())).await;
                assert!(hers.chunk().await.unwrap().is_some());
            } else {
                timeout(PATIENCE, async { while let Ok(Some(_)) = hers.chunk().await {} })
                    .await
                    .expect("it goes on");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_reused_allow_that_lasts_ends_with_its_access() {
    for version in Version::all() {
        let prepare = |directory: &std::path::Path| {
            std::fs::write(directory.join("haproxy.env"), "GATE_REUSE=30000\n").unwrap();
        };
        let mut scene = Scene::with(version, 3, 1, "verdict_cache_ms = 30000\n", prepare).await;
        let mut figures = Figures::default();
        let mut all = Vec::new();
        for (user, workspace) in [("u0", 0), ("u1", 1), ("u2", 2)] {
            all.push(reused(&scene, user, workspace).await);
        }
        until("all to be listed", async || (scene.tunnels().len() == 3).then_some(())).await;
        let list = scene.tunnels();
        let ids: Vec<_> = list.iter().map(|tunnel| tunnel["id"].as_str().unwrap()).collect();
        // Before 3.0 a stream is that of its connection's last authorization request.
        let has_numbers = versions().any(|named| named == version);
        assert!(!has_numbers || ids.iter().all(|id| id.ends_with("+1")), "{list:?}");
        scene.listed(0).phase = "stopped";
        let since = scene.write();
        figures.add("stopped", end(&mut all, since, |e| e.workspace == 0).await);
        let since = Instant::now();
        scene.done(&["revoke", "--subject", "sub-u1"]);
        figures.add("revoked", end(&mut all, since, |e| e.user == "u1").await);
        // So young that it is not a tunnel yet.
        all.push(reused(&scene, "u3", 1).await);
        let since = Instant::now();
        scene.done(&["revoke", "--subject", "sub-u3"]);
        figures.add("revoked soon", end(&mut all, since, |e| e.user == "u3").await);
        figures.judge(&format!("haproxy {version:?}, what was reused"));
    }
}

/// A request that lasts and that passed by the allow of the request before it.
async fn reused(scene: &Scene, user: &str, workspace: usize) -> Exchange {
    let token = scene.idp.token_of(user);
    until("an allow to be given for reuse", async || {
        let mut first = Client::connect(scene.haproxies[0].0.http).await;
        let reply = first.get(&at(workspace, 3000), Some(&token)).await;
        let asked = reply.arrived("x-identity-decision-id")[0].to_owned();
        let stream = first.into_stream();
        let exchange = begin(stream, user, &token, workspace, What::Endless).await;
        let last = scene.workspaces[workspace].requests().pop().unwrap();
        (last.headers["x-identity-decision-id"] == *asked).then_some(exchange)
    })
    .await
}
