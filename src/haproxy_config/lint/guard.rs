//! A section that asks the agent (a guard), with its rules and ACLs taken apart, and where it asks and refuses.
//!
//! The checks look at guards through this. Rules are numbered by their lines, inherited ones first, which is the order
//! in which HAProxy follows them. Conditions are parsed once and shared by all variants with the same ACLs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Files, Report, Rule, acls, pages::Pages};
use crate::haproxy_config::{
    condition::{Acls, Condition, Term, Test, step},
    document::{At, Line, Section, Source},
    lint::lines::{REFUSALS, Ruled, acts},
    spoe::Engine,
};

/// The SPOE files that were looked for, by name.
pub(super) type SpoeFiles = BTreeMap<String, Option<(usize, Source)>>;

/// The SPOE message for an HTTP request.
const HTTP: &str = "authorize";
/// The SPOE message for a TCP stream.
const TCP: &str = "authorize-tcp";

pub(super) struct Guard<'v> {
    pub(super) section: &'v Section,
    /// The line of the SPOE filter.
    pub(super) filter: &'v Line,
    /// The inherited lines and the section's own, in the order in which HAProxy follows them.
    pub(super) lines: Vec<&'v Line>,
    /// The rules by their keyword, each with its index among the lines.
    rules: BTreeMap<&'v str, Vec<Ruled<'v>>>,
    pub(super) names: Arc<Names>,
    /// The backend of the agent's pages, which is reached without a verdict.
    pub(super) pages: Option<Pages<'v>>,
    pub(super) engine: Engine,
    /// The prefix of the agent's variables: `txn.identity.`
    pub(super) prefix: String,
    /// Whether the section is about HTTP requests, and not about TCP streams.
    pub(super) http: bool,
    /// When the agent is asked.
    pub(super) asked: Asked,
    /// The index of the rule that refuses everything that is not allowed.
    pub(super) refusal: Option<usize>,
}

/// The ACLs of a section, with what checks ask of them for every rule that uses them.
#[derive(Default)]
pub(super) struct Names {
    pub(super) acls: Acls,
    /// The places of the lines of each ACL, in the order of its tests.
    places: BTreeMap<String, Vec<At>>,
    /// The ACLs that look at a variable of the agent.
    mentioning: BTreeSet<String>,
    /// The ACLs that have the verdict as one of their tests.
    verdicts: BTreeSet<String>,
}

impl Names {
    fn read(lines: &[&Line], prefix: &str) -> Self {
        let mut names = Self { acls: acls(lines.iter().copied()), ..Self::default() };
        for line in lines {
            if let [_, name, ..] = &line.words[..] {
                names.places.entry(name.clone()).or_default().push(line.at);
            }
        }
        for (name, tests) in &names.acls {
            if tests.iter().any(|test| test.mentions(prefix)) {
                names.mentioning.insert(name.clone());
            }
            if tests.iter().any(|test| is_verdict(test, prefix)) {
                names.verdicts.insert(name.clone());
            }
        }
        names
    }
}

/// Conditions that are parsed already, by the ACLs they use. Most variants of a file have the same ACLs.
#[derive(Default)]
pub(super) struct Conditions(Vec<Known>);

struct Known {
    prefix: String,
    /// The places of the lines of these ACLs.
    lines: Vec<At>,
    names: Arc<Names>,
    /// The conditions of rules, by the places of their lines.
    read: BTreeMap<At, Arc<Condition>>,
}

impl Conditions {
    /// The parsed conditions for the ACLs among these lines; new ones are added to them.
    fn for_acls(&mut self, lines: &[&Line], prefix: &str) -> Option<&mut Known> {
        let is_acl = |line: &&&Line| line.words.first().is_some_and(|word| word == "acl");
        // The same ACLs make the same conditions of the same rules, in whatever variant.
        let own: Vec<&Line> = lines.iter().filter(is_acl).copied().collect();
        let places: Vec<At> = own.iter().map(|line| line.at).collect();
        let found = self.0.iter().position(|k| k.lines == places && k.prefix == prefix);
        let place = found.unwrap_or_else(|| {
            let names = Arc::new(Names::read(&own, prefix));
            let prefix = prefix.to_owned();
            self.0.push(Known { prefix, lines: places, names, read: BTreeMap::new() });
            self.0.len() - 1
        });
        self.0.get_mut(place)
    }
}

