//! The tables `[haproxy]` and `[tunnels]`: how live tunnels are found and closed, and what they are allowed.

use std::path::PathBuf;

use super::{
    kinds::{Address, List, NonEmpty, Number, Seconds},
    section::{Report, Section, table},
};
use crate::{haproxy::Socket, tunnels::TunnelSettings};

table! {
    /// How the agent reaches HAProxy's runtime API, to track and close live tunnels.
    HaproxyTable = "haproxy", restart;
    /// `unix:/path/to/socket` or `IP:PORT`: the socket of each HAProxy's master (`haproxy -S`), or of its process (`stats socket … level admin`).
    sockets: required NonEmpty<Address<Socket>>, example("[\"unix:/run/haproxy/admin.sock\"]");
    /// The frontends whose streams are tracked from the start. Others are added with their first authorization request.
    frontends: default List<String> = vec![];
}

/// The way to HAProxy, before it is joined with the limits of tunnels.
pub(super) struct Haproxy {
    pub(super) sockets: Vec<Socket>,
    pub(super) frontends: Vec<Box<[u8]>>,
}

impl Section for HaproxyTable {
    type Value = Haproxy;

    fn build(self, _: &mut Report) -> Option<Haproxy> {
        let frontends = self.frontends.into_iter().map(|name| name.into_bytes().into()).collect();
        Some(Haproxy { sockets: self.sockets?, frontends })
    }
}

table! {
    /// Limits of live tunnels; needs `[haproxy]`.
    TunnelsTable = "tunnels", restart;
    /// The maximum number of tunnels. One person, or one address without a person, may have an eighth of it.
    max: default Number<8, 1_000_000, usize> = TunnelSettings::default().max;
    /// The maximum lifetime of a tunnel.
    max_seconds: optional Seconds<1, 31_536_000>, note("no limit"), example("43200");
    /// Whether a tunnel stays open when the token or certificate that opened it expires.
    outlive_token: default bool = TunnelSettings::default().outlive_token;
    /// Whether tunnels that the agent does not know are closed when it starts. Use it only if no other agent serves the same HAProxy.
    terminate_unknown: default bool = TunnelSettings::default().terminate_unknown;
    /// The file in which tunnels outlive a restart of the agent.
    file: optional PathBuf, note("a restarted agent does not know earlier tunnels"), example("\"tunnels.json\"");
}

/// The limits of tunnels, before they are joined with the way to HAProxy.
#[derive(Default)]
pub(super) struct RawTunnels {
    pub(super) limits: TunnelSettings,
    pub(super) file: Option<PathBuf>,
}

impl Section for TunnelsTable {
    type Value = RawTunnels;

    fn build(self, _: &mut Report) -> Option<RawTunnels> {
        let limits = TunnelSettings {
            max: self.max,
            max_lifetime: self.max_seconds,
            outlive_token: self.outlive_token,
            terminate_unknown: self.terminate_unknown,
            ..TunnelSettings::default()
        };
        Some(RawTunnels { limits, file: self.file })
    }
}
