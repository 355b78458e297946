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
    TerminationCause, Tunnel, Tunnels,
    promote::{Connection, Streams, connections},
    recent::RESPONSE_GRACE,
    revalidation,
    terminator::SocketWorker,
};
use crate::{
    authz::decision::DecisionId,
    gate::Gate,
    haproxy::{
        AskError, Process,
        runtime::{Detail, List, Pointer, Quarter},
    },
    time::{MonotonicTime, Timestamp},
    tunnels::table::LocatedStream,
    workspaces::pattern::Scratch,
};

/// HAProxy waits this long for a response at most, so the response to an older request has come.
const RESPONSE_WINDOW: Duration = Duration::from_millis(500);

type ConnectionKey = (Box<[u8]>, Option<SocketAddr>);

/// The allows that streams of the listed connections may have reused.
#[derive(Default)]
struct ReusableAllows {
    reusable: HashMap<ConnectionKey, Vec<ReusableAllow>>,
    /// The numbers and starts of the streams that had an authorization request of their own.
    asked: HashSet<(u32, Quarter)>,
    /// Connections with a recent authorization request whose streams have no numbers.
    busy: HashSet<ConnectionKey>,
}

/// An allow that HAProxy may reuse.
struct ReusableAllow {
    tunnel: Tunnel,
    /// When HAProxy sent the authorization request, by its clock.
    asked: Quarter,
    /// Why it would be refused now.
    cause: Option<TerminationCause>,
    /// Whether the agent before this one gave it, and its streams have numbers.
    is_inherited: bool,
}

impl ReusableAllow {
    /// Whether a stream that reused it is followed at any age.
    fn at_once(&self) -> bool {
        self.cause.is_some() || self.is_inherited
    }
}

