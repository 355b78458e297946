//! One declaration per configuration key, and the reader that goes by the declarations.
//!
//! [`table!`] declares a table: each key once, with its documentation, its kind, whether it is required, and its default.
//! The reader, the JSON Schema, `docs/configuration.md`, `docs/agent.example.toml` and the list of changes that need a
//! restart are made from it. [`Section::build`] turns the values of a table into the settings of a subsystem.
//!
//! Reading never stops at the first mistake: each one goes into the [`Report`] of its table, and a key that is missing or
//! wrong is `None` until the end, when any mistake makes the whole table an error.

use std::path::Path;

use toml_span::{DeserError, Error, ErrorKind, Span, Value, de_helpers::TableHelper};

use super::key::{Key, Kind, Table};
use crate::diagnostics::mistake;

/// The mistakes in one table, collected while it is read and built.
pub(super) struct Report {
    /// The position of the table.
    pub(super) span: Span,
    errors: Vec<Error>,
    /// The keys whose values could not be read.
    wrong: Vec<&'static str>,
}

impl Report {
    /// Reports a mistake of the table as a whole.
    pub(super) fn mistake(&mut self, message: impl Into<String>) {
        self.mistake_at(self.span, message);
    }

    /// Reports a mistake at a position of its own.
    pub(super) fn mistake_at(&mut self, span: Span, message: impl Into<String>) {
        self.errors.push(mistake(span, message));
    }

    /// Reports a missing key that the values of other keys require.
    pub(super) fn missing(&mut self, key: &'static str) {
        if !self.is_wrong(key) {
            let kind = ErrorKind::MissingField(key);
            self.errors.push(Error { kind, span: self.span, line_info: None });
        }
    }

    /// Adds mistakes that were found elsewhere.
    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = Error>) {
        self.errors.extend(errors);
    }

    /// Whether a key is present and could not be read, so that a second message about it would confuse.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.wrong.contains(&key)
    }

    /// Whether there is no mistake so far.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The keys of a table while it is read.
pub(super) struct Keys<'de, 'r> {
    table: TableHelper<'de>,
    base: &'r Path,
    /// The word of the key `kind`, if the table has one.
    kind: Option<String>,
    report: Report,
}

impl Keys<'_, '_> {
    /// The value of a key, or `None` if it is missing or wrong; a wrong one is reported.
    pub(super) fn optional<K: Kind>(&mut self, key: &Key) -> Option<K::Value> {
        if !self.has(key) {
            return None;
        }
        let (_, mut value) = self.table.take(key.name)?;
        match K::read(&mut value, self.base) {
            Ok(value) => Some(value),
            Err(mistakes) => {
                self.report.extend(mistakes.errors);
                self.report.wrong.push(key.name);
                None
            }
        }
    }

    /// The value of a key that must be there, or `None` if it is missing or wrong; either is reported.
    pub(super) fn required<K: Kind>(&mut self, key: &Key) -> Option<K::Value> {
        if self.has(key) && !self.table.contains(key.name) {
            self.report.missing(key.name);
        }
        self.optional::<K>(key)
    }

    /// The value of a key, or its default; a wrong value is reported.
    pub(super) fn or_default<K: Kind>(&mut self, key: &Key, default: K::Value) -> K::Value {
        self.optional::<K>(key).unwrap_or(default)
    }

    /// The settings that are made of keys of this table which are declared elsewhere.
    pub(super) fn group<S: Section>(&mut self) -> Option<S::Value> {
        S::take(self).build(&mut self.report)
    }

    /// Whether the table may have the key, with its word for `kind`.
    fn has(&self, key: &Key) -> bool {
        self.kind.as_ref().map_or(key.kinds.is_empty(), |kind| key.is_for_kind(kind))
    }
}

/// What [`table!`] makes of a declaration: the keys as data, and a reader of their values.
pub(super) trait Declared: Sized {
    /// The declarations as data.
    fn table() -> Table;
    /// Reads the values of all keys.
    fn take(keys: &mut Keys<'_, '_>) -> Self;
}

/// A table that becomes the settings of a subsystem.
pub(super) trait Section: Declared {
    /// Those settings.
    type Value;
    /// Makes the settings, or reports what is missing or contradicts another key. An implementation may return settings
    /// after a mistake: the report alone decides whether the table is valid.
    fn build(self, report: &mut Report) -> Option<Self::Value>;
}

