//! `audit verify`: says whether an audit log is whole.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{LogFiles, advance};
use crate::{
    audit::{
        PublicKey,
        verify::{self, Checkpoint, Report, Trusted},
    },
    cli::terminal::{Output, Progress},
};

#[derive(Debug, Args)]
pub(in super::super) struct VerifyArgs {
    #[command(flatten)]
    audit_log: LogFiles,
    /// A public key that checkpoints must be signed with; several if the key was replaced
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// A file with checkpoints that were stored elsewhere: lines of the audit log; other lines are ignored
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Accepts that the oldest files are missing
    #[arg(long)]
    partial: bool,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let trusted = trusted(args)?;
    let files = args.audit_log.files()?;
    let progress = Progress::of_files("verifying", &files, Output::AtTheEnd);
    let report = verify::verify(&files, &trusted, &mut advance(&progress))?;
    drop(progress);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&report))?;
    } else {
        print(&report, &trusted, &mut out)?;
    }
    Ok(ExitCode::from(u8::from(!report.is_whole())))
}

/// Reads the keys and checkpoints of the command line.
fn trusted(args: &VerifyArgs) -> anyhow::Result<Trusted> {
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
        // A file without one would prove nothing, and the person who names it would not notice.
        if found.is_empty() {
            bail!("{}: there is no checkpoint in it", path.display());
        }
        trusted.checkpoints.extend(found);
    }
    Ok(trusted)
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
        "unverified_checkpoints": report.unverified,
        "after_last_checkpoint": report.after_checkpoint,
        "lost": report.lost,
        "crashes": report.crashes,
        "ended": report.ended,
        "problems": problems.collect::<Vec<_>>(),
        "more_problems": report.more,
    })
}

fn print(report: &Report, trusted: &Trusted, out: &mut impl Write) -> io::Result<()> {
    for problem in &report.problems {
        writeln!(out, "{problem}")?;
    }
    if report.more > 0 {
        writeln!(out, "and {} more", report.more)?;
    }
    let (first, last) = report.range.unwrap_or_default();
    writeln!(out, "records      {} ({first} to {last})", report.records)?;
    if trusted.keys.is_empty() {
        let count = report.unverified;
        writeln!(out, "checkpoints  {count}, signatures not checked: give --public-key")?;
    } else {
        writeln!(out, "checkpoints  {} signed by a given key", report.signed)?;
    }
    writeln!(
        out,
        "after them   {} records, which no signature covers yet",
        report.after_checkpoint
    )?;
    writeln!(out, "lost         {} records, as the agent recorded", report.lost)?;
    let how = if report.ended {
        "closed"
    } else {
        "not closed: the agent runs, crashed, or the end is missing"
    };
    writeln!(out, "end          {how}; {} crashes before", report.crashes)?;
    writeln!(out, "{}", if report.is_whole() { "whole" } else { "NOT WHOLE" })
}
