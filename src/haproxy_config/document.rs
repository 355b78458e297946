//! Reads HAProxy configuration files into sections of lines, once for each outcome of their `.if` conditions.
//!
//! Lint judges every variant of a file that HAProxy could load, since the environment and the version of HAProxy decide
//! which one it is. A condition has one outcome where the files themselves decide it (numbers, variables that they
//! set); versions that exclude each other are not combined; everything else is taken both as true and as false. The
//! number of variants is bounded ([`Document::outcomes`]), and every line is in at least one of them.
//!
//! Reading never fails: what cannot be read is listed in [`Document::unreadable`], and the rest is still judged.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::line;
use branches::Test;
use environment::KnownEnvironment;

mod branches;
mod environment;

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 4 * 1024 * 1024;
/// How deep conditions may be nested. HAProxy has the same limit.
const MAX_NESTED: usize = 16;

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name, as it was given on the command line.
    pub name: String,
    /// The contents.
    pub text: String,
}

impl Source {
    /// Makes a file from its bytes. Text that is not UTF-8 is read as Latin-1, one character for each byte: nothing is
    /// lost, and the words are those that HAProxy finds, which compares bytes.
    #[must_use]
    pub fn from_bytes(name: String, bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes)
            .unwrap_or_else(|error| error.as_bytes().iter().copied().map(char::from).collect());
        Self { name, text }
    }
}

/// The place of a line in one of several files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The index of the file.
    pub file: usize,
    /// The line, counted from 1.
    pub line: usize,
}

/// One line, split into words. There is at least one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The place of the line.
    pub at: At,
    /// The words, without quotes and with known variables of the environment put in.
    pub words: Vec<String>,
    /// Whether the line opens a section.
    pub opens_section: bool,
    /// Whether a word has a parenthesis, as samples and actions with arguments do.
    pub has_call: bool,
    /// Whether the line means the same whatever rules stand around it.
    pub stands_alone: bool,
}

impl Line {
    /// A line of these words.
    #[must_use]
    pub fn new(at: At, words: Vec<String>) -> Self {
        // Asked here once, since every variant of a file looks at every line.
        let opens_section = words.first().is_some_and(|word| SECTIONS.contains(&word.as_str()));
        let stands_alone = words.first().is_some_and(|word| SINGLE.contains(&word.as_str()));
        let has_call = words.iter().any(|word| word.contains('('));
        Self { at, words, opens_section, has_call, stands_alone }
    }
}

/// A section of the configuration, such as a front end or a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The place of its first line.
    pub at: At,
    /// The keyword: `frontend`, `backend`, `listen`, `defaults`, `global` …
    pub kind: String,
    /// The name; empty if it has none.
    pub name: String,
    /// The index of the `defaults` section that it inherits from.
    pub defaults: Option<usize>,
    /// The lines after the first one.
    pub lines: Vec<Arc<Line>>,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreadable {
    /// The place of the line.
    pub at: At,
    /// The reason, for the person who runs lint.
    pub why: String,
}

#[derive(Debug)]
enum Item {
    Line(Arc<Line>),
    If(At, Test),
    Elif(At, Test),
    Else(At),
    Endif(At),
}

/// Several files, read as one configuration.
#[derive(Debug, Default)]
pub struct Document {
    items: Vec<Item>,
    conditions: Vec<String>,
    /// The lines that could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// The keywords that begin a section, in HAProxy 2.6 to 3.4.
const SECTIONS: [&str; 20] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "mailers",
    "userlist",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "log-profile",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
    "healthcheck",
];

/// Keywords whose lines mean the same whatever rules stand around them. Conditions about such lines only need no
/// combinations.
const SINGLE: [&str; 8] =
    ["bind", "server", "stats", "option", "timeout", "maxconn", "log", "http-reuse"];

impl Document {
    /// Reads files. What cannot be read is listed, and the rest is read.
    #[must_use]
    pub fn read(sources: &[Source]) -> Self {
        let mut reading = KnownEnvironment::default();
        let mut document = Self::default();
        let mut depth = 0_usize;
        for (file, source) in sources.iter().enumerate() {
            // A file that large is a mistake, and reading it would be slow.
            if source.text.len() > MAX_FILE {
                let at = At { file, line: 1 };
                document.note(at, "the file is longer than 4 MiB");
                continue;
            }
            for (index, text) in source.text.lines().enumerate() {
                let at = At { file, line: index + 1 };
                match line::words(text, &reading.values) {
                    // Later lines see the variables that this one sets, as in HAProxy.
                    Ok(words) => {
                        match words.first().map(String::as_str) {
                            // A variable that is set inside a condition has no certain value afterwards.
                            Some(".if") => depth += 1,
                            Some(".endif") => depth = depth.saturating_sub(1),
                            _ => reading.follow(&words, depth),
                        }
                        document.add(at, words, &reading);
                    }
                    Err(error) => document.note(at, error),
                }
            }
        }
        document.check_nesting();
        document
    }

