//! A connection over memory. The test is HAProxy's end: it writes frames and reads what comes.

use std::{
    io::{Write, sink},
    sync::mpsc::{self, RecvTimeoutError},
};

use serde_json::json;
use tokio::{
    io::{DuplexStream, duplex},
    sync::Semaphore,
    task::JoinHandle,
};

use super::*;
use crate::{
    agent::handler::SpoeHandler,
    audit::{AuditLog, WriterThread},
    gate::{
        live::Live,
        scene::{ALICES, Scene, host},
    },
    spop::{
        FrameType, Value,
        ack::{self, Action},
        client,
        disconnect::Disconnect,
        frame::DEFAULT_SIZE,
        hello::Agreed,
    },
    workspaces::reconcile::lookup::Lookup,
};

/// The longest that a test may take. Each takes less than a second.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// HAProxy's end of a connection.
struct HaProxy {
    stream: DuplexStream,
    input: BytesMut,
    served: JoinHandle<()>,
    stop: CancellationToken,
    token: String,
    _writer: WriterThread,
}

/// A received frame: its type, stream id and payload.
type Came = (FrameType, u64, Vec<u8>);

impl HaProxy {
    /// Connects without sending a HELLO.
    fn connect(scene: Scene) -> Self {
        Self::with(scene, 1 << 20, 8)
    }

    /// Connects to an agent without sign-in, whose arguments these requests do not have.
    fn with(mut scene: Scene, audit: usize, max_pending: usize) -> Self {
        (scene.gate.browser, scene.gate.token_locations) = (None, None);
        let token = scene.token(&json!({}));
        let out: Box<dyn Write + Send> = Box::new(sink());
        let (log, writer) = AuditLog::to_sink(out, audit).unwrap();
        let live = Arc::new(Live::new(Arc::new(scene.gate)));
        let shared = Arc::new(ServerContext {
            handler: SpoeHandler::new(live, Arc::new(log)),
            connections: Arc::new(Semaphore::new(1)),
            pending: Arc::new(Semaphore::new(max_pending)),
            response_timeout: Duration::from_secs(5),
        });
        let (stream, other) = duplex(1 << 20);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let served = tokio::spawn(async move { serve(other, &shared, stopped).await });
        Self { stream, input: BytesMut::new(), served, stop, token, _writer: writer }
    }

    async fn open(scene: Scene) -> Self {
        let mut haproxy = Self::connect(scene);
        haproxy.hello(DEFAULT_SIZE).await;
        haproxy
    }

