//! Finds host patterns that can never decide about a request, for `check`.
//!
//! A pattern is useless if no host name matches it, or if the patterns before it match all its hosts. Both
//! concern sets of texts, and finite automata decide them exactly: the automata of all host
//! names, of the pattern, and of the patterns before it run side by side over every possible text. A search
//! that would take too long is given up without a result, so a warning is always right.

use std::collections::HashSet;

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    util::{primitives::StateID, start, syntax},
};

use super::PatternSpec;

/// Why a pattern never decides about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UselessPattern {
    /// No host name matches it.
    NoHost,
    /// The patterns before it match all its hosts.
    Shadowed,
}

impl UselessPattern {
    /// What is wrong, and what to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NoHost => {
                "no host name matches this pattern, so it is never used: a host name has lower-case letters, digits, '-' and '.' only, without scheme, port or path; correct the pattern or remove it"
            }
            Self::Shadowed => {
                "the patterns before this one match all its hosts, so it is never used: the first pattern that matches is used; move this one up or remove it"
            }
        }
    }
}

type Dfa = dense::DFA<Vec<u32>>;

/// All host names that [`Host`](super::super::host::Host) accepts, and some that are too long.
const HOST_NAMES: &str = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*";
/// The bytes of host names.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-.";
/// The most memory in bytes for an automaton, and while it is built.
const MAX_AUTOMATON: usize = 4 << 20;
/// The search is given up after this many combinations of states.
const MAX_COMBINATIONS: usize = 100_000;

/// The patterns that are never used, by their index.
#[must_use]
pub fn useless(specs: &[PatternSpec]) -> Vec<(usize, UselessPattern)> {
    let Some(hosts) = automaton(HOST_NAMES) else { return vec![] };
    let automata: Vec<Option<Dfa>> = specs.iter().map(|spec| automaton(&spec.regex)).collect();
    let mut found = Vec::new();
    for (index, pattern) in automata.iter().enumerate() {
        let Some(pattern) = pattern else { continue };
        // A pattern that is too large for an automaton is left out: the others may still match everything.
        let before: Vec<&Dfa> = automata.iter().take(index).flatten().collect();
        if is_used(&hosts, pattern, &[]) == Some(false) {
            found.push((index, UselessPattern::NoHost));
        } else if is_used(&hosts, pattern, &before) == Some(false) {
            found.push((index, UselessPattern::Shadowed));
        }
    }
    found
}

/// The automaton of a pattern, anchored as for requests. `None` if it would be too large.
fn automaton(regex: &str) -> Option<Dfa> {
    let config = dense::Config::new()
        .match_kind(MatchKind::All)
        .start_kind(StartKind::Anchored)
        .dfa_size_limit(Some(MAX_AUTOMATON))
        .determinize_size_limit(Some(MAX_AUTOMATON));
    dense::Builder::new()
        .configure(config)
        .syntax(syntax::Config::new().case_insensitive(true))
        .build(&format!("^(?:{regex})$"))
        .ok()
}

