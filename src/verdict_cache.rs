//! The verdict cache: HAProxy may reuse the last allow of a connection for some seconds.
//!
//! The cache itself is in HAProxy: it stores the allow of each connection and compares the next
//! request with it (`haproxy/haproxy.cfg`, the lines under `GATE_REUSE`). This module decides which
//! allow may be reused and for how long, and lists those in a bounded table.
//!
//! [`revalidation`] decides about the listed allows again, by the same code that decides about requests.
//! As soon as one of them would be refused or lead elsewhere, all are invalidated: a new epoch
//! begins, and [`broadcaster`] sends it to every process of HAProxy, where allows of another epoch are
//! ignored.
//!
//! Invariant: while a process of HAProxy does not know the current epoch, no allow is offered for
//! reuse. What was offered before ends at its deadline.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch as channel;

use crate::{
    authz::{decision::Route, reason::Verdict},
    gate::Response,
    identity::Identity,
    lock::Mutex,
    request::Request,
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::host::Host,
};

pub mod broadcaster;
pub mod revalidation;
#[cfg(test)]
mod tests;

/// The most allows that are listed at once. Beyond that none is offered.
const MAX_ALLOWS: usize = 100_000;
/// The table is split into this many parts. One is locked and examined at a time, so that no
/// request waits long.
const PARTS: usize = 128;
/// The longest id of an authorization request, in bytes.
const MAX_ID: usize = 64;
/// The epoch of a process that was sent none, as the rules of HAProxy write it.
const NO_EPOCH: &[u8] = b"-";

/// The allows that HAProxy may reuse.
pub struct VerdictCache {
    /// How long an allow may be reused at most.
    max_age: Duration,
    /// A random number that distinguishes this run of the agent from others.
    run: u64,
    state: Mutex<CacheState>,
    /// The number of the epoch, from one. Allows of an earlier epoch are invalid.
    epoch: channel::Sender<u64>,
    /// The epoch that the processes of each socket know; zero while they cannot be reached.
    announced: Box<[AtomicU64]>,
    /// The number of epoch names that were sent.
    epoch_names: AtomicU64,
    counts: CacheCounts,
}

/// The listed allows.
struct CacheState {
    parts: Vec<Part>,
    /// The number of allows in all parts.
    count: usize,
    hasher: RandomState,
}

type Part = HashMap<AllowKey, CachedAllow>;

/// Whose allow it is, and for which host. Identity and session are compared by address. The entry
/// holds them, so that no other ones can have these addresses.
#[derive(Clone, PartialEq, Eq, Hash)]
struct AllowKey {
    identity: Option<usize>,
    session: Option<usize>,
    host: Host,
}

#[derive(Clone)]
struct CachedAllow {
    identity: Option<Arc<Identity>>,
    session: Option<Arc<Session>>,
    route: Option<Route>,
    /// When HAProxy stops reusing it.
    until: MonotonicTime,
    /// Whether it was not revalidated yet: it may have been decided just before a change.
    is_new: bool,
}

/// The terms on which HAProxy may reuse an allow. It compares all of them, and more of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReuseTerms<'r> {
    /// The id of the authorization request. HAProxy stores what that request looked like under it.
    pub id: &'r [u8],
    /// The deadline, in milliseconds since the Unix epoch by HAProxy's clock.
    pub until: u64,
    /// The address of the client.
    pub client: IpAddr,
    /// The epoch that HAProxy knew when it sent the authorization request.
    pub epoch: &'r [u8],
    /// The Host header, byte for byte.
    pub host: &'r [u8],
}

#[derive(Default)]
struct CacheCounts {
    offered: AtomicU64,
    reused: AtomicU64,
    invalidated: AtomicU64,
}

/// Counters and state, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Whether allows are offered for reuse at the moment.
    pub on: bool,
    /// The number of allows that were offered.
    pub offered: u64,
    /// The number of requests that passed by a reused allow, as HAProxy reports it.
    pub reused: u64,
    /// How often all offered allows were invalidated.
    pub invalidated: u64,
}

impl VerdictCache {
    /// For a HAProxy with this many sockets of the runtime API. Without a socket, an offered allow
    /// ends only at its deadline.
    #[must_use]
    pub fn new(max_age: Duration, sockets: usize) -> Self {
        let mut run = [0; 8];
        // Without random numbers, the time distinguishes the runs.
        if aws_lc_rs::rand::fill(&mut run).is_err() {
            run = Timestamp::now().as_millis().to_be_bytes();
        }
        Self {
            max_age,
            run: u64::from_be_bytes(run),
            state: Mutex::new(CacheState::new()),
            epoch: channel::Sender::new(1),
            announced: (0..sockets).map(|_| AtomicU64::new(0)).collect(),
            epoch_names: AtomicU64::new(0),
            counts: CacheCounts::default(),
        }
    }

