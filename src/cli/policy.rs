//! `policy`: tests policies, prints their schema, and replays recorded decisions with them.
//!
//! No running agent takes part: policies are read from their directory, decisions from files of the audit log. A replay
//! tells which decisions would have been different; decisions that ownership had no part in are left out.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use jiff::tz::TimeZone;

use super::{
    audit::{FilterArgs, is_broken_pipe, time_text, warn_unreadable},
    terminal::{Output, Progress},
};
use crate::{
    audit::read::select,
    authz::policy::{
        self, PolicySet, SCHEMA,
        cases::PolicyCases,
        replay::{ChangedDecisions, Replay, ReplayReport},
    },
    config::Config,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the test cases of policies: files that end in .test.yaml or .test.toml
    ///
    /// Exit status: 0 all cases pass, 1 some fail, 2 wrong usage or policies.
    Test(TestArgs),
    /// Prints the schema of policies: the entities and attributes that they can use
    Schema,
    /// Shows which recorded decisions would be different with these policies, by user and workspace
    Replay(ReplayArgs),
}

/// The policies of a command, and how they are evaluated.
#[derive(Debug, Args)]
struct PolicyArgs {
    /// The configuration of the agent, whose table [policy] names the policies
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the policies may do; by default as in the configuration, or else narrow
    #[arg(long, value_enum)]
    mode: Option<ModeName>,
    /// The time zone of hours and weekdays; by default as in the configuration, or else UTC
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The directory of the policies; by default those of the configuration
    #[arg(value_name = "DIR", required_unless_present = "config")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    policies: PolicyArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The files of the audit log
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit: Vec<PathBuf>,
    /// The directory of the policies; by default those that the configuration enforces
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    policies: PolicyArgs,
    #[command(flatten)]
    filter: Box<FilterArgs>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Policies only forbid what ownership allows
    Narrow,
    /// Policies may also permit what ownership refuses
    Replace,
}

impl From<ModeName> for policy::PolicyMode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Narrow => Self::Narrow,
            ModeName::Replace => Self::Replace,
        }
    }
}

pub(super) fn policy(command: &Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Test(args) => test(args),
        Command::Schema => schema(),
        Command::Replay(args) => replay(args),
    };
    match done {
        // The reader of the output has closed it, for example `head`.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

fn schema() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{SCHEMA}")?;
    Ok(ExitCode::SUCCESS)
}

/// A directory of policies and what they may do.
struct PolicyDirectory {
    directory: PathBuf,
    mode: policy::PolicyMode,
}

impl PolicyArgs {
    /// The directories of the policies, and their time zone. `given` replaces the configured directories.
    fn directories(
        &self,
        given: Option<&Path>,
        config: Option<&Config>,
    ) -> anyhow::Result<(Vec<PolicyDirectory>, TimeZone)> {
        let about = config.and_then(|config| config.policies.as_ref());
        let zone = match (&self.time_zone, about) {
            (Some(name), _) => TimeZone::get(name)?,
            (None, Some(about)) => about.zone.clone(),
            (None, None) => TimeZone::UTC,
        };
        let given_mode = self.mode.map(policy::PolicyMode::from);
        let mode = |configured: policy::PolicyMode| given_mode.unwrap_or(configured);
        if let Some(directory) = given {
            // A directory that is named is often a copy of the configured one, so it gets the same mode.
            let configured = about.map(|about| about.mode).unwrap_or_default();
            let directory = directory.to_owned();
            return Ok((vec![PolicyDirectory { directory, mode: mode(configured) }], zone));
        }
        let Some(about) = about else {
            bail!("the configuration has no table [policy]: name the directory of the policies");
        };
        let place = |directory: &PathBuf, configured| PolicyDirectory {
            directory: directory.clone(),
            mode: mode(configured),
        };
        let enforced = about.directory.as_ref().map(|path| place(path, about.mode));
        let shadow = about.shadow.as_ref().map(|path| place(path, about.shadow_mode));
        Ok((enforced.into_iter().chain(shadow).collect(), zone))
    }

