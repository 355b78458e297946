//! `haproxy lint`: finds dangerous mistakes in a HAProxy configuration that asks this agent, each with its line, what
//! can happen, and what to write instead.
//!
//! Only texts are judged: no HAProxy is started. Every variant of the files (see [`super::document`]) is checked by
//! itself, because a mistake in one of them is one in the file. What the shipped rules do is read from the shipped file
//! ([`shipped`]), so there is no second list of them.
//!
//! Two kinds of checks complement each other. Some demand that a rule is there, in the shipped words or in any that do
//! at least as much. Others demand that nothing is there which undoes them: only the agent writes its variables, every
//! route and destination is the agent's, and identity headers carry the agent's values. A rule of HAProxy that is not
//! known here is ignored, so a clean result is not a proof; `haproxy selftest` tries the running gate.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use regex::Regex;
use serde::Serialize;

use super::{
    condition::{Acls, step},
    document::{At, Document, Line, Section, Source},
    known_bugs::Release,
    room::HeaderRoom,
};
use crate::workspaces::destination::AllowedBackends;

mod address;
mod backends;
mod cookies;
mod credentials;
mod ends;
mod engine;
mod expression;
mod forged;
mod guard;
mod headers;
mod hops;
mod host;
mod judged;
mod known;
mod lines;
mod maps;
mod modes;
mod needs;
mod outside;
mod pages;
mod reach;
mod required;
mod reuse;
mod room;
mod routes;
mod rule;
mod servers;
mod shipped;
#[cfg(test)]
mod tests;
mod verdict;
mod writes;

pub(crate) use engine::MARGIN;
use guard::Guard;
use reach::Reach;
pub(crate) use reuse::CONDITION as REUSE;
pub use rule::Rule;

/// What HAProxy's configuration must fit: facts of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Agent {
    /// The agent answers every request within this time.
    pub response_timeout: Duration,
    /// Whether people sign in with a browser.
    pub sign_in: bool,
    /// The header in which programs may send tokens.
    pub header: Option<String>,
    /// Whether tokens are accepted in a cookie.
    pub cookie: bool,
    /// Whether tokens are accepted in the query.
    pub query: bool,
    /// Whether tokens are accepted in a WebSocket subprotocol.
    pub subprotocol: bool,
    /// Whether there are policies, which need method, path and client.
    pub policies: bool,
    /// Whether only a workspace's own hosts may show it in a frame (`framing = "workspace"`); the agent needs Referer
    /// for that.
    pub frames: bool,
    /// The backends that the agent may name. `None` if there is no configuration: then it could name any.
    pub backends: Option<AllowedBackends>,
    /// The room that HAProxy's buffers need. `None` if there is no configuration.
    pub room: Option<HeaderRoom>,
    /// The release of HAProxy, if it is given.
    pub release: Option<Release>,
}

