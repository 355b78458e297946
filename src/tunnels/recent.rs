//! The plain requests that were allowed in the last seconds.
//!
//! A request does not say how long its response will take: server-sent events, a download and a
//! chunked POST look like any other. So everything that decides about an allowed request is
//! remembered for the seconds until HAProxy's list of streams shows whether it lasts. Those that
//! last become tunnels ([`super::promote`]).
//!
//! The memory is allocated once and used as a ring: a new request replaces the oldest. If the ring is
//! full before HAProxy's list was read, the agent remembers of the dropped requests only when they
//! were allowed. Every stream of that time that it cannot identify is terminated (see
//! [`super::unknown`]), because the agent could not terminate it later.

mod ring;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, MutexGuard},
    time::Duration,
};

pub(super) use ring::{ForgottenSpan, RecordNumber, RecordRing};

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
        Self { ring: Mutex::new(RecordRing::new(chunks)) }
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
        self.lock().found_lost(until);
    }

    /// Forgets the requests from before this time. The lock is released after each chunk, so that
    /// no request waits long.
    pub(super) fn tidy(&self, before: MonotonicTime) {
        while self.lock().tidy(before) {}
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
mod tests;
