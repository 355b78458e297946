//! What is declared of a configuration key, and what kinds of value there are.

use std::path::Path;

use toml_span::{DeserError, Value};

/// A table of the configuration.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name, with those of the tables it is in: `issuer.claims`. Empty for the document.
    pub path: &'static str,
    /// Whether there can be several.
    pub repeated: bool,
    /// Whether each of its keys can only change with a restart.
    pub restart: bool,
    /// What it is for.
    pub what: &'static str,
    /// What can be in it.
    pub keys: Vec<Key>,
}

/// A key of a table.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub shape: fn() -> Shape,
    /// What it says.
    pub what: &'static str,
    /// Its default in TOML, where that is a value.
    pub default: Option<String>,
    /// Its default, where that is no value.
    pub note: Option<&'static str>,
    /// A value in TOML, for the annotated example.
    pub example: Option<&'static str>,
    /// Whether it must be there.
    pub required: bool,
    /// Whether the annotated example has it, and not only as a comment.
    pub used: bool,
    /// Whether it can only change with a restart.
    pub restart: bool,
    /// The values of the key `kind` with which it can be there; all if empty.
    pub of: &'static [&'static str],
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Text.
    Text,
    /// A path, relative to the directory of the file that names it.
    Path,
    /// true or false.
    Bool,
    /// A whole number, from and to.
    Number(u64, u64),
    /// A share above 0, at most 1.
    Ratio,
    /// One of some words.
    Choice(Vec<&'static str>),
    /// A list.
    List(Box<Shape>),
    /// A text, or what it is beside that.
    TextOr(Box<Shape>),
    /// A table.
    Table(Table),
}

impl Table {
    pub(super) const fn new(path: &'static str, what: &'static str, keys: Vec<Key>) -> Self {
        Self { path, repeated: false, restart: false, what, keys }
    }

    pub(super) fn repeated(self) -> Self {
        Self { repeated: true, ..self }
    }

    pub(super) fn restart(self) -> Self {
        Self { restart: true, ..self }
    }

    /// It and all tables below it, each before those in it.
    #[must_use]
    pub fn all(self) -> Vec<Self> {
        let tables = self.keys.iter().filter_map(|key| (key.shape)().table());
        let below: Vec<_> = tables.flat_map(Self::all).collect();
        std::iter::once(self).chain(below).collect()
    }

    /// As it stands in TOML, empty for the document.
    #[must_use]
    pub fn heading(&self) -> String {
        match (self.path, self.repeated) {
            ("", _) => String::new(),
            (path, true) => format!("[[{path}]]"),
            (path, false) => format!("[{path}]"),
        }
    }

    /// The words of its key `kind`, on which its keys depend.
    #[must_use]
    pub fn kinds(&self) -> Option<Vec<&'static str>> {
        let kind = self.keys.iter().find(|key| key.name == "kind")?;
        match (kind.shape)() {
            Shape::Choice(words) => Some(words),
            _ => None,
        }
    }
}

impl Shape {
    /// The table that it is or lists.
    #[must_use]
    pub fn table(self) -> Option<Table> {
        match self {
            Self::Table(table) => Some(table),
            Self::List(inner) | Self::TextOr(inner) => inner.table(),
            _ => None,
        }
    }
}

impl Key {
    pub(super) fn new<K: Kind>(name: &'static str, what: &'static str) -> Self {
        Self {
            name,
            shape: K::shape,
            what: what.trim_start(),
            default: None,
            note: None,
            example: None,
            required: false,
            used: false,
            restart: false,
            of: &[],
        }
    }

    pub(super) fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub(super) fn default<K: Shown>(self, value: &K::Value) -> Self {
        Self { default: Some(K::show(value)), ..self }
    }

    pub(super) fn note(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }

    pub(super) fn example(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    pub(super) fn used(self, example: &'static str) -> Self {
        Self { used: true, ..self.example(example) }
    }

    pub(super) fn restart(self) -> Self {
        Self { restart: true, ..self }
    }

    pub(super) fn of(self, of: &'static [&'static str]) -> Self {
        Self { of, ..self }
    }

    /// Whether it can be in a table with this word for `kind`.
    #[must_use]
    pub fn is_of(&self, kind: &str) -> bool {
        self.of.is_empty() || self.of.contains(&kind)
    }
}

/// What the value of a key is, and how it is read.
pub(super) trait Kind {
    /// The value.
    type Value;

    /// What schema and documents say of it.
    fn shape() -> Shape;

    /// What one of a list is called.
    fn noun() -> String {
        "value".into()
    }

    /// Reads a value; relative paths in it begin at `base`.
    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self::Value, DeserError>;
}

/// A kind whose values can be a default.
pub(super) trait Shown: Kind {
    /// A value in TOML.
    fn show(value: &Self::Value) -> String;
}
