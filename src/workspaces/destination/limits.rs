//! The addresses and backends that requests may be sent to: `[destinations]`.
//!
//! Some addresses are forbidden by default: this machine, link-local and multicast ranges, and the
//! metadata services of clouds, which hand out credentials to everyone who connects. The operator
//! can except ranges (`allow`), and can limit all destinations to ranges (`only`).
//!
//! Invariant: an address is permitted only if every address that it stands for is (see
//! [`Address::reachable`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    address::{Address, canonical},
    backends::AllowedBackends,
};

/// The addresses and backends that requests may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationLimits {
    /// Exceptions from what is forbidden by default.
    allow: Vec<IpNet>,
    /// If this is not empty, nothing else is permitted.
    only: Vec<IpNet>,
    /// The backends that lists and platforms may name.
    pub backends: AllowedBackends,
}

impl DestinationLimits {
    /// The limits with these exceptions, and restricted to `only` if it is not empty.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, only: Vec<IpNet>) -> Self {
        let canonical = |nets: Vec<IpNet>| nets.into_iter().map(canonical).collect();
        Self {
            allow: canonical(allow),
            only: canonical(only),
            backends: AllowedBackends::default(),
        }
    }

    /// The same limits with these backends.
    #[must_use]
    pub fn with_backends(self, backends: AllowedBackends) -> Self {
        Self { backends, ..self }
    }

    /// Returns whether requests may be sent to the address, and to every address that it stands
    /// for.
    ///
    /// Without an exception in `allow`, this machine (loopback, unspecified) and link-local and
    /// multicast ranges are forbidden. The metadata address of a cloud is permitted only if `allow`
    /// names that single address; a range that contains it is not enough.
    #[must_use]
    pub fn permits(&self, address: Address) -> bool {
        address.reachable().into_iter().all(|ip| self.permits_one(ip))
    }

    fn permits_one(&self, ip: IpAddr) -> bool {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        let excepted = || {
            if is_metadata(ip) {
                self.allow.contains(&IpNet::from(ip))
            } else {
                within(&self.allow)
            }
        };
        // An exception does not lift the limit `only`, and the limit is not an exception.
        (!is_forbidden(ip) || excepted()) && (self.only.is_empty() || within(&self.only))
    }
}

/// The metadata and credential services of clouds. Everyone who connects gets the machine's
/// credentials.
const METADATA: [IpAddr; 16] = [
    // AWS, Google, Azure, Oracle, OpenStack and most others.
    v4(169, 254, 169, 254),
    // AWS: credentials of ECS tasks and of EKS pods.
    v4(169, 254, 170, 2),
    v4(169, 254, 170, 23),
    // Tencent.
    v4(169, 254, 0, 23),
    // Alibaba.
    v4(100, 100, 100, 200),
    v6(0xfd00_0100_0000_0000_0000_0000_0100_0200),
    // The host agent of Azure.
    v4(168, 63, 129, 16),
    // Oracle Classic.
    v4(192, 0, 0, 192),
    // AWS: machines and EKS pods.
    v6(0xfd00_0ec2_0000_0000_0000_0000_0000_0254),
    v6(0xfd00_0ec2_0000_0000_0000_0000_0000_0023),
    // Google.
    v6(0xfd20_00ce_0000_0000_0000_0000_0000_0254),
    // Oracle.
    v6(0xfd00_00c1_0000_0000_0000_0000_a9fe_a9fe),
    // OpenStack.
    v6(0xfe80_0000_0000_0000_0000_0000_a9fe_a9fe),
    // Scaleway.
    v4(169, 254, 42, 42),
    v6(0xfd00_0042_0000_0000_0000_0000_0000_0042),
    // Linode.
    v6(0xfd00_a9fe_a9fe_0000_0000_0000_0000_0001),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(bits: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(bits))
}

fn is_metadata(ip: IpAddr) -> bool {
    METADATA.contains(&ip)
}

