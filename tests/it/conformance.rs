//! What real HAProxies do, under load and at the edges.

use std::{
    io::Write,
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    ALICES, AgentProcess, BOBS, Client, Haproxy, Stage, Version, haproxy::root, host, machine,
    port_host, until,
};
use dev_workspace::DevWorkspace;

/// Who asked for what, and what came of it.
#[derive(Default)]
struct Tally {
    right: AtomicU64,
    unavailable: AtomicU64,
    wrong: AtomicU64,
}

/// Requests of both people to both workspaces, each on a connection of its own, until told to stop.
struct Load {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(stage: &Stage) -> Self {
        let (tally, stop) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
        let cases = [
            (ALICES, "alice", 200),
            (ALICES, "bob", 403),
            (BOBS, "bob", 200),
            (BOBS, "alice", 403),
        ];
        let tasks = cases.map(|(workspace, user, want)| {
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            let (gate, token) = (stage.haproxy.http, stage.idp.token_of(user));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reply =
                        Client::connect(gate).await.get(&host(workspace), Some(&token)).await;
                    let count = match reply.status {
                        status if status == want => &tally.right,
                        503 => &tally.unavailable,
                        _ => &tally.wrong,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self { tally, stop, tasks: tasks.into() }
    }

    async fn more(&self, count: u64) {
        let start = self.tally.right.load(Ordering::Relaxed);
        until("more answers", async || {
            (self.tally.right.load(Ordering::Relaxed) >= start + count).then_some(())
        })
        .await;
    }

    async fn end(self) -> (u64, u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a request was lost");
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.tally.right), count(&self.tally.unavailable), count(&self.tally.wrong))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_haproxy_under_load_loses_nothing() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let load = Load::start(&stage);
        load.more(100).await;
        for _ in 0..2 {
            let reloads = stage.haproxy.log().matches("Loading success").count()
                + stage.haproxy.log().matches("New worker").count();
            stage.haproxy.reload();
            let mut asked = Instant::now();
            until("the reload", async || {
                // A master that is just executing itself again does not get the signal.
                if asked.elapsed() > Duration::from_secs(3) {
                    stage.haproxy.reload();
                    asked = Instant::now();
                }
                let log = stage.haproxy.log();
                let now =
                    log.matches("Loading success").count() + log.matches("New worker").count();
                (now > reloads).then_some(())
            })
            .await;
            load.more(100).await;
        }
        let (right, unavailable, wrong) = load.end().await;
        eprintln!(
            "{version:?}: two reloads under load: {right} right, {unavailable} refused, {wrong} wrong"
        );
        assert_eq!((unavailable, wrong), (0, 0), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_agent_under_load_allows_nothing_wrong() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        let load = Load::start(&stage);
        load.more(100).await;
        for _ in 0..2 {
            assert!(stage.agent.end().await);
            stage.agent = AgentProcess::start(stage.directory.path()).await;
            load.more(100).await;
        }
        let (right, unavailable, wrong) = load.end().await;
        eprintln!(
            "{version:?}: two restarts of the agent under load: {right} right, {unavailable} refused meanwhile, {wrong} wrong"
        );
        assert_eq!(wrong, 0, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_down_is_taken_out_and_back() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        stage.agent.kill();
        until("HAProxy to see that the agent is down", async || {
            stage.haproxy.log().contains("identity-agent/agent is DOWN").then_some(())
        })
        .await;
        let reply = stage.get(&host(ALICES), Some("alice")).await;
        assert_eq!(reply.status, 503);
        machine::took(Duration::from_millis(200), "refused at once", &reply);
        stage.agent = AgentProcess::start(stage.directory.path()).await;
        until("HAProxy to see that the agent is up", async || {
            stage.haproxy.log().contains("identity-agent/agent is UP").then_some(())
        })
        .await;
        until("the gate to open", async || {
            (stage.get(&host(ALICES), Some("alice")).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_cookies_pass_whole_or_are_refused() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut passed = 0;
        for size in [1000, 8000, 12_000, 14_000, 15_000, 16_000, 20_000] {
            let cookie = format!("big={}", "x".repeat(size));
            let lines = format!("Cookie: {cookie}\r\n");
            let mut client = stage.client().await;
            let reply = client.send(&port_host(3000, ALICES), lines.as_bytes()).await;
            match reply.status {
                200 => {
                    assert_eq!(reply.arrived("cookie"), [cookie], "{version:?}");
                    passed = size;
                }
                status => {
                    assert!([400, 431, 500, 503].contains(&status), "{version:?} {size}: {status}");
                }
            }
        }
        eprintln!("{version:?}: cookies of {passed} bytes pass, longer ones are refused");
        assert!(passed >= 12_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_utf8_stay_distinct_and_are_refused_as_a_host() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let mut request = b"GET / HTTP/1.1\r\nHost: ".to_vec();
        request.extend_from_slice(b"\xff-");
        request.extend_from_slice(port_host(3000, ALICES).as_bytes());
        request.extend_from_slice(b"\r\n\r\n");
        let reply = stage.client().await.raw(&request).await;
        assert_eq!(reply.status, 400, "{version:?} {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_destination_is_reached() {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let Ok(workspace) = DevWorkspace::start_at(address, "six").await else {
        eprintln!("this machine has no IPv6: nothing to test");
        return;
    };
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let list = std::fs::read_to_string(stage.workspaces_file()).unwrap();
        let list = list.replace(
            &format!("destination: {}", stage.alice.address()),
            &format!("destination: \"{}\"", workspace.address()),
        );
        std::fs::write(stage.workspaces_file(), list).unwrap();
        until("the other destination", async || {
            let reply = stage.get(&host(ALICES), Some("alice")).await;
            reply.body.starts_with("workspace six").then_some(())
        })
        .await;
    }
}

/// Sends a request through TLS with a server name; what comes back, which is nothing when refused.
pub(crate) fn through_tls(
    gate: SocketAddr,
    server_name: &str,
    certificate: Option<&Path>,
    request: &str,
) -> String {
    let mut command = Command::new("openssl");
    command.arg("s_client");
    if let Some(file) = certificate {
        command.arg("-cert").arg(file);
    }
    let mut child = command
        .args(["-quiet", "-servername", server_name, "-connect"])
        .arg(gate.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A stream that was refused at once takes no more input.
    let _ = child.stdin.as_mut().unwrap().write_all(request.as_bytes());
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_stream_reaches_what_its_server_name_may_reach() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let gate = stage.haproxy.tcp;
        let request = "GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
        let ask = async |name: String| {
            tokio::task::spawn_blocking(move || through_tls(gate, &name, None, request))
                .await
                .unwrap()
        };
        let public = ask(port_host(2223, ALICES)).await;
        assert!(
            public.contains("workspace alices"),
            "{version:?} {public} {}",
            stage.haproxy.log()
        );
        for (name, reason) in
            [(host(ALICES), "credential_missing"), ("elsewhere.test".into(), "host_unmatched")]
        {
            assert_eq!(ask(name.clone()).await, "", "{version:?} {name}");
            let line = format!("reason={reason} ");
            until("the refusal in the log", async || {
                let log = stage.haproxy.log();
                log.lines()
                    .any(|l| l.contains("gate-tcp") && l.contains("allow=0") && l.contains(&line))
                    .then_some(())
            })
            .await;
        }
        drop(stage.agent);
        assert_eq!(ask(port_host(2223, ALICES)).await, "", "{version:?}: without an agent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_without_a_name_and_without_a_value_are_ignored() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        let changed = tempfile::tempdir().unwrap();
        for file in ["haproxy.cfg", "tcp.cfg", "identity.spoe.cfg"] {
            let text = std::fs::read_to_string(root().join("haproxy").join(file)).unwrap();
            // An address and a number without a name, and values that no request has.
            let text = text.replace(
                "    args unique_id=unique-id method",
                "    args src dst_port nothing=req.fhdr(x-not-there) req.fhdr(x-not-there) unique_id=unique-id method",
            );
            std::fs::write(changed.path().join(file), text).unwrap();
        }
        let (agent, named) = (stage.agent.socket(), stage.bob.address());
        stage.haproxy =
            Haproxy::start_from(changed.path(), version, stage.directory.path(), &agent, named)
                .await;
        assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 200, "{version:?}");
        assert_eq!(stage.get(&host(ALICES), Some("bob")).await.status, 403, "{version:?}");
    }
}
