//! `docs/log-messages.md` has each message of the levels warn and error, and no other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::support::haproxy::root;

/// A level and a message, as the page and the sources are compared.
type Message = (String, String);

/// Words that make a program a person, or hide the subject of a sentence.
const UNCLEAR: [&str; 8] =
    ["nobody", "somebody", "whoever", "anybody", "everybody", "in vain", "is meant", "anew"];

#[test]
fn the_page_has_every_warning_and_error_and_no_other() {
    let mut sources = Vec::new();
    walk(&root().join("src"), &mut sources);
    let mut logged = BTreeSet::new();
    for path in &sources {
        let text = std::fs::read_to_string(path).unwrap();
        logged
            .extend(messages(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    assert!(logged.len() > 90, "only {} messages found", logged.len());
    let page = std::fs::read_to_string(root().join("docs/log-messages.md")).unwrap();
    let (missing, gone) = compare(&logged, &rows(&page));
    assert!(missing.is_empty(), "docs/log-messages.md needs a row for each of: {missing:#?}");
    assert!(gone.is_empty(), "docs/log-messages.md has rows that no source logs: {gone:#?}");
    for (_, message) in &logged {
        let unclear = UNCLEAR.iter().find(|word| message.contains(*word));
        assert!(unclear.is_none(), "plain words, please, not {unclear:?}: {message}");
    }
}

#[test]
fn a_message_without_a_row_and_a_row_without_a_message_are_found() {
    let source = r#"
        warn!(path = %path.display(), what = "x", "reading \"a\" failed: {}", Error::Full(1));
        error!(
            "the file is invalid:\n{mistakes}"
        );
        Health::Bad => tracing::warn!("a source (of {kind}) is silent"),
        my_warn!("not ours");
    "#;
    let logged = messages(source).unwrap();
    let expected = [
        ("error", "the file is invalid: {mistakes}"),
        ("warn", "a source (of {kind}) is silent"),
        ("warn", "reading \\\"a\\\" failed: {}"),
    ];
    let expected = expected.map(|(level, message)| (level.to_owned(), message.to_owned()));
    assert_eq!(logged, BTreeSet::from(expected));
    let page = "| level | message | meaning | what to do |\n|---|---|---|---|\n\
        | warn | `a source (of {kind}) is silent` | It is. | Wait. |\n\
        | warn | `the file is invalid: {mistakes}` | It is. | Correct it. |\n";
    let (missing, gone) = compare(&logged, &rows(page));
    assert_eq!(missing.len(), 2, "a row of another level is none: {missing:?}");
    assert_eq!(gone, [("warn".to_owned(), "the file is invalid: {mistakes}".to_owned())]);
    assert!(messages("warn!(%error)").is_err());
    assert!(messages("error!(message)").is_err());
}

/// What is logged and has no row, and what has a row and is not logged.
fn compare(logged: &BTreeSet<Message>, rows: &BTreeSet<Message>) -> (Vec<Message>, Vec<Message>) {
    (logged.difference(rows).cloned().collect(), rows.difference(logged).cloned().collect())
}

/// The messages of a page's tables; each has a meaning and a remedy, and stands there once.
fn rows(page: &str) -> BTreeSet<Message> {
    let mut all = BTreeSet::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split(" | ").collect();
        let Some(level) = cells[0].strip_prefix("| ").filter(|level| *level != "level") else {
            continue;
        };
        assert!(["warn", "error"].contains(&level), "an unknown level: {line}");
        assert!(cells.len() == 4 && cells[2].len() > 3 && cells[3].len() > 3, "4 cells: {line}");
        let message = cells[1].trim_matches('`').to_owned();
        assert!(all.insert((level.to_owned(), message)), "a second row: {line}");
    }
    all
}

/// The messages that a source logs, as they are written there; a line break is a space.
///
/// # Errors
/// A macro without a literal as its message.
fn messages(source: &str) -> Result<BTreeSet<Message>, String> {
    let mut all = BTreeSet::new();
    for level in ["warn", "error"] {
        let call = format!("{level}!(");
        for (at, _) in source.match_indices(&call) {
            let before = source[..at].chars().next_back();
            if before.is_some_and(|before| before == '_' || before.is_alphanumeric()) {
                continue;
            }
            let arguments = &source[at + call.len()..];
            let message = message(arguments).ok_or_else(|| {
                let line = source[..at].lines().count();
                format!("line {line}: write the message as a literal, so that it can be found")
            })?;
            all.insert((level.to_owned(), message.replace("\\n", " ")));
        }
    }
    Ok(all)
}

/// The literal that is an argument of its own, not the value of a field or part of another call.
fn message(arguments: &str) -> Option<String> {
    let (mut depth, mut begins) = (0, true);
    let mut rest = arguments.char_indices();
    while let Some((at, character)) = rest.next() {
        match character {
            '"' => {
                let mut escaped = false;
                let (end, _) = rest.find(|(_, character)| {
                    let ends = *character == '"' && !escaped;
                    escaped = *character == '\\' && !escaped;
                    ends
                })?;
                if depth == 0 && begins {
                    return Some(arguments[at + 1..end].to_owned());
                }
                begins = false;
            }
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => return None,
            ')' | ']' | '}' => depth -= 1,
            ',' => begins = true,
            _ if character.is_whitespace() => {}
            _ => begins = false,
        }
    }
    None
}

/// Every source file.
fn walk(directory: &Path, to: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, to);
        } else if path.extension().is_some_and(|end| end == "rs") {
            to.push(path);
        }
    }
}
