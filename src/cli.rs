//! The command line: what was typed, and the commands.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::haproxy_config::generate::Version;

mod agent;
mod audit;
mod check;
mod doctor;
mod explain;
mod haproxy;
mod login;
mod manual;
mod policy;
mod revoke;
mod schema;
mod sessions;
mod status;
mod terminal;
mod tunnels;
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
    /// Signs you in at the provider and prints a token for curl, git and other programs
    ///
    /// Needs no configuration of the agent: only the provider's address, or that of a workspace, and a client
    /// that the provider knows as public (without a secret).
    Login(LoginArgs),
    /// Lists or ends the sessions of people who signed in with a browser
    Sessions(SessionsArgs),
    /// Shows the state of the running agent on one screen
    ///
    /// Issuers and their keys, sources, decisions a second by reason, latency, sessions, tunnels, the audit log and the sockets
    /// of HAProxy.
    Status(status::StatusArgs),
    /// Shows what the running agent knows of workspaces and of their sources
    Workspaces(WorkspacesArgs),
    /// Proves, searches and exports the audit log, without the agent
    #[command(subcommand)]
    Audit(audit::Command),
    /// Tests policies, prints their schema, and asks them about a recorded past, without the agent
    #[command(subcommand)]
    Policy(policy::Command),
    /// Lists live tunnels (WebSockets, SSH, downloads), and terminates them
    Tunnels(TunnelsArgs),
    /// Prints what a shell needs to complete commands
    Completions(CompletionsArgs),
    /// Writes a manual page for each command
    Man(ManArgs),
    /// Prints the JSON Schema of the configuration, for editors
    Schema(SchemaArgs),
    /// Looks at HAProxy's side of the gate
    Haproxy(HaproxyArgs),
}

#[derive(Debug, Args)]
struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
struct ManArgs {
    /// Where to write them; made if absent
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Debug, Args)]
struct SchemaArgs {
    /// The same as a reference to read, docs/configuration.md
    #[arg(long, conflicts_with = "example")]
    markdown: bool,
    /// An example to edit, docs/agent.example.toml: every key with its default
    #[arg(long)]
    example: bool,
}

#[derive(Debug, Args)]
struct HaproxyArgs {
    #[command(subcommand)]
    command: HaproxyCommand,
}

#[derive(Debug, Subcommand)]
enum HaproxyCommand {
    /// Finds dangerous mistakes in a configuration of HAProxy, each with its line and the fix
    ///
    /// Exit status: 0 none found, 1 some, 2 wrong usage or configuration.
    Lint(HaproxyLintArgs),
    /// Writes HAProxy's configuration from the agent's
    ///
    /// Exit status: 0 done, or with --check nothing differs; 1 something differs; 2 wrong usage or
    /// configuration.
    Generate(HaproxyGenerateArgs),
    /// Tries a running gate from outside: whether it refuses what it must
    ///
    /// Exit status: 0 all checks passed, 1 some failed, 2 wrong usage or no gate there.
    Selftest(HaproxySelftestArgs),
}

#[derive(Debug, Args)]
struct HaproxySelftestArgs {
    /// Where the gate is, such as https://gate.example.com:8443
    #[arg(long)]
    url: Url,
    /// The host of a workspace that is running and not public
    #[arg(long)]
    host: String,
    /// A file with the token of somebody who may reach the workspace; tries what happens after an allow
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The workspace answers with the request as it arrived: looks at that, too
    #[arg(long, requires = "token_file")]
    echo: bool,
    /// The authorities that vouch for the gate, PEM; the machine's unless given
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Takes any certificate
    #[arg(long)]
    insecure: bool,
}

