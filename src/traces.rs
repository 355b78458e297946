//! OpenTelemetry spans of decisions, joined with the trace and the unique id of HAProxy's request.
//!
//! Spans exist only in programs built with the feature `otel`. Without it the functions here do nothing, and a configuration
//! with `[traces]` is refused. There is one collector for the process, as there is one log.
//!
//! A span never takes part in a decision: it is made after the response was written, and dropped and counted if the bounded
//! queue is full. `docs/decisions/0017-libraries.md` says why spans are built here and not by `tracing-opentelemetry`.

use std::time::Duration;

use url::Url;

#[cfg(feature = "otel")]
mod context;
#[cfg(feature = "otel")]
mod sender;

#[cfg(feature = "otel")]
pub use sender::{TracesStartError, start};

/// Whether this program can send traces.
pub const BUILT_IN: bool = cfg!(feature = "otel");

/// The settings of `[traces]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// The collector, for OTLP over HTTP with protobuf: https, or http on this machine.
    pub endpoint: Url,
    /// The share of decisions that get a span: above 0, at most 1.
    pub sample_ratio: f64,
    /// Whether a span names the user.
    pub user: bool,
}

/// What a span says about a decision.
#[derive(Clone, Copy, Debug)]
pub struct DecisionSpan<'a> {
    /// The id of the decision.
    pub id: &'a str,
    /// The verdict.
    pub verdict: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// Whether the agent could not decide. The span then has the status error.
    pub failed: bool,
    /// Whether the identity came from the cache.
    pub cached: bool,
    /// The header `traceparent` of the request.
    pub traceparent: Option<&'a [u8]>,
    /// The unique id that HAProxy gave the request.
    pub unique_id: Option<&'a [u8]>,
    /// The id of the workspace.
    pub workspace: Option<&'a str>,
    /// The name of the user. The span has it only if `[traces]` allows that.
    pub user: Option<&'a str>,
    /// How long the decision took.
    pub took: Duration,
}

/// Makes a span of a decision, if the decision is sampled. Never waits.
#[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "sends nothing"))]
pub fn decided(decision: &DecisionSpan<'_>) {
    #[cfg(feature = "otel")]
    sender::decided(decision);
}

/// Makes a span of a finished request to an issuer: `jwks` or `introspection`. Never waits.
#[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "sends nothing"))]
pub fn asked(what: &'static str, issuer: &str, took: Duration, error: Option<&str>) {
    #[cfg(feature = "otel")]
    sender::asked(what, issuer, took, error);
}
