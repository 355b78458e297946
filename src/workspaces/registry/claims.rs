//! Which workspaces claim which addresses.
//!
//! A platform may give the address of a stopped workspace to the next one. If two workspaces that
//! are up claim the same address, a request for the first could reach the second, so requests for
//! both are refused. Gitpod's ws-proxy has the same rule. Addresses are compared in every form that
//! reaches the same machine, see [`Address::reachable`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map, hash_map},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{Destination, Workspace, WorkspaceId, destination::Address},
    UndeclaredPorts,
};
use crate::workspaces::source::SourceId;

pub(super) type Claimant = (SourceId, WorkspaceId);

/// Stands for all ports of an address.
const ALL_PORTS: u16 = 0;

/// The workspaces that claim something, by address and port.
///
/// A platform decides how many workspaces claim one address, so no change may take time that grows with their number,
/// except one that claims or releases all ports of it.
#[derive(Default)]
pub(super) struct Claims(HashMap<IpAddr, AddressClaims>);

/// The claims at one address. Nearly always there is one claimant, whose ports need no index.
enum AddressClaims {
    One(Claimant, BTreeSet<u16>),
    Many(Box<ClaimIndex>),
}

/// The claims of several workspaces at one address.
#[derive(Default)]
struct ClaimIndex {
    // Ordered: the first of a tree is found in the same time however many there were before.
    ports: BTreeMap<Claimant, BTreeSet<u16>>,
    claimants: BTreeMap<u16, BTreeSet<Claimant>>,
}

/// The workspaces, except one, that claim the same.
enum OtherClaimants<'c> {
    None,
    One(&'c Claimant),
    Several,
}

impl Claims {
    /// Replaces the claims of a workspace. Returns the other workspaces whose conflicts may have
    /// changed.
    pub(super) fn change(
        &mut self,
        source: SourceId,
        id: &WorkspaceId,
        old: Option<&Workspace>,
        new: Option<&Workspace>,
        undeclared: UndeclaredPorts,
    ) -> BTreeSet<Claimant> {
        let (before, after) = (addresses(old, undeclared), addresses(new, undeclared));
        let mut touched = BTreeSet::new();
        if before == after {
            return touched;
        }
        let me = (source, id.clone());
        let changed: BTreeSet<&SocketAddr> = before.symmetric_difference(&after).collect();
        let ips: BTreeSet<IpAddr> = changed.iter().map(|address| address.ip()).collect();
        for ip in ips {
            let ports = after.iter().filter(|address| address.ip() == ip).map(SocketAddr::port);
            self.replace(ip, &me, ports.collect());
        }
        for address in changed {
            self.affected(*address, &me, &mut touched);
        }
        touched
    }

    /// Returns whether another workspace claims one of this workspace's addresses.
    pub(super) fn contested(
        &self,
        source: SourceId,
        workspace: &Workspace,
        undeclared: UndeclaredPorts,
    ) -> bool {
        let me = (source, workspace.id.clone());
        addresses(Some(workspace), undeclared).into_iter().any(|address| {
            let Some(claims) = self.0.get(&address.ip()) else { return false };
            let exists = |others: OtherClaimants<'_>| !matches!(others, OtherClaimants::None);
            match address.port() {
                ALL_PORTS => exists(claims.other_claimants(&me)),
                port => exists(claims.others(port, &me)) || exists(claims.others(ALL_PORTS, &me)),
            }
        })
    }

    /// Replaces the ports that a workspace claims at an address.
    fn replace(&mut self, ip: IpAddr, me: &Claimant, ports: BTreeSet<u16>) {
        let mut entry = match self.0.entry(ip) {
            hash_map::Entry::Occupied(entry) => entry,
            hash_map::Entry::Vacant(entry) => {
                if !ports.is_empty() {
                    entry.insert(AddressClaims::One(me.clone(), ports));
                }
                return;
            }
        };
        let claims = entry.get_mut();
        if let AddressClaims::One(one, theirs) = claims {
            if one == me {
                if ports.is_empty() {
                    entry.remove();
                } else {
                    *theirs = ports;
                }
                return;
            }
            let mut index = ClaimIndex::default();
            index.replace(one, std::mem::take(theirs));
            *claims = AddressClaims::Many(Box::new(index));
        }
        if let AddressClaims::Many(index) = claims {
            index.replace(me, ports);
            if index.ports.len() == 1
                && let Some((one, ports)) = index.ports.pop_first()
            {
                *claims = AddressClaims::One(one, ports);
            }
        }
    }

