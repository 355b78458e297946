//! Nothing passes when the agent does not say so for this very request.

use std::time::Duration;

use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::UnixListener};

use crate::{
    conformance::through_tls,
    support::{ALICES, AgentProcess, Stage, Version, host, machine, port_host, until},
};

/// What happens to the agent after it has just allowed a request on a keep-alive connection.
async fn after(version: &Version, harm: impl AsyncFnOnce(&mut Stage)) {
    let mut stage = Stage::start(version).await;
    let token = stage.idp.token_of("alice");
    let mut client = stage.client().await;
    let mut stranger = stage.client().await;
    assert_eq!(client.get(&host(ALICES), Some(&token)).await.status, 200);
    assert_eq!(stranger.get(&port_host(3000, ALICES), None).await.status, 200);
    // Until the agent was there, HAProxy refused without it as well.
    let before = stage.haproxy.log().len();
    harm(&mut stage).await;
    for _ in 0..3 {
        let reply = client.get(&host(ALICES), Some(&token)).await;
        assert_eq!(reply.status, 503, "{version:?} {}", reply.body);
        machine::took(Duration::from_secs(3), "refused", &reply);
    }
    // That holds for a public port and for a new connection too.
    assert_eq!(stranger.get(&port_host(3000, ALICES), None).await.status, 503);
    assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 503);
    // F2: the log says that it was the agent's failure, not its verdict.
    let refused = until("five refusals in the log", async || {
        let log = stage.haproxy.log();
        // HAProxy logs its SPOE messages too, with how many milliseconds they took: at times 503.
        let requests = log
            .get(before..)
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains("spoe_error="));
        // Without an answer: before the gate was open the agent may have said 503 itself.
        let unanswered = |line: &&str| line.contains(" 503 ") && line.contains(" allow=- ");
        let refused = requests.filter(unanswered).map(String::from);
        Some(refused.collect::<Vec<_>>()).filter(|lines| lines.len() == 5)
    })
    .await;
    for line in refused {
        let status = line.rsplit("spoe_error=").next().unwrap();
        assert!(line.contains("allow=- ") && status.parse::<u32>().is_ok(), "{version:?} {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_f2_a_hung_agent_refuses_the_next_request_of_an_allowed_connection() {
    for version in Version::all() {
        after(version, async |stage| stage.agent.freeze().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_a_tcp_stream_is_refused_while_the_agent_hangs() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let gate = stage.haproxy.tcp;
        let ask = || {
            let request = "GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
            let name = port_host(2223, ALICES);
            tokio::task::spawn_blocking(move || through_tls(gate, &name, None, request))
        };
        assert!(ask().await.unwrap().contains("workspace alices"), "{version:?}");
        stage.agent.freeze().await;
        assert_eq!(ask().await.unwrap(), "", "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_f2_a_killed_agent_refuses_the_next_request_of_an_allowed_connection() {
    for version in Version::all() {
        after(version, async |stage| stage.agent.kill()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_f2_an_agent_that_answers_garbage_refuses_the_next_request() {
    for version in Version::all() {
        after(version, async |stage| {
            let socket = stage.agent.socket();
            stage.agent.kill();
            std::fs::remove_file(&socket).unwrap();
            let listener = UnixListener::bind(&socket).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(&socket, mode).unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut buffer = [0; 1024];
                        while let Ok(1..) = stream.read(&mut buffer).await {
                            if stream.write_all(b"\0\0\0\x10garbage garbage!").await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_is_used_again() {
    for version in Version::all() {
        let mut stage = Stage::start(version).await;
        stage.agent.kill();
        let reply = stage.get(&host(ALICES), Some("alice")).await;
        assert_eq!(reply.status, 503, "{version:?}");
        // The socket of the killed agent is still there, and does not prevent the start.
        stage.agent = AgentProcess::start(stage.directory.path()).await;
        until("the gate to open again", || async {
            (stage.get(&host(ALICES), Some("alice")).await.status == 200).then_some(())
        })
        .await;
        assert!(stage.agent.end().await, "{}", stage.agent.log());
        assert!(!stage.agent.socket().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_cannot_be_recorded_is_not_an_allow() {
    let stage = Stage::start(Version::newest()).await;
    let config = std::fs::read_to_string(stage.directory.path().join("agent.toml")).unwrap();
    let config = config.replace("audit.jsonl", "/dev/full").replace("spop.sock", "other.sock");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("agent.toml"), config).unwrap();
    std::fs::copy(stage.workspaces_file(), directory.path().join("workspaces.yaml")).unwrap();
    let agent = AgentProcess::start(directory.path()).await;
    let mut peer = crate::wire::Peer::tcp(agent.tcp()).await;
    // The first record is in the queue before the agent knows that the disk is full.
    until("the refusal", async || {
        (peer.ask_public().await.as_deref() == Some("audit_unavailable")).then_some(())
    })
    .await;
}
