//! The shipped rules that protect workspaces and the gate, which every front end that asks must have: in the
//! shipped words, or in any that do at least as much.

use std::collections::BTreeSet;

use super::{
    Report, Rule, Variant,
    guard::{Asked, Guard},
    headers::Strips,
    shipped::PLAIN,
};
use crate::haproxy_config::{
    condition::{Acls, Condition, Term, Test},
    document::{At, Line},
    lint::lines::Ruled,
};

/// Headers that somebody believes. Those that the shipped rules delete must be deleted.
const HEADERS: [&str; 20] = [
    "x-identity-user",
    "x-auth-request-user",
    "x-remote-user",
    "x-wsproxy-auth",
    "x-forwarded-user",
    "x-forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "remote-user",
    "remote-name",
    "remote-email",
    "remote-groups",
    "forwarded",
    "http2-settings",
    "x-unique-id",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];
/// Actions that end a request with an answer, or none.
const ENDS: [&str; 5] = ["deny", "reject", "return", "tarpit", "silent-drop"];
/// What stands between the words of a name: CGI-like servers make one variable of all of them.
const SEPARATORS: [&str; 3] = ["-", "_", "."];

/// The front end of the shipped file.
fn shipped() -> impl Iterator<Item = &'static Line> {
    let fronts = PLAIN.iter().filter(|section| section.kind == "frontend");
    fronts.flat_map(|section| section.lines.iter().map(|line| &**line))
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    if !guard.http || guard.asked == Asked::Never {
        return;
    }
    check_strips(guard, variant, report);
    let acls = super::acls(shipped());
    for line in shipped() {
        let Some(wanted) = Wanted::of(line, &acls, guard) else { continue };
        let rules = guard.rules(wanted.keyword);
        if rules.iter().any(|rule| wanted.is_done_by(rule, guard, variant)) {
            continue;
        }
        if let Some((name, at)) = wanted.redefined(guard) {
            let what = format!(
                "'{name}' is HAProxy's own name, and means something else by this line: {}",
                wanted.what()
            );
            report.lacks(Rule::RuleMissing, at, what, "give it another name");
            continue;
        }
        let like = rules.iter().find(|(_, line, _)| wanted.is_like(line));
        let at = like.map_or_else(|| guard.asked_at(), |(_, line, _)| line.at);
        let text = line.words.join(" ").replace("txn.identity.", &guard.prefix);
        let what = match like {
            Some(_) => format!("this is not followed whenever it must be: {}", wanted.what()),
            None => format!("there is no rule for it: {}", wanted.what()),
        };
        report.lacks(Rule::RuleMissing, at, what, text);
    }
    check_helpers(guard, variant, report);
}

/// A shipped rule that must be there.
struct Wanted<'s> {
    keyword: &'s str,
    line: &'s Line,
    when: Condition,
}

impl<'s> Wanted<'s> {
    fn of(line: &'s Line, acls: &Acls, guard: &Guard<'_>) -> Option<Self> {
        let [keyword, action, name, ..] = &line.words[..] else { return None };
        let when = expanded(Condition::of(&line.words, acls), &guard.prefix);
        let protects = match (keyword.as_str(), action.as_str()) {
            // The answers to what is not allowed have a check of their own.
            ("http-request", "deny" | "reject" | "return") => {
                !when.is_always() && !when.any.iter().flatten().any(about_verdict)
            }
            // Deleting always is what strips do, and credentials have a check of their own.
            ("http-request", "del-header") => !when.is_always() && !is_credential(name),
            ("http-request", "set-header") => name.eq_ignore_ascii_case("connection"),
            // So has our cookie.
            ("http-response" | "http-after-response", "replace-header" | "del-header" | "deny") => {
                !name.eq_ignore_ascii_case("set-cookie")
            }
            _ => false,
        };
        protects.then_some(Self { keyword, line, when })
    }

    /// The name of HAProxy's own in its condition that a line of the front end defines otherwise.
    fn redefined(&self, guard: &Guard<'_>) -> Option<(&str, At)> {
        let named = self.when.terms().filter(|term| term.any.is_empty());
        let name = named
            .filter_map(|term| term.name.as_deref())
            .find(|n| guard.names.acls.contains_key(*n))?;
        guard.acl_lines(name).next().map(|(at, _)| (name, at))
    }

