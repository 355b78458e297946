//! Writes identical allows as one record with a count: opening a page that loads a hundred pictures is one access.
//!
//! The first record of a kind is written at once and opens a window. Identical ones within the window are counted, and
//! written at its end as one record with `count`, `from_ms` and `until_ms`. Only allows are deduplicated: every refusal
//! keeps a record of its own.
//!
//! Records are compared as text. What differs from one request to the next (time, ids, latency) stands before the verdict,
//! and everything from the verdict on must be equal: decision records have their fields in that order.

use std::collections::HashMap;

use memchr::memmem;
use tracing::debug;

use super::json_object::JsonObject;

/// The start of the part that must be equal. Quotes inside texts are escaped, so no text of a client contains it.
const COMMON_START: &[u8] = b",\"verdict\":\"allow\",";
const DECISION_ID: &[u8] = b"\"decision_id\":\"";
/// The member of a record that counts how often HAProxy reused an earlier decision.
const REUSED: &[u8] = b",\"reused\":";
/// The most windows that are open at once. Further records are written one by one.
const MAX_WINDOWS: usize = 4096;

/// Counts identical allows within a window of time.
pub(super) struct Deduplicator {
    window_ms: u64,
    /// The open windows, by the part of the record that must be equal.
    windows: HashMap<Box<[u8]>, Repeats>,
    /// The earliest end of an open window.
    next_flush_ms: u64,
}

/// Which windows [`Deduplicator::flush`] closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// Those whose time is over.
    Ended,
    /// All of them, because the log is being closed.
    All,
}

struct Repeats {
    since_ms: u64,
    until_ms: u64,
    count: u64,
    /// The decision id of the last repeat: the one that an error report is most likely to name.
    last_id: Box<[u8]>,
}

impl Deduplicator {
    /// A deduplicator without open windows.
    pub(super) fn new(window_ms: u64) -> Self {
        Self { window_ms, windows: HashMap::new(), next_flush_ms: u64::MAX }
    }

    /// Counts the record if it repeats an earlier one. Returns false if the caller must write it.
    pub(super) fn absorbs(&mut self, line: &[u8], now_ms: u64) -> bool {
        let Some(start) = memmem::find(line, COMMON_START) else { return false };
        let (distinct, common) = line.split_at(start);
        // Such a record has a count of its own, which would be lost here.
        if memmem::find(distinct, REUSED).is_some() {
            return false;
        }
        if let Some(repeats) = self.windows.get_mut(common) {
            if now_ms.saturating_sub(repeats.since_ms) < self.window_ms {
                repeats.count += 1;
                repeats.until_ms = now_ms;
                repeats.last_id = decision_id(distinct).into();
                return true;
            }
            // The window is over. This record is written, and after the flush the next one opens a new window.
            return false;
        }
        // Bounds the memory that many different people and paths can take.
        if self.windows.len() >= MAX_WINDOWS {
            debug!("too many different records at once: further ones are not deduplicated");
            return false;
        }
        let last_id = Box::default();
        let repeats = Repeats { since_ms: now_ms, until_ms: now_ms, count: 0, last_id };
        self.windows.insert(common.into(), repeats);
        self.next_flush_ms = self.next_flush_ms.min(now_ms.saturating_add(self.window_ms));
        false
    }

    /// Closes windows and gives `write` a record for each that counted something.
    pub(super) fn flush(&mut self, now_ms: u64, which: Windows, mut write: impl FnMut(&[u8])) {
        let all = which == Windows::All;
        if !all && now_ms < self.next_flush_ms {
            return;
        }
        let window_ms = self.window_ms;
        self.next_flush_ms = u64::MAX;
        let next_flush_ms = &mut self.next_flush_ms;
        self.windows.retain(|common, repeats| {
            let end = repeats.since_ms.saturating_add(window_ms);
            if !all && now_ms < end {
                *next_flush_ms = (*next_flush_ms).min(end);
                return true;
            }
            // The first record of the window is written already: without repeats there is nothing to add.
            if repeats.count > 0 {
                write(&repeats.record(common, now_ms));
            }
            false
        });
    }

