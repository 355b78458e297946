//! The documents that are made from the declarations of keys: the JSON Schema for editors, the reference and the
//! annotated example.
//!
//! To add a key, declare it where its table is declared with `table!`: one line of documentation and one line with its
//! name, kind and default. The compiler then warns that the key is never read, until [`Section::build`] of that table
//! puts it into the settings. `make reference` writes the three documents again. Nothing here reads a configuration.
//!
//! [`Section::build`]: super::section::Section::build

use serde_json::{Map, Value, json};

use super::{document::Document, section::Declared};

mod example;
mod markdown;

pub use super::key::{Key, Shape, Table};
pub use example::example;
pub use markdown::markdown;

/// Every table, the document as a whole first.
#[must_use]
pub fn tables() -> Vec<Table> {
    Document::table().all()
}

/// The JSON Schema of `agent.toml` (draft 2020-12).
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(&Document::table());
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".into(), json!("The configuration of identity-spoa"));
    }
    // Cargo features of dependencies decide whether maps keep their order, so that the output must not depend on it.
    schema.sort_all_objects();
    schema
}

/// The schema of a table. A table whose keys depend on its `kind` becomes one object for each kind.
fn object(table: &Table) -> Value {
    let Some(kinds) = table.kinds() else { return object_of(table, |_| true) };
    let of_kind = |kind: &str| {
        let mut object = object_of(table, |key| key.is_for_kind(kind));
        if let Some(value) = object.pointer_mut("/properties/kind") {
            *value = json!({ "const": kind, "description": "The kind of source." });
        }
        object
    };
    json!({ "oneOf": kinds.into_iter().map(of_kind).collect::<Vec<_>>() })
}

/// The schema of the keys that `has` selects.
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

/// The schema of one key, with its documentation and default.
fn property(key: &Key) -> Value {
    let mut value = shape((key.shape)());
    if let Some(value) = value.as_object_mut() {
        let default = key.note.or(key.default.as_deref());
        let note = match default {
            Some(note) if key.required => format!(" ({note})"),
            Some(default) => format!(" Default: {default}."),
            None => String::new(),
        };
        value.insert("description".into(), json!([key.what, &note].concat()));
        // An editor cannot insert a note such as "one for each CPU core" as a value.
        if let Some(default) = default.and_then(|default| serde_json::from_str(default).ok()) {
            value.insert("default".into(), default);
        }
    }
    value
}

/// The schema of a kind of value.
fn shape(kind: Shape) -> Value {
    match kind {
        Shape::Text | Shape::Path => json!({ "type": "string" }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Number(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Ratio => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
        Shape::Choice(words) => json!({ "type": "string", "enum": words }),
        Shape::List(inner) => json!({ "type": "array", "items": shape(*inner) }),
        Shape::TextOr(inner) => json!({ "anyOf": [{ "type": "string" }, shape(*inner)] }),
        Shape::Table(table) => object(&table),
    }
}
