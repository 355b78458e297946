//! Makes tunnels of plain requests that last.
//!
//! Each scan of HAProxy's streams is compared with the requests that were allowed in the last
//! seconds ([`super::recent`]). A request whose stream is older than [`LONG_REQUEST_AGE`] enters the table.
//! One that would be refused by now enters it at once, to be terminated. One that the agent before
//! this one allowed enters it as soon as its stream is found by its number.
//!
//! HAProxy's list does not tell the streams of one connection apart. The details of a stream do, so
//! they are requested where it matters. Before HAProxy 3.0 streams have no number that the agent
//! knows: details identify them only with HTTP/1 and TCP, where the stream is that of the
//! connection's last request. With HTTP/2, a request stands for its whole connection, and all its
//! streams are terminated together.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use super::{
    TerminationCause, Tunnel, TunnelKind,
    recent::{LONG_REQUEST_AGE, RESPONSE_GRACE, RecentRequest, RecordNumber},
    revalidation,
    terminator::SocketWorker,
};
use crate::{
    authz::{decision::DecisionId, reason::Reason},
    gate::Gate,
    haproxy::{
        AskError, Process,
        runtime::{Detail, List, Pointer},
    },
    time::{MonotonicTime, Timestamp},
    tunnels::table::LocatedStream,
    workspaces::pattern::Scratch,
};

/// The frontend of a client's connection, and the client's address and port.
pub(super) type Connection<'l> = (&'l [u8], Option<SocketAddr>);

/// The streams of one connection.
#[derive(Default)]
pub(super) struct Streams {
    /// All streams.
    pub(super) all: Vec<Pointer>,
    /// The streams that may be older than [`LONG_REQUEST_AGE`].
    pub(super) old: Vec<Pointer>,
}

/// A remembered request that may have a stream in the list.
struct Candidate {
    number: RecordNumber,
    tunnel: Tunnel,
    /// Why it must be terminated, if it must.
    cause: Option<TerminationCause>,
}

/// Whether a request becomes a tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Young,
    /// It lasts, if its stream is old as well.
    Lasts,
    /// The agent before this one allowed it. A stream with its number is this one at any age.
    Inherited,
}

/// The result of comparing the remembered requests with a list of streams.
#[derive(Default)]
struct Comparison {
    near: Vec<Candidate>,
    /// The last request of each connection whose streams have no numbers.
    last: HashMap<(Box<[u8]>, Option<SocketAddr>), DecisionId>,
    /// Whether a request must end that is so young that its response may be under way.
    is_early: bool,
    /// The streams whose details are needed.
    pointers: HashSet<Pointer>,
}

impl SocketWorker {
    /// Adds remembered requests to the table that last, or would be refused by now.
    pub(super) async fn promote(
        &self,
        process: &Process,
        list: &List,
        asked: MonotonicTime,
    ) -> Result<(), AskError> {
        let Some(live) = self.live.as_ref().filter(|_| self.tunnels.has_recent()) else {
            return Ok(());
        };
        let streams = connections(list, self.is_late(asked));
        let comparison = self.compare_recent(&live.gate(), &streams, list.process, asked);
        if comparison.is_early {
            self.tunnels.changed();
        }
        if comparison.near.is_empty() {
            return Ok(());
        }
        let pointers: Vec<_> = comparison.pointers.iter().copied().collect();
        let details = process.details(&pointers).await?;
        let mut full = Vec::new();
        for near in comparison.near {
            let location = &near.tunnel.location;
            let key = (location.frontend.clone(), location.source);
            let is_last = comparison.last.get(&key) == Some(&near.tunnel.id);
            let mut here = details.iter().filter(|detail| {
                *detail.frontend == *location.frontend && detail.source == location.source
            });
            let found = here.clone().find(|detail| match location.stream {
                Some(_) => location.is(detail, list.process),
                None => is_last && !detail.shares_connection,
            });
            let found = found.map(|detail| LocatedStream {
                socket: self.number,
                process: process.clone(),
                process_id: list.process,
                pointer: detail.pointer,
            });
            let is_shared =
                location.stream.is_none() && here.any(|detail| detail.shares_connection);
            if found.is_none() && (!is_shared || self.is_known(&near.tunnel)) {
                continue;
            }
            let pointer = found.as_ref().map(|found| found.pointer);
            // From here on the table decides about it, and no later scan may add it again.
            self.tunnels.recent.lock().take(near.number);
            if self.tunnels.promote(near.tunnel.clone(), found, near.cause).is_err() {
                let of_connection = here_of(&details, &near.tunnel);
                full.push((near.tunnel, pointer.map_or(of_connection, |pointer| vec![pointer])));
            }
        }
        self.refuse(process, full).await
    }

