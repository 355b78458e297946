//! Reads addresses of `bind`, `server` and `stats socket` lines, in every spelling that HAProxy takes, into one
//! canonical form.
//!
//! Checks compare addresses and ask whether a network leads there: `localhost:80` and `ipv4@127.0.0.1:80` must be
//! equal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    /// A unix socket, an inherited descriptor or the like, which no network leads to.
    Local(String),
    /// An IP address, and the port if one is written.
    Network(IpAddr, Option<String>),
    /// A host name or a variable of the environment, and the port if one is written.
    Name(String, Option<String>),
}

/// Address families of sockets that only this machine reaches.
const LOCAL: [&str; 9] =
    ["unix@", "uxst@", "uxdg@", "abns@", "abnsz@", "fd@", "sockpair@", "rhttp@", "rev@"];
/// Address families of the network, which can stand before an address.
const NETWORK: [&str; 12] = [
    "ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@", "udp@", "udp4@", "udp6@", "quic4@", "quic6@",
    "mptcp4@", "mptcp6@",
];

impl Address {
    /// Reads one address (`*:80`, `ipv4@localhost:80`, `/run/x.sock` …).
    pub(super) fn read(text: &str) -> Self {
        let mut text = text;
        while let Some(rest) = ["stream+", "dgram+"]
            .iter()
            .chain(&NETWORK)
            .find_map(|family| text.strip_prefix(family))
        {
            text = rest;
        }
        if text.starts_with('/') || LOCAL.iter().any(|family| text.starts_with(family)) {
            // A path is the same socket with and without its family.
            let path = text.trim_start_matches("unix@").trim_start_matches("uxst@");
            return Self::Local(path.to_owned());
        }
        let (host, port) = split(text);
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let ip = match host.as_str() {
            "" | "*" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            // Resolved here to loopback, as every system does (RFC 6761 6.3).
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().ok(),
        };
        match ip.map(canonical) {
            // Port 0 means the same as no port: the request decides.
            Some(ip) if ip.is_unspecified() => Self::Network(ip, port.filter(|port| port != "0")),
            Some(ip) => Self::Network(ip, port),
            None => Self::Name(host, port),
        }
    }

    /// Whether only this machine reaches the address.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Network(ip, _) => ip.is_loopback(),
            Self::Name(..) => false,
        }
    }

    /// Whether a server of this address connects to the destination that rules set.
    pub(super) fn is_anywhere(&self) -> bool {
        matches!(self, Self::Network(ip, _) if ip.is_unspecified())
    }

    /// Whether a server of this address also takes the port that rules set.
    pub(super) fn leaves_port(&self) -> bool {
        match self {
            Self::Network(_, port) => port.is_none(),
            _ => false,
        }
    }
}

fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        // `[::]` and `*` both mean every address.
        IpAddr::V6(v6) if v6 == Ipv6Addr::UNSPECIFIED => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ip => ip.to_canonical(),
    }
}

/// The host, and the port behind the last colon. HAProxy splits IPv6 addresses without brackets there too.
fn split(text: &str) -> (&str, Option<String>) {
    if text.ends_with(']') {
        return (text, None);
    }
    // Colons within `${NAME-default}` and brackets separate nothing.
    let after = text.rfind(['}', ']']).map_or(0, |end| end + 1);
    match text.get(after..).and_then(|rest| rest.rsplit_once(':')) {
        Some((_, port)) => {
            let host = text.len() - port.len() - 1;
            (text.get(..host).unwrap_or_default(), Some(port.to_owned()))
        }
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_distinguished_from_network_addresses() {
        for (text, local) in [
            ("127.0.0.1:80", true),
            ("127.9.9.9:80", true),
            ("localhost:80", true),
            ("ipv4@localhost:80", true),
            ("[::1]:80", true),
            ("::1:80", true),
            ("ipv6@[::1]:80", true),
            ("ipv6@::1:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("unix@/run/x", true),
            ("/run/x", true),
            ("abns@x", true),
            ("abnsz@x", true),
            ("uxst@/run/x", true),
            ("sockpair@4", true),
            ("fd@3", true),
            (":80", false),
            ("*:80", false),
            ("ipv4@*:80", false),
            ("0.0.0.0:80", false),
            ("127.evil.test:80", false),
            ("localhost.evil.test:80", false),
            ("10.0.0.1:80", false),
            ("quic4@:443", false),
            ("${X}", false),
        ] {
            assert_eq!(Address::read(text).is_local(), local, "{text}");
        }
    }

    #[test]
    fn an_address_has_one_form() {
        for (one, other) in [
            ("localhost:80", "ipv4@127.0.0.1:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("*:0", "0.0.0.0:0"),
            ("[::]:0", "0.0.0.0:0"),
            ("WS.test:80", "ws.test:80"),
            ("unix@/run/x", "/run/x"),
        ] {
            assert_eq!(Address::read(one), Address::read(other), "{one}");
        }
        assert_ne!(Address::read("10.0.0.1:80"), Address::read("10.0.0.1:81"));
        assert!(Address::read("0.0.0.0").leaves_port() && Address::read("0.0.0.0:0").leaves_port());
        assert!(!Address::read("0.0.0.0:+1").leaves_port());
    }
}
