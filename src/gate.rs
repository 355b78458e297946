//! The way of one request through the stages: authenticate, authorize, decorate.
//!
//! The live path, `explain` and the tests all go through [`Gate::decide`].

use std::sync::Arc;

use crate::{
    authz::{
        decision::HostMatch,
        limits::Limits,
        policy::{Policies, RequestContext},
        reason::Reason,
    },
    identity::{
        certificate::CertificateRule,
        credential::Sources,
        issuers::Issuers,
        pending::{Pending, Waiting},
        revocation::Revocations,
    },
    metrics::Metrics,
    request::Request,
    sessions::BrowserSessions,
    sources::WatchedSource,
    time::Timestamp,
    workspaces::{
        host::Host,
        pattern::{HostPatterns, Scratch},
        reconcile::lookup::Lookup,
        registry::{Registry, Snapshot},
    },
};

mod authenticate;
mod authorize;
mod fitness;
pub mod live;
mod origin;
mod response;
pub mod revalidate;
#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod tests;

use authenticate::Authenticated;
use response::strips_authorization;
pub use response::{Metadata, Response, Versions};

/// Everything a decision is made from.
pub struct Gate {
    /// Which hosts are workspaces.
    pub patterns: HostPatterns,
    /// Whose tokens count.
    pub issuers: Arc<Issuers>,
    /// Where tokens may be beside the Authorization header; nowhere unless configured.
    pub sources: Option<Arc<Sources>>,
    /// What clients are told of tokens for workspaces; nothing unless configured.
    pub metadata: Option<Arc<Metadata>>,
    /// Which client certificates count. Without a bearer token, the first rule that is about one
    /// decides; beside a token a certificate only proves that token.
    pub certificates: Vec<CertificateRule>,
    /// How people sign in with a browser; not at all unless configured.
    pub browser: Option<Arc<BrowserSessions>>,
    /// What was revoked.
    pub revocations: Arc<Revocations>,
    /// The workspaces.
    pub registry: Arc<Registry>,
    /// How each source is asked about one workspace, by their numbers; those that cannot be have none.
    pub lookups: Vec<Option<Lookup>>,
    /// The sources as the administrator sees them, by their numbers.
    pub watched: Vec<WatchedSource>,
    /// What the operator decided for all workspaces.
    pub policy: Limits,
    /// Policies beyond ownership; none unless configured.
    pub policies: Option<Arc<Policies>>,
    /// The fingerprints of what decides.
    pub versions: Versions,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What came of a request.
pub enum Step {
    /// The response.
    Done(Response),
    /// The decision waits; make it again after the wait, with [`Waiting::Never`].
    Wait(Pending),
}

/// One authorization request, as each stage sees it.
struct Check<'c> {
    request: &'c Request<'c>,
    /// What its host leads to.
    host: HostMatch,
    workspaces: &'c Snapshot,
    now: Timestamp,
    waiting: Waiting,
}

/// Why a stage ends the way of a request.
enum Stop {
    /// It is refused, and no workspace or identity has a part in that.
    Refused(Reason),
    /// It is for the gate's own document of metadata.
    Metadata,
    /// It cannot be decided yet.
    Pending(Pending),
}

impl Gate {
    /// Decides about one request. Never waits itself: where `waiting` allows it, the caller may have to.
    #[must_use]
    pub fn decide(
        &self,
        request: &Request<'_>,
        workspaces: &Snapshot,
        now: Timestamp,
        scratch: &mut Scratch,
        waiting: Waiting,
    ) -> Step {
        let host = self.match_host(request, scratch);
        let check = Check { request, host, workspaces, now, waiting };
        match self.respond(&check, scratch) {
            Ok(response) => Step::Done(response),
            Err(Stop::Refused(reason)) => Step::Done(Response::refuse(reason)),
            Err(Stop::Metadata) => Step::Done(self.metadata_document()),
            Err(Stop::Pending(pending)) => Step::Wait(pending),
        }
    }

    /// The way of a request that is neither refused at once nor made to wait.
    fn respond(&self, check: &Check<'_>, scratch: &mut Scratch) -> Result<Response, Stop> {
        self.check_fitness(check)?;
        let Authenticated { authentication, evidence, session } =
            self.authenticate(check, scratch)?;
        let strip_authorization = strips_authorization(check, &authentication);
        let decision = self.authorize(check, authentication)?;
        let response = Response { evidence, strip_authorization, session, ..decision.into() };
        Ok(self.decorate(check, response))
    }

    /// What the request's host leads to.
    #[must_use]
    pub fn match_host(&self, request: &Request<'_>, scratch: &mut Scratch) -> HostMatch {
        let Some(raw) = request.host else { return HostMatch::Missing };
        match Host::parse(raw) {
            Err(error) => HostMatch::Invalid(error),
            Ok(host) => match self.patterns.resolve(&host, scratch) {
                Some(target) => HostMatch::Matched(host, target),
                None => HostMatch::Unmatched(host),
            },
        }
    }

    /// Where tokens may be beside the Authorization header.
    fn token_sources(&self) -> &Sources {
        const NOWHERE: &Sources = &Sources { cookie: None, query: None, subprotocol: false };
        self.sources.as_deref().unwrap_or(NOWHERE)
    }
}

impl<'c> Check<'c> {
    /// What policies are told of the request.
    const fn context(&self) -> RequestContext<'c> {
        let Request { method, path, client, is_stream, .. } = *self.request;
        RequestContext { method, path, client, now: self.now, is_stream }
    }

    /// Whether its host is one of a workspace.
    const fn is_for_workspace(&self) -> bool {
        matches!(self.host, HostMatch::Matched(..))
    }
}
