//! Plain requests that were allowed a moment ago.
//!
//! A request says nothing of how long its answer lasts: server-sent events, a download and a chunked POST that
//! is answered while it is sent all look like any other. So what decides about each allowed request is remembered
//! for the seconds in which HAProxy's list of streams shows which of them last; those enter the table of tunnels
//! (see [`super::promote`]). The memory is taken once: what is new takes the place of what is oldest. What was forgotten
//! so before the list was looked at is remembered as a span of time, and streams of that time that nothing is known
//! about are terminated.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Allowed, By, Full, Kind, MAX_METHOD, MAX_PATH, Place, Tunnel};
use crate::{
    authz::{
        decision::{DecisionId, Route},
        reason::Reason,
    },
    haproxy::runtime::Quarter,
    identity::Identity,
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::{EndpointName, WorkspaceId, host::Host},
};

/// A request that takes longer than this is a tunnel.
pub(super) const LASTS: Duration = Duration::from_secs(3);
/// What is answered within this time is not ended in the middle of its answer, though its access has ended.
pub(super) const SPARED: Duration = Duration::from_millis(300);
/// The most requests that are remembered: 37,000 a second for [`LASTS`] and half a second more.
const MOST: usize = 131_072;
/// Requests that are remembered, looked at and forgotten together.
const CHUNK: usize = 128;
/// The most bytes of their hosts, methods and paths. A single request has a quarter of it at most.
const CHUNK_TEXT: usize = 16 * 1024;
const _: () = assert!(CHUNK_TEXT >= 2 * (MAX_HOST + MAX_METHOD + MAX_PATH));
/// The most frontends of HAProxy that ask.
const MOST_FRONTENDS: usize = 64;
/// Longer than any Host header that is a host name with a port, in bytes.
const MAX_HOST: usize = 272;

/// What is remembered.
pub(super) struct Recent {
    ring: Mutex<Ring>,
}

/// The records in the order they came.
pub(super) struct Ring {
    /// The last one is being filled.
    chunks: VecDeque<Chunk>,
    /// The number of the first one.
    first: u64,
    /// Those that are empty. The last one that was used is the next one to be used, so that memory that was not needed
    /// yet stays untouched.
    free: Vec<Chunk>,
    /// Nothing that is older matters any more.
    since: MonotonicTime,
    frontends: Vec<Box<[u8]>>,
    lost: Option<Lost>,
}

/// Some records, and what they say of hosts, methods and paths, one after the other.
struct Chunk {
    records: Vec<Record>,
    text: Vec<u8>,
}

/// When requests were allowed that were forgotten before HAProxy's streams were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) from: MonotonicTime,
    pub(super) to: MonotonicTime,
}

/// Which record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(u64, usize);

/// One allowed request.
struct Record {
    id: DecisionId,
    identity: Option<Arc<Identity>>,
    by: By,
    session: Option<Arc<Session>>,
    workspace: Option<WorkspaceId>,
    owner: Option<Arc<str>>,
    endpoint: Option<EndpointName>,
    reason: Reason,
    route: Option<Route>,
    client: Option<IpAddr>,
    since: Timestamp,
    opened: MonotonicTime,
    frontend: usize,
    stream: Option<u32>,
    started: Option<u64>,
    process: Option<u32>,
    source: Option<SocketAddr>,
    /// When HAProxy asked, in milliseconds since the Unix epoch by its clock; only where the allow may be reused.
    asked: Option<u64>,
    /// The agent before this one allowed it.
    is_inherited: bool,
    /// It is in the table.
    is_taken: bool,
    /// Where its text begins, and how many bytes each has.
    text: usize,
    host: usize,
    method: Option<usize>,
    path: Option<usize>,
}

/// A record as it is looked at.
pub(super) struct Seen<'r> {
    number: Number,
    record: &'r Record,
    frontend: &'r [u8],
    text: &'r [u8],
}

impl Recent {
    /// Nothing yet. Takes its memory at once, which the system gives as it is used.
    pub(super) fn new() -> Self {
        Self::with(MOST / CHUNK)
    }

