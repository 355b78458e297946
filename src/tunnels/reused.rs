//! Requests that passed HAProxy by a reused allow (docs/reuse.md), and that last.
//!
//! HAProxy sent no authorization request for them, so there is no record of their own: they are
//! followed by the record of the allow that was reused. That is the allow of the last authorization
//! request on the connection before the stream began. Where two authorization requests were open at
//! once it may be either, and the stream is followed as two tunnels.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use super::{
    Cause, Tunnel, Tunnels,
    promote::{Connection, Streams, connections},
    recent::SPARED,
    revalidation,
    terminator::Site,
};
use crate::{
    authz::decision::DecisionId,
    gate::Gate,
    haproxy::{
        AskError, Process,
        runtime::{Detail, List, Pointer, Quarter},
    },
    time::{MonotonicTime, Timestamp},
    tunnels::table::Found,
    workspaces::pattern::Scratch,
};

/// HAProxy waits this long for a response at most, so the response to an older request has come.
const ANSWERED: Duration = Duration::from_millis(500);

type Key = (Box<[u8]>, Option<SocketAddr>);

/// The allows that streams of the listed connections may have reused.
#[derive(Default)]
struct Candidates {
    given: HashMap<Key, Vec<Given>>,
    /// The numbers and starts of the streams that had an authorization request of their own.
    asked: HashSet<(u32, Quarter)>,
    /// Connections with a recent authorization request whose streams have no numbers.
    busy: HashSet<Key>,
}

/// An allow that HAProxy may reuse.
struct Given {
    tunnel: Tunnel,
    /// When HAProxy sent the authorization request, by its clock.
    asked: Quarter,
    /// Why it would be refused now.
    cause: Option<Cause>,
    /// Whether the agent before this one gave it, and its streams have numbers.
    is_inherited: bool,
}

impl Given {
    /// Whether a stream that reused it is followed at any age.
    fn at_once(&self) -> bool {
        self.cause.is_some() || self.is_inherited
    }
}

impl Site {
    /// Adds streams to the table that passed by a reused allow and last, or would be refused by
    /// now.
    pub(super) async fn promote_reused(
        &self,
        process: &Process,
        list: &List,
        asked: MonotonicTime,
    ) -> Result<(), AskError> {
        let Some(live) = &self.live else { return Ok(()) };
        if self.tunnels.given.as_ref().is_none_or(|given| given.lock().is_empty()) {
            return Ok(());
        }
        let streams = connections(list, self.is_late(asked));
        let candidates = self.candidates(&live.gate(), &streams, list.process);
        let known = self.taken(&self.tunnels.lock(), process);
        let mut pointers = HashSet::new();
        for ((frontend, source), given) in &candidates.given {
            let Some(there) = streams.get(&(&**frontend, *source)) else { continue };
            let at_once = given.iter().any(Given::at_once);
            pointers.extend(if at_once { &there.all } else { &there.old });
        }
        let pointers: Vec<Pointer> = pointers.difference(&known).copied().collect();
        if pointers.is_empty() {
            return Ok(());
        }
        let details = process.details(&pointers).await?;
        let mut full = Vec::new();
        for detail in &details {
            let old = streams
                .get(&(&*detail.frontend, detail.source))
                .is_some_and(|there| there.old.contains(&detail.pointer));
            let all = candidates.of(detail);
            let is_due = all.iter().any(|given| given.cause.is_some());
            if is_due && !old && self.is_early((list.process, detail.pointer)) {
                continue;
            }
            for given in all.into_iter().filter(|given| old || given.at_once()) {
                let Some(tunnel) = self.reused(given, detail) else { continue };
                let is_one_of_many = tunnel.place.stream.is_none() && detail.shares_connection;
                if is_one_of_many && self.is_known(&tunnel) {
                    continue;
                }
                let found = (!is_one_of_many).then(|| Found {
                    socket: self.number,
                    process: process.clone(),
                    process_id: list.process,
                    pointer: detail.pointer,
                });
                if self.tunnels.promote(tunnel.clone(), found, given.cause).is_err() {
                    full.push((tunnel, vec![detail.pointer]));
                }
            }
        }
        self.refuse(process, full).await
    }

