//! `haproxy lint`: dangerous mistakes in a configuration of HAProxy.

use std::{
    io::{Write as _, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::{
    cli::HaproxyLintArgs,
    config::Config,
    haproxy::{
        document::Source,
        lint::{self, Agent, Finding},
    },
};

pub(super) fn lint(args: &HaproxyLintArgs) -> anyhow::Result<ExitCode> {
    let agent = match &args.config {
        Some(path) => agent(&Config::load(path)?),
        None => Agent::default(),
    };
    let sources = args.files.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let findings = lint::lint(&sources, &|name| beside(&args.files, name), &agent);
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        for finding in &findings {
            show(&mut out, finding)?;
        }
        match findings.len() {
            0 => writeln!(out, "no mistakes found")?,
            1 => writeln!(out, "1 mistake")?,
            count => writeln!(out, "{count} mistakes")?,
        }
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What HAProxy's configuration must fit.
pub(super) fn agent(config: &Config) -> Agent {
    let credentials = config.credentials.as_ref();
    Agent {
        answer_within: config.agent.answer_within,
        sign_in: config.sign_in.is_some(),
        cookie: credentials.is_some_and(|sources| sources.cookie.is_some()),
        query: credentials.is_some_and(|sources| sources.query.is_some()),
        policies: config.policies.is_some(),
        subprotocol: credentials.is_some_and(|sources| sources.subprotocol),
    }
}

fn read(path: &Path) -> anyhow::Result<Source> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read {name}: expected a configuration of HAProxy, as text in UTF-8")
    })?;
    Ok(Source { name, text })
}

/// A file that a configuration names: HAProxy looks in the directory it was started in, which is mostly
/// that of the configuration.
fn beside(files: &[PathBuf], name: &str) -> Option<Source> {
    let directories = files.iter().filter_map(|file| file.parent()).chain([Path::new("")]);
    directories.map(|directory| directory.join(name)).find_map(|path| read(&path).ok())
}

fn show(out: &mut impl std::io::Write, finding: &Finding) -> std::io::Result<()> {
    let Finding { file, line, rule, what, why, fix } = finding;
    writeln!(out, "{file}:{line}: {}: {what}", rule.id())?;
    writeln!(out, "    why: {why}")?;
    let mut fix = fix.lines();
    writeln!(out, "    fix: {}", fix.next().unwrap_or_default())?;
    for more in fix {
        writeln!(out, "         {more}")?;
    }
    Ok(())
}