    fn config(&self) -> anyhow::Result<Option<Config>> {
        Ok(self.config.as_deref().map(Config::load).transpose()?)
    }
}

fn test(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let config = args.policies.config()?;
    let (places, zone) = args.policies.directories(args.directory.as_deref(), config.as_ref())?;
    let mut out = io::stdout().lock();
    let mut all_well = true;
    for PolicyDirectory { directory, mode } in places {
        let set = PolicySet::load(&directory, mode, zone.clone())?;
        let cases = PolicyCases::load(&directory)?;
        if cases.is_empty() {
            bail!(
                "{}: there are no cases: expected files that end in .test.yaml or .test.toml",
                directory.display()
            );
        }
        let report = cases.run(&set);
        for failure in &report.failures {
            writeln!(out, "{failure}")?;
        }
        if !report.untested.is_empty() {
            let ids = report.untested.join(", ");
            writeln!(out, "{}: no case is decided by {ids}", directory.display())?;
        }
        let (count, wrong) = (report.cases, report.failures.len());
        let policies = set.len();
        writeln!(
            out,
            "{}: {policies} policies, {count} cases, {wrong} failed",
            directory.display()
        )?;
        all_well &= wrong == 0;
    }
    Ok(ExitCode::from(u8::from(!all_well)))
}

fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = args.policies.config()?;
    let (places, zone) = args.policies.directories(args.policy.as_deref(), config.as_ref())?;
    let Some(PolicyDirectory { directory, mode }) = places.into_iter().next() else {
        bail!("no policies: name their directory");
    };
    let set = PolicySet::load(&directory, mode, zone)?;
    let mut issuers = BTreeMap::new();
    for issuer in config.iter().flat_map(|config| &config.issuers) {
        for accepted in &issuer.profile.accepted {
            issuers.insert(accepted.iss.to_string(), issuer.profile.authority.name.to_string());
        }
    }
    let mut replay = Replay::new(&set, issuers);
    let filter = args.filter.filter()?;
    let progress = Progress::of_files("replaying", &args.audit, Output::AtTheEnd);
    let mut on_read = |bytes| progress.advance(bytes);
    let unreadable = select(&args.audit, &filter, &mut on_read, |record, _| {
        replay.record(record);
        Ok(())
    })?;
    drop(progress);
    let report = replay.finish();
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        tell(&report, &mut out)?;
    }
    out.flush()?;
    warn_unreadable(unreadable)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    for change in &report.changes {
        let ChangedDecisions { user, workspace, was, would_be, allowed, policy, count, .. } =
            change;
        let user = user.as_deref().unwrap_or("(no identity)").escape_debug();
        let workspace = workspace.escape_debug();
        let (before, after) =
            if *allowed { ("refused", "allowed") } else { ("allowed", "refused") };
        let by = policy.as_ref().map(|id| format!(" by {id}")).unwrap_or_default();
        let (first, last) = (time_text(Some(change.first_ms)), time_text(Some(change.last_ms)));
        writeln!(
            out,
            "{user}  {workspace}  {before} ({was}) -> {after} ({would_be}{by})  {count} times, {first} to {last}"
        )?;
    }
    writeln!(out, "decisions    {}", report.decisions)?;
    writeln!(out, "different    {}", report.different)?;
    writeln!(out, "the same     {}", report.same)?;
    writeln!(out, "left out     {}: ownership has no part in them", report.not_asked)?;
    write!(out, "cannot tell  {}", report.lacking)?;
    let lacks: Vec<_> =
        report.lacks.iter().map(|(what, count)| format!("{what} ({count})")).collect();
    if lacks.is_empty() {
        writeln!(out)
    } else {
        writeln!(out, ": their records lack {}", lacks.join(", "))
    }
}
