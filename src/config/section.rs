//! One declaration per configuration key, and what reads a table by its declarations.
//!
//! [`table!`] declares a table: each key once, with its documentation, its kind, whether it must be there, and its
//! default. The reader, the JSON Schema, `docs/configuration.md`, `docs/agent.example.toml` and the list of what can
//! only change with a restart are made from it. [`Section::build`] turns the values of a table into settings.

use std::path::Path;

use toml_span::{DeserError, Error, ErrorKind, Span, Value, de_helpers::TableHelper};

use super::key::{Key, Kind, Table};
use crate::diagnostics::mistake;

/// The mistakes in a table, as they are found.
pub(super) struct Report {
    /// Where the table is.
    pub(super) span: Span,
    errors: Vec<Error>,
    /// The keys that are there and wrong.
    wrong: Vec<&'static str>,
}

impl Report {
    /// A mistake of the table as a whole.
    pub(super) fn mistake(&mut self, message: impl Into<String>) {
        self.mistake_at(self.span, message);
    }

    pub(super) fn mistake_at(&mut self, span: Span, message: impl Into<String>) {
        self.errors.push(mistake(span, message));
    }

    /// A key that must be there, because of what another one says.
    pub(super) fn missing(&mut self, key: &'static str) {
        if !self.is_wrong(key) {
            let kind = ErrorKind::MissingField(key);
            self.errors.push(Error { kind, span: self.span, line_info: None });
        }
    }

    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = Error>) {
        self.errors.extend(errors);
    }

    /// Whether a key is there and cannot be read.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.wrong.contains(&key)
    }

    /// Whether no mistake was found yet.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The keys of a table, while they are read.
pub(super) struct Keys<'de, 'r> {
    table: TableHelper<'de>,
    base: &'r Path,
    /// What the key `kind` says.
    kind: Option<String>,
    report: Report,
}

impl Keys<'_, '_> {
    /// The value of a key. Nothing if it is missing or wrong, which is in the report then.
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

    pub(super) fn required<K: Kind>(&mut self, key: &Key) -> Option<K::Value> {
        if self.has(key) && !self.table.contains(key.name) {
            self.report.missing(key.name);
        }
        self.optional::<K>(key)
    }

    pub(super) fn or_default<K: Kind>(&mut self, key: &Key, default: K::Value) -> K::Value {
        self.optional::<K>(key).unwrap_or(default)
    }

    pub(super) fn group<S: Section>(&mut self) -> Option<S::Value> {
        S::take(self).build(&mut self.report)
    }

    fn has(&self, key: &Key) -> bool {
        self.kind.as_ref().map_or(key.of.is_empty(), |kind| key.is_of(kind))
    }
}

/// What [`table!`] makes: the declarations of a table, and its keys as they were typed.
pub(super) trait Declared: Sized {
    /// The declarations.
    fn table() -> Table;
    /// Reads all keys.
    fn take(keys: &mut Keys<'_, '_>) -> Self;
}

/// A table as what it is for.
pub(super) trait Section: Declared {
    /// The settings.
    type Value;
    /// Makes the settings of the keys. Nothing if one is missing or two do not go together; the report says which.
    fn build(self, report: &mut Report) -> Option<Self::Value>;
}

/// Reads a table: every mistake in it at once, and the keys that it does not have.
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
///     /// What the key says.
///     connections: default Number<1, 100_000> = 1024, restart;
/// }
/// ```
///
/// A key is `required`, `optional`, or has a `default`; a `group` is the keys of another declaration. `as "name"`
/// stands before the colon where the name is a word of Rust. After a comma follow methods of [`Key`]: `restart`,
/// `note("…")` for a default that is no value, `example("…")`, `of(KINDS)`; and after the path those of [`Table`].
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
