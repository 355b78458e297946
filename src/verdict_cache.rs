//! Verdict reuse at the edge: HAProxy may answer with the last allow of a connection, for a few seconds.
//!
//! HAProxy compares and keeps (`haproxy/haproxy.cfg`, the lines under `GATE_REUSE`); here it is decided which
//! allow may be kept and how long, and it is noted in a bounded table. [`watch`] decides about what is noted
//! again, by the very code that decides about requests, whenever something changed and once a second. As soon
//! as one of them would be refused or would lead elsewhere, all end: the epoch moves on, and [`teller`] tells
//! every process of HAProxy, where what was kept under another epoch counts no more. While a process cannot
//! be told, nothing is given for reuse; what was given before ends at its deadline.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch as channel;

use crate::{
    authz::{decision::Route, reason::Verdict},
    gate::Response,
    identity::Identity,
    request::Request,
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::host::Host,
};

pub mod teller;
#[cfg(test)]
mod tests;
pub mod watch;

/// The most allows that are noted at once; beyond that nothing is given for reuse.
const MOST: usize = 100_000;
/// What is noted is in so many parts, of which one at a time is looked through, so that no request waits for all of it.
const PARTS: usize = 128;
/// The most bytes of the name of a question.
const MAX_ID: usize = 64;
/// The epoch of a process that was told of none, as the rules of HAProxy write it.
const NO_EPOCH: &[u8] = b"-";

/// What may be reused.
pub struct Edge {
    /// How long at most.
    longest: Duration,
    /// Tells this run of the agent from others.
    run: u64,
    state: Mutex<State>,
    /// Counts from one; what was given under another one is over.
    epoch: channel::Sender<u64>,
    /// The epoch that each socket's processes were told of; zero while they cannot be.
    told: Box<[AtomicU64]>,
    /// How many names were told.
    names: AtomicU64,
    counts: Counts,
}

/// What was given.
struct State {
    parts: Vec<Part>,
    /// How many there are, in all parts.
    count: usize,
    hasher: RandomState,
}

type Part = HashMap<Key, Given>;

/// Whose allow it is, and for which host. The identity and the session are kept with it, so that nothing else
/// comes to be at their addresses.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: Option<usize>,
    session: Option<usize>,
    host: Host,
}

#[derive(Clone)]
struct Given {
    identity: Option<Arc<Identity>>,
    session: Option<Arc<Session>>,
    route: Option<Route>,
    /// Nobody reuses it any more from then on.
    until: MonotonicTime,
    /// Nobody decided about it again yet: it may rest on what was true a moment before a change.
    fresh: bool,
}

/// What must hold so that HAProxy may reuse an allow; it compares all of it, and more of the request by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms<'r> {
    /// The question that this is the answer to: HAProxy knows what the request looked like.
    pub id: &'r [u8],
    /// Until when, in milliseconds since the Unix epoch by HAProxy's clock.
    pub until: u64,
    /// For whom.
    pub client: IpAddr,
    /// What HAProxy had been told of what ended before it asked.
    pub epoch: &'r [u8],
    /// For which Host, byte for byte.
    pub host: &'r [u8],
}

#[derive(Default)]
struct Counts {
    given: AtomicU64,
    reused: AtomicU64,
    ended: AtomicU64,
}

/// What is counted, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether allows are given for reuse at the moment.
    pub on: bool,
    /// Allows given for reuse.
    pub given: u64,
    /// Requests that HAProxy answered with one, as far as it told.
    pub reused: u64,
    /// How often all that was given ended before its time.
    pub ended: u64,
}

