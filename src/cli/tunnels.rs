//! `tunnels`: who is connected to what; and what `run` needs to follow tunnels.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use reqwest::Method;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{CutArgs, TunnelsArgs, TunnelsCommand, agent::Agent, workspaces::columns};
use crate::{
    admin::TUNNELS,
    audit::Trail,
    config::Config,
    gate::{Gate, live::Live},
    tunnel::{
        Settings, Tunnels,
        cutter::Cutter,
        keep, sweep,
        view::{Selection, View, Views},
    },
};

/// How often a watch looks.
const EVERY: Duration = Duration::from_millis(500);

/// The table of tunnels with what the agent before this one left, where HAProxy can be reached.
pub(super) fn build(config: &Config, gate: &Gate, trail: &Arc<Trail>) -> Option<Arc<Tunnels>> {
    let Some(haproxy) = &config.haproxy else {
        warn!(
            "there is no [haproxy] in the configuration: WebSockets, streams and downloads that were allowed go on after access has ended"
        );
        return None;
    };
    let frontends = haproxy.frontends.clone();
    let settings = Settings { frontends, ..config.tunnels.settings.clone() };
    let tunnels = Tunnels::new(settings, haproxy.sockets.len(), Arc::clone(trail));
    let tunnels = tunnels.reusing(config.agent.reuse);
    let tunnels = Arc::new(match &config.tunnels.file {
        Some(path) => tunnels.with_journal(path),
        None => tunnels,
    });
    if let Some(path) = &config.tunnels.file
        && let Err(error) = keep::adopt(&tunnels, gate, path)
    {
        error!(%error, path = %path.display(), "the file of tunnels cannot be read: nobody knows the tunnels there are");
    }
    Some(tunnels)
}

/// Writes the requests of the last seconds for the agent after this one.
pub(super) fn hand_over(tunnels: &Tunnels, path: &Path) {
    if let Err(error) = keep::hand_over(tunnels, path) {
        error!(%error, path = %path.display(), "requests of the last seconds cannot be handed over: the agent after this one will not know those that last");
    }
}

/// Starts what follows tunnels and cuts them.
pub(super) fn spawn(
    config: &Config,
    live: &Arc<Live>,
    tunnels: &Arc<Tunnels>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    tasks.spawn(sweep::run(Arc::clone(tunnels), Arc::clone(live), stop.clone()));
    let sockets = config.haproxy.iter().flat_map(|haproxy| &haproxy.sockets);
    for (number, socket) in sockets.enumerate() {
        let live = Some(Arc::clone(live));
        let cutter = Cutter::new(socket.clone(), number, Arc::clone(tunnels), live);
        tasks.spawn(cutter.run(stop.clone()));
    }
    if let Some(path) = &config.tunnels.file {
        tasks.spawn(keep::run(Arc::clone(tunnels), path.clone(), stop.clone()));
    }
}

pub(super) fn tunnels(args: &TunnelsArgs) -> anyhow::Result<ExitCode> {
    let agent = Agent::of(&args.config.config)?;
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
        TunnelsCommand::Cut(CutArgs { user, workspace, id }) => {
            let (user, workspace, id) = (user.clone(), workspace.clone(), id.clone());
            let body = serde_json::to_vec(&Selection { user, workspace, id })?;
            let views = ask(&agent, Method::DELETE, Some(body))?;
            let count = views.cut.unwrap_or_default();
            if args.json {
                writeln!(out, "{}", serde_json::json!({ "cut": count }))?;
            } else {
                writeln!(out, "{count} {}", if count == 1 { "tunnel" } else { "tunnels" })?;
            }
            return Ok(if count == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(agent: &Agent, method: Method, body: Option<Vec<u8>>) -> anyhow::Result<Views> {
    let views: Views = agent.ask(method, TUNNELS, body)?;
    match views.error {
        Some(error) => bail!("{error}"),
        None => Ok(views),
    }
}

/// Prints what opens and closes until the reader goes away.
fn watch(agent: &Agent, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut known: BTreeMap<String, View> = BTreeMap::new();
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
        std::thread::sleep(EVERY);
    }
}

fn table(out: &mut impl Write, views: &Views) -> std::io::Result<()> {
    let head = ["USER", "WORKSPACE", "ENDPOINT", "SINCE", "RULE", "KIND", "CLIENT", "STATE", "ID"];
    let rows = views.tunnels.iter().map(cells);
    columns(out, std::iter::once(head.map(String::from)).chain(rows).collect())?;
    for problem in &views.problems {
        writeln!(out, "PROBLEM: {}", problem.escape_debug())?;
    }
    Ok(())
}

fn cells(view: &View) -> [String; 9] {
    // Names are other people's: in a terminal they must not be more than text.
    let or = |text: &Option<String>| {
        text.as_deref().map_or_else(|| "-".into(), |text| text.escape_debug().to_string())
    };
    let state = match &view.cutting {
        Some(cause) => format!("cutting: {cause}"),
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

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
