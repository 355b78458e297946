//! What the table of live tunnels holds: each tunnel with the state of its stream, the shares that
//! are taken of the table, and the last scan of each socket of HAProxy.
//!
//! The methods here change the state under the lock of [`Tunnels`](super::Tunnels) and do nothing
//! else: they write no record and wake no task. Each leaves the counts of the shares equal to the
//! entries.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tracing::warn;

use crate::{
    authz::decision::DecisionId,
    haproxy::{Process, SocketId, runtime::Pointer},
    time::MonotonicTime,
    tunnels::{TerminationCause, Tunnel},
};

/// A tunnel whose process of HAProxy does not answer stays in the table for this time.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_hours(1);

/// Everything that the lock of the table protects.
#[derive(Default)]
pub(in crate::tunnels) struct TableState {
    pub(in crate::tunnels) entries: HashMap<DecisionId, TableEntry>,
    pub(super) held_by: HashMap<ShareHolder, usize>,
    /// The number of tunnels without a person.
    pub(super) anonymous: usize,
    pub(in crate::tunnels) frontends: HashSet<Box<[u8]>>,
    /// The last complete scan of each socket.
    pub(in crate::tunnels) scans: Vec<Option<SocketScan>>,
    /// Why each socket does not answer at the moment.
    pub(in crate::tunnels) errors: Vec<Option<String>>,
    /// The number of tunnels found in HAProxy that this agent did not allow.
    pub(in crate::tunnels) unknown: usize,
    /// Counts the tunnels that were added and removed, so that the file is written only after a
    /// change.
    pub(in crate::tunnels) version: u64,
}

/// A tunnel in the table, with the state of its stream.
pub(in crate::tunnels) struct TableEntry {
    pub(in crate::tunnels) tunnel: Arc<Tunnel>,
    /// Where its stream is, once it was found.
    pub(in crate::tunnels) located: Option<LocatedStream>,
    /// Set once it must be terminated.
    pub(in crate::tunnels) due: Option<PendingTermination>,
    /// When HAProxy confirmed that it ended the stream.
    pub(in crate::tunnels) terminated_at: Option<MonotonicTime>,
    /// Whether HAProxy was asked to end it, even if the reply was lost.
    pub(in crate::tunnels) attempted: bool,
    /// Whether it was revalidated at least once since it was opened.
    pub(in crate::tunnels) revalidated: bool,
    /// When several streams were found of which any may be this one.
    pub(in crate::tunnels) ambiguous_since: Option<MonotonicTime>,
    /// When its process of HAProxy was first found not to answer.
    unreachable_since: Option<MonotonicTime>,
}

/// The duty to terminate a tunnel.
#[derive(Clone, Copy, Debug)]
pub(in crate::tunnels) struct PendingTermination {
    pub(in crate::tunnels) cause: TerminationCause,
    pub(in crate::tunnels) since: MonotonicTime,
    /// Whether its delay was recorded already.
    pub(super) reported: bool,
}

/// The result of one complete scan of a socket.
pub(in crate::tunnels) struct SocketScan {
    pub(in crate::tunnels) started: MonotonicTime,
    /// The ids of the processes that answered.
    pub(in crate::tunnels) processes: Vec<u32>,
    /// Whether the socket is that of a master, which lists every process.
    pub(in crate::tunnels) is_master: bool,
}

/// Who a tunnel is counted for.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum ShareHolder {
    Person(Box<str>, Box<str>),
    Address(Option<IpAddr>),
}

impl ShareHolder {
    pub(super) fn from_tunnel(tunnel: &Tunnel) -> Self {
        match &tunnel.identity {
            Some(identity) => Self::Person(identity.issuer.clone(), identity.subject.clone()),
            None => Self::Address(tunnel.client.map(client_network)),
        }
    }
}

/// The address that stands for one client. An IPv6 client has a whole /64 (RFC 6177).
fn client_network(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    IpAddr::V6((u128::from(v6) >> 64 << 64).into())
}

impl TableEntry {
    /// Whether HAProxy has its stream, as far as is known.
    pub(in crate::tunnels) fn is_there(&self) -> bool {
        self.located.is_some() || self.ambiguous_since.is_some()
    }
}

