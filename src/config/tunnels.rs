//! The tables `[haproxy]` and `[tunnels]`.

use std::path::PathBuf;

use super::{
    Haproxy, Tunnels,
    kinds::{Address, List, NonEmpty, Number, Seconds},
    section::{Report, Section, table},
};
use crate::{haproxy::Socket, tunnels::TunnelSettings};

table! {
    /// HAProxy's runtime API, through which the agent terminates tunnels.
    HaproxyTable = "haproxy", restart;
    /// `unix:/path/to/socket` or `IP:PORT`, of a process (`stats socket … level admin`) or of its master (`haproxy -S`), one for each HAProxy.
    sockets: required NonEmpty<Address<Socket>>, example("[\"unix:/run/haproxy/admin.sock\"]");
    /// The frontends whose tunnels are watched from the start. Others are added with their first authorization request.
    frontends: default List<String> = vec![];
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
    /// The most tunnels at once. One person, or one client address without a person, may have an eighth of it.
    max: default Number<8, 1_000_000, usize> = TunnelSettings::default().max;
    /// The longest that a tunnel may last.
    max_seconds: optional Seconds<1, 31_536_000>, example("43200");
    /// Whether a tunnel goes on after the token that opened it has expired.
    outlive_token: default bool = TunnelSettings::default().outlive_token;
    /// Whether tunnels that the agent does not know are terminated. Only with a single agent.
    terminate_unknown: default bool = TunnelSettings::default().terminate_unknown;
    /// A file with the live tunnels, for an agent that restarts.
    file: optional PathBuf, example("\"tunnels.json\"");
}

impl Section for TunnelsTable {
    type Value = Tunnels;

    fn build(self, _: &mut Report) -> Option<Tunnels> {
        let settings = TunnelSettings {
            max: self.max,
            max_lifetime: self.max_seconds,
            outlive_token: self.outlive_token,
            terminate_unknown: self.terminate_unknown,
            ..TunnelSettings::default()
        };
        Some(Tunnels { settings, file: self.file })
    }
}
