//! The annotated example: every key of every table.

use super::{Key, Shape, Table, tables};

const HEAD: &str = "# Every key of identity-spoa's configuration, with its default or an example.
# Made by `identity-spoa schema --example`; docs/configuration.md says more about each.
#
# What is needed stands here as it is; a key that begins with # is a comment, and so is its table.
# Paths are relative to the directory of this file. [restart]: can only change with a restart of the
# agent; everything else changes as soon as the file does.
";

const RESTART: &str = " [restart]";

/// A configuration that can be loaded, with all other keys as comments.
#[must_use]
pub fn example() -> String {
    let mut text = String::from(HEAD);
    for table in tables().iter().filter(|table| !table.path.is_empty()) {
        let Some(kinds) = table.kinds() else {
            write(&mut text, table, "", |_| true);
            continue;
        };
        // The first kind shows what all have.
        for (number, kind) in kinds.into_iter().enumerate() {
            let is_new = |key: &Key| number == 0 || key.required || !key.of.is_empty();
            write(&mut text, table, kind, |key| key.is_of(kind) && is_new(key));
        }
    }
    text
}

/// One table, or one kind of it.
fn write(text: &mut String, table: &Table, kind: &str, has: impl Fn(&Key) -> bool) {
    let used = table.path == "agent" || table.keys.iter().any(|key| key.used);
    let mark = |used: bool| if used { "" } else { "#" };
    text.push('\n');
    comment(text, &[table.what, if table.restart { RESTART } else { "" }].concat());
    text.push_str(&[mark(used), &table.heading(), "\n"].concat());
    for key in table.keys.iter().filter(|key| has(key)) {
        if (key.shape)().table().is_some() && key.example.is_none() {
            continue;
        }
        let value = if key.name == "kind" { format!("{kind:?}") } else { value(key) };
        comment(text, &[key.what, &default(key), if key.restart { RESTART } else { "" }].concat());
        let used = used && (key.required || key.used);
        text.push_str(&[mark(used), key.name, " = ", &value, "\n"].concat());
    }
}

/// What is said of the default of a key whose value in the example is another.
fn default(key: &Key) -> String {
    match key.note {
        Some(note) if key.required => format!(" ({note})"),
        Some(note) => format!(" Default: {note}."),
        None if key.default.is_none() && !key.required && !key.used => " No default.".into(),
        None => String::new(),
    }
}

/// A value that a key can have: its default where it has one.
fn value(key: &Key) -> String {
    let shape = || match (key.shape)() {
        Shape::Bool => "false".into(),
        Shape::Number(from, _) => from.to_string(),
        Shape::Ratio => "1.0".into(),
        Shape::Choice(words) => format!("{:?}", words.first().copied().unwrap_or_default()),
        Shape::List(_) => "[]".into(),
        _ => "\"example\"".into(),
    };
    let own = key.default.clone().or_else(|| key.example.map(str::to_owned));
    let own = own.or_else(|| key.note.filter(|note| note.starts_with('"')).map(str::to_owned));
    own.unwrap_or_else(shape)
}

/// Lines of a comment, at most 100 columns wide.
fn comment(text: &mut String, words: &str) {
    let mut column = usize::MAX;
    for word in words.split_whitespace() {
        let width = word.chars().count() + 1;
        if column.saturating_add(width) > 100 {
            let line = if column == usize::MAX { "#" } else { "\n#" };
            text.push_str(line);
            column = 1;
        }
        text.push_str(&[" ", word].concat());
        column += width;
    }
    text.push('\n');
}
