//! The settings of the table `[agent]`.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;

use crate::unix_socket::SocketOwner;

/// How the agent serves HAProxy.
#[derive(Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// The addresses to listen on; at least one.
    pub listen: Vec<Listen>,
    /// The mode of the files of unix sockets.
    pub socket_mode: u32,
    /// The owner of the files of unix sockets; the user of the agent by default.
    pub socket_owner: SocketOwner,
    /// Whether workspaces tell clients whose tokens they accept (RFC 9728).
    pub resource_metadata: bool,
    /// The number of threads that serve connections.
    pub workers: usize,
    /// The longest time to the response; shorter than HAProxy's `timeout processing`.
    pub response_timeout: Duration,
    /// How long HAProxy may reuse the last allow of a connection; never by default.
    pub reuse: Option<Duration>,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most requests that wait at once, over all connections.
    pub max_pending: usize,
    /// The most verified tokens that are remembered.
    pub token_cache_size: u64,
    /// Whether the configuration is read again when its file changes, and not only after SIGHUP.
    pub follow_file: bool,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
    /// Every socket that systemd passes (`LISTEN_FDS`, sd_listen_fds(3)).
    Systemd,
}

/// The text is not an address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected \"unix:/path/to/socket\", \"IP:PORT\" or \"systemd\"")]
pub struct ListenError;

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        match text.strip_prefix("unix:") {
            _ if text == "systemd" => Ok(Self::Systemd),
            Some("") => Err(ListenError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| ListenError),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd => f.write_str("systemd"),
        }
    }
}
