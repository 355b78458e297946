//! Which workspaces claim which addresses.
//!
//! A platform may give the address of a stopped workspace to the next one. If two workspaces that
//! are up claim the same address, a request for the first could reach the second, so requests for
//! both are refused. Gitpod's ws-proxy has the same rule. Addresses are compared in every form that
//! reaches the same machine, see [`Address::meant`].

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{Destination, Workspace, WorkspaceId, destination::Address},
    UndeclaredPorts,
};
use crate::workspaces::source::SourceId;

pub(super) type Holder = (SourceId, WorkspaceId);

/// The workspaces that claim something at an address, on any port.
#[derive(Default)]
pub(super) struct Claims(HashMap<IpAddr, Holders>);

/// The claimants of one address. Nearly always there is one, which then needs no vector.
enum Holders {
    One(Holder),
    Many(Vec<Holder>),
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
    ) -> BTreeSet<Holder> {
        let (before, after) = (addresses(old, undeclared), addresses(new, undeclared));
        let mut touched = BTreeSet::new();
        if before == after {
            return touched;
        }
        let ips = |all: &BTreeSet<SocketAddr>| all.iter().map(SocketAddr::ip).collect();
        let (before, after): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (ips(&before), ips(&after));
        let holder = (source, id.clone());
        for ip in before.union(&after) {
            let others = self.others(*ip, &holder);
            touched.extend(others.iter().cloned());
            let all = others.into_iter().chain(after.contains(ip).then(|| holder.clone()));
            let mut all: Vec<Holder> = all.collect();
            match (all.pop(), all.is_empty()) {
                (None, _) => self.0.remove(ip),
                (Some(one), true) => self.0.insert(*ip, Holders::One(one)),
                (Some(last), false) => {
                    all.push(last);
                    self.0.insert(*ip, Holders::Many(all))
                }
            };
        }
        touched
    }

    /// Returns whether another workspace claims one of this workspace's addresses. `find` returns
    /// the other workspace with the rule for its undeclared ports.
    pub(super) fn contested<'w>(
        &self,
        source: SourceId,
        workspace: &Workspace,
        undeclared: UndeclaredPorts,
        find: impl Fn(&Holder) -> Option<(&'w Workspace, UndeclaredPorts)>,
    ) -> bool {
        let mine = addresses(Some(workspace), undeclared);
        let ips: BTreeSet<IpAddr> = mine.iter().map(SocketAddr::ip).collect();
        let me = (source, workspace.id.clone());
        let others = ips.into_iter().flat_map(|ip| self.others(ip, &me));
        others.into_iter().filter_map(|other| find(&other)).any(|(other, undeclared)| {
            addresses(Some(other), undeclared).iter().any(|theirs| {
                // Port 0 stands for all ports.
                let clash = |own: &&SocketAddr| {
                    own.ip() == theirs.ip()
                        && (own.port() == theirs.port() || own.port() == 0 || theirs.port() == 0)
                };
                mine.iter().any(|own| clash(&own))
            })
        })
    }

    fn others(&self, ip: IpAddr, me: &Holder) -> Vec<Holder> {
        match self.0.get(&ip) {
            None => vec![],
            Some(Holders::One(one)) => std::iter::once(one).filter(|h| *h != me).cloned().collect(),
            Some(Holders::Many(all)) => all.iter().filter(|h| *h != me).cloned().collect(),
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
        Destination::Backend(_) | Destination::Gateway(_) => None,
    };
    let of_ports = endpoints.iter().filter_map(|endpoint| address(&endpoint.destination));
    // With this rule the owner reaches any port at the workspace's address, so all ports are
    // claimed.
    let open = up.filter(|_| undeclared == UndeclaredPorts::Owner);
    let of_all = open.and_then(|workspace| workspace.address).map(|address| (address, 0));
    let meant = |(address, port): (Address, u16)| {
        address.meant().into_iter().map(move |ip| SocketAddr::new(ip, port))
    };
    of_ports.chain(of_all).flat_map(meant).collect()
}
