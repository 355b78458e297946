//! `check`: reports every mistake in a configuration before an agent runs with it.
//!
//! It reads every file that the configuration names, and builds what the agent would build, without opening the files and
//! stores of a running agent and without asking any platform. Mistakes have file and line, and all of them are reported at
//! once; settings that are permitted and probably wrong are warnings.

use std::{
    io::{Write as _, stderr, stdout},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Context as _;

use super::{CheckArgs, USAGE};
use crate::{
    app::setup::{self, Built},
    config::{Config, inputs::Inputs},
    diagnostics::Mistakes,
    workspaces::registry::LookupResult,
};

pub(super) fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let path = &args.config.config;
    let mut config = match Config::load(path) {
        Ok(config) => config,
        Err(mistakes) => return report(&mistakes),
    };
    let Inputs { mut mistakes, warnings: unread } = config.inputs();
    mistakes.extend(config.sources.check_lists());
    if let Err(found) = setup::load_policies(&config) {
        mistakes.extend(found);
    }
    if !mistakes.as_slice().is_empty() {
        return report(&mistakes);
    }
    // No opaque token is asked about here, and the secret for that may be there only while the agent's service runs.
    for issuer in &mut config.issuers {
        issuer.introspection = None;
    }
    let Built { gate, feeds, .. } = match setup::inspect(&config) {
        Ok(built) => built,
        Err(error) => return report(&Mistakes::whole(&config.file, format!("{error:#}"))),
    };
    let mut warnings = config.warnings();
    warnings.extend(unread);
    if let Some(mut feeds) = feeds {
        if let Err(mistakes) = feeds.check_files() {
            return report(&mistakes);
        }
        let snapshot = gate.registry.snapshot();
        warnings.extend(config.missing_workspaces(|source, id| {
            matches!(snapshot.find(source, id), LookupResult::Unknown)
        }));
        warnings.extend(feeds.review_files(&config.known_issuers()));
    }
    let count = gate.registry.snapshot().len();
    writeln!(
        stdout(),
        "{}: good (issuers: {}, host patterns: {}, workspaces: {count})",
        path.display(),
        config.issuers.len(),
        config.hosts.len(),
    )?;
    for warning in warnings {
        writeln!(stderr(), "{}", warning.as_warning())?;
    }
    match &args.haproxy {
        Some(directory) => check_haproxy(directory),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Prints mistakes and their number.
fn report(mistakes: &Mistakes) -> anyhow::Result<ExitCode> {
    writeln!(stderr(), "{mistakes}")?;
    let count = mistakes.as_slice().len();
    writeln!(stderr(), "{count} {}", if count == 1 { "mistake" } else { "mistakes" })?;
    Ok(ExitCode::from(USAGE))
}

/// Runs `haproxy -c` in the directory, as the configuration names its SPOE file relative to it.
fn check_haproxy(directory: &Path) -> anyhow::Result<ExitCode> {
    let status = Command::new("haproxy")
        .args(["-c", "-f", "haproxy.cfg"])
        .current_dir(directory)
        .status()
        .with_context(|| {
            format!(
                "cannot run 'haproxy -c' in {}: is haproxy installed, and does the directory exist?",
                directory.display()
            )
        })?;
    if status.success() {
        writeln!(stdout(), "{}/haproxy.cfg: good", directory.display())?;
        Ok(ExitCode::SUCCESS)
    } else {
        writeln!(stderr(), "{}/haproxy.cfg: refused by haproxy, see above", directory.display())?;
        Ok(ExitCode::from(USAGE))
    }
}