/// Whether a test passes exactly for requests that are allowed.
fn is_verdict(test: &Test, prefix: &str) -> bool {
    step();
    let values: Vec<_> = test.values.iter().map(String::as_str).collect();
    let allow = test.fetch.strip_prefix("var(").and_then(|name| name.strip_suffix(')'));
    allow.and_then(|name| name.strip_prefix(prefix)) == Some("allow")
        // Values from a file could be anything.
        && !test.from_file
        && matches!(
            (test.method.as_deref(), &values[..]),
            (Some("bool"), []) | (Some("int"), ["1"] | ["eq", "1"])
        )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Never,
    /// Before all rules, by an event in the SPOE file.
    First,
    /// By the rule at this index.
    In(usize),
}

impl<'v> Guard<'v> {
    /// The guard of a section, if the section has an SPOE filter of the agent's.
    pub(super) fn find(
        section: &'v Section,
        sections: &'v [Section],
        files: Files<'_>,
        spoe: &mut SpoeFiles,
        conditions: &mut Conditions,
        report: &mut Report,
    ) -> Option<Self> {
        let own = || section.lines.iter().map(|line| &**line);
        // A filter in `defaults` is not inherited.
        let filter = own().find(|line| {
            matches!(&line.words[..], [filter, spoe, ..] if filter == "filter" && spoe == "spoe")
                && is_ours(line, files, spoe, report)
        })?;
        let (name, file) = (after(filter, "engine"), after(filter, "config"));
        let engine = match spoe.get(file.unwrap_or_default()) {
            Some(Some((number, source))) => Engine::read(source, *number, name),
            _ => Engine::default(),
        };
        let lines: Vec<&Line> = inherited(section, sections)
            .into_iter()
            .flat_map(|section| section.lines.iter().map(|line| &**line))
            .chain(own())
            .collect();
        let prefix = used_prefix(&engine, name, &lines, report);
        // HAProxy's default mode is tcp.
        let http = setting(section, sections, "mode").is_some_and(|(_, mode)| mode == "http");
        let known = conditions.for_acls(&lines, &prefix)?;
        let names = Arc::clone(&known.names);
        let mut rules: BTreeMap<&str, Vec<Ruled<'v>>> = BTreeMap::new();
        for (number, line) in lines.iter().copied().enumerate() {
            let Some(keyword) = line.words.first().filter(|word| RULES.contains(&word.as_str()))
            else {
                continue;
            };
            let when = known.read.entry(line.at);
            let when = when.or_insert_with(|| Arc::new(Condition::parse(&line.words, &names.acls)));
            let when = Arc::clone(when);
            rules.entry(keyword).or_default().push((number, line, when));
        }
        let mut guard = Self {
            section,
            filter,
            lines,
            rules,
            names,
            pages: None,
            engine,
            prefix,
            http,
            asked: Asked::Never,
            refusal: None,
        };
        guard.asked = guard.when_asked(name);
        guard.refusal = refusal(&guard);
        guard.pages = Pages::find(&guard.rules);
        Some(guard)
    }

    /// The lines of an ACL, as place and test.
    pub(super) fn acl_lines(&self, name: &str) -> impl Iterator<Item = (At, &Test)> {
        let places = self.names.places.get(name).into_iter().flatten();
        let tests = self.names.acls.get(name).into_iter().flat_map(|tests| tests.iter());
        places.copied().zip(tests)
    }

    /// Whether a rule is never followed for a request that is allowed.
    pub(super) fn spares_allowed(&self, when: &Condition) -> bool {
        let among = |term: &Term| match &term.name {
            Some(name) => self.names.verdicts.contains(name),
            None => term.any.iter().any(|test| self.is_verdict(test)),
        };
        when.spares(|test| self.is_verdict(test), among)
    }

    fn when_asked(&self, engine: Option<&str>) -> Asked {
        let (message, kind) = if self.http { (HTTP, "http-request") } else { (TCP, "tcp-request") };
        // The SPOE file can name an event, and no rule is needed then.
        if self.engine.sends_by_itself(message, kind) {
            return Asked::First;
        }
        // If the SPOE file is missing, that is the one mistake: the rule is believed to ask.
        let unknown = self.engine == Engine::default();
        let asks = |line: &&Line| {
            let send = line.words.iter().position(|word| word == "send-spoe-group");
            let Some(send) =
                send.filter(|_| line.words.first().is_some_and(|w| w.starts_with(kind)))
            else {
                return false;
            };
            let word = |n| line.words.get(n).map(String::as_str);
            let group = word(send + 2).unwrap_or_default();
            word(send + 1) == engine && (unknown || self.engine.sends(group, message))
        };
        self.lines.iter().position(asks).map_or(Asked::Never, Asked::In)
    }

