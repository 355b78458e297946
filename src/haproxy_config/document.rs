//! A HAProxy configuration as sections of lines, once for each way its `.if` conditions can turn out.
//!
//! What a condition is about is known where the files themselves decide it, and for versions of HAProxy;
//! everything else is taken as true and as false.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::line;
use branches::Test;
use environment::Reading;

mod branches;
mod environment;

/// The longest file, in bytes.
pub const MAX_FILE: usize = 4 * 1024 * 1024;
/// How deep conditions may be nested; HAProxy's own limit.
const MAX_NESTED: usize = 16;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the person named it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl Source {
    /// A file from its bytes. Bytes that are not UTF-8 are taken as Latin-1, each as one character: nothing
    /// is lost, and HAProxy, which knows bytes only, finds the same words.
    #[must_use]
    pub fn from_bytes(name: String, bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes)
            .unwrap_or_else(|error| error.as_bytes().iter().copied().map(char::from).collect());
        Self { name, text }
    }
}

/// A place in one of several files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The number of the file.
    pub file: usize,
    /// The line, from 1.
    pub line: usize,
}

/// One line with its words; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it is.
    pub at: At,
    /// What it says.
    pub words: Vec<String>,
}

/// A section: a front end, a back end, the defaults …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Where it begins.
    pub at: At,
    /// `frontend`, `backend`, `listen`, `defaults`, `global` …
    pub kind: String,
    /// Its name; empty where it has none.
    pub name: String,
    /// The number of the `defaults` section that it inherits from.
    pub defaults: Option<usize>,
    /// Its lines, without the one that begins it.
    pub lines: Vec<Arc<Line>>,
}

/// What cannot be read, with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreadable {
    /// Where.
    pub at: At,
    /// Why.
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

/// Several files as one configuration.
#[derive(Debug, Default)]
pub struct Document {
    items: Vec<Item>,
    conditions: Vec<String>,
    /// What could not be read; the rest was.
    pub unreadable: Vec<Unreadable>,
}

/// The sections of HAProxy 2.6 to 3.4.
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

/// Lines about one thing alone: what they mean does not depend on the rules beside them.
const SINGLE: [&str; 8] =
    ["bind", "server", "stats", "option", "timeout", "maxconn", "log", "http-reuse"];

