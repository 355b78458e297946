//! Requests that are let pass without a verdict because they go to pages of our own, and nowhere else.

use super::{
    guard::Guard,
    question::{PASSES, acts},
};
use crate::haproxy::condition::{Condition, Term, Test};

/// The back end of the requests that a rule lets pass, if they surely go to pages of our own: the first
/// `use_backend` takes them, and nothing else leads to its back end.
pub(super) fn of<'g>(guard: &'g Guard<'_>, number: usize, when: &Condition) -> Option<&'g str> {
    let mut routes = guard.rules("use_backend").chain(guard.rules("default_backend"));
    let (route, line, first) = routes.next()?;
    let name = line.words.get(1)?;
    if name.starts_with('%') || routes.any(|(_, other, _)| other.words.get(1) == Some(name)) {
        return None;
    }
    let line = guard.lines.get(route)?;
    let certain = !when.is_always() && !when.unless && !first.is_always() && !first.unless;
    let taken = |terms: &Vec<Term>| {
        first.any.iter().any(|way| way.iter().all(|term| follows(guard, number, terms, term)))
    };
    let taken = certain && when.any.iter().all(taken);
    line.words.get(1).filter(|_| taken).map(String::as_str)
}

/// The back ends of pages of our own, reached without a verdict.
pub(super) fn all<'g>(guard: &'g Guard<'_>) -> impl Iterator<Item = &'g str> {
    let passes = guard.rules("http-request").filter(|(_, line, _)| acts(line, &PASSES));
    passes.filter_map(|(number, _, when)| of(guard, number, &when))
}

/// Whether a term holds where these do, at a rule: it is one of them, or a variable that a rule before sets
/// to true whenever they hold.
fn follows(guard: &Guard<'_>, number: usize, terms: &[Term], term: &Term) -> bool {
    let is = |one: &Term, other: &Term| {
        one.negated == other.negated && one.any == other.any && !one.any.is_empty()
    };
    if terms.iter().any(|held| is(held, term)) {
        return true;
    }
    let [Test { fetch, method, .. }] = &term.any[..] else { return false };
    if term.negated || method.as_deref() != Some("bool") {
        return false;
    }
    let set = format!("set-{fetch}");
    guard.rules("http-request").take_while(|(before, ..)| *before < number).any(|(_, line, when)| {
        let sets = matches!(&line.words[..], [_, name, value, ..] if *name == set && value == "bool(true)");
        let whenever = |way: &Vec<Term>| {
            way.iter().all(|needed| terms.iter().any(|held| is(held, needed)))
        };
        sets && !when.unless && (when.is_always() || when.any.iter().any(whenever))
    })
}