    /// The SPOE message by which this section asks.
    pub(super) fn message(&self) -> &'static str {
        if self.http { HTTP } else { TCP }
    }

    /// The rules of a keyword (`http-request`, `use_backend` …), in their order.
    pub(super) fn rules(&self, kind: &str) -> &[Ruled<'v>] {
        self.rules.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Whether a rule lets only requests pass that go to the agent's pages.
    pub(super) fn is_for_pages(&self, number: usize, when: &Condition) -> bool {
        self.pages.as_ref().is_some_and(|pages| pages.takes(number, when))
    }

    /// The name of the backend of the agent's pages.
    pub(super) fn pages_name(&self) -> Option<&str> {
        self.pages.as_ref().map(|pages| pages.name)
    }

    /// Routes by which other requests come to the backend of the agent's pages too.
    pub(super) fn routes_to_pages_of_others(&self) -> Vec<&'v Line> {
        if self.pages.is_some() { Vec::new() } else { Pages::contested(&self.rules) }
    }

    /// Whether a line is the route to the agent's pages.
    pub(super) fn is_route_to_pages(&self, at: At) -> bool {
        self.pages.as_ref().is_some_and(|pages| pages.route.at == at)
    }

    /// Whether a line comes after the agent was asked.
    pub(super) fn is_after(&self, number: usize) -> bool {
        match self.asked {
            Asked::Never => false,
            Asked::First => true,
            Asked::In(asked) => number > asked,
        }
    }

    /// Whether a rule lets requests pass that are not allowed, before they are refused.
    pub(super) fn is_bypass(&self, number: usize, when: &Condition) -> bool {
        // What stands after the refusal sees allowed requests only.
        let refused = self.refusal.is_some_and(|refusal| refusal < number);
        !refused && !when.needs(|test| self.is_verdict(test))
    }

    /// The place where the agent is asked, or that of the filter if it never is.
    pub(super) fn asked_at(&self) -> At {
        match self.asked {
            Asked::In(number) => self.lines.get(number).map_or(self.filter.at, |line| line.at),
            Asked::First | Asked::Never => self.filter.at,
        }
    }

    /// `var(txn.identity.NAME)`
    pub(super) fn var(&self, name: &str) -> String {
        format!("var({}{name})", self.prefix)
    }

    /// Whether a test passes exactly for requests that are allowed.
    pub(super) fn is_verdict(&self, test: &Test) -> bool {
        is_verdict(test, &self.prefix)
    }

    /// Whether a line or its condition looks at a variable of the agent.
    pub(super) fn mentions(&self, line: &Line, condition: &Condition) -> bool {
        let mentions = |term: &Term| match &term.name {
            Some(name) => self.names.mentioning.contains(name),
            None => term.any.iter().any(|test| test.mentions(&self.prefix)),
        };
        step();
        // A variable is always in parentheses.
        let own = || line.has_call && line.words.iter().any(|word| word.contains(&self.prefix));
        own() || condition.terms().any(mentions)
    }
}

/// Keywords of rules and routes, which can have conditions.
const RULES: [&str; 8] = [
    "http-request",
    "http-response",
    "http-after-response",
    "tcp-request",
    "tcp-response",
    "use_backend",
    "default_backend",
    "redirect",
];

/// An SPOE file by the name that a filter has for it; `None` if it cannot be read.
pub(super) fn spoe_file<'s>(
    file: &str,
    spoe: &'s mut SpoeFiles,
    files: Files<'_>,
    report: &mut Report,
) -> Option<&'s (usize, Source)> {
    // A missing file is remembered too: it is reported once per filter and looked for once.
    let found = spoe.entry(file.to_owned()).or_insert_with(|| {
        let source = files(file)?;
        Some((report.file(&source.name), source))
    });
    found.as_ref()
}

/// The prefix of an engine's variables.
pub(super) fn prefix(engine: &Engine, name: Option<&str>) -> String {
    let prefix = engine.agent.as_ref().and_then(|agent| agent.line(&["option", "var-prefix"]));
    let prefix = prefix.and_then(|line| line.words.get(2)).map(String::as_str).or(name);
    format!("txn.{}.", prefix.unwrap_or("identity"))
}

