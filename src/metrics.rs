//! The metrics: one list of names and help texts, the counters of the request path, and the text format of Prometheus.
//!
//! Requests add to plain atomics in [`Metrics`], which costs no lock and no allocation. What a part of the agent can tell when it
//! is asked (such as the workspaces of a source) is not counted here: `admin::metrics` reads it when `/metrics` is scraped.
//! [`Exposition`] writes the text format (version 0.0.4).
//!
//! Labels take few values: issuers, sources, reasons. No label ever holds a user, a workspace or a host.
//! `docs/decisions/0017-libraries.md` says why this is not `prometheus-client`.

use std::{
    fmt::{Display, Write as _},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    audit::AuditEvent,
    authz::reason::{Reason, Verdict},
    identity::{
        TokenError,
        evidence::{CredentialKind, Evidence},
    },
};

/// The description of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, with the prefix `identity_spoa_`.
    pub name: &'static str,
    /// The type: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The help text.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

const fn metric(
    kind: &'static str,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { name, kind, help, labels }
}

macro_rules! metrics {
    ($($constant:ident = $kind:literal $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                metric($kind, concat!("identity_spoa_", $name), $help, &[$($label),*]);
        )*
        /// All metrics.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD = "gauge" "build_info" ["version"] "Always 1. The label has the version of the agent";
    READY = "gauge" "ready" [] "Whether the agent is ready, as /readyz reports";
    DECISIONS = "counter" "decisions_total" ["verdict", "reason"] "Decisions, by verdict and reason";
    LATENCY = "histogram" "decision_seconds" [] "Time from reading an authorization request to its response";
    TOKENS = "counter" "tokens_total" ["cache"] "Valid bearer tokens, by whether the cache had their verification";
    SHADOW = "counter" "policy_shadow_total" ["result"] "Decisions that shadow policies evaluated, by the difference they would make";
    CONNECTIONS = "gauge" "connections" [] "Open connections from HAProxy";
    PENDING = "gauge" "authorization_requests_pending" [] "Authorization requests that wait for a key, a token, a session or a workspace";
    KEY_SET_AGE = "gauge" "key_set_age_seconds" ["issuer"] "Time since the keys of an issuer were last fetched";
    KEY_SET_USABLE = "gauge" "key_set_usable" ["issuer"] "Whether the keys of an issuer are fresh enough to be used";
    KEY_SET_KEYS = "gauge" "key_set_keys" ["issuer"] "Keys of an issuer that can verify tokens";
    KEY_SET_CHANGES = "counter" "key_set_changes_total" ["issuer"] "Changes of the keys of an issuer";
    KEY_FETCHES = "counter" "key_fetches_total" ["issuer", "result"] "Attempts to fetch the keys of an issuer";
    SOURCE_WORKSPACES = "gauge" "source_workspaces" ["source"] "Workspaces of a source";
    SOURCE_ROUTABLE = "gauge" "source_routable" ["source"] "Workspaces of a source that run and can be reached";
    SOURCE_CONTESTED = "gauge" "source_contested" ["source"] "Workspaces that are refused because another one claims the same address";
    SOURCE_DOUBTFUL = "gauge" "source_doubtful" ["source"] "Workspaces whose last change could not be read";
    SOURCE_PENDING = "gauge" "source_pending" ["source"] "Changes of workspaces that are being read";
    SOURCE_AGE = "gauge" "source_age_seconds" ["source"] "Time since the last complete list of a source";
    SOURCE_LIVE = "gauge" "source_live" ["source"] "Whether a source delivers lists and events";
    SOURCE_UNAUTHORIZED = "gauge" "source_unauthorized" ["source"] "Whether the platform refuses the credential of a source";
    SOURCE_LISTS = "counter" "source_lists_total" ["source"] "Complete lists received from a source";
    SOURCE_EVENTS = "counter" "source_events_total" ["source"] "Events received from a source";
    SOURCE_FAILURES = "counter" "source_failures_total" ["source"] "Failed requests to the platform of a source";
    SESSION_EVENTS = "counter" "session_events_total" ["event"] "Events of browser sessions, such as sign-in and sign-out";
    SESSION_COOKIES = "gauge" "session_cookies" [] "Session cookies that this agent knows";
    REDIS_SILENT = "gauge" "redis_silent_seconds" [] "Time since the Redis of [redis] last answered";
    HAPROXY_UP = "gauge" "haproxy_up" ["socket"] "Whether the runtime API of HAProxy answers at a socket";
    TUNNELS_TERMINATION_FAILED = "counter" "tunnels_termination_failed_total" [] "Tunnels that could not be terminated within a second";
    VERDICT_CACHE_ON = "gauge" "verdict_cache_on" [] "Whether HAProxy may reuse further allows";
    VERDICT_CACHE_OFFERED = "counter" "verdict_cache_offered_total" [] "Allows that were offered to HAProxy for reuse";
    VERDICT_CACHE_REUSED = "counter" "verdict_cache_reused_total" [] "Requests that passed HAProxy by a reused allow, as it reports them";
    VERDICT_CACHE_INVALIDATED = "counter" "verdict_cache_invalidated_total" [] "How often all reusable allows were invalidated";
    REVOCATIONS = "gauge" "revocations" [] "Revocations in force";
    CONFIG_RELOADS = "counter" "config_reloads_total" ["result"] "Attempts to apply a changed configuration";
    CONFIG_CURRENT = "gauge" "config_current" [] "Whether the last changed configuration was applied. 0 while an older one is in force";
    AUDIT_WAITING = "gauge" "audit_waiting_bytes" [] "Bytes of audit records that wait to be written";
    AUDIT_CAPACITY = "gauge" "audit_capacity_bytes" [] "Bytes of audit records that may wait to be written";
    AUDIT_RECORDS = "counter" "audit_records_total" [] "Audit records written";
    AUDIT_LOST = "counter" "audit_lost_total" [] "Audit records lost because the buffer was full";
    AUDIT_BROKEN = "gauge" "audit_broken" [] "Whether writing the audit log fails";
}

/// The upper bounds of the buckets of [`LATENCY`], in microseconds.
const LATENCY_BOUNDS_US: [u64; 16] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000,
    500_000,
];

