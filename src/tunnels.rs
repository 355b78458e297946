//! Live tunnels: allowed requests that last for hours, and their termination when access ends.
//!
//! A tunnel is a WebSocket or another upgrade, a TCP stream, or a plain request whose response takes
//! long. (CONNECT is refused.) Every allowed tunnel enters a bounded [`table`] before HAProxy gets the
//! response; a plain request enters it once it has lasted for some seconds ([`recent`],
//! [`promote`]). [`revalidation`] decides about each of them again, by the same code that decides about
//! requests, whenever something changed and once a second. A tunnel that would be refused now, or
//! would lead elsewhere, must be terminated.
//!
//! [`terminator`] finds the stream of each tunnel in the processes of HAProxy, terminates those that
//! must end, and removes those that have ended from the table. [`store`] writes the tunnels to a
//! file, so that a restarted agent knows those of the one before it.
//!
//! Invariant: no tunnel is open at HAProxy without an entry in the table or a record among the
//! recent requests.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    authz::{
        decision::{DecisionId, Route},
        policy::{RequestContext, reading},
        reason::Reason,
    },
    gate::{Response, revalidate::EndReason},
    haproxy::runtime::{Detail, Quarter},
    identity::{Identity, certificate::CertificateRule},
    request::{Request, StreamLocation},
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::{EndpointName, WorkspaceId, host::Host},
};

pub mod journal;
pub mod metrics;
mod promote;
mod recent;
mod record;
mod reused;
pub mod revalidation;
pub mod settings;
pub mod store;
mod summary;
pub mod table;
pub mod terminator;
mod unknown;
pub mod view;

pub use table::{CannotTrack, Tunnels};

/// The longest path that is remembered of a tunnel, in bytes. Policies read one byte less: the last
/// byte shows them that the path was longer.
const MAX_PATH: usize = reading::MAX_PATH + 1;
/// The longest method that is remembered of a tunnel, in bytes.
const MAX_METHOD: usize = 32;

/// The table `[tunnels]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// The most tunnels at once.
    pub max: usize,
    /// The longest that a tunnel may last; no limit by default.
    pub max_lifetime: Option<Duration>,
    /// Whether a tunnel goes on after the token or certificate that opened it has expired.
    pub outlive_token: bool,
    /// Whether tunnels that this agent did not allow are terminated. Only for an agent that is the
    /// only one of its HAProxy.
    pub terminate_unknown: bool,
    /// The frontends whose tunnels are watched from the start. Others are added with their first
    /// authorization request.
    pub frontends: Vec<Box<[u8]>>,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            max: 20_000,
            max_lifetime: None,
            outlive_token: false,
            terminate_unknown: false,
            frontends: vec![],
        }
    }
}

/// An allowed request, with all that a tunnel remembers of it.
#[derive(Clone, Copy)]
pub struct AllowedRequest<'a> {
    /// The response of the gate.
    pub response: &'a Response,
    /// The authorization request.
    pub request: &'a Request<'a>,
    /// The id of the decision.
    pub id: &'a DecisionId,
    /// The certificate rules of the gate that decided.
    pub certificates: &'a [CertificateRule],
    /// When it was decided.
    pub now: Timestamp,
}

/// The kind of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// An HTTP request that asks for another protocol, such as a WebSocket; over HTTP/2 too (RFC
    /// 8441).
    Upgrade,
    /// An HTTP request with the method CONNECT.
    Connect,
    /// A TCP stream.
    Tcp,
    /// Any other HTTP request that lasts: server-sent events, a download, a chunked POST.
    Request,
}

/// The kind of credential that a tunnel was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelCredential {
    /// A token.
    Token,
    /// The cookie of a browser session.
    Session,
    /// A client certificate.
    Certificate,
    /// No credential: the endpoint is public.
    None,
}

/// Why a tunnel is terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationCause {
    /// The request that opened it would be refused now, for this reason.
    Refused(Reason),
    /// Its browser session ended.
    SessionEnded,
    /// It has lasted for as long as `[tunnels]` allows.
    Lifetime,
    /// The workspace has another address now.
    Moved,
    /// An administrator terminated it; with the user id of the administrator, where it is known.
    Administrator(Option<u32>),
    /// This agent did not allow it, so its person is unknown.
    Unknown,
    /// It began while more requests were allowed at once than could be remembered.
    Untracked,
}

