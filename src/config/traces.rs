//! The table `[traces]`: where spans of decisions go.

use url::Url;

use super::{
    kinds::{At, Parsed, Ratio},
    section::{Report, Section, table},
};
use crate::traces::TraceSettings;

table! {
    /// Where OpenTelemetry spans of decisions go; only in programs that are built with the feature `otel`.
    TracesTable = "traces", restart;
    /// The collector's URL for OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; https unless it is on this machine.
    endpoint: required At<Parsed<Url>>, example("\"http://127.0.0.1:4318/v1/traces\"");
    /// The share of decisions that get a span, such as `0.01` for one in a hundred.
    sample_ratio: default Ratio = 0.01;
    /// Whether a span names the user.
    user: default bool = false;
}

impl Section for TracesTable {
    type Value = TraceSettings;

    fn build(self, report: &mut Report) -> Option<TraceSettings> {
        let endpoint = self.endpoint?;
        if !is_safe(&endpoint.value) {
            report.mistake_at(
                endpoint.span,
                "expected https://…, or http:// at an address of this machine such as \
                 http://127.0.0.1:4318/v1/traces",
            );
        }
        Some(TraceSettings {
            endpoint: endpoint.value,
            sample_ratio: self.sample_ratio,
            user: self.user,
        })
    }
}

/// Whether no other machine can read what spans say.
fn is_safe(url: &Url) -> bool {
    let here = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let bare = url.username().is_empty() && url.password().is_none();
    bare && (url.scheme() == "https" || url.scheme() == "http" && here)
}
