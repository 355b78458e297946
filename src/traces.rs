//! OpenTelemetry traces of decisions, joined with the trace and the unique id of HAProxy's request.
//!
//! Only what the feature `otel` builds sends anything; without it the functions here do nothing, and a
//! configuration with `[traces]` is refused. A trace never has a part in a decision: it is made when the answer is
//! already written, and what does not fit the bounded queue is dropped and counted. There is one
//! collector for the process, as there is one log.

use std::time::Duration;

use url::Url;

use crate::{
    decision::{Decision, variables::DecisionId},
    request::Request,
};

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

/// Makes a span of a decision if its turn has come. Never waits.
#[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "sends nothing"))]
pub fn decided(decision: &Decision, request: &Request<'_>, id: &DecisionId, took: Duration) {
    #[cfg(feature = "otel")]
    sender::decided(decision, request, id, took);
}

/// Makes a span of a question to an issuer that has ended: `jwks` or `introspection`. Never waits.
#[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "sends nothing"))]
pub fn asked(what: &'static str, issuer: &str, took: Duration, error: Option<&str>) {
    #[cfg(feature = "otel")]
    sender::asked(what, issuer, took, error);
}