impl Default for Agent {
    /// The agent's defaults.
    fn default() -> Self {
        let response_timeout = Duration::from_millis(300);
        Self {
            response_timeout,
            sign_in: false,
            header: None,
            cookie: false,
            query: false,
            subprotocol: false,
            policies: false,
            frames: true,
            backends: None,
            room: None,
            release: None,
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, by the name it was given on the command line.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The kind of mistake.
    pub rule: Rule,
    /// What is wrong there.
    pub what: String,
    /// What can happen because of it.
    pub why: &'static str,
    /// What to write instead.
    pub fix: String,
}

/// Returns a file by the name that a configuration has for it, or `None` if it cannot be read.
pub type Files<'f> = &'f dyn Fn(&str) -> Option<Source>;

/// All mistakes in these files, which are one configuration, in the order of their places.
#[must_use]
pub fn lint(sources: &[Source], files: Files<'_>, agent: &Agent) -> Vec<Finding> {
    let document = Document::read(sources);
    let mut report = Report::new(sources);
    // A file that HAProxy refuses serves nothing, so this is the mistake to report.
    report.is_broken = !document.unreadable.is_empty();
    for found in &document.unreadable {
        report.add(Rule::Unreadable, found.at, &found.why, "see HAProxy's manual, section 2.2");
    }
    let mut spoe = BTreeMap::new();
    // Shared by all variants: most of them have the same lines.
    let mut conditions = guard::Conditions::default();
    let patterns = Patterns::default();
    let written = |line: &Line| writes::written(line).map(str::to_owned).collect::<Vec<_>>();
    let writers = document.lines().map(|line| (line.at, written(line)));
    let writers: BTreeMap<_, _> = writers.filter(|(_, names)| !names.is_empty()).collect();
    let outcomes = document.outcomes();
    for (number, outcome) in outcomes.iter().enumerate() {
        report.variant = number;
        let sections = document.variant(|condition| outcome.get(condition) == Some(&true));
        let guards: Vec<_> = sections
            .iter()
            .filter_map(|section| {
                Guard::find(section, &sections, files, &mut spoe, &mut conditions, &mut report)
            })
            .collect();
        let known = sections.iter().flat_map(|section| reuse::known(section, agent)).collect();
        let lines = sections.iter().flat_map(|section| &section.lines);
        let variant = Variant {
            sections: &sections,
            guards: &guards,
            agent,
            known,
            writers: &writers,
            written: lines
                .filter(|line| line.has_call)
                .filter_map(|line| writers.get(&line.at))
                .flatten()
                .map(String::as_str)
                .collect(),
            reach: Reach::new(&sections, &guards, agent),
            names: names(&sections),
            patterns: &patterns,
        };
        check(&variant, files, &mut spoe, &mut report);
    }
    report.finish(&document.branches(&outcomes))
}

/// Runs every check on one variant.
fn check(
    variant: &Variant<'_>,
    files: Files<'_>,
    spoe: &mut guard::SpoeFiles,
    report: &mut Report,
) {
    verdict::check_scopes(variant, report);
    reuse::check_made(variant, report);
    writes::check(variant, files, spoe, report);
    reuse::check_skipped(variant, report);
    reuse::check_servers(variant, report);
    for guard in variant.guards {
        verdict::check(guard, variant, report);
        headers::check(guard, variant, report);
        host::check(guard, report);
        engine::check(guard, variant.agent, report);
        routes::check(guard, variant, report);
        needs::check(guard, variant, report);
        modes::check(guard, variant, report);
        judged::check(guard, variant, report);
        cookies::check(guard, variant, report);
        required::check(guard, variant, report);
    }
    headers::check_backends(variant, report);
    let values = forged::Values::collect(variant);
    forged::check(variant, &values, report);
    judged::check_backends(variant, &values, report);
    credentials::check(variant, &values, report);
    cookies::check_given(variant, report);
    hops::check(variant, report);
    needs::check_named(variant, report);
    routes::check_destinations(variant, report);
    backends::check(variant, report);
    reach::check(variant, report);
    ends::check(variant, report);
    servers::check(variant, report);
    maps::check(variant, report);
    outside::check(variant, report);
    room::check(variant, report);
    known::check(variant, report);
    // In some variant nothing asks the agent: the finding names the condition that decides about it.
    if variant.guards.is_empty() && !report.is_broken {
        let fix = "filter spoe engine identity config identity.spoe.cfg\nhttp-request send-spoe-group identity authorize";
        let is_front = |s: &&Section| s.kind == "frontend" || s.kind == "listen";
        let at = variant.sections.iter().find(is_front).or(variant.sections.first());
        report.lacks(
            Rule::NotAsked,
            at.map_or(At { file: 0, line: 1 }, |s| s.at),
            "no section asks the agent: there is no 'filter spoe' with the message 'authorize'",
            fix,
        );
    }
}

/// One variant of the files, with what the checks share.
struct Variant<'v> {
    sections: &'v [Section],
    guards: &'v [Guard<'v>],
    agent: &'v Agent,
    /// The places of the shipped lines of reuse ([`reuse`]).
    known: BTreeSet<At>,
    /// The variables that each line writes, for the lines of all variants.
    writers: &'v BTreeMap<At, Vec<String>>,
    /// The variables that the lines of this variant write.
    written: BTreeSet<&'v str>,
    reach: Reach<'v>,
    /// The backends and `listen` sections by name.
    names: BTreeMap<&'v str, Vec<&'v Section>>,
    patterns: &'v Patterns,
}

/// The sections that routes can lead to, by name.
fn names(sections: &[Section]) -> BTreeMap<&str, Vec<&Section>> {
    let mut names: BTreeMap<&str, Vec<&Section>> = BTreeMap::new();
    for section in sections.iter().filter(|s| s.kind == "backend" || s.kind == "listen") {
        names.entry(&section.name).or_default().push(section);
    }
    names
}

/// Compiles each regular expression once.
#[derive(Default)]
struct Patterns(RefCell<BTreeMap<String, Option<Regex>>>);

