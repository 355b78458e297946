//! OpenTelemetry traces of decisions, joined with the trace and the unique id of HAProxy's request.
//!
//! Only what the feature `otel` builds sends anything; without it the functions here do nothing, and a
//! configuration with `[traces]` is refused. A trace never has a part in a decision: it is made when the answer is
//! already written, and what does not fit the bounded queue is dropped and counted. There is one
//! collector for the process, as there is one log.

use std::time::Duration;

use url::Url;

#[cfg(feature = "otel")]
mod context;
#[cfg(feature = "otel")]
mod sender;

#[cfg(feature = "otel")]
pub use sender::{StartError, start};

/// Whether this program can send traces.
pub const BUILT_IN: bool = cfg!(feature = "otel");

/// The table `[traces]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where spans go: OTLP over HTTP, protobuf; https, or http on this machine.
    pub endpoint: Url,
    /// One of so many decisions has a span; at least 1.
    pub one_in: u64,
    /// Whether spans say who asked.
    pub user: bool,
}

/// A decision, as far as a span tells of it.
#[derive(Clone, Copy, Debug)]
pub struct DecisionSpan<'a> {
    /// The decision's id.
    pub id: &'a str,
    /// The verdict.
    pub verdict: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// Whether the agent could not decide, which is an error of the span.
    pub failed: bool,
    /// Whether the identity was cached.
    pub cached: bool,
    /// The header `traceparent` of the request.
    pub traceparent: Option<&'a [u8]>,
    /// HAProxy's unique id of the request.
    pub unique_id: Option<&'a [u8]>,
    /// The id of the workspace.
    pub workspace: Option<&'a str>,
    /// Who asked; part of the span where `[traces]` says so.
    pub user: Option<&'a str>,
    /// How long the decision took.
    pub took: Duration,
}

/// Makes a span of a decision if its turn has come. Never waits.
#[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "sends nothing"))]
pub fn decided(decision: &DecisionSpan<'_>) {
    #[cfg(feature = "otel")]
    sender::decided(decision);
}

/// Makes a span of a question to an issuer that has ended: `jwks` or `introspection`. Never waits.
#[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "sends nothing"))]
pub fn asked(what: &'static str, issuer: &str, took: Duration, error: Option<&str>) {
    #[cfg(feature = "otel")]
    sender::asked(what, issuer, took, error);
}