impl TableState {
    pub(super) fn insert(&mut self, tunnel: Tunnel) {
        let entry = TableEntry {
            tunnel: Arc::new(tunnel),
            located: None,
            due: None,
            terminated_at: None,
            attempted: false,
            revalidated: false,
            ambiguous_since: None,
            unreachable_since: None,
        };
        self.version += 1;
        *self.held_by.entry(ShareHolder::from_tunnel(&entry.tunnel)).or_default() += 1;
        self.anonymous += usize::from(entry.tunnel.identity.is_none());
        self.entries.insert(entry.tunnel.id, entry);
    }

    /// The ids of other tunnels at this stream, which have ended. `None` if it is `tunnel` that has
    /// ended, because a newer one has the same connection.
    pub(super) fn others_at(
        &self,
        found: &LocatedStream,
        tunnel: &Tunnel,
    ) -> Option<Vec<DecisionId>> {
        let others = self.entries.values().filter(|entry| entry.tunnel.id != tunnel.id);
        if tunnel.location.stream.is_none()
            && others.clone().any(|entry| {
                entry.tunnel.location == tunnel.location && entry.tunnel.opened > tunnel.opened
            })
        {
            return None;
        }
        let same = others.filter(|entry| {
            // A reused allow can be followed as two tunnels at one stream: neither ends the other.
            let is_the_same =
                tunnel.location.stream.is_some() && entry.tunnel.location == tunnel.location;
            entry.located.as_ref() == Some(found) && !is_the_same
        });
        Some(same.map(|entry| entry.tunnel.id).collect())
    }

    pub(super) fn remove(&mut self, id: &DecisionId) -> Option<TableEntry> {
        let entry = self.entries.remove(id)?;
        let holder = ShareHolder::from_tunnel(&entry.tunnel);
        self.anonymous =
            self.anonymous.saturating_sub(usize::from(entry.tunnel.identity.is_none()));
        if let Some(count) = self.held_by.get_mut(&holder) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.held_by.remove(&holder);
            }
        }
        self.version += 1;
        Some(entry)
    }

    /// The ids of tunnels that no process of HAProxy has: they have ended. A tunnel of a process
    /// that does not answer stays for a limited time.
    pub(super) fn nowhere(&mut self, now: MonotonicTime) -> Vec<DecisionId> {
        let Some(rounds) = self.scans.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else {
            return vec![];
        };
        let Some(started) = rounds.iter().map(|round| round.started).min() else { return vec![] };
        let all_masters = rounds.iter().all(|round| round.is_master);
        let answered: HashSet<u32> = rounds.iter().flat_map(|r| r.processes.clone()).collect();
        let mut gone = Vec::new();
        for (id, entry) in &mut self.entries {
            if entry.located.is_some() || entry.tunnel.opened >= started {
                continue;
            }
            let location = &entry.tunnel.location;
            if entry.ambiguous_since.is_some_and(|at| at >= started) {
                // One of the streams of its connection is this tunnel, but HAProxy does not tell
                // which.
                continue;
            }
            entry.ambiguous_since = None;
            let reached = all_masters || location.process.is_none_or(|id| answered.contains(&id));
            if reached && location.can_be_found() {
                gone.push(*id);
                continue;
            }
            let since = *entry.unreachable_since.get_or_insert(now);
            if now == since {
                warn!(decision_id = %id, process = location.process, "a tunnel cannot be terminated: its HAProxy process does not answer; give [haproxy] the socket of HAProxy's master");
            }
            if now.since(since) >= UNREACHABLE_TIMEOUT {
                gone.push(*id);
            }
        }
        gone
    }
}

/// Where the stream of a tunnel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tunnels) struct LocatedStream {
    /// The socket.
    pub(in crate::tunnels) socket: SocketId,
    /// How its process is reached, and the id of that process.
    pub(in crate::tunnels) process: Process,
    pub(in crate::tunnels) process_id: u32,
    pub(in crate::tunnels) pointer: Pointer,
}