    fn note(&mut self, at: At, why: impl fmt::Display) {
        self.unreadable.push(Unreadable { at, why: why.to_string() });
    }

    fn add(&mut self, at: At, words: Vec<String>, reading: &KnownEnvironment) {
        let Some(first) = words.first() else { return };
        let item = match first.as_str() {
            ".if" => Item::If(at, self.condition(&words, reading)),
            ".elif" => Item::Elif(at, self.condition(&words, reading)),
            ".else" => Item::Else(at),
            ".endif" => Item::Endif(at),
            // `.notice`, `.warning` and the like only print a message.
            word if word.starts_with('.') => return,
            _ => Item::Line(Arc::new(Line::new(at, words))),
        };
        self.items.push(item);
    }

    fn condition(&mut self, words: &[String], reading: &KnownEnvironment) -> Test {
        let text = words.get(1..).unwrap_or_default().join(" ");
        Test::read(&text, &mut |atom| {
            if let Some(value) = constant(atom, reading) {
                return Test::Constant(value);
            }
            let known = self.conditions.iter().position(|condition| condition == atom);
            Test::Atom(known.unwrap_or_else(|| {
                self.conditions.push(atom.to_owned());
                self.conditions.len() - 1
            }))
        })
    }

    fn check_nesting(&mut self) {
        let mut open = Vec::new();
        let mut wrong = Vec::new();
        for item in &self.items {
            match item {
                Item::If(at, _) => open.push(*at),
                Item::Endif(at) if open.pop().is_none() => {
                    wrong.push((*at, "'.endif' without '.if'"));
                }
                Item::Elif(at, _) | Item::Else(at) if open.is_empty() => {
                    wrong.push((*at, "'.else' without '.if'"));
                }
                _ => {}
            }
            if open.len() > MAX_NESTED {
                wrong.extend(open.last().map(|at| (*at, "conditions are nested too deep")));
                // HAProxy refuses the file here, so the rest does not matter.
                break;
            }
        }
        wrong.extend(open.first().map(|at| (*at, "'.if' without '.endif'")));
        for (at, why) in wrong {
            self.note(at, why);
        }
    }

    /// All lines of the files, whatever the conditions are.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.items.iter().filter_map(|item| match item {
            Item::Line(line) => Some(&**line),
            _ => None,
        })
    }

    /// The texts of the conditions, in the order of the files.
    #[must_use]
    pub fn conditions(&self) -> &[String] {
        &self.conditions
    }

    /// The sections in each of [`Self::outcomes`].
    pub fn variants(&self) -> impl Iterator<Item = Vec<Section>> {
        let outcomes = self.outcomes().into_iter();
        outcomes.map(|outcome| self.variant(|number| outcome.get(number) == Some(&true)))
    }

    /// The outcomes of the conditions that are looked at: every combination of a few conditions that decide about
    /// rules, and the others together. Each line is taken in at least one of them. An outcome says which conditions
    /// hold, in the order of [`Self::conditions`].
    #[must_use]
    pub fn outcomes(&self) -> Vec<Vec<bool>> {
        let (rules, paths) = self.paths();
        // Outcomes that take the same rules need to be judged once only.
        let mut seen = BTreeSet::new();
        let differs = |outcome: &Vec<bool>| seen.insert(self.ruling(outcome));
        let outcomes = branches::outcomes(&self.conditions, &rules);
        let mut outcomes: Vec<_> = outcomes.into_iter().filter(differs).collect();
        for (_, path) in paths {
            // A branch that no combination reaches still gets an outcome of its own.
            if !outcomes.iter().any(|outcome| is_reached(&path, outcome)) {
                outcomes.extend(branches::reaching(&self.conditions, &path));
            }
        }
        outcomes
    }

    /// The indices of the lines that an outcome takes, without those of the [`SINGLE`] keywords.
    fn ruling(&self, outcome: &[bool]) -> Vec<u32> {
        let mut taken = self.taken(|number| outcome.get(number) == Some(&true));
        taken.retain(|number| {
            let item = usize::try_from(*number).ok().and_then(|number| self.items.get(number));
            !matches!(item, Some(Item::Line(line)) if line.stands_alone)
        });
        taken
    }

    /// For each outcome, the branches of all conditions: the line that begins each, and whether the outcome takes it.
    #[must_use]
    pub fn branches(&self, outcomes: &[Vec<bool>]) -> Vec<Vec<(At, bool)>> {
        let paths = self.paths().1;
        let taken = |outcome: &Vec<bool>| {
            paths.iter().map(|(at, path)| (*at, is_reached(path, outcome))).collect()
        };
        outcomes.iter().map(taken).collect()
    }

    /// The sections where `holds` says whether each condition holds.
    pub fn variant(&self, holds: impl Fn(usize) -> bool) -> Vec<Section> {
        self.sections(&self.taken(holds))
    }

    /// The conditions that decide about rules, and for each branch what must hold for it to be taken.
    fn paths(&self) -> (BTreeSet<usize>, Vec<(At, Vec<Test>)>) {
        let mut rules = BTreeSet::new();
        let mut paths = Vec::new();
        // One entry for each open condition: the tests of its earlier branches, and of this one.
        let mut open: Vec<(Vec<Test>, Test)> = Vec::new();
        for item in &self.items {
            let branched = match item {
                Item::If(at, test) => {
                    open.push((Vec::new(), test.clone()));
                    Some(*at)
                }
                Item::Elif(at, test) => next_branch(&mut open, test.clone()).then_some(*at),
                Item::Else(at) => next_branch(&mut open, Test::Constant(true)).then_some(*at),
                Item::Endif(_) => {
                    open.pop();
                    None
                }
                Item::Line(line) => {
                    for (before, test) in open.iter().filter(|_| !line.stands_alone) {
                        before.iter().chain([test]).for_each(|test| test.atoms(&mut rules));
                    }
                    None
                }
            };
            if let Some(at) = branched {
                // A branch is taken if its own test holds and all earlier ones fail.
                let not = |test: &Test| Test::Not(Box::new(test.clone()));
                let path = open
                    .iter()
                    .flat_map(|(before, test)| before.iter().map(not).chain([test.clone()]));
                paths.push((at, path.collect()));
            }
        }
        (rules, paths)
    }

    /// The indices of the lines in branches that are taken.
    fn taken(&self, holds: impl Fn(usize) -> bool) -> Vec<u32> {
        let mut numbers = Vec::new();
        // One entry for each open condition: whether this branch is taken, and whether any branch was.
        let mut open: Vec<(bool, bool)> = Vec::new();
        for (number, item) in (0..).zip(&self.items) {
            match item {
                Item::If(_, test) => {
                    let taken = test.holds(&holds);
                    open.push((taken, taken));
                }
                Item::Elif(_, test) => {
                    if let Some((taken, done)) = open.last_mut() {
                        *taken = !*done && test.holds(&holds);
                        *done |= *taken;
                    }
                }
                Item::Else(_) => {
                    if let Some((taken, done)) = open.last_mut() {
                        *taken = !*done;
                        *done = true;
                    }
                }
                Item::Endif(_) => {
                    open.pop();
                }
                Item::Line(_) if open.iter().all(|(taken, _)| *taken) => numbers.push(number),
                Item::Line(_) => {}
            }
        }
        numbers
    }

    fn sections(&self, taken: &[u32]) -> Vec<Section> {
        let mut sections = Vec::new();
        for number in taken {
            let item = usize::try_from(*number).ok().and_then(|number| self.items.get(number));
            if let Some(Item::Line(line)) = item {
                place(&mut sections, line);
            }
        }
        sections
    }
}

