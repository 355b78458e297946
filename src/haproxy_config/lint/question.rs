//! Whether the question is asked, and its answer is what decides.

use std::collections::BTreeSet;

use super::{
    Report, Rule, Variant,
    guard::{Asked, Guard},
};
use crate::haproxy_config::{
    condition::Condition,
    document::At,
    lint::lines::{PASSES, REFUSALS, Ruled, acts},
};

/// Verdicts in a scope that outlives the request, anywhere.
pub(super) fn check_scopes(variant: &Variant<'_>, report: &mut Report) {
    let prefix = variant.prefix();
    let name = prefix.strip_prefix("txn.").unwrap_or(prefix);
    let lines = variant.sections.iter().flat_map(|section| &section.lines);
    let lines = lines.filter(|line| !variant.known.contains(&line.at));
    let scopes = ["sess.", "proc."].map(|scope| {
        let sets = ["set-var(", "set-var-fmt("].map(|set| format!("{set}{scope}"));
        (scope, format!("var({scope}{name}"), sets)
    });
    for line in lines {
        for (scope, read, sets) in &scopes {
            let words =
                || line.words.iter().filter(|word| word.contains('(') && word.contains(scope));
            let reads = words().any(|word| word.contains(read));
            let keeps = words().any(|word| sets.iter().any(|set| word.starts_with(set)))
                && line.words.iter().any(|word| word.contains(prefix));
            if reads || keeps {
                let what =
                    format!("the verdict is kept in the scope '{}'", scope.trim_end_matches('.'));
                let fix = format!("use var({prefix}allow), which ends with its request");
                report.add(Rule::VerdictScope, line.at, what, fix);
            }
        }
    }
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    check_found(guard, report);
    check_alternatives(guard, report);
    let kind = if guard.http { "http-request" } else { "tcp-request" };
    if guard.asked == Asked::Never {
        let message = guard.message();
        let name = &guard.section.name;
        let what = format!("nothing in '{name}' sends the question '{message}'");
        let fix = if guard.http {
            "http-request send-spoe-group identity authorize".to_owned()
        } else {
            "tcp-request inspect-delay 2s\ntcp-request content send-spoe-group identity authorize-tcp"
                .to_owned()
        };
        // Where the other kind of rules asks, it is the mode that is wrong.
        let other = if guard.http { "tcp-request" } else { "http-request" };
        let sends = |word: &String| word == "send-spoe-group";
        let asks = guard.rules(other).iter().any(|(_, line, _)| line.words.iter().any(sends));
        let mode = variant.setting(guard.section, "mode").filter(|_| asks).map(|(at, _)| at);
        report.lacks(Rule::NotAsked, mode.unwrap_or(guard.filter.at), what, fix);
        return;
    }
    check_early(guard, report);
    let rules = guard.rules(kind);
    let refusals = || {
        let ends =
            |(number, line, _): &&Ruled<'_>| guard.is_after(*number) && acts(line, &REFUSALS);
        rules.iter().filter(ends)
    };
    if guard.refusal.is_none() {
        let mut partial = refusals().filter(|(_, line, when)| guard.mentions(line, when));
        if let Some((_, line, when)) = partial.next_back() {
            let also = alternatives(guard, when);
            let what = format!(
                "requests are refused {}, not whenever they are not allowed{also}",
                said(when)
            );
            report.lacks(Rule::DenyDepends, line.at, what, default_deny(guard));
        } else {
            let what = "nothing after the question refuses what is not allowed";
            report.lacks(Rule::NoDefaultDeny, guard.asked_at(), what, default_deny(guard));
        }
    }
    for (number, line, when) in rules {
        let passes = acts(line, &PASSES) && !variant.known.contains(&line.at);
        if passes && guard.is_bypass(*number, when) && !guard.is_for_pages(*number, when) {
            let also = alternatives(guard, when);
            let what =
                format!("requests pass {} before what is not allowed is refused{also}", said(when));
            let fix = "remove the rule, or let its requests end here: http-request return …";
            report.add(Rule::Bypass, line.at, what, fix);
        }
    }
}

/// The lines of the names in a condition that have several: HAProxy takes them as alternatives.
fn alternatives(guard: &Guard<'_>, when: &Condition) -> String {
    let several = when.terms().filter(|term| term.any.len() > 1);
    let names: BTreeSet<_> = several.filter_map(|term| term.name.as_deref()).collect();
    let said = |name: &str| {
        let lines = guard.acl_lines(name).take(8);
        let lines: Vec<_> = lines.map(|(at, _)| at.line.to_string()).collect();
        format!("; '{name}' is any of the lines {}", lines.join(", "))
    };
    names.into_iter().map(said).collect()
}

/// A name that stands for the verdict, and for something else as well.
fn check_alternatives(guard: &Guard<'_>, report: &mut Report) {
    for (name, tests) in &guard.names.acls {
        let verdicts = tests.iter().filter(|test| guard.is_verdict(test)).count();
        if verdicts == 0 || verdicts == tests.len() {
            continue;
        }
        for (at, test) in guard.acl_lines(name) {
            if !guard.is_verdict(test) {
                let what =
                    format!("'{name}' holds by this line as well, and not by the verdict alone");
                report.add(Rule::VerdictMade, at, what, "give it another name");
            }
        }
    }
}

fn check_found(guard: &Guard<'_>, report: &mut Report) {
    let allow = guard.var("allow");
    for line in &guard.lines {
        let mut words = line.words.windows(3);
        let found = words.any(|three| match three {
            [fetch, m, how] => *fetch == allow && m == "-m" && how == "found",
            _ => false,
        });
        if found {
            let what = "'found' asks whether there is a verdict, not which";
            report.add(Rule::VerdictFound, line.at, what, format!("{allow} -m bool"));
        }
    }
}

/// Rules that look at the answer before there is one.
fn check_early(guard: &Guard<'_>, report: &mut Report) {
    let kinds = if guard.http { &["http-request", "tcp-request"][..] } else { &["tcp-request"] };
    for (number, line, when) in kinds.iter().flat_map(|kind| guard.rules(kind)) {
        let earlier = guard.http && line.words.first().is_some_and(|word| word == "tcp-request");
        let early = earlier || (!guard.is_after(*number) && guard.asked != Asked::In(*number));
        if early && guard.mentions(line, when) {
            let asked = guard.asked_at().line;
            let what =
                format!("a variable of the agent is used before the question in line {asked}");
            let fix = format!("move this line below line {asked}");
            report.add(Rule::VerdictTooEarly, line.at, what, fix);
        }
    }
}

fn default_deny(guard: &Guard<'_>) -> String {
    let allow = guard.var("allow");
    if guard.http {
        format!("http-request deny deny_status 503 unless {{ {allow} -m bool }}")
    } else {
        format!("tcp-request content reject unless {{ {allow} -m bool }}")
    }
}

fn said(when: &Condition) -> String {
    if when.is_always() {
        return "always".into();
    }
    format!("{} '{}'", if when.unless { "unless" } else { "if" }, when.words.join(" "))
}

/// Where a line is, for findings about a section as a whole.
pub(super) fn place(guard: &Guard<'_>) -> At {
    guard.asked_at()
}
