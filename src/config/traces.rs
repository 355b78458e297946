//! The table `[traces]`: where spans of decisions are sent, and how many.

use url::Url;

use super::{
    kinds::{At, Parsed, Ratio},
    section::{Report, Section, table},
};
use crate::traces::TraceSettings;

table! {
    /// Where OpenTelemetry spans of decisions are sent; only in programs that are built with the feature `otel`.
    TracesTable = "traces", restart;
    /// The collector's URL for OTLP over HTTP. It must be https, unless the collector is on this machine.
    endpoint: required At<Parsed<Url>>, example("\"http://127.0.0.1:4318/v1/traces\"");
    /// The share of decisions that have a span: 0.01 is one in 100.
    sample_ratio: default Ratio = 0.01;
    /// Whether spans contain the user.
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

/// Whether no other machine can read the spans on their way: TLS, or an address of this machine. A URL with a password is
/// refused, since it would stand in logs.
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
