//! A HAProxy configuration as sections of lines, once for each way its `.if` conditions can turn out.
//!
//! What a condition is about is not known here: each different text is taken as true and as false.

use std::{collections::BTreeSet, fmt};

use super::line::{self, Environment};

/// The most different conditions whose every combination is looked at; of more, one at a time.
const MAX_COMBINED: usize = 6;
/// The most different conditions that are looked at one at a time.
const MAX_SINGLE: usize = 16;
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
    pub lines: Vec<Line>,
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
    Line(Line),
    If(At, Test),
    Elif(At, Test),
    Else(At),
    Endif(At),
}

/// A condition by its text, and whether it is negated.
#[derive(Clone, Debug)]
struct Test {
    number: usize,
    negated: bool,
}

/// Several files as one configuration.
#[derive(Debug, Default)]
pub struct Document {
    items: Vec<Item>,
    conditions: Vec<String>,
    /// What could not be read; the rest was.
    pub unreadable: Vec<Unreadable>,
}

const SECTIONS: [&str; 19] = [
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
];

impl Document {
    /// Reads files. Never fails: what cannot be read is listed, the rest is there.
    #[must_use]
    pub fn read(sources: &[Source]) -> Self {
        let environment = environment(sources);
        let mut document = Self::default();
        for (file, source) in sources.iter().enumerate() {
            if source.text.len() > MAX_FILE {
                let at = At { file, line: 1 };
                document.note(at, "the file is longer than 4 MiB");
                continue;
            }
            for (index, text) in source.text.lines().enumerate() {
                let at = At { file, line: index + 1 };
                match line::words(text, &environment) {
                    Ok(words) => document.add(at, words),
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

    fn add(&mut self, at: At, words: Vec<String>) {
        let Some(first) = words.first() else { return };
        let item = match first.as_str() {
            ".if" => Item::If(at, self.condition(&words)),
            ".elif" => Item::Elif(at, self.condition(&words)),
            ".else" => Item::Else(at),
            ".endif" => Item::Endif(at),
            // Messages to the person who starts HAProxy.
            word if word.starts_with('.') => return,
            _ => Item::Line(Line { at, words }),
        };
        self.items.push(item);
    }

    fn condition(&mut self, words: &[String]) -> Test {
        let text = words.get(1..).unwrap_or_default().join(" ");
        let bare = text.trim_start_matches(['!', ' ']);
        let negated = text.matches('!').count() % 2 == 1 && !bare.contains('!');
        let text = if bare.contains('!') { text.as_str() } else { bare };
        let known = self.conditions.iter().position(|condition| condition == text);
        let number = known.unwrap_or_else(|| {
            self.conditions.push(text.to_owned());
            self.conditions.len() - 1
        });
        Test { number, negated }
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

    /// The texts of the conditions, in the order of the files.
    #[must_use]
    pub fn conditions(&self) -> &[String] {
        &self.conditions
    }

    /// The configuration in each way its conditions can turn out: every combination of a few, and of
    /// many each one alone against the others.
    pub fn variants(&self) -> impl Iterator<Item = Vec<Section>> {
        let count = self.conditions.len();
        let mut all: BTreeSet<Vec<bool>> = BTreeSet::new();
        if count <= MAX_COMBINED {
            for bits in 0..1_u32 << count {
                all.insert((0..count).map(|n| bits >> n & 1 == 1).collect());
            }
        } else {
            for usual in [false, true] {
                all.insert(vec![usual; count]);
                for odd in 0..count.min(MAX_SINGLE) {
                    all.insert((0..count).map(|n| (n == odd) != usual).collect());
                }
            }
        }
        all.into_iter().map(|truth| self.variant(|number| truth.get(number) == Some(&true)))
    }

    /// The configuration where `holds` says how each condition turns out.
    pub fn variant(&self, holds: impl Fn(usize) -> bool) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        // For each open condition: whether this branch is taken, and whether one was.
        let mut open: Vec<(bool, bool)> = Vec::new();
        for item in &self.items {
            match item {
                Item::If(_, test) => {
                    let taken = holds(test.number) != test.negated;
                    open.push((taken, taken));
                }
                Item::Elif(_, test) => {
                    if let Some((taken, done)) = open.last_mut() {
                        *taken = !*done && holds(test.number) != test.negated;
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
                Item::Line(line) if open.iter().all(|(taken, _)| *taken) => {
                    place(&mut sections, line);
                }
                Item::Line(_) => {}
            }
        }
        sections
    }
}

/// Puts a line into the section it belongs to, or begins one.
fn place(sections: &mut Vec<Section>, line: &Line) {
    let word = |n: usize| line.words.get(n).map_or("", String::as_str);
    if !SECTIONS.contains(&word(0)) {
        if let Some(section) = sections.last_mut() {
            section.lines.push(line.clone());
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

/// The variables that the files themselves set.
fn environment(sources: &[Source]) -> Environment {
    let mut environment = Environment::new();
    let nothing = Environment::new();
    let lines = sources.iter().flat_map(|source| source.text.lines());
    for words in lines.filter_map(|text| line::words(text, &nothing).ok()) {
        if let [keyword, name, value] = &words[..]
            && (keyword == "presetenv" || keyword == "setenv")
        {
            environment.insert(name.clone(), value.clone());
        }
    }
    environment
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
        assert_eq!(found, ["a,b", "a,b", "a,c", "a,d"]);
        let many: Vec<_> =
            (0..40).map(|n| format!(".if c({n})\nfrontend f{n}\n.endif\n")).collect();
        assert_eq!(names(&document(&many.concat())).len(), 2 + 2 * MAX_SINGLE);
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
