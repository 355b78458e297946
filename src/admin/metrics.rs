//! What a Prometheus server and a supervisor read: `/metrics`, `/livez` and `/readyz`, on the
//! administrator's socket and, where configured, on a listener of their own. Nothing can be changed here.

use std::{fmt::Write as _, io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Shared, workspaces::SourceView};
use crate::{
    gate::Gate,
    metrics::{self, Exposition, Metric},
    time::Timestamp,
    tunnels,
    workspaces::reconcile::status::SourceHealth,
};

/// Whether the agent can do its work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether requests can be allowed at all: one issuer has keys, one source has said all it knows, and
    /// the audit log can be written.
    pub ready: bool,
    /// Each part, with what is wrong with it.
    pub checks: Vec<Check>,
}

/// One part of the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// `issuer`, `source` or `audit`.
    pub part: String,
    /// Which one.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// What is wrong, or how it is doing.
    pub reason: String,
}

type ValueOf = fn(&SourceView) -> Option<u64>;

/// The metrics of a source.
const OF_SOURCES: [(Metric, ValueOf); 11] = [
    (metrics::SOURCE_WORKSPACES, |s| count(s.workspaces)),
    (metrics::SOURCE_ROUTABLE, |s| count(s.routable)),
    (metrics::SOURCE_CONTESTED, |s| count(s.contested)),
    (metrics::SOURCE_DOUBTFUL, |s| count(s.doubtful)),
    (metrics::SOURCE_PENDING, |s| count(s.status.pending)),
    (metrics::SOURCE_AGE, |s| s.age_seconds),
    (metrics::SOURCE_LIVE, |s| Some(u64::from(s.status.health == SourceHealth::Live))),
    (metrics::SOURCE_UNAUTHORIZED, |s| Some(u64::from(s.status.unauthorized))),
    (metrics::SOURCE_LISTS, |s| Some(s.status.lists)),
    (metrics::SOURCE_EVENTS, |s| Some(s.status.events)),
    (metrics::SOURCE_FAILURES, |s| Some(s.status.failures)),
];

fn count(number: usize) -> Option<u64> {
    u64::try_from(number).ok()
}

/// The paths that only tell.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
}

/// Serves the paths that only tell until stopped.
pub async fn serve(listener: TcpListener, subject: Arc<Shared>, stop: CancellationToken) {
    let serving = axum::serve(listener, routes().with_state(subject))
        .with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = serving.await {
        error!(%error, "the listener for metrics and health stopped: restart the agent");
    }
}

/// Binds the listener of [`serve`]. Must be called within the runtime.
///
/// # Errors
/// The address is taken, or not permitted.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&shared))
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = shared.readiness(Timestamp::now());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

impl Shared {
    /// Whether the agent can do its work, and what is wrong where it cannot.
    #[must_use]
    pub fn readiness(&self, now: Timestamp) -> Readiness {
        let mut checks = Vec::new();
        let gate = self.live.gate();
        for provider in gate.issuers.providers() {
            let name = provider.profile().authority.name.to_string();
            let keys = provider.keys(now);
            let reason = match &keys {
                Some(keys) => format!(
                    "{} keys, confirmed {} s ago",
                    keys.set.len(),
                    now.since(keys.confirmed).as_secs()
                ),
                None => {
                    "no keys that may be used: see the log for why they cannot be fetched".into()
                }
            };
            checks.push(Check { part: "issuer".into(), name, ok: keys.is_some(), reason });
        }
        for source in self.source_views() {
            let ok = matches!(source.status.health, SourceHealth::Live | SourceHealth::Degraded);
            let mut reason = match source.status.health {
                SourceHealth::Live => "live".to_owned(),
                SourceHealth::Degraded => "lists come, but no events".to_owned(),
                SourceHealth::Starting => "has not said all it knows yet".to_owned(),
                SourceHealth::Stale => "has been silent for too long".to_owned(),
            };
            if let Some(error) = &source.status.last_error {
                let _ = write!(reason, ": {error}");
            }
            checks.push(Check { part: "source".into(), name: source.name, ok, reason });
        }
        let audit = self.audit_log.status();
        let reason = if audit.broken {
            "cannot be written: see the log".to_owned()
        } else {
            format!("{} records written, {} lost", audit.written, audit.lost)
        };
        let name = "log".to_owned();
        checks.push(Check { part: "audit".into(), name, ok: !audit.broken, reason });
        // One that works is enough: an agent that serves some people is better than none.
        let works = |part: &str| {
            let mut of_part = checks.iter().filter(|check| check.part == part).peekable();
            of_part.peek().is_none() || of_part.any(|check| check.ok)
        };
        Readiness { ready: ["issuer", "source", "audit"].into_iter().all(works), checks }
    }
}

