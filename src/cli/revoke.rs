//! `revoke` and `revocations`: revokes access at the running agent, lifts revocations, and lists them.

use std::{io::Write as _, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use reqwest::Method;

use super::{ListArgs, RevokeArgs, agent::AdminClient};
use crate::{
    admin::{REVOCATIONS, RevocationViews},
    identity::revocation::Revocation,
    time::Timestamp,
};

pub(super) fn revoke(args: &RevokeArgs) -> anyhow::Result<ExitCode> {
    let before_ms = match args.before.as_deref() {
        None => None,
        Some("now") => Some(Timestamp::now().as_millis()),
        Some(text) => Some(seconds(text)?.saturating_mul(1000)),
    };
    let text = |text: &Option<String>| text.as_deref().map(Box::from);
    let revocation = Revocation {
        issuer: args.issuer.as_deref().unwrap_or_default().into(),
        subject: text(&args.target.subject),
        before_ms,
        session: text(&args.target.session),
        token: text(&args.target.token),
        at_ms: None,
        note: text(&args.note),
    };
    let method = if args.lift { Method::DELETE } else { Method::POST };
    let body = serde_json::to_vec(&revocation)?;
    let answer = ask(&args.config.config, method, Some(body))?;
    let done = if args.lift { "lifted" } else { "revoked" };
    let mut out = std::io::stdout().lock();
    for revocation in &answer.revocations {
        writeln!(out, "{done}: {}", describe(revocation))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(&args.config.config, Method::GET, None)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &answer.revocations)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    for revocation in &answer.revocations {
        writeln!(out, "{}", describe(revocation))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A revocation in one line. Its texts come from tokens and other people, and must not control the terminal.
fn describe(revocation: &Revocation) -> String {
    let named = |name: &str, value: &Option<Box<str>>| {
        value.as_ref().map(|value| format!(" {name} {}", value.escape_debug()))
    };
    let parts = [
        Some(format!("{}:", revocation.issuer)),
        named("subject", &revocation.subject),
        named("session", &revocation.session),
        named("token", &revocation.token),
        revocation.before_ms.map(|ms| format!(", issued before {}.{:03}", ms / 1000, ms % 1000)),
        revocation.at_ms.map(|ms| format!(", revoked at {}", ms / 1000)),
        revocation.note.as_ref().map(|note| format!(" ({})", note.escape_debug())),
    ];
    parts.into_iter().flatten().collect()
}

/// Seconds since the Unix epoch, as in a token's `iat`.
fn seconds(text: &str) -> anyhow::Result<u64> {
    text.parse().with_context(|| {
        format!("--before: expected \"now\" or seconds since 1970 as in 'iat', found {text:?}")
    })
}

/// Sends a request to the agent; an error in its answer is the error of the command.
fn ask(config: &Path, method: Method, body: Option<Vec<u8>>) -> anyhow::Result<RevocationViews> {
    let answer: RevocationViews = AdminClient::new(config)?.ask(method, REVOCATIONS, body)?;
    match answer.error {
        Some(error) => bail!("{error}"),
        None => Ok(answer),
    }
}
