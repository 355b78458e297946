//! The annotated example: a configuration that can be loaded, with every other key as a comment.

use super::{Key, Shape, Table, tables};

const HEAD: &str = "# Every key of the configuration of identity-spoa, with its default or an example value.
# Made by `identity-spoa schema --example`. docs/configuration.md has the same keys as tables.
#
# Keys that are required have an example value. All other keys and tables are comments: remove the # to
# set them. They have their default, or an example value if the comment names the default or there is
# none. Paths are relative to the directory of this file. Changes of a key with [restart] need a
# restart of the agent. If any source is of kind `jupyterhub`, so does a change of any [[source]]. Other
# changes take effect as soon as the file is written, or on SIGHUP with `follow_file = false`.
";

/// Marks a key or table that can only change with a restart.
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
        // Keys that all kinds have are shown with the first kind only.
        for (number, kind) in kinds.into_iter().enumerate() {
            let is_new = |key: &Key| number == 0 || key.required || !key.kinds.is_empty();
            write(&mut text, table, kind, |key| key.is_for_kind(kind) && is_new(key));
        }
    }
    text
}

/// Appends one table, or the keys of one kind of it.
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

/// The default in words, for a key whose value in the example is not its default.
fn default(key: &Key) -> String {
    match key.note {
        Some(note) if key.required => format!(" ({note})"),
        Some(note) => format!(" Default: {note}."),
        None if key.default.is_none() && !key.required && !key.used => " No default.".into(),
        None => String::new(),
    }
}

/// A value for a key: its default, or else its example, or else any value of its kind.
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

/// Appends words as lines of a comment that are at most 100 columns wide.
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
