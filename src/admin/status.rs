//! The status of the running agent as one value, for `identity-spoa status`.
//!
//! It puts together what the parts of the agent know of themselves. Counters are totals since the start: a client that wants
//! rates reads the status twice and divides by the difference of `uptime_ms`. The status names issuers, sources and sockets. It
//! names no user, workspace or host, and holds no secret.

use std::sync::{Arc, LazyLock};

use axum::{Json, extract::State};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{AdminState, SourceView, metrics::Check};
use crate::{
    gate::Gate,
    metrics::Metrics,
    time::{MonotonicTime, Timestamp},
};

static RUN: LazyLock<String> = LazyLock::new(|| {
    let mut bytes = [0; 8];
    // Without random numbers every run has the same id, and a rate may be wrong once after a restart.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    HEXLOWER.encode(&bytes)
});

/// The status of the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// The version of the program.
    pub version: String,
    /// A random id of this run of the agent. Counters of another run cannot be compared.
    pub run: String,
    /// The time of the status, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Milliseconds since the agent started, by the monotonic clock.
    pub uptime_ms: u64,
    /// The fingerprint of the configuration in force.
    pub config: Option<String>,
    /// The fingerprint of the policies in force.
    pub policy: Option<String>,
    /// Whether any request can be allowed, as `/readyz` reports.
    pub ready: bool,
    /// The parts that do not work, with what is wrong.
    pub problems: Vec<Check>,
    /// Open connections from HAProxy.
    pub connections: i64,
    /// Authorization requests that wait for a key, a token or a workspace.
    pub pending: i64,
    /// Decisions since the start, for each reason that occurred.
    pub decisions: Vec<ReasonCount>,
    /// How long decisions took.
    pub latency: LatencyView,
    /// The issuers, in the order of the configuration.
    pub issuers: Vec<IssuerView>,
    /// The sources of workspaces, in the order of the configuration.
    pub sources: Vec<SourceView>,
    /// Browser sessions, if people sign in with a browser.
    pub sessions: Option<SessionsStatus>,
    /// Live tunnels and the runtime API of HAProxy, if tunnels are tracked.
    pub tunnels: Option<TunnelsStatus>,
    /// The verdict cache, if HAProxy may reuse decisions.
    pub reuse: Option<ReuseStatus>,
    /// Revocations in force.
    pub revocations: usize,
    /// The audit log.
    pub audit: AuditView,
}

/// Decisions with one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The verdict of the reason.
    pub verdict: String,
    /// The id of the reason.
    pub reason: String,
    /// How many decisions had it.
    pub count: u64,
}

/// The latency of decisions: a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyView {
    /// The sum of all latencies, in microseconds.
    pub total_us: u64,
    /// The buckets, from the fastest to the slowest.
    pub buckets: Vec<LatencyBucket>,
}

/// Decisions in one range of latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyBucket {
    /// The upper bound in microseconds; `None` in the last bucket.
    pub up_to_us: Option<u64>,
    /// How many decisions took longer than the bound before, and at most this long.
    pub count: u64,
}

/// An issuer and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerView {
    /// The configured name.
    pub name: String,
    /// How many keys can verify tokens.
    pub keys: usize,
    /// Whether the keys are fresh enough to be used.
    pub usable: bool,
    /// Seconds since the keys were last fetched.
    pub age_seconds: Option<u64>,
    /// How many attempts to fetch keys succeeded.
    pub fetches: u64,
    /// How many attempts to fetch keys failed.
    pub failures: u64,
}

/// Browser sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsStatus {
    /// Sessions that are valid now.
    pub sessions: usize,
    /// Session cookies that this agent knows.
    pub cookies: usize,
    /// Seconds since the store that agents share last answered. `None` if there is no such store.
    pub store_silent_seconds: Option<u64>,
}

/// Live tunnels, and the sockets over which they are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelsStatus {
    /// Live tunnels.
    pub open: usize,
    /// Tunnels that must be closed and are still open.
    pub terminating: usize,
    /// Tunnels that were not found in HAProxy yet.
    pub not_found: usize,
    /// The sockets of the runtime API, in the order of the configuration: the error of each that does not answer.
    pub sockets: Vec<SocketView>,
}