    /// Whether a stream that must end was first seen a moment ago, so that its response may be
    /// under way. Then another scan is requested.
    fn is_early(&self, stream: (u32, Pointer)) -> bool {
        let now = MonotonicTime::now();
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, since| now.since(*since) < SPARED * 10);
        let since = *waiting.entry(stream).or_insert(now);
        drop(waiting);
        let is_early = now.since(since) < SPARED;
        if is_early {
            self.tunnels.changed();
        }
        is_early
    }

    fn candidates(
        &self,
        gate: &Gate,
        streams: &HashMap<Connection<'_>, Streams>,
        process: u32,
    ) -> Candidates {
        let mut candidates = Candidates::default();
        let key = |(frontend, source): Connection<'_>| (Box::from(frontend), source);
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.tunnels.recent.lock().some(from, |seen| {
                let connection = seen.connection();
                if !seen.is_in(process) || !streams.contains_key(&connection) {
                    return;
                }
                if let Some(number) = seen.number_and_start() {
                    candidates.asked.insert(number);
                } else {
                    candidates.busy.insert(key(connection));
                }
            });
        }
        let mut all = Vec::new();
        let mut next = Some(0);
        while let (Some(from), Some(given)) = (next, &self.tunnels.given) {
            next = given.lock().some(from, |seen| {
                if seen.is_in(process)
                    && streams.contains_key(&seen.connection())
                    && let (Some(asked), Some(tunnel)) = (seen.asked(), seen.tunnel())
                {
                    all.push((asked, tunnel, seen.is_inherited() && seen.has_number()));
                }
            });
        }
        for given in self.judged(gate, all) {
            let place = &given.tunnel.place;
            let key = (place.frontend.clone(), place.source);
            candidates.given.entry(key).or_default().push(given);
        }
        candidates
    }

    fn judged(&self, gate: &Gate, all: Vec<(Quarter, Tunnel, bool)>) -> Vec<Given> {
        let (now, mut scratch) = (Timestamp::now(), Scratch::default());
        let workspaces = gate.registry.snapshot();
        let judge = |(asked, tunnel, is_inherited): (Quarter, Tunnel, bool)| {
            let about = (gate, &workspaces);
            let cause =
                revalidation::ends(about, &tunnel, &self.tunnels.settings, now, &mut scratch);
            Given { tunnel, asked, cause, is_inherited }
        };
        all.into_iter().map(judge).collect()
    }

    /// The tunnel that a stream is if it reused this allow.
    fn reused(&self, given: &Given, detail: &Detail) -> Option<Tunnel> {
        let mut tunnel = given.tunnel.clone();
        tunnel.id = self.tunnels.another_id(&tunnel.id)?;
        tunnel.since = Timestamp::now();
        tunnel.opened = MonotonicTime::now();
        if tunnel.place.stream.is_some() {
            tunnel.place.stream = Some(detail.id);
            tunnel.place.started = Some(detail.started.micros());
        }
        Some(tunnel)
    }
}

impl Candidates {
    /// The allows that a stream may have reused.
    fn of(&self, detail: &Detail) -> Vec<&Given> {
        let key = (detail.frontend.clone(), detail.source);
        if self.asked.contains(&(detail.id, detail.started)) || self.busy.contains(&key) {
            return vec![];
        }
        let all = self.given.get(&key).into_iter().flatten();
        // Several streams without numbers share the connection: it may be any of its allows.
        if detail.shares_connection && all.clone().any(|g| g.tunnel.place.stream.is_none()) {
            return all.collect();
        }
        let tolerance = i64::try_from(ANSWERED.as_micros()).unwrap_or(i64::MAX);
        let aged = all.map(|given| (detail.started.after(given.asked), given));
        let mut aged: Vec<_> = aged.filter(|(age, _)| *age >= -tolerance).collect();
        aged.sort_by_key(|(age, _)| *age);
        // These are the last allow that HAProxy surely had when the stream began, and the later
        // ones that it may have had. A connection with one stream at a time had the response to the
        // last one.
        let surely = aged.iter().position(|(age, _)| *age > tolerance).unwrap_or(aged.len());
        let count = if detail.shares_connection { surely + 1 } else { 1 };
        aged.into_iter().take(count).map(|(_, given)| given).collect()
    }
}

