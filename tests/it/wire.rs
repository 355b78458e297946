//! The agent on the wire, by a peer that speaks HAProxy's side and breaks its rules.

use std::path::Path;

use identity_spoa::spop::{
    FrameError, FrameType, Status, Value, ack,
    ack::Action,
    client,
    disconnect::Disconnect,
    frame::{self, DEFAULT_SIZE},
    hello::Agreed,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::support::{self, ALICES, AgentProcess, PATIENCE, host, port_host};
use dev_idp::DevIdp;
use dev_workspace::DevWorkspace;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// HAProxy's end of a connection.
pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    frame_id: u64,
}

/// What the agent sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Hello(Agreed),
    /// Frame id and variables.
    Ack(u64, Vec<(String, String)>),
    Disconnect(u32),
    Closed,
}

impl Peer {
    pub(crate) async fn tcp(address: &str) -> Self {
        Self::open(Box::new(TcpStream::connect(address).await.unwrap())).await
    }

    pub(crate) async fn unix(path: &Path) -> Self {
        Self::open(Box::new(UnixStream::connect(path).await.unwrap())).await
    }

    pub fn silent(stream: Box<dyn Stream>) -> Self {
        Self { stream, buffer: Vec::new(), frame_id: 0 }
    }

    async fn open(stream: Box<dyn Stream>) -> Self {
        let mut peer = Self::silent(stream);
        let mut bytes = Vec::new();
        client::hello(&mut bytes, DEFAULT_SIZE, "pipelining", false);
        peer.write(&bytes).await;
        let agreed = Agreed { max_frame_size: DEFAULT_SIZE, pipelining: true };
        assert_eq!(peer.hear().await, Heard::Hello(agreed));
        peer
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The agent may have closed already, which is then heard.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            if let Some((frame, used)) = frame::split(&self.buffer, DEFAULT_SIZE).unwrap() {
                let heard = match frame.kind.unwrap() {
                    FrameType::AgentHello => Heard::Hello(Agreed::parse(frame.payload).unwrap()),
                    FrameType::AgentDisconnect => {
                        Heard::Disconnect(Disconnect::parse(frame.payload).unwrap().status)
                    }
                    FrameType::Ack => {
                        assert!(frame.stream_id <= 1);
                        Heard::Ack(frame.frame_id, variables(frame.payload))
                    }
                    other => panic!("{other:?}"),
                };
                self.buffer.drain(..used);
                return heard;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
            if !matches!(read.await.expect("silence"), Ok(1..)) {
                return Heard::Closed;
            }
        }
    }

    /// A NOTIFY with one `authorize` message.
    pub(crate) fn authorize(&mut self, host: &[u8], authorization: Option<&str>) -> Vec<u8> {
        let bearer = authorization.map(|token| format!("Bearer {token}"));
        let authorization = bearer.as_ref().map_or(Value::Null, |text| Value::Str(text.as_bytes()));
        self.notify(&[(
            b"authorize",
            &[
                (b"host", Value::Str(host)),
                (b"hosts", Value::Int64(1)),
                (b"authorization", authorization),
                (b"authorizations", Value::Int64(i64::from(bearer.is_some()))),
                (b"cookies", Value::Int64(0)),
                (b"origin", Value::Null),
                (b"fetch_site", Value::Null),
                (b"", Value::Null),
                (b"", Value::Bool(true)),
            ],
        )])
    }