#[derive(Debug, Args)]
struct HaproxyGenerateArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// For which HAProxy; the one of this machine unless said, else 3.0
    #[arg(long, value_name = "VERSION", value_enum)]
    haproxy_version: Option<Version>,
    /// Writes the files into this directory; otherwise they are printed
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    out: Option<PathBuf>,
    /// Writes nothing, and shows how the files in this directory differ
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct HaproxyLintArgs {
    /// HAProxy's configuration; several files are one configuration, and of a directory all files *.cfg, as
    /// with `haproxy -f`
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the files are that HAProxy's configuration names from the root (/etc/haproxy/…), as in a checkout
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The agent's configuration, which HAProxy's must fit
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
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
    /// The client's address, which policies may look at
    #[arg(long, value_name = "IP")]
    client: Option<std::net::IpAddr>,
    /// Asks about a TCP stream (haproxy/tcp.cfg) instead of a request; the host is its TLS server name
    #[arg(long, conflicts_with_all = ["token_file", "method", "path"])]
    tcp: bool,
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
    /// Why; kept with the revocation and in the audit log
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
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that somebody types")]
#[group(id = "whose", required = true, multiple = true, args = ["issuer", "gate"])]
struct LoginArgs {
    /// The provider's issuer identifier, such as https://idp.example.com/realms/corp
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// A workspace's address, which says whose tokens count there (with 'resource_metadata' at the agent)
    #[arg(long, value_name = "URL")]
    gate: Option<String>,
    /// The client at the provider
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// What is asked for; offline_access saves signing in again tomorrow
    #[arg(long, default_value = "openid profile email offline_access")]
    scope: String,
    /// Whom the token is for, where the provider wants to be told (RFC 8707; 'audience' at Auth0)
    #[arg(long, value_name = "AUDIENCE")]
    resource: Option<String>,
    /// Prints the ID token instead of the access token (which the agent must take: its 'tokens' key)
    #[arg(long)]
    id_token: bool,
    /// token; header, for curl -H; git, as a credential helper of Git 2.46 or later
    #[arg(long, value_enum, default_value = "token")]
    format: LoginFormat,
    /// Signs in with a code in a browser on another machine
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// Signs in with a browser on this machine, even if it seems to have no screen
    #[arg(long)]
    browser: bool,
    /// The port of loopback that the browser comes back to; any free one unless said
    #[arg(long, default_value = "0")]
    port: u16,
    /// Certificates of a private authority, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Where tokens are kept between calls; empty for nowhere
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Asks again, whatever is kept
    #[arg(long)]
    again: bool,
    /// What Git asks its helpers to do
    #[arg(hide = true)]
    operation: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LoginFormat {
    Token,
    Header,
    Git,
}

#[derive(Debug, Args)]
struct SessionsArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// Lists all sessions
    List,
    /// Ends sessions, at every host and every agent; their people may sign in again
    End {
        /// The configured name of the issuer; any unless said
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
        #[command(flatten)]
        target: SessionsTarget,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SessionsTarget {
    /// All of a user, as the list names them
    #[arg(long)]
    user: Option<String>,
    /// All of a subject (the 'sub' of its tokens)
    #[arg(long)]
    subject: Option<String>,
    /// One, by the id in the list
    #[arg(long)]
    id: Option<String>,
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
struct TunnelsArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<TunnelsCommand>,
}

#[derive(Debug, Subcommand)]
enum TunnelsCommand {
    /// Lists live tunnels, oldest first (the default)
    List,
    /// Prints each tunnel as it opens and closes, until interrupted
    Watch,
    /// Terminates the matching tunnels. Access is not revoked: clients may connect again
    Terminate(TerminateArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct TerminateArgs {
    /// The user as `list` shows it, or the subject
    #[arg(long)]
    user: Option<String>,
    /// The workspace
    #[arg(long, value_name = "ID")]
    workspace: Option<String>,
    /// The id of a tunnel
    #[arg(long)]
    id: Option<String>,
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
            Command::Run(args) => crate::app::run::run(&args.config),
            Command::Check(args) => check::check(&args),
            Command::Explain(args) => explain::explain(&args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Revoke(args) => revoke::revoke(&args),
            Command::Revocations(args) => revoke::list(&args),
            Command::Login(args) => login::login(&args),
            Command::Sessions(args) => sessions::sessions(&args),
            Command::Status(args) => status::status(&args),
            Command::Workspaces(args) => workspaces::workspaces(&args),
            Command::Tunnels(args) => tunnels::tunnels(&args),
            Command::Completions(args) => manual::completions(&args),
            Command::Man(args) => manual::man(&args),
            Command::Schema(args) => schema::schema(&args),
            Command::Haproxy(args) => haproxy::haproxy(&args),
            Command::Audit(command) => audit::audit(&command),
            Command::Policy(command) => policy::policy(&command),
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
