//! `audit export`: records or summaries as CSV or JSON lines.

use std::io::{self, BufWriter, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{FilterArgs, LogFiles, advance, text, time_text, warn_unreadable};
use crate::{
    audit::read::{Summaries, Summary, cell, select, summarize},
    cli::terminal::{Output, Progress},
};

#[derive(Debug, Args)]
pub(in super::super) struct ExportArgs {
    #[command(flatten)]
    audit_log: LogFiles,
    #[command(flatten)]
    filter: FilterArgs,
    /// The format of the output
    #[arg(long, default_value = "csv")]
    format: Format,
    /// Writes one line for each user and workspace instead of each record
    #[arg(long)]
    summary: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in super::super) enum Format {
    /// Comma-separated values. No cell is a formula
    Csv,
    /// One JSON object a line
    Jsonl,
}

/// The columns of an export. A member that a record does not have is an empty cell.
const COLUMNS: [&str; 34] = [
    "seq",
    "time",
    "event",
    "verdict",
    "reason",
    "user",
    "email",
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
/// The columns of a summary.
const SUMMARY_COLUMNS: [&str; 10] = [
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

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let (files, filter) = (args.audit_log.files()?, args.filter.filter()?);
    let mut out = BufWriter::new(io::stdout().lock());
    let csv = args.format == Format::Csv;
    if csv {
        let columns = if args.summary { &SUMMARY_COLUMNS[..] } else { &COLUMNS[..] };
        row(&mut out, columns.iter())?;
    }
    let mut summaries = Summaries::new();
    let output = if args.summary { Output::AtTheEnd } else { Output::Meanwhile };
    let progress = Progress::of_files("exporting", &files, output);
    let unreadable = select(&files, &filter, &mut advance(&progress), |record, line| {
        if args.summary {
            summarize(&mut summaries, record);
            Ok(())
        } else if csv {
            row(&mut out, COLUMNS.iter().map(|name| record_cell(record, name)))
        } else {
            out.write_all(line)?;
            out.write_all(b"\n")
        }
    })?;
    drop(progress);
    for summary in summaries.values() {
        if csv {
            row(&mut out, summary_cells(summary).iter())?;
        } else {
            serde_json::to_writer(&mut out, summary)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(warn_unreadable(unreadable)?)
}

fn record_cell(record: &Value, column: &str) -> String {
    match column {
        "time" => time_text(record.get("time_ms").and_then(Value::as_u64)),
        name => text(record, name),
    }
}

fn summary_cells(summary: &Summary) -> [String; SUMMARY_COLUMNS.len()] {
    let reasons = summary.reasons.iter().map(|(reason, count)| format!("{reason}:{count}"));
    [
        summary.issuer.clone(),
        summary.subject.clone(),
        summary.user.clone(),
        summary.workspace.clone(),
        summary.owner.clone(),
        summary.allowed.to_string(),
        summary.refused.to_string(),
        time_text(Some(summary.first_ms)),
        time_text(Some(summary.last_ms)),
        reasons.collect::<Vec<_>>().join(" "),
    ]
}

/// Writes a row of CSV (RFC 4180).
fn row(out: &mut impl Write, cells: impl Iterator<Item = impl AsRef<str>>) -> io::Result<()> {
    let cells: Vec<_> = cells.map(|text| cell(text.as_ref())).collect();
    write!(out, "{}\r\n", cells.join(","))
}
