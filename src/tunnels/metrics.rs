//! What a Prometheus server reads of live tunnels (text exposition format 0.0.4).

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{TunnelKind, Tunnels};
use crate::metrics::{Exposition, HAPROXY_UP, TUNNELS_TERMINATION_FAILED};

/// Appends all metrics of tunnels.
pub fn render(tunnels: &Tunnels, text: &mut String) {
    let mut kinds = TunnelKind::ALL.map(|kind| (kind, 0_u64));
    let (mut due, mut lost) = (0_u64, 0_u64);
    let (up, unknown) = {
        let state = tunnels.lock();
        for entry in state.entries.values() {
            for (kind, count) in &mut kinds {
                *count += u64::from(*kind == entry.tunnel.kind);
            }
            due += u64::from(entry.due.is_some() && entry.terminated_at.is_none());
            lost += u64::from(!entry.is_there());
        }
        let up: Vec<_> = state.errors.iter().map(|error| u64::from(error.is_none())).collect();
        (up, u64::try_from(state.unknown).unwrap_or(u64::MAX))
    };
    let of_kind =
        |(kind, count): (TunnelKind, u64)| (format!("{{kind=\"{}\"}}", kind.id()), whole(count));
    let open: Vec<_> = kinds.into_iter().map(of_kind).collect();
    metric(text, "tunnels", "gauge", "Live tunnels", &open);
    let counts = &tunnels.counts;
    let read = |counter: &AtomicU64| whole(counter.load(Ordering::Relaxed));
    let seconds = |counter: &AtomicU64| read(counter) / 1e6;
    for (name, kind, help, value) in [
        ("tunnels_opened_total", "counter", "Tunnels that were allowed", read(&counts.opened)),
        ("tunnels_closed_total", "counter", "Tunnels that have ended", read(&counts.closed)),
        ("tunnels_terminated_total", "counter", "Tunnels that were cut", read(&counts.terminated)),
        (
            "tunnels_refused_total",
            "counter",
            "Tunnels refused for want of room",
            read(&counts.full),
        ),
        (
            "tunnels_unidentified_total",
            "counter",
            "Requests refused because HAProxy does not tell which stream they are",
            read(&counts.unidentified),
        ),
        (
            "tunnels_unknown_total",
            "counter",
            "Tunnels in HAProxy that this agent did not allow",
            whole(unknown),
        ),
        ("tunnels_terminating", "gauge", "Tunnels that are to be cut and still there", whole(due)),
        ("tunnels_not_found", "gauge", "Tunnels not found in HAProxy yet", whole(lost)),
        (
            "tunnels_termination_seconds_total",
            "counter",
            "Time from the causes of cuts to the cuts",
            seconds(&counts.termination_micros),
        ),
        (
            "tunnels_revalidations_total",
            "counter",
            "Rounds in which tunnels were decided about",
            read(&counts.revalidations),
        ),
        (
            "tunnels_revalidation_seconds_total",
            "counter",
            "Time spent in those rounds",
            seconds(&counts.revalidation_micros),
        ),
    ] {
        metric(text, name, kind, help, &[(String::new(), value)]);
    }
    // Those that alerts are about.
    let mut to = Exposition::default();
    to.single(&TUNNELS_TERMINATION_FAILED, counts.failed.load(Ordering::Relaxed));
    to.family(&HAPROXY_UP);
    for (number, up) in up.into_iter().enumerate() {
        to.sample(&HAPROXY_UP, &[&number.to_string()], up);
    }
    text.push_str(&to.into_text());
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, values: &[(String, f64)]) {
    let name = format!("identity_spoa_{name}");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "what Prometheus does with every number")]
fn whole(number: u64) -> f64 {
    number as f64
}