/// The difference that a shadow policy would make to a decision.
const SHADOW_RESULTS: [&str; 3] = ["same", "would_allow", "would_refuse"];

/// The counters of the request path.
#[derive(Debug)]
pub struct Metrics {
    reasons: [AtomicU64; Reason::ALL.len()],
    token_errors: [AtomicU64; TokenError::ALL.len()],
    /// Decisions by latency: one bucket for each bound, and one for longer ones.
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    micros: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    session_events: [AtomicU64; AuditEvent::SESSION.len()],
    reloads: AtomicU64,
    refused_reloads: AtomicU64,
    outdated: AtomicBool,
    shadows: [AtomicU64; SHADOW_RESULTS.len()],
    /// Open connections from HAProxy.
    pub connections: Gauge,
    /// Requests that wait for a key, a token or a workspace.
    pub pending: Gauge,
}

/// A number that goes up and down, such as open connections.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Counts as one in its gauge until it is dropped, so that no early return can miscount.
pub struct GaugeGuard<'g>(&'g Gauge);

impl Gauge {
    /// Adds one until the guard is dropped.
    #[must_use]
    pub fn hold(&self) -> GaugeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self)
    }

    /// The present number.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reasons: std::array::from_fn(|_| AtomicU64::new(0)),
            token_errors: std::array::from_fn(|_| AtomicU64::new(0)),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            micros: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            session_events: std::array::from_fn(|_| AtomicU64::new(0)),
            reloads: AtomicU64::new(0),
            refused_reloads: AtomicU64::new(0),
            outdated: AtomicBool::new(false),
            shadows: std::array::from_fn(|_| AtomicU64::new(0)),
            connections: Gauge::default(),
            pending: Gauge::default(),
        }
    }
}

