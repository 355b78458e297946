//! `workspaces`: shows the workspaces and sources of the running agent, over its admin socket.

use std::{
    collections::BTreeMap,
    io::{self, Write, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use reqwest::Method;

use super::{WorkspacesArgs, WorkspacesCommand, agent::AdminClient, terminal::columns};
use crate::{
    admin::{SOURCES, SourceView, SourceViews, WORKSPACES, WorkspaceView, WorkspaceViews},
    workspaces::WorkspaceId,
};

/// The time between two requests of `watch` to the agent.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn workspaces(args: &WorkspacesArgs) -> anyhow::Result<ExitCode> {
    let agent = AdminClient::new(&args.config.config)?;
    let mut out = stdout().lock();
    match &args.command {
        WorkspacesCommand::List => {
            let views = ask(&agent, WORKSPACES)?;
            if args.json {
                json(&mut out, &views)?;
            } else {
                table(&mut out, &views)?;
            }
        }
        WorkspacesCommand::Show { id } => {
            let id: WorkspaceId = id.parse()?;
            let views = ask(&agent, &format!("{WORKSPACES}/{id}"))?;
            if args.json {
                json(&mut out, &views)?;
            } else {
                views.iter().try_for_each(|view| show(&mut out, view))?;
            }
        }
        WorkspacesCommand::Sources => {
            let sources: SourceViews = agent.ask(Method::GET, SOURCES, None)?;
            if args.json {
                json(&mut out, &sources.sources)?;
            } else {
                show_sources(&mut out, &sources.sources)?;
            }
        }
        WorkspacesCommand::Watch => watch(&agent, args.json, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent for workspaces.
fn ask(agent: &AdminClient, path: &str) -> anyhow::Result<Vec<WorkspaceView>> {
    let views: WorkspaceViews = agent.ask(Method::GET, path, None)?;
    match views.error {
        Some(error) => bail!("{error}"),
        None => Ok(views.workspaces),
    }
}

/// Prints each change of a workspace, until the reader of the output goes away.
fn watch(agent: &AdminClient, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut known: BTreeMap<(String, String), WorkspaceView> = BTreeMap::new();
    loop {
        let mut now = BTreeMap::new();
        for view in ask(agent, WORKSPACES)? {
            now.insert((view.source.clone(), view.id.clone()), view);
        }
        for (key, view) in &now {
            if known.get(key) != Some(view) {
                let sign = if known.contains_key(key) { '~' } else { '+' };
                change(out, sign, view, as_json)?;
            }
        }
        for (key, view) in &known {
            if !now.contains_key(key) {
                change(out, '-', view, as_json)?;
            }
        }
        out.flush()?;
        known = now;
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Prints one change: added (`+`), removed (`-`) or changed (`~`).
fn change(
    out: &mut impl Write,
    sign: char,
    view: &WorkspaceView,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        let change = match sign {
            '+' => "added",
            '-' => "removed",
            _ => "changed",
        };
        serde_json::to_writer(
            &mut *out,
            &serde_json::json!({ "change": change, "workspace": view }),
        )?;
        writeln!(out)?;
    } else {
        writeln!(out, "{sign} {}", cells(view).join("  "))?;
    }
    Ok(())
}

fn json(out: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// A name of a platform, without control sequences for a terminal.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}

/// The cells of one row of the list.
fn cells(view: &WorkspaceView) -> [String; 5] {
    let state = view.closed.as_ref().filter(|closed| *closed != "not_running");
    let phase = state.map_or_else(|| view.phase.clone(), |why| format!("{} ({why})", view.phase));
    let endpoints = view.endpoints.iter().map(|e| format!("{}={}", e.name, e.admission));
    let endpoints: Vec<_> = endpoints.collect();
    [
        plain(&view.id),
        phase,
        plain(&view.owner),
        plain(&view.source),
        if endpoints.is_empty() { "-".into() } else { plain(&endpoints.join(" ")) },
    ]
}

fn table(out: &mut impl Write, views: &[WorkspaceView]) -> io::Result<()> {
    let head = ["WORKSPACE", "PHASE", "OWNER", "SOURCE", "ENDPOINTS"].map(String::from);
    let rows: Vec<_> = std::iter::once(head).chain(views.iter().map(cells)).collect();
    columns(out, &rows, &[0])
}

/// Prints one workspace with its endpoints.
fn show(out: &mut impl Write, view: &WorkspaceView) -> io::Result<()> {
    let or = |text: &Option<String>| text.as_deref().map_or_else(|| "-".into(), plain);
    writeln!(out, "workspace     {}", plain(&view.id))?;
    writeln!(out, "source        {}", plain(&view.source))?;
    writeln!(out, "owner         {}", plain(&view.owner))?;
    writeln!(out, "organization  {}", or(&view.organization))?;
    writeln!(out, "phase         {}", view.phase)?;
    writeln!(out, "closed        {}", or(&view.closed))?;
    writeln!(out, "instance      {}", or(&view.instance))?;
    let rows = view.endpoints.iter().map(|endpoint| {
        [
            format!("endpoint      {}", plain(&endpoint.name)),
            endpoint.protocol.clone(),
            endpoint.admission.clone(),
            plain(&endpoint.destination),
        ]
    });
    columns(out, &rows.collect::<Vec<_>>(), &[])
}

fn show_sources(out: &mut impl Write, sources: &[SourceView]) -> io::Result<()> {
    let head = ["SOURCE", "HEALTH", "WORKSPACES", "UP", "AGE", "LAST ERROR"].map(String::from);
    let rows = sources.iter().map(|source| {
        let health = format!("{:?}", source.status.health).to_lowercase();
        [
            plain(&source.name),
            if source.status.unauthorized { format!("{health}, unauthorized") } else { health },
            source.workspaces.to_string(),
            source.routable.to_string(),
            source.age_seconds.map_or_else(|| "-".into(), |age| format!("{age} s")),
            source.status.last_error.as_deref().map_or_else(|| "-".into(), plain),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    columns(out, &rows, &[0])
}