    pub(crate) fn notify(&mut self, messages: &[(&[u8], &[client::Arg<'_>])]) -> Vec<u8> {
        self.frame_id += 1;
        let mut bytes = Vec::new();
        client::notify(&mut bytes, (1, self.frame_id), DEFAULT_SIZE, messages).unwrap();
        bytes
    }

    /// Asks, and returns the reason of the answer.
    pub(crate) async fn ask(&mut self, host: &str, token: Option<&str>) -> Option<String> {
        let notify = self.authorize(host.as_bytes(), token);
        self.write(&notify).await;
        self.reason().await
    }

    pub(crate) async fn ask_public(&mut self) -> Option<String> {
        self.ask(&port_host(3000, ALICES), None).await
    }

    pub(crate) async fn reason(&mut self) -> Option<String> {
        let Heard::Ack(_, variables) = self.hear().await else { return None };
        // Every answer says both, whatever the verdict.
        assert!(variables.iter().any(|(name, _)| name == "allow"), "{variables:?}");
        variables.into_iter().find(|(name, _)| name == "reason").map(|(_, value)| value)
    }
}

fn variables(payload: &[u8]) -> Vec<(String, String)> {
    let text = |value: Value<'_>| match value {
        Value::Str(text) => text.escape_ascii().to_string(),
        other => format!("{other:?}"),
    };
    let name = |name: &[u8]| name.escape_ascii().to_string();
    let actions = ack::parse(payload).unwrap().into_iter().map(|action| match action {
        Action::Set(ack::Scope::Transaction, variable, value) => (name(variable), text(value)),
        other => panic!("{other:?}"),
    });
    actions.collect()
}

/// An agent without HAProxy.
pub struct Bare {
    pub agent: AgentProcess,
    pub idp: DevIdp,
    _workspaces: [DevWorkspace; 2],
    pub directory: TempDir,
}

impl Bare {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With more settings of the agent.
    pub async fn with(settings: &str) -> Self {
        Self::changed(|config| {
            *config = config.replace("[agent]", &format!("[agent]\n{settings}"));
        })
        .await
    }

    /// With another configuration.
    pub async fn changed(change: impl FnOnce(&mut String)) -> Self {
        Self::changed_in(|_, config| change(config)).await
    }

    /// With another configuration and other files in its directory.
    pub async fn changed_in(change: impl FnOnce(&Path, &mut String)) -> Self {
        let idp = DevIdp::start().await;
        let directory = tempfile::tempdir().unwrap();
        let workspaces = [DevWorkspace::start("a").await, DevWorkspace::start("b").await];
        let mut config = support::config(idp.issuer());
        change(directory.path(), &mut config);
        std::fs::write(directory.path().join("agent.toml"), config).unwrap();
        let list = support::workspaces(&workspaces[0], &workspaces[1], "running");
        std::fs::write(directory.path().join("workspaces.yaml"), list).unwrap();
        let agent = AgentProcess::start(directory.path()).await;
        let bare = Self { agent, idp, _workspaces: workspaces, directory };
        let token = bare.idp.token_of("alice");
        let mut peer = bare.unix().await;
        support::until("the agent to have keys", async || {
            let reason = peer.ask(&host(ALICES), Some(&token)).await.unwrap();
            (reason == "owner").then_some(())
        })
        .await;
        bare
    }

    /// With more tables, and a provider that is away from the start.
    pub async fn without_keys(tables: &str) -> Self {
        let mut idp = DevIdp::start().await;
        idp.halt();
        let directory = tempfile::tempdir().unwrap();
        let workspaces = [DevWorkspace::start("a").await, DevWorkspace::start("b").await];
        let config = format!("{tables}{}", support::config(idp.issuer()));
        std::fs::write(directory.path().join("agent.toml"), config).unwrap();
        let list = support::workspaces(&workspaces[0], &workspaces[1], "running");
        std::fs::write(directory.path().join("workspaces.yaml"), list).unwrap();
        let agent = AgentProcess::start(directory.path()).await;
        Self { agent, idp, _workspaces: workspaces, directory }
    }

    pub async fn unix(&self) -> Peer {
        Peer::unix(&self.agent.socket()).await
    }
}

#[tokio::test]
async fn tcp_and_unix_sockets_answer_alike() {
    let bare = Bare::start().await;
    for mut peer in [bare.unix().await, Peer::tcp(bare.agent.tcp()).await] {
        assert_eq!(peer.ask(&host(ALICES), None).await.as_deref(), Some("credential_missing"));
        assert_eq!(peer.ask_public().await.as_deref(), Some("public"));
    }
    let mode = std::fs::metadata(bare.agent.socket()).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o666);
    drop(bare.directory);
}

#[tokio::test]
async fn a_health_check_is_answered_and_closed() {
    let bare = Bare::start().await;
    let stream = UnixStream::connect(bare.agent.socket()).await.unwrap();
    let mut peer = Peer::silent(Box::new(stream));
    let mut bytes = Vec::new();
    client::hello(&mut bytes, DEFAULT_SIZE, "", true);
    peer.write(&bytes).await;
    assert!(matches!(peer.hear().await, Heard::Hello(_)));
    assert_eq!(peer.hear().await, Heard::Closed);
}

#[tokio::test]
async fn notify_frames_in_one_write_all_get_a_response() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let token = bare.idp.token_of("alice");
    let mut bytes = Vec::new();
    for n in 0..500 {
        let host = if n % 2 == 0 { host(ALICES) } else { port_host(3000, ALICES) };
        let notify = peer.authorize(host.as_bytes(), Some(&token));
        bytes.extend(notify);
    }
    let (mut seen, writing) = (Vec::new(), bytes);
    let mut stream = peer;
    // Written in odd pieces, as a network may.
    for piece in writing.chunks(1234) {
        stream.write(piece).await;
    }
    for _ in 0..500 {
        let Heard::Ack(id, variables) = stream.hear().await else { panic!() };
        assert_eq!(variables[0], ("allow".to_owned(), "Bool(true)".to_owned()));
        seen.push(id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_allow_says_who_where_and_what_travels() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let token = bare.idp.token_of("alice");
    let notify = peer.authorize(host(ALICES).as_bytes(), Some(&token));
    peer.write(&notify).await;
    let Heard::Ack(_, variables) = peer.hear().await else { panic!() };
    let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
    let want = [
        "allow",
        "reason",
        "decision_id",
        "user",
        "subject",
        "issuer",
        "email",
        "groups",
        "workspace",
        "owner",
        "endpoint",
        "dst_ip",
        "dst_port",
        "keep",
    ];
    assert_eq!(names, want);
}

#[tokio::test]
async fn every_notify_gets_a_response_even_a_malformed_one() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let args: &[client::Arg<'_>] = &[
        (b"host", Value::Str(b"h")),
        (b"hosts", Value::Int64(1)),
        (b"authorization", Value::Null),
        (b"authorizations", Value::Int64(0)),
        (b"cookies", Value::Int64(0)),
    ];
    let wrong_type: &[client::Arg<'_>] = &[(b"host", Value::Int32(7))];
    let negative: &[client::Arg<'_>] =
        &[args[0], (b"hosts", Value::Int64(-1)), args[2], args[3], args[4]];
    for messages in [
        &[][..],
        &[(&b"unknown"[..], args)],
        &[(b"authorize", args), (b"authorize", args)],
        &[(b"authorize", args), (b"authorize-tcp", args)],
        &[(b"authorize", &args[..4])],
        &[(b"authorize", wrong_type)],
        &[(b"authorize", negative)],
    ] {
        let notify = peer.notify(messages);
        peer.write(&notify).await;
        assert_eq!(peer.reason().await.as_deref(), Some("message_unknown"), "{messages:?}");
    }
    // A HAProxy process counts its streams from zero.
    let mut first = Vec::new();
    client::notify(&mut first, (0, 1), DEFAULT_SIZE, &[(b"authorize", args)]).unwrap();
    peer.write(&first).await;
    assert_eq!(peer.reason().await.as_deref(), Some("host_unmatched"));
    // Another agent's message in the same group is ignored.
    let notify = peer.notify(&[(b"other", wrong_type), (b"authorize", args)]);
    peer.write(&notify).await;
    assert_eq!(peer.reason().await.as_deref(), Some("host_unmatched"));
    for host in [&b"\xff.ws.gitpod.test"[..], b"", b"a b", &[b'a'; 9000]] {
        let notify = peer.authorize(host, None);
        peer.write(&notify).await;
        assert_eq!(peer.reason().await.as_deref(), Some("host_invalid"));
    }
}

#[tokio::test]
async fn a_tcp_stream_is_judged_by_its_server_name() {
    let bare = Bare::start().await;
    let mut peer = bare.unix().await;
    for (name, reason) in [
        (port_host(2223, ALICES), "public"),
        (port_host(3000, ALICES), "endpoint_not_tcp"),
        (host(ALICES), "credential_missing"),
        ("x.y".into(), "host_unmatched"),
    ] {
        let notify = peer.notify(&[(b"authorize-tcp", &[(b"sni", Value::Str(name.as_bytes()))])]);
        peer.write(&notify).await;
        assert_eq!(peer.reason().await.as_deref(), Some(reason));
    }
    let notify = peer.notify(&[(b"authorize-tcp", &[])]);
    peer.write(&notify).await;
    assert_eq!(peer.reason().await.as_deref(), Some("host_missing"));
}

#[tokio::test]
async fn a_malformed_frame_closes_its_connection_with_the_precise_status_and_no_other() {
    let bare = Bare::start().await;
    let mut bystander = bare.unix().await;
    for (bytes, error) in [
        (&b"\0\0\0\x01\x03"[..], FrameError::Truncated),
        (b"\x40\0\0\0\x03", FrameError::TooBig),
        (b"\0\0\0\x07\x03\0\0\0\0\x01\x01", FrameError::Fragment),
        (b"\0\0\0\x07\x03\0\0\0\x01\0\0", FrameError::Ids),
        (b"\0\0\0\x07\x67\0\0\0\x01\0\0", FrameError::Unexpected),
        (b"\0\0\0\x09\x03\0\0\0\x01\x01\x01\x05a", FrameError::Truncated),
    ] {
        let mut peer = bare.unix().await;
        peer.write(bytes).await;
        assert_eq!(peer.hear().await, Heard::Disconnect(error.status() as u32), "{error}");
        assert_eq!(peer.hear().await, Heard::Closed);
        assert_eq!(bystander.ask_public().await.as_deref(), Some("public"));
    }
    let stream = UnixStream::connect(bare.agent.socket()).await.unwrap();
    let mut peer = Peer::silent(Box::new(stream));
    let mut bytes = Vec::new();
    client::hello(&mut bytes, 255, "", false);
    peer.write(&bytes).await;
    assert_eq!(peer.hear().await, Heard::Disconnect(Status::BadMaxFrameSize as u32));
}

#[tokio::test]
async fn both_ends_can_disconnect() {
    let mut bare = Bare::start().await;
    let mut peer = bare.unix().await;
    let mut bytes = Vec::new();
    client::disconnect(&mut bytes, Status::Normal, "bye");
    peer.write(&bytes).await;
    assert_eq!(peer.hear().await, Heard::Disconnect(0));
    assert_eq!(peer.hear().await, Heard::Closed);
    let mut peer = bare.unix().await;
    let notify = peer.authorize(host(ALICES).as_bytes(), None);
    peer.write(&notify).await;
    assert!(bare.agent.end().await);
    assert_eq!(peer.reason().await.as_deref(), Some("credential_missing"));
    assert_eq!(peer.hear().await, Heard::Disconnect(0));
    assert_eq!(peer.hear().await, Heard::Closed);
}

#[tokio::test]
async fn k4_ten_thousand_unknown_key_ids_cause_at_most_two_fetches() {
    let bare = Bare::start().await;
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(bare.unix().await);
    }
    let before = bare.idp.counters();
    let start = std::time::Instant::now();
    let tokens: Vec<_> = (0..10_000)
        .map(|n| {
            let header = serde_json::json!({"kid": format!("unknown-{n}")});
            let request = dev_idp::TokenRequest {
                alg: "EdDSA".into(),
                header: header.as_object().unwrap().clone(),
                ..Default::default()
            };
            bare.idp.token(&request)
        })
        .collect();
    eprintln!("10,000 tokens made in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let mut asked = 0;
    for chunk in tokens.chunks(40) {
        for (peer, tokens) in peers.iter_mut().zip(chunk.chunks(10)) {
            let mut bytes = Vec::new();
            for token in tokens {
                bytes.extend(peer.authorize(host(ALICES).as_bytes(), Some(token)));
            }
            peer.write(&bytes).await;
        }
        for (peer, tokens) in peers.iter_mut().zip(chunk.chunks(10)) {
            for _ in tokens {
                assert_eq!(peer.reason().await.as_deref(), Some("token_key"));
                asked += 1;
            }
        }
    }
    let took = start.elapsed();
    let fetches = bare.idp.counters().jwks - before.jwks;
    eprintln!("{asked} random key ids in {took:?}: {fetches} fetches of the key set");
    // The stage allows one such fetch a second; the default is one in 30 seconds.
    assert!(fetches <= 1 + took.as_secs() + 1, "{fetches} in {took:?}");
    assert!(fetches >= 1);
}
