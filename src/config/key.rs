//! The declaration of a configuration key as data: its name, kind, default, documentation and flags.
//!
//! `table!` makes a [`Table`] of [`Key`]s from each declaration; the reader, the schema and the documents all use it. A
//! [`Shape`] describes the values of a kind without the code that reads them.

use std::path::Path;

use toml_span::{DeserError, Value};

/// A table of the configuration, as it was declared.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name with the names of the tables around it, such as `issuer.claims`; empty for the document.
    pub path: &'static str,
    /// Whether the document may have several of it.
    pub repeated: bool,
    /// Whether a change of any of its keys needs a restart.
    pub restart: bool,
    /// Its documentation.
    pub what: &'static str,
    /// The keys that it may have.
    pub keys: Vec<Key>,
}

/// A key of a table, as it was declared.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The kind of its value.
    pub shape: fn() -> Shape,
    /// Its documentation.
    pub what: &'static str,
    /// Its default in TOML, if that is a fixed value.
    pub default: Option<String>,
    /// Its default in words, if that depends on something.
    pub note: Option<&'static str>,
    /// A value in TOML, for the annotated example.
    pub example: Option<&'static str>,
    /// Whether the table must have it.
    pub required: bool,
    /// Whether it is set in the annotated example, and not only a comment there.
    pub used: bool,
    /// Whether a change of it needs a restart.
    pub restart: bool,
    /// The words of the key `kind` with which it may be there; empty for all.
    pub kinds: &'static [&'static str],
}

/// What the values of a kind look like in the file.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A text.
    Text,
    /// A path, relative to the directory of the file that names it.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number between two others, which are included.
    Number(u64, u64),
    /// A number above 0, at most 1.
    Ratio,
    /// One word of a fixed set.
    Choice(Vec<&'static str>),
    /// A list of values of one kind.
    List(Box<Shape>),
    /// A text, or a value of another kind.
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

    /// This table and all tables inside it, each before those inside it.
    #[must_use]
    pub fn all(self) -> Vec<Self> {
        let tables = self.keys.iter().filter_map(|key| (key.shape)().table());
        let below: Vec<_> = tables.flat_map(Self::all).collect();
        std::iter::once(self).chain(below).collect()
    }

    /// Its heading in TOML; empty for the document.
    #[must_use]
    pub fn heading(&self) -> String {
        match (self.path, self.repeated) {
            ("", _) => String::new(),
            (path, true) => format!("[[{path}]]"),
            (path, false) => format!("[{path}]"),
        }
    }

    /// The words of its key `kind`, if which keys it has depends on that.
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
    /// The table, if the values are a table or a list of tables.
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
            kinds: &[],
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

    pub(super) fn for_kinds(self, kinds: &'static [&'static str]) -> Self {
        Self { kinds, ..self }
    }

    /// Whether it may be in a table whose `kind` is this word.
    #[must_use]
    pub fn is_for_kind(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// A kind of value: what it looks like, and how it is read.
pub(super) trait Kind {
    /// What a value is read into.
    type Value;

    /// Its description, for schema and documents.
    fn shape() -> Shape;

    /// The word for one value in a message about a list of them.
    fn noun() -> String {
        "value".into()
    }

    /// Reads a value. Paths in it are relative to `base`.
    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self::Value, DeserError>;
}

/// A kind whose values can be written, for the default of a key.
pub(super) trait Shown: Kind {
    /// The value as TOML.
    fn show(value: &Self::Value) -> String;
}
