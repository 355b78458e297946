//! What a Prometheus server reads (text exposition format 0.0.4).

use std::{fmt::Write as _, sync::Arc};

use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};

use super::{Shared, workspaces::SourceView};
use crate::{tunnel, workspace::reconcile::status::Health};

struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&SourceView) -> Option<u64>,
}

/// The metrics of a source, each with the label `source`.
const OF_SOURCES: [Metric; 11] = [
    gauge("workspaces", "Workspaces that the source has", |s| count(s.workspaces)),
    gauge("routable", "Workspaces that are up", |s| count(s.routable)),
    gauge("contested", "Workspaces at an address that another claims too", |s| count(s.contested)),
    gauge("doubtful", "Workspaces that changed in a way nobody could read", |s| count(s.doubtful)),
    gauge("pending", "Changes that are being read", |s| count(s.status.pending)),
    gauge("age_seconds", "Time since the source said all it knows", |s| s.age_seconds),
    gauge("live", "Whether lists and events come", |s| {
        Some(u64::from(s.status.health == Health::Live))
    }),
    gauge("unauthorized", "Whether the platform refuses the credential", |s| {
        Some(u64::from(s.status.unauthorized))
    }),
    counter("lists_total", "Complete lists taken in", |s| Some(s.status.lists)),
    counter("events_total", "Events received", |s| Some(s.status.events)),
    counter("failures_total", "Questions that failed", |s| Some(s.status.failures)),
];

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&SourceView) -> Option<u64>,
) -> Metric {
    Metric { name, kind: "gauge", help, value }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&SourceView) -> Option<u64>,
) -> Metric {
    Metric { name, kind: "counter", help, value }
}

fn count(number: usize) -> Option<u64> {
    u64::try_from(number).ok()
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut text = render(&shared.source_views());
    if let Some(tunnels) = &shared.tunnels {
        tunnel::metrics::render(tunnels, &mut text);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

fn render(sources: &[SourceView]) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, value } in OF_SOURCES {
        let name = format!("identity_spoa_source_{name}");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for source in sources {
            if let Some(value) = value(source) {
                let label = source.name.replace('\\', "\\\\").replace('"', "\\\"");
                let _ = writeln!(text, "{name}{{source=\"{label}\"}} {value}");
            }
        }
    }
    text
}
