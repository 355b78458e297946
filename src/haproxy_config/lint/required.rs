//! Checks that every guard has the shipped rules that protect workspaces and the gate, in the shipped words or in any
//! that do at least as much.

use std::collections::BTreeSet;

use super::{
    Report, Rule, Variant,
    guard::{Asked, Guard},
    headers::Strips,
    shipped::PLAIN,
};
use crate::haproxy_config::{
    condition::{Acls, Condition, Term, Test, step},
    document::{At, Line},
    lint::lines::Ruled,
};

/// Names that servers and frameworks believe. Those that the shipped rules delete must be deleted.
const HEADERS: [&str; 21] = [
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
    // For this proxy, and not for the workspace; the agent may read tokens there.
    "proxy-authorization",
    "x-unique-id",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];
/// Actions that end a request, with an answer or without.
const ENDS: [&str; 5] = ["deny", "reject", "return", "tarpit", "silent-drop"];
/// What can stand between the words of a name; CGI servers make the same variable of all of them.
const SEPARATORS: [&str; 3] = ["-", "_", "."];

/// The lines of the shipped front end.
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
        let Some(wanted) = Wanted::from_rule(line, &acls, guard) else { continue };
        let rules = guard.rules(wanted.keyword);
        if rules.iter().any(|rule| wanted.is_done_by(rule, guard, variant)) {
            continue;
        }
        // One line breaks every rule that uses the name: it is the line to report.
        if let Some((name, at)) = wanted.redefined(guard) {
            let what = format!(
                "'{name}' is one of HAProxy's own names, and this line gives it another meaning: {}",
                wanted.what()
            );
            report.lacks(Rule::RuleMissing, at, what, "give it another name");
            continue;
        }
        // A rule that does the same under another condition is where the finding belongs.
        let like = rules.iter().find(|(_, line, _)| wanted.is_like(line));
        let at = like.map_or_else(|| guard.asked_at(), |(_, line, _)| line.at);
        let text = line.words.join(" ").replace("txn.identity.", &guard.prefix);
        let what = match like {
            Some(_) => {
                format!("this rule is not followed in every case that needs it: {}", wanted.what())
            }
            None => format!("a shipped rule is missing: {}", wanted.what()),
        };
        report.lacks(Rule::RuleMissing, at, what, text);
    }
    check_helpers(guard, variant, report);
}

/// A shipped rule that every guard must have.
struct Wanted<'s> {
    keyword: &'s str,
    line: &'s Line,
    when: Condition,
}

impl<'s> Wanted<'s> {
    fn from_rule(line: &'s Line, acls: &Acls, guard: &Guard<'_>) -> Option<Self> {
        let [keyword, action, name, ..] = &line.words[..] else { return None };
        let when = expanded(Condition::parse(&line.words, acls), &guard.prefix);
        let protects = match (keyword.as_str(), action.as_str()) {
            // [`super::verdict`] checks the answers to what is not allowed.
            ("http-request", "deny" | "reject" | "return") => {
                !when.is_always() && !when.any.iter().flatten().any(about_verdict)
            }
            // `check_strips` checks what is always deleted, and [`super::headers`] what holds credentials.
            ("http-request", "del-header") => !when.is_always() && !is_credential(name),
            ("http-request", "set-header") => name.eq_ignore_ascii_case("connection"),
            // [`super::cookies`] checks the rule about the agent's cookies.
            ("http-response" | "http-after-response", "replace-header" | "del-header" | "deny") => {
                !name.eq_ignore_ascii_case("set-cookie")
            }
            _ => false,
        };
        protects.then_some(Self { keyword, line, when })
    }

    /// A name of HAProxy's own in the condition (`METH_CONNECT`) that the section defines to mean something else.
    fn redefined(&self, guard: &Guard<'_>) -> Option<(&str, At)> {
        let named = self.when.terms().filter(|term| term.any.is_empty());
        let name = named
            .filter_map(|term| term.name.as_deref())
            .find(|n| guard.names.acls.contains_key(*n))?;
        guard.acl_lines(name).next().map(|(at, _)| (name, at))
    }

