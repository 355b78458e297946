//! The agent with one workspace in front of a provider, and HAProxy's side of the protocol.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use identity_spoa::spop::{
    FrameType, Value, ack,
    ack::Action,
    client,
    frame::{self, DEFAULT_SIZE},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
    time::timeout,
};

use test_stage::{AgentProcess, AgentToml, Setup};

use crate::{PATIENCE, provider::Provider, until};

const HOST: &[u8] = b"pinkpanda-demo-ns35kd21abc.ws.gitpod.test";

/// The running agent.
pub(crate) struct Gate {
    agent: AgentProcess,
    _directory: TempDir,
}

impl Gate {
    /// An agent that trusts the provider, with more settings of the issuer; the workspace is of the
    /// person with this subject.
    pub(crate) async fn start(provider: &Provider, owner: &str, settings: &str) -> Self {
        let config = AgentToml::new(&provider.issuer)
            .lines("[[issuer]]", &format!("match = [\"subject\"]\n{settings}"))
            .gitpod_hosts()
            .table("[destinations]", "allow = [\"127.0.0.0/8\"]")
            .table("[workspaces]", "file = \"workspaces.yaml\"")
            .audit();
        let setup = Setup::new();
        setup.write("workspaces.yaml", workspaces(owner));
        let agent = setup.agent(config).await;
        let log = || agent.log();
        until("keys", async || log().contains("new keys of the issuer").then_some(())).await;
        Self { agent, _directory: setup.directory }
    }

    pub(crate) async fn peer(&self) -> Peer {
        Peer::connect(&self.agent).await
    }

    /// Connections that ask about these tokens, all of them over and over.
    pub(crate) async fn traffic(&self, tokens: Vec<String>) -> Traffic {
        let shared = Arc::new(Shared { tokens: Mutex::new(tokens), ..Shared::default() });
        let mut connections = Vec::new();
        for number in 0..CONNECTIONS {
            let (peer, shared) = (self.peer().await, Arc::clone(&shared));
            connections.push(tokio::spawn(async move { shared.ask(number, peer).await }));
        }
        Traffic { shared, connections }
    }
}

fn workspaces(owner: &str) -> String {
    format!(
        r#"
workspaces:
  - id: pinkpanda-demo-ns35kd21abc
    owner: {{ subject: "{owner}" }}
    phase: running
    destination: 127.0.0.1:9
"#
    )
}

/// HAProxy's end of a connection.
pub(crate) struct Peer {
    stream: UnixStream,
    buffer: Vec<u8>,
    asked: u64,
}

impl Peer {
    async fn connect(agent: &AgentProcess) -> Self {
        let stream = UnixStream::connect(agent.socket()).await.unwrap();
        let mut peer = Self { stream, buffer: Vec::new(), asked: 0 };
        let mut hello = Vec::new();
        client::hello(&mut hello, DEFAULT_SIZE, "pipelining", false);
        peer.stream.write_all(&hello).await.unwrap();
        assert_eq!(peer.frame().await.0, FrameType::AgentHello);
        peer
    }

    /// May the bearer of the token reach the workspace? The reason of the answer.
    pub(crate) async fn ask(&mut self, token: &str) -> String {
        let bearer = format!("Bearer {token}");
        let arguments: [client::Arg<'_>; 5] = [
            (b"host", Value::Str(HOST)),
            (b"hosts", Value::Int64(1)),
            (b"authorization", Value::Str(bearer.as_bytes())),
            (b"authorizations", Value::Int64(1)),
            (b"cookies", Value::Int64(0)),
        ];
        self.asked += 1;
        let mut frame = Vec::new();
        let ids = (1, self.asked);
        client::notify(&mut frame, ids, DEFAULT_SIZE, &[(b"authorize", &arguments)]).unwrap();
        self.stream.write_all(&frame).await.unwrap();
        let (kind, payload) = self.frame().await;
        assert_eq!(kind, FrameType::Ack);
        let (mut allow, mut reason) = (None, None);
        for action in ack::parse(&payload).unwrap() {
            match action {
                Action::Set(_, b"allow", Value::Bool(value)) => allow = Some(value),
                Action::Set(_, b"reason", Value::Str(text)) => {
                    reason = Some(text.escape_ascii().to_string());
                }
                _ => {}
            }
        }
        let reason = reason.unwrap();
        assert_eq!(allow, Some(reason == "owner"), "{reason}");
        reason
    }

    async fn frame(&mut self) -> (FrameType, Vec<u8>) {
        loop {
            if let Some((frame, used)) = frame::split(&self.buffer, DEFAULT_SIZE).unwrap() {
                let found = (frame.kind.unwrap(), frame.payload.to_vec());
                self.buffer.drain(..used);
                return found;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
            assert!(matches!(read.await.expect("silence"), Ok(1..)), "the agent closed");
        }
    }
}

const CONNECTIONS: usize = 4;

/// Connections that never stop asking.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    connections: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    tokens: Mutex<Vec<String>>,
    /// How often each connection has gone through all tokens.
    rounds: [AtomicUsize; CONNECTIONS],
    seen: Mutex<Seen>,
}

#[derive(Clone, Default)]
struct Seen {
    allowed: usize,
    refused: Vec<String>,
    slowest: Duration,
}

impl Shared {
    async fn ask(&self, number: usize, mut peer: Peer) {
        loop {
            // Read again each time, so that a new token is used immediately.
            let mut next = 0;
            while let Some(token) = self.token(next) {
                let start = Instant::now();
                let reason = peer.ask(&token).await;
                self.count(&reason, next, start.elapsed());
                next += 1;
            }
            self.rounds[number].fetch_add(1, Ordering::Relaxed);
            // The provider has the same processors.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn token(&self, at: usize) -> Option<String> {
        self.tokens.lock().unwrap().get(at).cloned()
    }

    fn count(&self, reason: &str, token: usize, took: Duration) {
        let mut seen = self.seen.lock().unwrap();
        seen.slowest = seen.slowest.max(took);
        if reason == "owner" {
            seen.allowed += 1;
        } else {
            seen.refused.push(format!("{reason} (token {token}, {took:?})"));
        }
    }
}

impl Traffic {
    pub(crate) fn add(&self, token: String) {
        self.shared.tokens.lock().unwrap().push(token);
    }

    /// Waits until every connection has sent every token many times; none was refused.
    pub(crate) async fn settle(&self) {
        let rounds = || self.shared.rounds.each_ref().map(|n| n.load(Ordering::Relaxed));
        let goal = rounds().map(|n| n + 20);
        until("the traffic", async || {
            rounds().iter().zip(goal).all(|(now, goal)| *now >= goal).then_some(())
        })
        .await;
        // A copy: a failure must not hold the lock that the connections need.
        let refused = self.shared.seen.lock().unwrap().refused.clone();
        assert_eq!(refused, [""; 0]);
    }

    /// Stops it, and says what was.
    pub(crate) fn end(self) -> impl fmt::Display {
        let seen = self.shared.seen.lock().unwrap().clone();
        format!("{} allowed, none refused, the slowest in {:?}", seen.allowed, seen.slowest)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.abort();
        }
    }
}