    /// Lists an allow and returns the terms on which HAProxy may reuse it; `None` if it may not.
    ///
    /// An allow that depends on the path is never offered. None is valid for longer than its
    /// credential.
    #[must_use]
    pub fn offer<'r>(
        &self,
        response: &Response,
        request: &Request<'r>,
        now: Timestamp,
    ) -> Option<ReuseTerms<'r>> {
        if !self.is_on() || !may_be_reused(response, request) {
            return None;
        }
        let (host, client) = (request.host?, request.client?);
        let id = request.reuse.id.filter(|id| (1..=MAX_ID).contains(&id.len()))?;
        let epoch = request.reuse.epoch.unwrap_or(NO_EPOCH);
        let mut left = self.max_age;
        let Response { decision, session, .. } = response;
        if let Some(identity) = &decision.identity {
            left = left.min(identity.expires.since(now));
        }
        if let Some(session) = session {
            left = left.min(session.end().since(now));
        }
        let millis = u64::try_from(left.as_millis()).ok().filter(|millis| *millis > 0)?;
        let until = request.reuse.now?.checked_add(millis)?;
        let key = AllowKey {
            identity: decision.identity.as_ref().map(|identity| Arc::as_ptr(identity).addr()),
            session: session.as_ref().map(|session| Arc::as_ptr(session).addr()),
            host: Host::parse(host).ok()?,
        };
        let given = CachedAllow {
            identity: decision.identity.clone(),
            session: session.clone(),
            route: decision.route.clone(),
            until: MonotonicTime::now().plus(left),
            is_new: true,
        };
        let mut state = self.lock();
        let full = state.count >= MAX_ALLOWS;
        let CacheState { parts, count, hasher } = &mut *state;
        let number = usize::try_from(hasher.hash_one(&key) % PARTS as u64).unwrap_or_default();
        // INVARIANT: the number is below [`PARTS`].
        let part = parts.get_mut(number)?;
        match part.get_mut(&key) {
            // An entry that leads elsewhere must stay: when it is revalidated, it invalidates all.
            Some(known) if known.route == given.route => {
                known.until = known.until.max(given.until);
                known.is_new = true;
            }
            Some(_) => return None,
            None if full => return None,
            None => {
                part.insert(key, given);
                *count += 1;
            }
        }
        drop(state);
        self.counts.offered.fetch_add(1, Ordering::Relaxed);
        Some(ReuseTerms { id, until, client, epoch, host })
    }

    /// Invalidates all offered allows, at once where HAProxy can be reached.
    pub fn invalidate_all(&self) {
        let empty = CacheState::new();
        let mut state = self.lock();
        let ended = std::mem::replace(&mut *state, empty);
        self.counts.invalidated.fetch_add(1, Ordering::Relaxed);
        // Under the lock, so that no allow is listed between the two steps.
        self.epoch.send_modify(|epoch| *epoch += 1);
        drop(state);
        // Freed without the lock: freeing takes long, and requests would wait.
        drop(ended);
    }

    /// Counts requests that passed by a reused allow.
    pub fn count_reused(&self, times: u64) {
        self.counts.reused.fetch_add(times, Ordering::Relaxed);
    }

    /// The counters and the state.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let CacheCounts { offered, reused, invalidated } = &self.counts;
        CacheStatus {
            on: self.is_on(),
            offered: read(offered),
            reused: read(reused),
            invalidated: read(invalidated),
        }
    }

    /// Whether every process of HAProxy knows the current epoch.
    fn is_on(&self) -> bool {
        let epoch = *self.epoch.borrow();
        self.announced.iter().all(|told| told.load(Ordering::Acquire) == epoch)
    }

    /// A new name for the current epoch. A name is never used twice, by any agent or run: if
    /// another agent sent an epoch in between, the old name would make old allows valid again.
    fn epoch_name(&self) -> String {
        format!("{:016x}-{}", self.run, self.epoch_names.fetch_add(1, Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock()
    }
}

impl CacheState {
    fn new() -> Self {
        let parts = (0..PARTS).map(|_| Part::new()).collect();
        Self { parts, count: 0, hasher: RandomState::new() }
    }
}

/// Whether a decision holds for every request with the same host, credential, origin and client,
/// which is what HAProxy compares. It compares no path, query or mode. Requests that HAProxy's
/// rules never reuse an allow for get none offered.
fn may_be_reused(response: &Response, request: &Request<'_>) -> bool {
    let decision = &response.decision;
    if decision.verdict() != Verdict::Allow || request.is_stream || request.upgrades > 0 {
        return false;
    }
    // What the page of another origin is told is not part of what HAProxy stores.
    if response.cors.is_some() {
        return false;
    }
    // HAProxy sends a reused request to an address. A backend of the operator has rules of its own.
    if !matches!(decision.route, Some(Route::Direct(_) | Route::Named(..))) {
        return false;
    }
    let set = |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty());
    if !matches!(request.method, Some(b"GET" | b"HEAD")) || set(request.browser.upgrade) {
        return false;
    }
    // A token in one of these places is not compared by HAProxy.
    let locations = response.token_locations.as_deref();
    if locations.is_some_and(|all| all.query.is_some() || all.subprotocol) {
        return false;
    }
    let looked_at_path = decision.workspace.as_ref().is_none_or(|found| !found.paths.is_empty());
    // A request from another page may be harmless only because of its mode and destination, which
    // HAProxy does not compare.
    let own = matches!(request.browser.site, None | Some(b"" | b"none" | b"same-origin"));
    !looked_at_path && own
}
