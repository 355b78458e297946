//! Verifies audit logs offline: no record was changed, removed, added, reordered or cut off at the end.
//!
//! Three things prove that. The hash chain shows a change of records inside the log. The signatures of checkpoints show a
//! chain that was recomputed after a change. A checkpoint that was stored elsewhere shows that the end was cut off.
//!
//! Files are given in any order and read line by line; their records must form one chain. After a problem, verification
//! continues from what the next record states, so that one change is reported once. An incomplete record that a crash left is
//! accepted only where the next `open` record describes it.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    chain::{self, Hash, Line},
    key::PublicKey,
    lines::{Lines, MAX_READ, RawLine},
};
use crate::fingerprint::Fingerprint;

/// The most records between two checkpoints, whatever is configured. More unsigned records at the end are a problem.
pub const MAX_RECORDS: u64 = 100_000;
/// The longest time between two checkpoints, in milliseconds.
const MAX_CHECKPOINT_AGE_MS: u64 = 3_600_000;
/// The most problems that are listed.
const MAX_PROBLEMS: usize = 50;

/// What the verifier trusts, besides the files.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// The keys that checkpoints must be signed with. Without keys, signatures are not checked.
    pub keys: Vec<PublicKey>,
    /// Checkpoints that were stored elsewhere.
    pub checkpoints: Vec<Checkpoint>,
    /// Whether the oldest files may be missing.
    pub partial: bool,
}

/// A checkpoint, as it stands in the audit log.
#[derive(Clone, Debug, Deserialize)]
pub struct Checkpoint {
    seq: u64,
    time_ms: u64,
    end: bool,
    previous: String,
    key: String,
    signature: String,
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Report {
    /// The numbers of the first and last record.
    pub range: Option<(u64, u64)>,
    /// Records that are part of the chain.
    pub records: u64,
    /// Checkpoints whose signature is right.
    pub signed: u64,
    /// Checkpoints whose signature was not checked, because no key was given.
    pub unverified: u64,
    /// Records after the last checkpoint, which no signature covers yet.
    pub after_checkpoint: u64,
    /// Records that were lost, by the `gap` records of the agent.
    pub lost: u64,
    /// How often the agent ended without closing the log.
    pub crashes: u64,
    /// Whether the log ends with the final checkpoint of a run.
    pub ended: bool,
    /// The problems, in the order of the records.
    pub problems: Vec<Problem>,
    /// How many further problems are not listed.
    pub more: u64,
}

/// A problem, and where it is.
#[derive(Debug)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The number of the line; the first is 1.
    pub line: u64,
    /// What is wrong, and what it means.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

impl Report {
    /// Whether there is no problem.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Checkpoint {
    /// Reads the checkpoints among lines of an audit log, and skips other records.
    ///
    /// # Errors
    /// A line is not JSON, or a checkpoint is incomplete: the number of the line, and what is wrong.
    pub fn read_all(text: &str) -> Result<Vec<Self>, (usize, serde_json::Error)> {
        let mut all = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let value: Value = serde_json::from_str(line).map_err(|error| (number + 1, error))?;
            if value.get("event").and_then(Value::as_str) == Some("checkpoint") {
                all.push(Self::deserialize(&value).map_err(|error| (number + 1, error))?);
            }
        }
        Ok(all)
    }

    fn previous(&self) -> Option<Hash> {
        chain::unhex(self.previous.as_bytes())
    }

    /// Whether the key that the checkpoint names is among `keys` and made its signature.
    fn is_verified(&self, keys: &[PublicKey]) -> bool {
        let Some(previous) = self.previous() else { return false };
        let statement = chain::statement(self.seq, &previous, self.time_ms, self.end);
        let named = keys.iter().filter(|key| key.id().to_string() == self.key);
        named.into_iter().any(|key| key.verifies(statement.as_bytes(), &self.signature))
    }
}

/// Verifies files, in the order of their records.
///
/// `on_read` gets the number of bytes of each line, for a display of progress.
///
/// # Errors
/// A file cannot be read.
pub fn verify(
    files: &[PathBuf],
    trusted: &Trusted,
    on_read: &mut dyn FnMut(u64),
) -> io::Result<Report> {
    let mut ordered = Vec::new();
    for path in files {
        ordered.push((first_seq(path)?, path));
    }
    ordered.sort();
    let mut verifier = Verifier::new(trusted);
    for (_, path) in ordered {
        verifier.check_file(path, on_read)?;
    }
    Ok(verifier.finish())
}

/// The number of the first record of a file. A file without a record comes last.
fn first_seq(path: &Path) -> io::Result<u64> {
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next()? {
        let value: Option<Value> = serde_json::from_slice(line.bytes).ok();
        if let Some(seq) = value.as_ref().and_then(|v| v.get("seq")).and_then(Value::as_u64) {
            return Ok(seq);
        }
    }
    Ok(u64::MAX)
}

