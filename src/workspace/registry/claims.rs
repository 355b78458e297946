//! Which workspaces claim to be at which address.
//!
//! Platforms give the address of a stopped workspace to the next one. When two that are up claim one
//! address, a request for the first could reach the second, so neither is routed to (the rule of
//! Gitpod's ws-proxy).

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use super::{
    super::{Destination, Workspace, WorkspaceId},
    UndeclaredPorts,
};

type Holder = (usize, WorkspaceId);

#[derive(Default)]
pub(super) struct Claims(HashMap<SocketAddr, Vec<Holder>>);

impl Claims {
    /// Replaces what a workspace claims. Returns everybody whose lot may have changed, others only.
    pub(super) fn change(
        &mut self,
        source: usize,
        id: &WorkspaceId,
        old: Option<&Workspace>,
        new: Option<&Workspace>,
        undeclared: UndeclaredPorts,
    ) -> BTreeSet<Holder> {
        let (old, new) = (addresses(old, undeclared), addresses(new, undeclared));
        let mut touched = BTreeSet::new();
        for address in old.difference(&new) {
            let Some(holders) = self.0.get_mut(address) else { continue };
            holders.retain(|(s, other)| (*s, other) != (source, id));
            touched.extend(holders.iter().cloned());
            if holders.is_empty() {
                self.0.remove(address);
            }
        }
        for address in new.difference(&old) {
            let holders = self.0.entry(*address).or_default();
            touched.extend(holders.iter().cloned());
            holders.push((source, id.clone()));
        }
        touched
    }

    /// Whether another workspace claims one of this one's addresses.
    pub(super) fn contested(&self, workspace: &Workspace, undeclared: UndeclaredPorts) -> bool {
        let holders = |address| self.0.get(address).map_or(0, Vec::len);
        addresses(Some(workspace), undeclared).iter().any(|address| holders(address) > 1)
    }
}

fn addresses(workspace: Option<&Workspace>, undeclared: UndeclaredPorts) -> BTreeSet<SocketAddr> {
    let up = workspace.filter(|workspace| workspace.phase.is_routable());
    let endpoints = up.map(|workspace| workspace.endpoints.as_slice()).unwrap_or_default();
    let address = |destination: &Destination| match destination {
        Destination::Address(address) => Some(*address),
        // Many workspaces are behind one backend or gateway, which tells them apart by host.
        Destination::Backend(_) | Destination::Gateway(_) => None,
    };
    let of_ports = endpoints.iter().filter_map(|endpoint| address(&endpoint.destination));
    // Undeclared ports are reached at this one, whatever the port.
    let open = up.filter(|_| undeclared == UndeclaredPorts::Owner);
    let of_all = open.and_then(|workspace| workspace.address).map(|ip| SocketAddr::new(ip, 0));
    of_ports.chain(of_all).collect()
}
