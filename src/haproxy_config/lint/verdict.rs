//! Checks that the agent is asked, that its verdict is used only afterwards and only for this request, and that
//! everything else is refused.

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

/// Reports verdicts in a scope that outlives the request.
pub(super) fn check_scopes(variant: &Variant<'_>, report: &mut Report) {
    let prefix = variant.prefix();
    let name = prefix.strip_prefix("txn.").unwrap_or(prefix);
    let lines = variant.sections.iter().flat_map(|section| &section.lines);
    let lines = lines.filter(|line| line.has_call && !variant.known.contains(&line.at));
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
                    format!("the verdict is kept in scope '{}'", scope.trim_end_matches('.'));
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
        let what = format!("no rule in '{name}' asks the agent with the message '{message}'");
        let fix = if guard.http {
            "http-request send-spoe-group identity authorize".to_owned()
        } else {
            "tcp-request inspect-delay 2s\ntcp-request content send-spoe-group identity authorize-tcp"
                .to_owned()
        };
        // If the other kind of rules asks the agent, the mode of the section is wrong.
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
        // The last refusal that depends on the verdict is most likely the one that was to be the default.
        let mut partial = refusals().filter(|(_, line, when)| guard.mentions(line, when));
        if let Some((_, line, when)) = partial.next_back() {
            let also = alternatives(guard, when);
            let what = format!(
                "no rule refuses every request that is not allowed: this one refuses only {}{also}",
                said(when)
            );
            report.lacks(Rule::DenyDepends, line.at, what, default_deny(guard));
        } else {
            let what = "no rule after 'send-spoe-group' refuses what is not allowed";
            report.lacks(Rule::NoDefaultDeny, guard.asked_at(), what, default_deny(guard));
        }
    }
    for (number, line, when) in rules {
        let passes = acts(line, &PASSES) && !variant.known.contains(&line.at);
        if passes && guard.is_bypass(*number, when) && !guard.is_for_pages(*number, when) {
            let also = alternatives(guard, when);
            let what = format!(
                "requests pass {} before the rule that refuses what is not allowed{also}",
                said(when)
            );
            let fix = "remove the rule, or let its requests end here: http-request return …";
            report.add(Rule::Bypass, line.at, what, fix);
        }
    }
}

/// For a message: the lines of those ACLs in a condition that have several, which are alternatives.
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

/// Reports an ACL that is the verdict by one line and something else by another.
fn check_alternatives(guard: &Guard<'_>, report: &mut Report) {
    for (name, tests) in &guard.names.acls {
        let verdicts = tests.iter().filter(|test| guard.is_verdict(test)).count();
        // Two lines that are both the verdict change nothing.
        if verdicts == 0 || verdicts == tests.len() {
            continue;
        }
        for (at, test) in guard.acl_lines(name) {
            if !guard.is_verdict(test) {
                let what = format!("by this line '{name}' is true without the verdict too");
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
            let what = "'-m found' is true for every verdict, also for a refusal";
            report.add(Rule::VerdictFound, line.at, what, format!("{allow} -m bool"));
        }
    }
}

/// Reports rules that use the agent's variables before it is asked.
fn check_early(guard: &Guard<'_>, report: &mut Report) {
    let kinds = if guard.http { &["http-request", "tcp-request"][..] } else { &["tcp-request"] };
    for (number, line, when) in kinds.iter().flat_map(|kind| guard.rules(kind)) {
        // `tcp-request` rules are followed before all `http-request` rules, wherever they stand.
        let earlier = guard.http && line.words.first().is_some_and(|word| word == "tcp-request");
        let early = earlier || (!guard.is_after(*number) && guard.asked != Asked::In(*number));
        if early && guard.mentions(line, when) {
            let asked = guard.asked_at().line;
            let what = format!(
                "a variable of the agent is used before the agent is asked in line {asked}"
            );
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

/// The place for findings about a section as a whole.
pub(super) fn place(guard: &Guard<'_>) -> At {
    guard.asked_at()
}
