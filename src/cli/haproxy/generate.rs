//! `haproxy generate`: writes a configuration of HAProxy that fits the agent's, or compares it with files.

use std::{
    io::{Write as _, stderr, stdout},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use similar::TextDiff;

use crate::{
    cli::HaproxyGenerateArgs,
    config::Config,
    haproxy_config::{
        generate::{self, File, Version},
        known_bugs::Release,
    },
};

pub(super) fn generate(args: &HaproxyGenerateArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config.config)?;
    let version = match args.haproxy_version {
        Some(version) => version,
        None => installed_version()?,
    };
    let facts = config.haproxy_facts(version);
    if facts.agent.is_none() {
        writeln!(
            stderr(),
            "'listen' names no address that HAProxy can use, so the files name 127.0.0.1:9010: set IDENTITY_AGENT in \
             HAProxy's environment, for example IDENTITY_AGENT=unix@/run/identity-spoa.sock for the packaged socket unit"
        )?;
    }
    let files = if args.parts { generate::parts(&facts) } else { generate::generate(&facts) };
    match (&args.out, &args.check) {
        (Some(directory), _) => write(directory, &files),
        (None, Some(directory)) => check(directory, &files),
        (None, None) => {
            let mut out = stdout().lock();
            for File { path, text } in &files {
                write!(out, "##### {path}\n{text}\n")?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The version of HAProxy on this machine, which would refuse a configuration for a newer one. It is printed, since the
/// same command on another machine may write something else.
fn installed_version() -> anyhow::Result<Version> {
    let Ok(output) = Command::new("haproxy").arg("-v").output() else {
        return Ok(Version::V3_0);
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let version = Version::installed(&said)?;
    writeln!(
        stderr(),
        "for HAProxy {version}, as on this machine; choose another with --haproxy-version"
    )?;
    for bug in Release::said(&said).into_iter().flat_map(Release::known_bugs) {
        writeln!(
            stderr(),
            "the HAProxy of this machine has a known bug: {bug}: use another release, or add '{}' to the section 'global'",
            bug.workaround
        )?;
    }
    Ok(version)
}

/// Writes the files below a directory, which is created if it does not exist.
fn write(directory: &Path, files: &[File]) -> anyhow::Result<ExitCode> {
    for File { path, text } in files {
        let path = directory.join(path);
        let parent = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(stdout(), "{}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how the files differ from what would be written.
fn check(directory: &Path, files: &[File]) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    let mut differ = false;
    for File { path, text } in files {
        let path = directory.join(path);
        let there = match std::fs::read_to_string(&path) {
            Ok(there) => there,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        if there != *text {
            differ = true;
            let name = path.display().to_string();
            let diff = TextDiff::from_lines(there.as_str(), text.as_str());
            write!(out, "{}", diff.unified_diff().header(&name, "generated"))?;
        }
    }
    Ok(if differ { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