/// A socket of HAProxy's runtime API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketView {
    /// Whether HAProxy answers there.
    pub up: bool,
    /// Why it does not.
    pub error: Option<String>,
}

/// The reuse of decisions by HAProxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReuseStatus {
    /// Whether allows are offered for reuse at the moment.
    pub on: bool,
    /// Allows that were offered.
    pub offered: u64,
    /// Requests that passed by a reused allow.
    pub reused: u64,
}

/// The audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// Whether writing fails.
    pub broken: bool,
    /// Bytes of records that wait to be written.
    pub waiting_bytes: usize,
    /// Bytes of records that may wait.
    pub capacity_bytes: usize,
    /// Records written since the start.
    pub written: u64,
    /// Records lost since the start.
    pub lost: u64,
}

pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Json<StatusView> {
    Json(state.status(Timestamp::now()))
}

impl AdminState {
    fn status(&self, now: Timestamp) -> StatusView {
        let gate = self.live.load();
        let readiness = self.readiness(now);
        let audit = self.audit_log.status();
        StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            run: RUN.clone(),
            time_ms: now.as_millis(),
            uptime_ms: uptime_ms(),
            config: gate.versions.config.map(|version| version.to_string()),
            policy: gate.versions.policy.map(|version| version.to_string()),
            ready: readiness.ready,
            problems: readiness.checks.into_iter().filter(|check| !check.ok).collect(),
            connections: gate.metrics.connections.get(),
            pending: gate.metrics.pending.get(),
            decisions: decisions(&gate.metrics),
            latency: latency(&gate.metrics),
            issuers: issuers(&gate, now),
            sources: self.source_views(),
            sessions: gate.browser.as_ref().map(|browser| SessionsStatus {
                sessions: browser.sessions.active(now).len(),
                cookies: browser.sessions.len(),
                store_silent_seconds: browser.redis.as_ref().map(|store| store.silent().as_secs()),
            }),
            tunnels: self.tunnels.as_ref().map(|tunnels| {
                let summary = tunnels.summary();
                let socket = |error: Option<String>| SocketView { up: error.is_none(), error };
                TunnelsStatus {
                    open: summary.open,
                    terminating: summary.terminating,
                    not_found: summary.not_found,
                    sockets: summary.sockets.into_iter().map(socket).collect(),
                }
            }),
            reuse: self.verdict_cache.as_ref().map(|cache| {
                let status = cache.status();
                ReuseStatus { on: status.on, offered: status.offered, reused: status.reused }
            }),
            revocations: self.revocations.len(),
            audit: AuditView {
                broken: audit.broken,
                waiting_bytes: audit.waiting,
                capacity_bytes: audit.capacity,
                written: audit.written,
                lost: audit.lost,
            },
        }
    }
}

fn uptime_ms() -> u64 {
    let uptime = MonotonicTime::now().since(MonotonicTime::default());
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}

/// The reasons that occurred. There are more than seventy, and most of them never occur.
fn decisions(metrics: &Metrics) -> Vec<ReasonCount> {
    let occurred = metrics.by_reason().filter(|(_, count)| *count > 0);
    occurred
        .map(|(reason, count)| ReasonCount {
            verdict: reason.verdict().id().into(),
            reason: reason.id().into(),
            count,
        })
        .collect()
}

fn latency(metrics: &Metrics) -> LatencyView {
    let (total_us, buckets) = metrics.latency();
    let buckets = buckets.map(|(up_to_us, count)| LatencyBucket { up_to_us, count });
    LatencyView { total_us, buckets: buckets.collect() }
}

fn issuers(gate: &Gate, now: Timestamp) -> Vec<IssuerView> {
    let view = |provider: &Arc<crate::identity::provider::Provider>| {
        let keys = provider.latest();
        let (fetches, failures) = provider.fetches();
        IssuerView {
            name: provider.profile().authority.name.to_string(),
            keys: keys.as_ref().map_or(0, |keys| keys.set.len()),
            usable: provider.keys(now).is_some(),
            age_seconds: keys.map(|keys| now.since(keys.confirmed).as_secs()),
            fetches,
            failures,
        }
    };
    gate.issuers.providers().iter().map(view).collect()
}
