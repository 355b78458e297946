//! Writes one JSON object as one line, straight into a buffer.
//!
//! A record is written for every decision, and a general serializer would cost more than the decision itself. So the members
//! are written one after the other, without a value in between, and text that needs no escaping is copied.
//!
//! Whatever clients and platforms send, the result is one line of valid JSON that no terminal interprets: line ends, control
//! characters and marks of text direction are escaped, and long values are cut, so that a line of the log stays below 8 KiB.

use std::{fmt, io::Write as _};

use crate::fingerprint::Fingerprint;

/// The longest value of [`JsonObject::untrusted`], in bytes before escaping: the longest host name.
pub(super) const MAX_UNTRUSTED: usize = 253;
/// The longest value of [`JsonObject::text`], in bytes before escaping.
pub(super) const MAX_TEXT: usize = 512;
/// How many segments of a path are recorded.
const MAX_SEGMENTS: usize = 8;
/// The longest segment that is recorded as it is. A longer one may be a token.
const MAX_SEGMENT: usize = 24;
/// The most digits of such a segment. More digits may be an id.
const MAX_DIGITS: usize = 3;

/// A JSON object that is being written. The names of members are constants that need no escaping.
pub struct JsonObject<'o> {
    out: &'o mut Vec<u8>,
    /// What stands before the next name: the opening brace, then a comma, each with the quote of the name.
    separator: &'static [u8],
}

