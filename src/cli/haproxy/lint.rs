//! `haproxy lint`: finds dangerous mistakes in a configuration of HAProxy, alone or together with the agent's.

use std::{
    io::{Write as _, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::{
    authz::limits::Framing,
    cli::HaproxyLintArgs,
    config::Config,
    haproxy_config::{
        document::Source,
        lint::{self, Agent, Finding},
    },
};

pub(super) fn lint(args: &HaproxyLintArgs) -> anyhow::Result<ExitCode> {
    let agent = match &args.config {
        Some(path) => agent(&Config::load(path)?),
        None => Agent::default(),
    };
    let agent = Agent { release: args.haproxy_release, ..agent };
    let files = args.files.iter().map(|path| listed(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let files = files.concat();
    let sources = files.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let named = |name: &str| named_file(&files, args.root.as_deref(), name);
    let findings = lint::lint(&sources, &named, &agent);
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

/// The settings of the agent that HAProxy's configuration must fit.
pub(super) fn agent(config: &Config) -> Agent {
    let credentials = config.credentials.as_ref();
    let limits = &config.limits;
    Agent {
        response_timeout: config.agent.response_timeout,
        sign_in: config.sign_in.is_some(),
        header: credentials.and_then(|sources| Some(sources.header.as_ref()?.as_str().into())),
        cookie: credentials.is_some_and(|sources| sources.cookie.is_some()),
        query: credentials.is_some_and(|sources| sources.query.is_some()),
        policies: config.policies.is_some(),
        subprotocol: credentials.is_some_and(|sources| sources.subprotocol),
        frames: limits.framing == Framing::Workspace,
        backends: Some(limits.ranges.backends.clone()),
        room: Some(config.header_room()),
        release: None,
    }
}

/// The files that `haproxy -f` reads for a path: in a directory all files `*.cfg` that are not hidden, in the byte order
/// of their names.
fn listed(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let name = path.display();
    let cannot = || format!("cannot read the directory {name}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(cannot)? {
        let file = entry.with_context(cannot)?.path();
        let bytes = file.file_name().unwrap_or_default().as_encoded_bytes();
        if bytes.ends_with(b".cfg") && !bytes.starts_with(b".") && file.is_file() {
            files.push(file);
        }
    }
    anyhow::ensure!(!files.is_empty(), "{name} has no configuration: expected files called *.cfg");
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(files)
}

fn read(path: &Path) -> anyhow::Result<Source> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read {name}: expected a configuration of HAProxy"))?;
    Ok(Source::from_bytes(name, bytes))
}

/// The file that a configuration names. HAProxy resolves a relative path in the directory in which it was started, which
/// is usually that of the configuration. An absolute path is one of the machine on which HAProxy runs, whose files may be
/// below `root`; in a checkout such a file is often next to the configuration.
fn named_file(files: &[PathBuf], root: Option<&Path>, name: &str) -> Option<Source> {
    let path = Path::new(name);
    let directories = || files.iter().filter_map(|file| file.parent());
    let mut places = Vec::new();
    if let Ok(inside) = path.strip_prefix("/") {
        places.push(root.map_or_else(|| path.to_owned(), |root| root.join(inside)));
        let last = path.file_name().map(Path::new)?;
        places.extend(directories().map(|directory| directory.join(last)));
    } else {
        places.extend(directories().chain(root).chain([Path::new("")]).map(|d| d.join(path)));
    }
    places.iter().find_map(|path| read(path).ok())
}

/// Prints a finding with its reason and its fix.
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
