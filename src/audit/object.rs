//! One JSON object in one line, written straight into a buffer: a record is made for every decision,
//! and what a general serialiser costs there is more than deciding.

use std::{fmt, io::Write as _};

/// The longest text of a stranger that is kept, in bytes before escaping: a host name. With everything
/// escaped, a line of the trail stays below 8 KiB.
pub(super) const MAX_FOREIGN: usize = 253;

/// A JSON object under way. Names are ours and need no escaping.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    opening: &'static [u8],
}

impl<'o> Object<'o> {
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, opening: b"{\"" }
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        // Into memory: it cannot fail.
        let _ = write!(self.out, "{number}");
    }

    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        if is_plain(text.as_bytes()) {
            self.quoted(text.as_bytes());
        } else {
            // Into memory, and text is always JSON: it cannot fail.
            let _ = serde_json::to_writer(&mut *self.out, text);
        }
    }

    pub(super) fn optional(&mut self, name: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    /// Something that displays itself in plain characters.
    pub(super) fn displayed(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        match value {
            Some(value) => {
                self.name(name);
                let _ = write!(self.out, "\"{value}\"");
            }
            None => self.null(name),
        }
    }

    /// Bytes of a stranger as text: cut, and escaped so that no line break, terminal sequence or broken
    /// UTF-8 gets into a record.
    pub(super) fn foreign(&mut self, name: &'static str, bytes: &[u8]) {
        let bytes = bytes.get(..MAX_FOREIGN).unwrap_or(bytes);
        if is_plain(bytes) {
            self.name(name);
            self.quoted(bytes);
        } else {
            self.text(name, &bytes.escape_ascii().to_string());
        }
    }

    fn null(&mut self, name: &'static str) {
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
