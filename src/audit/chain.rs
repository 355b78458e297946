//! The chain: each record carries a number and a hash over itself and the hash before.
//!
//! A line of the audit log is `{"seq":N,"up_ms":M,…,"hash":"H"}`. Its canonical form is the line without the
//! member `hash` and without the line's end; H is SHA-256 over the 32 bytes of the hash before and the
//! canonical form. Nothing needs to be parsed to be proved, and a shell can do it.

use std::io::Write as _;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::{key::SigningKey, object::Object};
use crate::{
    audit::AuditEvent,
    fingerprint::Fingerprint,
    time::{MonotonicTime, Timestamp},
};

/// A hash of the chain.
pub(super) type Hash = [u8; 32];

/// The longest line with its end, in bytes.
pub const MAX_LINE: usize = 8192;
/// What the chain adds to a line, at most: the number, the time since the start and the hash.
const ADDED: usize = 160;
/// The longest line that is taken into the chain, in bytes.
pub(super) const MAX_ENTRY: usize = MAX_LINE - ADDED;
/// Texts of a longer one are cut to so many characters, as far as needed.
const CUTS: [usize; 2] = [200, 24];
/// The most members of it that are kept.
const MAX_MEMBERS: usize = 32;
const HASH_OPENS: &[u8] = b",\"hash\":\"";
const HASH_ENDS: &[u8] = b"\"}";
const HEX: usize = 64;

/// The end of a chain, to which records are added.
pub(super) struct Chain {
    next: u64,
    last: Hash,
    /// The hash before and the canonical form of the record under way.
    scratch: Vec<u8>,
}

/// A line in its parts.
#[derive(Clone, Copy)]
pub(super) struct Line<'l> {
    /// The canonical form without the brace that closes it.
    open: &'l [u8],
    hash: &'l [u8],
}

impl Chain {
    /// A chain whose last record had this number and hash; a new one is zero and zeros.
    pub(super) fn after(seq: u64, last: Hash) -> Self {
        Self { next: seq.saturating_add(1), last, scratch: Vec::with_capacity(2 * MAX_LINE) }
    }

    /// The hash of the last record.
    pub(super) const fn last(&self) -> &Hash {
        &self.last
    }

    /// The number of the record to come.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Takes a line, an object of JSON without its end, into the chain and appends what is written.
    pub(super) fn append(&mut self, line: &[u8], up_ms: u64, out: &mut Vec<u8>) {
        let Some(members) = line.strip_prefix(b"{").filter(|_| line.len() <= MAX_ENTRY) else {
            return self.append(&shortened(line), up_ms, out);
        };
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.extend_from_slice(&self.last);
        // Into memory: it cannot fail.
        let _ = write!(scratch, "{{\"seq\":{},\"up_ms\":{up_ms},", self.next);
        scratch.extend_from_slice(members);
        self.last = hash(scratch);
        scratch.pop();
        out.extend_from_slice(scratch.get(self.last.len()..).unwrap_or_default());
        out.extend_from_slice(HASH_OPENS);
        push_hex(out, &self.last);
        out.extend_from_slice(HASH_ENDS);
        out.push(b'\n');
        self.next = self.next.saturating_add(1);
    }

    /// Appends a record that the audit log makes of itself.
    pub(super) fn note(
        &mut self,
        event: AuditEvent,
        out: &mut Vec<u8>,
        members: impl FnOnce(&mut Object<'_>),
    ) {
        let mut line = Vec::with_capacity(512);
        let mut object = Object::begin(&mut line);
        object.number("time_ms", Timestamp::now().as_millis());
        object.event(event);
        members(&mut object);
        object.end();
        line.pop();
        self.append(&line, up_ms(), out);
    }

    /// Appends a checkpoint: the hash before it, signed. `end` says that nothing is missing after it.
    pub(super) fn checkpoint(&mut self, key: &SigningKey, end: bool, out: &mut Vec<u8>) {
        let (seq, previous, time_ms) = (self.next, self.last, Timestamp::now().as_millis());
        let statement = statement(seq, &previous, time_ms, end);
        let signature = key.sign(statement.as_bytes());
        let mut line = Vec::with_capacity(512);
        let mut object = Object::begin(&mut line);
        object.number("time_ms", time_ms);
        object.event(AuditEvent::Checkpoint);
        object.boolean("end", end);
        object.text("previous", &hex(&previous));
        object.fingerprint("key", Some(key.id()));
        object.text("signature", &signature);
        object.end();
        line.pop();
        self.append(&line, up_ms(), out);
    }
}

/// What a checkpoint's signature is over.
pub(super) fn statement(seq: u64, previous: &Hash, time_ms: u64, end: bool) -> String {
    format!("identity-spoa audit checkpoint\n{seq}\n{}\n{time_ms}\n{end}\n", hex(previous))
}

/// Milliseconds of the monotonic clock since the agent started.
pub(super) fn up_ms() -> u64 {
    u64::try_from(MonotonicTime::now().since(MonotonicTime::default()).as_millis())
        .unwrap_or(u64::MAX)
}

fn hash(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// SHA-256 of what a line left behind.
pub(super) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Fingerprint::of(bytes)
}

impl<'l> Line<'l> {
    /// Takes a line without its end apart; `None` if it is none of a chain.
    pub(super) fn split(line: &'l [u8]) -> Option<Self> {
        if line.len() >= MAX_LINE {
            return None;
        }
        let rest = line.strip_suffix(HASH_ENDS)?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HEX)?)?;
        Some(Self { open: rest.strip_suffix(HASH_OPENS)?, hash })
    }

    /// The hash that the line says it has.
    pub(super) fn stated(&self) -> Option<Hash> {
        unhex(self.hash)
    }

    /// The hash that it has after another one.
    pub(super) fn hash_after(&self, previous: &Hash) -> Hash {
        let mut bytes = Vec::with_capacity(previous.len() + self.open.len() + 1);
        bytes.extend_from_slice(previous);
        bytes.extend_from_slice(self.open);
        bytes.push(b'}');
        hash(&bytes)
    }
}

