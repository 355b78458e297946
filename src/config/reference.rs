//! What can be configured, as data: the JSON Schema for editors and the reference in docs/ are made of it.
//!
//! The reader in [`super`] does not use it; a test asks the reader about each key, so that neither can have
//! one that the other does not know.

use serde_json::{Map, Value, json};

mod sources;
mod tables;

/// A table of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name, with those of the tables it is in: `issuer.claims`. Empty for the document.
    pub path: &'static str,
    /// Whether there can be several.
    pub repeated: bool,
    /// What it is for.
    pub what: &'static str,
    /// What can be in it.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What it says.
    pub what: &'static str,
    /// What holds where it is missing; in TOML where that is a value.
    pub default: Option<&'static str>,
    /// Whether it must be there.
    pub required: bool,
    /// The kinds of source that have it; all if empty.
    pub of: &'static [&'static str],
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A list of texts.
    Texts,
    /// One text or a list.
    TextOrTexts,
    /// true or false.
    Bool,
    /// A whole number, from and to.
    Number(u64, u64),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Some of some words.
    Choices(&'static [&'static str]),
    /// A table, by its path.
    Table(&'static str),
    /// A text, or tables.
    TextOrTables(&'static str),
}

impl Key {
    const fn new(name: &'static str, kind: Kind, what: &'static str) -> Self {
        Self { name, kind, what, default: None, required: false, of: &[] }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn of(self, of: &'static [&'static str]) -> Self {
        Self { of, ..self }
    }

    /// Whether a source of a kind has it.
    #[must_use]
    pub fn is_of(&self, kind: &str) -> bool {
        self.of.is_empty() || self.of.contains(&kind)
    }
}

/// Every table, the document first.
pub static TABLES: [Table; 24] = [
    tables::ROOT,
    tables::AGENT,
    tables::ISSUER,
    tables::CLAIMS,
    tables::GROUPS,
    tables::REQUIRE,
    tables::INTROSPECTION,
    tables::CLIENT,
    tables::SIGN_IN,
    tables::PAGES,
    tables::SHARED,
    tables::TRACES,
    tables::HAPROXY,
    tables::TUNNELS,
    tables::CREDENTIALS,
    tables::CERTIFICATE,
    tables::HOST,
    tables::WORKSPACES,
    tables::SOURCE,
    tables::DESTINATIONS,
    tables::POLICY,
    tables::AUDIT,
    tables::ADMIN,
    tables::METRICS,
];

/// The path of the table whose keys depend on `kind`.
const SOURCE: &str = "source";

fn table(path: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.path == path)
}

/// The JSON Schema of `agent.toml` (draft 2020-12).
#[must_use]
pub fn schema() -> Value {
    let mut schema = table("").map_or(Value::Null, object);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".into(), json!("The configuration of identity-spoa"));
    }
    // A dependency may let maps keep the order in which they were filled.
    schema.sort_all_objects();
    schema
}

/// A table as an object; a source as one of several.
fn object(table: &Table) -> Value {
    if table.path != SOURCE {
        return object_of(table, |_| true);
    }
    let kinds = table.keys.iter().find_map(|key| match key.kind {
        Kind::Choice(kinds) if key.name == "kind" => Some(kinds),
        _ => None,
    });
    let of_kind = |kind: &&str| {
        let mut object = object_of(table, |key| key.is_of(kind));
        if let Some(value) = object.pointer_mut("/properties/kind") {
            *value = json!({ "const": kind, "description": "What it is." });
        }
        object
    };
    json!({ "oneOf": kinds.unwrap_or_default().iter().map(of_kind).collect::<Vec<_>>() })
}

fn object_of(table: &Table, has: impl Fn(&Key) -> bool) -> Value {
    let keys = || table.keys.iter().filter(|key| has(key));
    let properties: Map<_, _> = keys().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<_> = keys().filter(|key| key.required).map(|key| key.name).collect();
    json!({
        "type": "object",
        "description": table.what,
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn property(key: &Key) -> Value {
    let of = |path: &str| {
        let found = table(path);
        let inner = found.map_or(Value::Null, object);
        match found {
            Some(found) if found.repeated => json!({ "type": "array", "items": inner }),
            _ => inner,
        }
    };
    let text = || json!({ "type": "string" });
    let mut value = match key.kind {
        Kind::Text => text(),
        Kind::Texts => json!({ "type": "array", "items": text() }),
        Kind::TextOrTexts => json!({ "type": ["string", "array"], "items": text() }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Number(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::Choices(words) => {
            json!({ "type": "array", "items": { "type": "string", "enum": words } })
        }
        Kind::Table(path) => of(path),
        Kind::TextOrTables(path) => json!({ "anyOf": [text(), of(path)] }),
    };
    if let Some(value) = value.as_object_mut() {
        let default = key.default.map(|default| format!(" Unless said: {default}."));
        let what = format!("{}{}", key.what, default.unwrap_or_default());
        value.insert("description".into(), json!(what));
        // Only what is a value can be offered as one.
        if let Some(default) = key.default.and_then(|d| serde_json::from_str::<Value>(d).ok()) {
            value.insert("default".into(), default);
        }
    }
    value
}

/// The reference of the configuration, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# The configuration, key by key\n\nMade by `identity-spoa schema --markdown`; for editors there is `docs/agent.schema.json`\n(`identity-spoa schema`). An example of everything is in the README.\n",
    );
    for table in TABLES.iter().filter(|table| !table.path.is_empty()) {
        let (open, close) = if table.repeated { ("[[", "]]") } else { ("[", "]") };
        text.push_str(&["\n## `", open, table.path, close, "`\n\n", table.what, "\n\n"].concat());
        text.push_str("| key | type | unless said | meaning |\n|---|---|---|---|\n");
        for key in table.keys {
            text.push_str(&row(key));
        }
    }
    text
}

fn row(key: &Key) -> String {
    let words = |words: &[&str]| {
        let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        quoted.join(", ")
    };
    let kind = match key.kind {
        Kind::Text => "text".into(),
        Kind::Texts => "list of texts".into(),
        Kind::TextOrTexts => "text, or a list".into(),
        Kind::Bool => "true or false".into(),
        Kind::Number(from, to) => format!("{from} to {to}"),
        Kind::Choice(choices) => words(choices),
        Kind::Choices(choices) => format!("list of {}", words(choices)),
        Kind::Table(path) => format!("`{path}`"),
        Kind::TextOrTables(path) => format!("text, or `{path}`"),
    };
    let default = match (key.default, key.required) {
        (default, true) => {
            default.map_or_else(|| "needed".into(), |default| format!("needed; {default}"))
        }
        (Some(default), false) if default.starts_with(['"', '[']) => format!("`{default}`"),
        (Some(default), false) => default.into(),
        (None, false) => String::new(),
    };
    let of = if key.of.is_empty() { String::new() } else { format!("({}) ", key.of.join(", ")) };
    format!("| `{}` | {kind} | {default} | {of}{} |\n", key.name, key.what)
}
