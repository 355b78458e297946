//! The plain requests that were allowed in the last seconds.
//!
//! A request does not say how long its response will take: server-sent events, a download and a
//! chunked POST look like any other. So everything that decides about an allowed request is
//! remembered for the seconds until HAProxy's list of streams shows whether it lasts. Those that
//! last become tunnels ([`super::promote`]).
//!
//! The memory is allocated once and used as a ring: a new request replaces the oldest. If a request
//! is replaced before it was scanned for, the time in which it was allowed is noted. Unknown
//! streams of that time are terminated (see [`super::unknown`]), because the agent could not terminate
//! them later.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::{
    AllowedRequest, CannotTrack, MAX_METHOD, MAX_PATH, Tunnel, TunnelCredential, TunnelKind,
    TunnelLocation,
};
use crate::{
    authz::{
        decision::{DecisionId, Route},
        reason::Reason,
    },
    haproxy::runtime::Quarter,
    identity::Identity,
    lock::Mutex,
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::{EndpointName, WorkspaceId, host::Host},
};

/// A plain request whose stream is older than this becomes a tunnel.
pub(super) const LONG_REQUEST_AGE: Duration = Duration::from_secs(3);
/// A request that must end is not terminated while it is younger than this: most responses are
/// complete by then.
pub(super) const RESPONSE_GRACE: Duration = Duration::from_millis(300);
/// The most requests that are remembered: 37,000 a second for [`LONG_REQUEST_AGE`] and half a second more.
const MAX_REQUESTS: usize = 131_072;
/// The number of requests that are stored, scanned and forgotten together.
const CHUNK_RECORDS: usize = 128;
/// The most bytes that the hosts, methods and paths of a chunk may have. One request uses half of
/// it at most.
const CHUNK_TEXT: usize = 16 * 1024;
const _: () = assert!(CHUNK_TEXT >= 2 * (MAX_HOST + MAX_METHOD + MAX_PATH));
/// The most frontends of HAProxy that are remembered.
const MAX_FRONTENDS: usize = 64;
/// The longest Host header that is remembered, in bytes: longer than any host name with a port.
const MAX_HOST: usize = 272;

/// The remembered requests.
pub(super) struct RecentRequests {
    ring: Mutex<RecordRing>,
}

/// The chunks of records, oldest first.
pub(super) struct RecordRing {
    /// The last chunk is the one that is being filled.
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk. Numbers only grow, so that a reader can go on after a change.
    first: u64,
    /// Empty chunks. The one that was used last is used next, so that memory that was never needed
    /// stays untouched.
    free: Vec<Chunk>,
    /// Records that are older than this do not matter any more.
    since: MonotonicTime,
    frontends: Vec<Box<[u8]>>,
    lost: Option<ForgottenSpan>,
}

/// Some records, and the text of their hosts, methods and paths, one after the other.
struct Chunk {
    records: Vec<RequestRecord>,
    text: Vec<u8>,
}

/// The time in which requests were allowed that were forgotten before they were scanned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForgottenSpan {
    pub(super) from: MonotonicTime,
    pub(super) to: MonotonicTime,
}

/// The number of a chunk and the index of a record in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordNumber(u64, usize);

/// One allowed request.
struct RequestRecord {
    id: DecisionId,
    identity: Option<Arc<Identity>>,
    credential: TunnelCredential,
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
    /// When HAProxy sent the authorization request, in milliseconds since the Unix epoch by its
    /// clock. Only where the allow may be reused.
    asked: Option<u64>,
    /// Whether the agent before this one allowed it.
    is_inherited: bool,
    /// Whether it is in the table of tunnels.
    is_taken: bool,
    /// Where its text begins in the chunk, and the number of bytes of each part.
    text: usize,
    host: usize,
    method: Option<usize>,
    path: Option<usize>,
}

/// A record, with its frontend and text.
pub(super) struct RecentRequest<'r> {
    number: RecordNumber,
    record: &'r RequestRecord,
    frontend: &'r [u8],
    text: &'r [u8],
}

impl RecentRequests {
    /// An empty memory of full size. The system provides its pages when they are first used.
    pub(super) fn new() -> Self {
        Self::with(MAX_REQUESTS / CHUNK_RECORDS)
    }