/// All metrics of the agent.
#[must_use]
pub(super) fn render(shared: &Shared) -> String {
    let now = Timestamp::now();
    let mut to = Exposition::default();
    to.family(&metrics::BUILD);
    to.sample(&metrics::BUILD, &[env!("CARGO_PKG_VERSION")], 1);
    to.single(&metrics::READY, u8::from(shared.readiness(now).ready));
    let gate = shared.live.gate();
    gate.metrics.expose(&mut to);
    key_sets(&gate, now, &mut to);
    let sources = shared.source_views();
    for (metric, value) in OF_SOURCES {
        to.family(&metric);
        for source in &sources {
            if let Some(value) = value(source) {
                to.sample(&metric, &[&source.name], value);
            }
        }
    }
    if let Some(sign_in) = &gate.browser {
        to.single(&metrics::SESSION_COOKIES, sign_in.sessions.len());
        if let Some(redis) = &sign_in.redis {
            to.single(&metrics::REDIS_SILENT, redis.silent().as_secs());
        }
    }
    let reuse = shared.edge.as_ref().map(|edge| edge.status()).unwrap_or_default();
    to.single(&metrics::REUSE_ON, u8::from(reuse.on));
    to.single(&metrics::REUSE_GIVEN, reuse.given);
    to.single(&metrics::REUSE_REUSED, reuse.reused);
    to.single(&metrics::REUSE_ENDED, reuse.ended);
    to.single(&metrics::REVOCATIONS, shared.revocations.len());
    let audit = shared.audit_log.status();
    to.single(&metrics::AUDIT_WAITING, audit.waiting);
    to.single(&metrics::AUDIT_CAPACITY, audit.capacity);
    to.single(&metrics::AUDIT_RECORDS, audit.written);
    to.single(&metrics::AUDIT_LOST, audit.lost);
    to.single(&metrics::AUDIT_BROKEN, u8::from(audit.broken));
    let mut text = to.into_text();
    if let Some(tunnels) = &shared.tunnels {
        tunnels::metrics::render(tunnels, &mut text);
    }
    text
}

fn key_sets(gate: &Gate, now: Timestamp, to: &mut Exposition) {
    let providers = gate.issuers.providers();
    let all: Vec<_> = providers
        .iter()
        .map(|provider| (&*provider.profile().authority.name, provider.latest(), provider))
        .collect();
    to.family(&metrics::KEY_SET_AGE);
    for (name, keys, _) in &all {
        if let Some(keys) = keys {
            let age = now.since(keys.confirmed).as_secs();
            to.sample(&metrics::KEY_SET_AGE, &[name], age);
        }
    }
    to.family(&metrics::KEY_SET_USABLE);
    for (name, _, provider) in &all {
        let usable = provider.keys(now).is_some();
        to.sample(&metrics::KEY_SET_USABLE, &[name], u8::from(usable));
    }
    to.family(&metrics::KEY_SET_KEYS);
    for (name, keys, _) in &all {
        let keys = keys.as_ref().map_or(0, |keys| keys.set.len());
        to.sample(&metrics::KEY_SET_KEYS, &[name], keys);
    }
    to.family(&metrics::KEY_SET_CHANGES);
    for (name, keys, _) in &all {
        let number = keys.as_ref().map_or(0, |keys| keys.number);
        to.sample(&metrics::KEY_SET_CHANGES, &[name], number);
    }
    to.family(&metrics::KEY_FETCHES);
    for (name, _, provider) in &all {
        let (good, failed) = provider.fetches();
        to.sample(&metrics::KEY_FETCHES, &[name, "ok"], good);
        to.sample(&metrics::KEY_FETCHES, &[name, "failed"], failed);
    }
}
