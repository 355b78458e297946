//! Live tunnels: what was allowed once and lasts for hours (WebSockets and other upgrades, CONNECT, TCP
//! streams, requests whose answer takes its time), and ending it when the access ends.
//!
//! Every allowed tunnel enters a bounded [`table`] before HAProxy is answered; any other request does so once it
//! lasts ([`recent`], [`promote`]). [`sweep`] decides about each
//! again, by the very code that decides about requests, whenever something changed and once a second; what
//! would not be allowed now, or would lead elsewhere, is due. [`cutter`] finds each tunnel's stream in the
//! processes of HAProxy, ends those that are due, and lets go of those that have ended. [`keep`] lets a
//! restarted agent go on with what the one before it had.

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
    gate::{Response, revalidate::Ended},
    haproxy::runtime::{Detail, Quarter},
    identity::{Identity, certificate::CertificateRule},
    request::{Request, Spot},
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::{EndpointName, WorkspaceId, host::Host},
};

pub mod cutter;
pub mod journal;
pub mod keep;
pub mod metrics;
mod promote;
mod recent;
mod record;
mod reused;
mod stranger;
pub mod sweep;
pub mod table;
pub mod view;

pub use table::{Full, Tunnels};

/// The longest path that is kept of a tunnel, in bytes: what policies read at most. What follows cannot name
/// another endpoint that matters, and one byte more shows policies that it was longer.
const MAX_PATH: usize = reading::MAX_PATH + 1;
/// The same for the method.
const MAX_METHOD: usize = 32;

/// What the operator decided about tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most at once.
    pub most: usize,
    /// How long one lasts at most; for ever unless said.
    pub longest: Option<Duration>,
    /// Whether a tunnel goes on after the end of the token or certificate that opened it.
    pub outlive_token: bool,
    /// Whether tunnels that this agent did not allow are cut; only for an agent that is alone.
    pub cut_unknown: bool,
    /// The frontends whose tunnels are the gate's, before the first question comes from one.
    pub frontends: Vec<Box<[u8]>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            most: 20_000,
            longest: None,
            outlive_token: false,
            cut_unknown: false,
            frontends: vec![],
        }
    }
}

/// A request as it was allowed.
#[derive(Clone, Copy)]
pub struct Allowed<'a> {
    /// The response.
    pub response: &'a Response,
    /// What was asked.
    pub request: &'a Request<'a>,
    /// The decision's id.
    pub id: &'a DecisionId,
    /// The certificate rules it was decided by.
    pub certificates: &'a [CertificateRule],
    /// When.
    pub now: Timestamp,
}

/// What kind of tunnel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An HTTP request that asks for another protocol, such as a WebSocket; over HTTP/2 too (RFC 8441).
    Upgrade,
    /// CONNECT.
    Connect,
    /// A TCP stream.
    Tcp,
    /// Any other HTTP request whose exchange lasts: server-sent events, a download, a chunked POST.
    Request,
}

/// What said who opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A token.
    Token,
    /// A browser session.
    Session,
    /// A client certificate.
    Certificate,
    /// Nothing: the endpoint is public.
    Nobody,
}

/// Why a tunnel is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A request like the one that opened it would be refused now, for that reason.
    Refused(Reason),
    /// Its browser session ended.
    SessionEnded,
    /// It lasted as long as any may.
    Lifetime,
    /// The endpoint is elsewhere now.
    Moved,
    /// An administrator said so.
    Administrator(Option<u32>),
    /// This agent did not allow it, and nobody knows who opened it.
    Unknown,
    /// It began when more was allowed at once than could be remembered.
    Untracked,
}

/// One tunnel.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The id of the decision that opened it, and its own.
    pub id: DecisionId,
    /// What it is.
    pub kind: Kind,
    /// Who opened it.
    pub identity: Option<Arc<Identity>>,
    /// What said so.
    pub by: By,
    /// The session, if it was one.
    pub session: Option<Arc<Session>>,
    /// The workspace.
    pub workspace: Option<WorkspaceId>,
    /// Its owner in one word.
    pub owner: Option<Arc<str>>,
    /// The endpoint.
    pub endpoint: Option<EndpointName>,
    /// Why it was allowed.
    pub reason: Reason,
    /// The host.
    pub host: Host,
    /// The method.
    pub method: Option<Box<[u8]>>,
    /// The path.
    pub path: Option<Box<[u8]>>,
    /// Where it leads.
    pub route: Option<Route>,
    /// The client, as the audit log knows it.
    pub client: Option<IpAddr>,
    /// When it was allowed.
    pub since: Timestamp,
    /// The same by the steady clock; the agent's start for one from before.
    pub opened: MonotonicTime,
    /// Where HAProxy has it.
    pub place: Place,
}