impl Edge {
    /// For HAProxy with so many sockets of the runtime API; without one only deadlines end what is given.
    #[must_use]
    pub fn new(longest: Duration, sockets: usize) -> Self {
        let mut run = [0; 8];
        // Without random numbers the time tells runs apart.
        if aws_lc_rs::rand::fill(&mut run).is_err() {
            run = Timestamp::now().as_millis().to_be_bytes();
        }
        Self {
            longest,
            run: u64::from_be_bytes(run),
            state: Mutex::new(State::new()),
            epoch: channel::Sender::new(1),
            told: (0..sockets).map(|_| AtomicU64::new(0)).collect(),
            names: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// What HAProxy is told of an allow so that it may reuse it, and notes it; `None` if it may not.
    ///
    /// It is never one that looked at the path, nor longer than its credential lasts.
    #[must_use]
    pub fn give<'r>(
        &self,
        response: &Response,
        request: &Request<'r>,
        now: Timestamp,
    ) -> Option<Terms<'r>> {
        if !self.is_on() || !may_be_reused(response, request) {
            return None;
        }
        let (host, client) = (request.host?, request.client?);
        let id = request.reuse.id.filter(|id| (1..=MAX_ID).contains(&id.len()))?;
        let epoch = request.reuse.epoch.unwrap_or(NO_EPOCH);
        let mut left = self.longest;
        let Response { decision, session, .. } = response;
        if let Some(identity) = &decision.identity {
            left = left.min(identity.expires.since(now));
        }
        if let Some(session) = session {
            left = left.min(session.end().since(now));
        }
        let millis = u64::try_from(left.as_millis()).ok().filter(|millis| *millis > 0)?;
        let until = request.reuse.now?.checked_add(millis)?;
        let key = Key {
            identity: decision.identity.as_ref().map(|identity| Arc::as_ptr(identity).addr()),
            session: session.as_ref().map(|session| Arc::as_ptr(session).addr()),
            host: Host::parse(host).ok()?,
        };
        let given = Given {
            identity: decision.identity.clone(),
            session: session.clone(),
            route: decision.route.clone(),
            until: MonotonicTime::now().plus(left),
            fresh: true,
        };
        let mut state = self.lock();
        let full = state.count >= MOST;
        let State { parts, count, hasher } = &mut *state;
        let number = usize::try_from(hasher.hash_one(&key) % PARTS as u64).unwrap_or_default();
        // There is one of every number.
        let part = parts.get_mut(number)?;
        match part.get_mut(&key) {
            // One that leads elsewhere is another one: the one before must still end all.
            Some(known) if known.route == given.route => {
                known.until = known.until.max(given.until);
                known.fresh = true;
            }
            Some(_) => return None,
            None if full => return None,
            None => {
                part.insert(key, given);
                *count += 1;
            }
        }
        drop(state);
        self.counts.given.fetch_add(1, Ordering::Relaxed);
        Some(Terms { id, until, client, epoch, host })
    }

    /// Ends all that was given, at once where HAProxy can be told.
    pub fn end_all(&self) {
        let empty = State::new();
        let mut state = self.lock();
        let ended = std::mem::replace(&mut *state, empty);
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        // Under the lock: nothing is given between the two.
        self.epoch.send_modify(|epoch| *epoch += 1);
        drop(state);
        // Freed without it: no request waits for that.
        drop(ended);
    }

    /// Counts what HAProxy tells it reused.
    pub fn was_reused(&self, times: u64) {
        self.counts.reused.fetch_add(times, Ordering::Relaxed);
    }

    /// What is counted.
    #[must_use]
    pub fn status(&self) -> Status {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { given, reused, ended } = &self.counts;
        Status { on: self.is_on(), given: read(given), reused: read(reused), ended: read(ended) }
    }

    /// Whether every process of HAProxy knows the epoch.
    fn is_on(&self) -> bool {
        let epoch = *self.epoch.borrow();
        self.told.iter().all(|told| told.load(Ordering::Acquire) == epoch)
    }

    /// What processes are told: never the same again, by whatever agent or run. A value that is told twice would
    /// bring back what was given under it, if another agent told of an end in between.
    fn name(&self) -> String {
        format!("{:016x}-{}", self.run, self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new() -> Self {
        let parts = (0..PARTS).map(|_| Part::new()).collect();
        Self { parts, count: 0, hasher: RandomState::new() }
    }
}

/// Whether a decision holds for every request with the same host, credential, origin and client: HAProxy
/// compares those, and no path, query or mode. What the rules of HAProxy never reuse is not given either.
fn may_be_reused(response: &Response, request: &Request<'_>) -> bool {
    let decision = &response.decision;
    if decision.verdict() != Verdict::Allow || request.is_stream || request.upgrades > 0 {
        return false;
    }
    // HAProxy leads what it reuses to an address; a backend of the operator's has rules of its own.
    if !matches!(decision.route, Some(Route::Direct(_) | Route::Named(..))) {
        return false;
    }
    let set = |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty());
    if !matches!(request.method, Some(b"GET" | b"HEAD")) || set(request.browser.upgrade) {
        return false;
    }
    // A token there is not part of what is compared.
    let sources = response.sources.as_deref();
    if sources.is_some_and(|sources| sources.query.is_some() || sources.subprotocol) {
        return false;
    }
    let looked_at_path = decision.workspace.as_ref().is_none_or(|found| !found.paths.is_empty());
    // A page elsewhere may do with what a browser sends by itself what only its mode and destination tell to be
    // harmless.
    let own = matches!(request.browser.site, None | Some(b"" | b"none" | b"same-origin"));
    !looked_at_path && own
}
