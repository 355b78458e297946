//! Checks that a client's own identity headers are deleted before the gate sets them, and that credentials are taken
//! out of the request before it goes to a workspace.
//!
//! A header must be deleted in every spelling that a CGI server would take for the same name.

use std::{cell::LazyCell, collections::BTreeMap};

use regex::Regex;

use super::{
    Agent, Patterns, Report, Rule, Variant,
    guard::{self, Asked, Guard},
    verdict::place,
};
use crate::haproxy_config::{
    condition::{Condition, Term, Test},
    document::{Line, Section},
    lint::lines::Ruled,
};

/// How names of headers begin by which servers believe what a gateway says about a person.
pub(super) const FAMILIES: [&str; 8] = [
    "x-forwarded",
    "x-identity",
    "x-auth-request",
    "x-remote",
    "x-real-ip",
    "x-wsproxy",
    "remote-user",
    "forwarded",
];
/// Headers that the shipped rules change, and that say nothing about the person.
const THEIRS: [&str; 4] = ["host", "cookie", "authorization", "sec-websocket-protocol"];

/// The rules of a section that delete headers from every request, with their indices.
#[derive(Default)]
pub(super) struct Strips {
    /// Whole names, each with the first rule that deletes it.
    exact: BTreeMap<String, usize>,
    parts: Vec<(usize, How)>,
}

enum How {
    Begin(String),
    End(String),
    Sub(String),
    Reg(Regex),
}

impl Strips {
    /// The rules among these lines that have no condition.
    pub(super) fn among<'l>(
        lines: impl Iterator<Item = (usize, &'l Line)>,
        patterns: &Patterns,
    ) -> Self {
        let mut strips = Self::default();
        for (number, line) in lines {
            let [http, del, name, rest @ ..] = &line.words[..] else { continue };
            if http != "http-request" || del != "del-header" {
                continue;
            }
            let lower = || name.to_ascii_lowercase();
            let how = match rest {
                [m, how] if m == "-m" => match how.as_str() {
                    "beg" => How::Begin(lower()),
                    "end" => How::End(lower()),
                    "sub" => How::Sub(lower()),
                    // HAProxy matches expressions against names in lower case.
                    "reg" => match patterns.get(name) {
                        Some(pattern) => How::Reg(pattern),
                        None => continue,
                    },
                    "str" => {
                        strips.exact.entry(lower()).or_insert(number);
                        continue;
                    }
                    _ => continue,
                },
                [] => {
                    strips.exact.entry(lower()).or_insert(number);
                    continue;
                }
                _ => continue,
            };
            strips.parts.push((number, how));
        }
        strips
    }

    /// Whether a header of this name is deleted before the rule at this index.
    pub(super) fn takes(&self, name: &str, before: usize) -> bool {
        let parts = self.parts.iter().take_while(|(number, _)| *number < before);
        self.exact.get(name).is_some_and(|number| *number < before)
            || parts.into_iter().any(|(_, how)| match how {
                How::Begin(begin) => name.starts_with(begin),
                How::End(end) => name.ends_with(end),
                How::Sub(part) => name.contains(part),
                How::Reg(pattern) => pattern.is_match(name),
            })
    }
}

fn sets(line: &Line) -> bool {
    let [http, action, ..] = &line.words[..] else { return false };
    http == "http-request" && (action == "set-header" || action == "add-header")
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    if !guard.http {
        return;
    }
    check_invalid(guard, report);
    let strips = Strips::among(guard.lines.iter().copied().enumerate(), variant.patterns);
    for (number, line, when) in guard.rules("http-request") {
        check_set(line, when, &guard.prefix, |name| strips.takes(name, *number), report);
    }
    if guard.asked != Asked::Never {
        check_travel(guard, variant.agent, report);
    }
}

/// Reports options by which HAProxy forwards requests that are not valid HTTP.
fn check_invalid(guard: &Guard<'_>, report: &mut Report) {
    const LENIENT: [&str; 2] =
        ["accept-invalid-http-request", "accept-unsafe-violations-in-http-request"];
    for line in &guard.lines {
        let lenient = matches!(&line.words[..], [option, what, ..]
            if option == "option" && LENIENT.contains(&what.as_str()));
        if lenient {
            let what = "malformed requests pass: a workspace can read their headers in another way than these rules";
            report.add(Rule::HeaderNotStripped, line.at, what, "remove it");
        }
    }
}