    /// Adds the workspaces whose conflicts may have changed when this one began or ceased to claim an address. One that
    /// another workspace contests too stays contested, so at most one has to be looked at for each port; for all ports,
    /// the workspaces that only this one contests.
    fn affected(&self, address: SocketAddr, me: &Claimant, touched: &mut BTreeSet<Claimant>) {
        let Some(claims) = self.0.get(&address.ip()) else { return };
        let whole_address = claims.others(ALL_PORTS, me);
        if address.port() != ALL_PORTS {
            if let OtherClaimants::One(other) = claims.others(address.port(), me) {
                touched.insert(other.clone());
            }
            if let (OtherClaimants::One(other), OtherClaimants::One(_)) =
                (whole_address, claims.other_claimants(me))
            {
                touched.insert(other.clone());
            }
            return;
        }
        match whole_address {
            OtherClaimants::None => claims.each_other(me, |other| {
                touched.insert(other.clone());
            }),
            OtherClaimants::One(other) => {
                touched.insert(other.clone());
            }
            OtherClaimants::Several => {}
        }
    }
}

impl AddressClaims {
    /// The other workspaces that claim exactly this port.
    fn others(&self, port: u16, me: &Claimant) -> OtherClaimants<'_> {
        match self {
            Self::One(one, ports) if one != me && ports.contains(&port) => OtherClaimants::One(one),
            Self::One(..) => OtherClaimants::None,
            Self::Many(index) => {
                OtherClaimants::among(index.claimants.get(&port).into_iter().flatten(), me)
            }
        }
    }

    /// The other workspaces that claim any port.
    fn other_claimants(&self, me: &Claimant) -> OtherClaimants<'_> {
        match self {
            Self::One(one, _) => OtherClaimants::among(std::iter::once(one), me),
            Self::Many(index) => OtherClaimants::among(index.ports.keys(), me),
        }
    }

    fn each_other(&self, me: &Claimant, mut each: impl FnMut(&Claimant)) {
        match self {
            Self::One(one, _) => std::iter::once(one).filter(|one| *one != me).for_each(&mut each),
            Self::Many(index) => index.ports.keys().filter(|one| *one != me).for_each(&mut each),
        }
    }
}