    /// The remembered requests that may have a stream in the list and last, or must end.
    fn compare_recent(
        &self,
        gate: &Gate,
        streams: &HashMap<Connection<'_>, Streams>,
        process: u32,
        asked: MonotonicTime,
    ) -> Comparison {
        let workspaces = gate.registry.snapshot();
        let (now, mut scratch) = (Timestamp::now(), Scratch::default());
        let mut comparison = Comparison::default();
        let mut next = Some(0);
        while let Some(from) = next {
            let mut some = Vec::new();
            next = self.tunnels.recent.lock().some(from, |seen| {
                if !seen.is_in(process) {
                    return;
                }
                let Some(there) = streams.get(&seen.connection()) else { return };
                comparison.note_last(seen);
                // Without stream numbers, any stream of the connection could be this request, so
                // only age tells.
                let age = if seen.is_inherited() && seen.has_number() {
                    Age::Inherited
                } else if asked.since(seen.opened()) >= LONG_REQUEST_AGE {
                    Age::Lasts
                } else {
                    Age::Young
                };
                // The lock is not held while decisions are made: requests need it.
                if !seen.is_taken()
                    && (age != Age::Lasts || !there.old.is_empty())
                    && let Some(tunnel) = seen.tunnel()
                {
                    some.push((seen.number(), tunnel, age));
                }
            });
            for (number, tunnel, age) in some {
                let cause = revalidation::ends(
                    (gate, &workspaces),
                    &tunnel,
                    &self.tunnels.settings,
                    now,
                    &mut scratch,
                );
                // A source that was not read yet must not end anything.
                let cause = cause.filter(|cause| {
                    *cause != TerminationCause::Refused(Reason::WorkspacesNotLoaded)
                });
                let is_new = age != Age::Inherited && asked.since(tunnel.opened) < RESPONSE_GRACE;
                if cause.is_some() && is_new {
                    comparison.is_early = true;
                    continue;
                }
                let location = &tunnel.location;
                let Some(there) = streams.get(&(&*location.frontend, location.source)) else {
                    continue;
                };
                if age != Age::Young || cause.is_some() {
                    let only_old = age == Age::Lasts && cause.is_none();
                    let wanted = if only_old { &there.old } else { &there.all };
                    comparison.pointers.extend(wanted);
                    comparison.near.push(Candidate { number, tunnel, cause });
                }
            }
        }
        comparison
    }

    /// Whether the table has a tunnel of the same connection and the same decision, so that another
    /// entry would change nothing.
    pub(super) fn is_known(&self, tunnel: &Tunnel) -> bool {
        let state = self.tunnels.lock();
        state.entries.values().any(|entry| {
            let known = &entry.tunnel;
            // Identities and sessions are compared by address: another one may be decided about
            // otherwise, even if it says the same.
            known.kind == TunnelKind::Request
                && entry.due.is_none()
                && known.location == tunnel.location
                && same(known.identity.as_ref(), tunnel.identity.as_ref())
                && same(known.session.as_ref(), tunnel.session.as_ref())
                && known.host == tunnel.host
                && known.method == tunnel.method
                && known.path == tunnel.path
                && known.route == tunnel.route
        })
    }

    /// Terminates requests for which the table has no room.
    pub(super) async fn refuse(
        &self,
        process: &Process,
        full: Vec<(Tunnel, Vec<Pointer>)>,
    ) -> Result<(), AskError> {
        let pointers: Vec<_> = full.iter().flat_map(|(_, pointers)| pointers).copied().collect();
        if pointers.is_empty() {
            return Ok(());
        }
        process.shut(&pointers).await?;
        for (tunnel, _) in full {
            self.tunnels.record_untracked(&tunnel);
        }
        Ok(())
    }