/// A live tunnel, with everything that decides whether it may go on.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The id of the decision that opened it. It is the id of the tunnel too.
    pub id: DecisionId,
    /// The kind of tunnel.
    pub kind: TunnelKind,
    /// The person or machine that opened it; none for a public endpoint.
    pub identity: Option<Arc<Identity>>,
    /// The kind of credential that it was opened with.
    pub credential: TunnelCredential,
    /// The browser session that it was opened with, if it was one.
    pub session: Option<Arc<Session>>,
    /// The workspace that it leads to.
    pub workspace: Option<WorkspaceId>,
    /// The owner of the workspace, as records name people.
    pub owner: Option<Arc<str>>,
    /// The endpoint of the workspace.
    pub endpoint: Option<EndpointName>,
    /// The reason for which it was allowed.
    pub reason: Reason,
    /// The host of its request.
    pub host: Host,
    /// The method of its request; none if it is longer than any that a policy knows.
    pub method: Option<Box<[u8]>>,
    /// The path of its request, without what is beyond the longest path that is remembered.
    pub path: Option<Box<[u8]>>,
    /// Where HAProxy sends it.
    pub route: Option<Route>,
    /// The address of the client, as in the audit log.
    pub client: Option<IpAddr>,
    /// When it was allowed.
    pub since: Timestamp,
    /// When it was allowed, by the monotonic clock. For a tunnel of an earlier agent: when this
    /// agent started.
    pub opened: MonotonicTime,
    /// Where HAProxy has its stream.
    pub location: TunnelLocation,
}

/// Where HAProxy has the stream of a tunnel, from the arguments of the authorization request
/// ([`Spot`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLocation {
    /// The frontend of HAProxy that took the connection.
    pub frontend: Box<[u8]>,
    /// The number that HAProxy gave to the stream. Passed from HAProxy 3.0 on.
    pub stream: Option<u32>,
    /// When the stream began, in microseconds since the Unix epoch by HAProxy's clock.
    pub started: Option<u64>,
    /// The id of the HAProxy process.
    pub process: Option<u32>,
    /// The address and port of the client's end of the connection.
    pub source: Option<SocketAddr>,
}

impl From<EndReason> for TerminationCause {
    fn from(ended: EndReason) -> Self {
        match ended {
            EndReason::Refused(reason) => Self::Refused(reason),
            EndReason::Moved => Self::Moved,
        }
    }
}

impl TunnelKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Upgrade, Self::Connect, Self::Tcp, Self::Request];

    /// The kind of tunnel that an allowed request becomes at once. `None` for a plain request,
    /// which becomes a tunnel only if it lasts.
    #[must_use]
    pub fn from_request(request: &Request<'_>) -> Option<Self> {
        if request.is_stream {
            Some(Self::Tcp)
        } else if request.method.is_some_and(|method| method.eq_ignore_ascii_case(b"CONNECT")) {
            Some(Self::Connect)
        } else {
            // The workspace may refuse to change the protocol. Then HAProxy ends the stream soon,
            // and the entry goes with it.
            (request.upgrades > 0).then_some(Self::Upgrade)
        }
    }

    /// The stable id, as in records and metrics.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Connect => "connect",
            Self::Tcp => "tcp",
            Self::Request => "request",
        }
    }
}

impl TunnelCredential {
    /// The kind of credential of an allowed request.
    #[must_use]
    fn from_response(response: &Response, certificates: &[CertificateRule]) -> Self {
        match &response.decision.identity {
            _ if response.session.is_some() => Self::Session,
            None => Self::None,
            Some(identity) => {
                let name = &identity.authority.name;
                // A certificate's identity has the authority of its rule; all other identities come
                // from tokens.
                let of_rule = certificates.iter().any(|rule| rule.authority.name == *name);
                if of_rule { Self::Certificate } else { Self::Token }
            }
        }
    }

    /// The stable id, as in records.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Certificate => "certificate",
            Self::None => "none",
        }
    }
}

