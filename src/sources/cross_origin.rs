//! The key `cross_origin` of sources and of records in lists.

use toml_span::{DeserError, Deserialize, Value, de_helpers::expected, value::ValueInner};

use crate::{
    diagnostics::mistake,
    workspaces::cross_origin::{CrossOrigin, NONE},
};

/// The value of `cross_origin`: `none`, `same-workspace`, an origin, or a list of origins and `same-workspace`.
pub(crate) struct CrossOriginKey(pub(crate) CrossOrigin);

impl<'de> Deserialize<'de> for CrossOriginKey {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        const EXPECTED: &str =
            "\"none\", \"same-workspace\", or a list of origins and \"same-workspace\"";
        let span = value.span;
        let mut texts = match value.take() {
            ValueInner::Array(list) => list,
            text @ ValueInner::String(_) => vec![Value::with_span(text, span)],
            other => return Err(expected("an array", other, span).into()),
        };
        let is_none = |text: &Value<'_>| text.as_str() == Some(NONE);
        // Only alone: next to an origin it would mean nothing.
        if let [only] = &texts[..]
            && is_none(only)
        {
            return Ok(Self(CrossOrigin::none()));
        }
        let mut words = Vec::new();
        for text in &mut texts {
            words.push((text.take_string(Some(EXPECTED))?, text.span));
        }
        match CrossOrigin::listed(words.iter().map(|(word, _)| &**word)) {
            Ok(listed) => Ok(Self(listed)),
            Err((index, error)) => {
                let (found, at) = words.get(index).map_or(("", span), |(word, at)| (&**word, *at));
                Err(mistake(at, format!("{error}; or {EXPECTED}; found {found:?}")).into())
            }
        }
    }
}