    /// When [`Deduplicator::flush`] has something to do, in milliseconds of the clock that its callers use.
    pub(super) const fn next_flush_ms(&self) -> u64 {
        self.next_flush_ms
    }
}

impl Repeats {
    fn record(&self, common: &[u8], now_ms: u64) -> Vec<u8> {
        let mut line = Vec::with_capacity(common.len() + 256);
        let mut object = JsonObject::begin(&mut line);
        object.number("time_ms", now_ms);
        object.untrusted("decision_id", &self.last_id);
        object.number("count", self.count);
        object.number("from_ms", self.since_ms);
        object.number("until_ms", self.until_ms);
        // It begins with a comma and ends with the brace that closes the object.
        line.extend_from_slice(common);
        line
    }
}

/// The decision id in the part of a record that differs, or nothing.
fn decision_id(distinct: &[u8]) -> &[u8] {
    let from =
        memmem::find(distinct, DECISION_ID).map_or(distinct.len(), |at| at + DECISION_ID.len());
    let rest = distinct.get(from..).unwrap_or_default();
    rest.split(|byte| *byte == b'"').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, verdict: &str, user: &str) -> Vec<u8> {
        let id = format!("{{\"time_ms\":1,\"decision_id\":\"{id}\",\"unique_id\":\"x\"");
        format!("{id},\"verdict\":\"{verdict}\",\"user\":\"{user}\"}}").into_bytes()
    }

    #[test]
    fn only_identical_allows_of_one_window_are_deduplicated() {
        let mut dedupe = Deduplicator::new(1000);
        assert!(!dedupe.absorbs(&line("1", "allow", "alice"), 0));
        assert!(dedupe.absorbs(&line("2", "allow", "alice"), 10));
        assert!(!dedupe.absorbs(&line("3", "allow", "bob"), 10));
        for _ in 0..3 {
            assert!(!dedupe.absorbs(&line("4", "deny", "alice"), 20));
        }
        assert!(dedupe.absorbs(&line("5", "allow", "alice"), 999));
        assert!(!dedupe.absorbs(&line("6", "allow", "alice"), 1000), "the window is over");
        let mut written = vec![];
        dedupe.flush(999, Windows::Ended, |record| written.push(record.to_vec()));
        assert!(written.is_empty());
        dedupe.flush(1000, Windows::Ended, |record| written.push(record.to_vec()));
        let record: serde_json::Value = serde_json::from_slice(&written[0]).unwrap();
        assert_eq!(written.len(), 1, "bob came once: his record is written");
        assert_eq!((&record["count"], &record["user"]), (&2.into(), &"alice".into()));
        assert_eq!((&record["decision_id"], &record["verdict"]), (&"5".into(), &"allow".into()));
        assert_eq!((&record["from_ms"], &record["until_ms"]), (&0.into(), &999.into()));
        assert_eq!(dedupe.next_flush_ms(), 1010);
    }

    #[test]
    fn a_text_cannot_pretend_to_be_a_verdict() {
        let mut dedupe = Deduplicator::new(1000);
        let mut out = Vec::new();
        let mut object = JsonObject::begin(&mut out);
        object.untrusted("unique_id", b"\",\"verdict\":\"allow\",\"");
        object.text("verdict", "deny");
        object.end();
        out.pop();
        for _ in 0..3 {
            assert!(!dedupe.absorbs(&out, 0), "{}", out.escape_ascii());
        }
    }

    #[test]
    fn what_is_counted_at_once_is_bounded() {
        let mut dedupe = Deduplicator::new(1000);
        for n in 0..MAX_WINDOWS + 10 {
            assert!(!dedupe.absorbs(&line("1", "allow", &n.to_string()), 0));
        }
        assert_eq!(dedupe.windows.len(), MAX_WINDOWS);
        assert!(!dedupe.absorbs(&line("1", "allow", "another"), 1));
        assert!(dedupe.absorbs(&line("1", "allow", "7"), 1));
    }
}
