//! The reference of the configuration in Markdown: `docs/configuration.md`.

use super::{Key, Shape, Table, tables};

const HEAD: &str = "# The configuration, key by key

For operators who write `agent.toml` and look up what a key means, which values it takes and what its
default is. [The annotated example](agent.example.toml) has the same keys as a file to edit, and
`docs/agent.schema.json` lets an editor complete and check them. All three are made from the program's
own declarations: `identity-spoa schema --markdown`, `--example`, and without an option.

Paths are relative to the directory of the file. A change of a key with ↻ needs a restart of the agent. If
any source is of kind `jupyterhub`, so does a change of any `[[source]]`. Other changes take effect as
soon as the file is written, or on SIGHUP with `follow_file = false`. A key in `(…)` exists for these
kinds of source only. `identity-spoa check --config agent.toml` reports every mistake with its line, in
the files that are named too.
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

/// The row of one key.
fn row(table: &Table, key: &Key) -> String {
    let default = match (&key.default, key.note, key.required) {
        (_, note, true) => {
            note.map_or_else(|| "required".into(), |note| format!("required; {note}"))
        }
        (_, Some(note), false) if note.starts_with('"') => format!("`{note}`"),
        (_, Some(note), false) => note.into(),
        (Some(default), None, false) => format!("`{default}`"),
        (None, None, false) => String::new(),
    };
    let kinds =
        if key.kinds.is_empty() { String::new() } else { format!("({}) ", key.kinds.join(", ")) };
    let restart = if key.restart || table.restart { " ↻" } else { "" };
    let (name, kind, what) = (key.name, words((key.shape)()), key.what);
    format!("| `{name}`{restart} | {kind} | {default} | {kinds}{what} |\n")
}

/// The type of a value in words, for the column of types.
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
