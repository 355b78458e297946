//! Whether the question is asked, and its answer is what decides.

use super::{
    Report, Rule, Variant,
    guard::{Asked, Guard},
    pages, reuse,
};
use crate::haproxy::{
    condition::Condition,
    document::{At, Line},
};

/// Actions that end a request.
const REFUSALS: [&str; 6] = ["deny", "reject", "return", "tarpit", "silent-drop", "redirect"];
/// Actions that end the rules and let the request pass.
pub(super) const PASSES: [&str; 2] = ["allow", "accept"];

/// Verdicts in a scope that outlives the request, anywhere.
pub(super) fn check_scopes(variant: &Variant<'_>, report: &mut Report) {
    let prefix = variant.guards.first().map_or("txn.identity.", |guard| &guard.prefix);
    let name = prefix.strip_prefix("txn.").unwrap_or(prefix);
    let lines = variant.sections.iter().flat_map(|section| {
        let known = reuse::known(section);
        section.lines.iter().filter(move |line| !known.contains(&line.at))
    });
    for line in lines {
        for scope in ["sess.", "proc."] {
            let reads = format!("var({scope}{name}");
            let sets = ["set-var(", "set-var-fmt("].map(|set| format!("{set}{scope}"));
            let reads = line.words.iter().any(|word| word.contains(&reads));
            let keeps = line.words.iter().any(|word| sets.iter().any(|set| word.starts_with(set)))
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

pub(super) fn check(guard: &Guard<'_>, report: &mut Report) {
    check_found(guard, report);
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
        report.add(Rule::NotAsked, guard.filter.at, what, fix);
        return;
    }
    check_early(guard, report);
    let rules: Vec<_> = guard.rules(kind).collect();
    let refusals = || {
        let ends = |(number, line, _): &&(usize, &Line, Condition)| {
            guard.is_after(*number) && acts(line, &REFUSALS)
        };
        rules.iter().filter(ends)
    };
    let default = refusals().find(|(_, _, when)| when.holds_without(|test| guard.is_verdict(test)));
    if default.is_none() {
        let mut partial = refusals().filter(|(_, line, when)| guard.mentions(line, when));
        if let Some((_, line, when)) = partial.next_back() {
            let what =
                format!("requests are refused {}, not whenever they are not allowed", said(when));
            report.add(Rule::DenyDepends, line.at, what, default_deny(guard));
        } else {
            let what = "nothing after the question refuses what is not allowed";
            report.add(Rule::NoDefaultDeny, guard.asked_at(), what, default_deny(guard));
        }
    }
    let end = default.map_or(usize::MAX, |(number, ..)| *number);
    let known = reuse::known(guard.section);
    for (number, line, when) in &rules {
        let passes = acts(line, &PASSES) && *number < end && !known.contains(&line.at);
        if passes
            && !when.needs(|test| guard.is_verdict(test))
            && pages::of(guard, *number, when).is_none()
        {
            let what =
                format!("requests pass {} before what is not allowed is refused", said(when));
            let fix = "remove the rule, or let its requests end here: http-request return …";
            report.add(Rule::Bypass, line.at, what, fix);
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
        let early = earlier || (!guard.is_after(number) && guard.asked != Asked::In(number));
        if early && guard.mentions(line, &when) {
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

/// Whether a rule's action is one of these.
pub(super) fn acts(line: &Line, actions: &[&str]) -> bool {
    let action = match &line.words[..] {
        [tcp, content, action, ..] if tcp == "tcp-request" && content == "content" => action,
        [http, action, ..] if http == "http-request" => action,
        _ => return false,
    };
    actions.contains(&action.as_str())
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