    async fn hello(&mut self, size: u32) -> Agreed {
        let mut hello = Vec::new();
        client::hello(&mut hello, size, "pipelining", false);
        self.write(&hello).await;
        let (kind, _, payload) = self.frame().await.unwrap();
        assert_eq!(kind, FrameType::AgentHello);
        Agreed::parse(&payload).unwrap()
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The authorization request of alice for a workspace.
    fn request(&self, stream: u64, workspace: &str) -> Vec<u8> {
        let (host, bearer) = (host("", workspace), format!("Bearer {}", self.token));
        let args: &[client::Arg<'_>] = &[
            (b"method", Value::Str(b"GET")),
            (b"host", Value::Str(host.as_bytes())),
            (b"hosts", Value::Int64(1)),
            (b"path", Value::Str(b"/")),
            (b"authorization", Value::Str(bearer.as_bytes())),
            (b"authorizations", Value::Int64(1)),
            (b"cookie", Value::Null),
            (b"cookies", Value::Int64(0)),
        ];
        let mut bytes = Vec::new();
        client::notify(&mut bytes, (stream, 1), DEFAULT_SIZE, &[(b"authorize", args)]).unwrap();
        bytes
    }

    /// The next frame; `None` at the end of the connection.
    async fn frame(&mut self) -> Option<Came> {
        loop {
            if let Some((frame, used)) = frame::split(&self.input, DEFAULT_SIZE).unwrap() {
                let came = (frame.kind.unwrap(), frame.stream_id, frame.payload.to_vec());
                self.input.advance(used);
                return Some(came);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                assert!(self.input.is_empty(), "half a frame");
                return None;
            }
        }
    }

    /// The stream id and the reason of the next ACK.
    async fn reason(&mut self) -> (u64, String) {
        let (kind, stream, payload) = self.frame().await.unwrap();
        assert_eq!(kind, FrameType::Ack);
        let reason = ack::parse(&payload).unwrap().into_iter().find_map(|action| match action {
            Action::Set(_, b"reason", Value::Str(text)) => {
                Some(String::from_utf8(text.to_vec()).unwrap())
            }
            _ => None,
        });
        (stream, reason.unwrap())
    }

    /// Expects a DISCONNECT with this status and the end of the connection.
    async fn ends_with(mut self, status: Status) {
        let (kind, _, payload) = self.frame().await.unwrap();
        assert_eq!(kind, FrameType::AgentDisconnect);
        assert_eq!(Disconnect::parse(&payload).unwrap().status, status as u32);
        assert!(self.frame().await.is_none());
        self.served.await.unwrap();
    }
}

/// A gate that looks up unknown workspaces, and the lookups that it makes.
fn with_lookups() -> (Scene, Lookup, tokio::sync::mpsc::Receiver<crate::workspaces::WorkspaceId>) {
    let mut scene = Scene::new();
    let (lookup, lookups) = Lookup::new();
    scene.gate.lookups = vec![Some(lookup.clone())];
    (scene, lookup, lookups)
}

/// Runs a test in a thread of its own, and fails if it does not end in time: even code that loops
/// without end fails its test, and stops no other.
fn in_time<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (ended, end) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ended = ended;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    // The sender is dropped at the end of the test, or when it panics.
    assert_eq!(end.recv_timeout(TIME_LIMIT), Err(RecvTimeoutError::Disconnected), "in time");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

const STARTING: &str = "bluebird-demo-ns35kd21abc";

#[test]
fn a_handshake_agrees_on_the_smaller_frames_and_a_goodbye_is_returned() {
    in_time(async || {
        let mut haproxy = HaProxy::connect(Scene::new());
        let agreed = haproxy.hello(1024).await;
        assert_eq!(agreed, Agreed { max_frame_size: 1024, pipelining: true });
        let mut bye = Vec::new();
        client::disconnect(&mut bye, Status::Normal, "bye");
        haproxy.write(&bye).await;
        haproxy.ends_with(Status::Normal).await;
    });
}

#[test]
fn a_request_before_the_handshake_ends_the_connection() {
    in_time(async || {
        let mut haproxy = HaProxy::connect(Scene::new());
        let request = haproxy.request(1, ALICES);
        haproxy.write(&request).await;
        let (kind, ..) = haproxy.frame().await.unwrap();
        assert_eq!(kind, FrameType::AgentDisconnect);
        assert!(haproxy.frame().await.is_none());
    });
}

#[test]
fn many_requests_at_once_are_each_answered_once() {
    in_time(async || {
        let mut haproxy = HaProxy::open(Scene::new()).await;
        let all: Vec<u8> = (1..=200).flat_map(|n| haproxy.request(n, ALICES)).collect();
        // Split within a length, a header and a payload.
        for part in all.chunks(all.len() / 7 + 3) {
            haproxy.write(part).await;
        }
        for number in 1..=200 {
            assert_eq!(haproxy.reason().await, (number, "owner".to_owned()));
        }
    });
}

#[test]
fn a_frame_that_is_too_long_ends_the_connection_at_its_length() {
    in_time(async || {
        let mut haproxy = HaProxy::open(Scene::new()).await;
        let request = haproxy.request(1, ALICES);
        haproxy.write(&[&request[..], &(DEFAULT_SIZE + 1).to_be_bytes()].concat()).await;
        assert_eq!(haproxy.reason().await, (1, "owner".to_owned()), "what came before is answered");
        haproxy.ends_with(Status::TooBig).await;
    });
}

#[test]
fn a_frame_of_an_unknown_type_is_ignored() {
    in_time(async || {
        let mut haproxy = HaProxy::open(Scene::new()).await;
        let mut unknown = haproxy.request(1, ALICES);
        unknown[frame::LENGTH] = 77;
        let request = haproxy.request(2, ALICES);
        haproxy.write(&[unknown, request].concat()).await;
        assert_eq!(haproxy.reason().await, (2, "owner".to_owned()));
    });
}

#[test]
fn a_request_that_waits_holds_up_no_other_and_is_answered_after_its_wait() {
    in_time(async || {
        let (scene, lookup, mut asked) = with_lookups();
        let mut haproxy = HaProxy::open(scene).await;
        let requests = [haproxy.request(1, STARTING), haproxy.request(2, ALICES)].concat();
        haproxy.write(&requests).await;
        assert_eq!(haproxy.reason().await, (2, "owner".to_owned()));
        let id = asked.recv().await.unwrap();
        assert_eq!(id.as_str(), STARTING);
        lookup.finish(&id, MonotonicTime::now());
        assert_eq!(haproxy.reason().await, (1, "workspace_unknown".to_owned()));
    });
}

#[test]
fn a_request_that_waits_for_too_long_is_refused() {
    in_time(async || {
        let (scene, _lookup, _asked) = with_lookups();
        let mut haproxy = HaProxy::open(scene).await;
        let request = haproxy.request(1, STARTING);
        haproxy.write(&request).await;
        assert_eq!(haproxy.reason().await, (1, "deadline".to_owned()));
    });
}

#[test]
fn more_requests_than_may_wait_are_refused_at_once() {
    in_time(async || {
        let (scene, lookup, mut asked) = with_lookups();
        let mut haproxy = HaProxy::with(scene, 1 << 20, 1);
        haproxy.hello(DEFAULT_SIZE).await;
        let requests = [haproxy.request(1, STARTING), haproxy.request(2, STARTING)].concat();
        haproxy.write(&requests).await;
        assert_eq!(haproxy.reason().await, (2, "overloaded".to_owned()));
        lookup.finish(&asked.recv().await.unwrap(), MonotonicTime::now());
        assert_eq!(haproxy.reason().await, (1, "workspace_unknown".to_owned()));
    });
}

#[test]
fn at_the_end_of_the_agent_what_was_asked_is_answered_and_haproxy_is_told() {
    in_time(async || {
        let (scene, lookup, mut asked) = with_lookups();
        let mut haproxy = HaProxy::open(scene).await;
        let request = haproxy.request(1, STARTING);
        haproxy.write(&request).await;
        let id = asked.recv().await.unwrap();
        let request = haproxy.request(2, ALICES);
        haproxy.write(&request).await;
        haproxy.stop.cancel();
        lookup.finish(&id, MonotonicTime::now());
        let mut answered = [haproxy.reason().await, haproxy.reason().await];
        answered.sort();
        assert_eq!(answered, [(1, "workspace_unknown".to_owned()), (2, "owner".to_owned())]);
        haproxy.ends_with(Status::Normal).await;
    });
}

#[test]
fn an_allow_that_cannot_be_recorded_is_a_refusal() {
    in_time(async || {
        let mut haproxy = HaProxy::with(Scene::new(), 1, 8);
        haproxy.hello(DEFAULT_SIZE).await;
        let request = haproxy.request(1, ALICES);
        haproxy.write(&request).await;
        assert_eq!(haproxy.reason().await, (1, "audit_unavailable".to_owned()));
    });
}
