//! The command line: what was typed, and the commands.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

mod agent;
mod audit;
mod check;
mod doctor;
mod explain;
mod feeds;
mod revoke;
mod run;
mod secrets;
mod setup;
mod workspaces;

/// Decides for HAProxy who may reach which workspace.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves HAProxy until SIGTERM or SIGINT
    Run(ConfigArg),
    /// Reads the configuration and the workspaces and reports every mistake
    Check(CheckArgs),
    /// Decides about one request as the running agent would, and shows each stage
    ///
    /// Exit status: 0 allowed, 1 refused, 2 wrong usage or configuration.
    Explain(ExplainArgs),
    /// Looks for what is wrong with each provider, the files and a token, and says what to change
    ///
    /// Exit status: 0 all well, 1 something fails, 2 wrong usage or configuration.
    Doctor(DoctorArgs),
    /// Refuses a subject, a session or a token from now on, through the running agent
    Revoke(RevokeArgs),
    /// Lists what is revoked
    Revocations(ListArgs),
    /// Shows what the running agent knows of workspaces and of their sources
    Workspaces(WorkspacesArgs),
    /// Proves, searches and exports the audit trail, without the agent
    #[command(subcommand)]
    Audit(audit::Command),
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Also runs `haproxy -c` on the HAProxy configuration in this directory
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "haproxy")]
    haproxy: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The Host header
    #[arg(long)]
    host: String,
    /// A file with a bearer token; a token on the command line would be seen by others
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The path
    #[arg(long, default_value = "/")]
    path: String,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// A file with a token to look at; nothing of it is shown but its claims
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The configured name of the issuer or certificate rule; needed where there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    #[command(flatten)]
    target: RevokeTarget,
    /// Only what the subject was issued before: "now", or seconds since 1970 as in 'iat'
    #[arg(long, value_name = "TIME", requires = "subject")]
    before: Option<String>,
    /// Why; kept with the revocation and in the audit trail
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Takes the revocation back
    #[arg(long)]
    lift: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RevokeTarget {
    /// Everything of this subject (the 'sub' of its tokens)
    #[arg(long)]
    subject: Option<String>,
    /// One session at the issuer (the 'sid' of its tokens)
    #[arg(long)]
    session: Option<String>,
    /// One token (its 'jti')
    #[arg(long, value_name = "ID")]
    token: Option<String>,
}

#[derive(Debug, Args)]
struct WorkspacesArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: WorkspacesCommand,
}

#[derive(Debug, Subcommand)]
enum WorkspacesCommand {
    /// Lists all workspaces
    List,
    /// Shows one workspace with its endpoints
    Show {
        /// Its id
        id: String,
    },
    /// Prints each change as it comes, until interrupted
    Watch,
    /// Shows how each source is doing
    Sources,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The exit status for wrong usage or configuration; clap's own for wrong arguments.
const USAGE: u8 = 2;

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, for the person at the terminal; the exit status is then 2.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => run::run(&args.config),
            Command::Check(args) => check::check(&args),
            Command::Explain(args) => explain::explain(&args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Revoke(args) => revoke::revoke(&args),
            Command::Revocations(args) => revoke::list(&args),
            Command::Workspaces(args) => workspaces::workspaces(&args),
            Command::Audit(command) => audit::audit(&command),
        }
    }

    /// The level of the logs where `RUST_LOG` says nothing: a command that a person waits for prints
    /// its result, not its steps.
    #[must_use]
    pub fn log_level(&self) -> &'static str {
        match self.command {
            Command::Run(_) => "info",
            _ => "warn",
        }
    }

    /// The exit status of [`Self::execute`]'s errors.
    #[must_use]
    pub fn failure() -> ExitCode {
        ExitCode::from(USAGE)
    }
}
