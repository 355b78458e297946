//! The tables `[agent]`, `[admin]` and `[metrics]`: where the agent listens, for HAProxy, for administrators and for
//! monitoring, and the limits of what it serves.

use std::{
    net::SocketAddr, num::NonZero, path::PathBuf, thread::available_parallelism, time::Duration,
};

use super::{
    MetricsSettings,
    kinds::{Address, FileMode, Form, Milliseconds, NonEmpty, Number, Parsed},
    section::{Report, Section, table},
};
use crate::{
    admin::AdminSettings,
    agent::{AgentSettings, Listen},
    unix_socket::SocketOwner,
};

table! {
    /// How HAProxy reaches the agent, and how much it may use.
    AgentTable = "agent";
    /// Where it listens for HAProxy: `unix:/path/to/socket`, `IP:PORT` or `systemd` (a socket that systemd opened).
    listen: required NonEmpty<Address<Listen>>, example("[\"unix:agent.sock\"]"), restart;
    /// The mode of unix sockets, in octal.
    socket_mode: default FileMode = 0o660, restart;
    /// The owner of unix sockets: `USER`, `USER:GROUP` or `:GROUP`.
    socket_owner: optional SocketOwner, note("the user that runs the agent"), example("\"root\""), restart;
    /// Whether workspaces' hosts answer `/.well-known/oauth-protected-resource` with the issuers whose tokens are accepted (RFC 9728).
    resource_metadata: default bool = false;
    /// The number of threads that serve HAProxy.
    workers: optional Number<1, 1024, usize>, note("one for each CPU core"), restart;
    /// Each authorization request gets its response within this time. It must be shorter than HAProxy's `timeout processing`.
    response_timeout_ms: default Milliseconds<10, 10_000> = Duration::from_millis(300), restart;
    /// How long HAProxy may reuse the last allow of a connection (docs/reuse.md); 0 turns that off. 5000 is a good value.
    verdict_cache_ms: default Milliseconds<0, 60_000> = Duration::ZERO, restart;
    /// The maximum number of connections from HAProxy.
    max_connections: default Number<1, 100_000, usize> = 1024, restart;
    /// The maximum number of authorization requests that wait for a key, a token or a workspace at the same time.
    max_pending: default Number<0, 1_000_000, usize> = 1024, restart;
    /// The maximum number of verified tokens that are cached.
    token_cache_size: default Number<0, 10_000_000> = 100_000, restart;
    /// Whether this file is read again when it changes. It is always read again on SIGHUP.
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
            token_cache_size: self.token_cache_size,
            follow_file: self.follow_file,
        })
    }
}

table! {
    /// How administrators reach the running agent.
    AdminTable = "admin", restart;
    /// A unix socket. Every process that can write to it can revoke access and write workspaces.
    socket: required PathBuf, example("\"admin.sock\"");
    /// The file in which revocations are stored.
    revocations: required PathBuf, note("created if it does not exist"), example("\"revocations.jsonl\"");
    /// The mode of the socket, in octal.
    socket_mode: default FileMode = 0o600;
    /// The owner of the socket: `USER`, `USER:GROUP` or `:GROUP`.
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
    /// Where `/metrics`, `/livez` and `/readyz` are served besides the admin socket.
    MetricsTable = "metrics", restart;
    /// The address of the listener, `IP:PORT`.
    listen: required Parsed<SocketAddr>, example("\"127.0.0.1:9012\"");
}

impl Section for MetricsTable {
    type Value = MetricsSettings;

    fn build(self, _: &mut Report) -> Option<MetricsSettings> {
        Some(MetricsSettings { listen: self.listen? })
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
