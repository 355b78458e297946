//! The screen of `status`: a few lines of totals, then a table for each kind of part.

use std::io::{self, Write};

use super::rates::Rates;
use crate::{
    admin::{SourceView, status::StatusView},
    cli::{
        audit::time_text,
        terminal::{Tone, columns, paint},
    },
    workspaces::reconcile::status::SourceHealth,
};

/// How many reasons are listed. JSON has all of them.
const MAX_REASONS: usize = 10;

/// Prints the status. Names of parts come from the configuration, and errors from other programs: both are escaped.
pub(super) fn print(
    status: &StatusView,
    rates: &Rates,
    sockets: &[String],
    out: &mut impl Write,
) -> io::Result<()> {
    totals(status, rates, out)?;
    for problem in &status.problems {
        let (part, name) = (plain(&problem.part), plain(&problem.name));
        let word = paint(Tone::Bad, "PROBLEM");
        writeln!(out, "{word}  {part} {name}: {}", plain(&problem.reason))?;
    }
    reasons(status, rates, out)?;
    issuers(status, out)?;
    sources(&status.sources, out)?;
    haproxy_sockets(status, sockets, out)
}

fn totals(status: &StatusView, rates: &Rates, out: &mut impl Write) -> io::Result<()> {
    let state =
        if status.ready { paint(Tone::Good, "ready") } else { paint(Tone::Bad, "NOT READY") };
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".into());
    let mut rows = vec![
        [
            "agent".to_owned(),
            format!("{} {state}, up {}", status.version, age(status.uptime_ms / 1000)),
        ],
        ["time".to_owned(), time_text(Some(status.time_ms))],
        [
            "versions".to_owned(),
            format!("config {}, policies {}", version(&status.config), version(&status.policy)),
        ],
        ["decisions".to_owned(), decisions(rates)],
        [
            "latency".to_owned(),
            format!(
                "half within {}, 99 of 100 within {}",
                bound(rates.p50_us),
                bound(rates.p99_us)
            ),
        ],
        [
            "requests".to_owned(),
            format!(
                "{} connections from HAProxy, {} requests pending",
                status.connections, status.pending
            ),
        ],
    ];
    let sessions = match &status.sessions {
        None => "no sign-in with a browser is configured".to_owned(),
        Some(sessions) => {
            let store = match sessions.store_silent_seconds {
                Some(seconds) => format!("the shared store answered {seconds} s ago"),
                None => "no shared store".to_owned(),
            };
            format!("{}, with {} cookies; {store}", sessions.sessions, sessions.cookies)
        }
    };
    rows.push(["sessions".to_owned(), sessions]);
    let tunnels = match &status.tunnels {
        None => "not tracked: the configuration has no [haproxy]".to_owned(),
        Some(tunnels) => format!(
            "{} open, {} being closed, {} not found in HAProxy",
            tunnels.open, tunnels.terminating, tunnels.not_found
        ),
    };
    rows.push(["tunnels".to_owned(), tunnels]);
    if let Some(reuse) = &status.reuse {
        let on = if reuse.on { "on" } else { "off at the moment" };
        let counts = format!("{} allows offered, {} requests passed", reuse.offered, reuse.reused);
        rows.push(["reuse".to_owned(), format!("{on}; {counts}")]);
    }
    rows.push(["revocations".to_owned(), status.revocations.to_string()]);
    let audit = &status.audit;
    let how = if audit.broken { paint(Tone::Bad, "writing fails; ") } else { String::new() };
    let lost = if audit.lost > 0 {
        paint(Tone::Bad, &format!("{} lost", audit.lost))
    } else {
        "0 lost".to_owned()
    };
    let waiting =
        format!("{} of {} KiB wait", audit.waiting_bytes / 1024, audit.capacity_bytes / 1024);
    rows.push([
        "audit".to_owned(),
        format!("{how}{} records written, {lost}, {waiting}", audit.written),
    ]);
    columns(out, &rows, &[])
}

