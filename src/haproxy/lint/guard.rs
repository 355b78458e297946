//! A section that asks the agent, with what its rules see.

use std::collections::BTreeMap;

use super::{Files, Report, Rule, acls};
use crate::haproxy::{
    condition::{Acls, Condition, Test},
    document::{At, Line, Section, Source},
    spoe::Engine,
};

/// The SPOE files that were looked for, by name.
pub(super) type SpoeFiles = BTreeMap<String, Option<(usize, Source)>>;

/// The name of the question about an HTTP request.
const HTTP: &str = "authorize";
/// The name of the question about a TCP stream.
const TCP: &str = "authorize-tcp";

pub(super) struct Guard<'v> {
    pub(super) section: &'v Section,
    /// The filter's line.
    pub(super) filter: &'v Line,
    /// The lines of the defaults and its own, as HAProxy goes through them.
    pub(super) lines: Vec<&'v Line>,
    pub(super) acls: Acls,
    pub(super) engine: Engine,
    /// How variables begin: `txn.identity.`
    pub(super) prefix: String,
    /// Whether it is about HTTP requests.
    pub(super) http: bool,
    /// When the question is sent.
    pub(super) asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Never,
    /// Before all rules.
    First,
    /// In the line of this number.
    In(usize),
}

impl<'v> Guard<'v> {
    /// The guard in a section, if it has one of ours.
    pub(super) fn of(
        section: &'v Section,
        sections: &'v [Section],
        files: Files<'_>,
        spoe: &mut SpoeFiles,
        report: &mut Report,
    ) -> Option<Self> {
        let filter = section.lines.iter().find(|line| {
            matches!(&line.words[..], [filter, spoe, ..] if filter == "filter" && spoe == "spoe")
                && is_ours(line, files, spoe, report)
        })?;
        let (name, file) = (after(filter, "engine"), after(filter, "config"));
        let engine = match spoe.get(file.unwrap_or_default()) {
            Some(Some((number, source))) => Engine::read(source, *number, name),
            _ => Engine::default(),
        };
        let prefix = engine.agent.as_ref().and_then(|agent| agent.line(&["option", "var-prefix"]));
        let prefix = prefix.and_then(|line| line.words.get(2)).map(String::as_str).or(name);
        let prefix = format!("txn.{}.", prefix.unwrap_or("identity"));
        let inherited = section.defaults.and_then(|number| sections.get(number));
        let lines: Vec<&Line> =
            inherited.into_iter().chain([section]).flat_map(|s| &s.lines).collect();
        let http = setting(section, sections, "mode").is_some_and(|(_, mode)| mode == "http");
        let acls = acls(&lines);
        let mut guard =
            Self { section, filter, lines, acls, engine, prefix, http, asked: Asked::Never };
        guard.asked = guard.when_asked(name);
        Some(guard)
    }

    fn when_asked(&self, engine: Option<&str>) -> Asked {
        let (message, kind) = if self.http { (HTTP, "http-request") } else { (TCP, "tcp-request") };
        if self.engine.sends_by_itself(message, kind) {
            return Asked::First;
        }
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

    /// The message that is the question.
    pub(super) fn message(&self) -> &'static str {
        if self.http { HTTP } else { TCP }
    }

    /// The rules of a kind (`http-request`, `use_backend` …) with their number and condition.
    pub(super) fn rules<'k>(
        &'k self,
        kind: &'k str,
    ) -> impl Iterator<Item = (usize, &'v Line, Condition)> + 'k {
        let of_kind = move |line: &Line| line.words.first().is_some_and(|word| word == kind);
        let lines = self.lines.iter().copied().enumerate();
        lines.filter(move |(_, line)| of_kind(line)).map(|(number, line)| {
            let condition = Condition::of(&line.words, &self.acls);
            (number, line, condition)
        })
    }

    /// Whether a line comes after the question.
    pub(super) fn is_after(&self, number: usize) -> bool {
        match self.asked {
            Asked::Never => false,
            Asked::First => true,
            Asked::In(asked) => number > asked,
        }
    }

    /// Where the question is sent, or should be.
    pub(super) fn asked_at(&self) -> At {
        match self.asked {
            Asked::In(number) => self.lines.get(number).map_or(self.filter.at, |line| line.at),
            Asked::First | Asked::Never => self.filter.at,
        }
    }

    /// `var(txn.identity.NAME)`.
    pub(super) fn var(&self, name: &str) -> String {
        format!("var({}{name})", self.prefix)
    }

    /// Whether a test passes exactly for requests that are allowed.
    pub(super) fn is_verdict(&self, test: &Test) -> bool {
        let values: Vec<_> = test.values.iter().map(String::as_str).collect();
        test.fetch == self.var("allow")
            && !test.from_file
            && matches!(
                (test.method.as_deref(), &values[..]),
                (Some("bool"), []) | (Some("int"), ["1"] | ["eq", "1"])
            )
    }

    /// Whether a line or its condition looks at a variable of the agent.
    pub(super) fn mentions(&self, line: &Line, condition: &Condition) -> bool {
        line.words.iter().any(|word| word.contains(&self.prefix))
            || condition.tests().any(|test| test.mentions(&self.prefix))
    }
}

/// Whether a filter's engine sends our messages. One whose file cannot be read counts, and is reported.
fn is_ours(line: &Line, files: Files<'_>, spoe: &mut SpoeFiles, report: &mut Report) -> bool {
    let (name, file) = (after(line, "engine"), after(line, "config").unwrap_or_default());
    let found = spoe.entry(file.to_owned()).or_insert_with(|| {
        let source = files(file)?;
        Some((report.file(&source.name), source))
    });
    let engine = found.as_ref().map(|(number, source)| Engine::read(source, *number, name));
    match engine {
        Some(engine) if engine.agent.is_some() => {
            engine.message(HTTP).is_some() || engine.message(TCP).is_some()
        }
        Some(_) => {
            let name = name.unwrap_or_default();
            let what = format!("{file} has no 'spoe-agent' in the scope of the engine '{name}'");
            let fix = format!("[{name}]\nspoe-agent {name}");
            report.add(Rule::SpoeUnreadable, line.at, what, fix);
            name == "identity"
        }
        None => {
            let what = format!("the SPOE file '{file}' cannot be read");
            let fix = "filter spoe engine identity config identity.spoe.cfg   # beside this file";
            report.add(Rule::SpoeUnreadable, line.at, what, fix);
            name.is_none_or(|name| name == "identity")
        }
    }
}

/// The word after a keyword.
fn after<'l>(line: &'l Line, keyword: &str) -> Option<&'l str> {
    let place = line.words.iter().position(|word| word == keyword)?;
    line.words.get(place + 1).map(String::as_str)
}

/// What a keyword is set to in a section or the defaults it inherits, at last.
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
    own(section).or_else(|| own(sections.get(section.defaults?)?))
}