/// A record that is too long or no object, with all texts in it cut.
fn shortened(line: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(members)) = serde_json::from_slice(line) else {
        return unreadable(line);
    };
    for most in CUTS {
        let members = members.clone().into_iter().take(MAX_MEMBERS);
        let members = members.map(|(name, value)| (name, cut(value, most))).collect();
        let mut short = Vec::new();
        let mut object = Object::begin(&mut short);
        object.raw_members(&members);
        object.boolean("cut", true);
        object.end();
        short.pop();
        if short.len() <= MAX_ENTRY {
            return short;
        }
    }
    unreadable(line)
}

fn unreadable(line: &[u8]) -> Vec<u8> {
    let mut short = Vec::new();
    let mut object = Object::begin(&mut short);
    object.event(AuditEvent::Unreadable);
    object.foreign("line", line);
    object.end();
    short.pop();
    short
}

fn cut(value: Value, most: usize) -> Value {
    match value {
        Value::String(text) => text.chars().take(most).collect::<String>().into(),
        Value::Array(_) | Value::Object(_) => Value::Null,
        other => other,
    }
}

pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    HEXLOWER.encode_mut(bytes, out.get_mut(start..).unwrap_or_default());
}

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Sixty-four digits, in lower case as they are written.
pub(super) fn unhex(text: &[u8]) -> Option<Hash> {
    HEXLOWER.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chained(lines: &[&[u8]]) -> Vec<String> {
        let mut chain = Chain::after(0, [0; 32]);
        let mut out = Vec::new();
        for line in lines {
            chain.append(line, 5, &mut out);
        }
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a4_a_hash_is_over_the_one_before_and_the_record() {
        let lines = chained(&[b"{\"a\":1}", b"{\"b\":2}"]);
        assert!(lines[0].starts_with("{\"seq\":1,\"up_ms\":5,\"a\":1,\"hash\":\""), "{}", lines[0]);
        let first = Line::split(lines[0].as_bytes()).unwrap();
        let by_hand = hash(&[&[0; 32][..], b"{\"seq\":1,\"up_ms\":5,\"a\":1}"].concat());
        assert_eq!(first.stated(), Some(by_hand));
        assert_eq!(first.hash_after(&[0; 32]), by_hand);
        let second = Line::split(lines[1].as_bytes()).unwrap();
        assert_eq!(second.stated(), Some(second.hash_after(&by_hand)));
        assert_ne!(second.stated(), Some(second.hash_after(&[0; 32])));
    }

    #[test]
    fn a6_a_record_that_is_too_long_is_cut_to_a_line_below_8_kib() {
        let long = "x\u{1b}".repeat(9000);
        let texts: Vec<_> = (0..40).map(|n| format!("\"t{n}\":{}", Value::from(&*long))).collect();
        let line = format!("{{\"event\":\"revoke\",{}}}", texts.join(","));
        let written = chained(&[line.as_bytes(), b"half a li", b"\xff\n\x1b"]);
        for line in &written {
            assert!(line.len() < MAX_LINE, "{}", line.len());
            let value: Value = serde_json::from_str(line).unwrap();
            assert!(Line::split(line.as_bytes()).is_some());
            assert!(value["seq"].is_u64());
        }
        assert!(written[0].contains("\"event\":\"revoke\""), "{}", written[0]);
        assert!(written[1].contains("\"event\":\"unreadable\",\"line\":\"half a li\""));
        assert!(written[2].is_ascii());
    }

    #[test]
    fn hex_is_read_as_it_is_written() {
        let hash: Hash = std::array::from_fn(|n| u8::try_from(n * 8).unwrap());
        assert_eq!(unhex(hex(&hash).as_bytes()), Some(hash));
        assert_eq!(unhex(hex(&hash).to_uppercase().as_bytes()), None);
        assert_eq!(unhex(b"00"), None);
    }
}