    /// Its action and what it is about, in words.
    fn what(&self) -> String {
        let words = self.line.words.iter().skip(1).take(2);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Whether a rule does the same to the same, whenever it does.
    fn is_like(&self, line: &Line) -> bool {
        let word = |line: &Line, n: usize| {
            line.words.get(n).map(|word| word.to_ascii_lowercase()).unwrap_or_default()
        };
        let action = word(self.line, 1);
        let ends = |action: &str| ENDS.contains(&action);
        if ends(&action) {
            return ends(&word(line, 1)) && self.shares_test(line);
        }
        action == word(line, 1)
            && word(self.line, 2) == word(line, 2)
            && (action == "del-header" || self.line.words.get(3) == line.words.get(3))
    }

    /// Whether a refusal is about the same thing.
    fn shares_test(&self, line: &Line) -> bool {
        let names = self.when.terms().filter_map(|term| term.name.as_deref());
        let method = self.when.terms().filter_map(own).map(|_| "method");
        let fetches: BTreeSet<_> =
            self.when.tests().map(|test| test.fetch.as_str()).chain(names).chain(method).collect();
        line.words.iter().any(|word| fetches.contains(word.trim_start_matches('!')))
    }

    fn is_done_by(
        &self,
        (_, line, when): &Ruled<'_>,
        guard: &Guard<'_>,
        variant: &Variant<'_>,
    ) -> bool {
        if !self.is_like(line) {
            return false;
        }
        let set = line.words.get(1).is_some_and(|action| action == "set-header");
        if set || when.unless != self.when.unless {
            // What sets must do so in these cases, and not in others.
            return same(&self.when, when) || (!set && covers(when, guard, variant));
        }
        // Each case of the shipped rule is one of this.
        let case = |terms: &Vec<Term>| {
            when.any.iter().any(|way| way.iter().all(|term| terms.iter().any(|t| is(t, term))))
        };
        same(&self.when, when)
            || covers(when, guard, variant)
            || (!when.unless && !self.when.is_always() && self.when.any.iter().all(case))
    }
}

fn is_credential(name: &str) -> bool {
    ["authorization", "cookie", "sec-websocket-protocol"]
        .iter()
        .any(|credential| name.eq_ignore_ascii_case(credential))
}

/// The condition with another prefix of variables.
fn expanded(mut when: Condition, prefix: &str) -> Condition {
    const SHIPPED: &str = "txn.identity.";
    if prefix != SHIPPED {
        for term in when.any.iter_mut().flatten() {
            for test in std::sync::Arc::make_mut(&mut term.any) {
                test.fetch = test.fetch.replace(SHIPPED, prefix);
            }
        }
    }
    when
}

/// Whether two conditions have the same tests, whatever they are called.
fn same(one: &Condition, other: &Condition) -> bool {
    let ways = |one: &Condition, other: &Condition| {
        one.any.iter().all(|way| {
            other.any.iter().any(|same| {
                way.len() == same.len() && way.iter().all(|term| same.iter().any(|t| is(t, term)))
            })
        })
    };
    one.unless == other.unless && ways(one, other) && ways(other, one)
}

/// Whether two terms say the same. Names that no line defines are HAProxy's own, such as `METH_CONNECT`.
fn is(one: &Term, other: &Term) -> bool {
    let same = match (own(one), own(other)) {
        (None, None) => one.any == other.any && !one.any.is_empty(),
        (Some(one), None) => other.any[..] == [one],
        (None, Some(other)) => one.any[..] == [other],
        (Some(_), Some(_)) => one.name == other.name,
    };
    one.negated == other.negated && same
}

/// What one of HAProxy's own names stands for, of those about the method; another one stands for itself.
fn own(term: &Term) -> Option<Test> {
    let name = term.name.as_deref().filter(|_| term.any.is_empty())?;
    let method = name.strip_prefix("METH_").unwrap_or(name);
    Some(Test { fetch: "method".into(), values: vec![method.into()], ..Test::default() })
}

/// Whether a term looks at a variable of the agent.
fn about_verdict(term: &Term) -> bool {
    term.any.iter().any(|test| test.mentions("txn.identity."))
}

/// Whether a rule is followed for everything that could come from, or go to, a workspace.
pub(super) fn covers(when: &Condition, guard: &Guard<'_>, variant: &Variant<'_>) -> bool {
    when.is_always() || when.holds_without(|test| is_page(test, guard, variant))
}

/// Whether a test passes only for our pages; or never, since nothing sets what it looks at.
fn is_page(test: &Test, guard: &Guard<'_>, variant: &Variant<'_>) -> bool {
    let takes = guard.pages.as_ref().is_some_and(|pages| pages.takes_all(test));
    let name = test.fetch.strip_prefix("var(").and_then(|name| name.strip_suffix(')'));
    let unset = || {
        test.method.as_deref() == Some("bool")
            && name.is_some_and(|name| {
                !name.starts_with(&guard.prefix) && !variant.written.contains(name)
            })
    };
    takes || unset()
}

/// Variables that exempt requests from the rules above: only the shipped rules set them, or rules of requests
/// that go to our pages for that.
fn check_helpers(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let protecting = guard.rules("http-response").iter().chain(
        guard.rules("http-request").iter().filter(|(_, line, _)| {
            line.words.get(2).is_some_and(|name| name.eq_ignore_ascii_case("connection"))
        }),
    );
    // The shipped refusals, by what is counted or noted for them.
    let acls = super::acls(shipped());
    let refusals =
        shipped().filter(|line| line.words.get(1).is_some_and(|w| ENDS.contains(&w.as_str())));
    let refusals: Vec<_> = refusals.map(|line| Condition::of(&line.words, &acls)).collect();
    let names: BTreeSet<&str> = protecting
        .flat_map(|(_, _, when)| when.tests())
        .chain(refusals.iter().flat_map(Condition::tests))
        .filter_map(|test| test.fetch.strip_prefix("var(")?.strip_suffix(')'))
        .filter(|name| !name.starts_with(&guard.prefix) && !name.starts_with("txn.identity."))
        .collect();
    if names.is_empty() {
        return;
    }
    let own: BTreeSet<At> =
        guard.rules("http-request").iter().map(|(_, line, _)| line.at).collect();
    let shipped = helpers();
    for section in variant.sections {
        for line in &section.lines {
            let written = variant.writers.get(&line.at).into_iter().flatten();
            for name in written.map(String::as_str).filter(|name| names.contains(name)) {
                let condition = || Condition::of(&line.words, &guard.names.acls);
                let test = Test {
                    fetch: format!("var({name})"),
                    method: Some("bool".into()),
                    ..Test::default()
                };
                let page = guard.pages.as_ref().is_some_and(|pages| pages.takes_all(&test));
                let as_shipped = shipped.iter().any(|helper| {
                    helper.name == name
                        && line.words.get(2).is_some_and(|value| value == helper.value)
                        && narrows(&condition(), &helper.when)
                });
                let as_shipped = as_shipped || super::shipped::has_line(&line.words);
                if own.contains(&line.at) && (page || as_shipped) {
                    continue;
                }
                let what = format!(
                    "'{name}' decides whether rules that protect are followed, and is set here"
                );
                report.add(Rule::RuleMissing, line.at, what, "use a variable of another name");
            }
        }
    }
}

/// A shipped rule that gives a variable a value.
struct Helper {
    name: &'static str,
    value: &'static str,
    when: Condition,
}

/// The shipped rules that set a variable under a condition, of those outside of conditions of the file.
fn helpers() -> Vec<Helper> {
    let acls = super::acls(shipped());
    let set = |line: &'static Line| {
        let name = line.words.get(1)?.strip_prefix("set-var(")?.strip_suffix(')')?;
        let value = line.words.get(2)?;
        Some(Helper { name, value, when: Condition::of(&line.words, &acls) })
    };
    shipped().filter_map(set).filter(|helper| !helper.when.is_always()).collect()
}

