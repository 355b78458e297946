//! Repeated identical allows as one record with a count: a page with a hundred pictures is one person at
//! one workspace.
//!
//! The first of them is written at once; the others within the window are counted, and written as one
//! record at its end. What differs between them (time, ids, latency) comes first in a record, so what says
//! the same is equal from the verdict on. A refusal is never folded.

use std::collections::HashMap;

use memchr::memmem;
use tracing::debug;

use super::object::Object;

/// Where what says the same begins. A quote inside a text is escaped, so nobody can forge it.
const SAME_FROM: &[u8] = b",\"verdict\":\"allow\",";
const ID: &[u8] = b"\"decision_id\":\"";
/// Of a record that says how often an earlier decision was reused.
const REUSED: &[u8] = b",\"reused\":";
/// The most different records that are counted at once; what comes beyond is written as it is.
const MAX_OPEN: usize = 4096;

/// Counts identical records.
pub(super) struct Fold {
    window_ms: u64,
    open: HashMap<Box<[u8]>, Repeats>,
    /// When the first window may end.
    due_ms: u64,
}

struct Repeats {
    since_ms: u64,
    until_ms: u64,
    count: u64,
    last_id: Box<[u8]>,
}

impl Fold {
    pub(super) fn new(window_ms: u64) -> Self {
        Self { window_ms, open: HashMap::new(), due_ms: u64::MAX }
    }

    /// Whether the record says what one before it said, and is counted instead of written.
    pub(super) fn takes(&mut self, line: &[u8], now_ms: u64) -> bool {
        let Some(start) = memmem::find(line, SAME_FROM) else { return false };
        let (own, same) = line.split_at(start);
        // What it counts itself would be lost.
        if memmem::find(own, REUSED).is_some() {
            return false;
        }
        if let Some(repeats) = self.open.get_mut(same) {
            if now_ms.saturating_sub(repeats.since_ms) < self.window_ms {
                repeats.count += 1;
                repeats.until_ms = now_ms;
                repeats.last_id = id(own).into();
                return true;
            }
            return false;
        }
        if self.open.len() >= MAX_OPEN {
            debug!("more different records than can be folded at once");
            return false;
        }
        let last_id = Box::default();
        let repeats = Repeats { since_ms: now_ms, until_ms: now_ms, count: 0, last_id };
        self.open.insert(same.into(), repeats);
        self.due_ms = self.due_ms.min(now_ms.saturating_add(self.window_ms));
        false
    }

    /// Gives `write` a record for each window that is over; with `all`, for every one.
    pub(super) fn close(&mut self, now_ms: u64, all: bool, mut write: impl FnMut(&[u8])) {
        if !all && now_ms < self.due_ms {
            return;
        }
        let window_ms = self.window_ms;
        self.due_ms = u64::MAX;
        let due_ms = &mut self.due_ms;
        self.open.retain(|same, repeats| {
            let end = repeats.since_ms.saturating_add(window_ms);
            if !all && now_ms < end {
                *due_ms = (*due_ms).min(end);
                return true;
            }
            if repeats.count > 0 {
                write(&repeats.record(same, now_ms));
            }
            false
        });
    }

    /// When there is something to close, in milliseconds of the same clock.
    pub(super) const fn due_ms(&self) -> u64 {
        self.due_ms
    }
}

impl Repeats {
    fn record(&self, same: &[u8], now_ms: u64) -> Vec<u8> {
        let mut line = Vec::with_capacity(same.len() + 256);
        let mut object = Object::begin(&mut line);
        object.number("time_ms", now_ms);
        object.foreign("decision_id", &self.last_id);
        object.number("count", self.count);
        object.number("from_ms", self.since_ms);
        object.number("until_ms", self.until_ms);
        line.extend_from_slice(same);
        line
    }
}

fn id(own: &[u8]) -> &[u8] {
    let from = memmem::find(own, ID).map_or(own.len(), |at| at + ID.len());
    let rest = own.get(from..).unwrap_or_default();
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
    fn only_identical_allows_of_one_window_are_folded() {
        let mut fold = Fold::new(1000);
        assert!(!fold.takes(&line("1", "allow", "alice"), 0));
        assert!(fold.takes(&line("2", "allow", "alice"), 10));
        assert!(!fold.takes(&line("3", "allow", "bob"), 10));
        for _ in 0..3 {
            assert!(!fold.takes(&line("4", "deny", "alice"), 20));
        }
        assert!(fold.takes(&line("5", "allow", "alice"), 999));
        assert!(!fold.takes(&line("6", "allow", "alice"), 1000), "the window is over");
        let mut written = vec![];
        fold.close(999, false, |record| written.push(record.to_vec()));
        assert!(written.is_empty());
        fold.close(1000, false, |record| written.push(record.to_vec()));
        let record: serde_json::Value = serde_json::from_slice(&written[0]).unwrap();
        assert_eq!(written.len(), 1, "bob came once: his record is written");
        assert_eq!((&record["count"], &record["user"]), (&2.into(), &"alice".into()));
        assert_eq!((&record["decision_id"], &record["verdict"]), (&"5".into(), &"allow".into()));
        assert_eq!((&record["from_ms"], &record["until_ms"]), (&0.into(), &999.into()));
        assert_eq!(fold.due_ms(), 1010);
    }

    #[test]
    fn a_text_cannot_pretend_to_be_a_verdict() {
        let mut fold = Fold::new(1000);
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.foreign("unique_id", b"\",\"verdict\":\"allow\",\"");
        object.text("verdict", "deny");
        object.end();
        out.pop();
        for _ in 0..3 {
            assert!(!fold.takes(&out, 0), "{}", out.escape_ascii());
        }
    }

    #[test]
    fn what_is_counted_at_once_is_bounded() {
        let mut fold = Fold::new(1000);
        for n in 0..MAX_OPEN + 10 {
            assert!(!fold.takes(&line("1", "allow", &n.to_string()), 0));
        }
        assert_eq!(fold.open.len(), MAX_OPEN);
        assert!(!fold.takes(&line("1", "allow", "another"), 1));
        assert!(fold.takes(&line("1", "allow", "7"), 1));
    }
}
