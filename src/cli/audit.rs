//! `audit`: proves, searches and exports what the agent recorded, from files alone.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::{
    audit::{
        PublicKey,
        read::{Filter, Summaries, cell, select, summarise},
        rotated,
        verify::{Checkpoint, Report, Trusted, verify},
    },
    config::Config,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Finds what was changed, removed, added, reordered or cut off
    ///
    /// Exit status: 0 whole, 1 something is wrong, 2 wrong usage.
    Verify(VerifyArgs),
    /// Shows records
    Query(QueryArgs),
    /// Writes records, or a summary of them, for auditors
    Export(ExportArgs),
    /// Prints the public key that proves checkpoints, as PEM
    PublicKey(KeyArgs),
}

#[derive(Debug, Args)]
pub(super) struct LogFiles {
    /// Files of the audit log, in any order
    files: Vec<PathBuf>,
    /// The agent's configuration: its audit file and what was rotated away from it
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    audit_log: LogFiles,
    /// A public key that checkpoints must be signed by; several when the key was replaced
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// Checkpoints that were kept elsewhere: lines of the audit log, others are passed over
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Older files were removed on purpose
    #[arg(long)]
    partial: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// The login name, e-mail address or subject
    #[arg(long)]
    user: Option<String>,
    /// The workspace's id
    #[arg(long, value_name = "ID")]
    workspace: Option<String>,
    /// From then on: RFC 3339, a date, or a time ago such as 36h or 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The reason of the decision
    #[arg(long)]
    reason: Option<String>,
    /// allow, sign_in, deny or unavailable
    #[arg(long)]
    verdict: Option<String>,
    /// An event, such as sign_in, revoke or key_set, instead of decisions
    #[arg(long)]
    event: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    audit_log: LogFiles,
    #[command(flatten)]
    filter: FilterArgs,
    /// The records themselves, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    audit_log: LogFiles,
    #[command(flatten)]
    filter: FilterArgs,
    /// How it is written
    #[arg(long, default_value = "csv")]
    format: Format,
    /// One line for each user and workspace instead of each record
    #[arg(long)]
    summary: bool,
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// The file of the key
    #[arg(required_unless_present = "config")]
    key: Option<PathBuf>,
    /// The agent's configuration
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Comma-separated values; nothing in them is a formula
    Csv,
    /// One JSON object a line
    Jsonl,
}

/// The columns of an export; what a record does not have is empty.
const COLUMNS: [&str; 33] = [
    "seq",
    "time",
    "event",
    "verdict",
    "reason",
    "user",
    "subject",
    "issuer",
    "workspace",
    "owner",
    "endpoint",
    "host",
    "method",
    "path",
    "client",
    "credential",
    "decision_id",
    "unique_id",
    "count",
    "from_ms",
    "until_ms",
    "latency_us",
    "cached",
    "token",
    "key_set",
    "config",
    "policy",
    "policy_id",
    "shadow",
    "uid",
    "note",
    "time_ms",
    "hash",
];
const SUMMARY: [&str; 10] = [
    "issuer",
    "subject",
    "user",
    "workspace",
    "owner",
    "allowed",
    "refused",
    "first",
    "last",
    "reasons",
];

pub(super) fn audit(command: &Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Verify(args) => return check(args),
        Command::Query(args) => query(args),
        Command::Export(args) => export(args),
        Command::PublicKey(args) => public_key(args),
    };
    match done {
        // Whoever reads has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

impl LogFiles {
    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let Some(config) = &self.config else {
            if self.files.is_empty() {
                bail!("expected the files of the audit log, or --config");
            }
            return Ok(self.files.clone());
        };
        let Some(file) = Config::load(config)?.audit.file else {
            bail!("[audit] has no 'file': name the files that hold the records");
        };
        let mut files = rotated(&file)?;
        files.push(file);
        Ok(files)
    }
}

fn check(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut trusted = Trusted { partial: args.partial, ..Trusted::default() };
    for path in &args.public_key {
        let key =
            PublicKey::read(path).with_context(|| format!("the public key {}", path.display()))?;
        trusted.keys.push(key);
    }
    for path in &args.checkpoint {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let found = Checkpoint::read_all(&text).map_err(|(line, error)| {
            anyhow::anyhow!("{}:{line}: not a line of an audit log: {error}", path.display())
        })?;
        if found.is_empty() {
            bail!("{}: there is no checkpoint in it", path.display());
        }
        trusted.checkpoints.extend(found);
    }
    let report = verify(&args.audit_log.files()?, &trusted)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&report))?;
    } else {
        tell(&report, trusted.keys.is_empty(), &mut out)?;
    }
    Ok(ExitCode::from(u8::from(!report.is_whole())))
}