/// Where HAProxy has a tunnel; see [`Spot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frontend.
    pub frontend: Box<[u8]>,
    /// The number of the stream.
    pub stream: Option<u32>,
    /// When it began.
    pub started: Option<u64>,
    /// The process.
    pub process: Option<u32>,
    /// The other end of the client's connection.
    pub source: Option<SocketAddr>,
}

impl From<Ended> for Cause {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Refused(reason) => Self::Refused(reason),
            Ended::Moved => Self::Moved,
        }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Upgrade, Self::Connect, Self::Tcp, Self::Request];

    /// What an allowed request becomes at once, if it is a tunnel. Whether any other lasts is seen later.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Option<Self> {
        if request.is_stream {
            Some(Self::Tcp)
        } else if request.method.is_some_and(|method| method.eq_ignore_ascii_case(b"CONNECT")) {
            Some(Self::Connect)
        } else {
            // Whether the workspace switches is seen later; one that does not is gone soon.
            (request.upgrades > 0).then_some(Self::Upgrade)
        }
    }

    /// The stable id.
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

impl By {
    /// What said who asks, in an allowed request.
    #[must_use]
    fn of(response: &Response, certificates: &[CertificateRule]) -> Self {
        match &response.decision.identity {
            _ if response.session.is_some() => Self::Session,
            None => Self::Nobody,
            Some(identity) => {
                let name = &identity.authority.name;
                let of_rule = certificates.iter().any(|rule| rule.authority.name == *name);
                if of_rule { Self::Certificate } else { Self::Token }
            }
        }
    }

    /// The stable id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Certificate => "certificate",
            Self::Nobody => "nobody",
        }
    }
}

impl Cause {
    /// The stable id.
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
    /// The tunnel that an allowed request becomes; `None` where it is none, or HAProxy does not say where
    /// it has it.
    #[must_use]
    pub fn of(allowed: &Allowed<'_>) -> Option<Self> {
        let Allowed { response, request, id, certificates, now } = *allowed;
        let decision = &response.decision;
        let kind = Kind::of(request)?;
        let path = request.path.map(|path| path.get(..MAX_PATH).unwrap_or(path).into());
        // A longer one is none that a policy knows.
        let method = request.method.filter(|method| method.len() <= MAX_METHOD).map(Into::into);
        Some(Self {
            id: *id,
            kind,
            identity: decision.identity.clone(),
            by: By::of(response, certificates),
            session: response.session.clone(),
            workspace: decision.workspace.as_ref().map(|workspace| workspace.id.clone()),
            owner: decision.owner.clone(),
            endpoint: decision.endpoint.clone(),
            reason: decision.reason,
            // What is allowed has a host.
            host: Host::parse(request.host?).ok()?,
            method,
            path,
            route: decision.route.clone(),
            client: request.client,
            since: now,
            opened: MonotonicTime::now(),
            place: Place::of(&request.spot)?,
        })
    }

    /// What a request like the one that opened it would be like now.
    #[must_use]
    pub fn request_context(&self, now: Timestamp) -> RequestContext<'_> {
        RequestContext {
            method: self.method.as_deref(),
            path: self.path.as_deref(),
            client: self.client,
            now,
            is_stream: self.kind == Kind::Tcp,
        }
    }

    /// When it ends whatever happens, and why.
    #[must_use]
    pub fn end(&self, settings: &Settings) -> Option<(Timestamp, Cause)> {
        let longest = settings.longest.map(|longest| (self.since.plus(longest), Cause::Lifetime));
        let credential = match (&self.identity, self.by) {
            (Some(identity), By::Token | By::Certificate) if !settings.outlive_token => {
                let expired = Reason::Refused(crate::identity::Refusal::Expired);
                Some((identity.expires, Cause::Refused(expired)))
            }
            _ => None,
        };
        credential.into_iter().chain(longest).min_by_key(|(at, _)| *at)
    }
}

impl Place {
    fn of(spot: &Spot<'_>) -> Option<Self> {
        Some(Self {
            frontend: spot.frontend?.into(),
            stream: spot.stream,
            started: spot.started,
            process: spot.process,
            source: spot.address(),
        })
    }

    /// Whether a stream can be told to be this one at all.
    #[must_use]
    pub fn can_be_found(&self) -> bool {
        self.stream.is_some() || self.source.is_some()
    }

    /// Whether the stream, of a process with that id, is this one. With its number and its beginning there
    /// is no doubt; without, only a connection that carries one stream tells.
    #[must_use]
    pub fn is(&self, detail: &Detail, process: u32) -> bool {
        let here = *detail.frontend == *self.frontend
            && self.process.is_none_or(|id| id == process)
            && (self.source.is_none() || detail.source == self.source);
        match (self.stream, self.started) {
            _ if !here => false,
            (Some(stream), Some(started)) => {
                detail.id == stream && detail.started == Quarter::of(started)
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
