//! `sessions`: lists or ends the browser sessions of the running agent.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::bail;
use reqwest::Method;

use super::{SessionsArgs, SessionsCommand, agent::AdminClient};
use crate::admin::{SESSIONS, SessionSelection, SessionView, SessionViews};

pub(super) fn sessions(args: &SessionsArgs) -> anyhow::Result<ExitCode> {
    let agent = AdminClient::new(&args.config.config)?;
    let answer: SessionViews = match &args.command {
        SessionsCommand::List => agent.ask(Method::GET, SESSIONS, None)?,
        SessionsCommand::End { issuer, target } => {
            let which = SessionSelection {
                issuer: issuer.clone(),
                id: target.id.clone(),
                subject: target.subject.clone(),
                user: target.user.clone(),
            };
            agent.ask(Method::DELETE, SESSIONS, Some(serde_json::to_vec(&which)?))?
        }
    };
    if let Some(error) = answer.error {
        bail!("{error}");
    }
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &answer.sessions)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    for session in &answer.sessions {
        writeln!(out, "{}", line(session))?;
    }
    if let SessionsCommand::End { .. } = args.command {
        let count = answer.sessions.len();
        writeln!(out, "{count} {} ended", if count == 1 { "session" } else { "sessions" })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A session in one line. Its names come from providers and must not control the terminal.
fn line(session: &SessionView) -> String {
    let moment = |ms: u64| {
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms)
            .map_or_else(|_| ms.to_string(), |at| format!("{at:.0}"))
    };
    format!(
        "{}  {}  {} ({})  since {}  last {}  until {}  {}",
        session.id,
        session.issuer,
        session.user.escape_debug(),
        session.subject.escape_debug(),
        moment(session.began_ms),
        moment(session.last_ms),
        moment(session.end_ms),
        session.hosts.join(" "),
    )
}