    /// The action and its argument, for messages.
    fn what(&self) -> String {
        let words = self.line.words.iter().skip(1).take(2);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Whether a rule does the same thing, whatever its condition.
    fn is_like(&self, line: &Line) -> bool {
        step();
        let [_, action, wanted @ ..] = &self.line.words[..] else { return false };
        let [_, other, found @ ..] = &line.words[..] else { return false };
        let ends = |action: &str| ENDS.iter().any(|end| action.eq_ignore_ascii_case(end));
        if ends(action) {
            return ends(other) && self.shares_test(line);
        }
        let same_name = match (wanted.first(), found.first()) {
            (Some(wanted), Some(found)) => wanted.eq_ignore_ascii_case(found),
            (None, None) => true,
            _ => false,
        };
        action.eq_ignore_ascii_case(other)
            && same_name
            && (action == "del-header" || wanted.get(1) == found.get(1))
    }

    /// Whether a refusal tests the same sample.
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
            // A rule that sets a value must do so under the same condition, not under a wider one.
            return same(&self.when, when) || (!set && covers(when, guard, variant));
        }
        // Every alternative of the shipped condition must be covered by one of this condition.
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

/// The condition with the prefix that this section uses.
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

/// Whether two conditions have the same tests. Names of ACLs may differ.
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

/// Whether two terms mean the same. A name that no line defines is HAProxy's own, such as `METH_CONNECT`.
fn is(one: &Term, other: &Term) -> bool {
    let same = match (own(one), own(other)) {
        (None, None) => one.any == other.any && !one.any.is_empty(),
        (Some(one), None) => other.any[..] == [one],
        (None, Some(other)) => one.any[..] == [other],
        (Some(_), Some(_)) => one.name == other.name,
    };
    one.negated == other.negated && same
}

/// The test that HAProxy's own names about the method stand for.
fn own(term: &Term) -> Option<Test> {
    let name = term.name.as_deref().filter(|_| term.any.is_empty())?;
    let method = name.strip_prefix("METH_").unwrap_or(name);
    Some(Test { fetch: "method".into(), values: vec![method.into()], ..Test::default() })
}

/// Whether a term looks at a variable of the agent.
fn about_verdict(term: &Term) -> bool {
    term.any.iter().any(|test| test.mentions("txn.identity."))
}

/// Whether a rule is followed for every request to a workspace and every response from one.
pub(super) fn covers(when: &Condition, guard: &Guard<'_>, variant: &Variant<'_>) -> bool {
    when.is_always() || when.holds_without(|test| is_page(test, guard, variant))
}

/// Whether a test passes only for the agent's pages, or never because no rule sets its variable.
fn is_page(test: &Test, guard: &Guard<'_>, variant: &Variant<'_>) -> bool {
    let takes = guard.pages.as_ref().is_some_and(|pages| pages.takes_all(test));
    let name = test.fetch.strip_prefix("var(").and_then(|name| name.strip_suffix(')'));
    // A boolean variable that no rule sets is never true.
    let unset = || {
        test.method.as_deref() == Some("bool")
            && name.is_some_and(|name| {
                !name.starts_with(&guard.prefix) && !variant.written.contains(name)
            })
    };
    takes || unset()
}

/// Reports rules that set the variables on which the protecting rules depend. Only the shipped rules may set them, and
/// rules for requests that go to the agent's pages.
fn check_helpers(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let protecting = guard.rules("http-response").iter().chain(
        guard.rules("http-request").iter().filter(|(_, line, _)| {
            line.words.get(2).is_some_and(|name| name.eq_ignore_ascii_case("connection"))
        }),
    );
    // The shipped refusals depend on variables too, such as the counted rounds.
    let acls = super::acls(shipped());
    let refusals =
        shipped().filter(|line| line.words.get(1).is_some_and(|w| ENDS.contains(&w.as_str())));
    let refusals: Vec<_> = refusals.map(|line| Condition::parse(&line.words, &acls)).collect();
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
            let written = variant.writes(line).iter();
            for name in written.map(String::as_str).filter(|name| names.contains(name)) {
                let condition = || Condition::parse(&line.words, &guard.names.acls);
                let test = Test {
                    fetch: format!("var({name})"),
                    method: Some("bool".into()),
                    ..Test::default()
                };
                let page = guard.pages.as_ref().is_some_and(|pages| pages.takes_all(&test));
                // Narrower conditions than the shipped ones make fewer exceptions.
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
                    "'{name}' decides whether protecting rules are followed, and this line sets it"
                );
                report.add(Rule::RuleMissing, line.at, what, "use a variable of another name");
            }
        }
    }
}

/// A shipped rule that sets a variable.
struct Helper {
    name: &'static str,
    value: &'static str,
    when: Condition,
}

/// The shipped rules that set a variable under a condition, outside of `.if`.
fn helpers() -> Vec<Helper> {
    let acls = super::acls(shipped());
    let set = |line: &'static Line| {
        let name = line.words.get(1)?.strip_prefix("set-var(")?.strip_suffix(')')?;
        let value = line.words.get(2)?;
        Some(Helper { name, value, when: Condition::parse(&line.words, &acls) })
    };
    shipped().filter_map(set).filter(|helper| !helper.when.is_always()).collect()
}

/// Whether a condition holds only where another one holds.
fn narrows(when: &Condition, other: &Condition) -> bool {
    let inside = |terms: &Vec<Term>| {
        other.any.iter().any(|way| way.iter().all(|term| terms.iter().any(|t| is(t, term))))
    };
    !when.unless && !other.unless && !when.is_always() && when.any.iter().all(inside)
}

/// Checks that a client's own headers of [`HEADERS`] are deleted.
fn check_strips(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let wanted = Strips::among(shipped().enumerate(), variant.patterns);
    let strips = Strips::among(guard.lines.iter().copied().enumerate(), variant.patterns);
    for name in HEADERS {
        let spelled = SEPARATORS.map(|separator| name.replace('-', separator));
        let open = spelled
            .iter()
            .find(|name| wanted.takes(name, usize::MAX) && !strips.takes(name, usize::MAX));
        let Some(open) = open else { continue };
        // A rule about this header that misses spellings or has a condition is where the finding belongs.
        let like = guard.rules("http-request").iter().find(|(_, line, _)| {
            let always = line.words.iter().take_while(|word| *word != "if" && *word != "unless");
            let line = Line::new(line.at, always.cloned().collect());
            let one = Strips::among([(0, &line)].into_iter(), variant.patterns);
            spelled.iter().any(|name| one.takes(name, usize::MAX))
        });
        let at = like.map_or_else(|| guard.asked_at(), |(_, line, _)| line.at);
        let text = shipped().find(|line| {
            Strips::among([(0, *line)].into_iter(), variant.patterns).takes(open, usize::MAX)
        });
        let fix = text.map(|line| line.words.join(" ")).unwrap_or_default();
        let what = format!("a client's own '{open}' is not deleted from every request");
        report.lacks(Rule::HeaderNotStripped, at, what, fix);
    }
}
