//! `audit`: verifies, searches and exports audit logs, from their files alone.
//!
//! The running agent is not asked, so that an auditor can use the commands on another machine. Names in records were chosen
//! by clients and platforms: what is printed for people is escaped, so that it cannot control a terminal, and what is exported
//! for spreadsheets is never a formula.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::terminal::{Output, Progress};
use crate::{
    audit::{
        PublicKey,
        read::{Filter, select},
        rotated,
    },
    config::Config,
};

mod export;
mod verify;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Checks that no record was changed, removed, added, reordered or cut off
    ///
    /// Exit status: 0 whole, 1 a problem was found, 2 wrong usage.
    Verify(verify::VerifyArgs),
    /// Prints records: decisions and events
    Query(QueryArgs),
    /// Writes records, or a summary of them, for auditors
    Export(export::ExportArgs),
    /// Prints the public key that verifies checkpoints, as PEM
    PublicKey(KeyArgs),
}

#[derive(Debug, Args)]
pub(super) struct LogFiles {
    /// The files of the audit log, in any order
    files: Vec<PathBuf>,
    /// The agent's configuration: reads its audit file and the rotated ones
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// A user, by login name, e-mail address or subject
    #[arg(long)]
    user: Option<String>,
    /// A decision, by the id that denied pages and HAProxy's log show; also finds its tunnel and its reuse
    #[arg(long, value_name = "ID")]
    decision: Option<String>,
    /// A workspace, by its id
    #[arg(long, value_name = "ID")]
    workspace: Option<String>,
    /// The earliest time: RFC 3339, a date (its beginning in UTC), or a time ago such as 36h or 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The end, which is excluded: RFC 3339, a date (its beginning in UTC), or a time ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Decisions with this reason
    #[arg(long)]
    reason: Option<String>,
    /// Decisions with this verdict: allow, sign_in, deny or unavailable
    #[arg(long)]
    verdict: Option<String>,
    /// Events of this kind, such as sign_in, revoke or key_set, instead of decisions
    #[arg(long)]
    event: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    audit_log: LogFiles,
    #[command(flatten)]
    filter: FilterArgs,
    /// Prints the records as they are, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// The file of the private key
    #[arg(required_unless_present = "config")]
    key: Option<PathBuf>,
    /// The agent's configuration, which names the key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    config: Option<PathBuf>,
}

pub(super) fn audit(command: &Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Verify(args) => return verify::verify(args),
        Command::Query(args) => query(args),
        Command::Export(args) => export::export(args),
        Command::PublicKey(args) => public_key(args),
    };
    match done {
        // The reader of the pipe, such as `head`, has all it wants.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Whether a command failed only because the reader of its output closed the pipe.
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

impl FilterArgs {
    /// The filter, with times as milliseconds.
    pub(super) fn filter(&self) -> anyhow::Result<Filter> {
        let time = |text: &Option<String>, name: &str| {
            match text {
            Some(text) => read_time(text).map(Some).with_context(|| format!("--{name}: expected a time such as 2026-11-24T08:00:00Z, a date, or a time ago such as 36h or 7d; found {text:?}")),
            None => Ok(None),
        }
        };
        Ok(Filter {
            user: self.user.clone(),
            decision: self.decision.clone(),
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

/// A time as RFC 3339 in UTC, or nothing.
pub(super) fn time_text(ms: Option<u64>) -> String {
    let time = ms.and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}

/// A member of a record as text; empty if it is missing or null.
fn text(record: &Value, name: &str) -> String {
    match record.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Shows bytes that were read as progress.
fn advance(progress: &Progress) -> impl FnMut(u64) {
    move |bytes| progress.advance(bytes)
}

/// Warns on standard error of lines that are not records.
pub(super) fn warn_unreadable(count: u64) -> io::Result<()> {
    if count > 0 {
        writeln!(
            io::stderr(),
            "identity-spoa: {count} lines are not records: 'identity-spoa audit verify' says why"
        )?;
    }
    Ok(())
}

fn query(args: &QueryArgs) -> anyhow::Result<()> {
    let (files, filter) = (args.audit_log.files()?, args.filter.filter()?);
    let mut out = BufWriter::new(io::stdout().lock());
    let progress = Progress::of_files("searching", &files, Output::Meanwhile);
    let unreadable = select(&files, &filter, &mut advance(&progress), |record, line| {
        if args.json {
            out.write_all(line)?;
            return out.write_all(b"\n");
        }
        print_record(record, &mut out)
    })?;
    drop(progress);
    out.flush()?;
    Ok(warn_unreadable(unreadable)?)
}

/// Prints a record as one line for people.
fn print_record(record: &Value, out: &mut impl Write) -> io::Result<()> {
    let time = time_text(record.get("time_ms").and_then(Value::as_u64));
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
        return writeln!(
            out,
            "{time}  {verdict:<11} {reason}  {user}  {workspace} {endpoint}  {method} {host}{path}{times}  {}",
            word("decision_id")
        );
    }
    // Events differ in their members, so all are printed but those that only verification needs.
    let skip = ["seq", "up_ms", "time_ms", "event", "hash", "signature", "previous"];
    let members = record.as_object().into_iter().flatten();
    let rest = members.filter(|(name, value)| !skip.contains(&name.as_str()) && !value.is_null());
    let rest: Vec<_> = rest.map(|(name, _)| format!("{name}={}", word(name))).collect();
    writeln!(out, "{time}  {:<11} {}", word("event"), rest.join(" "))
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
    // Checkpoints name their key by this id.
    writeln!(io::stderr(), "key {}", key.id())?;
    Ok(())
}

fn read_key(path: &Path) -> anyhow::Result<PublicKey> {
    PublicKey::read(path).with_context(|| {
        format!("the key {} (the agent creates it at its first start)", path.display())
    })
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
