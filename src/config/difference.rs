//! The differences between two versions of a configuration, for the log and the audit log, and whether they need a restart.
//!
//! The values of both texts are compared key by key, so comments and the order of keys make no difference. A difference may
//! be shown in full: no key of a configuration holds a secret, only where one is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use toml_span::{Value, value::ValueInner};

use super::reference;
use crate::diagnostics::{self, Format};

/// A value is shown up to this many characters.
const MAX_VALUE: usize = 100;

/// One line for each key that differs, such as `issuer[corp].audience: "a" -> "b"`, in the order of the keys.
/// A text that is not valid has no keys.
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

/// The keys that differ and whose change needs a restart, such as `[agent] listen`. A missing key is compared as its
/// default.
#[must_use]
pub fn needing_restart(before: &str, after: &str, format: Format) -> Vec<String> {
    let (before, after) = (keys(before, format), keys(after, format));
    let mut changed = Vec::new();
    for table in reference::tables().iter().filter(|table| !table.repeated) {
        for key in table.keys.iter().filter(|key| key.restart || table.restart) {
            let path = format!("{}.{}", table.path, key.name);
            let default = key.default.as_ref().and_then(|default| {
                keys(&format!("default = {default}"), Format::Toml).remove("default")
            });
            let value = |keys: &BTreeMap<String, Setting>| {
                keys.get(&path).cloned().or_else(|| default.clone())
            };
            if value(&before) != value(&after) {
                changed.push(format!("[{}] {}", table.path, key.name));
            }
        }
    }
    changed
}

/// The value of a key that is not a table.
#[derive(Clone, Debug, PartialEq)]
enum Setting {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Self>),
    /// A table in a list of other values, of which the contents are not shown.
    Table,
}

/// The values of a text, by the paths of their keys.
fn keys(text: &str, format: Format) -> BTreeMap<String, Setting> {
    let mut keys = BTreeMap::new();
    if let Ok(mut root) = diagnostics::tree(text, format) {
        walk(&mut root, String::new(), &mut keys);
    }
    keys
}

/// Adds the values inside `value` under their paths.
fn walk(value: &mut Value<'_>, path: String, keys: &mut BTreeMap<String, Setting>) {
    match value.take() {
        ValueInner::Table(table) => {
            for (key, mut value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&mut value, format!("{path}{dot}{}", key.name), keys);
            }
        }
        ValueInner::Array(all) if all.iter().any(|value| value.as_table().is_some()) => {
            for (number, mut value) in all.into_iter().enumerate() {
                // A table is known by its name, so that a new one in front does not make all others differ.
                let name = value.as_table().and_then(|table| table.get("name")?.as_str());
                let label = name.map_or_else(|| (number + 1).to_string(), str::to_owned);
                walk(&mut value, format!("{path}[{label}]"), keys);
            }
        }
        other => {
            keys.insert(path, Setting::new(&other));
        }
    }
}

impl Setting {
    fn new(value: &ValueInner<'_>) -> Self {
        match value {
            ValueInner::String(text) => Self::Text(text.to_string()),
            ValueInner::Integer(number) => Self::Integer(*number),
            ValueInner::Float(number) => Self::Float(*number),
            ValueInner::Boolean(is) => Self::Boolean(*is),
            ValueInner::Array(all) => {
                Self::List(all.iter().map(|value| Self::new(value.as_ref())).collect())
            }
            ValueInner::Table(_) => Self::Table,
        }
    }

    /// The value as TOML, however long.
    fn whole(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Boolean(is) => is.to_string(),
            Self::List(all) => {
                let all: Vec<_> = all.iter().map(Self::whole).collect();
                format!("[{}]", all.join(", "))
            }
            Self::Table => "a table".into(),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.whole();
        match whole.char_indices().nth(MAX_VALUE) {
            Some((end, _)) => write!(f, "{}\u{2026}", whole.get(..end).unwrap_or_default()),
            None => f.write_str(&whole),
        }
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
    fn a_key_that_needs_a_restart_is_reported_if_its_value_changes() {
        let restart = |after: &str| needing_restart(BEFORE, after, Format::Toml);
        assert!(restart(BEFORE).is_empty());
        let same = BEFORE.replace(
            "[agent]\n",
            "[tunnels]\n[audit]\nwhen_full = 'deny'\ndedupe_seconds = 0\n[agent]\nmax_connections = 1024\nsocket_mode = '0660'\n",
        );
        assert!(restart(&same).is_empty(), "a default that is typed: {:?}", restart(&same));
        let after = BEFORE.replace("'b'", "'c'").replace(
            "[[issuer]]\nname = 'corp'",
            "max_connections = 1000\nresource_metadata = true\n[sign_in]\nhost = 'l'\n\
             [sign_in.pages]\ntitle = 't'\n[metrics]\nlisten = 'm'\n[[issuer]]\nname = 'other'",
        );
        assert_eq!(
            restart(&after),
            ["[agent] listen", "[agent] max_connections", "[sign_in] host", "[metrics] listen"]
        );
        let long = |end: char| format!("[audit]\nfile = '{}{end}'\n", "x".repeat(2 * MAX_VALUE));
        let changed = needing_restart(&long('a'), &long('b'), Format::Toml);
        assert_eq!(changed, ["[audit] file"], "however long it is");
    }

    #[test]
    fn comments_and_order_make_no_difference() {
        let after = "[[host]]\npreset = 'ona' # here\n[[issuer]]\naudience = 'x'\nname = 'corp'\n\
            [agent]\nlisten = [ 'a', 'b' ]\n";
        assert!(between(BEFORE, after, Format::Toml).is_empty());
    }
}
