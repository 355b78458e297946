//! `status`: one screen of the running agent, from its admin API.
//!
//! Rates are differences between two samples, so the command takes a second. Nothing here changes the agent.

use std::{
    io::{self, IsTerminal as _, Write, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;

use self::rates::Rates;
use super::{ConfigArg, agent::AdminClient, audit::is_broken_pipe, terminal::Progress};
use crate::{
    admin::{STATUS, status::StatusView},
    config::Config,
};

mod rates;
mod screen;

/// The time between the two samples of a screen.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two screens of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Moves the cursor to the top left and clears the screen (ECMA-48 CUP and ED).
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Shows the status again every 2 seconds, until interrupted
    #[arg(long)]
    watch: bool,
    /// Prints JSON: the status, and the rates between two samples; with --watch one object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    match run(args) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let agent = AdminClient::new(&args.config.config)?;
    let sockets = socket_names(args)?;
    let mut out = stdout().lock();
    let mut before: StatusView = agent.ask(Method::GET, STATUS, None)?;
    let progress = Progress::of_steps("measuring rates");
    std::thread::sleep(SAMPLE_INTERVAL);
    drop(progress);
    loop {
        match agent.ask::<StatusView>(Method::GET, STATUS, None) {
            Ok(now) => {
                let rates = Rates::between(&before, &now);
                print(args, &now, &rates, &sockets, &mut out)?;
                before = now;
            }
            Err(error) if !args.watch => return Err(error),
            // An agent that is being restarted answers again soon, so the watch goes on.
            Err(error) if args.json => {
                writeln!(out, "{}", serde_json::json!({ "error": format!("{error:#}") }))?;
            }
            Err(error) => {
                clear(args, &mut out)?;
                writeln!(out, "{error:#}")?;
            }
        }
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// The sockets of HAProxy as the configuration spells them. The agent knows them by their number only.
fn socket_names(args: &StatusArgs) -> anyhow::Result<Vec<String>> {
    let config = Config::load(&args.config.config).context("the names of HAProxy's sockets")?;
    let sockets = config.tunnels.iter().flat_map(|tunnels| &tunnels.sockets);
    Ok(sockets.map(ToString::to_string).collect())
}

fn print(
    args: &StatusArgs,
    status: &StatusView,
    rates: &Rates,
    sockets: &[String],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if args.json {
        let both = serde_json::json!({ "status": status, "rates": rates });
        if args.watch {
            writeln!(out, "{both}")?;
        } else {
            serde_json::to_writer_pretty(&mut *out, &both).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        return Ok(());
    }
    clear(args, out)?;
    screen::print(status, rates, sockets, out)?;
    Ok(())
}

/// Begins a new screen: on a terminal in place of the one before, in a pipe below it.
fn clear(args: &StatusArgs, out: &mut impl Write) -> io::Result<()> {
    match (args.watch, stdout().is_terminal()) {
        (true, true) => write!(out, "{CLEAR_SCREEN}"),
        (true, false) => writeln!(out),
        (false, _) => Ok(()),
    }
}
