//! The command line: its commands and options, with the words that `--help` and the manual pages show.
//!
//! Each command has a module that parses, calls and prints; none of them decides anything about requests itself. A command
//! that asks the running agent does so over the admin socket of the configuration. Results go to standard output, messages
//! for a person to standard error. [`terminal`] has what commands do on a terminal only.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::haproxy_config::{generate::Version, known_bugs::Release};

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

/// Decides for HAProxy who may reach which workspace
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent until SIGTERM or SIGINT
    Run(ConfigArg),
    /// Reports every mistake in the configuration and in lists of workspaces
    Check(CheckArgs),
    /// Shows how a request would be decided, stage by stage
    ///
    /// The request has no credential, the token of --token-file, or comes from an assumed person (--user, --subject).
    ///
    /// Exit status: 0 allowed, 1 refused, 2 wrong usage or configuration.
    Explain(ExplainArgs),
    /// Checks the providers, the files, HAProxy and a token, and says what to change
    ///
    /// Exit status: 0 no check fails, 1 some check fails, 2 wrong usage or configuration.
    Doctor(DoctorArgs),
    /// Revokes a subject, a session or a token at the running agent
    Revoke(RevokeArgs),
    /// Lists all revocations at the running agent
    Revocations(ListArgs),
    /// Signs you in at the provider and prints a token for curl, git and other programs
    ///
    /// It needs no configuration of the agent, only the address of the provider or of a workspace, and the id of a
    /// public client (one without a secret) at the provider.
    Login(LoginArgs),
    /// Shows the state of the running agent on one screen
    ///
    /// Issuers and their keys, sources, decisions a second by reason, latency, sessions, tunnels, the audit log and the sockets
    /// of HAProxy.
    Status(status::StatusArgs),
    /// Lists or ends browser sessions at the running agent
    Sessions(SessionsArgs),
    /// Shows the workspaces and sources of the running agent
    Workspaces(WorkspacesArgs),
    /// Verifies, searches and exports the audit log, without the agent
    #[command(subcommand)]
    Audit(audit::Command),
    /// Tests policies, prints their schema, and replays recorded decisions with them, without the agent
    #[command(subcommand)]
    Policy(policy::Command),
    /// Lists or terminates live tunnels (WebSockets, SSH, downloads) at the running agent
    Tunnels(TunnelsArgs),
    /// Prints the completions for a shell
    Completions(CompletionsArgs),
    /// Writes a manual page for each command
    Man(ManArgs),
    /// Prints the JSON Schema of the configuration, its reference or an example
    Schema(SchemaArgs),
    /// Generates, checks and tests the configuration of HAProxy
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
    /// The directory for the pages; created if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Debug, Args)]
struct SchemaArgs {
    /// Prints the reference, as in docs/configuration.md
    #[arg(long, conflicts_with = "example")]
    markdown: bool,
    /// Prints an example with every key, as in docs/agent.example.toml
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
    /// Finds dangerous mistakes in a configuration of HAProxy, each with its line and its fix
    ///
    /// Exit status: 0 no mistake, 1 some mistakes, 2 wrong usage or configuration.
    Lint(HaproxyLintArgs),
    /// Writes a configuration of HAProxy that fits the agent's
    ///
    /// Exit status: 0 written, or nothing differs (--check); 1 something differs (--check); 2 wrong usage or
    /// configuration.
    Generate(HaproxyGenerateArgs),
    /// Tests from outside that a running gate refuses what it must refuse
    ///
    /// Exit status: 0 no check failed, 1 some checks failed, 2 wrong usage, or the gate cannot be reached.
    Selftest(HaproxySelftestArgs),
}

#[derive(Debug, Args)]
struct HaproxySelftestArgs {
    /// The address of the gate, such as https://gate.example.com:8443
    #[arg(long)]
    url: Url,
    /// The host of a workspace that runs and is not public
    #[arg(long)]
    host: String,
    /// A file with the token of a person who may reach the workspace; also tests what happens after an allow
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The workspace echoes requests; also checks what arrived there
    #[arg(long, requires = "token_file")]
    echo: bool,
    /// Certificates of the gate's authority, PEM; by default those of the system
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Accepts any certificate of the gate
    #[arg(long)]
    insecure: bool,
}

#[derive(Debug, Args)]
struct HaproxyGenerateArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The version of HAProxy; by default that of this machine, or else 3.0
    #[arg(long, value_name = "VERSION", value_enum)]
    haproxy_version: Option<Version>,
    /// The rules in parts, to put into a haproxy.cfg that you have, in place of whole files
    #[arg(long)]
    parts: bool,
    /// Writes the files into this directory; by default they are printed
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    out: Option<PathBuf>,
    /// Writes nothing, and shows how the files in this directory differ from the generated ones
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct HaproxyLintArgs {
    /// The configuration of HAProxy: files, or a directory with files *.cfg, all read as one configuration as with
    /// `haproxy -f`
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The directory in which absolute paths such as /etc/haproxy/… are looked up, as in a checkout
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The configuration of the agent, which HAProxy's must fit
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The release of HAProxy that reads the files, such as 3.2.19: also finds bugs that are known of it
    #[arg(long, value_name = "RELEASE")]
    haproxy_release: Option<Release>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration of the agent
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
    /// The host of the request
    #[arg(long)]
    host: String,
    /// A file with a bearer token (a token on the command line would be visible to other users)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The method of the request
    #[arg(long, default_value = "GET")]
    method: String,
    /// The path of the request
    #[arg(long, default_value = "/")]
    path: String,
    /// The address of the client, for policies that use it
    #[arg(long, value_name = "IP")]
    client: Option<std::net::IpAddr>,
    /// Explains a TCP stream (haproxy/tcp.cfg) instead of a request; --host is its TLS server name
    #[arg(long, conflicts_with_all = ["token_file", "method", "path"])]
    tcp: bool,
    #[command(flatten)]
    person: AssumedPerson,
}

