//! Finds the route to the agent's pages: the only requests that may pass without a verdict.
//!
//! A rule lets such requests pass before the agent is asked. It is accepted only if every request that it lets pass
//! surely takes a route to one backend that no other route leads to.

use std::collections::BTreeMap;

use crate::haproxy_config::{
    condition::{Condition, Term, Test},
    document::Line,
    lint::lines::{PASSES, Ruled, acts, is_unknown, target},
};

/// The backend of the agent's pages, and which requests go there.
pub(super) struct Pages<'v> {
    /// The name of the backend.
    pub(super) name: &'v str,
    /// The line of the route.
    pub(super) route: &'v Line,
    /// The condition of the route.
    when: Condition,
    /// By variable, the rules that set it to true, each with its index and condition.
    sets: BTreeMap<String, Vec<(usize, Condition)>>,
}

impl<'v> Pages<'v> {
    /// Finds the pages of a section: a route that surely takes the requests of a rule that lets pass without a verdict,
    /// to a backend that no other route leads to.
    pub(super) fn find(rules: &BTreeMap<&'v str, Vec<Ruled<'v>>>) -> Option<Self> {
        Self::candidates(rules).into_iter().find(|pages| routes_to(pages.name, rules).count() == 1)
    }

    /// Where there are no pages because other routes lead to their backend: the lines of those routes.
    pub(super) fn contested(rules: &BTreeMap<&'v str, Vec<Ruled<'v>>>) -> Vec<&'v Line> {
        let candidates = Self::candidates(rules);
        let others = candidates.iter().flat_map(|pages| {
            routes_to(pages.name, rules).filter(move |line| line.at != pages.route.at)
        });
        others.filter(|line| candidates.iter().all(|pages| pages.route.at != line.at)).collect()
    }

    /// The routes that surely take the requests of a rule that lets pass without a verdict.
    fn candidates(rules: &BTreeMap<&'v str, Vec<Ruled<'v>>>) -> Vec<Self> {
        let of_kind = |kind: &str| rules.get(kind).map_or(&[][..], Vec::as_slice);
        let sets = sets(of_kind("http-request"));
        let passes = of_kind("http-request").iter().filter(|(_, line, _)| acts(line, &PASSES));
        let passes: Vec<&Ruled<'_>> = passes.take(MAX_PASSES).collect();
        if passes.is_empty() {
            return Vec::new();
        }
        let routes = of_kind("use_backend").iter().chain(of_kind("default_backend"));
        let limited = routes.filter(|(_, _, when)| !when.is_always() && !when.unless);
        let pages = limited.filter_map(|(_, line, when)| {
            // Which backend a name from a sample means is not known here.
            let name = target(line).filter(|name| !is_unknown(name))?;
            Some(Self { name, route: line, when: (**when).clone(), sets: sets.clone() })
        });
        pages.filter(|pages| passes.iter().any(|(n, _, when)| pages.takes(*n, when))).collect()
    }

    /// Whether every request that a rule lets pass goes to the pages. `number` is the index of the rule, `when` its
    /// condition.
    pub(super) fn takes(&self, number: usize, when: &Condition) -> bool {
        let taken = |terms: &Vec<Term>| {
            self.when.any.iter().any(|way| way.iter().all(|term| self.follows(number, terms, term)))
        };
        !when.is_always() && !when.unless && when.any.iter().all(taken)
    }

    /// Whether every request for which this test passes goes to the pages.
    pub(super) fn takes_all(&self, test: &Test) -> bool {
        self.when.any.iter().any(|way| match &way[..] {
            [term] => !term.negated && term.any.contains(test),
            _ => false,
        })
    }

    /// Whether a term of the route holds wherever these terms hold at a rule: it is one of them, or a variable that an
    /// earlier rule sets to true whenever they hold.
    fn follows(&self, number: usize, terms: &[Term], term: &Term) -> bool {
        if terms.iter().any(|held| is(held, term)) {
            return true;
        }
        // Only a single boolean variable can be followed to the rules that set it.
        let [Test { fetch, method, .. }] = &term.any[..] else { return false };
        if term.negated || method.as_deref() != Some("bool") {
            return false;
        }
        let sets = self.sets.get(fetch).map_or(&[][..], Vec::as_slice);
        sets.iter().take_while(|(before, _)| *before < number).any(|(_, when)| {
            let whenever = |way: &Vec<Term>| {
                way.iter().all(|needed| terms.iter().any(|held| is(held, needed)))
            };
            !when.unless && (when.is_always() || when.any.iter().any(whenever))
        })
    }
}

/// The routes that lead to a backend by its name.
fn routes_to<'v>(
    name: &str,
    rules: &BTreeMap<&'v str, Vec<Ruled<'v>>>,
) -> impl Iterator<Item = &'v Line> {
    let kinds = ["use_backend", "default_backend"].into_iter().filter_map(|kind| rules.get(kind));
    kinds.flatten().map(|(_, line, _)| *line).filter(move |line| target(line) == Some(name))
}

/// How many rules that let pass are compared with each route.
const MAX_PASSES: usize = 64;

fn is(one: &Term, other: &Term) -> bool {
    one.negated == other.negated && one.any == other.any && !one.any.is_empty()
}

fn sets(rules: &[Ruled<'_>]) -> BTreeMap<String, Vec<(usize, Condition)>> {
    let mut sets: BTreeMap<String, Vec<(usize, Condition)>> = BTreeMap::new();
    for (number, line, when) in rules {
        if let [_, action, value, ..] = &line.words[..]
            && let Some(fetch) = action.strip_prefix("set-")
            && fetch.starts_with("var(")
            // Any other value could be false.
            && value == "bool(true)"
        {
            sets.entry(fetch.to_owned()).or_default().push((*number, (**when).clone()));
        }
    }
    sets
}
