//! Reads TOML or YAML so that every mistake in a text is reported at once, each with its line and column.
//!
//! Both formats become one tree of values with their positions ([`toml_span::Value`]). What a document must contain is
//! declared elsewhere, by implementations of [`toml_span::Deserialize`] and by the tables of [`crate::config`]; this module
//! only turns their errors into messages for people. A syntax error ends the reading, since nothing after it has a certain
//! meaning; all other mistakes are collected. Messages quote the value that was wrong and nothing else of the document.

use std::{fmt, path::Path, str::FromStr};

use strum::VariantArray;
use toml_span::{
    DeserError, Deserialize, Error, ErrorKind, Span, Value,
    value::{Key, Table, ValueInner},
};

/// The language of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.0.
    Toml,
    /// YAML 1.2; JSON is a part of it.
    Yaml,
}

impl Format {
    /// The format by the ending of a file name: `.toml`, or `.yaml`, `.yml` and `.json`.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" | "json" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// One mistake with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The path of the file, as it was given on the command line.
    pub file: String,
    /// Line and column, both from 1; `None` for a mistake of the file as a whole.
    pub place: Option<(usize, usize)>,
    /// What was expected and what was found.
    pub message: String,
}

impl Mistake {
    /// The line that reports this as a warning: about something that is permitted and most likely not intended.
    #[must_use]
    pub fn as_warning(&self) -> String {
        let Self { file, place, message } = self;
        match place {
            Some((line, column)) => format!("{file}:{line}:{column}: warning: {message}"),
            None => format!("{file}: warning: {message}"),
        }
    }
}

/// All mistakes of a document, in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(Vec<Mistake>);

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => {
                write!(f, "{}:{line}:{column}: {}", self.file, self.message)
            }
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl Mistakes {
    /// A single mistake that concerns a file as a whole.
    #[must_use]
    pub fn whole(file: &str, message: impl Into<String>) -> Self {
        Self(vec![Mistake { file: file.into(), place: None, message: message.into() }])
    }

    /// Adds mistakes of another document.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The mistakes.
    #[must_use]
    pub fn as_slice(&self) -> &[Mistake] {
        &self.0
    }
}

impl From<Vec<Mistake>> for Mistakes {
    fn from(mistakes: Vec<Mistake>) -> Self {
        Self(mistakes)
    }
}

impl IntoIterator for Mistakes {
    type Item = Mistake;
    type IntoIter = std::vec::IntoIter<Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Reads a document of type `T`.
///
/// # Errors
/// Every mistake that was found; after a syntax error the rest of the text is not looked at.
pub fn read<T>(file: &str, text: &str, format: Format) -> Result<T, Mistakes>
where
    T: for<'t> Deserialize<'t>,
{
    tree(text, format)
        .and_then(|mut root| T::deserialize(&mut root))
        .map_err(|errors| mistakes(file, text, errors))
}

/// The values of a document, without a check of what it contains.
///
/// # Errors
/// The text is not valid in this format.
pub fn tree(text: &str, format: Format) -> Result<Value<'_>, DeserError> {
    match format {
        Format::Toml => toml_span::parse(text).map_err(DeserError::from),
        Format::Yaml => yaml::parse(text).map_err(DeserError::from),
    }
}

/// Turns errors with byte offsets into mistakes with lines and columns.
#[must_use]
pub fn mistakes(file: &str, text: &str, errors: DeserError) -> Mistakes {
    let mut placed: Vec<(usize, String)> =
        errors.errors.into_iter().flat_map(|error| explain(error, text)).collect();
    placed.sort_by_key(|(start, _)| *start);
    let mistake = |(start, message)| Mistake {
        file: file.into(),
        place: Some(line_and_column(text, start)),
        message,
    };
    Mistakes(placed.into_iter().map(mistake).collect())
}

/// An error with a message of its own, at a position.
#[must_use]
pub fn mistake(span: Span, message: impl Into<String>) -> Error {
    Error { kind: ErrorKind::Custom(message.into().into()), span, line_info: None }
}

/// Reads a string that must parse as `T`.
///
/// # Errors
/// The value is not a string, or `T` refuses it; the message has the error of `T` and what was found.
pub fn parsed<T>(value: &mut Value<'_>) -> Result<T, DeserError>
where
    T: FromStr<Err: fmt::Display>,
{
    let text = value.take_string(None)?;
    text.parse().map_err(|e| mistake(value.span, format!("{e}, found {text:?}")).into())
}

/// Reads a string that must be one of the given words.
///
/// # Errors
/// The value is not a string, or another word.
pub fn choice<T: Copy>(value: &mut Value<'_>, choices: &[(&str, T)]) -> Result<T, DeserError> {
    let text = value.take_string(None)?;
    choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let message = format!("expected one of {}; found {text:?}", words.join(", "));
        mistake(value.span, message).into()
    })
}