/// Checks headers that backends set from the agent's variables: a guard in front, or the backend itself, must delete
/// the client's own.
pub(super) fn check_backends(variant: &Variant<'_>, report: &mut Report) {
    let Some(first) = variant.guards.first() else { return };
    let guarded = |section: &Section| variant.guards.iter().any(|g| g.section.at == section.at);
    let before: Vec<_> = variant
        .guards
        .iter()
        .map(|guard| Strips::among(guard.lines.iter().copied().enumerate(), variant.patterns))
        .collect();
    for section in variant.sections.iter().filter(|s| s.kind == "backend" && !guarded(s)) {
        let lines = || guard::all_lines(section, variant.sections);
        let own = Strips::among(lines().enumerate(), variant.patterns);
        let acls = LazyCell::new(|| super::acls(lines()));
        for (number, line) in lines().enumerate().filter(|(_, line)| sets(line)) {
            let when = Condition::parse(&line.words, &acls);
            let deleted = |name: &str| {
                before.iter().any(|strips| strips.takes(name, usize::MAX))
                    || own.takes(name, number)
            };
            check_set(line, &when, &first.prefix, deleted, report);
        }
    }
}

/// Checks a rule that sets an identity header: every spelling of its name must have been deleted before.
fn check_set(
    line: &Line,
    when: &Condition,
    prefix: &str,
    deleted: impl Fn(&str) -> bool,
    report: &mut Report,
) {
    let [http, action, name, value @ ..] = &line.words[..] else { return };
    if http != "http-request" || (action != "set-header" && action != "add-header") {
        return;
    }
    let lower = name.to_ascii_lowercase();
    let ours = value.iter().any(|word| word.contains(prefix))
        || FAMILIES.iter().any(|family| lower.starts_with(family));
    // Other headers mean nothing to the gate.
    if !ours || THEIRS.contains(&lower.as_str()) {
        return;
    }
    // `set-header` replaces headers of exactly this name, if the rule has no condition.
    let replaced = action == "set-header" && when.is_always();
    let open = spellings(&lower).into_iter().find(|s| !(deleted(s) || replaced && *s == lower));
    if let Some(spelling) = open {
        let what = if spelling == lower {
            format!("{name} is set here, and the client's own is not deleted first")
        } else {
            format!("{name} is set here, and the client's own '{spelling}' is not deleted first")
        };
        let pattern = lower.replace('-', "[-_]");
        let fix = format!(
            "http-request del-header ^{pattern}$ -m reg   # at the top of the front end, without a condition"
        );
        report.add(Rule::HeaderNotStripped, line.at, what, fix);
    }
}

/// The name with underscores in place of all hyphens, and in place of each single one.
fn spellings(name: &str) -> Vec<String> {
    // Enough to find an expression that misses underscores; not every mixture is tried.
    let mut all = vec![name.to_owned(), name.replace('-', "_")];
    for (place, _) in name.match_indices('-').take(16) {
        let (before, after) = name.split_at(place);
        all.push(format!("{before}_{}", after.trim_start_matches('-')));
    }
    all
}