    fn with(chunks: usize) -> Self {
        let chunk =
            || Chunk { records: Vec::with_capacity(CHUNK), text: Vec::with_capacity(CHUNK_TEXT) };
        let mut all: VecDeque<_> = (0..chunks.max(2)).map(|_| chunk()).collect();
        let mut used = VecDeque::with_capacity(all.len());
        used.extend(all.pop_front());
        let ring = Ring {
            chunks: used,
            first: 0,
            free: all.into(),
            since: MonotonicTime::default(),
            frontends: Vec::with_capacity(MOST_FRONTENDS),
            lost: None,
        };
        Self { ring: Mutex::new(ring) }
    }

    /// Remembers an allowed request. Takes no memory that it has not.
    ///
    /// # Errors
    /// It could not be told which stream of HAProxy it is: it must not be let pass.
    pub(super) fn note(&self, allowed: &Allowed<'_>) -> Result<(), Full> {
        let Allowed { response, request, id, certificates, now } = *allowed;
        let decision = &response.decision;
        let host = request.host.filter(|host| host.len() <= MAX_HOST).ok_or(Full)?;
        let frontend = request.spot.frontend.ok_or(Full)?;
        let source = request.spot.address();
        if request.spot.stream.is_none() && source.is_none() {
            return Err(Full);
        }
        let path = request.path.map(|path| path.get(..MAX_PATH).unwrap_or(path));
        let method = request.method.filter(|method| method.len() <= MAX_METHOD);
        let record = Record {
            id: *id,
            identity: decision.identity.clone(),
            by: By::of(response, certificates),
            session: response.session.clone(),
            workspace: decision.workspace.as_ref().map(|workspace| workspace.id.clone()),
            owner: decision.owner.clone(),
            endpoint: decision.endpoint.clone(),
            reason: decision.reason,
            route: decision.route.clone(),
            client: request.client,
            since: now,
            opened: MonotonicTime::now(),
            frontend: 0,
            stream: request.spot.stream,
            started: request.spot.started,
            process: request.spot.process,
            source,
            asked: request.reuse.now,
            is_inherited: false,
            is_taken: false,
            text: 0,
            host: host.len(),
            method: method.map(<[u8]>::len),
            path: path.map(<[u8]>::len),
        };
        let parts = [host, method.unwrap_or_default(), path.unwrap_or_default()];
        self.lock().push(record, frontend, parts)
    }