struct Verifier<'t> {
    trusted: &'t Trusted,
    /// The hashes, and times, that trusted checkpoints state for the record before the numbered one.
    expected: BTreeMap<u64, Vec<(Hash, u64)>>,
    report: Report,
    /// The number and hash of the record before.
    before: Option<(u64, Hash)>,
    /// Bytes that are not a record, with the number of their line, until an `open` record describes them.
    torn: Option<(Vec<u8>, u64)>,
    /// The time of the last record.
    last_ms: u64,
    /// The time of the last checkpoint with a right signature.
    signed_ms: u64,
    file: PathBuf,
    line: u64,
}

impl<'t> Verifier<'t> {
    fn new(trusted: &'t Trusted) -> Self {
        let mut this = Self {
            trusted,
            expected: BTreeMap::new(),
            report: Report::default(),
            before: None,
            torn: None,
            last_ms: 0,
            signed_ms: 0,
            file: "--checkpoint".into(),
            line: 0,
        };
        for checkpoint in &trusted.checkpoints {
            this.line += 1;
            let is_trusted = trusted.keys.is_empty() || checkpoint.is_verified(&trusted.keys);
            match checkpoint.previous().filter(|_| is_trusted) {
                Some(previous) => {
                    let expected = this.expected.entry(checkpoint.seq).or_default();
                    expected.push((previous, checkpoint.time_ms));
                }
                None => this.add_problem("the given checkpoint is not signed by a given key"),
            }
        }
        this
    }

    fn add_problem(&mut self, what: impl Into<String>) {
        if self.report.problems.len() < MAX_PROBLEMS {
            let (file, line) = (self.file.clone(), self.line);
            self.report.problems.push(Problem { file, line, what: what.into() });
        } else {
            self.report.more += 1;
        }
    }

    fn check_file(&mut self, path: &Path, on_read: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.reject_torn();
        path.clone_into(&mut self.file);
        self.line = 0;
        let mut lines = Lines::open(path)?;
        let mut is_first = true;
        while let Some(line) = lines.next()? {
            self.line += 1;
            self.check_line(&line, is_first);
            on_read(line.length);
            is_first = false;
        }
        Ok(())
    }

    fn check_line(&mut self, line: &RawLine<'_>, is_first: bool) {
        let parsed = Line::split(line.bytes).filter(|_| line.whole);
        let value = parsed.and_then(|_| serde_json::from_slice::<Value>(line.bytes).ok());
        let stated = parsed.and_then(|parsed| parsed.stated());
        let seq = value.as_ref().and_then(|value| value.get("seq")).and_then(Value::as_u64);
        let (Some(parsed), Some(value), Some(stated), Some(seq)) = (parsed, value, stated, seq)
        else {
            let (torn, _) = self.torn.get_or_insert_with(|| (Vec::new(), self.line));
            if torn.len() < MAX_READ {
                torn.extend_from_slice(line.bytes);
                torn.push(b'\n');
            }
            return;
        };
        let event = value.get("event").and_then(Value::as_str).unwrap_or_default();
        if event == "open" {
            self.check_torn(&value);
        } else {
            self.reject_torn();
        }
        if is_first && !matches!(event, "open" | "continue") {
            self.add_problem(
                "the beginning of the file is missing: its first record is neither 'open' nor 'continue'",
            );
        }
        self.check_chain(parsed, &value, seq, &stated);
        if event == "checkpoint" {
            self.check_checkpoint(&value);
        } else {
            self.report.after_checkpoint += 1;
        }
        self.report.ended =
            event == "checkpoint" && value.get("end").and_then(Value::as_bool) == Some(true);
        if event == "gap" {
            self.report.lost += value.get("lost").and_then(Value::as_u64).unwrap_or_default();
        }
        if event == "open" && value.get("after").and_then(Value::as_str) == Some("crash") {
            self.report.crashes += 1;
        }
        self.report.records += 1;
        self.last_ms = value.get("time_ms").and_then(Value::as_u64).unwrap_or_default();
        let first = self.report.range.map_or(seq, |(first, _)| first);
        self.report.range = Some((first, seq));
        self.before = Some((seq, stated));
    }