/// The values of an enumeration, each with the word that it has by its `strum` attributes.
#[must_use]
pub fn words<T>() -> Vec<(&'static str, T)>
where
    T: VariantArray + Copy + Into<&'static str>,
{
    T::VARIANTS.iter().map(|value| ((*value).into(), *value)).collect()
}

/// A value of an enumeration, given by its word.
pub(crate) struct Choice<T>(pub(crate) T);

impl<'de, T> Deserialize<'de> for Choice<T>
where
    T: VariantArray + Copy + Into<&'static str>,
{
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &words()).map(Self)
    }
}

/// The messages of one error with their byte offsets: a table can have several unknown keys.
fn explain(error: Error, text: &str) -> Vec<(usize, String)> {
    let start = error.span.start;
    let message = match error.kind {
        ErrorKind::UnexpectedKeys { keys, expected } => {
            return keys
                .into_iter()
                .map(|(key, span)| (span.start, unknown(&key, &expected)))
                .collect();
        }
        ErrorKind::Wanted { expected, found } => {
            // A number or date without quotes is the usual reason, so the message says what to do.
            let hint = if expected.contains("string") && found != "table" && found != "array" {
                ": put it in quotes"
            } else {
                ""
            };
            format!("expected {expected}, found {found}{hint}")
        }
        ErrorKind::MissingField(key) => format!("the key '{key}' is missing here"),
        ErrorKind::OutOfRange(number) => format!("the number does not fit {number}"),
        ErrorKind::DuplicateKey { key, first } => {
            format!(
                "the key '{key}' is already set in line {}",
                line_and_column(text, first.start).0
            )
        }
        ErrorKind::DuplicateTable { name, first } => {
            format!(
                "the table '{name}' already began in line {}",
                line_and_column(text, first.start).0
            )
        }
        ErrorKind::Custom(message) => message.into_owned(),
        kind => Error { kind, span: error.span, line_info: None }.to_string(),
    };
    vec![(start, message)]
}

/// The message about an unknown key, with the known key that is nearest to it.
fn unknown(key: &str, expected: &[String]) -> String {
    match nearest(key, expected.iter().map(String::as_str)) {
        Some(name) => format!("unknown key '{key}': did you mean '{name}'?"),
        None => format!("unknown key '{key}': expected one of {}", expected.join(", ")),
    }
}

/// The word that was probably intended: the nearest one, if at most two edits lead to it.
pub(crate) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let near = words.min_by_key(|word| strsim::levenshtein(typed, word))?;
    (strsim::levenshtein(typed, near) <= 2).then_some(near)
}

/// The line and column of a byte offset, both from 1.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

mod yaml {
    use serde::de::{self, MapAccess, SeqAccess, Visitor};
    use serde_saphyr::{Location, Spanned};

    use super::{Error, ErrorKind, Key, Span, Table, Value, ValueInner, fmt};

    /// The maximum size of a document in YAML events. A list of a hundred thousand workspaces has some millions.
    const MAX_EVENTS: usize = 50_000_000;

