//! Headers: what clients send in our name, and what must not travel on.

use regex::Regex;

use super::{
    Agent, Report, Rule, Variant,
    guard::{Asked, Guard},
    question::{acts, place},
};
use crate::haproxy::{
    condition::Condition,
    document::{Line, Section},
};

/// How headers begin in which servers believe whom a gateway let in.
const FAMILIES: [&str; 8] = [
    "x-forwarded",
    "x-identity",
    "x-auth-request",
    "x-remote",
    "x-real-ip",
    "x-wsproxy",
    "remote-user",
    "forwarded",
];
/// Headers that travel on changed, and are no word of ours about the client.
const THEIRS: [&str; 4] = ["host", "cookie", "authorization", "sec-websocket-protocol"];

/// A rule that deletes headers from every request.
struct Strip {
    number: usize,
    how: How,
}

enum How {
    Exact(String),
    Begin(String),
    End(String),
    Sub(String),
    Reg(Regex),
}

impl Strip {
    /// The rules in the order of a section, of those that always hold.
    fn all<'l>(lines: impl Iterator<Item = (usize, &'l Line)>) -> Vec<Self> {
        let strip = |(number, line): (usize, &Line)| {
            let [http, del, name, rest @ ..] = &line.words[..] else { return None };
            if http != "http-request" || del != "del-header" {
                return None;
            }
            let how = match rest {
                [] => How::Exact(name.to_ascii_lowercase()),
                [m, how] if m == "-m" => match how.as_str() {
                    "str" => How::Exact(name.to_ascii_lowercase()),
                    "beg" => How::Begin(name.to_ascii_lowercase()),
                    "end" => How::End(name.to_ascii_lowercase()),
                    "sub" => How::Sub(name.to_ascii_lowercase()),
                    // HAProxy compares names in lower case.
                    "reg" => How::Reg(Regex::new(name).ok()?),
                    _ => return None,
                },
                _ => return None,
            };
            Some(Self { number, how })
        };
        lines.filter_map(strip).collect()
    }

    fn takes(&self, name: &str) -> bool {
        match &self.how {
            How::Exact(whole) => whole == name,
            How::Begin(begin) => name.starts_with(begin),
            How::End(end) => name.ends_with(end),
            How::Sub(part) => name.contains(part),
            How::Reg(pattern) => pattern.is_match(name),
        }
    }
}

pub(super) fn check(guard: &Guard<'_>, agent: &Agent, report: &mut Report) {
    if !guard.http {
        return;
    }
    let strips = Strip::all(guard.lines.iter().copied().enumerate());
    let mut passes = guard.rules("http-request").filter(|(_, line, _)| acts(line, &["allow"]));
    let first_pass = passes.next().map_or(usize::MAX, |(number, ..)| number);
    for (number, line, when) in guard.rules("http-request") {
        let before = number.min(first_pass);
        let strips = || strips.iter().filter(move |strip| strip.number < before);
        check_set(line, &when, &guard.prefix, |name| strips().any(|s| s.takes(name)), report);
    }
    if guard.asked != Asked::Never {
        check_travel(guard, agent, report);
    }
}

/// Headers that a back end sets from the verdict: a guard before it, or itself, must delete them.
pub(super) fn check_backends(variant: &Variant<'_>, report: &mut Report) {
    let Some(first) = variant.guards.first() else { return };
    let guarded = |section: &Section| variant.guards.iter().any(|g| g.section.at == section.at);
    let before: Vec<_> = variant
        .guards
        .iter()
        .flat_map(|guard| Strip::all(guard.lines.iter().copied().enumerate()))
        .collect();
    for section in variant.sections.iter().filter(|s| s.kind == "backend" && !guarded(s)) {
        let own = Strip::all(section.lines.iter().enumerate());
        for (number, line) in section.lines.iter().enumerate() {
            let when =
                Condition::of(&line.words, &super::acls(&section.lines.iter().collect::<Vec<_>>()));
            let deleted = |name: &str| {
                before.iter().any(|strip| strip.takes(name))
                    || own.iter().any(|strip| strip.number < number && strip.takes(name))
            };
            check_set(line, &when, &first.prefix, deleted, report);
        }
    }
}