impl Tunnels {
    /// An unused id for another stream of the same decision.
    fn another_id(&self, id: &DecisionId) -> Option<DecisionId> {
        let state = self.lock();
        (1..1000).find_map(|number| {
            let mut other = *id;
            other.try_push_str(&format!("+{number}")).ok()?;
            (!state.entries.contains_key(&other)).then_some(other)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        haproxy::runtime,
        tunnels::{
            By,
            tests::{named, tunnel},
        },
    };

    fn detail(time: &str, mux: &str) -> Detail {
        let text = format!(
            "0x7f4c: [24/Nov/2026:{time}] id=9 proto=tcpv4 source=127.0.0.1:5\n  frontend=gate (id=2)\n  \
             txn=0x1 flags=0 rsp.st=MSG_DATA\n      co0=0x1 ctrl=tcpv4 xprt=RAW mux={mux} data=STRM\nName: HAProxy\nPid: 8\n"
        );
        runtime::details(text.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_reused_stream_goes_by_the_last_question_before_it() {
        // 24 November 2026, 19:20:30 UTC.
        let second = |second: u64| Quarter::of((1_795_548_030 + second) * 1_000_000);
        let given = |asked: u64, user: &str| {
            let mut tunnel = tunnel(By::Token, named(false));
            tunnel.owner = Some(user.into());
            Given { tunnel, asked: second(asked), cause: None, is_inherited: false }
        };
        let key = (Box::from(&b"gate"[..]), Some("127.0.0.1:5".parse().unwrap()));
        let all = vec![given(0, "a"), given(4, "b"), given(5, "c"), given(20, "later")];
        let mut candidates = Candidates::default();
        candidates.given.insert(key.clone(), all);
        let of = |candidates: &Candidates, time: &str, mux: &str| -> String {
            let of = candidates.of(&detail(time, mux));
            of.iter().filter_map(|given| given.tunnel.owner.as_deref()).collect()
        };
        assert_eq!(of(&candidates, "19:20:33.000000", "H1"), "a");
        assert_eq!(of(&candidates, "19:20:36.000000", "H2"), "c");
        // The response may have been on its way.
        assert_eq!(of(&candidates, "19:20:35.200000", "H2"), "cb");
        assert_eq!(of(&candidates, "19:20:35.200000", "H1"), "c");
        assert_eq!(of(&candidates, "19:20:29.000000", "H2"), "", "before any question");
        // A stream with an authorization request of its own reused nothing.
        candidates.asked.insert((9, second(6)));
        assert_eq!(of(&candidates, "19:20:36.000000", "H2"), "");
        // Without numbers: all allows of the connection, and none while an authorization request is
        // recent.
        for given in candidates.given.get_mut(&key).unwrap() {
            given.tunnel.place.stream = None;
        }
        assert_eq!(of(&candidates, "19:20:33.000000", "H2"), "abclater");
        candidates.busy.insert(key);
        assert_eq!(of(&candidates, "19:20:33.000000", "H2"), "");
    }

    #[test]
    fn moments_of_two_quarters_are_compared() {
        let of = |micros| Quarter::of(micros);
        let quarter = 900_000_000;
        assert_eq!(of(quarter + 5).after(of(quarter - 5)), 10);
        assert_eq!(of(quarter - 5).after(of(quarter + 5)), -10);
        assert_eq!(of(7).after(of(7)), 0);
    }
}
