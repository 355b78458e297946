//! Checks rules that end the rules early by what they skip, and caches, which answer in the place of a workspace.

use std::{cell::LazyCell, sync::Arc};

use super::{
    Report, Rule, Variant,
    guard::{self, Guard},
};
use crate::haproxy_config::{
    condition::Condition,
    document::{Line, Section},
    lint::lines::{Ruled, acts},
};

/// Actions that change nothing of the request or response.
const IDLE: [&str; 14] = [
    "allow",
    "accept",
    "capture",
    "set-log-level",
    "set-nice",
    "set-priority-class",
    "set-priority-offset",
    "do-log",
    "pause",
    "strict-mode",
    "set-timeout",
    "wait-for-body",
    "set-tos",
    "set-mark",
];
/// The same, for actions whose name is followed by arguments.
const COUNTING: [&str; 4] = ["track-sc", "sc-", "set-var", "unset-var"];

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    for guard in variant.guards {
        check_guard(guard, variant, report);
        for kind in ["http-response", "http-after-response"] {
            check_rules(guard.rules(kind), &["allow"], report, |_| false);
        }
    }
    if variant.guards.is_empty() {
        return;
    }
    for section in variant.reach.guarded_sections() {
        if section.kind == "backend" {
            check_backend(section, variant, report);
        }
        for line in &section.lines {
            check_cache(line, report);
        }
    }
    // A cache of the agent's pages would give one person's page to another.
    let ours = |s: &&Section| s.kind == "backend" && variant.reach.is_ours(s);
    for line in variant.sections.iter().filter(ours).flat_map(|section| &section.lines) {
        check_cache(line, report);
    }
}

/// Reports rules of the front end that let allowed requests pass before the last rule that matters.
fn check_guard(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let kind = if guard.http { "http-request" } else { "tcp-request" };
    let passed = |(number, line, when): &Ruled<'_>| {
        // [`super::verdict`] reports those that let pass what is not allowed.
        variant.known.contains(&line.at)
            || guard.is_for_pages(*number, when)
            || guard.is_bypass(*number, when)
    };
    check_rules(guard.rules(kind), &["allow", "accept"], report, passed);
}

fn check_backend(section: &Section, variant: &Variant<'_>, report: &mut Report) {
    let lines = || guard::all_lines(section, variant.sections);
    let acls = LazyCell::new(|| super::acls(lines()));
    for kind in ["http-request", "http-response", "http-after-response"] {
        let of_kind = |line: &&Line| line.words.first().is_some_and(|word| word == kind);
        let rules: Vec<Ruled<'_>> = lines()
            .filter(of_kind)
            .enumerate()
            .map(|(number, line)| (number, line, Arc::new(Condition::parse(&line.words, &acls))))
            .collect();
        check_rules(&rules, &["allow"], report, |(_, line, _)| variant.known.contains(&line.at));
    }
}

/// Reports rules that end the others although a rule that matters follows.
fn check_rules(
    rules: &[Ruled<'_>],
    ends: &[&str],
    report: &mut Report,
    is_known: impl Fn(&Ruled<'_>) -> bool,
) {
    let Some((last, matters, _)) = rules.iter().rev().find(|(_, line, _)| matters(line)) else {
        return;
    };
    for rule in rules {
        let (number, line, _) = rule;
        // What follows the last rule that matters may be skipped.
        if number < last && is_end(line, ends) && !is_known(rule) {
            let what = format!("the rules below it, up to line {}, are skipped", matters.at.line);
            let fix = "remove it, or move it below them";
            report.add(Rule::RulesSkipped, line.at, what, fix);
        }
    }
}

fn is_end(line: &Line, ends: &[&str]) -> bool {
    acts(line, ends)
        || matches!(&line.words[..], [kind, action, ..]
            if kind.starts_with("http-") && ends.contains(&action.as_str()))
}

/// Whether a rule of requests changes nothing and lets the request go on to the next rule.
pub(super) fn is_idle(line: &Line) -> bool {
    line.words.get(1).is_some_and(|action| {
        IDLE.contains(&action.as_str()) && !["allow", "accept"].contains(&action.as_str())
    })
}

fn matters(line: &Line) -> bool {
    let action = match &line.words[..] {
        [tcp, content, action, ..] if tcp == "tcp-request" && content == "content" => action,
        [http, action, ..] if http.starts_with("http-") => action,
        _ => return false,
    };
    !IDLE.contains(&action.as_str()) && !COUNTING.iter().any(|begin| action.starts_with(begin))
}

fn check_cache(line: &Line, report: &mut Report) {
    if let [rules, action, ..] = &line.words[..]
        && rules.starts_with("http-")
        && (action == "cache-use" || action == "cache-store")
    {
        let what = "responses are kept in a cache that all people share";
        report.add(
            Rule::SharedCache,
            line.at,
            what,
            "remove it; workspaces can let browsers cache",
        );
    }
}