/// Whether all tests of a branch hold in an outcome.
fn is_reached(path: &[Test], outcome: &[bool]) -> bool {
    path.iter().all(|test| test.holds(&|number| outcome.get(number) == Some(&true)))
}

/// Begins the next branch of the innermost condition. False if no condition is open.
fn next_branch(open: &mut [(Vec<Test>, Test)], test: Test) -> bool {
    if let Some((before, now)) = open.last_mut() {
        before.push(std::mem::replace(now, test));
        return true;
    }
    false
}

/// The outcome of a condition that the files decide themselves: a number, or a variable that they set.
fn constant(atom: &str, reading: &KnownEnvironment) -> Option<bool> {
    // HAProxy takes an empty condition as false and a number as in C.
    let text = atom.trim();
    if text.is_empty() {
        return Some(false);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Some(number != 0);
    }
    let name = text.strip_prefix("defined(")?.strip_suffix(')')?;
    reading.is_set(name.trim().trim_matches('"')).then_some(true)
}

/// Appends a line to the open section, or opens a section.
fn place(sections: &mut Vec<Section>, line: &Arc<Line>) {
    let word = |n: usize| line.words.get(n).map_or("", String::as_str);
    if !line.opens_section {
        // Lines before the first section belong to none; HAProxy refuses them.
        if let Some(section) = sections.last_mut() {
            section.lines.push(Arc::clone(line));
        }
        return;
    }
    // HAProxy takes the last `defaults` section before a proxy, unless the proxy names one.
    let from = line.words.iter().position(|w| w == "from").and_then(|n| line.words.get(n + 1));
    let named =
        |name: &String| sections.iter().rposition(|s| s.kind == "defaults" && s.name == *name);
    let defaults = match (word(0), from) {
        (_, Some(name)) => named(name),
        ("frontend" | "backend" | "listen", None) => {
            sections.iter().rposition(|s| s.kind == "defaults")
        }
        _ => None,
    };
    let name = if word(1) == "from" { "" } else { word(1) };
    sections.push(Section {
        at: line.at,
        kind: word(0).into(),
        name: name.into(),
        defaults,
        lines: Vec::new(),
    });
}

#[cfg(test)]
mod tests;