fn as_json(report: &Report) -> Value {
    let problems = report
        .problems
        .iter()
        .map(|problem| json!({ "file": problem.file, "line": problem.line, "what": problem.what }));
    json!({
        "whole": report.is_whole(),
        "first": report.range.map(|(first, _)| first),
        "last": report.range.map(|(_, last)| last),
        "records": report.records,
        "signed_checkpoints": report.signed,
        "unproved_checkpoints": report.unproved,
        "after_last_checkpoint": report.after_checkpoint,
        "lost": report.lost,
        "crashes": report.crashes,
        "ended": report.ended,
        "problems": problems.collect::<Vec<_>>(),
        "more_problems": report.more,
    })
}

fn tell(report: &Report, no_key: bool, out: &mut impl Write) -> io::Result<()> {
    for problem in &report.problems {
        writeln!(out, "{problem}")?;
    }
    if report.more > 0 {
        writeln!(out, "and {} more", report.more)?;
    }
    let (first, last) = report.range.unwrap_or_default();
    writeln!(out, "records      {} ({first} to {last})", report.records)?;
    if no_key {
        let count = report.unproved;
        writeln!(out, "checkpoints  {count}, not proved: give --public-key")?;
    } else {
        writeln!(out, "checkpoints  {} signed by a given key", report.signed)?;
    }
    writeln!(out, "after them   {} records in the chain, not signed yet", report.after_checkpoint)?;
    writeln!(out, "lost         {} records, by the agent's own word", report.lost)?;
    let how = if report.ended {
        "closed"
    } else {
        "not closed: the agent runs, crashed, or the end is missing"
    };
    writeln!(out, "end          {how}; {} crashes before", report.crashes)?;
    writeln!(out, "{}", if report.is_whole() { "whole" } else { "NOT WHOLE" })
}

impl FilterArgs {
    pub(super) fn filter(&self) -> anyhow::Result<Filter> {
        let time = |text: &Option<String>, name: &str| {
            match text {
            Some(text) => read_time(text).map(Some).with_context(|| format!("--{name}: expected a time such as 2026-11-24T08:00:00Z, a date, or a time ago such as 36h or 7d; found {text:?}")),
            None => Ok(None),
        }
        };
        Ok(Filter {
            user: self.user.clone(),
            workspace: self.workspace.clone(),
            reason: self.reason.clone(),
            verdict: self.verdict.clone(),
            event: self.event.clone(),
            since_ms: time(&self.since, "since")?,
            until_ms: time(&self.until, "until")?,
        })
    }
}

/// Reads a time, a date or a span of time ago as milliseconds since the Unix epoch. Dates and days are those of UTC.
fn read_time(text: &str) -> Option<u64> {
    let utc = jiff::tz::TimeZone::UTC;
    let ago = text.parse::<jiff::Span>().ok().filter(|span| !span.is_negative());
    let time = match ago {
        Some(span) => jiff::Timestamp::now().to_zoned(utc).checked_sub(span).ok()?.timestamp(),
        None => match text.parse::<jiff::Timestamp>() {
            Ok(time) => time,
            // Only then a date: it would also be read from a time, without its offset.
            Err(_) => text.parse::<jiff::civil::Date>().ok()?.to_zoned(utc).ok()?.timestamp(),
        },
    };
    u64::try_from(time.as_millisecond()).ok()
}

pub(super) fn time_of(ms: Option<u64>) -> String {
    let time = ms.and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}