impl TerminationCause {
    /// The stable id, as in records. A refusal has the id of its reason.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Refused(reason) => reason.id(),
            Self::SessionEnded => "session_ended",
            Self::Lifetime => "lifetime_reached",
            Self::Moved => "destination_changed",
            Self::Administrator(_) => "administrator",
            Self::Unknown => "unknown_tunnel",
            Self::Untracked => "untracked",
        }
    }
}

impl Tunnel {
    /// The tunnel that an allowed request becomes. `None` if the request does not open a tunnel, or if
    /// HAProxy does not pass where its stream is.
    #[must_use]
    pub fn from_allowed(allowed: &AllowedRequest<'_>) -> Option<Self> {
        let AllowedRequest { response, request, id, certificates, now } = *allowed;
        let decision = &response.decision;
        let kind = TunnelKind::from_request(request)?;
        // What follows cannot name another endpoint that matters.
        let path = request.path.map(|path| path.get(..MAX_PATH).unwrap_or(path).into());
        // Policies compare methods as a whole, and know none that is longer.
        let method = request.method.filter(|method| method.len() <= MAX_METHOD).map(Into::into);
        Some(Self {
            id: *id,
            kind,
            identity: decision.identity.clone(),
            credential: TunnelCredential::from_response(response, certificates),
            session: response.session.clone(),
            workspace: decision.workspace.as_ref().map(|workspace| workspace.id.clone()),
            owner: decision.owner.clone(),
            endpoint: decision.endpoint.clone(),
            reason: decision.reason,
            // A request without a valid host is never allowed.
            host: Host::parse(request.host?).ok()?,
            method,
            path,
            route: decision.route.clone(),
            client: request.client,
            since: now,
            opened: MonotonicTime::now(),
            location: TunnelLocation::from_stream(&request.location)?,
        })
    }

    /// The context of a request like the one that opened the tunnel, if it were made now.
    #[must_use]
    pub fn request_context(&self, now: Timestamp) -> RequestContext<'_> {
        RequestContext {
            method: self.method.as_deref(),
            path: self.path.as_deref(),
            client: self.client,
            now,
            is_stream: self.kind == TunnelKind::Tcp,
        }
    }

    /// The time at which it ends in any case, and why.
    #[must_use]
    pub fn end(&self, settings: &TunnelSettings) -> Option<(Timestamp, TerminationCause)> {
        let longest =
            settings.max_lifetime.map(|most| (self.since.plus(most), TerminationCause::Lifetime));
        let credential = match (&self.identity, self.credential) {
            (Some(identity), TunnelCredential::Token | TunnelCredential::Certificate)
                if !settings.outlive_token =>
            {
                let expired = Reason::Refused(crate::identity::TokenError::Expired);
                Some((identity.expires, TerminationCause::Refused(expired)))
            }
            _ => None,
        };
        credential.into_iter().chain(longest).min_by_key(|(at, _)| *at)
    }
}

impl TunnelLocation {
    fn from_stream(location: &StreamLocation<'_>) -> Option<Self> {
        Some(Self {
            frontend: location.frontend?.into(),
            stream: location.stream,
            started: location.started,
            process: location.process,
            source: location.address(),
        })
    }

    /// Whether a stream in HAProxy can be recognized as this one.
    #[must_use]
    pub fn can_be_found(&self) -> bool {
        self.stream.is_some() || self.source.is_some()
    }

    /// Whether a stream of the process with this id is this one. The number and the start of a
    /// stream identify it. Without them, only a connection that carries one stream at a time
    /// identifies it.
    #[must_use]
    pub fn is(&self, detail: &Detail, process: u32) -> bool {
        let here = *detail.frontend == *self.frontend
            && self.process.is_none_or(|id| id == process)
            && (self.source.is_none() || detail.source == self.source);
        match (self.stream, self.started) {
            // The number of a stream is unique in its process only, and HAProxy uses it again.
            _ if !here => false,
            (Some(stream), Some(started)) => {
                detail.id == stream && detail.started == Quarter::from_micros(started)
            }
            (Some(stream), None) => detail.id == stream,
            (None, _) => self.source.is_some() && !detail.shares_connection,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("user", &self.identity.load().label())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
