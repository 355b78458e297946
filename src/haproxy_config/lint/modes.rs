//! Checks that a section for TCP streams does not lead to one for HTTP requests, or the other way round.
//!
//! The agent judges a TCP stream once. Requests inside it would reach a workspace without being judged.

use super::{Report, Rule, Variant, guard::Guard};
use crate::haproxy_config::{
    document::Section,
    lint::lines::{is_unknown, target},
};

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let http =
        |section: &Section| variant.setting(section, "mode").is_some_and(|(_, m)| m == "http");
    for (_, line, _) in guard.rules("use_backend").iter().chain(guard.rules("default_backend")) {
        let Some(name) = target(line) else { continue };
        let other = if is_unknown(name) {
            // HAProxy refuses a route from mode http to mode tcp whose name it learns at run time. The other direction
            // it takes.
            let mut all = variant.sections.iter().filter(|_| !guard.http);
            all.find(|section| variant.reach.is_workspace(section) && http(section))
        } else {
            let mut named = variant.named(name).iter().copied();
            named.find(|section| http(section) != guard.http)
        };
        let Some(other) = other else { continue };
        let what = format!(
            "'{}' is for {}, and leads to '{}', which is for {}",
            guard.section.name,
            kind(guard.http),
            other.name,
            kind(!guard.http)
        );
        let mode = if guard.http { "http" } else { "tcp" };
        report.add(
            Rule::ModeDiffers,
            line.at,
            what,
            format!("mode {mode}   # in '{}'", other.name),
        );
    }
    for (_, line, _) in guard.rules("tcp-request").iter().filter(|_| !guard.http) {
        if line.words.iter().any(|word| word == "switch-mode") {
            let what = format!(
                "'{}' judges TCP streams, and this rule switches to HTTP",
                guard.section.name
            );
            let fix = "remove it; HTTP has a front end of its own, with 'mode http'";
            report.add(Rule::ModeDiffers, line.at, what, fix);
        }
    }
}

fn kind(http: bool) -> &'static str {
    if http { "HTTP requests" } else { "TCP streams" }
}