    /// Checks that the record follows the one before. After a problem the record's own statement is believed, so that one
    /// change is one problem.
    fn check_chain(&mut self, line: Line<'_>, value: &Value, seq: u64, stated: &Hash) {
        let named = value.get("previous").and_then(Value::as_str);
        let named = named.and_then(|text| chain::unhex(text.as_bytes()));
        let previous = if let Some((before, hash)) = self.before {
            if seq != before.saturating_add(1) {
                let what = if seq <= before {
                    "records are repeated or out of order"
                } else {
                    "records are missing"
                };
                self.add_problem(format!("record {seq} follows record {before}: {what}"));
                if line.hash_after(&hash) != *stated {
                    return;
                }
            }
            hash
        } else {
            if seq != 1 && !self.trusted.partial {
                self.add_problem(format!(
                    "the audit log begins with record {seq}: older files are missing (--partial accepts that)"
                ));
            }
            // The first record of a file names the hash before it.
            let Some(hash) = named else {
                return self.add_problem(format!(
                    "record {seq} is the first here and does not name the record before it, so its hash cannot be checked"
                ));
            };
            hash
        };
        if named.is_some_and(|named| named != previous) {
            self.add_problem(format!(
                "record {seq} names another record before it than the one that is there"
            ));
        } else if line.hash_after(&previous) != *stated {
            self.add_problem(format!(
                "record {seq} or the one before it was changed: the hash does not fit"
            ));
        }
        for (hash, time_ms) in self.expected.remove(&seq).unwrap_or_default() {
            if hash != previous {
                self.add_problem(format!(
                    "the records before {seq} are not those that the given checkpoint of {} verifies",
                    time_text(time_ms)
                ));
            }
        }
    }

    fn check_checkpoint(&mut self, value: &Value) {
        let Ok(checkpoint) = Checkpoint::deserialize(value) else {
            return self.add_problem("the checkpoint is incomplete");
        };
        if self.trusted.keys.is_empty() {
            self.report.unverified += 1;
        } else if checkpoint.is_verified(&self.trusted.keys) {
            self.report.signed += 1;
            self.signed_ms = checkpoint.time_ms;
        } else if self.trusted.keys.iter().any(|key| key.id().to_string() == checkpoint.key) {
            return self.add_problem("the signature of the checkpoint is wrong: the records before it were changed and their hashes recomputed");
        } else {
            return self.add_problem(format!(
                "the checkpoint is signed by the key {}, which is not given",
                checkpoint.key.escape_debug()
            ));
        }
        self.report.after_checkpoint = 0;
    }

    /// Accepts the bytes before an `open` record if that record describes them. Anything else was added.
    fn check_torn(&mut self, open: &Value) {
        let said = open.get("torn").and_then(Value::as_str).map(str::to_owned);
        let found = self.torn.take();
        let print = found.as_ref().map(|(bytes, _)| {
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            Fingerprint::of_bytes(bytes).to_string()
        });
        if said == print {
            return;
        }
        let there = found.map_or(self.line, |(_, line)| line);
        let here = std::mem::replace(&mut self.line, there);
        self.add_problem(
            "this line is not a record, and not what the agent says a crash left here",
        );
        self.line = here;
    }

    /// Reports bytes that no `open` record describes.
    fn reject_torn(&mut self) {
        let Some((_, line)) = self.torn.take() else { return };
        let here = std::mem::replace(&mut self.line, line);
        self.add_problem("this line is not a record of the audit log: it was changed, added, or left incomplete by a crash");
        self.line = here;
    }

    fn finish(mut self) -> Report {
        self.reject_torn();
        if self.report.records == 0 && self.report.problems.is_empty() {
            self.add_problem("the files have no record");
        }
        let next = self.before.map_or(1, |(seq, _)| seq.saturating_add(1));
        let first = self.report.range.map_or(u64::MAX, |(first, _)| first);
        for (seq, expected) in std::mem::take(&mut self.expected) {
            for (_, time_ms) in expected.into_iter().filter(|_| seq >= first) {
                let at = time_text(time_ms);
                self.add_problem(if seq < next {
                    format!("the given checkpoint of {at} is record {seq}, which is missing")
                } else {
                    let last = next - 1;
                    format!("the end is cut off: the given checkpoint of {at} is record {seq}, the files end with record {last}")
                });
            }
        }
        self.check_unsigned_end();
        self.report
    }

    /// Reports records at the end that no checkpoint covers. A person who changes records without having the key must leave
    /// out every checkpoint from there on.
    fn check_unsigned_end(&mut self) {
        if self.trusted.keys.is_empty() {
            return;
        }
        let late = self.last_ms.saturating_sub(self.signed_ms);
        if self.report.signed == 0 {
            self.add_problem(
                "there is no checkpoint that a given key signed: nothing proves the records",
            );
        } else if self.report.after_checkpoint > MAX_RECORDS || late > MAX_CHECKPOINT_AGE_MS {
            let count = self.report.after_checkpoint;
            self.add_problem(format!(
                "no checkpoint follows the last {count} records, where the agent would have made one: nothing proves them"
            ));
        }
    }
}

/// A time as text.
fn time_text(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or_default());
    time.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests;