impl<'o> JsonObject<'o> {
    /// Begins an object at the end of `out`.
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, separator: b"{\"" }
    }

    /// Ends the object and its line.
    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    /// Writes the member `event`.
    pub fn event(&mut self, event: super::AuditEvent) {
        self.text("event", event.id());
    }

    /// Writes a number.
    pub fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        // Writing into memory cannot fail.
        let _ = write!(self.out, "{number}");
    }

    /// Writes true or false.
    pub fn boolean(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Writes text. A long one is cut, and ends with an ellipsis.
    pub fn text(&mut self, name: &'static str, text: &str) {
        let prefix = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text);
        self.cut_text(name, prefix, text);
    }

    /// Writes `prefix`, the part of `text` that is recorded.
    fn cut_text(&mut self, name: &'static str, prefix: &str, text: &str) {
        self.name(name);
        if is_plain(prefix.as_bytes()) && prefix.len() == text.len() {
            return self.quoted(prefix.as_bytes());
        }
        self.out.push(b'"');
        for character in prefix.chars() {
            self.escaped(character);
        }
        if prefix.len() < text.len() {
            self.escaped('\u{2026}');
        }
        self.out.push(b'"');
    }

    fn escaped(&mut self, character: char) {
        match character {
            '"' | '\\' => self.out.extend_from_slice(&[b'\\', character as u8]),
            // Terminals and viewers interpret these: line ends, escape sequences, marks of text direction.
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.unicode(character),
            _ if character.is_control() => self.unicode(character),
            _ => {
                let mut bytes = [0; 4];
                self.out.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }

    fn unicode(&mut self, character: char) {
        // Writing into memory cannot fail. None of these characters needs more than four digits.
        let _ = write!(self.out, "\\u{:04x}", u32::from(character));
    }

    /// Writes text, or null.
    pub fn optional(&mut self, name: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    /// Writes a value by its `Display`, which must give characters that need no escaping, or null.
    pub fn display(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        match value {
            Some(value) => {
                self.name(name);
                let _ = write!(self.out, "\"{value}\"");
            }
            None => self.null(name),
        }
    }

    /// Writes an object inside this one.
    pub fn object(&mut self, name: &'static str, write: impl FnOnce(&mut JsonObject<'_>)) {
        self.name(name);
        let mut inner = JsonObject::begin(self.out);
        write(&mut inner);
        let empty = inner.separator == b"{\"";
        self.out.extend_from_slice(if empty { b"{}" } else { b"}" });
    }

    /// Writes a list of texts. None of them is cut.
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

    /// Writes the shape of a path: plain words stay, and each segment that may be an id or a secret becomes `*`.
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

    /// Writes bytes that a client chose, cut to [`MAX_UNTRUSTED`]. What is not printable ASCII is escaped.
    pub fn untrusted(&mut self, name: &'static str, bytes: &[u8]) {
        self.untrusted_up_to(MAX_UNTRUSTED, name, bytes);
    }

    /// Like [`JsonObject::untrusted`], with another limit in bytes.
    pub fn untrusted_up_to(&mut self, most: usize, name: &'static str, bytes: &[u8]) {
        let bytes = bytes.get(..most).unwrap_or(bytes);
        if is_plain(bytes) {
            self.name(name);
            self.quoted(bytes);
        } else {
            let escaped = bytes.escape_ascii().to_string();
            self.cut_text(name, &escaped, &escaped);
        }
    }

    /// Writes members whose values are JSON already.
    pub fn raw_members(&mut self, members: &serde_json::Map<String, serde_json::Value>) {
        for (name, value) in members {
            self.out.extend_from_slice(std::mem::replace(&mut self.separator, b",\""));
            self.out.pop();
            // Writing into memory cannot fail, and both are valid JSON.
            let _ = serde_json::to_writer(&mut *self.out, name);
            self.out.push(b':');
            let _ = serde_json::to_writer(&mut *self.out, value);
        }
    }

    /// Writes a fingerprint, or null.
    pub fn fingerprint(&mut self, name: &'static str, value: Option<Fingerprint>) {
        match value {
            Some(value) => {
                self.name(name);
                self.quoted(&value.hex());
            }
            None => self.null(name),
        }
    }

    /// Writes null.
    pub fn null(&mut self, name: &'static str) {
        self.name(name);
        self.out.extend_from_slice(b"null");
    }

    fn name(&mut self, name: &'static str) {
        self.out.extend_from_slice(std::mem::replace(&mut self.separator, b",\""));
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn quoted(&mut self, plain: &[u8]) {
        self.out.push(b'"');
        self.out.extend_from_slice(plain);
        self.out.push(b'"');
    }
}

/// Whether a segment of a path is a plain word, which can be neither an id nor a secret.
fn is_word(segment: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~');
    segment.len() <= MAX_SEGMENT
        && segment.iter().all(plain)
        && segment.iter().filter(|b| b.is_ascii_digit()).count() <= MAX_DIGITS
}

/// Whether the bytes need no escaping between the quotes of a JSON text.
fn is_plain(bytes: &[u8]) -> bool {
    let plain = |b: &u8| matches!(b, b' '..=b'~') & !matches!(b, b'"' | b'\\' | b'\'');
    // Without an early return the compiler checks many bytes at once.
    bytes.iter().fold(true, |all, byte| all & plain(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn object(write: impl FnOnce(&mut JsonObject<'_>)) -> (String, Value) {
        let mut out = Vec::new();
        let mut object = JsonObject::begin(&mut out);
        write(&mut object);
        object.end();
        let line = String::from_utf8(out).unwrap();
        let value = serde_json::from_str(&line).unwrap();
        (line, value)
    }

    fn foreign(bytes: &[u8]) -> String {
        object(|o| o.untrusted("a", bytes)).1["a"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a6_bytes_of_a_client_are_escaped_and_cut() {
        assert_eq!(foreign(b"plain text"), "plain text");
        assert_eq!(foreign(b"a\r\nb"), "a\\r\\nb");
        assert_eq!(foreign(b"\x1b[31m"), "\\x1b[31m");
        assert_eq!(foreign(b"\xff\"\\"), "\\xff\\\"\\\\");
        assert_eq!(foreign(&[b'a'; 400]).len(), MAX_UNTRUSTED);
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
            o.object("a", |inner| inner.number("n", 1));
            o.object("b", |_| ());
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
            o.display("d", Some(8));
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
                o.untrusted("foreign", &bytes);
            });
            prop_assert_eq!(value["text"].as_str(), Some(&*text));
            prop_assert!(value["foreign"].as_str().unwrap().is_ascii());
            prop_assert_eq!(line.bytes().filter(|b| *b == b'\n').count(), 1);
        }
    }
}
