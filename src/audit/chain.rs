//! The hash chain: each record carries a number, and a hash over itself and the hash before it.
//!
//! A line of the audit log is `{"seq":N,"up_ms":M,…,"hash":"H"}`. Its canonical form is the line without the member `hash`
//! and without the line's end. H is SHA-256 over the 32 bytes of the hash before it, followed by the canonical form. So
//! a chain is verified without parsing JSON, and a shell script can do it.
//!
//! The chain alone does not prove who wrote it, because computing hashes needs no key. Checkpoints, which only the key's
//! owner can make, sign the hash of the record before them.
//!
//! Every line is shorter than [`MAX_LINE`]. A longer record is shortened rather than lost.

use std::io::Write as _;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::{json_object::JsonObject, key::SigningKey};
use crate::{
    audit::AuditEvent,
    fingerprint::Fingerprint,
    time::{MonotonicTime, Timestamp},
};

/// A hash of the chain.
pub(super) type Hash = [u8; 32];

/// The longest line including its end, in bytes.
pub const MAX_LINE: usize = 8192;
/// How many bytes the chain adds to a record at most: number, time since the start and hash.
const MAX_ADDED: usize = 160;
/// The longest record that is chained as it is, in bytes.
pub(super) const MAX_RECORD: usize = MAX_LINE - MAX_ADDED;
/// The lengths, in characters, to which texts of a longer record are cut: the first that suffices.
const TEXT_LIMITS: [usize; 2] = [200, 24];
/// How many members of a longer record remain.
const MAX_MEMBERS: usize = 32;
const HASH_START: &[u8] = b",\"hash\":\"";
const HASH_END: &[u8] = b"\"}";
/// The length of a hash in hexadecimal digits.
const HEX_LENGTH: usize = 64;

/// The end of a chain, to which records are appended.
pub(super) struct Chain {
    next: u64,
    last: Hash,
    /// A buffer for the previous hash and the canonical form of one record.
    scratch: Vec<u8>,
}

/// Which checkpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckpointKind {
    /// One of those that are made again and again.
    Periodic,
    /// The last one: it states that no record follows it.
    Final,
}

/// A line of the log, split into its parts.
#[derive(Clone, Copy)]
pub(super) struct Line<'l> {
    /// The canonical form without the closing brace.
    open: &'l [u8],
    hash: &'l [u8],
}

impl Chain {
    /// Continues a chain after the record with this number and hash. A new chain starts after zero and zeros.
    pub(super) fn after(seq: u64, last: Hash) -> Self {
        Self { next: seq.saturating_add(1), last, scratch: Vec::with_capacity(2 * MAX_LINE) }
    }

    /// The hash of the last record.
    pub(super) const fn last(&self) -> &Hash {
        &self.last
    }

    /// The number that the next record gets.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Appends a record, given as one JSON object without a line end, and writes the chained line to `out`.
    pub(super) fn append(&mut self, line: &[u8], up_ms: u64, out: &mut Vec<u8>) {
        // A half-written or oversized record is repaired, so that the log has a line for each record.
        let Some(members) = line.strip_prefix(b"{").filter(|_| line.len() <= MAX_RECORD) else {
            return self.append(&shortened(line), up_ms, out);
        };
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.extend_from_slice(&self.last);
        // Writing into memory cannot fail.
        let _ = write!(scratch, "{{\"seq\":{},\"up_ms\":{up_ms},", self.next);
        scratch.extend_from_slice(members);
        self.last = hash(scratch);
        // The hash becomes the last member, so the closing brace moves behind it.
        scratch.pop();
        out.extend_from_slice(scratch.get(self.last.len()..).unwrap_or_default());
        out.extend_from_slice(HASH_START);
        push_hex(out, &self.last);
        out.extend_from_slice(HASH_END);
        out.push(b'\n');
        self.next = self.next.saturating_add(1);
    }

