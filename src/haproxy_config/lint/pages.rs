//! Finds the route to the agent's pages: the only requests that may pass without a verdict.
//!
//! A rule lets such requests pass before the agent is asked. It is accepted only if every request that it lets pass
//! surely takes a route to one backend that no other route leads to.

use std::collections::BTreeMap;

use crate::haproxy_config::{
    condition::{Condition, Term, Test},
    document::Line,
    lint::lines::{PASSES, Ruled, acts},
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
    /// Our own pages in a section: a route that surely takes what some rule lets pass without a verdict, and
    /// whose back end no other route leads to.
    pub(super) fn of(rules: &BTreeMap<&'v str, Vec<Ruled<'v>>>) -> Option<Self> {
        let rules = |kind: &str| rules.get(kind).map_or(&[][..], Vec::as_slice);
        let name = |line: &'v Line| line.words.get(1).map(String::as_str);
        let routes = rules("use_backend").iter().chain(rules("default_backend"));
        let mut leads: BTreeMap<&str, usize> = BTreeMap::new();
        for to in routes.clone().filter_map(|(_, line, _)| name(line)) {
            *leads.entry(to).or_default() += 1;
        }
        let sets = sets(rules("http-request"));
        let passes = rules("http-request").iter().filter(|(_, line, _)| acts(line, &PASSES));
        let passes: Vec<&Ruled<'_>> = passes.take(MAX_PASSES).collect();
        let mut alone = routes.filter(|(_, line, when)| {
            let to = name(line).unwrap_or_default();
            leads.get(to) == Some(&1)
                && !to.contains(['%', '$'])
                && !when.is_always()
                && !when.unless
        });
        alone.find_map(|(_, line, when)| {
            let pages =
                Self { name: name(line)?, route: line, when: (**when).clone(), sets: sets.clone() };
            passes.iter().any(|(number, _, when)| pages.takes(*number, when)).then_some(pages)
        })
    }

    /// Whether all requests that a rule with this number and condition lets pass go there.
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

/// How many rules that let pass are compared with each route, to find that of our pages.
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