/// Whether a condition holds in no other case than another one.
fn narrows(when: &Condition, other: &Condition) -> bool {
    let inside = |terms: &Vec<Term>| {
        other.any.iter().any(|way| way.iter().all(|term| terms.iter().any(|t| is(t, term))))
    };
    !when.unless && !other.unless && !when.is_always() && when.any.iter().all(inside)
}

/// Headers of which clients could send their own.
fn check_strips(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let wanted = Strips::of(shipped().enumerate(), variant.patterns);
    let strips = Strips::of(guard.lines.iter().copied().enumerate(), variant.patterns);
    for name in HEADERS {
        let spelled = SEPARATORS.map(|separator| name.replace('-', separator));
        let open = spelled
            .iter()
            .find(|name| wanted.takes(name, usize::MAX) && !strips.takes(name, usize::MAX));
        let Some(open) = open else { continue };
        // A rule that is about this header, but not in all spellings, or not always.
        let like = guard.rules("http-request").iter().find(|(_, line, _)| {
            let always = line.words.iter().take_while(|word| *word != "if" && *word != "unless");
            let line = Line { at: line.at, words: always.cloned().collect() };
            let one = Strips::of([(0, &line)].into_iter(), variant.patterns);
            spelled.iter().any(|name| one.takes(name, usize::MAX))
        });
        let at = like.map_or_else(|| guard.asked_at(), |(_, line, _)| line.at);
        let text = shipped().find(|line| {
            Strips::of([(0, *line)].into_iter(), variant.patterns).takes(open, usize::MAX)
        });
        let fix = text.map(|line| line.words.join(" ")).unwrap_or_default();
        let what = format!("a client's '{open}' is not deleted from every request");
        report.lacks(Rule::HeaderNotStripped, at, what, fix);
    }
}
