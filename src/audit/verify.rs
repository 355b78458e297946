//! Proves that an audit log is whole, offline: nothing edited, removed, added, reordered or cut off.
//!
//! The chain shows every change inside; the signatures of checkpoints show a chain that was made anew; a
//! checkpoint that was kept elsewhere shows an end that was cut off.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    chain::{self, Hash, Line, MAX_LINE},
    key::PublicKey,
};
use crate::{fingerprint::Fingerprint, time::Timestamp};

/// A checkpoint is made after so many records or so long at the latest, whatever is configured.
pub const MAX_RECORDS: u64 = 100_000;
const MAX_MS: u64 = 3_600_000;
/// The most problems that are listed.
const MAX_PROBLEMS: usize = 50;
/// The most bytes of what is no record that are compared with what the agent said it found.
const MAX_TORN: usize = 1 << 20;

/// What is known from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// The keys whose checkpoints count; without any, signatures are not looked at.
    pub keys: Vec<PublicKey>,
    /// Checkpoints that were kept elsewhere.
    pub checkpoints: Vec<Checkpoint>,
    /// Whether older files may be missing.
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

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// The numbers of the first and last record.
    pub range: Option<(u64, u64)>,
    /// Records that are part of the chain.
    pub records: u64,
    /// Checkpoints whose signature was proved.
    pub signed: u64,
    /// Checkpoints whose signature nobody looked at, for want of a key.
    pub unproved: u64,
    /// Records after the last checkpoint.
    pub after_checkpoint: u64,
    /// Records that the agent says were lost.
    pub lost: u64,
    /// How often the agent ended without closing the audit log.
    pub crashes: u64,
    /// Whether the last record says that nothing is missing after it.
    pub ended: bool,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
    /// Problems beyond those that are listed.
    pub more: u64,
}

/// Something that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from one.
    pub line: u64,
    /// What, and what it means.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Checkpoint {
    /// Reads checkpoints from lines of an audit log; other records are passed over.
    ///
    /// # Errors
    /// The line that is no JSON.
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

    /// Whether one of the keys signed it.
    fn is_proved(&self, keys: &[PublicKey]) -> bool {
        let Some(previous) = self.previous() else { return false };
        let statement = chain::statement(self.seq, &previous, self.time_ms, self.end);
        let named = keys.iter().filter(|key| key.id().to_string() == self.key);
        named.into_iter().any(|key| key.proves(statement.as_bytes(), &self.signature))
    }
}

/// Reads files in the order of their records and tells what is wrong with them.
///
/// # Errors
/// A file cannot be read.
pub fn verify(files: &[PathBuf], trusted: &Trusted) -> io::Result<Report> {
    let mut ordered = Vec::new();
    for path in files {
        ordered.push((first_seq(path)?, path));
    }
    ordered.sort();
    let mut verifier = Verifier::new(trusted);
    for (_, path) in ordered {
        verifier.file(path)?;
    }
    Ok(verifier.end())
}