impl SocketWorker {
    /// Adds streams to the table that passed by a reused allow and last, or would be refused by
    /// now.
    pub(super) async fn promote_reused(
        &self,
        process: &Process,
        list: &List,
        asked: MonotonicTime,
    ) -> Result<(), AskError> {
        let Some(live) = &self.live else { return Ok(()) };
        if self.tunnels.reusable.as_ref().is_none_or(|given| given.lock().is_empty()) {
            return Ok(());
        }
        let streams = connections(list, self.is_late(asked));
        // One gate and one snapshot for all of them, so that they are decided about alike.
        let candidates = self.candidates(&live.gate(), &streams, list.process);
        // Streams that are tunnels already need no details.
        let known = self.located_pointers(&self.tunnels.lock(), process);
        let mut pointers = HashSet::new();
        for ((frontend, source), given) in &candidates.reusable {
            let Some(there) = streams.get(&(&**frontend, *source)) else { continue };
            let at_once = given.iter().any(ReusableAllow::at_once);
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
            let all = candidates.matching(detail);
            let is_due = all.iter().any(|given| given.cause.is_some());
            if is_due && !old && self.is_early((list.process, detail.pointer)) {
                continue;
            }
            for given in all.into_iter().filter(|given| old || given.at_once()) {
                let Some(tunnel) = self.reused(given, detail) else { continue };
                let is_one_of_many = tunnel.location.stream.is_none() && detail.shares_connection;
                if is_one_of_many && self.is_known(&tunnel) {
                    continue;
                }
                let found = (!is_one_of_many).then(|| LocatedStream {
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
        let mut waiting = self.first_seen.lock();
        waiting.retain(|_, since| now.since(*since) < RESPONSE_GRACE * 10);
        let since = *waiting.entry(stream).or_insert(now);
        drop(waiting);
        let is_early = now.since(since) < RESPONSE_GRACE;
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
    ) -> ReusableAllows {
        let mut candidates = ReusableAllows::default();
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
        while let (Some(from), Some(given)) = (next, &self.tunnels.reusable) {
            next = given.lock().some(from, |seen| {
                if seen.is_in(process)
                    && streams.contains_key(&seen.connection())
                    && let (Some(asked), Some(tunnel)) = (seen.asked(), seen.tunnel())
                {
                    all.push((asked, tunnel, seen.is_inherited() && seen.has_number()));
                }
            });
        }
        for given in self.revalidated(gate, all) {
            let location = &given.tunnel.location;
            let key = (location.frontend.clone(), location.source);
            candidates.reusable.entry(key).or_default().push(given);
        }
        candidates
    }

    fn revalidated(&self, gate: &Gate, all: Vec<(Quarter, Tunnel, bool)>) -> Vec<ReusableAllow> {
        let (now, mut scratch) = (Timestamp::now(), Scratch::default());
        let workspaces = gate.registry.snapshot();
        let judge = |(asked, tunnel, is_inherited): (Quarter, Tunnel, bool)| {
            let about = (gate, &workspaces);
            let cause =
                revalidation::ends(about, &tunnel, &self.tunnels.settings, now, &mut scratch);
            ReusableAllow { tunnel, asked, cause, is_inherited }
        };
        all.into_iter().map(judge).collect()
    }

    /// The tunnel that a stream is if it reused this allow.
    fn reused(&self, given: &ReusableAllow, detail: &Detail) -> Option<Tunnel> {
        let mut tunnel = given.tunnel.clone();
        tunnel.id = self.tunnels.another_id(&tunnel.id)?;
        // The allow was given earlier, for another request: the lifetime of this one begins now.
        tunnel.since = Timestamp::now();
        tunnel.opened = MonotonicTime::now();
        if tunnel.location.stream.is_some() {
            tunnel.location.stream = Some(detail.id);
            tunnel.location.started = Some(detail.started.micros());
        }
        Some(tunnel)
    }
}

impl ReusableAllows {
    /// The allows that a stream may have reused.
    fn matching(&self, detail: &Detail) -> Vec<&ReusableAllow> {
        let key = (detail.frontend.clone(), detail.source);
        if self.asked.contains(&(detail.id, detail.started)) || self.busy.contains(&key) {
            return vec![];
        }
        let all = self.reusable.get(&key).into_iter().flatten();
        // Several streams without numbers share the connection: it may be any of its allows.
        if detail.shares_connection && all.clone().any(|g| g.tunnel.location.stream.is_none()) {
            return all.collect();
        }
        let tolerance = i64::try_from(RESPONSE_WINDOW.as_micros()).unwrap_or(i64::MAX);
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
            TunnelCredential,
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
    fn a_reused_stream_goes_by_the_last_authorization_request_before_it() {
        // 24 November 2026, 19:20:30 UTC.
        let second = |second: u64| Quarter::from_micros((1_795_548_030 + second) * 1_000_000);
        let given = |asked: u64, user: &str| {
            let mut tunnel = tunnel(TunnelCredential::Token, named(false));
            tunnel.owner = Some(user.into());
            ReusableAllow { tunnel, asked: second(asked), cause: None, is_inherited: false }
        };
        let key = (Box::from(&b"gate"[..]), Some("127.0.0.1:5".parse().unwrap()));
        let all = vec![given(0, "a"), given(4, "b"), given(5, "c"), given(20, "later")];
        let mut candidates = ReusableAllows::default();
        candidates.reusable.insert(key.clone(), all);
        let of = |candidates: &ReusableAllows, time: &str, mux: &str| -> String {
            let of = candidates.matching(&detail(time, mux));
            of.iter().filter_map(|given| given.tunnel.owner.as_deref()).collect()
        };
        assert_eq!(of(&candidates, "19:20:33.000000", "H1"), "a");
        assert_eq!(of(&candidates, "19:20:36.000000", "H2"), "c");
        // The response may have been on its way.
        assert_eq!(of(&candidates, "19:20:35.200000", "H2"), "cb");
        assert_eq!(of(&candidates, "19:20:35.200000", "H1"), "c");
        assert_eq!(
            of(&candidates, "19:20:29.000000", "H2"),
            "",
            "before any authorization request"
        );
        // A stream with an authorization request of its own reused nothing.
        candidates.asked.insert((9, second(6)));
        assert_eq!(of(&candidates, "19:20:36.000000", "H2"), "");
        // Without numbers: all allows of the connection, and none while an authorization request is
        // recent.
        for given in candidates.reusable.get_mut(&key).unwrap() {
            given.tunnel.location.stream = None;
        }
        assert_eq!(of(&candidates, "19:20:33.000000", "H2"), "abclater");
        candidates.busy.insert(key);
        assert_eq!(of(&candidates, "19:20:33.000000", "H2"), "");
    }

    #[test]
    fn moments_of_two_quarters_are_compared() {
        let of = |micros| Quarter::from_micros(micros);
        let quarter = 900_000_000;
        assert_eq!(of(quarter + 5).after(of(quarter - 5)), 10);
        assert_eq!(of(quarter - 5).after(of(quarter + 5)), -10);
        assert_eq!(of(7).after(of(7)), 0);
    }
}