/// A rule that sets a header in our name: every spelling must have been deleted before.
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
    if !ours || THEIRS.contains(&lower.as_str()) {
        return;
    }
    // Setting a header replaces those that are spelled so, if the rule always holds.
    let replaced = action == "set-header" && when.is_always();
    let open = spellings(&lower).into_iter().find(|s| !(deleted(s) || replaced && *s == lower));
    if let Some(spelling) = open {
        let what = if spelling == lower {
            format!("{name} is set here, and a client's own is not deleted before")
        } else {
            format!("{name} is set here, and a client's '{spelling}' is not deleted before")
        };
        let pattern = lower.replace('-', "[-_]");
        let fix = format!(
            "http-request del-header ^{pattern}$ -m reg   # at the top of the front end, without a condition"
        );
        report.add(Rule::HeaderNotStripped, line.at, what, fix);
    }
}

/// The name, with underscores for all of its hyphens, and for each.
fn spellings(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned(), name.replace('-', "_")];
    for (place, _) in name.match_indices('-').take(16) {
        let (before, after) = name.split_at(place);
        all.push(format!("{before}_{}", after.trim_start_matches('-')));
    }
    all
}

/// Tokens and our cookies must be taken out before the request travels on.
fn check_travel(guard: &Guard<'_>, agent: &Agent, report: &mut Report) {
    let rules: Vec<_> = guard.rules("http-request").filter(|(n, ..)| guard.is_after(*n)).collect();
    let does = |action: &str, name: &str, variable: &str| {
        let var = guard.var(variable);
        rules.iter().any(|(_, line, when)| {
            let named = line.words.get(1).is_some_and(|word| word == action)
                && (name.is_empty()
                    || line.words.get(2).is_some_and(|word| word.eq_ignore_ascii_case(name)));
            let positive = |terms: &Vec<_>| {
                terms.iter().all(|term: &crate::haproxy::condition::Term| {
                    !term.negated && term.any.iter().all(|test| test.fetch == var)
                })
            };
            named && (when.is_always() || (!when.unless && when.any.iter().any(positive)))
        })
    };
    let at = place(guard);
    let (strip, cookie) = (guard.var("strip_authorization"), guard.var("cookie"));
    if !does("del-header", "authorization", "strip_authorization") {
        let fix = format!("http-request del-header Authorization if {{ {strip} -m bool }}");
        report.add(Rule::CredentialTravels, at, "the token is not taken out of Authorization", fix);
    }
    if !(does("del-header", "cookie", "cookie")
        && (does("set-header", "cookie", "cookie") || removes_all_cookies(&rules)))
    {
        let fix = format!(
            "http-request set-header Cookie \"%[{cookie}]\" if {{ {cookie} -m len gt 0 }}\nhttp-request del-header Cookie if {{ {cookie} -m found }} {{ {cookie} -m len 0 }}"
        );
        report.add(Rule::CredentialTravels, at, "our cookies are not taken out of Cookie", fix);
    }
    let query = guard.var("query");
    if agent.query && !does("set-query", "", "query") {
        let fix = format!("http-request set-query %[{query}] if {{ {query} -m found }}");
        report.add(Rule::CredentialTravels, at, "the token is not taken out of the query", fix);
    }
    let header = "sec-websocket-protocol";
    if agent.subprotocol
        && !(does("set-header", header, "protocols") && does("del-header", header, "protocols"))
    {
        let protocols = guard.var("protocols");
        let fix = format!(
            "http-request set-header Sec-WebSocket-Protocol \"%[{protocols}]\" if {{ {protocols} -m len gt 0 }}\nhttp-request del-header Sec-WebSocket-Protocol if {{ {protocols} -m found }} {{ {protocols} -m len 0 }}"
        );
        let what = "the token is not taken out of Sec-WebSocket-Protocol";
        report.add(Rule::CredentialTravels, at, what, fix);
    }
}

/// Whether no cookie at all travels on.
fn removes_all_cookies(rules: &[(usize, &Line, Condition)]) -> bool {
    rules.iter().any(|(_, line, when)| {
        when.is_always()
            && matches!(&line.words[..], [_, del, name] if del == "del-header" && name.eq_ignore_ascii_case("cookie"))
    })
}