/// The number of the first record of a file; a file without one comes last.
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
    /// What the hash before a record must be, by the number of the record.
    expected: BTreeMap<u64, Vec<(Hash, u64)>>,
    report: Report,
    /// The record before: its number and hash.
    before: Option<(u64, Hash)>,
    /// Lines that are no records, until the agent says that it found them.
    torn: Option<(Vec<u8>, u64)>,
    /// The times of the last record and of the last proved checkpoint.
    last_ms: u64,
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
            let proved = trusted.keys.is_empty() || checkpoint.is_proved(&trusted.keys);
            match checkpoint.previous().filter(|_| proved) {
                Some(previous) => {
                    let expected = this.expected.entry(checkpoint.seq).or_default();
                    expected.push((previous, checkpoint.time_ms));
                }
                None => this.problem("the given checkpoint is not signed by a given key"),
            }
        }
        this
    }

    fn problem(&mut self, what: impl Into<String>) {
        if self.report.problems.len() < MAX_PROBLEMS {
            let (file, line) = (self.file.clone(), self.line);
            self.report.problems.push(Problem { file, line, what: what.into() });
        } else {
            self.report.more += 1;
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.settle_torn();
        path.clone_into(&mut self.file);
        self.line = 0;
        let mut lines = Lines::open(path)?;
        let mut is_first = true;
        while let Some(line) = lines.next()? {
            self.line += 1;
            self.one(&line, is_first);
            is_first = false;
        }
        Ok(())
    }

    fn one(&mut self, line: &RawLine<'_>, is_first: bool) {
        let parsed = Line::split(line.bytes).filter(|_| line.whole);
        let value = parsed.and_then(|_| serde_json::from_slice::<Value>(line.bytes).ok());
        let stated = parsed.and_then(|parsed| parsed.stated());
        let seq = value.as_ref().and_then(|value| value.get("seq")).and_then(Value::as_u64);
        let (Some(parsed), Some(value), Some(stated), Some(seq)) = (parsed, value, stated, seq)
        else {
            let (torn, _) = self.torn.get_or_insert_with(|| (Vec::new(), self.line));
            if torn.len() < MAX_TORN {
                torn.extend_from_slice(line.bytes);
                torn.push(b'\n');
            }
            return;
        };
        let event = value.get("event").and_then(Value::as_str).unwrap_or_default();
        if event == "open" {
            self.check_torn(&value);
        } else {
            self.settle_torn();
        }
        if is_first && !matches!(event, "open" | "continue") {
            self.problem(
                "the beginning of the file is missing: its first record is neither 'open' nor 'continue'",
            );
        }
        self.chained(parsed, &value, seq, &stated);
        if event == "checkpoint" {
            self.checkpoint(&value);
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

    /// Whether the record follows the one before. After a problem, the record's own word counts, so that
    /// one change is one problem.
    fn chained(&mut self, line: Line<'_>, value: &Value, seq: u64, stated: &Hash) {
        let named = value.get("previous").and_then(Value::as_str);
        let named = named.and_then(|text| chain::unhex(text.as_bytes()));
        let previous = if let Some((before, hash)) = self.before {
            if seq != before.saturating_add(1) {
                let what = if seq <= before {
                    "records are repeated or out of order"
                } else {
                    "records are missing"
                };
                self.problem(format!("record {seq} follows record {before}: {what}"));
                if line.hash_after(&hash) != *stated {
                    return;
                }
            }
            hash
        } else {
            if seq != 1 && !self.trusted.partial {
                self.problem(format!(
                    "the audit log begins with record {seq}: older files are missing (with --partial this is no problem)"
                ));
            }
            // The first record of a file names the hash before it.
            let Some(hash) = named else {
                return self.problem(format!(
                    "record {seq} is the first here and does not name the record before it, so its hash cannot be checked"
                ));
            };
            hash
        };
        if named.is_some_and(|named| named != previous) {
            self.problem(format!("record {seq} names another record before it than is there"));
        } else if line.hash_after(&previous) != *stated {
            self.problem(format!(
                "record {seq} or the one before it was changed: the hash does not fit"
            ));
        }
        for (hash, time_ms) in self.expected.remove(&seq).unwrap_or_default() {
            if hash != previous {
                self.problem(format!(
                    "the records before {seq} are not those that the given checkpoint of {} proves",
                    moment(time_ms)
                ));
            }
        }
    }

    fn checkpoint(&mut self, value: &Value) {
        let Ok(checkpoint) = Checkpoint::deserialize(value) else {
            return self.problem("the checkpoint has not the members of one");
        };
        if self.trusted.keys.is_empty() {
            self.report.unproved += 1;
        } else if checkpoint.is_proved(&self.trusted.keys) {
            self.report.signed += 1;
            self.signed_ms = checkpoint.time_ms;
        } else if self.trusted.keys.iter().any(|key| key.id().to_string() == checkpoint.key) {
            return self.problem("the signature of the checkpoint does not fit: the records before it were made anew");
        } else {
            return self.problem(format!(
                "the checkpoint is signed by the key {}, which is not given",
                checkpoint.key.escape_debug()
            ));
        }
        self.report.after_checkpoint = 0;
    }

    /// An `open` record says what it found after the last record; anything else there was added.
    fn check_torn(&mut self, open: &Value) {
        let said = open.get("torn").and_then(Value::as_str).map(str::to_owned);
        let found = self.torn.take();
        let print = found.as_ref().map(|(bytes, _)| {
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            Fingerprint::of(bytes).to_string()
        });
        if said == print {
            return;
        }
        let there = found.map_or(self.line, |(_, line)| line);
        let here = std::mem::replace(&mut self.line, there);
        self.problem("what is here is no record, and not what the agent says a crash left here");
        self.line = here;
    }

    fn settle_torn(&mut self) {
        let Some((_, line)) = self.torn.take() else { return };
        let here = std::mem::replace(&mut self.line, line);
        self.problem("this is no record of the audit log: changed, added, or torn by a crash");
        self.line = here;
    }

    fn end(mut self) -> Report {
        self.settle_torn();
        if self.report.records == 0 && self.report.problems.is_empty() {
            self.problem("there is no record");
        }
        let next = self.before.map_or(1, |(seq, _)| seq.saturating_add(1));
        let first = self.report.range.map_or(u64::MAX, |(first, _)| first);
        for (seq, expected) in std::mem::take(&mut self.expected) {
            for (_, time_ms) in expected.into_iter().filter(|_| seq >= first) {
                let at = moment(time_ms);
                self.problem(if seq < next {
                    format!("the given checkpoint of {at} is record {seq}, which is missing")
                } else {
                    let last = next - 1;
                    format!("the end is cut off: the given checkpoint of {at} is record {seq}, the files end with record {last}")
                });
            }
        }
        self.unproved_end();
        self.report
    }

    /// Who changes records without the key must leave out every checkpoint from there on.
    fn unproved_end(&mut self) {
        if self.trusted.keys.is_empty() {
            return;
        }
        let late = self.last_ms.saturating_sub(self.signed_ms);
        if self.report.signed == 0 {
            self.problem(
                "there is no checkpoint that a given key signed: nothing proves the records",
            );
        } else if self.report.after_checkpoint > MAX_RECORDS || late > MAX_MS {
            let count = self.report.after_checkpoint;
            self.problem(format!(
                "no checkpoint follows the last {count} records, where the agent would have made one: nothing proves them"
            ));
        }
    }
}

fn moment(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or_default());
    time.unwrap_or_default().to_string()
}

/// The present moment as records have it, for filters such as "since a week ago".
#[must_use]
pub fn now_ms() -> u64 {
    Timestamp::now().as_millis()
}

/// Lines of a file, of which no more than a record's length is kept.
pub(super) struct Lines {
    reader: io::BufReader<std::fs::File>,
    line: Vec<u8>,
}

pub(super) struct RawLine<'l> {
    pub(super) bytes: &'l [u8],
    /// Whether it ends, and is no longer than a record may be.
    pub(super) whole: bool,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
        })?;
        Ok(Self { reader: io::BufReader::with_capacity(1 << 18, file), line: Vec::new() })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        self.line.clear();
        let most = u64::try_from(MAX_TORN).unwrap_or(u64::MAX);
        let read = io::Read::take(&mut self.reader, most).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        let ends = self.line.pop_if(|last| *last == b'\n').is_some();
        let whole = ends && self.line.len() < MAX_LINE;
        Ok(Some(RawLine { bytes: &self.line, whole }))
    }
}

#[cfg(test)]
mod tests;
