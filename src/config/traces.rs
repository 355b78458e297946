//! The table `[traces]`: where spans of decisions go.

use url::Url;

use super::{
    kinds::{At, Number, Parsed},
    section::{Report, Section, table},
};
use crate::traces::Settings;

table! {
    /// Where OpenTelemetry spans of decisions go; only in programs that are built with the feature `otel`.
    TracesTable = "traces", restart;
    /// The collector's URL for OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; https unless it is on this machine.
    endpoint: required At<Parsed<Url>>, example("\"http://127.0.0.1:4318/v1/traces\"");
    /// One of so many decisions has a span.
    one_in: default Number<1, 1_000_000> = 100;
    /// Whether spans say who asked.
    user: default bool = false;
}

impl Section for TracesTable {
    type Value = Settings;

    fn build(self, report: &mut Report) -> Option<Settings> {
        let endpoint = self.endpoint?;
        if !is_safe(&endpoint.value) {
            report.mistake_at(
                endpoint.span,
                "expected https://…, or http:// at an address of this machine such as \
                 http://127.0.0.1:4318/v1/traces",
            );
        }
        Some(Settings { endpoint: endpoint.value, one_in: self.one_in, user: self.user })
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
