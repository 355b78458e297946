//! Sends spans to the collector: a bounded queue, and one task that sends it in batches.
//!
//! The request path only samples, builds a span and tries to queue it. If the queue is full, the span is dropped and counted;
//! the task logs how many. A batch that the collector does not take is lost and logged.

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

use super::{DecisionSpan, TraceSettings, context};

/// The most spans that wait. Further ones are dropped.
const MAX_QUEUED: usize = 4096;
/// The most spans in one request to the collector.
const MAX_BATCH: usize = 512;
/// How often the queue is sent.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// How long connecting to the collector, or one request to it, may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest unique id in a span, in bytes; the same as in the audit log.
const MAX_UNIQUE_ID: usize = 128;

/// Why spans cannot be sent.
#[derive(Debug, Error)]
pub enum TracesStartError {
    /// The HTTP client could not be created.
    #[error("the HTTP client of [traces]: {0}")]
    Client(#[from] reqwest::Error),
    /// The exporter refused its settings.
    #[error("[traces]: {0}")]
    Exporter(String),
}

/// The part of the sender that the request path uses.
struct Sender {
    queue: mpsc::Sender<SpanData>,
    sample_ratio: f64,
    user: bool,
    /// Random keys, so that a client that chooses trace ids cannot foresee which ones are sampled.
    keys: RandomState,
    /// Spans that found the queue full.
    dropped: AtomicU64,
    scope: InstrumentationScope,
}

static SENDER: OnceLock<Sender> = OnceLock::new();

/// Starts to send spans until `stop`, when the queue is sent a last time. A second call in a process has no effect.
///
/// # Errors
/// See [`TracesStartError`].
pub fn start(
    settings: &TraceSettings,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, TracesStartError> {
    let client = crate::outbound::HttpClient::build(|| {
        reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(EXPORT_TIMEOUT)
            .timeout(EXPORT_TIMEOUT)
            .user_agent(concat!("identity-spoa/", env!("CARGO_PKG_VERSION")))
    })?;
    let client = client.of(&settings.endpoint).clone();
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Http(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(settings.endpoint.as_str())
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TracesStartError::Exporter(error.to_string()))?;
    exporter.set_resource(&Resource::builder().with_service_name("identity-spoa").build());
    let (queue, spans) = mpsc::channel(MAX_QUEUED);
    let sender = Sender {
        queue,
        sample_ratio: settings.sample_ratio,
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

/// Sends what is queued once a second.
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
            () = tokio::time::sleep(SEND_INTERVAL) => {}
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
            if batch.len() == MAX_BATCH {
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
                "spans were dropped: the queue of [traces] is full; lower 'sample_ratio' to send fewer"
            );
        }
    }
}

/// Sends a batch. A batch that the collector does not take is lost.
async fn export(exporter: &SpanExporter, batch: Vec<SpanData>) {
    let spans = batch.len();
    match tokio::time::timeout(2 * EXPORT_TIMEOUT, exporter.export(batch)).await {
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
    let context = context::of_request(decision.traceparent, decision.unique_id);
    let trace = context.map_or_else(|| TraceId::from(random()), |context| context.trace);
    if !sender.is_sampled(trace) {
        return;
    }
    // The slot is reserved first: a full queue then costs no work.
    let Ok(slot) = sender.queue.try_reserve() else {
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
        // HAProxy may take it from the client, so only printable ASCII is sent.
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
    slot.send(sender.span(
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
    let Ok(slot) = sender.queue.try_reserve() else {
        sender.dropped.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let attributes = vec![KeyValue::new("identity.issuer", issuer.to_owned())];
    let status = error.map_or(Status::Unset, |error| Status::error(error.to_owned()));
    let trace = TraceId::from(random());
    let context = (trace, SpanId::INVALID);
    slot.send(sender.span(what, SpanKind::Client, context, took, attributes, status));
}

/// 2 to the power of 32, to compare 32 bits of a hash with a share.
const TWO_TO_32: f64 = 4_294_967_296.0;

impl Sender {
    /// Whether spans of this trace are recorded. Agents sample independently of each other.
    fn is_sampled(&self, trace: TraceId) -> bool {
        let hash = self.keys.hash_one(trace.to_bytes());
        let high = u32::try_from(hash >> 32).unwrap_or(u32::MAX);
        f64::from(high) < self.sample_ratio * TWO_TO_32
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

/// A random number for an id. Zero would mean that there is no id.
fn random() -> u128 {
    let mut bytes = [0; 16];
    // Without random numbers these spans share one trace, which does no harm.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u128::from_be_bytes(bytes).max(1)
}

/// The HTTP client of the exporter.
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
        // The body of the reply is not read: it could be of any size, and nothing uses it.
        let mut answer = http::Response::new(Bytes::new());
        *answer.status_mut() = reply.status();
        Ok(answer)
    }
}