    struct Node(ValueInner<'static>);

    pub(crate) fn parse(text: &str) -> Result<Value<'static>, Error> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_events: MAX_EVENTS, max_nodes: MAX_EVENTS },
        };
        serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options).map(value).map_err(
            |e| {
                let start = e.location().map(|at| offset(text, at)).unwrap_or_default();
                let span = Span { start, end: start };
                // The position is printed before the message, so the snippet of the library would repeat it.
                let message = e.without_snippet().to_string();
                Error {
                    kind: ErrorKind::Custom(format!("not YAML: {message}").into()),
                    span,
                    line_info: None,
                }
            },
        )
    }

    fn value(node: Spanned<Node>) -> Value<'static> {
        Value::with_span(node.value.0, span(node.referenced))
    }

    fn span(location: Location) -> Span {
        let at = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
        let start = at(location.span().byte_offset());
        Span { start, end: start.saturating_add(at(location.span().byte_len())) }
    }

    /// The byte offset of a line and column; a syntax error of the library has no offset.
    fn offset(text: &str, location: Location) -> usize {
        let at = |n: u64| usize::try_from(n).unwrap_or_default().saturating_sub(1);
        let (line, column) = (at(location.line()), at(location.column()));
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let rest = text.get(start..).unwrap_or_default();
        start + rest.chars().take(column).map(char::len_utf8).sum::<usize>()
    }

    impl<'de> serde::Deserialize<'de> for Node {
        fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(NodeVisitor)
        }
    }

    struct NodeVisitor;

    impl<'de> Visitor<'de> for NodeVisitor {
        type Value = Node;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text, a number, true or false, a list or a table")
        }

        fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
            Ok(Node(ValueInner::Boolean(value)))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
            Ok(Node(ValueInner::Integer(value)))
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
            i64::try_from(value)
                .map(|value| Node(ValueInner::Integer(value)))
                .map_err(|_| E::custom("the number is too large"))
        }

        fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
            Ok(Node(ValueInner::Float(value)))
        }

        fn visit_str<E>(self, value: &str) -> Result<Node, E> {
            Ok(Node(ValueInner::String(value.to_owned().into())))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
            Err(E::custom("a value is missing here"))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element::<Spanned<Node>>()? {
                items.push(value(item));
            }
            Ok(Node(ValueInner::Array(items)))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
            let mut table = Table::new();
            while let Some(key) = map.next_key::<Spanned<String>>()? {
                let span = span(key.referenced);
                let value = value(map.next_value()?);
                table.insert(Key { name: key.value.into(), span }, value);
            }
            Ok(Node(ValueInner::Table(table)))
        }
    }
}

/// A text without control characters, which is safe in logs and headers.
pub(crate) struct Word(pub(crate) Box<str>);

impl<'de> Deserialize<'de> for Word {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(mistake(value.span, "expected text without control characters").into());
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use toml_span::de_helpers::TableHelper;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Pet {
        name: String,
        legs: u16,
        tags: Vec<String>,
    }

    impl<'de> Deserialize<'de> for Pet {
        fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
            let mut table = TableHelper::new(value)?;
            let (name, legs) = (table.required("name"), table.required("legs"));
            let tags = table.optional("tags").unwrap_or_default();
            table.finalize(None)?;
            Ok(Self { name: name?, legs: legs?, tags })
        }
    }

    #[test]
    fn both_formats_give_the_same_value() {
        let toml =
            read::<Pet>("p.toml", "name = 'rex'\nlegs = 4\ntags = ['a', 'b']\n", Format::Toml);
        let yaml = read::<Pet>("p.yaml", "name: rex\nlegs: 4\ntags: [a, b]\n", Format::Yaml);
        assert_eq!(toml, yaml);
        assert!(toml.is_ok());
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_line() {
        for (format, text) in [
            (Format::Toml, "nam = 'rex'\nlegs = 'four'\ntags = ['a', 7]\nwings = true\n"),
            (Format::Yaml, "nam: rex\nlegs: four\ntags: [a, 7]\nwings: true\n"),
        ] {
            let mistakes = read::<Pet>("pet", text, format).unwrap_err();
            let lines: Vec<_> = mistakes
                .as_slice()
                .iter()
                .map(|m| (m.place.unwrap().0, m.message.as_str()))
                .collect();
            assert_eq!(
                lines,
                [
                    (1, "the key 'name' is missing here"),
                    (1, "unknown key 'nam': did you mean 'name'?"),
                    (2, "expected u16, found string"),
                    (3, "expected a string, found integer: put it in quotes"),
                    (4, "unknown key 'wings': expected one of name, legs, tags"),
                ],
                "{format:?}"
            );
        }
    }

    #[test]
    fn a_syntax_error_has_its_line() {
        for (format, text) in
            [(Format::Toml, "name = 'rex'\nlegs = = 4\n"), (Format::Yaml, "name: rex\nlegs: [4\n")]
        {
            let mistakes = read::<Pet>("pet", text, format).unwrap_err();
            let place = mistakes.as_slice()[0].place.unwrap();
            assert!(place.0 >= 2, "{mistakes}");
        }
    }

    #[test]
    fn a_key_set_twice_is_refused() {
        for (format, text) in
            [(Format::Toml, "legs = 4\nlegs = 5\n"), (Format::Yaml, "legs: 4\nlegs: 5\n")]
        {
            assert!(read::<Pet>("pet", text, format).is_err(), "{format:?}");
        }
    }

    #[test]
    fn an_empty_document_is_a_mistake() {
        assert!(read::<Pet>("pet", "", Format::Yaml).is_err());
        assert!(read::<Pet>("pet", "", Format::Toml).is_err());
    }
}