impl Document {
    /// Reads files. Never fails: what cannot be read is listed, the rest is there.
    #[must_use]
    pub fn read(sources: &[Source]) -> Self {
        let mut reading = Reading::default();
        let mut document = Self::default();
        let mut depth = 0_usize;
        for (file, source) in sources.iter().enumerate() {
            if source.text.len() > MAX_FILE {
                let at = At { file, line: 1 };
                document.note(at, "the file is longer than 4 MiB");
                continue;
            }
            for (index, text) in source.text.lines().enumerate() {
                let at = At { file, line: index + 1 };
                match line::words(text, &reading.values) {
                    Ok(words) => {
                        match words.first().map(String::as_str) {
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

    fn add(&mut self, at: At, words: Vec<String>, reading: &Reading) {
        let Some(first) = words.first() else { return };
        let item = match first.as_str() {
            ".if" => Item::If(at, self.condition(&words, reading)),
            ".elif" => Item::Elif(at, self.condition(&words, reading)),
            ".else" => Item::Else(at),
            ".endif" => Item::Endif(at),
            // Messages to the person who starts HAProxy.
            word if word.starts_with('.') => return,
            _ => Item::Line(Arc::new(Line { at, words })),
        };
        self.items.push(item);
    }

    fn condition(&mut self, words: &[String], reading: &Reading) -> Test {
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
                break;
            }
        }
        wrong.extend(open.first().map(|at| (*at, "'.if' without '.endif'")));
        for (at, why) in wrong {
            self.note(at, why);
        }
    }

    /// All lines, whatever the conditions say.
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

    /// The configuration in each of [`Self::ways`].
    pub fn variants(&self) -> impl Iterator<Item = Vec<Section>> {
        let ways = self.ways().into_iter();
        ways.map(|way| self.variant(|number| way.get(number) == Some(&true)))
    }

    /// The ways the conditions can turn out that make a difference: every combination of a few that decide
    /// about rules, the others all together, and each line at least once. Each way says which conditions
    /// hold, in the order of [`Self::conditions`].
    #[must_use]
    pub fn ways(&self) -> Vec<Vec<bool>> {
        let (rules, paths) = self.paths();
        let mut seen = BTreeSet::new();
        let differs = |way: &Vec<bool>| seen.insert(self.ruling(way));
        let outcomes = branches::outcomes(&self.conditions, &rules);
        let mut ways: Vec<_> = outcomes.into_iter().filter(differs).collect();
        for (_, path) in paths {
            if !ways.iter().any(|way| is_reached(&path, way)) {
                ways.extend(branches::reaching(&self.conditions, &path));
            }
        }
        ways
    }

    /// The numbers of the items that a way takes, of those that are no lines about one thing alone.
    fn ruling(&self, way: &[bool]) -> Vec<u32> {
        let mut taken = self.taken(|number| way.get(number) == Some(&true));
        taken.retain(|number| {
            let item = usize::try_from(*number).ok().and_then(|number| self.items.get(number));
            !matches!(item, Some(Item::Line(line)) if is_single(line))
        });
        taken
    }

    /// The branches of all conditions, by the line that begins each, and whether a way takes them.
    #[must_use]
    pub fn branches(&self, way: &[bool]) -> Vec<(At, bool)> {
        let paths = self.paths().1;
        paths.into_iter().map(|(at, path)| (at, is_reached(&path, way))).collect()
    }

    /// The configuration where `holds` says how each condition turns out.
    pub fn variant(&self, holds: impl Fn(usize) -> bool) -> Vec<Section> {
        self.sections(&self.taken(holds))
    }

    /// The conditions that decide about rules, and what must hold for each branch to be taken.
    fn paths(&self) -> (BTreeSet<usize>, Vec<(At, Vec<Test>)>) {
        let mut rules = BTreeSet::new();
        let mut paths = Vec::new();
        // For each open condition: the tests of its branches before, and of this one.
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
                    for (before, test) in open.iter().filter(|_| !is_single(line)) {
                        before.iter().chain([test]).for_each(|test| test.atoms(&mut rules));
                    }
                    None
                }
            };
            if let Some(at) = branched {
                let not = |test: &Test| Test::Not(Box::new(test.clone()));
                let path = open
                    .iter()
                    .flat_map(|(before, test)| before.iter().map(not).chain([test.clone()]));
                paths.push((at, path.collect()));
            }
        }
        (rules, paths)
    }

    /// The numbers of the items whose branches are all taken.
    fn taken(&self, holds: impl Fn(usize) -> bool) -> Vec<u32> {
        let mut numbers = Vec::new();
        // For each open condition: whether this branch is taken, and whether one was.
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

fn is_single(line: &Line) -> bool {
    line.words.first().is_some_and(|word| SINGLE.contains(&word.as_str()))
}

/// Whether all tests hold in a way.
fn is_reached(path: &[Test], way: &[bool]) -> bool {
    path.iter().all(|test| test.holds(&|number| way.get(number) == Some(&true)))
}

/// Goes to the next branch of the innermost condition.
fn next_branch(open: &mut [(Vec<Test>, Test)], test: Test) -> bool {
    if let Some((before, now)) = open.last_mut() {
        before.push(std::mem::replace(now, test));
        return true;
    }
    false
}

/// What the files decide themselves: numbers, and variables that they set.
fn constant(atom: &str, reading: &Reading) -> Option<bool> {
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

/// Puts a line into the section it belongs to, or begins one.
fn place(sections: &mut Vec<Section>, line: &Arc<Line>) {
    let word = |n: usize| line.words.get(n).map_or("", String::as_str);
    if !SECTIONS.contains(&word(0)) {
        if let Some(section) = sections.last_mut() {
            section.lines.push(Arc::clone(line));
        }
        return;
    }
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
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::read(&[Source { name: "t".into(), text: text.into() }])
    }

    fn names(document: &Document) -> Vec<String> {
        let name = |s: &Section| s.name.clone();
        document.variants().map(|v| v.iter().map(name).collect::<Vec<_>>().join(",")).collect()
    }

    #[test]
    fn each_way_the_conditions_turn_out_is_a_variant() {
        let text = "frontend a\n.if defined(X)\nfrontend b\n.elif !defined(Y)\nfrontend c\n.else\n\
                    frontend d\n.endif\n";
        let mut found = names(&document(text));
        found.sort();
        assert_eq!(found, ["a,b", "a,c", "a,d"]);
        let many: Vec<_> =
            (0..40).map(|n| format!(".if c({n})\nfrontend f{n}\n.endif\n")).collect();
        let found = names(&document(&many.concat()));
        assert!(found.len() < 600, "{}", found.len());
        // Each of them alone, and all without it.
        for n in 0..40 {
            assert!(found.iter().any(|names| names.split(',').any(|name| name == format!("f{n}"))));
        }
    }

    #[test]
    fn what_the_files_decide_themselves_has_one_outcome() {
        let text = "global\npresetenv X 1\n.if defined(X)\nfrontend a\n.else\nfrontend b\n.endif\n\
                    .if 0\nfrontend c\n.endif\n.if !defined(X) || 1\nfrontend d\n.endif\n";
        assert_eq!(names(&document(text)), [",a,d"]);
        // A branch that only one rare combination reaches is reached.
        let deep =
            ".if a()\n.if !b()\n.if c()\n.if !d()\nserver x\n.endif\n.endif\n.endif\n.endif\n";
        let text = format!("backend z\n{deep}");
        let reached = document(&text).variants().any(|v| !v[0].lines.is_empty());
        assert!(reached);
    }

    #[test]
    fn bytes_that_are_no_utf8_are_read_one_by_one() {
        let source = Source::from_bytes("t".into(), b"frontend a # caf\xe9\n".to_vec());
        assert_eq!(source.text, "frontend a # caf\u{e9}\n");
        let document = Document::read(&[source]);
        assert!(document.unreadable.is_empty());
        assert_eq!(document.variant(|_| true)[0].name, "a");
    }

    #[test]
    fn sections_inherit_from_the_defaults_before_them_or_those_they_name() {
        let text = "defaults\nmode http\ndefaults t\nmode tcp\nfrontend a\nbind :80\n\
                    backend b from t\nlisten c from x\n";
        let sections = document(text).variants().next().unwrap();
        let inherited: Vec<_> = sections.iter().map(|s| s.defaults).collect();
        assert_eq!(inherited, [None, None, Some(1), Some(1), None]);
        assert_eq!(sections[2].lines[0].at, At { file: 0, line: 6 });
    }

    #[test]
    fn what_cannot_be_read_is_listed_with_its_place() {
        for (text, line) in
            [("a\nb 'c\n", 2), ("\n.endif\n", 2), (".if x\n", 1), (".else\n", 1), (".elif x\n", 1)]
        {
            let found = document(text).unreadable;
            assert_eq!(found.len(), 1, "{text:?} {found:?}");
            assert_eq!(found[0].at.line, line, "{text:?}");
        }
    }
}
