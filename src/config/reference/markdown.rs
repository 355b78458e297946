//! The reference of the configuration, in Markdown.

use super::{Key, Shape, Table, tables};

const HEAD: &str = "# The configuration, key by key

Made by `identity-spoa schema --markdown`; for editors there is `docs/agent.schema.json`
(`identity-spoa schema`). [agent.example.toml](agent.example.toml) (`identity-spoa schema --example`)
has every key with its default.

Paths are relative to the directory of the file. A key with ↻ can only change with a restart of the
agent; all others change as soon as the file does.
";

/// The reference of the configuration, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    for table in tables().iter().filter(|table| !table.path.is_empty()) {
        text.push_str(&["\n## `", &table.heading(), "`\n\n", table.what, "\n\n"].concat());
        text.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        for key in &table.keys {
            text.push_str(&row(table, key));
        }
    }
    text
}

fn row(table: &Table, key: &Key) -> String {
    let default = match (&key.default, key.note, key.required) {
        (_, note, true) => note.map_or_else(|| "needed".into(), |note| format!("needed; {note}")),
        (_, Some(note), false) if note.starts_with('"') => format!("`{note}`"),
        (_, Some(note), false) => note.into(),
        (Some(default), None, false) => format!("`{default}`"),
        (None, None, false) => String::new(),
    };
    let of = if key.of.is_empty() { String::new() } else { format!("({}) ", key.of.join(", ")) };
    let restart = if key.restart || table.restart { " ↻" } else { "" };
    let (name, kind, what) = (key.name, words((key.shape)()), key.what);
    format!("| `{name}`{restart} | {kind} | {default} | {of}{what} |\n")
}

/// A kind of value in words.
fn words(shape: Shape) -> String {
    match shape {
        Shape::Text => "text".into(),
        Shape::Path => "path".into(),
        Shape::Bool => "true or false".into(),
        Shape::Number(from, to) => format!("{from} to {to}"),
        Shape::Ratio => "above 0, at most 1".into(),
        Shape::Choice(words) => {
            let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            quoted.join(", ")
        }
        Shape::List(inner) => match *inner {
            Shape::Table(table) => format!("`{}`", table.path),
            Shape::Text => "list of texts".into(),
            inner => format!("list of {}", words(inner)),
        },
        Shape::TextOr(inner) => format!("text, or {}", words(*inner)),
        Shape::Table(table) => format!("`{}`", table.path),
    }
}