/// A member as text, whatever it is.
fn text(record: &Value, name: &str) -> String {
    match record.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Warns of lines that are no records.
pub(super) fn warn_of(unreadable: u64) -> io::Result<()> {
    if unreadable > 0 {
        writeln!(
            io::stderr(),
            "identity-spoa: {unreadable} lines are no records: 'audit verify' says why"
        )?;
    }
    Ok(())
}

fn query(args: &QueryArgs) -> anyhow::Result<()> {
    let (files, filter) = (args.audit_log.files()?, args.filter.filter()?);
    let mut out = BufWriter::new(io::stdout().lock());
    let unreadable = select(&files, &filter, |record, line| {
        if args.json {
            out.write_all(line)?;
            return out.write_all(b"\n");
        }
        let time = time_of(record.get("time_ms").and_then(Value::as_u64));
        // Names are foreign; in a terminal they must not be more than text.
        let word = |name: &str| match text(record, name) {
            text if text.is_empty() => "-".to_owned(),
            text => text.escape_debug().to_string(),
        };
        if record.get("verdict").is_some() {
            let count = record.get("count").and_then(Value::as_u64);
            let times = count.map(|count| format!(" ({count} times)")).unwrap_or_default();
            let (verdict, reason, user) = (word("verdict"), word("reason"), word("user"));
            let (workspace, endpoint) = (word("workspace"), word("endpoint"));
            let (method, host, path) = (word("method"), word("host"), word("path"));
            writeln!(
                out,
                "{time}  {verdict:<11} {reason}  {user}  {workspace} {endpoint}  {method} {host}{path}{times}  {}",
                word("decision_id")
            )
        } else {
            let skip = ["seq", "up_ms", "time_ms", "event", "hash", "signature", "previous"];
            let members = record.as_object().into_iter().flatten();
            let rest =
                members.filter(|(name, value)| !skip.contains(&name.as_str()) && !value.is_null());
            let rest: Vec<_> = rest.map(|(name, _)| format!("{name}={}", word(name))).collect();
            writeln!(out, "{time}  {:<11} {}", word("event"), rest.join(" "))
        }
    })?;
    out.flush()?;
    Ok(warn_of(unreadable)?)
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let (files, filter) = (args.audit_log.files()?, args.filter.filter()?);
    let mut out = BufWriter::new(io::stdout().lock());
    let csv = args.format == Format::Csv;
    if csv {
        row(&mut out, if args.summary { &SUMMARY[..] } else { &COLUMNS[..] }.iter())?;
    }
    let mut summaries = Summaries::new();
    let unreadable = select(&files, &filter, |record, line| {
        if args.summary {
            summarise(&mut summaries, record);
            Ok(())
        } else if csv {
            row(
                &mut out,
                COLUMNS.iter().map(|name| match *name {
                    "time" => time_of(record.get("time_ms").and_then(Value::as_u64)),
                    name => text(record, name),
                }),
            )
        } else {
            out.write_all(line)?;
            out.write_all(b"\n")
        }
    })?;
    for summary in summaries.values() {
        if csv {
            let reasons: Vec<_> =
                summary.reasons.iter().map(|(reason, count)| format!("{reason}:{count}")).collect();
            let cells = [
                summary.issuer.clone(),
                summary.subject.clone(),
                summary.user.clone(),
                summary.workspace.clone(),
                summary.owner.clone(),
                summary.allowed.to_string(),
                summary.refused.to_string(),
                time_of(Some(summary.first_ms)),
                time_of(Some(summary.last_ms)),
                reasons.join(" "),
            ];
            row(&mut out, cells.iter())?;
        } else {
            serde_json::to_writer(&mut out, summary)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(warn_of(unreadable)?)
}

fn row(out: &mut impl Write, cells: impl Iterator<Item = impl AsRef<str>>) -> io::Result<()> {
    let cells: Vec<_> = cells.map(|text| cell(text.as_ref())).collect();
    write!(out, "{}\r\n", cells.join(","))
}

fn public_key(args: &KeyArgs) -> anyhow::Result<()> {
    let path = match (&args.key, &args.config) {
        (Some(key), _) => key.clone(),
        (None, Some(config)) => match Config::load(config)?.audit.key {
            Some(key) => key,
            None => bail!("[audit] has no 'key_file'"),
        },
        (None, None) => bail!("expected the file of the key, or --config"),
    };
    let key = read_key(&path)?;
    let mut out = io::stdout().lock();
    write!(out, "{}", key.pem())?;
    writeln!(io::stderr(), "key {}", key.id())?;
    Ok(())
}

fn read_key(path: &Path) -> anyhow::Result<PublicKey> {
    PublicKey::read(path)
        .with_context(|| format!("the key {} (the agent makes it when it starts)", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_time_date_or_span() {
        let day = 86_400_000;
        assert_eq!(read_time("1970-01-02"), Some(day));
        assert_eq!(read_time("1970-01-02T02:00:00+02:00"), Some(day));
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
        for (text, ago) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("36h", 36 * 3_600_000),
            ("7d", 7 * day),
            ("1d12h", 36 * 3_600_000),
            ("1d 12h", 36 * 3_600_000),
            ("2w", 14 * day),
        ] {
            let read = read_time(text).unwrap();
            assert!((read + ago).abs_diff(now) < 60_000, "{text}");
        }
        for text in ["", "7", "d", "-7d", "7d ago", "7 moons", "yesterday", "-1"] {
            assert_eq!(read_time(text), None, "{text}");
        }
    }
}
