//! Spans on their way to the collector: a bounded queue, and one task that empties it in batches.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use reqwest::redirect::Policy;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{DecisionSpan, Settings, context};

/// The most spans that wait; further ones are dropped.
const QUEUE: usize = 4096;
/// The most spans in one request to the collector.
const BATCH: usize = 512;
/// How long spans wait for company.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest unique id that is kept, in bytes, as in the audit log.
const MAX_UNIQUE_ID: usize = 128;

/// Why no traces can be sent.
#[derive(Debug, Error)]
pub enum StartError {
    /// No HTTP client could be made.
    #[error("the HTTP client of [traces]: {0}")]
    Client(#[from] reqwest::Error),
    /// The exporter refuses its settings.
    #[error("[traces]: {0}")]
    Exporter(String),
}

/// Where spans are handed over.
struct Sender {
    queue: mpsc::Sender<SpanData>,
    one_in: u64,
    user: bool,
    /// Whose turn it is cannot be foreseen by those who choose trace ids.
    keys: RandomState,
    /// Spans that found the queue full.
    dropped: AtomicU64,
    scope: InstrumentationScope,
}

static SENDER: OnceLock<Sender> = OnceLock::new();

/// Begins to send spans, until it is stopped: then what waits is sent once more. The second call in a
/// process changes nothing.
///
/// # Errors
/// See [`StartError`].
pub fn start(
    settings: &Settings,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, StartError> {
    let client = reqwest::Client::builder()
        .redirect(Policy::none())
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT)
        .user_agent(concat!("identity-spoa/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Http(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(settings.endpoint.as_str())
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|error| StartError::Exporter(error.to_string()))?;
    exporter.set_resource(&Resource::builder().with_service_name("identity-spoa").build());
    let (queue, spans) = mpsc::channel(QUEUE);
    let sender = Sender {
        queue,
        one_in: settings.one_in.max(1),
        user: settings.user,
        keys: RandomState::new(),
        dropped: AtomicU64::new(0),
        scope: InstrumentationScope::builder("identity-spoa")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    };
    let _ = SENDER.set(sender);
    Ok(send(exporter, spans, stop))
}

/// Empties the queue.
async fn send(
    exporter: SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    let mut ending = false;
    while !ending {
        tokio::select! {
            () = stop.cancelled() => ending = true,
            () = tokio::time::sleep(GATHER) => {}
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
            if batch.len() == BATCH {
                export(&exporter, std::mem::take(&mut batch)).await;
            }
        }
        if !batch.is_empty() {
            export(&exporter, std::mem::take(&mut batch)).await;
        }
        let dropped = SENDER.get().map_or(0, |sender| sender.dropped.swap(0, Ordering::Relaxed));
        if dropped > 0 {
            warn!(
                dropped,
                "spans were dropped: the queue of [traces] is full; raise 'one_in' to send fewer"
            );
        }
    }
}

/// Sends a batch; one that the collector does not take is gone.
async fn export(exporter: &SpanExporter, batch: Vec<SpanData>) {
    let spans = batch.len();
    match tokio::time::timeout(2 * TIMEOUT, exporter.export(batch)).await {
        Ok(Ok(())) => debug!(spans, "spans sent"),
        Ok(Err(error)) => {
            warn!(spans, %error, "sending spans failed: the collector of [traces] refuses them or cannot be reached");
        }
        Err(_) => {
            warn!(spans, "sending spans failed: the collector of [traces] does not answer in time");
        }
    }
}

pub(super) fn decided(decision: &DecisionSpan<'_>) {
    let Some(sender) = SENDER.get() else { return };
    let context = context::of(decision.traceparent, decision.unique_id);
    let trace = context.map_or_else(|| TraceId::from(random()), |context| context.trace);
    if !sender.is_turn(trace) {
        return;
    }
    // A full queue costs nothing but this look.
    let Ok(place) = sender.queue.try_reserve() else {
        sender.dropped.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let mut attributes = vec![
        KeyValue::new("identity.decision_id", decision.id.to_owned()),
        KeyValue::new("identity.verdict", decision.verdict),
        KeyValue::new("identity.reason", decision.reason),
        KeyValue::new("identity.cache_hit", decision.cached),
    ];
    if let Some(unique_id) = decision.unique_id {
        let kept = unique_id.get(..MAX_UNIQUE_ID).unwrap_or(unique_id);
        // Of foreign making: nothing but printable ASCII arrives.
        attributes.push(KeyValue::new("haproxy.unique_id", kept.escape_ascii().to_string()));
    }
    if let Some(workspace) = decision.workspace {
        attributes.push(KeyValue::new("identity.workspace", workspace.to_owned()));
    }
    if let Some(user) = decision.user.filter(|_| sender.user) {
        attributes.push(KeyValue::new("enduser.id", user.to_owned()));
    }
    let status = if decision.failed { Status::error(decision.reason) } else { Status::Unset };
    let parent = context.map_or(SpanId::INVALID, |context| context.parent);
    place.send(sender.span(
        "authorize",
        SpanKind::Server,
        (trace, parent),
        decision.took,
        attributes,
        status,
    ));
}

pub(super) fn asked(what: &'static str, issuer: &str, took: Duration, error: Option<&str>) {
    let Some(sender) = SENDER.get() else { return };
    let Ok(place) = sender.queue.try_reserve() else {
        sender.dropped.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let attributes = vec![KeyValue::new("identity.issuer", issuer.to_owned())];
    let status = error.map_or(Status::Unset, |error| Status::error(error.to_owned()));
    let trace = TraceId::from(random());
    let context = (trace, SpanId::INVALID);
    place.send(sender.span(what, SpanKind::Client, context, took, attributes, status));
}

impl Sender {
    /// Whether a trace is one of those that are recorded. All agents' spans of one request may differ in this.
    fn is_turn(&self, trace: TraceId) -> bool {
        self.keys.hash_one(trace.to_bytes()).is_multiple_of(self.one_in)
    }

    fn span(
        &self,
        name: &'static str,
        span_kind: SpanKind,
        (trace, parent): (TraceId, SpanId),
        took: Duration,
        attributes: Vec<KeyValue>,
        status: Status,
    ) -> SpanData {
        let end_time = SystemTime::now();
        let [high, low] = [random() >> 64, random()]
            .map(|bits| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(1));
        let span = SpanId::from((high ^ low).max(1));
        let state = TraceState::default();
        SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state),
            parent_span_id: parent,
            parent_span_is_remote: parent != SpanId::INVALID,
            span_kind,
            name: Cow::Borrowed(name),
            start_time: end_time.checked_sub(took).unwrap_or(end_time),
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// A number for an id; never zero, which is none.
fn random() -> u128 {
    let mut bytes = [0; 16];
    // Without random numbers all such spans are of one trace.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u128::from_be_bytes(bytes).max(1)
}

/// Our HTTP client, for the exporter.
#[derive(Debug)]
struct Http(reqwest::Client);

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let sent = self.0.request(parts.method, url).headers(parts.headers).body(body);
        let reply = sent.send().await?;
        // What a collector says beside its status is not read: it could be of any size.
        let mut answer = http::Response::new(Bytes::new());
        *answer.status_mut() = reply.status();
        Ok(answer)
    }
}
