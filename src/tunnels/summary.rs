//! Counts of live tunnels, for the status of the agent.

use super::Tunnels;

/// How many tunnels there are, and how the sockets of HAProxy answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelsSummary {
    /// Live tunnels.
    pub open: usize,
    /// Tunnels that must be terminated and are still open.
    pub terminating: usize,
    /// Tunnels that were not found in HAProxy yet.
    pub not_found: usize,
    /// For each socket of HAProxy, in the order of the configuration, why it does not answer.
    pub sockets: Vec<Option<String>>,
}

impl Tunnels {
    /// The present counts.
    #[must_use]
    pub fn summary(&self) -> TunnelsSummary {
        let state = self.lock();
        let count = |is: fn(&super::table::TableEntry) -> bool| {
            state.entries.values().filter(|entry| is(entry)).count()
        };
        TunnelsSummary {
            open: state.entries.len(),
            terminating: count(|entry| entry.due.is_some() && entry.terminated_at.is_none()),
            not_found: count(|entry| !entry.is_there()),
            sockets: state.errors.clone(),
        }
    }
}