/// Checks that tokens and the agent's cookies are taken out before the request goes on.
fn check_travel(guard: &Guard<'_>, agent: &Agent, report: &mut Report) {
    let rules: Vec<_> =
        guard.rules("http-request").iter().filter(|(n, ..)| guard.is_after(*n)).collect();
    let does = |action: &str, name: &str, variable: &str| {
        let var = guard.var(variable);
        rules.iter().any(|(_, line, when)| {
            let named = line.words.get(1).is_some_and(|word| word == action)
                && (name.is_empty()
                    || line.words.get(2).is_some_and(|word| word.eq_ignore_ascii_case(name)));
            // The rule may wait for the very variable that it writes, and for nothing else.
            let positive = |terms: &Vec<_>| {
                terms.iter().all(|term: &Term| {
                    !term.negated && term.any.iter().all(|test| test.fetch == var)
                })
            };
            named && (when.is_always() || (!when.unless && when.any.iter().any(positive)))
        })
    };
    let at = place(guard);
    let (keep, cookie) = (guard.var("keep"), guard.var("cookie"));
    let says = |test: &Test, word: &str| test.is(&keep, "sub") && test.values == [word.to_owned()];
    // Whether a rule deletes the header, except where the agent lists it in `keep` or gives the value that remains.
    let deletes = |name: &str, word: &str, rest: Option<&str>| {
        let rest = rest.map(|variable| guard.var(variable));
        rules.iter().any(|(_, line, when)| {
            let named = matches!(&line.words[..], [_, del, header, ..]
                if del == "del-header" && header.eq_ignore_ascii_case(name));
            let given = |test: &Test| rest.as_ref().is_some_and(|rest| test.is(rest, "len"));
            let left = |test: &Test| says(test, word) || given(test);
            let kept = || when.terms().all(|t| !t.negated && t.any.iter().all(left));
            named && (when.is_always() || (when.unless && kept()))
        })
    };
    if !deletes("authorization", "authorization", None) {
        let fix = format!(
            "http-request del-header Authorization unless {{ {keep} -m sub authorization }}"
        );
        report.add(Rule::CredentialTravels, at, "the token is not removed from Authorization", fix);
    }
    // The header holds tokens for the gate only: nothing keeps it.
    if let Some(header) = &agent.header
        && !rules.iter().any(|(_, line, when)| {
            when.is_always()
                && matches!(&line.words[..], [_, del, name, ..]
                    if del == "del-header" && name.eq_ignore_ascii_case(header))
        })
    {
        let what = format!("the token is not removed from {header}");
        let fix = format!("http-request del-header {header}");
        report.add(Rule::CredentialTravels, at, what, fix);
    }
    if !(deletes("cookie", "cookie", Some("cookie"))
        && (does("set-header", "cookie", "cookie") || removes_all_cookies(&rules)))
    {
        let fix = format!(
            "http-request set-header Cookie \"%[{cookie}]\" if {{ {cookie} -m len gt 0 }}\nhttp-request del-header Cookie unless {{ {cookie} -m len gt 0 }} or {{ {keep} -m sub cookie }}"
        );
        report.add(
            Rule::CredentialTravels,
            at,
            "the agent's cookies are not removed from Cookie",
            fix,
        );
    }
    let query = guard.var("query");
    // The shipped condition: there is a query, and the agent does not keep it.
    let asked = |term: &Term| {
        let there = |test: &Test| test.is("query", "len");
        if term.negated {
            term.any.iter().any(|t| says(t, "query"))
        } else {
            term.any.iter().all(there)
        }
    };
    let queries = rules.iter().any(|(_, line, when)| {
        line.words.get(1).is_some_and(|word| word == "set-query")
            && (when.is_always()
                || (!when.unless && when.any.iter().any(|way| way.iter().all(asked))))
    });
    if agent.query && !queries {
        let fix = format!(
            "http-request set-query %[{query}] if {{ query -m len gt 0 }} !{{ {keep} -m sub query }}"
        );
        report.add(Rule::CredentialTravels, at, "the token is not removed from the query", fix);
    }
    let header = "sec-websocket-protocol";
    if agent.subprotocol
        && !(does("set-header", header, "protocols")
            && deletes(header, "protocols", Some("protocols")))
    {
        let protocols = guard.var("protocols");
        let fix = format!(
            "http-request set-header Sec-WebSocket-Protocol \"%[{protocols}]\" if {{ {protocols} -m len gt 0 }}\nhttp-request del-header Sec-WebSocket-Protocol unless {{ {protocols} -m len gt 0 }} or {{ {keep} -m sub protocols }}"
        );
        let what = "the token is not removed from Sec-WebSocket-Protocol";
        report.add(Rule::CredentialTravels, at, what, fix);
    }
}

/// Whether a rule deletes all cookies.
fn removes_all_cookies(rules: &[&Ruled<'_>]) -> bool {
    rules.iter().any(|(_, line, when)| {
        when.is_always()
            && matches!(&line.words[..], [_, del, name] if del == "del-header" && name.eq_ignore_ascii_case("cookie"))
    })
}