fn is_forbidden(ip: IpAddr) -> bool {
    let special = match ip {
        IpAddr::V4(v4) => {
            // "This network" (RFC 791 section 3.2) reaches this machine on many systems.
            v4.octets().first() == Some(&0) || v4.is_link_local() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // Link-local (RFC 4291 section 2.5.6), the deprecated site-local (RFC 3879), and the services that
            // AWS has in every network.
            matches!(first & 0xffc0, 0xfe80 | 0xfec0) || (first, second) == (0xfd00, 0xec2)
        }
    };
    special || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_metadata(ip)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(allow: &[&str], only: &[&str]) -> DestinationLimits {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        DestinationLimits::new(nets(allow), nets(only))
    }

    #[test]
    fn the_inside_of_the_machine_and_of_the_cloud_is_forbidden_in_every_spelling() {
        let ranges = DestinationLimits::default();
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::ffff:0.0.0.0",
            "::0.0.0.2",
            "::ffff:0:127.0.0.1",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9fe:a9:fe00:5db8:d822",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "2001:0:808:808:0:0:5601:5601",
            "2001:0:7f00:1::f7f7:f7f7",
            "2001:db8::5efe:127.0.0.1",
            "2001:db8::200:5efe:169.254.169.254",
            "fe80::5efe:8.8.8.8",
            "fd20:ce::254",
            "fd00:ec2::23",
            "fd00:ec2::253",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
        ] {
            assert!(!ranges.permits(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.1.1", "172.16.0.9", "203.0.113.9", "2001:db8::1", "fd12::1"]
        {
            assert!(ranges.permits(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn exceptions_and_limits_are_the_operators() {
        let open = ranges(&["127.0.0.0/8"], &[]);
        assert!(open.permits("127.0.0.1".parse().unwrap()));
        assert!(open.permits("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!open.permits("169.254.169.254".parse().unwrap()));
        let narrow = ranges(&[], &["10.1.0.0/16"]);
        assert!(narrow.permits("10.1.2.3".parse().unwrap()));
        assert!(!narrow.permits("10.2.2.3".parse().unwrap()));
        // An address within the limit is still not an exception.
        assert!(!ranges(&[], &["127.0.0.0/8"]).permits("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn s5_metadata_is_reached_only_where_it_is_named_to_the_letter() {
        for ip in METADATA {
            let address = Address::from(ip);
            let all = ["0.0.0.0/0", "::/0", "169.254.0.0/16", "fd00::/8"];
            assert!(!ranges(&all, &[]).permits(address), "{ip}");
            assert!(!ranges(&[], &all).permits(address), "{ip}");
            let named = DestinationLimits::new(vec![ip.into()], vec![]);
            assert!(named.permits(address), "{ip}");
            if let IpAddr::V4(v4) = ip {
                assert!(named.permits(v4.to_ipv6_mapped().to_string().parse().unwrap()));
            }
        }
    }

    #[test]
    fn s5_ranges_are_in_the_form_of_the_addresses_in_them() {
        for net in ["::ffff:127.0.0.0/104", "64:ff9b::7f00:0/104", "::ffff:0:127.0.0.0/104"] {
            assert_eq!(ranges(&[net], &[net]), ranges(&["127.0.0.0/8"], &["127.0.0.0/8"]), "{net}");
        }
        assert_eq!(ranges(&["::ffff:0:0/96"], &[]), ranges(&["0.0.0.0/0"], &[]));
        for net in ["::1/128", "::/0", "2001:db8::/32", "10.0.0.0/8"] {
            assert_eq!(ranges(&[net], &[]).allow, [net.parse().unwrap()]);
        }
    }

    #[test]
    fn s5_an_address_that_only_carries_a_permitted_one_is_not_within_a_limit() {
        let narrow = ranges(&[], &["10.0.0.0/8"]);
        for (address, permitted) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::10.0.0.1", true),
            // Anyone may have a machine with that interface id below a prefix of their own.
            ("2001:db8:bad::5efe:10.0.0.1", false),
            ("2002:a00:1:bad::1", false),
            ("2001:0:a00:1::f5ff:fffe", false),
        ] {
            assert_eq!(narrow.permits(address.parse().unwrap()), permitted, "{address}");
        }
    }

    /// Every way in which an IPv6 address can contain this IPv4 address, with other bits where the
    /// form has some.
    fn spellings(v4: Ipv4Addr, more: [u16; 4]) -> Vec<(Ipv6Addr, bool)> {
        let bits = v4.to_bits();
        let (high, low) = ((bits >> 16) as u16, (bits & 0xffff) as u16);
        let [x, y, z, w] = more;
        let at = |segments: [u16; 8]| Ipv6Addr::from(segments);
        vec![
            (at([0, 0, 0, 0, 0, 0xffff, high, low]), true),
            (at([0, 0, 0, 0, 0xffff, 0, high, low]), true),
            (at([0x64, 0xff9b, 0, 0, 0, 0, high, low]), true),
            (at([0x64, 0xff9b, 1, 0, 0, 0, high, low]), false),
            (at([0x64, 0xff9b, 1, high, low >> 8, low << 8, 0, 0]), false),
            (at([0x64, 0xff9b, 1, high, low >> 8, low << 8 | x & 0xff, y, z]), false),
            (at([0x64, 0xff9b, 1, high >> 8, high & 0xff, low, 0, 0]), false),
            (at([0x64, 0xff9b, 1, 0, high >> 8, high << 8 | low >> 8, low << 8, 0]), false),
            (at([0x2002, high, low, x, y, z, w, x]), false),
            (at([0x2001, 0, high, low, x, y, z, w]), false),
            (at([0x2001, 0, x, y, z, w, !high, !low]), false),
            (at([x | 0x2000, y, z, w, 0, 0x5efe, high, low]), false),
            (at([x | 0x2000, y, z, w, 0x200, 0x5efe, high, low]), false),
        ]
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        let inside = prop::sample::select(METADATA.to_vec()).prop_map(IpNet::from);
        let any_ipv4_net = (any::<[u8; 4]>(), 0..=32_u8)
            .prop_map(|(ip, length)| IpNet::new(IpAddr::from(ip), length).unwrap());
        let any_ipv6_net = (any::<[u8; 16]>(), 0..=128_u8)
            .prop_map(|(ip, length)| IpNet::new(IpAddr::from(ip), length).unwrap());
        let usual = prop::sample::select(vec!["127.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.0/8"])
            .prop_map(|net| net.parse().unwrap());
        prop_oneof![inside, any_ipv4_net, any_ipv6_net, usual]
    }

    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        let special = ["127.0.0.1", "0.0.0.0", "169.254.169.254", "10.0.0.1", "100.100.100.200"];
        let special = special.map(|ip| ip.parse::<Ipv4Addr>().unwrap());
        prop_oneof![prop::sample::select(special.to_vec()), any::<u32>().prop_map(Ipv4Addr::from)]
    }

    proptest! {
        #[test]
        fn s5_whatever_the_spelling_what_is_held_decides(
            v4 in any_v4(),
            more in any::<[u16; 4]>(),
            allow in prop::collection::vec(any_net(), 0..4),
            only in prop::collection::vec(any_net(), 0..3),
        ) {
            let ranges = DestinationLimits::new(allow, only);
            let plain = ranges.permits(v4.into());
            for (v6, only_spells) in spellings(v4, more) {
                let address = Address::from(IpAddr::V6(v6));
                let held = address.reachable();
                let decided = ranges.permits(address);
                prop_assert!(!decided || plain || v4.octets()[0] == 0, "{v6} for {v4}");
                prop_assert!(!only_spells || decided == plain, "{v6} for {v4}");
                prop_assert!(!only_spells || held.as_slice() == [IpAddr::V4(v4)], "{v6} for {v4}");
                // A reading that begins with 0 is padding, and such an address is refused by
                // itself.
                prop_assert!(held.contains(&IpAddr::V4(v4)) || v4.octets()[0] == 0, "{v6} for {v4}");
                // An address is permitted as a whole or not at all.
                let each = held.iter().all(|ip| ranges.permits_one(*ip));
                prop_assert_eq!(decided, each);
            }
        }
    }
}
