//! The kinds of value that keys have: how each is read, and what schema and documents say of it.
//!
//! A kind is a type, so that a declaration such as `Number<1, 1024>` holds range, reader and documentation together. A text
//! that must have a form implements [`Form`]; anything else implements [`Kind`]. Kinds of one table alone are declared in
//! that table's file. An error says what was expected and what was found, never more of the document.

use std::{fmt, marker::PhantomData, path::Path, path::PathBuf, str::FromStr, time::Duration};

use toml_span::value::ValueInner;
use toml_span::{DeserError, Deserialize as _, Spanned, Value, de_helpers::expected};

use super::key::{Kind, Shape, Shown};
use crate::{
    agent::Listen,
    diagnostics::{self, Word, mistake},
    haproxy::Socket,
    sources::{cross_origin::CrossOriginKey, issuer_key::IssuerKey},
    workspaces::{CorsAnswers, CrossOrigin},
};

/// A text of a certain form, such as a domain or a file mode.
pub(super) trait Form {
    /// What a text of this form is read into.
    type Value;

    /// Reads the text. The error says what was expected and what was found.
    fn parse(text: &str) -> Result<Self::Value, String>;
}

impl<T: Form> Kind for T {
    type Value = T::Value;

    fn shape() -> Shape {
        Shape::Text
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<Self::Value, DeserError> {
        let text = value.take_string(None)?;
        T::parse(&text).map_err(|error| mistake(value.span, error).into())
    }
}

/// Any text.
impl Form for String {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl Shown for String {
    fn show(value: &Self) -> String {
        format!("{value:?}")
    }
}

/// A text without control characters, which is safe in logs and headers.
impl Kind for Word {
    type Value = Box<str>;

    fn shape() -> Shape {
        Shape::Text
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<Box<str>, DeserError> {
        Ok(Self::deserialize(value)?.0)
    }
}

impl Shown for Word {
    fn show(value: &Box<str>) -> String {
        format!("{value:?}")
    }
}

/// A text that parses as a `T`.
pub(super) struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Form for Parsed<T> {
    type Value = T;

    fn parse(text: &str) -> Result<T, String> {
        text.parse().map_err(|error| format!("{error}, found {text:?}"))
    }
}

/// The path of a file or directory.
impl Kind for PathBuf {
    type Value = Self;

    fn shape() -> Shape {
        Shape::Path
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self, DeserError> {
        Ok(base.join(&*value.take_string(None)?))
    }
}

/// An address of a socket; the path of a unix socket is relative to the directory of the file.
pub(super) struct Address<T>(PhantomData<T>);

/// An address that may be the path of a unix socket.
pub(super) trait MaybePath: FromStr<Err: fmt::Display> {
    /// The word for one of them in a message about a list.
    const NOUN: &str;

    /// The path, if it is the address of a unix socket.
    fn path_mut(&mut self) -> Option<&mut PathBuf>;
}

impl MaybePath for Listen {
    const NOUN: &str = "address";

    fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Systemd => None,
        }
    }
}

impl MaybePath for Socket {
    const NOUN: &str = "socket";

    fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }
}

impl<T: MaybePath> Kind for Address<T> {
    type Value = T;

    fn shape() -> Shape {
        Shape::Text
    }

    fn noun() -> String {
        T::NOUN.into()
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<T, DeserError> {
        let mut address: T = diagnostics::parsed(value)?;
        if let Some(path) = address.path_mut() {
            *path = base.join(&*path);
        }
        Ok(address)
    }
}

impl Kind for bool {
    type Value = Self;

    fn shape() -> Shape {
        Shape::Bool
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<Self, DeserError> {
        Self::deserialize(value)
    }
}

impl Shown for bool {
    fn show(value: &Self) -> String {
        value.to_string()
    }
}

/// A whole number from `FROM` to `TO`, both included.
pub(super) struct Number<const FROM: u64, const TO: u64, T = u64>(PhantomData<T>);

impl<const FROM: u64, const TO: u64, T: TryFrom<u64>> Kind for Number<FROM, TO, T> {
    type Value = T;

    fn shape() -> Shape {
        Shape::Number(FROM, TO)
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<T, DeserError> {
        let number = match value.take() {
            ValueInner::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        };
        let number = number.filter(|number| (FROM..=TO).contains(number));
        number.and_then(|number| number.try_into().ok()).ok_or_else(|| {
            mistake(value.span, format!("expected a number from {FROM} to {TO}")).into()
        })
    }
}

impl<const FROM: u64, const TO: u64, T: TryFrom<u64> + fmt::Display> Shown for Number<FROM, TO, T> {
    fn show(value: &T) -> String {
        value.to_string()
    }
}

/// A time, as a whole number of units; `UNIT` is the length of a unit in milliseconds.
pub(super) struct Time<const FROM: u64, const TO: u64, const UNIT: u64>;
pub(super) type Seconds<const FROM: u64, const TO: u64> = Time<FROM, TO, 1000>;
pub(super) type Milliseconds<const FROM: u64, const TO: u64> = Time<FROM, TO, 1>;

impl<const FROM: u64, const TO: u64, const UNIT: u64> Kind for Time<FROM, TO, UNIT> {
    type Value = Duration;