    fn with(chunks: usize) -> Self {
        let chunk = || Chunk {
            records: Vec::with_capacity(CHUNK_RECORDS),
            text: Vec::with_capacity(CHUNK_TEXT),
        };
        let mut all: VecDeque<_> = (0..chunks.max(2)).map(|_| chunk()).collect();
        // Reserved here, so that no request ever has to allocate.
        let mut used = VecDeque::with_capacity(all.len());
        used.extend(all.pop_front());
        let ring = RecordRing {
            chunks: used,
            first: 0,
            free: all.into(),
            since: MonotonicTime::default(),
            frontends: Vec::with_capacity(MAX_FRONTENDS),
            lost: None,
        };
        Self { ring: Mutex::new(ring) }
    }

    /// Remembers an allowed request. Allocates nothing.
    ///
    /// # Errors
    /// Its stream could not be found in HAProxy later: it must not be allowed.
    pub(super) fn note(&self, allowed: &AllowedRequest<'_>) -> Result<(), CannotTrack> {
        let AllowedRequest { response, request, id, certificates, now } = *allowed;
        let decision = &response.decision;
        let host = request.host.filter(|host| host.len() <= MAX_HOST).ok_or(CannotTrack)?;
        let frontend = request.location.frontend.ok_or(CannotTrack)?;
        let source = request.location.address();
        if request.location.stream.is_none() && source.is_none() {
            return Err(CannotTrack);
        }
        // As for a tunnel: policies read no more of the path, and know no longer method.
        let path = request.path.map(|path| path.get(..MAX_PATH).unwrap_or(path));
        let method = request.method.filter(|method| method.len() <= MAX_METHOD);
        let record = RequestRecord {
            id: *id,
            identity: decision.identity.clone(),
            credential: TunnelCredential::from_response(response, certificates),
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
            stream: request.location.stream,
            started: request.location.started,
            process: request.location.process,
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

    /// Remembers a request of the agent before this one. `asked` is what [`RecentRequest::asked_millis`]
    /// returned.
    ///
    /// # Errors
    /// There are too many frontends, or its text is too long.
    pub(super) fn inherit(&self, tunnel: &Tunnel, asked: Option<u64>) -> Result<(), CannotTrack> {
        let (host, location) = (tunnel.host.as_str().as_bytes(), &tunnel.location);
        let record = RequestRecord {
            id: tunnel.id,
            identity: tunnel.identity.clone(),
            credential: tunnel.credential,
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
            stream: location.stream,
            started: location.started,
            process: location.process,
            source: location.source,
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
        // The file may have been written by another program: its texts must fit a chunk like any
        // other.
        if parts.iter().map(|part| part.len()).sum::<usize>() > CHUNK_TEXT {
            return Err(CannotTrack);
        }
        self.lock().push(record, &location.frontend, parts)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RecordRing> {
        // Each change of the ring is complete before anything that can panic, so a poisoned lock is
        // safe.
        self.ring.lock()
    }

    /// Notes that all streams older than [`LONG_REQUEST_AGE`] at this time were scanned. Forgotten requests of
    /// long before it are not there any more.
    pub(super) fn found_lost(&self, until: MonotonicTime) {
        let mut ring = self.lock();
        ring.lost = ring.lost.filter(|lost| lost.to.plus(LONG_REQUEST_AGE * 2) >= until);
    }

    /// Forgets the requests from before this time. The lock is released after each chunk, so that
    /// no request waits long.
    pub(super) fn tidy(&self, before: MonotonicTime) {
        while self.lock().tidy(before) {}
    }
}

impl RecordRing {
    fn push(
        &mut self,
        record: RequestRecord,
        frontend: &[u8],
        parts: [&[u8]; 3],
    ) -> Result<(), CannotTrack> {
        let known = self.frontends.iter().position(|known| **known == *frontend);
        let frontend = match known {
            Some(known) => known,
            None if self.frontends.len() < MAX_FRONTENDS => {
                self.frontends.push(frontend.into());
                self.frontends.len() - 1
            }
            None => return Err(CannotTrack),
        };
        // Neither vector of a chunk may grow: the memory has a fixed size.
        let fits = |chunk: &Chunk| {
            chunk.records.len() < CHUNK_RECORDS && chunk.text.len() + record.bytes() <= CHUNK_TEXT
        };
        if !self.chunks.back().is_some_and(fits) {
            self.begin();
        }
        let chunk = self.chunks.back_mut().ok_or(CannotTrack)?;
        let text = chunk.text.len();
        for part in parts {
            chunk.text.extend_from_slice(part);
        }
        chunk.records.push(RequestRecord { frontend, text, ..record });
        Ok(())
    }

    /// Begins another chunk: a free one, or else the oldest.
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

    /// Notes the time of records that are forgotten before they were scanned for.
    fn lose(&mut self, chunk: &Chunk) {
        // A request in the table is not lost with its record.
        let mut opened = chunk.records.iter().filter(|record| !record.is_taken);
        let Some(first) = opened.next().map(|record| record.opened) else { return };
        let last = opened.next_back().map_or(first, |record| record.opened);
        // All of them were scanned for, so nothing is lost.
        if last < self.since {
            return;
        }
        let from = self.lost.map_or(first, |lost| lost.from.min(first));
        self.lost = Some(ForgottenSpan { from, to: last });
    }

    /// Forgets the oldest chunk if it is old enough. Returns whether the next one may be, too.
    fn tidy(&mut self, before: MonotonicTime) -> bool {
        self.since = self.since.max(before);
        let is_over =
            |chunk: &Chunk| chunk.records.last().is_some_and(|record| record.opened < before);
        if !self.chunks.front().is_some_and(is_over) {
            return false;
        }
        // The last chunk is being filled, so it stays, and only its records go.
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

    /// Whether no record matters.
    pub(super) fn is_empty(&self) -> bool {
        let last = self.chunks.back().and_then(|chunk| chunk.records.last());
        self.chunks.len() <= 1 && last.is_none_or(|record| record.opened < self.since)
    }

    /// Whether a free chunk is left.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether authorization requests came from this frontend.
    pub(super) fn asks(&self, frontend: &[u8]) -> bool {
        self.frontends.iter().any(|known| **known == *frontend)
    }

    /// The time of requests that were forgotten too early.
    pub(super) fn lost(&self) -> Option<ForgottenSpan> {
        self.lost
    }

    /// Calls `each` for the records of a chunk. Returns the number of the next chunk, `None` after
    /// the last.
    pub(super) fn some(&self, from: u64, mut each: impl FnMut(&RecentRequest<'_>)) -> Option<u64> {
        let from = from.max(self.first);
        let chunk = self.chunks.get(usize::try_from(from - self.first).ok()?)?;
        for (index, record) in chunk.records.iter().enumerate() {
            if record.opened < self.since {
                continue;
            }
            let frontend = self.frontends.get(record.frontend).map_or(&[][..], |name| name);
            let end = record.text.saturating_add(record.bytes());
            let text = chunk.text.get(record.text..end).unwrap_or_default();
            each(&RecentRequest { number: RecordNumber(from, index), record, frontend, text });
        }
        Some(from + 1)
    }

    /// Notes that a record is in the table of tunnels.
    pub(super) fn take(&mut self, RecordNumber(chunk, index): RecordNumber) {
        // The chunk may have been forgotten since the record was read.
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

impl RequestRecord {
    fn bytes(&self) -> usize {
        self.host + self.method.unwrap_or_default() + self.path.unwrap_or_default()
    }
}

impl RecentRequest<'_> {
    /// The number of the record.
    pub(super) fn number(&self) -> RecordNumber {
        self.number
    }

    /// Whether it is in the table of tunnels.
    pub(super) fn is_taken(&self) -> bool {
        self.record.is_taken
    }

    /// The id of the decision.
    pub(super) fn id(&self) -> &DecisionId {
        &self.record.id
    }

    /// When it was allowed.
    pub(super) fn opened(&self) -> MonotonicTime {
        self.record.opened
    }

    /// The frontend of the client's connection, and the client's address and port.
    pub(super) fn connection(&self) -> (&[u8], Option<SocketAddr>) {
        (self.frontend, self.record.source)
    }

    /// Whether the agent before this one allowed it.
    pub(super) fn is_inherited(&self) -> bool {
        self.record.is_inherited
    }

    /// Whether it may be in the HAProxy process with this id.
    pub(super) fn is_in(&self, process: u32) -> bool {
        self.record.process.is_none_or(|id| id == process)
    }

    /// The number and the start of its stream, where HAProxy passes them.
    pub(super) fn number_and_start(&self) -> Option<(u32, Quarter)> {
        self.record.stream.zip(self.record.started.map(Quarter::from_micros))
    }

    /// When HAProxy sent the authorization request, by its clock. Only where the allow may be
    /// reused.
    pub(super) fn asked(&self) -> Option<Quarter> {
        self.record.asked.map(|millis| Quarter::from_micros(millis.saturating_mul(1000)))
    }

    /// The same in milliseconds since the Unix epoch.
    pub(super) fn asked_millis(&self) -> Option<u64> {
        self.record.asked
    }

    /// Whether HAProxy passed the number of its stream.
    pub(super) fn has_number(&self) -> bool {
        self.record.stream.is_some()
    }

    /// The tunnel that it becomes if it lasts.
    pub(super) fn tunnel(&self) -> Option<Tunnel> {
        let record = self.record;
        let (host, rest) = self.text.split_at_checked(record.host)?;
        let (method, path) = rest.split_at_checked(record.method.unwrap_or_default())?;
        Some(Tunnel {
            id: record.id,
            kind: TunnelKind::Request,
            identity: record.identity.clone(),
            credential: record.credential,
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
            location: TunnelLocation {
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

    fn note(
        recent: &RecentRequests,
        number: u32,
        host: &str,
        path: &[u8],
    ) -> Result<(), CannotTrack> {
        let mut request = Request { host: Some(host.as_bytes()), ..Request::default() };
        request.method = Some(b"GET");
        request.path = Some(path);
        request.location.frontend = Some(b"gate");
        request.location.stream = Some(number);
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
    ) -> AllowedRequest<'a> {
        AllowedRequest { response, request, id, certificates: &[], now: Timestamp::from_secs(1) }
    }

    fn all(recent: &RecentRequests) -> Vec<Tunnel> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = recent.lock().some(from, |seen| all.extend(seen.tunnel()));
        }
        all
    }

    #[test]
    fn what_is_remembered_is_all_that_decides_about_it() {
        let recent = RecentRequests::with(4);
        note(&recent, 7, "W.test:80", b"/\xff").unwrap();
        let tunnel = all(&recent).pop().unwrap();
        assert_eq!((tunnel.kind, tunnel.host.as_str()), (TunnelKind::Request, "w.test"));
        assert_eq!(tunnel.path.as_deref(), Some(&b"/\xff"[..]));
        assert_eq!(tunnel.method.as_deref(), Some(&b"GET"[..]));
        assert_eq!((tunnel.location.stream, &*tunnel.location.frontend), (Some(7), &b"gate"[..]));
        assert!(tunnel.identity.is_some() && tunnel.route == Some(named(false)));
    }

    #[test]
    fn s4_what_the_agent_before_remembered_is_remembered_as_it_was() {
        let before = RecentRequests::with(4);
        note(&before, 7, "w.test:80", b"/\xff").unwrap();
        let was = all(&before).pop().unwrap();
        let recent = RecentRequests::with(4);
        recent.inherit(&was, Some(5)).unwrap();
        let mut seen = Vec::new();
        let _ = recent.lock().some(0, |one| {
            seen.push((one.tunnel().unwrap(), one.asked_millis(), one.is_inherited()));
        });
        let (tunnel, asked, is_inherited) = seen.pop().unwrap();
        assert_eq!(format!("{:?}", Tunnel { opened: was.opened, ..tunnel }), format!("{was:?}"));
        assert_eq!((asked, is_inherited), (Some(5), true));
        // A file that no agent wrote can take no more memory than any other.
        let path = Some(vec![b'a'; CHUNK_TEXT].into());
        assert_eq!(recent.inherit(&Tunnel { path, ..was }, None), Err(CannotTrack));
    }

    #[test]
    fn s4_a_flood_takes_no_more_memory_and_what_it_drives_out_is_noted() {
        let recent = RecentRequests::with(8);
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
            assert_eq!(
                (chunk.records.capacity(), chunk.text.capacity()),
                (CHUNK_RECORDS, CHUNK_TEXT)
            );
        }
        let ForgottenSpan { from, to } = ring.lost().unwrap();
        assert!(before <= from && from < to && to <= MonotonicTime::now());
        drop(ring);
        let last = all(&recent).pop().unwrap();
        assert_eq!(last.location.stream, Some(99_999));
        // Records that were scanned for in time are not lost.
        let recent = RecentRequests::with(8);
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
        let recent = RecentRequests::with(2);
        let mut request = Request { host: Some(b"w.test"), ..Request::default() };
        request.location.frontend = Some(b"gate");
        let decision = Decision::refuse(Reason::Owner);
        let id = DecisionId::from("1-2-3").unwrap();
        let response = decision.into();
        let note = |request: &Request<'_>| recent.note(&allowed(&response, request, &id));
        assert_eq!(note(&request), Err(CannotTrack));
        request.location.source = Some([127, 0, 0, 1].into());
        assert_eq!(note(&request), Err(CannotTrack), "an address without a port");
        request.location.port = Some(7);
        assert_eq!(note(&request), Ok(()));
    }
}