fn decisions(rates: &Rates) -> String {
    // No time passed between the samples: the agent was restarted.
    if rates.seconds <= 0.0 {
        return "no rate yet".to_owned();
    }
    let parts = rates.by_verdict.iter().map(|(verdict, rate)| format!("{verdict} {rate:.1}"));
    let parts: Vec<_> = parts.collect();
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("{:.1} a second{parts}", rates.decisions)
}

/// The reasons with the highest rates, then with the highest totals.
fn reasons(status: &StatusView, rates: &Rates, out: &mut impl Write) -> io::Result<()> {
    if status.decisions.is_empty() {
        return Ok(());
    }
    let rate = |reason: &str| rates.by_reason.get(reason).copied().unwrap_or_default();
    let mut all: Vec<_> = status.decisions.iter().collect();
    all.sort_by(|a, b| {
        rate(&b.reason).total_cmp(&rate(&a.reason)).then_with(|| b.count.cmp(&a.count))
    });
    let rows = all.iter().take(MAX_REASONS).map(|reason| {
        [
            plain(&reason.reason),
            plain(&reason.verdict),
            format!("{:.1}", rate(&reason.reason)),
            reason.count.to_string(),
        ]
    });
    table(out, ["REASON", "VERDICT", "A SECOND", "SINCE THE START"], rows)?;
    match all.len().saturating_sub(MAX_REASONS) {
        0 => Ok(()),
        more => writeln!(out, "and {more} more reasons: --json has all of them"),
    }
}

fn issuers(status: &StatusView, out: &mut impl Write) -> io::Result<()> {
    let rows = status.issuers.iter().map(|issuer| {
        let state = if issuer.usable {
            paint(Tone::Good, "usable")
        } else {
            paint(Tone::Bad, "no usable keys")
        };
        [
            plain(&issuer.name),
            state,
            issuer.keys.to_string(),
            issuer.age_seconds.map_or_else(|| "-".into(), age),
            format!("{} ok, {} failed", issuer.fetches, issuer.failures),
        ]
    });
    table(out, ["ISSUER", "STATE", "KEYS", "AGE", "FETCHES"], rows)
}

fn sources(sources: &[SourceView], out: &mut impl Write) -> io::Result<()> {
    let rows = sources.iter().map(|source| {
        let (tone, word) = match source.status.health {
            SourceHealth::Live => (Tone::Good, "live"),
            SourceHealth::Degraded => (Tone::Warning, "no events"),
            SourceHealth::Starting => (Tone::Bad, "starting"),
            SourceHealth::Stale => (Tone::Bad, "stale"),
        };
        [
            plain(&source.name),
            paint(tone, word),
            format!("{} of {}", source.routable, source.workspaces),
            source.contested.to_string(),
            source.age_seconds.map_or_else(|| "-".into(), age),
            source.status.last_error.as_deref().map_or_else(|| "-".into(), plain),
        ]
    });
    table(out, ["SOURCE", "STATE", "RUNNING", "CONTESTED", "AGE", "LAST ERROR"], rows)
}

fn haproxy_sockets(status: &StatusView, names: &[String], out: &mut impl Write) -> io::Result<()> {
    let views = status.tunnels.iter().flat_map(|tunnels| &tunnels.sockets).enumerate();
    let rows = views.map(|(number, socket)| {
        // The configuration may have changed since the agent started; the number is right in any case.
        let name = names.get(number).cloned().unwrap_or_else(|| number.to_string());
        let state = match &socket.error {
            None => paint(Tone::Good, "up"),
            Some(error) => format!("{}: {}", paint(Tone::Bad, "DOWN"), plain(error)),
        };
        [plain(&name), state]
    });
    table(out, ["HAPROXY SOCKET", "STATE"], rows)
}

/// A table with a blank line before it. Without rows nothing is printed.
fn table<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let rows: Vec<_> = std::iter::once(head.map(String::from)).chain(rows).collect();
    if rows.len() == 1 {
        return Ok(());
    }
    writeln!(out)?;
    columns(out, &rows, &[])
}

/// A text of another program, which must not control the terminal.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}

fn bound(micros: Option<u64>) -> String {
    match micros {
        None => "-".to_owned(),
        Some(micros @ 0..1000) => format!("{micros} us"),
        Some(micros) => format!("{} ms", micros / 1000),
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