    /// Appends an event of the log itself, such as its opening.
    pub(super) fn append_event(
        &mut self,
        event: AuditEvent,
        out: &mut Vec<u8>,
        members: impl FnOnce(&mut JsonObject<'_>),
    ) {
        let mut line = Vec::with_capacity(512);
        let mut object = JsonObject::begin(&mut line);
        object.number("time_ms", Timestamp::now().as_millis());
        object.event(event);
        members(&mut object);
        object.end();
        line.pop();
        self.append(&line, up_ms(), out);
    }

    /// Appends a checkpoint: a signature over the hash of the record before it.
    pub(super) fn checkpoint(&mut self, key: &SigningKey, kind: CheckpointKind, out: &mut Vec<u8>) {
        let end = kind == CheckpointKind::Final;
        let (seq, previous, time_ms) = (self.next, self.last, Timestamp::now().as_millis());
        let statement = statement(seq, &previous, time_ms, end);
        let signature = key.sign(statement.as_bytes());
        let mut line = Vec::with_capacity(512);
        let mut object = JsonObject::begin(&mut line);
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

/// The text that a checkpoint signs. `end` is true for the last one of a run.
pub(super) fn statement(seq: u64, previous: &Hash, time_ms: u64, end: bool) -> String {
    format!("identity-spoa audit checkpoint\n{seq}\n{}\n{time_ms}\n{end}\n", hex(previous))
}

/// Milliseconds since the agent started, by the monotonic clock.
pub(super) fn up_ms() -> u64 {
    u64::try_from(MonotonicTime::now().since(MonotonicTime::default()).as_millis())
        .unwrap_or(u64::MAX)
}

fn hash(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// The fingerprint of an incomplete record that a crash left behind.
pub(super) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Fingerprint::of_bytes(bytes)
}

impl<'l> Line<'l> {
    /// Splits a line without its end. Returns `None` if it is not a line of a chain.
    pub(super) fn split(line: &'l [u8]) -> Option<Self> {
        if line.len() >= MAX_LINE {
            return None;
        }
        let rest = line.strip_suffix(HASH_END)?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HEX_LENGTH)?)?;
        Some(Self { open: rest.strip_suffix(HASH_START)?, hash })
    }

    /// The hash that stands in the line.
    pub(super) fn stated(&self) -> Option<Hash> {
        unhex(self.hash)
    }

    /// The hash that the line must have if `previous` is the hash before it.
    pub(super) fn hash_after(&self, previous: &Hash) -> Hash {
        let mut bytes = Vec::with_capacity(previous.len() + self.open.len() + 1);
        bytes.extend_from_slice(previous);
        bytes.extend_from_slice(self.open);
        bytes.push(b'}');
        hash(&bytes)
    }
}

/// Shortens a record that is too long: its texts are cut, and `"cut":true` says so.
fn shortened(line: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(members)) = serde_json::from_slice(line) else {
        return unreadable(line);
    };
    for limit in TEXT_LIMITS {
        let members = members.clone().into_iter().take(MAX_MEMBERS);
        let members = members.map(|(name, value)| (name, shorten(value, limit))).collect();
        let mut short = Vec::new();
        let mut object = JsonObject::begin(&mut short);
        object.raw_members(&members);
        object.boolean("cut", true);
        object.end();
        short.pop();
        if short.len() <= MAX_RECORD {
            return short;
        }
    }
    unreadable(line)
}

/// A record for bytes that are not a JSON object, with as much of them as fits.
fn unreadable(line: &[u8]) -> Vec<u8> {
    let mut short = Vec::new();
    let mut object = JsonObject::begin(&mut short);
    object.event(AuditEvent::Unreadable);
    object.untrusted("line", line);
    object.end();
    short.pop();
    short
}

/// Cuts a text, and drops what has members of its own.
fn shorten(value: Value, limit: usize) -> Value {
    match value {
        Value::String(text) => text.chars().take(limit).collect::<String>().into(),
        Value::Array(_) | Value::Object(_) => Value::Null,
        other => other,
    }
}

/// Appends bytes as lower-case hexadecimal digits.
pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    HEXLOWER.encode_mut(bytes, out.get_mut(start..).unwrap_or_default());
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Reads a hash of 64 hexadecimal digits. Upper case is refused, so that each hash has one spelling.
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