impl ClaimIndex {
    fn replace(&mut self, claimant: &Claimant, ports: BTreeSet<u16>) {
        for port in self.ports.remove(claimant).unwrap_or_default() {
            if let btree_map::Entry::Occupied(mut entry) = self.claimants.entry(port) {
                entry.get_mut().remove(claimant);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
        for port in &ports {
            self.claimants.entry(*port).or_default().insert(claimant.clone());
        }
        if !ports.is_empty() {
            self.ports.insert(claimant.clone(), ports);
        }
    }
}

impl<'c> OtherClaimants<'c> {
    /// Looks at three claimants at most.
    fn among(all: impl Iterator<Item = &'c Claimant>, me: &Claimant) -> Self {
        let mut others = all.filter(|one| *one != me);
        match (others.next(), others.next()) {
            (None, _) => Self::None,
            (Some(one), None) => Self::One(one),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

/// The addresses that a workspace claims, each in every form that reaches the same machine.
fn addresses(workspace: Option<&Workspace>, undeclared: UndeclaredPorts) -> BTreeSet<SocketAddr> {
    let up = workspace.filter(|workspace| workspace.phase.is_routable());
    let endpoints = up.map(|workspace| workspace.endpoints.as_slice()).unwrap_or_default();
    let address = |destination: &Destination| match destination {
        Destination::Address(server) => Some((server.address, server.port)),
        // A backend or a named server may serve many workspaces, which it tells apart by host.
        Destination::Backend(_) | Destination::NamedServer(_) => None,
    };
    let endpoint_addresses = endpoints.iter().filter_map(|endpoint| address(&endpoint.destination));
    // With this rule the owner reaches any port at the workspace's address, so all ports are
    // claimed.
    let open = up.filter(|_| undeclared == UndeclaredPorts::Owner);
    let undeclared_address =
        open.and_then(|workspace| workspace.address).map(|address| (address, 0));
    let reachable = |(address, port): (Address, u16)| {
        address.reachable().into_iter().map(move |ip| SocketAddr::new(ip, port))
    };
    endpoint_addresses.chain(undeclared_address).flat_map(reachable).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::workspaces::{
        Admission, Endpoint, EndpointName, EndpointOrigins, Person, Phase, Protocol, Revision,
    };

    /// A workspace that claims these ports of addresses; port zero stands for all.
    fn workspace(id: &str, claims: &BTreeSet<(u8, u16)>) -> Workspace {
        let endpoint = |(number, (host, port)): (usize, &(u8, u16))| Endpoint {
            name: EndpointName::Port(u16::try_from(number + 1).unwrap()),
            protocol: Protocol::Http,
            admission: Admission::Owner,
            destination: Destination::Address(format!("10.0.0.{host}:{port}").parse().unwrap()),
            origins: EndpointOrigins::default(),
        };
        let ports = claims.iter().filter(|(_, port)| *port != ALL_PORTS);
        let all = claims.iter().find(|(_, port)| *port == ALL_PORTS);
        Workspace {
            id: id.parse().unwrap(),
            instance: None,
            revision: Revision::default(),
            organization: None,
            owner_label: "alice".into(),
            owner: Person::default(),
            grants: vec![],
            phase: Phase::Running,
            address: all.map(|(host, _)| format!("10.0.0.{host}").parse().unwrap()),
            template: None,
            endpoints: ports.enumerate().map(endpoint).collect(),
            paths: vec![],
        }
    }

    fn clash(one: &BTreeSet<(u8, u16)>, other: &BTreeSet<(u8, u16)>) -> bool {
        let same = |a: u16, b: u16| a == b || a == ALL_PORTS || b == ALL_PORTS;
        one.iter().any(|(host, port)| other.iter().any(|(h, p)| h == host && same(*p, *port)))
    }

    proptest! {
        #[test]
        fn what_is_remembered_of_each_conflict_is_what_all_pairs_say(
            changes in prop::collection::vec(
                (0..6_usize, prop::collection::btree_set((0..2_u8, 0..3_u16), 0..4)), 1..40),
        ) {
            let mut claims = Claims::default();
            let mut all: HashMap<WorkspaceId, (BTreeSet<(u8, u16)>, Workspace)> = HashMap::new();
            let mut contested: HashMap<WorkspaceId, bool> = HashMap::new();
            let (source, rule) = (SourceId::new(0), UndeclaredPorts::Owner);
            for (number, mut set) in changes {
                // A workspace has one address of its own.
                let mut own = set.iter().filter(|(_, port)| *port == ALL_PORTS).copied();
                let first = own.next();
                set.retain(|claim| claim.1 != ALL_PORTS || Some(*claim) == first);
                let next = workspace(&format!("w{number}"), &set);
                let id = next.id.clone();
                let old = all.insert(id.clone(), (set, next.clone())).map(|(_, old)| old);
                let touched = claims.change(source, &id, old.as_ref(), Some(&next), rule);
                contested.insert(id.clone(), claims.contested(source, &next, rule));
                for (_, id) in touched {
                    contested.insert(id.clone(), claims.contested(source, &all[&id].1, rule));
                }
                for (id, (set, _)) in &all {
                    let others = all.iter().filter(|(other, _)| *other != id);
                    let expected = others.clone().any(|(_, (other, _))| clash(set, other));
                    prop_assert_eq!(contested[id], expected, "{:?}", id);
                }
            }
        }
    }

    #[test]
    fn many_workspaces_at_one_address_touch_few_others() {
        for same_port in [true, false] {
            let mut claims = Claims::default();
            let mut touched = 0;
            let one = |number: u16| {
                let port = if same_port { 1 } else { number + 1 };
                workspace(&format!("w{number}"), &[(1, port)].into())
            };
            for number in 0..10_000 {
                let next = one(number);
                let (source, rule) = (SourceId::new(0), UndeclaredPorts::Deny);
                touched += claims.change(source, &next.id, None, Some(&next), rule).len();
                assert_eq!(claims.contested(source, &next, rule), same_port && number > 0);
            }
            for number in 0..10_000 {
                let old = one(number);
                let (source, rule) = (SourceId::new(0), UndeclaredPorts::Deny);
                touched += claims.change(source, &old.id, Some(&old), None, rule).len();
            }
            assert!(claims.0.is_empty());
            assert!(touched <= 2, "{touched}");
        }
    }
}
