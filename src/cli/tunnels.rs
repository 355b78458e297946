//! `tunnels`: lists, watches and terminates the live tunnels of the running agent, over its admin socket.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use reqwest::Method;

use super::{TerminateArgs, TunnelsArgs, TunnelsCommand, agent::AdminClient, terminal::columns};
use crate::{
    admin::TUNNELS,
    tunnels::view::{TunnelList, TunnelSelection, TunnelView},
};

/// The time between two requests of `watch` to the agent.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn tunnels(args: &TunnelsArgs) -> anyhow::Result<ExitCode> {
    let agent = AdminClient::new(&args.config.config)?;
    let mut out = stdout().lock();
    match args.command.as_ref().unwrap_or(&TunnelsCommand::List) {
        TunnelsCommand::List => {
            let views = ask(&agent, Method::GET, None)?;
            if args.json {
                serde_json::to_writer_pretty(&mut out, &views.tunnels)?;
                writeln!(out)?;
            } else {
                table(&mut out, &views)?;
            }
        }
        TunnelsCommand::Watch => watch(&agent, args.json, &mut out)?,
        TunnelsCommand::Terminate(TerminateArgs { user, workspace, id }) => {
            let (user, workspace, id) = (user.clone(), workspace.clone(), id.clone());
            let body = serde_json::to_vec(&TunnelSelection { user, workspace, id })?;
            let views = ask(&agent, Method::DELETE, Some(body))?;
            let count = views.terminating.unwrap_or_default();
            if args.json {
                writeln!(out, "{}", serde_json::json!({ "terminating": count }))?;
            } else {
                writeln!(out, "{count} {}", if count == 1 { "tunnel" } else { "tunnels" })?;
            }
            // A script must notice that nothing matched.
            return Ok(if count == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a request about tunnels to the agent.
fn ask(agent: &AdminClient, method: Method, body: Option<Vec<u8>>) -> anyhow::Result<TunnelList> {
    let views: TunnelList = agent.ask(method, TUNNELS, body)?;
    match views.error {
        Some(error) => bail!("{error}"),
        None => Ok(views),
    }
}

/// Prints each tunnel that opens or closes, until the reader of the output goes away.
fn watch(agent: &AdminClient, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut known: BTreeMap<String, TunnelView> = BTreeMap::new();
    loop {
        let views = ask(agent, Method::GET, None)?;
        let now: BTreeMap<_, _> =
            views.tunnels.into_iter().map(|view| (view.id.clone(), view)).collect();
        let opened = now.values().filter(|view| !known.contains_key(&view.id));
        let closed = known.values().filter(|view| !now.contains_key(&view.id));
        for (change, view) in opened.map(|v| ("opened", v)).chain(closed.map(|v| ("closed", v))) {
            if as_json {
                let line = serde_json::json!({ "change": change, "tunnel": view });
                writeln!(out, "{line}")?;
            } else {
                let sign = if change == "opened" { '+' } else { '-' };
                writeln!(out, "{sign} {}", cells(view).join("  "))?;
            }
        }
        out.flush()?;
        known = now;
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Prints all tunnels as a table, with the problems that the agent reports.
fn table(out: &mut impl Write, views: &TunnelList) -> std::io::Result<()> {
    let head = ["USER", "WORKSPACE", "ENDPOINT", "SINCE", "RULE", "KIND", "CLIENT", "STATE", "ID"];
    let rows = views.tunnels.iter().map(cells);
    let rows: Vec<_> = std::iter::once(head.map(String::from)).chain(rows).collect();
    // The id is what `terminate --id` takes.
    columns(out, &rows, &[8])?;
    for problem in &views.problems {
        writeln!(out, "PROBLEM: {}", problem.escape_debug())?;
    }
    Ok(())
}

/// The cells of one row, in the order of the head.
fn cells(view: &TunnelView) -> [String; 9] {
    // Names come from other people and must not contain control sequences for a terminal.
    let or = |text: &Option<String>| {
        text.as_deref().map_or_else(|| "-".into(), |text| text.escape_debug().to_string())
    };
    let state = match &view.terminating {
        Some(cause) => format!("terminating: {cause}"),
        None if view.found => "open".into(),
        None => "opening".into(),
    };
    [
        or(&view.user),
        or(&view.workspace),
        or(&view.endpoint),
        age(view.age_seconds),
        view.reason.clone(),
        view.kind.clone(),
        or(&view.client),
        state,
        view.id.clone(),
    ]
}

/// An age in the largest unit that leaves no zero.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