/// Reads a table, with every mistake in it and every key that it does not know.
pub(super) fn read<S: Section>(value: &mut Value<'_>, base: &Path) -> Result<S::Value, DeserError> {
    let span = value.span;
    let table = TableHelper::new(value)?;
    let kind = table.table.get("kind").and_then(|kind| kind.as_str()).map(str::to_owned);
    let report = Report { span, errors: vec![], wrong: vec![] };
    let mut keys = Keys { table, base, kind, report };
    let built = keys.group::<S>();
    let Keys { mut table, report, .. } = keys;
    table.errors.extend(report.errors);
    table.finalize(None)?;
    built.ok_or_else(|| mistake(span, "this table cannot be read").into())
}

/// Declares a table and its keys.
///
/// ```text
/// table! {
///     /// What the table is for.
///     AgentTable = "agent";
///     /// What the key means.
///     max_connections: default Number<1, 100_000> = 1024, restart;
/// }
/// ```
///
/// A key is `required`, `optional`, or has a `default`; a `group` stands for the keys of another declaration. `as "name"`
/// stands before the colon if the name is a keyword of Rust. Methods of [`Key`] follow after commas: `restart`,
/// `note("…")` for a default in words, `example("…")`, `for_kinds(KINDS)`; methods of [`Table`] follow after the path.
macro_rules! table {
    (
        $(#[doc = $what:literal])*
        $table:ident = $path:literal $(, $flag:ident)*;
        $(
            $(#[doc = $doc:literal])*
            $field:ident $(as $name:literal)? : $presence:ident $kind:ty $(= $default:expr)?
                $(, $option:ident $(($value:expr))?)*;
        )*
    ) => {
        pub(in $crate::config) struct $table {
            $($field: $crate::config::section::table!(@value $presence $kind),)*
        }

        impl $crate::config::section::Declared for $table {
            fn table() -> $crate::config::key::Table {
                let keys = [$($crate::config::section::table!(
                    @list $presence $kind,
                    $crate::config::key::Key::new::<$kind>(
                        $crate::config::section::table!(@name $field $($name)?), concat!($($doc),*),
                    )$(.$option($($value)?))*
                    $(, $default)?
                ),)*];
                let keys = keys.concat();
                let what = concat!($($what),*).trim_start();
                $crate::config::key::Table::new($path, what, keys)$(.$flag())*
            }

            fn take(keys: &mut $crate::config::section::Keys<'_, '_>) -> Self {
                Self {
                    $($field: $crate::config::section::table!(
                        @take $presence $kind, keys,
                        $crate::config::key::Key::new::<$kind>(
                            $crate::config::section::table!(@name $field $($name)?), "",
                        )$(.$option($($value)?))*
                        $(, $default)?
                    ),)*
                }
            }
        }

        impl $crate::config::key::Kind for $table {
            type Value = <Self as $crate::config::section::Section>::Value;

            fn shape() -> $crate::config::key::Shape {
                $crate::config::key::Shape::Table(<Self as $crate::config::section::Declared>::table())
            }

            fn noun() -> String {
                <Self as $crate::config::section::Declared>::table().heading()
            }

            fn read(
                value: &mut toml_span::Value<'_>,
                base: &std::path::Path,
            ) -> Result<Self::Value, toml_span::DeserError> {
                $crate::config::section::read::<Self>(value, base)
            }
        }
    };

    (@value group $kind:ty) => { Option<<$kind as $crate::config::section::Section>::Value> };
    (@value default $kind:ty) => { <$kind as $crate::config::key::Kind>::Value };
    (@value $presence:ident $kind:ty) => { Option<<$kind as $crate::config::key::Kind>::Value> };

    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };

    (@list group $kind:ty, $key:expr) => {
        <$kind as $crate::config::section::Declared>::table().keys
    };
    (@list required $kind:ty, $key:expr) => { vec![$key.required()] };
    (@list optional $kind:ty, $key:expr) => { vec![$key] };
    (@list default $kind:ty, $key:expr, $default:expr) => {
        vec![$key.default::<$kind>(&$default)]
    };

    (@take group $kind:ty, $keys:ident, $key:expr) => { $keys.group::<$kind>() };
    (@take required $kind:ty, $keys:ident, $key:expr) => { $keys.required::<$kind>(&$key) };
    (@take optional $kind:ty, $keys:ident, $key:expr) => { $keys.optional::<$kind>(&$key) };
    (@take default $kind:ty, $keys:ident, $key:expr, $default:expr) => {
        $keys.or_default::<$kind>(&$key, $default)
    };
}
pub(super) use table;