/// A person who is assumed to have sent the request with a valid token.
#[derive(Debug, Args)]
#[group(id = "assumed", multiple = true, args = ["user", "subject"], conflicts_with = "token_file")]
struct AssumedPerson {
    /// Assumes a person by login name or e-mail address, without their token
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Assumes a person by subject (the 'sub' of their tokens), without their token
    #[arg(long)]
    subject: Option<String>,
    /// The configured name of the assumed person's issuer or certificate rule; required if there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// The groups of the assumed person, separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    groups: Vec<String>,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// A file with a token to check; only its claims are shown
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The configured name of the issuer or certificate rule; required if there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    #[command(flatten)]
    target: RevokeTarget,
    /// Revokes only tokens and sessions issued before this time: "now", or seconds since 1970 as in 'iat'
    #[arg(long, value_name = "TIME", requires = "subject")]
    before: Option<String>,
    /// The reason; stored with the revocation and in the audit log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Lifts the revocation
    #[arg(long)]
    lift: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RevokeTarget {
    /// Revokes all tokens and sessions of this subject ('subject' in the audit log: 'sub', or the claim that is the subject at its issuer)
    #[arg(long)]
    subject: Option<String>,
    /// Revokes one session at the issuer (the 'sid' of its tokens)
    #[arg(long)]
    session: Option<String>,
    /// Revokes one token (its 'jti')
    #[arg(long, value_name = "ID")]
    token: Option<String>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[group(id = "whose", required = true, multiple = true, args = ["issuer", "gate"])]
struct LoginArgs {
    /// The provider's issuer identifier, such as https://idp.example.com/realms/corp
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The address of a workspace; its host says which provider to use (needs 'resource_metadata' at the agent)
    #[arg(long, value_name = "URL")]
    gate: Option<String>,
    /// The id of a public client at the provider
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// The scopes of the token; with offline_access you need not sign in again when it expires
    #[arg(long, default_value = "openid profile email offline_access")]
    scope: String,
    /// The audience of the token, if the provider needs to be told (RFC 8707; 'audience' at Auth0)
    #[arg(long, value_name = "AUDIENCE")]
    resource: Option<String>,
    /// Prints the ID token instead of the access token (the agent must accept it: 'token_types')
    #[arg(long)]
    id_token: bool,
    /// token: the token alone; header: for curl -H; git: as a credential helper of Git 2.46 or later
    #[arg(long, value_enum, default_value = "token")]
    format: LoginFormat,
    /// Signs in with a code in a browser on another machine
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// Signs in with a browser on this machine, even if no screen is found
    #[arg(long)]
    browser: bool,
    /// The port of loopback to which the browser returns; 0 takes any free port
    #[arg(long, default_value = "0")]
    port: u16,
    /// Certificates of a private authority, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The file in which tokens are stored between calls; empty to store none
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Signs in again, even if a valid token is stored
    #[arg(long)]
    fresh: bool,
    /// The operation that Git asks of its credential helpers
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
    /// Prints JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// Lists all sessions
    List,
    /// Ends sessions at all hosts and all agents; people can sign in again
    End {
        /// The configured name of the issuer; by default any
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
        #[command(flatten)]
        target: SessionsTarget,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SessionsTarget {
    /// Ends all sessions of this user, by the name in the list
    #[arg(long)]
    user: Option<String>,
    /// Ends all sessions of this subject (the 'sub' of its tokens)
    #[arg(long)]
    subject: Option<String>,
    /// Ends this session, by the id in the list
    #[arg(long)]
    id: Option<String>,
}

#[derive(Debug, Args)]
struct WorkspacesArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Prints JSON
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
        /// The id of the workspace
        id: String,
    },
    /// Prints each change until interrupted
    Watch,
    /// Shows the state of each source
    Sources,
}

#[derive(Debug, Args)]
struct TunnelsArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Prints JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<TunnelsCommand>,
}

#[derive(Debug, Subcommand)]
enum TunnelsCommand {
    /// Lists live tunnels, oldest first (the default)
    List,
    /// Prints each tunnel that opens or closes until interrupted
    Watch,
    /// Terminates all matching tunnels; people can open them again if they still have access
    Terminate(TerminateArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct TerminateArgs {
    /// Terminates the tunnels of this user, by the name in the list, or of this subject
    #[arg(long)]
    user: Option<String>,
    /// Terminates the tunnels to this workspace
    #[arg(long, value_name = "ID")]
    workspace: Option<String>,
    /// Terminates this tunnel, by the id in the list
    #[arg(long)]
    id: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// The exit status for wrong usage or configuration; clap's own for wrong arguments.
const USAGE: u8 = 2;

impl Cli {
    /// Executes the command.
    ///
    /// # Errors
    /// A message for the person at the terminal; the exit status is then [`Self::failure`].
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => crate::app::run::run(&args.config),
            Command::Check(args) => check::check(&args),
            Command::Explain(args) => explain::explain(&args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Revoke(args) => revoke::revoke(&args),
            Command::Revocations(args) => revoke::list(&args),
            Command::Login(args) => login::login(&args),
            Command::Status(args) => status::status(&args),
            Command::Sessions(args) => sessions::sessions(&args),
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

    /// The log level if `RUST_LOG` is not set. A command for which a person waits prints its result, not its steps.
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
