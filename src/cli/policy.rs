//! `policy`: tests policies, prints their schema, and asks them about a recorded past.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use jiff::tz::TimeZone;

use super::audit::{FilterArgs, is_broken_pipe, time_text, warn_unreadable};
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
    /// Runs the cases beside policies: files that end in .test.yaml or .test.toml
    ///
    /// Exit status: 0 all come out as they say, 1 some do not, 2 wrong usage or policies.
    Test(TestArgs),
    /// Prints the schema: what policies can be about
    Schema,
    /// Shows which recorded decisions policies would have made differently, by user and workspace
    Replay(ReplayArgs),
}

/// Which policies are meant.
#[derive(Debug, Args)]
struct Which {
    /// The agent's configuration, whose table [policy] says where the policies are and what they may do
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the policies may do; as the configuration says, or narrow
    #[arg(long, value_enum)]
    mode: Option<ModeName>,
    /// Where they are told hours and weekdays; as the configuration says, or UTC
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The directory of the policies; those of the configuration unless given
    #[arg(value_name = "DIR", required_unless_present = "config")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A file of the audit log; several may be given
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit: Vec<PathBuf>,
    /// The directory of the policies; those that the configuration enforces unless given
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    filter: FilterArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// They only forbid what ownership allows
    Narrow,
    /// They may also permit what it refuses
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
        // Whoever reads has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

fn schema() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{SCHEMA}")?;
    Ok(ExitCode::SUCCESS)
}

/// A directory of policies and what they may do.
struct Place {
    directory: PathBuf,
    mode: policy::PolicyMode,
}

impl Which {
    /// The directories that are meant, `given` instead of those that are configured, and their zone.
    fn places(
        &self,
        given: Option<&Path>,
        config: Option<&Config>,
    ) -> anyhow::Result<(Vec<Place>, TimeZone)> {
        let about = config.and_then(|config| config.policies.as_ref());
        let zone = match (&self.time_zone, about) {
            (Some(name), _) => TimeZone::get(name)?,
            (None, Some(about)) => about.zone.clone(),
            (None, None) => TimeZone::UTC,
        };
        let given_mode = self.mode.map(policy::PolicyMode::from);
        let mode = |configured: policy::PolicyMode| given_mode.unwrap_or(configured);
        if let Some(directory) = given {
            // A copy of a configured directory is judged as that one is.
            let configured = about.map(|about| about.mode).unwrap_or_default();
            let directory = directory.to_owned();
            return Ok((vec![Place { directory, mode: mode(configured) }], zone));
        }
        let Some(about) = about else {
            bail!("the configuration has no table [policy]: name the directory of the policies");
        };
        let place = |directory: &PathBuf, configured| Place {
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
    let config = args.which.config()?;
    let (places, zone) = args.which.places(args.directory.as_deref(), config.as_ref())?;
    let mut out = io::stdout().lock();
    let mut all_well = true;
    for Place { directory, mode } in places {
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
            "{}: {policies} policies, {count} cases, {wrong} come out otherwise",
            directory.display()
        )?;
        all_well &= wrong == 0;
    }
    Ok(ExitCode::from(u8::from(!all_well)))
}

fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = args.which.config()?;
    let (places, zone) = args.which.places(args.policy.as_deref(), config.as_ref())?;
    let Some(Place { directory, mode }) = places.into_iter().next() else {
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
    let unreadable = select(&args.audit, &args.filter.filter()?, &mut |_| (), |record, _| {
        replay.record(record);
        Ok(())
    })?;
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
        let user = user.as_deref().unwrap_or("(nobody)").escape_debug();
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
    writeln!(out, "not asked    {}: ownership had no part in them", report.not_asked)?;
    write!(out, "cannot tell  {}", report.lacking)?;
    let lacks: Vec<_> =
        report.lacks.iter().map(|(what, count)| format!("{what} ({count})")).collect();
    if lacks.is_empty() {
        writeln!(out)
    } else {
        writeln!(out, ": their records lack {}", lacks.join(", "))
    }
}