fn add(counter: Option<&AtomicU64>, number: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(number, Ordering::Relaxed);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    /// Counts a decision.
    pub fn decided(&self, reason: Reason, evidence: &Evidence, latency: Duration) {
        match reason {
            Reason::Refused(error) => {
                let at = TokenError::ALL.iter().position(|known| *known == error);
                add(at.and_then(|at| self.token_errors.get(at)), 1);
            }
            // A linear search: the reasons of most decisions stand first in the list.
            reason => {
                let at = Reason::ALL.iter().position(|known| *known == reason);
                add(at.and_then(|at| self.reasons.get(at)), 1);
            }
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros);
        add(self.buckets.get(bucket), 1);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        if evidence.credential == CredentialKind::Bearer && evidence.key_set.is_some() {
            add(Some(if evidence.cached { &self.hits } else { &self.misses }), 1);
        }
    }

    /// Counts an event of a browser session. Other events are not counted.
    pub fn session_event(&self, event: AuditEvent) {
        let at = AuditEvent::SESSION.iter().position(|known| *known == event);
        add(at.and_then(|at| self.session_events.get(at)), 1);
    }

    /// Counts an attempt to apply a changed configuration.
    pub fn reloaded(&self, applied: bool) {
        add(Some(if applied { &self.reloads } else { &self.refused_reloads }), 1);
        self.config_is_current(applied);
    }

    /// Sets whether the last changed configuration is in force.
    pub fn config_is_current(&self, is: bool) {
        self.outdated.store(!is, Ordering::Relaxed);
    }

    /// Counts the difference that shadow policies would make to a decision.
    pub fn shadowed(&self, decided: Verdict, shadow: Verdict) {
        let result = match (decided == Verdict::Allow, shadow == Verdict::Allow) {
            (false, true) => "would_allow",
            (true, false) => "would_refuse",
            (true, true) | (false, false) => "same",
        };
        let at = SHADOW_RESULTS.iter().position(|known| *known == result);
        add(at.and_then(|at| self.shadows.get(at)), 1);
    }

    /// How many decisions had this verdict.
    #[must_use]
    pub fn decisions(&self, verdict: Verdict) -> u64 {
        let all = self.by_reason();
        all.filter(|(reason, _)| reason.verdict() == verdict).map(|(_, count)| count).sum()
    }

    /// How many decisions each reason has.
    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        let reasons = Reason::ALL.into_iter().zip(self.reasons.iter().map(read));
        let token_errors = TokenError::ALL.into_iter().map(Reason::Refused);
        reasons.chain(token_errors.zip(self.token_errors.iter().map(read)))
    }

    /// The sum of all latencies in microseconds, and the buckets: the upper bound in microseconds (`None` for the last bucket) and
    /// the number of decisions.
    pub fn latency(&self) -> (u64, impl Iterator<Item = (Option<u64>, u64)>) {
        let bounds = LATENCY_BOUNDS_US.into_iter().map(Some).chain([None]);
        (read(&self.micros), bounds.zip(self.buckets.iter().map(read)))
    }

    /// Writes the counters.
    pub fn expose(&self, to: &mut Exposition) {
        to.family(&DECISIONS);
        for (reason, count) in self.by_reason() {
            to.sample(&DECISIONS, &[reason.verdict().id(), reason.id()], count);
        }
        to.histogram(
            &LATENCY,
            &LATENCY_BOUNDS_US,
            &self.buckets.each_ref().map(read),
            read(&self.micros),
        );
        to.family(&TOKENS);
        to.sample(&TOKENS, &["hit"], read(&self.hits));
        to.sample(&TOKENS, &["miss"], read(&self.misses));
        to.family(&SHADOW);
        for (result, count) in SHADOW_RESULTS.iter().zip(&self.shadows) {
            to.sample(&SHADOW, &[result], read(count));
        }
        to.single(&CONNECTIONS, self.connections.get());
        to.single(&PENDING, self.pending.get());
        to.family(&CONFIG_RELOADS);
        to.sample(&CONFIG_RELOADS, &["applied"], read(&self.reloads));
        to.sample(&CONFIG_RELOADS, &["refused"], read(&self.refused_reloads));
        to.single(&CONFIG_CURRENT, u8::from(!self.outdated.load(Ordering::Relaxed)));
        to.family(&SESSION_EVENTS);
        for (event, count) in AuditEvent::SESSION.iter().zip(&self.session_events) {
            to.sample(&SESSION_EVENTS, &[event.id()], read(count));
        }
    }
}

/// Metrics in the text format of Prometheus.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric. Its samples must follow.
    pub fn family(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample, with the values of the metric's labels in their order.
    pub fn sample(&mut self, metric: &Metric, values: &[&str], value: impl Display) {
        self.0.push_str(metric.name);
        self.labels(metric.labels.iter().copied().zip(values.iter().copied()));
        let _ = writeln!(self.0, " {value}");
    }

    /// Adds a metric without labels.
    pub fn single(&mut self, metric: &Metric, value: impl Display) {
        self.family(metric);
        self.sample(metric, &[], value);
    }

    /// Adds text that is in the format already.
    pub fn append(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn histogram(&mut self, metric: &Metric, bounds: &[u64], buckets: &[u64], micros: u64) {
        self.family(metric);
        let name = metric.name;
        let mut sum = 0;
        let bounds = bounds.iter().map(|micros| seconds(*micros)).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(buckets) {
            // Buckets are cumulative in the format: each includes the smaller ones.
            sum += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(self.0, "{name}_sum {}\n{name}_count {sum}", seconds(micros));
    }

    fn labels<'v>(&mut self, labels: impl Iterator<Item = (&'static str, &'v str)>) {
        let mut opening = '{';
        for (name, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{opening}{name}=\"{value}\"");
            opening = ',';
        }
        if opening == ',' {
            self.0.push('}');
        }
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