    fn shape() -> Shape {
        Shape::Number(FROM, TO)
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Duration, DeserError> {
        let number = Number::<FROM, TO>::read(value, base)?;
        Ok(Duration::from_millis(number.saturating_mul(UNIT)))
    }
}

impl<const FROM: u64, const TO: u64, const UNIT: u64> Shown for Time<FROM, TO, UNIT> {
    fn show(value: &Duration) -> String {
        (value.as_millis() / u128::from(UNIT)).to_string()
    }
}

/// A share: a number above 0, at most 1.
pub(super) struct Ratio;

impl Kind for Ratio {
    type Value = f64;

    fn shape() -> Shape {
        Shape::Ratio
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<f64, DeserError> {
        let number = match value.take() {
            ValueInner::Float(number) => Some(number),
            // The only whole number in the range.
            ValueInner::Integer(1) => Some(1.0),
            _ => None,
        };
        // A comparison with "not a number" is false, so that is refused as well.
        let number = number.filter(|number| *number > 0.0 && *number <= 1.0);
        number.ok_or_else(|| mistake(value.span, "expected a number above 0, at most 1").into())
    }
}

impl Shown for Ratio {
    fn show(value: &f64) -> String {
        value.to_string()
    }
}

/// A type whose values have words in the configuration.
pub(super) trait Words: Copy + PartialEq {
    /// Each word with its value.
    fn words() -> Vec<(&'static str, Self)>;
}

/// Enumerations whose words are declared with them, by `strum`.
macro_rules! words_of {
    ($($value:ty),*) => {$(
        impl $crate::config::kinds::Words for $value {
            fn words() -> Vec<(&'static str, Self)> {
                $crate::diagnostics::words()
            }
        }
    )*};
}
pub(super) use words_of;

/// One word of a fixed set.
pub(super) struct Choice<T>(PhantomData<T>);

impl<T: Words> Kind for Choice<T> {
    type Value = T;

    fn shape() -> Shape {
        Shape::Choice(T::words().into_iter().map(|(word, _)| word).collect())
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<T, DeserError> {
        diagnostics::choice(value, &T::words())
    }
}

impl<T: Words> Shown for Choice<T> {
    fn show(value: &T) -> String {
        let word = T::words().into_iter().find_map(|(word, its)| (its == *value).then_some(word));
        format!("{:?}", word.unwrap_or_default())
    }
}

/// A list of values of one kind.
pub(super) struct List<K>(PhantomData<K>);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn shape() -> Shape {
        Shape::List(Box::new(K::shape()))
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self::Value, DeserError> {
        let list = match value.take() {
            ValueInner::Array(list) => list,
            other => return Err(expected("an array", other, value.span).into()),
        };
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for mut value in list {
            match K::read(&mut value, base) {
                Ok(value) => all.push(value),
                Err(mistakes) => errors.extend(mistakes.errors),
            }
        }
        if errors.is_empty() { Ok(all) } else { Err(DeserError { errors }) }
    }
}

impl<K: Shown> Shown for List<K> {
    fn show(value: &Vec<K::Value>) -> String {
        format!("[{}]", value.iter().map(K::show).collect::<Vec<_>>().join(", "))
    }
}

/// A list of at least one value.
pub(super) struct NonEmpty<K>(PhantomData<K>);

impl<K: Kind> Kind for NonEmpty<K> {
    type Value = Vec<K::Value>;

    fn shape() -> Shape {
        List::<K>::shape()
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self::Value, DeserError> {
        let all = List::<K>::read(value, base)?;
        if all.is_empty() {
            return Err(mistake(value.span, format!("expected at least one {}", K::noun())).into());
        }
        Ok(all)
    }
}

/// A value together with its position in the file, for a message about it.
pub(super) struct At<K>(PhantomData<K>);

impl<K: Kind> Kind for At<K> {
    type Value = Spanned<K::Value>;

    fn shape() -> Shape {
        K::shape()
    }

    fn noun() -> String {
        K::noun()
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self::Value, DeserError> {
        let span = value.span;
        K::read(value, base).map(|value| Spanned { value, span })
    }
}

/// The name of an issuer, or a list of names.
impl Kind for IssuerKey {
    type Value = Self;

    fn shape() -> Shape {
        Shape::TextOr(Box::new(Shape::List(Box::new(Shape::Text))))
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<Self, DeserError> {
        Self::deserialize(value)
    }
}

/// Which pages of other origins may use an endpoint.
impl Kind for CrossOriginKey {
    type Value = CrossOrigin;

    fn shape() -> Shape {
        Shape::TextOr(Box::new(Shape::List(Box::new(Shape::Text))))
    }

    fn read(value: &mut Value<'_>, _: &Path) -> Result<CrossOrigin, DeserError> {
        Ok(Self::deserialize(value)?.0)
    }
}

words_of!(CorsAnswers);

/// The mode of a file in octal, as a text: a TOML number such as 660 would not be octal.
pub(super) struct FileMode;

impl Form for FileMode {
    type Value = u32;

    fn parse(text: &str) -> Result<u32, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(mode),
            _ => Err(format!("expected a file mode in octal such as \"0660\", found {text:?}")),
        }
    }
}

impl Shown for FileMode {
    fn show(value: &u32) -> String {
        format!("\"{value:04o}\"")
    }
}
