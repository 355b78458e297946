//! The tables `[agent]`, `[admin]` and `[metrics]`: where the agent listens.

use std::{
    net::SocketAddr, num::NonZero, path::PathBuf, thread::available_parallelism, time::Duration,
};

use super::{
    Metrics,
    kinds::{Address, FileMode, Form, Milliseconds, NonEmpty, Number, Parsed},
    section::{Report, Section, table},
};
use crate::{
    admin::AdminSettings,
    agent::{AgentSettings, Listen},
    unix_socket::SocketOwner,
};

table! {
    /// How HAProxy reaches the agent, and limits of its requests.
    AgentTable = "agent";
    /// Addresses: `unix:/path/to/socket`, `IP:PORT` or `systemd`.
    listen: required NonEmpty<Address<Listen>>, example("[\"unix:agent.sock\"]"), restart;
    /// The mode of unix sockets, in octal.
    socket_mode: default FileMode = 0o660, restart;
    /// Who owns unix sockets: `USER`, `USER:GROUP` or `:GROUP`.
    socket_owner: optional SocketOwner, note("the user that runs the agent"), example("\"root\""), restart;
    /// Workspaces answer `/.well-known/oauth-protected-resource` with the issuers whose tokens are accepted (RFC 9728).
    resource_metadata: default bool = false;
    /// The number of threads that serve HAProxy.
    workers: optional Number<1, 1024, usize>, note("one a core"), restart;
    /// The longest time to a response; shorter than HAProxy's `timeout processing`.
    response_timeout_ms: default Milliseconds<10, 10_000> = Duration::from_millis(300), restart;
    /// How long HAProxy may reuse the last allow of a connection (docs/reuse.md). 0: never. 5000 is a good value.
    verdict_cache_ms: default Milliseconds<0, 60_000> = Duration::ZERO, restart;
    /// The most connections from HAProxy at once.
    max_connections: default Number<1, 100_000, usize> = 1024, restart;
    /// The most authorization requests that wait at once, for a key, a token, a session or a workspace.
    max_pending: default Number<0, 1_000_000, usize> = 1024, restart;
    /// The most verified tokens that are remembered.
    tokens: default Number<0, 10_000_000> = 100_000, restart;
    /// Whether this file is read again when it changes, and not only after SIGHUP.
    follow_file: default bool = true, restart;
}

impl Section for AgentTable {
    type Value = AgentSettings;

    fn build(self, _: &mut Report) -> Option<AgentSettings> {
        let cores = || available_parallelism().map_or(1, NonZero::get);
        Some(AgentSettings {
            listen: self.listen?,
            socket_mode: self.socket_mode,
            socket_owner: self.socket_owner.unwrap_or_default(),
            resource_metadata: self.resource_metadata,
            workers: self.workers.unwrap_or_else(cores),
            response_timeout: self.response_timeout_ms,
            reuse: Some(self.verdict_cache_ms).filter(|time| !time.is_zero()),
            max_connections: self.max_connections,
            max_pending: self.max_pending,
            tokens: self.tokens,
            follow_file: self.follow_file,
        })
    }
}

table! {
    /// How administrators reach the running agent.
    AdminTable = "admin", restart;
    /// A unix socket; every process that can write to it can revoke and write workspaces.
    socket: required PathBuf, example("\"admin.sock\"");
    /// Where revocations are kept.
    revocations: required PathBuf, note("made if absent"), example("\"revocations.jsonl\"");
    /// The mode of the socket, in octal.
    socket_mode: default FileMode = 0o600;
    /// Who owns it: `USER`, `USER:GROUP` or `:GROUP`.
    socket_owner: optional SocketOwner, note("the user that runs the agent"), example("\"root\"");
}

impl Section for AdminTable {
    type Value = AdminSettings;

    fn build(self, _: &mut Report) -> Option<AdminSettings> {
        Some(AdminSettings {
            socket: self.socket?,
            socket_mode: self.socket_mode,
            socket_owner: self.socket_owner.unwrap_or_default(),
            revocations: self.revocations?,
        })
    }
}

table! {
    /// Where `/metrics`, `/livez` and `/readyz` are beside the admin socket.
    MetricsTable = "metrics", restart;
    /// `IP:PORT`.
    listen: required Parsed<SocketAddr>, example("\"127.0.0.1:9012\"");
}

impl Section for MetricsTable {
    type Value = Metrics;

    fn build(self, _: &mut Report) -> Option<Metrics> {
        Some(Metrics { listen: self.listen? })
    }
}

impl Form for SocketOwner {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        let unknown = |what, name| {
            format!(
                "no {what} {name:?} on this machine: expected \"USER\", \"USER:GROUP\" or \":GROUP\""
            )
        };
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let user = match user {
            "" if !group.is_empty() => None,
            name => match nix::unistd::User::from_name(name) {
                Ok(Some(user)) => Some(user.uid.as_raw()),
                _ => return Err(unknown("user", name)),
            },
        };
        let group = match group {
            "" => None,
            name => match nix::unistd::Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                _ => return Err(unknown("group", name)),
            },
        };
        Ok(Self { user, group })
    }
}
