//! Splits a line of a HAProxy configuration into words: quotes, escapes, comments, and variables of the environment
//! (HAProxy's configuration manual, sections 2.2 and 2.3).
//!
//! The words must be exactly those that HAProxy finds. Otherwise lint would judge another rule than the one that runs.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use thiserror::Error;

/// The longest line that is read, in bytes. It is longer than HAProxy's own limit.
pub const MAX_LINE: usize = 64 * 1024;

/// The variables that the configuration sets itself (`presetenv`, `setenv`), with their values.
pub type Environment = BTreeMap<String, String>;

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    /// A quote that is not closed.
    #[error("a quote is opened and not closed")]
    Quote,
    /// A line beyond [`MAX_LINE`], before or after variables are put in.
    #[error("the line is longer than 64 KiB")]
    Long,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    No,
    Single,
    Double,
}

/// The words of a line. A variable without a known value stays as it is written, `${NAME}`.
///
/// # Errors
/// An open quote, or a line that is too long.
pub fn words(line: &str, environment: &Environment) -> Result<Vec<String>, LineError> {
    if line.len() > MAX_LINE {
        return Err(LineError::Long);
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = Quote::No;
    let mut size = 0;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            // A comment starts anywhere outside of quotes, also within a word.
            (Quote::No, '#') => break,
            (Quote::No, ' ' | '\t' | '\r' | '\n' | '\x0b' | '\x0c') => words.extend(word.take()),
            (Quote::No, '\'') => {
                quote = Quote::Single;
                // Empty quotes are a word too.
                word.get_or_insert_default();
            }
            (Quote::No, '"') => {
                quote = Quote::Double;
                word.get_or_insert_default();
            }
            (Quote::Single, '\'') | (Quote::Double, '"') => quote = Quote::No,
            (Quote::No | Quote::Double, '\\') => {
                escape(&mut chars, word.get_or_insert_default());
            }
            (Quote::Double, '$') => {
                let (value, spread) = variable(&mut chars, environment);
                // A variable can be long, and can occur many times in one line.
                size += value.len();
                if size > MAX_LINE {
                    return Err(LineError::Long);
                }
                let mut parts = value.split_ascii_whitespace();
                if spread && let Some(first) = parts.next() {
                    word.get_or_insert_default().push_str(first);
                    for part in parts {
                        words.extend(word.replace(part.to_owned()));
                    }
                } else {
                    word.get_or_insert_default().push_str(&value);
                }
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote != Quote::No {
        return Err(LineError::Quote);
    }
    words.extend(word);
    Ok(words)
}

/// Reads what follows a backslash. Escapes that HAProxy does not know stay as they are; regular expressions need that.
fn escape(chars: &mut Peekable<Chars<'_>>, word: &mut String) {
    let Some(next) = chars.next() else {
        word.push('\\');
        return;
    };
    match next {
        ' ' | '\\' | '#' | '\'' | '"' | '$' => word.push(next),
        'n' => word.push('\n'),
        'r' => word.push('\r'),
        't' => word.push('\t'),
        'x' => match hexadecimal(chars) {
            Some(byte) => word.push(char::from(byte)),
            None => word.push_str("\\x"),
        },
        other => {
            word.push('\\');
            word.push(other);
        }
    }
}

/// The byte of `\xHH`, if two hexadecimal digits follow.
fn hexadecimal(chars: &mut Peekable<Chars<'_>>) -> Option<u8> {
    let mut ahead = chars.clone();
    let digits = [ahead.next()?.to_digit(16)?, ahead.next()?.to_digit(16)?];
    // Without two digits HAProxy leaves the escape as it is.
    *chars = ahead;
    let [high, low] = digits;
    u8::try_from(high * 16 + low).ok()
}

/// Reads what follows a dollar sign within double quotes: `NAME`, `{NAME}`, `{NAME-default}`, or `{NAME[*]}`, whose
/// value becomes several words. Returns the value, and whether it becomes several words.
fn variable(chars: &mut Peekable<Chars<'_>>, environment: &Environment) -> (String, bool) {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let braces = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(is_name) {
        name.push(c);
    }
    let mut default = None;
    let mut spread = false;
    if braces {
        let mut rest = String::new();
        for c in chars.by_ref() {
            if c == '}' {
                break;
            }
            rest.push(c);
        }
        let after = rest.strip_prefix("[*]");
        spread = after.is_some();
        default = after.unwrap_or(&rest).strip_prefix('-').map(str::to_owned);
    }
    // An unknown variable stays visible, so that checks can treat it as anything.
    let known = environment.get(&name).cloned().or(default);
    (known.unwrap_or_else(|| format!("${{{name}}}")), spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        let environment = Environment::from([("A".into(), "one two".into())]);
        words(line, &environment).unwrap()
    }

    #[test]
    fn words_are_what_haproxy_makes_of_a_line() {
        for (line, want) in [
            ("  bind :80 # in the clear", &["bind", ":80"][..]),
            ("a\tb\\ c 'd \"e\\n' \"f 'g\\\"\"", &["a", "b c", "d \"e\\n", "f 'g\""]),
            (
                "x \"${A}\" ${A} \"${B-three}\" \"$A\" \"${B}\"",
                &["x", "one two", "${A}", "three", "one two", "${B}"],
            ),
            (r"-m reg ^a\.b$ \x", &["-m", "reg", r"^a\.b$", r"\x"]),
            ("a#b", &["a"]),
            ("a\x0cb\x0bc", &["a", "b", "c"]),
            (r"txn.\x69d \xzz", &["txn.id", r"\xzz"]),
            ("a \"x${A[*]}y\" \"${B[*]-p q}\"", &["a", "xone", "twoy", "p", "q"]),
            ("\"\" ''", &["", ""]),
            ("", &[]),
        ] {
            assert_eq!(split(line), want, "{line}");
        }
        assert_eq!(words("a 'b", &Environment::new()), Err(LineError::Quote));
        assert_eq!(words(&"a".repeat(MAX_LINE + 1), &Environment::new()), Err(LineError::Long));
        let long = Environment::from([("A".into(), "x".repeat(MAX_LINE))]);
        assert_eq!(words("\"$A$A\"", &long), Err(LineError::Long));
    }
}
