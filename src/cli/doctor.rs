//! `doctor`: checks the agent's surroundings (providers, files, HAProxy, a token) and says what to change.
//!
//! Each part is examined by a module of its own, which returns findings; this one prints them. The command reads the
//! configuration and asks the providers and HAProxy itself: it works without a running agent and changes nothing. Texts of
//! strangers, such as a provider's document, are quoted before they reach the terminal.

use std::{
    io::{Write, stdout},
    path::Path,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context as _;

use super::{
    DoctorArgs,
    terminal::{Progress, Tone, paint},
};
use crate::{
    app::setup, config::Config, gate::Gate, identity::settings::IssuerSettings,
    sources::settings::SourceKind, time::Timestamp,
};

mod haproxy;
mod issuer;
mod token;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Ok,
    /// It works now, but not later or not for all people.
    Warn,
    /// It does not work.
    Fail,
}

/// One result of an examination: what was found, and what to change.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    text: String,
    advice: Option<String>,
}

impl Finding {
    fn ok(text: impl Into<String>) -> Self {
        Self { level: Level::Ok, text: text.into(), advice: None }
    }

    fn warn(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, text: text.into(), advice: Some(advice.into()) }
    }

    fn fail(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, text: text.into(), advice: Some(advice.into()) }
    }
}

pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config.config)?;
    let token = match &args.token_file {
        Some(path) => Some(zeroize::Zeroizing::new(
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        )),
        None => None,
    };
    let gate = setup::inspect(&config)?.gate;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = stdout().lock();
    let mut failed = false;
    for (provider, issuer) in gate.issuers.providers().iter().zip(&config.issuers) {
        let profile = provider.profile();
        writeln!(out, "issuer '{}' ({})", profile.authority.name, profile.issuer.as_str())?;
        let asking = Progress::of_steps("asking the issuer");
        let examined = runtime.block_on(provider.examine());
        drop(asking);
        let findings = issuer::judge(profile, issuer, &examined, SystemTime::now());
        failed |= show(&mut out, &findings)?;
    }
    writeln!(out, "files")?;
    failed |= show(&mut out, &files(&config))?;
    if let Some(tunnels) = &config.tunnels {
        writeln!(out, "haproxy")?;
        let asking = Progress::of_steps("asking HAProxy");
        let findings = runtime.block_on(haproxy::examine(&tunnels.sockets));
        drop(asking);
        failed |= show(&mut out, &findings)?;
    }
    if let Some(token) = token {
        writeln!(out, "token")?;
        let fetching = Progress::of_steps("fetching keys");
        let findings = examine_token(&gate, &config.issuers, &runtime, token.trim_ascii());
        drop(fetching);
        failed |= show(&mut out, &findings)?;
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn examine_token(
    gate: &Gate,
    issuers: &[IssuerSettings],
    runtime: &tokio::runtime::Runtime,
    token: &[u8],
) -> Vec<Finding> {
    for provider in gate.issuers.providers() {
        // An error is among the findings about the issuer already.
        let _ = runtime.block_on(provider.fetch());
    }
    token::judge(&gate.issuers, issuers, token, Timestamp::now())
}

/// Prints findings; returns whether one of them is a failure.
fn show(out: &mut impl Write, findings: &[Finding]) -> std::io::Result<bool> {
    for Finding { level, text, advice } in findings {
        let mark = match level {
            Level::Ok => paint(Tone::Good, "ok  "),
            Level::Warn => paint(Tone::Warning, "warn"),
            Level::Fail => paint(Tone::Bad, "FAIL"),
        };
        writeln!(out, "  {mark}  {text}")?;
        if let Some(advice) = advice {
            writeln!(out, "        -> {advice}")?;
        }
    }
    Ok(findings.iter().any(|finding| finding.level == Level::Fail))
}

/// Whether the directories of the files that the agent writes exist, and the lists that it reads.
fn files(config: &Config) -> Vec<Finding> {
    let sockets = config.agent.listen.iter().filter_map(|listen| match listen {
        crate::agent::Listen::Unix(path) => Some(("listen", path.as_path())),
        _ => None,
    });
    let keys = config.issuers.iter().filter_map(|issuer| issuer.key_cache_file.as_deref());
    let admin = config.admin.iter().flat_map(|admin| {
        [("admin.socket", admin.socket.as_path()), ("admin.revocations", &*admin.revocations)]
    });
    let mut findings: Vec<_> = sockets
        .chain(keys.map(|path| ("key_cache_file", path)))
        .chain(config.audit.file.as_deref().map(|path| ("audit.file", path)))
        .chain(admin)
        .map(|(key, path)| directory_of(key, path))
        .collect();
    for source in &config.sources.sources {
        match &source.kind {
            SourceKind::File(path) if path.is_file() => {
                findings.push(Finding::ok(format!("workspaces: {}", path.display())));
            }
            SourceKind::File(path) => findings.push(Finding::fail(
                format!("workspaces: there is no file {}", path.display()),
                "write it, or correct 'file' in [workspaces]; without it every request for its workspaces is refused",
            )),
            _ => {}
        }
    }
    findings
}

/// Whether the directory of a file exists.
fn directory_of(key: &str, path: &Path) -> Finding {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if directory.is_dir() {
        Finding::ok(format!("{key}: {}", path.display()))
    } else {
        let text = format!("{key}: there is no directory {}", directory.display());
        Finding::fail(text, "create it, writable for the user that runs the agent")
    }
}

/// A stranger's text, shortened and without control sequences for a terminal.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(120).collect();
    format!("\"{}\"", cut.escape_debug())
}