    /// Terminates whole connections whose streams HAProxy does not tell apart (HTTP/2 before 3.0)
    /// and of which one must end.
    pub(super) async fn terminate_connections(
        &self,
        process: &Process,
        list: &List,
    ) -> Result<(), AskError> {
        // Those with a stream number, or with a located stream, are terminated one by one.
        let due: Vec<(DecisionId, Box<[u8]>, SocketAddr)> = {
            let state = self.tunnels.lock();
            let due = state.entries.iter().filter(|(_, entry)| {
                entry.due.is_some()
                    && entry.located.is_none()
                    && entry.tunnel.location.stream.is_none()
            });
            let places = due.map(|(id, entry)| (id, &entry.tunnel.location));
            let here =
                places.filter(|(_, location)| location.process.is_none_or(|id| id == list.process));
            here.filter_map(|(id, location)| {
                Some((*id, location.frontend.clone(), location.source?))
            })
            .collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let streams = connections(list, false);
        let mut pointers = HashSet::new();
        for (_, frontend, source) in &due {
            let there = streams.get(&(&**frontend, Some(*source)));
            pointers.extend(there.into_iter().flat_map(|streams| &streams.all).copied());
        }
        let pointers: Vec<_> = pointers.into_iter().collect();
        if pointers.is_empty() {
            return Ok(());
        }
        let details = process.details(&pointers).await?;
        // On a connection with one stream at a time, the stream in the list may be a newer request.
        let shared = |frontend: &[u8], source: SocketAddr| {
            details.iter().any(|detail| {
                detail.shares_connection
                    && *detail.frontend == *frontend
                    && detail.source == Some(source)
            })
        };
        let (ids, selected): (Vec<_>, Vec<_>) = due
            .into_iter()
            .filter(|(_, frontend, source)| shared(frontend, *source))
            .map(|(id, frontend, source)| (id, (frontend, source)))
            .unzip();
        let selected: HashSet<_> = selected.into_iter().collect();
        let pointers: Vec<_> = details
            .iter()
            .filter_map(|detail| {
                let key = (detail.frontend.clone(), detail.source?);
                selected.contains(&key).then_some(detail.pointer)
            })
            .collect();
        if pointers.is_empty() {
            return Ok(());
        }
        process.shut(&pointers).await?;
        // All streams of the connection were terminated, so the right one was.
        self.tunnels.note_attempts(&ids);
        self.tunnels.note_terminated(ids.iter().copied());
        self.tunnels.ended(&ids);
        Ok(())
    }
}

impl Comparison {
    fn note_last(&mut self, seen: &RecentRequest<'_>) {
        if seen.has_number() {
            return;
        }
        let (frontend, source) = seen.connection();
        self.last.insert((frontend.into(), source), *seen.id());
    }
}

/// The streams of each connection. With `all_old`, ages are not trusted, and every stream may be
/// old.
pub(super) fn connections(list: &List, all_old: bool) -> HashMap<Connection<'_>, Streams> {
    let mut all: HashMap<Connection<'_>, Streams> = HashMap::new();
    for stream in list.streams.iter().filter(|stream| !stream.frontend.is_empty()) {
        let streams = all.entry((&stream.frontend, stream.source)).or_default();
        streams.all.push(stream.pointer);
        // HAProxy rounds ages down, so the larger bound counts.
        if all_old || stream.age.1 >= LONG_REQUEST_AGE {
            streams.old.push(stream.pointer);
        }
    }
    all
}

/// The streams on the connection of a tunnel.
fn here_of(details: &[Detail], tunnel: &Tunnel) -> Vec<Pointer> {
    let location = &tunnel.location;
    let here = details.iter().filter(|detail| {
        *detail.frontend == *location.frontend && detail.source == location.source
    });
    here.map(|detail| detail.pointer).collect()
}

fn same<T>(one: Option<&std::sync::Arc<T>>, other: Option<&std::sync::Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => std::sync::Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