    /// Remembers what the agent before this one did. `asked` is as [`Seen::asked_millis`] said.
    ///
    /// # Errors
    /// There are too many frontends.
    pub(super) fn inherit(&self, tunnel: &Tunnel, asked: Option<u64>) -> Result<(), Full> {
        let (host, place) = (tunnel.host.as_str().as_bytes(), &tunnel.place);
        let record = Record {
            id: tunnel.id,
            identity: tunnel.identity.clone(),
            by: tunnel.by,
            session: tunnel.session.clone(),
            workspace: tunnel.workspace.clone(),
            owner: tunnel.owner.clone(),
            endpoint: tunnel.endpoint.clone(),
            reason: tunnel.reason,
            route: tunnel.route.clone(),
            client: tunnel.client,
            since: tunnel.since,
            opened: MonotonicTime::now(),
            frontend: 0,
            stream: place.stream,
            started: place.started,
            process: place.process,
            source: place.source,
            asked,
            is_inherited: true,
            is_taken: false,
            text: 0,
            host: host.len(),
            method: tunnel.method.as_ref().map(|method| method.len()),
            path: tunnel.path.as_ref().map(|path| path.len()),
        };
        let (method, path) = (tunnel.method.as_deref(), tunnel.path.as_deref());
        let parts = [host, method.unwrap_or_default(), path.unwrap_or_default()];
        if parts.iter().map(|part| part.len()).sum::<usize>() > CHUNK_TEXT {
            return Err(Full);
        }
        self.lock().push(record, &place.frontend, parts)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ring> {
        // Each change is whole at any moment that could panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every stream that is older than [`LASTS`] at that moment was looked at: what was forgotten long before it is not
    /// there any more.
    pub(super) fn found_lost(&self, until: MonotonicTime) {
        let mut ring = self.lock();
        ring.lost = ring.lost.filter(|lost| lost.to.plus(LASTS * 2) >= until);
    }

    /// Forgets what was allowed before that moment, a few at a time, so that no request waits for it.
    pub(super) fn tidy(&self, before: MonotonicTime) {
        while self.lock().tidy(before) {}
    }
}

impl Ring {
    fn push(&mut self, record: Record, frontend: &[u8], parts: [&[u8]; 3]) -> Result<(), Full> {
        let known = self.frontends.iter().position(|known| **known == *frontend);
        let frontend = match known {
            Some(known) => known,
            None if self.frontends.len() < MOST_FRONTENDS => {
                self.frontends.push(frontend.into());
                self.frontends.len() - 1
            }
            None => return Err(Full),
        };
        let fits = |chunk: &Chunk| {
            chunk.records.len() < CHUNK && chunk.text.len() + record.bytes() <= CHUNK_TEXT
        };
        if !self.chunks.back().is_some_and(fits) {
            self.begin();
        }
        let chunk = self.chunks.back_mut().ok_or(Full)?;
        let text = chunk.text.len();
        for part in parts {
            chunk.text.extend_from_slice(part);
        }
        chunk.records.push(Record { frontend, text, ..record });
        Ok(())
    }

    /// Begins another chunk, which is the oldest one where none is free.
    fn begin(&mut self) {
        let Some(chunk) = self.free.pop().or_else(|| {
            let mut oldest = self.chunks.pop_front()?;
            self.first += 1;
            self.lose(&oldest);
            oldest.clear();
            Some(oldest)
        }) else {
            return;
        };
        self.chunks.push_back(chunk);
    }

    /// Notes when what is forgotten too early was allowed.
    fn lose(&mut self, chunk: &Chunk) {
        let mut opened = chunk.records.iter().filter(|record| !record.is_taken);
        let Some(first) = opened.next().map(|record| record.opened) else { return };
        let last = opened.next_back().map_or(first, |record| record.opened);
        if last < self.since {
            return;
        }
        let from = self.lost.map_or(first, |lost| lost.from.min(first));
        self.lost = Some(Lost { from, to: last });
    }

    /// Forgets a chunk; returns whether there may be more.
    fn tidy(&mut self, before: MonotonicTime) -> bool {
        self.since = self.since.max(before);
        let is_over =
            |chunk: &Chunk| chunk.records.last().is_some_and(|record| record.opened < before);
        if !self.chunks.front().is_some_and(is_over) {
            return false;
        }
        if let [only] = self.chunks.make_contiguous() {
            only.clear();
            return false;
        }
        if let Some(mut chunk) = self.chunks.pop_front() {
            self.first += 1;
            chunk.clear();
            self.free.push(chunk);
        }
        true
    }

    /// Whether there is nothing that matters.
    pub(super) fn is_empty(&self) -> bool {
        let last = self.chunks.back().and_then(|chunk| chunk.records.last());
        self.chunks.len() <= 1 && last.is_none_or(|record| record.opened < self.since)
    }

    /// Whether a chunk is free.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether questions come from a frontend.
    pub(super) fn asks(&self, frontend: &[u8]) -> bool {
        self.frontends.iter().any(|known| **known == *frontend)
    }

    /// When requests were forgotten that could last.
    pub(super) fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// Looks at the records of a chunk. Returns the chunk to go on with; `None` after the last one.
    pub(super) fn some(&self, from: u64, mut each: impl FnMut(&Seen<'_>)) -> Option<u64> {
        let from = from.max(self.first);
        let chunk = self.chunks.get(usize::try_from(from - self.first).ok()?)?;
        for (index, record) in chunk.records.iter().enumerate() {
            if record.opened < self.since {
                continue;
            }
            let frontend = self.frontends.get(record.frontend).map_or(&[][..], |name| name);
            let end = record.text.saturating_add(record.bytes());
            let text = chunk.text.get(record.text..end).unwrap_or_default();
            each(&Seen { number: Number(from, index), record, frontend, text });
        }
        Some(from + 1)
    }

    /// Notes that a record is in the table.
    pub(super) fn take(&mut self, Number(chunk, index): Number) {
        let chunk = chunk.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let chunk = chunk.and_then(|at| self.chunks.get_mut(at));
        if let Some(record) = chunk.and_then(|chunk| chunk.records.get_mut(index)) {
            record.is_taken = true;
        }
    }
}

impl Chunk {
    fn clear(&mut self) {
        self.records.clear();
        self.text.clear();
    }
}

impl Record {
    fn bytes(&self) -> usize {
        self.host + self.method.unwrap_or_default() + self.path.unwrap_or_default()
    }
}

impl Seen<'_> {
    /// Which record it is.
    pub(super) fn number(&self) -> Number {
        self.number
    }

    /// Whether it is in the table.
    pub(super) fn is_taken(&self) -> bool {
        self.record.is_taken
    }

    /// The decision's id.
    pub(super) fn id(&self) -> &DecisionId {
        &self.record.id
    }

    /// When it was allowed.
    pub(super) fn opened(&self) -> MonotonicTime {
        self.record.opened
    }

    /// Where the client's connection came in, and from whom.
    pub(super) fn connection(&self) -> (&[u8], Option<SocketAddr>) {
        (self.frontend, self.record.source)
    }

    /// Whether the agent before this one allowed it.
    pub(super) fn is_inherited(&self) -> bool {
        self.record.is_inherited
    }

    /// Whether it may be in the process of HAProxy with that id.
    pub(super) fn is_in(&self, process: u32) -> bool {
        self.record.process.is_none_or(|id| id == process)
    }

    /// The number of its stream, and when that began.
    pub(super) fn number_and_start(&self) -> Option<(u32, Quarter)> {
        self.record.stream.zip(self.record.started.map(Quarter::of))
    }

    /// When HAProxy asked, by its clock; only where the allow may be reused.
    pub(super) fn asked(&self) -> Option<Quarter> {
        self.record.asked.map(|millis| Quarter::of(millis.saturating_mul(1000)))
    }

    /// The same in milliseconds since the Unix epoch.
    pub(super) fn asked_millis(&self) -> Option<u64> {
        self.record.asked
    }

    /// Whether HAProxy has a number for its stream.
    pub(super) fn has_number(&self) -> bool {
        self.record.stream.is_some()
    }

    /// The tunnel that it is if it lasts.
    pub(super) fn tunnel(&self) -> Option<Tunnel> {
        let record = self.record;
        let (host, rest) = self.text.split_at_checked(record.host)?;
        let (method, path) = rest.split_at_checked(record.method.unwrap_or_default())?;
        Some(Tunnel {
            id: record.id,
            kind: Kind::Request,
            identity: record.identity.clone(),
            by: record.by,
            session: record.session.clone(),
            workspace: record.workspace.clone(),
            owner: record.owner.clone(),
            endpoint: record.endpoint.clone(),
            reason: record.reason,
            host: Host::parse(host).ok()?,
            method: record.method.map(|_| method.into()),
            path: record.path.map(|_| path.into()),
            route: record.route.clone(),
            client: record.client,
            since: record.since,
            opened: record.opened,
            place: Place {
                frontend: self.frontend.into(),
                stream: record.stream,
                started: record.started,
                process: record.process,
                source: record.source,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authz::decision::Decision,
        gate::Response,
        request::Request,
        tunnels::tests::{identity, named},
    };

    fn note(recent: &Recent, number: u32, host: &str, path: &[u8]) -> Result<(), Full> {
        let mut request = Request { host: Some(host.as_bytes()), ..Request::default() };
        request.method = Some(b"GET");
        request.path = Some(path);
        request.spot.frontend = Some(b"gate");
        request.spot.stream = Some(number);
        let mut decision = Decision::refuse(Reason::Owner);
        decision.identity = Some(Arc::new(identity()));
        decision.route = Some(named(false));
        let id = DecisionId::from(&format!("1-2-{number:x}")).unwrap();
        recent.note(&allowed(&decision.into(), &request, &id))
    }

    fn allowed<'a>(
        response: &'a Response,
        request: &'a Request<'a>,
        id: &'a DecisionId,
    ) -> Allowed<'a> {
        Allowed { response, request, id, certificates: &[], now: Timestamp::from_secs(1) }
    }

    fn all(recent: &Recent) -> Vec<Tunnel> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = recent.lock().some(from, |seen| all.extend(seen.tunnel()));
        }
        all
    }

    #[test]
    fn what_is_remembered_is_all_that_decides_about_it() {
        let recent = Recent::with(4);
        note(&recent, 7, "W.test:80", b"/\xff").unwrap();
        let tunnel = all(&recent).pop().unwrap();
        assert_eq!((tunnel.kind, tunnel.host.as_str()), (Kind::Request, "w.test"));
        assert_eq!(tunnel.path.as_deref(), Some(&b"/\xff"[..]));
        assert_eq!(tunnel.method.as_deref(), Some(&b"GET"[..]));
        assert_eq!((tunnel.place.stream, &*tunnel.place.frontend), (Some(7), &b"gate"[..]));
        assert!(tunnel.identity.is_some() && tunnel.route == Some(named(false)));
    }

    #[test]
    fn s4_what_the_agent_before_remembered_is_remembered_as_it_was() {
        let before = Recent::with(4);
        note(&before, 7, "w.test:80", b"/\xff").unwrap();
        let was = all(&before).pop().unwrap();
        let recent = Recent::with(4);
        recent.inherit(&was, Some(5)).unwrap();
        let mut seen = Vec::new();
        let _ = recent.lock().some(0, |one| {
            seen.push((one.tunnel().unwrap(), one.asked_millis(), one.is_inherited()));
        });
        let (tunnel, asked, is_inherited) = seen.pop().unwrap();
        assert_eq!(format!("{:?}", Tunnel { opened: was.opened, ..tunnel }), format!("{was:?}"));
        assert_eq!((asked, is_inherited), (Some(5), true));
        // What a file holds that no agent wrote takes no more room than anything else.
        let path = Some(vec![b'a'; CHUNK_TEXT].into());
        assert_eq!(recent.inherit(&Tunnel { path, ..was }, None), Err(Full));
    }

    #[test]
    fn s4_a_flood_takes_no_more_memory_and_what_it_drives_out_is_noted() {
        let recent = Recent::with(8);
        let before = MonotonicTime::now();
        assert!(recent.lock().is_empty());
        let long = vec![b'a'; 2 * MAX_PATH];
        for number in 0..100_000_u32 {
            let path = if number % 3 == 0 { &long[..] } else { b"/" };
            note(&recent, number, "w.test", path).unwrap();
        }
        let ring = recent.lock();
        assert_eq!(ring.chunks.len() + ring.free.len(), 8);
        for chunk in ring.chunks.iter().chain(&ring.free) {
            assert_eq!((chunk.records.capacity(), chunk.text.capacity()), (CHUNK, CHUNK_TEXT));
        }
        let Lost { from, to } = ring.lost().unwrap();
        assert!(before <= from && from < to && to <= MonotonicTime::now());
        drop(ring);
        let last = all(&recent).pop().unwrap();
        assert_eq!(last.place.stream, Some(99_999));
        // What was looked at in time is no loss.
        let recent = Recent::with(8);
        for number in 0..10_000 {
            note(&recent, number, "w.test", b"/").unwrap();
            if number % 128 == 0 {
                recent.tidy(MonotonicTime::now());
            }
        }
        assert_eq!(recent.lock().lost(), None);
        recent.tidy(MonotonicTime::now());
        assert!(recent.lock().is_empty() && all(&recent).is_empty());
    }

    #[test]
    fn what_could_not_be_found_is_not_let_pass() {
        let recent = Recent::with(2);
        let mut request = Request { host: Some(b"w.test"), ..Request::default() };
        request.spot.frontend = Some(b"gate");
        let decision = Decision::refuse(Reason::Owner);
        let id = DecisionId::from("1-2-3").unwrap();
        let response = decision.into();
        let note = |request: &Request<'_>| recent.note(&allowed(&response, request, &id));
        assert_eq!(note(&request), Err(Full));
        request.spot.source = Some([127, 0, 0, 1].into());
        assert_eq!(note(&request), Err(Full), "an address without a port");
        request.spot.port = Some(7);
        assert_eq!(note(&request), Ok(()));
    }
}