/// Returns whether some host name matches the pattern and none of those before it; `None` if that is not
/// known.
fn is_used(hosts: &Dfa, pattern: &Dfa, before: &[&Dfa]) -> Option<bool> {
    let all: Vec<&Dfa> = [hosts, pattern].into_iter().chain(before.iter().copied()).collect();
    let anchored = start::Config::new().anchored(Anchored::Yes);
    let first: Option<Vec<StateID>> =
        all.iter().map(|dfa| dfa.start_state(&anchored).ok()).collect();
    let mut waiting = vec![first?];
    let mut seen: HashSet<Vec<StateID>> = waiting.iter().cloned().collect();
    while let Some(states) = waiting.pop() {
        let ends = all.iter().zip(&states).map(|(dfa, state)| {
            let end = dfa.next_eoi_state(*state);
            dfa.is_match_state(end)
        });
        let ends: Vec<bool> = ends.collect();
        if let [true, true, before @ ..] = ends.as_slice()
            && !before.contains(&true)
        {
            return Some(true);
        }
        for byte in ALPHABET {
            let next = all.iter().zip(&states).map(|(dfa, state)| dfa.next_state(*state, *byte));
            let next: Vec<StateID> = next.collect();
            // From a dead state nothing matches any more. A quit state means that the automaton cannot tell.
            let dead = |index: usize| {
                all.get(index).zip(next.get(index)).is_some_and(|(dfa, s)| dfa.is_dead_state(*s))
            };
            if all.iter().zip(&next).any(|(dfa, state)| dfa.is_quit_state(*state)) {
                return None;
            }
            if dead(0) || dead(1) || !seen.insert(next.clone()) {
                continue;
            }
            if seen.len() > MAX_COMBINATIONS {
                return None;
            }
            waiting.push(next);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{IdRule, Preset},
        *,
    };

    fn found(patterns: &[&str]) -> Vec<(usize, UselessPattern)> {
        let spec = |regex: &&str| PatternSpec {
            regex: (*regex).into(),
            id: IdRule::Template("{workspace}".into()),
            source: None,
        };
        useless(&patterns.iter().map(spec).collect::<Vec<_>>())
    }

    #[test]
    fn a_pattern_that_no_host_name_matches_is_found() {
        for pattern in [
            r"https://(?<workspace>[a-z]+)\.example\.com",
            r"(?<workspace>[a-z]+)\.example\.com:443",
            r"(?<workspace>[a-z]+)\.example\.com/",
            r"(?<workspace>[a-z]+)\.example\.com\.",
            r"(?<workspace>[a-z]+)_x\.example\.com",
            r"(?<workspace>[a-z]+)\.\.example\.com",
            r"-(?<workspace>[a-z]+)\.example\.com",
            r"(?<workspace>[A-Z]+) example",
            r"a^(?<workspace>[a-z]+)",
        ] {
            assert_eq!(found(&[pattern]), [(0, UselessPattern::NoHost)], "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_some_host_name_matches_is_not_found() {
        for pattern in [
            r"(?<workspace>[a-z]+)\.example\.com",
            r"^(?<workspace>[a-z]+)\.example\.com$",
            r"(?<workspace>[A-Z]+)\.EXAMPLE\.com",
            r"(?<workspace>.+)",
            r"(?<workspace>[a-z_]+)\.example\.com",
            r"(?:https://)?(?<workspace>[a-z]+)\.example\.com",
            r"(?<workspace>[a-z0-9-]{1,63})\.(?:example\.com|example\.org:443)",
            r"xn--(?<workspace>[a-z0-9-]+)\.example",
        ] {
            assert_eq!(found(&[pattern]), [], "{pattern}");
        }
        for preset in [Preset::Gitpod, Preset::Ona, Preset::Coder] {
            assert_eq!(useless(&[preset.spec("ws.example.com", "main")]), [], "{preset:?}");
        }
    }

    #[test]
    fn a_pattern_behind_others_that_take_all_its_hosts_is_found() {
        let wide = r"(?<workspace>[a-z0-9-]+)\.example\.com";
        for narrow in [wide, r"(?<workspace>app)\.example\.com", r"app\.EXAMPLE\.com"] {
            assert_eq!(found(&[wide, narrow]), [(1, UselessPattern::Shadowed)], "{narrow}");
        }
        // Two patterns together can take everything.
        let halves =
            [r"(?<workspace>[a-m])\.x", r"(?<workspace>[n-z])\.x", r"(?<workspace>[a-z])\.x"];
        assert_eq!(found(&halves), [(2, UselessPattern::Shadowed)]);
    }

    #[test]
    fn a_pattern_that_has_a_host_of_its_own_is_not_found() {
        let wide = r"(?<workspace>[a-z]+)\.example\.com";
        for other in [
            r"(?<workspace>[a-z0-9]+)\.example\.com",
            r"(?<workspace>[a-z]+)\.example\.org",
            r"(?:(?<port>[0-9]+)-)?(?<workspace>[a-z]+)\.example\.com",
        ] {
            assert_eq!(found(&[wide, other]), [], "{other}");
            assert_eq!(found(&[r"(?<workspace>app)\.example\.com", wide, other]), [], "{other}");
        }
    }
}
