//! `/metrics`, `/livez` and `/readyz`, on the admin socket and, if configured, on a listener of their own.
//!
//! Nothing can be changed here, so the listener needs no credential. The values are read from the parts of the agent when a
//! client asks: only the counters of requests are kept, in [`crate::metrics`].

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

use super::{AdminState, workspaces::SourceView};
use crate::{
    gate::Gate,
    metrics::{self, Exposition, Metric},
    time::Timestamp,
    tunnels,
    workspaces::reconcile::status::SourceHealth,
};

/// Whether the agent can allow requests, and what keeps it from that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether any request can be allowed: one issuer has keys, one source has delivered a complete list, and the audit log
    /// can be written.
    pub ready: bool,
    /// The parts of the agent, each with what is wrong with it.
    pub checks: Vec<Check>,
}

/// One part of the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// The kind of part: `issuer`, `source` or `audit`.
    pub part: String,
    /// The name of the part.
    pub name: String,
    /// Whether the part works.
    pub ok: bool,
    /// The state in words: what is wrong, or how old its data is.
    pub reason: String,
}

type ValueOf = fn(&SourceView) -> Option<u64>;

/// The metrics of a source, and where their values come from.
const SOURCE_METRICS: [(Metric, ValueOf); 11] = [
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

/// The paths that change nothing.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
}

/// Serves the paths that change nothing, until `stop`.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, stop: CancellationToken) {
    let serving = axum::serve(listener, routes().with_state(state))
        .with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = serving.await {
        error!(%error, "the listener for metrics and health stopped: restart the agent");
    }
}

/// Binds the listener of [`serve`]. Must be called within the Tokio runtime.
///
/// # Errors
/// The address is in use, or the agent may not bind it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn metrics(State(state): State<Arc<AdminState>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&state))
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let readiness = state.readiness(Timestamp::now());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

impl AdminState {
    /// Whether the agent can allow requests, and the state of each part.
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
                    "no keys that are fresh enough: the log says why they cannot be fetched".into()
                }
            };
            checks.push(Check { part: "issuer".into(), name, ok: keys.is_some(), reason });
        }
        for source in self.source_views() {
            let ok = matches!(source.status.health, SourceHealth::Live | SourceHealth::Degraded);
            let mut reason = match source.status.health {
                SourceHealth::Live => "live".to_owned(),
                SourceHealth::Degraded => "complete lists arrive, but no events".to_owned(),
                SourceHealth::Starting => "no complete list yet".to_owned(),
                SourceHealth::Stale => "no answer for too long".to_owned(),
            };
            if let Some(error) = &source.status.last_error {
                let _ = write!(reason, ": {error}");
            }
            checks.push(Check { part: "source".into(), name: source.name, ok, reason });
        }
        let audit = self.audit_log.status();
        let reason = if audit.broken {
            "writing fails: the log of the agent says why".to_owned()
        } else {
            format!("{} records written, {} lost", audit.written, audit.lost)
        };
        let name = "log".to_owned();
        checks.push(Check { part: "audit".into(), name, ok: !audit.broken, reason });
        // One working part of a kind is enough: an agent that serves some users is better than none.
        let works = |part: &str| {
            let mut of_part = checks.iter().filter(|check| check.part == part).peekable();
            of_part.peek().is_none() || of_part.any(|check| check.ok)
        };
        Readiness { ready: ["issuer", "source", "audit"].into_iter().all(works), checks }
    }
}

/// Writes all metrics of the agent.
#[must_use]
pub(super) fn render(state: &AdminState) -> String {
    let now = Timestamp::now();
    let mut to = Exposition::default();
    to.family(&metrics::BUILD);
    to.sample(&metrics::BUILD, &[env!("CARGO_PKG_VERSION")], 1);
    to.single(&metrics::READY, u8::from(state.readiness(now).ready));
    let gate = state.live.gate();
    gate.metrics.expose(&mut to);
    key_sets(&gate, now, &mut to);
    let sources = state.source_views();
    for (metric, value) in SOURCE_METRICS {
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
    let cache = state.verdict_cache.as_ref().map(|cache| cache.status()).unwrap_or_default();
    to.single(&metrics::VERDICT_CACHE_ON, u8::from(cache.on));
    to.single(&metrics::VERDICT_CACHE_OFFERED, cache.offered);
    to.single(&metrics::VERDICT_CACHE_REUSED, cache.reused);
    to.single(&metrics::VERDICT_CACHE_INVALIDATED, cache.invalidated);
    to.single(&metrics::REVOCATIONS, state.revocations.len());
    let audit = state.audit_log.status();
    to.single(&metrics::AUDIT_WAITING, audit.waiting);
    to.single(&metrics::AUDIT_CAPACITY, audit.capacity);
    to.single(&metrics::AUDIT_RECORDS, audit.written);
    to.single(&metrics::AUDIT_LOST, audit.lost);
    to.single(&metrics::AUDIT_BROKEN, u8::from(audit.broken));
    let mut text = to.into_text();
    if let Some(tunnels) = &state.tunnels {
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
