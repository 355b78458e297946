//! What differs between two versions of a configuration, for whoever changed it and for the audit trail.
//!
//! Both are compared as they were typed, by their keys: comments and order are no difference. No key of a
//! configuration holds a secret, only where one is.

use std::collections::{BTreeMap, BTreeSet};

use toml_span::{Value, value::ValueInner};

use crate::diagnostics::{self, Format};

/// The longest value that is shown, in characters.
const MAX_VALUE: usize = 100;

/// One line for each key that differs, such as `issuer[corp].audience: "a" -> "b"`, in the order of the keys.
/// A text that cannot be read has no keys.
#[must_use]
pub fn between(before: &str, after: &str, format: Format) -> Vec<String> {
    let (before, after) = (keys(before, format), keys(after, format));
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let line = |key: &String| match (before.get(key), after.get(key)) {
        (Some(was), Some(is)) if was == is => None,
        (Some(was), Some(is)) => Some(format!("{key}: {was} -> {is}")),
        (None, Some(is)) => Some(format!("{key}: {is} is new")),
        (Some(was), None) => Some(format!("{key}: {was} is gone")),
        (None, None) => None,
    };
    all.into_iter().filter_map(line).collect()
}

fn keys(text: &str, format: Format) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    if let Ok(mut root) = diagnostics::tree(text, format) {
        walk(&mut root, String::new(), &mut keys);
    }
    keys
}

fn walk(value: &mut Value<'_>, path: String, keys: &mut BTreeMap<String, String>) {
    match value.take() {
        ValueInner::Table(table) => {
            for (key, mut value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&mut value, format!("{path}{dot}{}", key.name), keys);
            }
        }
        ValueInner::Array(all) if all.iter().any(|value| value.as_table().is_some()) => {
            for (number, mut value) in all.into_iter().enumerate() {
                // By its name, so that one more in front does not make all others differ.
                let name = value.as_table().and_then(|table| table.get("name")?.as_str());
                let label = name.map_or_else(|| (number + 1).to_string(), str::to_owned);
                walk(&mut value, format!("{path}[{label}]"), keys);
            }
        }
        other => {
            keys.insert(path, shown(&other));
        }
    }
}

fn shown(value: &ValueInner<'_>) -> String {
    let whole = match value {
        ValueInner::String(text) => format!("{text:?}"),
        ValueInner::Integer(number) => number.to_string(),
        ValueInner::Float(number) => number.to_string(),
        ValueInner::Boolean(is) => is.to_string(),
        ValueInner::Array(all) => {
            let all: Vec<_> = all.iter().map(|value| shown(value.as_ref())).collect();
            format!("[{}]", all.join(", "))
        }
        ValueInner::Table(_) => "a table".into(),
    };
    match whole.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}\u{2026}", whole.get(..end).unwrap_or_default()),
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "[agent]\nlisten = ['a', 'b']\n[[issuer]]\nname = 'corp'\naudience = 'x'\n\
        [[host]]\npreset = 'ona'\n";

    #[test]
    fn each_key_that_differs_has_a_line() {
        let after = "# words\n[[issuer]]\nname = 'new'\naudience = 'y'\n[[issuer]]\nname = 'corp'\n\
            audience = 'z'\n[[host]]\npreset = 'ona'\nagent = 'main'\n[agent]\nlisten = ['a']\n";
        assert_eq!(
            between(BEFORE, after, Format::Toml),
            [
                "agent.listen: [\"a\", \"b\"] -> [\"a\"]",
                "host[1].agent: \"main\" is new",
                "issuer[corp].audience: \"x\" -> \"z\"",
                "issuer[new].audience: \"y\" is new",
                "issuer[new].name: \"new\" is new",
            ]
        );
        let gone = between(after, BEFORE, Format::Toml);
        assert!(gone.contains(&"issuer[new].name: \"new\" is gone".to_owned()), "{gone:?}");
    }

    #[test]
    fn words_and_order_are_no_difference() {
        let after = "[[host]]\npreset = 'ona' # here\n[[issuer]]\naudience = 'x'\nname = 'corp'\n\
            [agent]\nlisten = [ 'a', 'b' ]\n";
        assert!(between(BEFORE, after, Format::Toml).is_empty());
    }
}