impl Patterns {
    /// The compiled expression; `None` if it is not one that the `regex` crate understands.
    fn get(&self, pattern: &str) -> Option<Regex> {
        let mut known = self.0.borrow_mut();
        if let Some(found) = known.get(pattern) {
            return found.clone();
        }
        // HAProxy uses PCRE. What only PCRE understands is treated as matching nothing.
        let compiled = Regex::new(pattern).ok();
        known.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

impl<'v> Variant<'v> {
    /// The variables that a line writes.
    fn writes(&self, line: &Line) -> &'v [String] {
        step();
        // Few lines write variables, and most are known by their words not to.
        let may =
            line.has_call || line.words.first().is_some_and(|word| word.starts_with("set-var"));
        let names = self.writers.get(&line.at).filter(|_| may);
        names.map_or(&[], Vec::as_slice)
    }

    /// The sections of this name that routes can lead to.
    fn named(&self, name: &str) -> &[&'v Section] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a keyword in a section, or in the defaults that it inherits from.
    fn setting<'s>(&'s self, section: &'s Section, keyword: &str) -> Option<(At, &'s str)> {
        guard::setting(section, self.sections, keyword)
    }

    /// The prefix of the agent's variables: `txn.identity.`
    fn prefix(&self) -> &str {
        self.guards.first().map_or("txn.identity.", |guard| &guard.prefix)
    }
}

type Noted = (At, Rule, String, String);

/// The findings so far.
struct Report {
    names: Vec<String>,
    found: BTreeSet<Noted>,
    /// What some variants lack, with the indices of those variants.
    lacks: BTreeMap<Noted, BTreeSet<usize>>,
    /// The index of the variant that is checked.
    variant: usize,
    /// Whether HAProxy refuses the files as they are.
    is_broken: bool,
}

impl Report {
    fn new(sources: &[Source]) -> Self {
        let names = sources.iter().map(|source| source.name.clone()).collect();
        Self { names, found: BTreeSet::new(), lacks: BTreeMap::new(), variant: 0, is_broken: false }
    }

    /// Adds a file; returns its index.
    fn file(&mut self, name: &str) -> usize {
        self.names.push(name.to_owned());
        self.names.len() - 1
    }

    fn add(&mut self, rule: Rule, at: At, what: impl Into<String>, fix: impl Into<String>) {
        self.found.insert((at, rule, what.into(), fix.into()));
    }

    /// Adds something that this variant lacks. The finding names the condition that decides whether it does.
    fn lacks(&mut self, rule: Rule, at: At, what: impl Into<String>, fix: impl Into<String>) {
        let outcomes = self.lacks.entry((at, rule, what.into(), fix.into())).or_default();
        outcomes.insert(self.variant);
    }

    /// All findings. `branches` says for each variant which branches of the conditions it takes.
    fn finish(mut self, branches: &[Vec<(At, bool)>]) -> Vec<Finding> {
        for ((at, rule, what, fix), outcomes) in std::mem::take(&mut self.lacks) {
            let what = match decisive(&outcomes, branches) {
                Some((line, true)) => {
                    let name = self.names.get(line.file).map_or("", String::as_str);
                    let place =
                        if line.file == at.file { String::new() } else { format!(" of {name}") };
                    format!("{what}, where the condition in line {}{place} turns out so", line.line)
                }
                Some((line, false)) => {
                    let name = self.names.get(line.file).map_or("", String::as_str);
                    let place =
                        if line.file == at.file { String::new() } else { format!(" of {name}") };
                    format!("{what}, unless the condition in line {}{place} holds", line.line)
                }
                None => what,
            };
            self.found.insert((at, rule, what, fix));
        }
        let finding = |(at, rule, what, fix): Noted| Finding {
            file: self.names.get(at.file).cloned().unwrap_or_default(),
            line: at.line,
            rule,
            what,
            why: rule.why(),
            fix,
        };
        std::mem::take(&mut self.found).into_iter().map(finding).collect()
    }
}

/// The branch that all these variants take and no other does; or that none of these takes and every other does.
fn decisive(outcomes: &BTreeSet<usize>, branches: &[Vec<(At, bool)>]) -> Option<(At, bool)> {
    // It lacks in every variant, so no condition decides.
    if outcomes.len() == branches.len() {
        return None;
    }
    let count = branches.first().map_or(0, Vec::len);
    let of = |number: usize| branches.iter().map(move |outcome| outcome.get(number).copied());
    let found = |number: usize, taken: bool| {
        of(number).enumerate().all(|(outcome, branch)| {
            branch.is_some_and(|(_, is)| (is == taken) == outcomes.contains(&outcome))
        })
    };
    // Mostly something is lacking where a branch is not taken. Of several such branches the innermost stands last.
    let candidates = || (0..count).rev().flat_map(|number| [(number, false), (number, true)]);
    let exact = candidates().find(|(number, taken)| found(*number, *taken));
    let (number, taken) = exact?;
    Some((branches.first()?.get(number)?.0, taken))
}

/// The ACLs that these lines define.
fn acls<'l>(lines: impl IntoIterator<Item = &'l super::document::Line>) -> Acls {
    let mut acls = Acls::new();
    for line in lines {
        if let [keyword, name, rest @ ..] = &line.words[..]
            && keyword == "acl"
        {
            super::condition::add_acl(&mut acls, name, rest);
        }
    }
    acls
}
