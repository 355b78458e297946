//! The canonical form of an address, and all addresses that it can reach.
//!
//! The same machine can be written in many ways: an IPv6 address can contain an IPv4 address (RFC
//! 4291), and translators (RFC 6052, RFC 8215) and tunnels (RFC 3056, RFC 4380, RFC 5214) forward
//! to it. A rule about an address must therefore hold for every address that it stands for;
//! [`Address::reachable`] lists them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use arrayvec::ArrayVec;
use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

/// The most addresses that one address stands for: four readings for a translator, the two ends of
/// a tunnel, one in the last 32 bits, and the address itself.
const MAX_REACHABLE: usize = 8;

/// The addresses that an address stands for.
pub type Reachable = ArrayVec<IpAddr, MAX_REACHABLE>;

/// An IP address in canonical form: an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is
/// stored as the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(IpAddr);

/// How an IPv6 address contains IPv4 addresses.
enum EmbeddedForm {
    /// It contains none.
    Plain,
    /// It is only another spelling of the IPv4 address.
    Spelling(Ipv4Addr),
    /// It contains IPv4 addresses and other bits, which may select another machine.
    Carrier(ArrayVec<Ipv4Addr, MAX_REACHABLE>),
}

impl Address {
    /// The address to connect to.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    /// All addresses that a connection to this one may reach; never empty. For a mere spelling of
    /// an IPv4 address, that is only the IPv4 address.
    #[must_use]
    pub fn reachable(self) -> Reachable {
        let IpAddr::V6(v6) = self.0 else { return Reachable::from_iter([self.0]) };
        match embedded_form(v6) {
            EmbeddedForm::Plain => Reachable::from_iter([self.0]),
            EmbeddedForm::Spelling(v4) => Reachable::from_iter([IpAddr::V4(v4)]),
            EmbeddedForm::Carrier(all) => {
                let all = all.into_iter().map(IpAddr::V4);
                all.chain([self.0]).take(MAX_REACHABLE).collect()
            }
        }
    }
}

/// Finds the IPv4 addresses in an IPv6 address. The loopback and the unspecified address contain
/// none.
fn embedded_form(v6: Ipv6Addr) -> EmbeddedForm {
    let bits = v6.to_bits();
    let last = ipv4_before(bits, 0);
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return EmbeddedForm::Plain,
        // IPv4-compatible (RFC 4291 section 2.5.5.1), IPv4-mapped (section 2.5.5.2),
        // IPv4-translated (RFC 2765 section 2.1), and the well-known prefix of translators (RFC
        // 6052 section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => return EmbeddedForm::Spelling(last),
        _ => {}
    }
    let mut held = ArrayVec::new();
    match v6.segments() {
        // The local-use prefix of translators (RFC 8215). Its length is unknown, so all readings of
        // RFC 6052 section 2.2 count. A reading that begins with 0 is padding and not a
        // destination.
        [0x64, 0xff9b, 1, ..] => {
            // Skips the ninth byte, which is always 0 and lies within the IPv4 address.
            let joined = (bits >> 64 << 56) | (bits & ((1 << 56) - 1));
            let readings =
                [ipv4_before(joined, 40), ipv4_before(joined, 32), ipv4_before(joined, 24), last];
            held.extend(readings.into_iter().filter(|v4| v4.octets().first() != Some(&0)));
            if held.is_empty() {
                held.push(Ipv4Addr::UNSPECIFIED);
            }
        }
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => held.push(ipv4_before(bits, 80)),
        // Teredo (RFC 4380 section 4): the server, and the client with all its bits inverted.
        [0x2001, 0, ..] => {
            held.extend([ipv4_before(bits, 64), Ipv4Addr::from_bits(!last.to_bits())]);
        }
        _ => {}
    }
    // ISATAP (RFC 5214 section 6.1), which can follow any prefix.
    if matches!(v6.segments(), [.., 0 | 0x200, 0x5efe, _, _]) {
        held.push(last);
    }
    if held.is_empty() { EmbeddedForm::Plain } else { EmbeddedForm::Carrier(held) }
}

/// The 32 bits before the last `after` bits.
fn ipv4_before(bits: u128, after: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from((bits >> after) & u128::from(u32::MAX)).unwrap_or_default())
}

/// A network in the form of the addresses in it: a network that only spells IPv4 addresses becomes
/// an IPv4 network.
#[must_use]
pub fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (v6.prefix_len().checked_sub(96), embedded_form(v6.network())) {
        (Some(length), EmbeddedForm::Spelling(v4)) => {
            Ipv4Net::new(v4, length).map_or(net, |net| IpNet::V4(net.trunc()))
        }
        _ => net,
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self(ip.into())
    }
}

impl From<[u8; 4]> for Address {
    fn from(ip: [u8; 4]) -> Self {
        Self(ip.into())
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address and port of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// The address.
    pub address: Address,
    /// The port; never 0.
    pub port: u16,
}

/// The error of parsing a [`Server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected \"IP:PORT\" or \"[IPv6]:PORT\", without a zone and with a port from 1 to 65535")]
pub struct ServerError;

impl Server {
    /// A server; `None` for port 0.
    #[must_use]
    pub fn new(address: Address, port: u16) -> Option<Self> {
        (port != 0).then_some(Self { address, port })
    }

    /// The same as a socket address, for HAProxy.
    #[must_use]
    pub const fn socket(self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.port)
    }
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        // A zone (RFC 4007 section 11) is local to one machine, and two zones would be two
        // spellings of one server.
        if text.contains('%') {
            return Err(ServerError);
        }
        let socket: SocketAddr = text.parse().map_err(|_| ServerError)?;
        Self::new(socket.ip().into(), socket.port()).ok_or(ServerError)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}
