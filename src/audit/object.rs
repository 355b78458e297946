//! One JSON object in one line, written straight into a buffer: a record is made for every decision,
//! and what a general serialiser costs there is more than deciding.

use std::{fmt, io::Write as _};

use crate::fingerprint::Fingerprint;

/// The longest text of a stranger that is kept, in bytes before escaping: a host name. With everything
/// escaped, a line of the audit log stays below 8 KiB.
pub(super) const MAX_FOREIGN: usize = 253;
/// The longest text of anybody else, such as a user's name, in bytes before escaping.
pub(super) const MAX_TEXT: usize = 512;
/// The most segments of a path that are kept, and the longest that may be more than a secret or an id.
const MAX_SEGMENTS: usize = 8;
const MAX_SEGMENT: usize = 24;
const MAX_DIGITS: usize = 3;

/// A JSON object under way. Names are ours and need no escaping.
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    opening: &'static [u8],
}

impl<'o> Object<'o> {
    /// Begins an entry at the end of `out`.
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, opening: b"{\"" }
    }

    /// Ends the entry and its line.
    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    /// `event`: what happened.
    pub fn event(&mut self, event: super::AuditEvent) {
        self.text("event", event.id());
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        // Into memory: it cannot fail.
        let _ = write!(self.out, "{number}");
    }

    /// True or false.
    pub fn boolean(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Text that is cut where it is too long, with what could move a cursor or a line escaped.
    pub fn text(&mut self, name: &'static str, text: &str) {
        let kept = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text);
        self.kept(name, kept, text);
    }

    fn kept(&mut self, name: &'static str, kept: &str, text: &str) {
        self.name(name);
        if is_plain(kept.as_bytes()) && kept.len() == text.len() {
            return self.quoted(kept.as_bytes());
        }
        self.out.push(b'"');
        for character in kept.chars() {
            self.escaped(character);
        }
        if kept.len() < text.len() {
            self.escaped('\u{2026}');
        }
        self.out.push(b'"');
    }

    fn escaped(&mut self, character: char) {
        match character {
            '"' | '\\' => self.out.extend_from_slice(&[b'\\', character as u8]),
            // Terminals and viewers act on these: line ends, escape sequences, changes of direction.
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.unicode(character),
            _ if character.is_control() => self.unicode(character),
            _ => {
                let mut bytes = [0; 4];
                self.out.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }

    fn unicode(&mut self, character: char) {
        // Into memory: it cannot fail. None of them needs more than four digits.
        let _ = write!(self.out, "\\u{:04x}", u32::from(character));
    }

    /// Text, where there is some.
    pub fn optional(&mut self, name: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    /// Something that displays itself in plain characters.
    pub fn displayed(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        match value {
            Some(value) => {
                self.name(name);
                let _ = write!(self.out, "\"{value}\"");
            }
            None => self.null(name),
        }
    }

    /// An object in this one.
    pub fn nested(&mut self, name: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        let mut inner = Object::begin(self.out);
        write(&mut inner);
        let empty = inner.opening == b"{\"";
        self.out.extend_from_slice(if empty { b"{}" } else { b"}" });
    }

    /// A list of texts, none of which is cut.
    pub fn list<'t>(&mut self, name: &'static str, texts: impl Iterator<Item = &'t str>) {
        self.name(name);
        self.out.push(b'[');
        for (number, text) in texts.enumerate() {
            if number > 0 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            text.chars().for_each(|character| self.escaped(character));
            self.out.push(b'"');
        }
        self.out.push(b']');
    }

    /// The shape of a path: words stay, what may be an id or a secret becomes `*`.
    pub fn path(&mut self, name: &'static str, path: Option<&[u8]>) {
        let Some(path) = path else { return self.null(name) };
        self.name(name);
        self.out.push(b'"');
        let segments = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/');
        for (number, segment) in segments.enumerate() {
            self.out.push(b'/');
            if number == MAX_SEGMENTS {
                self.out.extend_from_slice(b"**");
                break;
            }
            self.out.extend_from_slice(if is_word(segment) { segment } else { b"*" });
        }
        self.out.push(b'"');
    }

    /// Bytes of a stranger as text: cut, and escaped so that no line break, terminal sequence or broken
    /// UTF-8 gets into a record.
    pub fn foreign(&mut self, name: &'static str, bytes: &[u8]) {
        self.foreign_up_to(MAX_FOREIGN, name, bytes);
    }

    /// The same, with another limit.
    pub fn foreign_up_to(&mut self, most: usize, name: &'static str, bytes: &[u8]) {
        let bytes = bytes.get(..most).unwrap_or(bytes);
        if is_plain(bytes) {
            self.name(name);
            self.quoted(bytes);
        } else {
            let escaped = bytes.escape_ascii().to_string();
            self.kept(name, &escaped, &escaped);
        }
    }

    /// Members that are values already.
    pub fn raw_members(&mut self, members: &serde_json::Map<String, serde_json::Value>) {
        for (name, value) in members {
            self.out.extend_from_slice(std::mem::replace(&mut self.opening, b",\""));
            self.out.pop();
            // Into memory, and both are JSON: it cannot fail.
            let _ = serde_json::to_writer(&mut *self.out, name);
            self.out.push(b':');
            let _ = serde_json::to_writer(&mut *self.out, value);
        }
    }

    /// A fingerprint, where there is one.
    pub fn fingerprint(&mut self, name: &'static str, value: Option<Fingerprint>) {
        match value {
            Some(value) => {
                self.name(name);
                self.quoted(&value.hex());
            }
            None => self.null(name),
        }
    }

    /// JSON null.
    pub fn null(&mut self, name: &'static str) {
        self.name(name);
        self.out.extend_from_slice(b"null");
    }

    fn name(&mut self, name: &'static str) {
        self.out.extend_from_slice(std::mem::replace(&mut self.opening, b",\""));
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn quoted(&mut self, plain: &[u8]) {
        self.out.push(b'"');
        self.out.extend_from_slice(plain);
        self.out.push(b'"');
    }
}

/// Whether a segment of a path is a word that says nothing of anybody.
fn is_word(segment: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~');
    segment.len() <= MAX_SEGMENT
        && segment.iter().all(plain)
        && segment.iter().filter(|b| b.is_ascii_digit()).count() <= MAX_DIGITS
}

/// Whether the bytes stand for themselves between the quotes of a JSON text. Looks at all of them
/// without stopping, which the machine does many at a time.
fn is_plain(bytes: &[u8]) -> bool {
    let plain = |b: &u8| matches!(b, b' '..=b'~') & !matches!(b, b'"' | b'\\' | b'\'');
    bytes.iter().fold(true, |all, byte| all & plain(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn object(write: impl FnOnce(&mut Object<'_>)) -> (String, Value) {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        write(&mut object);
        object.end();
        let line = String::from_utf8(out).unwrap();
        let value = serde_json::from_str(&line).unwrap();
        (line, value)
    }

    fn foreign(bytes: &[u8]) -> String {
        object(|o| o.foreign("a", bytes)).1["a"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a6_what_strangers_send_is_escaped_and_cut() {
        assert_eq!(foreign(b"plain text"), "plain text");
        assert_eq!(foreign(b"a\r\nb"), "a\\r\\nb");
        assert_eq!(foreign(b"\x1b[31m"), "\\x1b[31m");
        assert_eq!(foreign(b"\xff\"\\"), "\\xff\\\"\\\\");
        assert_eq!(foreign(&[b'a'; 400]).len(), MAX_FOREIGN);
        assert_eq!(foreign(b""), "");
    }

    #[test]
    fn a2_a_path_is_recorded_as_its_shape() {
        let path =
            |path: &[u8]| object(|o| o.path("p", Some(path))).1["p"].as_str().unwrap().to_owned();
        assert_eq!(path(b"/"), "/");
        assert_eq!(path(b"/api/v1/users/12345/edit"), "/api/v1/users/*/edit");
        assert_eq!(path(b"/reset/eyJhbGciOiJIUzI1NiJ9eyJzdWIi"), "/reset/*");
        assert_eq!(path(b"/a%2fb/\x1b[0m/\"x\""), "/*/*/*");
        assert_eq!(path(b"/a/b/c/d/e/f/g/h/i/j"), "/a/b/c/d/e/f/g/h/**");
        assert_eq!(path(b""), "/");
        assert!(object(|o| o.path("p", None)).1["p"].is_null());
    }

    #[test]
    fn a6_what_moves_cursors_and_lines_is_escaped_in_any_text() {
        let (line, value) = object(|o| o.text("t", "a\u{9b}31m\r\n\u{202e}\u{2028}\u{1b}b\"\\"));
        assert!(line.is_ascii(), "{line}");
        assert_eq!(value["t"], "a\u{9b}31m\r\n\u{202e}\u{2028}\u{1b}b\"\\");
        let (_, value) = object(|o| o.text("t", &"\u{e9}".repeat(400)));
        assert_eq!(value["t"], format!("{}\u{2026}", "\u{e9}".repeat(256)));
    }

    #[test]
    fn objects_and_lists_are_members_too() {
        let (line, value) = object(|o| {
            o.nested("a", |inner| inner.number("n", 1));
            o.nested("b", |_| ());
            o.list("c", ["x", "\"\u{1b}"].into_iter());
            o.list("d", [].into_iter());
        });
        assert_eq!(value["c"], serde_json::json!(["x", "\"\u{1b}"]));
        assert!(line.starts_with("{\"a\":{\"n\":1},\"b\":{},\"c\":["), "{line}");
        assert!(line.ends_with("],\"d\":[]}\n"), "{line}");
    }

    #[test]
    fn members_stand_in_their_order() {
        let (line, _) = object(|o| {
            o.number("n", 7);
            o.optional("none", None);
            o.text("t", "x");
            o.displayed("d", Some(8));
        });
        assert_eq!(line, "{\"n\":7,\"none\":null,\"t\":\"x\",\"d\":\"8\"}\n");
    }

    proptest! {
        #[test]
        fn a6_any_text_and_any_bytes_make_one_line(
            text in ".*",
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (line, value) = object(|o| {
                o.text("text", &text);
                o.foreign("foreign", &bytes);
            });
            prop_assert_eq!(value["text"].as_str(), Some(&*text));
            prop_assert!(value["foreign"].as_str().unwrap().is_ascii());
            prop_assert_eq!(line.bytes().filter(|b| *b == b'\n').count(), 1);
        }
    }
}
