//! Makes tunnels of plain requests that last.
//!
//! Each scan of HAProxy's streams is compared with the requests that were allowed in the last
//! seconds ([`super::recent`]). A request whose stream is older than [`LASTS`] enters the table.
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
    Cause, Kind, Tunnel,
    recent::{LASTS, Number, SPARED, Seen},
    revalidation,
    terminator::Site,
};
use crate::{
    authz::{decision::DecisionId, reason::Reason},
    gate::Gate,
    haproxy::{
        AskError, Process,
        runtime::{Detail, List, Pointer},
    },
    time::{MonotonicTime, Timestamp},
    tunnels::table::Found,
    workspaces::pattern::Scratch,
};

/// The frontend of a client's connection, and the client's address and port.
pub(super) type Connection<'l> = (&'l [u8], Option<SocketAddr>);

/// The streams of one connection.
#[derive(Default)]
pub(super) struct Streams {
    /// All streams.
    pub(super) all: Vec<Pointer>,
    /// The streams that may be older than [`LASTS`].
    pub(super) old: Vec<Pointer>,
}

/// A remembered request that may have a stream in the list.
struct Near {
    number: Number,
    tunnel: Tunnel,
    /// Why it must be terminated, if it must.
    cause: Option<Cause>,
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
struct Look {
    near: Vec<Near>,
    /// The last request of each connection whose streams have no numbers.
    last: HashMap<(Box<[u8]>, Option<SocketAddr>), DecisionId>,
    /// Whether a request must end that is so young that its response may be under way.
    is_early: bool,
    /// The streams whose details are needed.
    pointers: HashSet<Pointer>,
}

impl Site {
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
        let look = self.look(&live.gate(), &streams, list.process, asked);
        if look.is_early {
            self.tunnels.changed();
        }
        if look.near.is_empty() {
            return Ok(());
        }
        let pointers: Vec<_> = look.pointers.iter().copied().collect();
        let details = process.details(&pointers).await?;
        let mut full = Vec::new();
        for near in look.near {
            let place = &near.tunnel.place;
            let key = (place.frontend.clone(), place.source);
            let is_last = look.last.get(&key) == Some(&near.tunnel.id);
            let mut here = details.iter().filter(|detail| {
                *detail.frontend == *place.frontend && detail.source == place.source
            });
            let found = here.clone().find(|detail| match place.stream {
                Some(_) => place.is(detail, list.process),
                None => is_last && !detail.shares_connection,
            });
            let found = found.map(|detail| Found {
                socket: self.number,
                process: process.clone(),
                process_id: list.process,
                pointer: detail.pointer,
            });
            let is_shared = place.stream.is_none() && here.any(|detail| detail.shares_connection);
            if found.is_none() && (!is_shared || self.is_known(&near.tunnel)) {
                continue;
            }
            let pointer = found.as_ref().map(|found| found.pointer);
            self.tunnels.recent.lock().take(near.number);
            if self.tunnels.promote(near.tunnel.clone(), found, near.cause).is_err() {
                let of_connection = here_of(&details, &near.tunnel);
                full.push((near.tunnel, pointer.map_or(of_connection, |pointer| vec![pointer])));
            }
        }
        self.refuse(process, full).await
    }

    /// The remembered requests that may have a stream in the list and last, or must end.
    fn look(
        &self,
        gate: &Gate,
        streams: &HashMap<Connection<'_>, Streams>,
        process: u32,
        asked: MonotonicTime,
    ) -> Look {
        let workspaces = gate.registry.snapshot();
        let (now, mut scratch) = (Timestamp::now(), Scratch::default());
        let mut look = Look::default();
        let mut next = Some(0);
        while let Some(from) = next {
            let mut some = Vec::new();
            next = self.tunnels.recent.lock().some(from, |seen| {
                if !seen.is_in(process) {
                    return;
                }
                let Some(there) = streams.get(&seen.connection()) else { return };
                look.note_last(seen);
                // Without stream numbers, any stream of the connection could be this request, so
                // only age tells.
                let age = if seen.is_inherited() && seen.has_number() {
                    Age::Inherited
                } else if asked.since(seen.opened()) >= LASTS {
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
                // A source that was not read yet is no reason to end anything.
                let cause =
                    cause.filter(|cause| *cause != Cause::Refused(Reason::WorkspacesNotLoaded));
                let is_new = age != Age::Inherited && asked.since(tunnel.opened) < SPARED;
                if cause.is_some() && is_new {
                    look.is_early = true;
                    continue;
                }
                let place = &tunnel.place;
                let Some(there) = streams.get(&(&*place.frontend, place.source)) else { continue };
                if age != Age::Young || cause.is_some() {
                    let only_old = age == Age::Lasts && cause.is_none();
                    let wanted = if only_old { &there.old } else { &there.all };
                    look.pointers.extend(wanted);
                    look.near.push(Near { number, tunnel, cause });
                }
            }
        }
        look
    }

    /// Whether the table has a tunnel of the same connection and the same decision, so that another
    /// entry would change nothing.
    pub(super) fn is_known(&self, tunnel: &Tunnel) -> bool {
        let state = self.tunnels.lock();
        state.entries.values().any(|entry| {
            let known = &entry.tunnel;
            known.kind == Kind::Request
                && entry.due.is_none()
                && known.place == tunnel.place
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
            self.tunnels.record_refused(&tunnel);
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
        let due: Vec<(DecisionId, Box<[u8]>, SocketAddr)> = {
            let state = self.tunnels.lock();
            let due = state.entries.iter().filter(|(_, entry)| {
                entry.due.is_some() && entry.found.is_none() && entry.tunnel.place.stream.is_none()
            });
            let places = due.map(|(id, entry)| (id, &entry.tunnel.place));
            let here =
                places.filter(|(_, place)| place.process.is_none_or(|id| id == list.process));
            here.filter_map(|(id, place)| Some((*id, place.frontend.clone(), place.source?)))
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
        let (ids, meant): (Vec<_>, Vec<_>) = due
            .into_iter()
            .filter(|(_, frontend, source)| shared(frontend, *source))
            .map(|(id, frontend, source)| (id, (frontend, source)))
            .unzip();
        let meant: HashSet<_> = meant.into_iter().collect();
        let pointers: Vec<_> = details
            .iter()
            .filter_map(|detail| {
                let key = (detail.frontend.clone(), detail.source?);
                meant.contains(&key).then_some(detail.pointer)
            })
            .collect();
        if pointers.is_empty() {
            return Ok(());
        }
        process.shut(&pointers).await?;
        // All streams of the connection were terminated, so the right one was.
        self.tunnels.was_tried(&ids);
        self.tunnels.was_terminated(ids.iter().copied());
        self.tunnels.ended(&ids);
        Ok(())
    }
}

impl Look {
    fn note_last(&mut self, seen: &Seen<'_>) {
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
        if all_old || stream.age.1 >= LASTS {
            streams.old.push(stream.pointer);
        }
    }
    all
}

/// The streams on the connection of a tunnel.
fn here_of(details: &[Detail], tunnel: &Tunnel) -> Vec<Pointer> {
    let place = &tunnel.place;
    let here = details
        .iter()
        .filter(|detail| *detail.frontend == *place.frontend && detail.source == place.source);
    here.map(|detail| detail.pointer).collect()
}

fn same<T>(one: Option<&std::sync::Arc<T>>, other: Option<&std::sync::Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => std::sync::Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