/// The prefix that the rules use. If the engine has another one, that is reported once, and not as a mistake of each
/// rule.
fn used_prefix(
    engine: &Engine,
    name: Option<&str>,
    lines: &[&Line],
    report: &mut Report,
) -> String {
    const USUAL: &str = "txn.identity.";
    let prefix = prefix(engine, name);
    let mentions = |prefix: &str| {
        let opened = format!("({prefix}");
        let names = |word: &String| word.contains(&opened);
        lines.iter().any(|line| line.words.iter().any(names))
    };
    // The rules and the engine agree, or the rules do not use the usual prefix.
    if prefix == USUAL || mentions(&prefix) || !mentions(USUAL) {
        return prefix;
    }
    let line = engine.agent.as_ref().and_then(|agent| agent.line(&["option", "var-prefix"]));
    if let Some(line) = line {
        let what = format!(
            "the prefix differs: the agent's variables are called {prefix}*, and the rules use {USUAL}*"
        );
        report.add(Rule::NoVarPrefix, line.at, what, "option var-prefix identity");
    }
    USUAL.to_owned()
}

/// Whether a filter belongs to the agent: its engine sends our messages. A filter of our name whose file cannot be read
/// is taken for the agent's and reported; another one whose file cannot be read is not.
fn is_ours(line: &Line, files: Files<'_>, spoe: &mut SpoeFiles, report: &mut Report) -> bool {
    let (name, file) = (after(line, "engine"), after(line, "config").unwrap_or_default());
    // Filters of other agents (a WAF) are not judged here.
    let usual = name.is_none_or(|name| name == "identity");
    let engine = spoe_file(file, spoe, files, report)
        .map(|(number, source)| Engine::read(source, *number, name));
    match engine {
        Some(engine) if engine.agent.is_some() => {
            engine.message(HTTP).is_some() || engine.message(TCP).is_some()
        }
        Some(_) if usual => {
            let name = name.unwrap_or_default();
            let what = format!("{file} has no 'spoe-agent' in the scope of the engine '{name}'");
            let fix = format!("[{name}]\nspoe-agent {name}");
            report.add(Rule::SpoeUnreadable, line.at, what, fix);
            true
        }
        None if usual => {
            let what = format!("the SPOE file '{file}' cannot be read");
            let fix = "filter spoe engine identity config identity.spoe.cfg   # in the directory of this file, or --root DIR";
            report.add(Rule::SpoeUnreadable, line.at, what, fix);
            true
        }
        _ => false,
    }
}

/// The inherited lines of a section, and then its own.
pub(super) fn all_lines<'s>(
    section: &'s Section,
    sections: &'s [Section],
) -> impl Iterator<Item = &'s Line> {
    let chain = inherited(section, sections).into_iter().chain([section]);
    chain.flat_map(|section| section.lines.iter().map(|line| &**line))
}

/// The defaults that a section inherits from, the farthest first.
pub(super) fn inherited<'s>(section: &Section, sections: &'s [Section]) -> Vec<&'s Section> {
    let mut chain = Vec::new();
    let mut next = section.defaults;
    while let Some(defaults) = next.and_then(|number| sections.get(number)) {
        chain.push(defaults);
        next = defaults.defaults;
    }
    // HAProxy follows inherited rules first.
    chain.reverse();
    chain
}

/// The word that follows a keyword in a line.
pub(super) fn after<'l>(line: &'l Line, keyword: &str) -> Option<&'l str> {
    let place = line.words.iter().position(|word| word == keyword)?;
    line.words.get(place + 1).map(String::as_str)
}

/// The last value of a keyword in a section, or else in the defaults that it inherits from.
pub(super) fn setting<'s>(
    section: &'s Section,
    sections: &'s [Section],
    keyword: &str,
) -> Option<(At, &'s str)> {
    let own = |section: &'s Section| {
        section.lines.iter().rev().find_map(|line| match &line.words[..] {
            [first, value, ..] if first == keyword => Some((line.at, value.as_str())),
            _ => None,
        })
    };
    own(section).or_else(|| inherited(section, sections).into_iter().rev().find_map(own))
}

/// The index of the rule that refuses everything that is not allowed.
fn refusal(guard: &Guard<'_>) -> Option<usize> {
    let kind = if guard.http { "http-request" } else { "tcp-request" };
    let refuses = |(number, line, when): &&Ruled<'_>| {
        guard.is_after(*number)
            && acts(line, &REFUSALS)
            && when.holds_without(|test| guard.is_verdict(test))
    };
    guard.rules(kind).iter().find(refuses).map(|(number, ..)| *number)
}
