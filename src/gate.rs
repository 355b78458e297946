//! The gate: decides about one authorization request.
//!
//! A request goes through stages: fitness (requests that are refused with any credential), [`cors`]
//! (preflights, which have no credential), [`authenticate`] (who asks), [`authorize`] (may they),
//! and `decorate` (what HAProxy and the browser need with the decision). The agent, `explain` and the tests all call [`Gate::decide`].
//!
//! A [`Gate`] never changes and never waits. A reload builds another one, and [`live`]
//! replaces it as a whole. [`revalidator`] decides again about what was allowed earlier.
//!
//! Invariant: no response allows a request unless every stage was passed under the same gate and
//! the same snapshot of the workspaces.

use std::sync::Arc;

use crate::{
    authz::{
        decision::HostMatch,
        limits::Limits,
        policy::{Policies, RequestContext},
        reason::Reason,
    },
    identity::{
        Identity,
        certificate::CertificateRule,
        credential::TokenLocations,
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
mod cors;
mod fitness;
pub mod live;
mod origin;
mod response;
pub mod revalidate;
pub mod revalidator;
#[cfg(test)]
pub(crate) mod scene;
mod siblings;
#[cfg(test)]
mod tests;

use authenticate::Authenticated;
pub use cors::Cors;
pub use response::{AuthorizationHeader, Metadata, Response, Versions};

/// Everything that decisions are made from, besides the workspaces of the moment.
pub struct Gate {
    /// Which hosts are workspaces.
    pub patterns: HostPatterns,
    /// The issuers whose tokens are accepted.
    pub issuers: Arc<Issuers>,
    /// Where tokens may be besides the Authorization header; nowhere by default.
    pub token_locations: Option<Arc<TokenLocations>>,
    /// What clients are told about tokens for workspaces (RFC 9728); nothing by default.
    pub metadata: Option<Arc<Metadata>>,
    /// The rules for client certificates. Without a token for the gate, the first rule that a certificate
    /// matches decides. Together with a token, a certificate only proves that token.
    pub certificates: Vec<CertificateRule>,
    /// Sign-in with a browser; none by default.
    pub browser: Option<Arc<BrowserSessions>>,
    /// The revoked subjects, sessions and tokens.
    pub revocations: Arc<Revocations>,
    /// The workspaces.
    pub registry: Arc<Registry>,
    /// How each source is asked for one workspace, by the number of the source; `None` for a source
    /// that cannot be asked.
    pub lookups: Vec<Option<Lookup>>,
    /// The sources as the administrator sees them, by number.
    pub watched: Vec<WatchedSource>,
    /// The limits that hold for all workspaces.
    pub limits: Limits,
    /// Policies beyond ownership; none by default.
    pub policies: Option<Arc<Policies>>,
    /// The fingerprints of configuration and policies, for records.
    pub versions: Versions,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

/// The result of a decision.
pub enum Step {
    /// The request was decided.
    Done(Response),
    /// The decision must wait. Make it again after the wait, with [`Waiting::Never`].
    Wait(Pending),
}

/// One authorization request, as the stages see it.
struct Check<'c> {
    request: &'c Request<'c>,
    /// The workspace that its host names.
    host: HostMatch,
    workspaces: &'c Snapshot,
    now: Timestamp,
    waiting: Waiting,
}

/// Why a stage is the last one of a request.
enum Stop {
    /// It is refused, and its record names no workspace or identity.
    Refused(Reason),
    /// It is for the document of metadata that the gate itself serves.
    Metadata,
    /// It cannot be decided before this wait is over.
    Pending(Pending),
}

impl Gate {
    /// Decides about one request. It never blocks: where `waiting` allows it, the caller may have
    /// to wait.
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
        let response = match self.respond(&check, scratch) {
            Ok(response) => response,
            Err(Stop::Refused(reason)) => Response::refuse(reason),
            Err(Stop::Metadata) => self.metadata_document(),
            Err(Stop::Pending(pending)) => return Step::Wait(pending),
        };
        Step::Done(self.with_cors(&check, response, scratch))
    }

    /// Decides about a request as if this person had sent it with a valid credential, for `explain`.
    /// Revocations and everything else are as for a real request; sources are not asked for unknown
    /// workspaces.
    #[must_use]
    pub fn decide_as(
        &self,
        identity: Arc<Identity>,
        request: &Request<'_>,
        workspaces: &Snapshot,
        now: Timestamp,
        scratch: &mut Scratch,
    ) -> Response {
        let host = self.match_host(request, scratch);
        let check = Check { request, host, workspaces, now, waiting: Waiting::Never };
        let assumed = self.authenticated_as(identity);
        match self.check_fitness(&check).and_then(|()| self.conclude(&check, assumed)) {
            Ok(response) => response,
            Err(Stop::Refused(reason)) => Response::refuse(reason),
            Err(Stop::Metadata) => self.metadata_document(),
            Err(Stop::Pending(_)) => Response::refuse(Reason::Deadline),
        }
    }

    /// Passes a request through all stages.
    fn respond(&self, check: &Check<'_>, scratch: &mut Scratch) -> Result<Response, Stop> {
        // First, so that a request that cannot be trusted costs no verification.
        self.check_fitness(check)?;
        if let Some(response) = self.answer_preflight(check, scratch) {
            return Ok(response);
        }
        let authenticated = self.authenticate(check, scratch)?;
        let response = self.conclude(check, authenticated)?;
        Ok(self.deliver_to_siblings(check, response, scratch))
    }

    /// Passes a request through the stages after authentication.
    fn conclude(&self, check: &Check<'_>, authenticated: Authenticated) -> Result<Response, Stop> {
        let Authenticated { authentication, evidence, session, authorization } = authenticated;
        let decision = self.authorize(check, authentication)?;
        let response = Response { evidence, authorization, session, ..decision.into() };
        Ok(self.decorate(check, response))
    }

    /// Finds the workspace that the host of a request names.
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

    /// Where tokens may be besides the Authorization header.
    fn token_locations(&self) -> &TokenLocations {
        const NOWHERE: &TokenLocations =
            &TokenLocations { header: None, cookie: None, query: None, subprotocol: false };
        self.token_locations.as_deref().unwrap_or(NOWHERE)
    }
}

impl<'c> Check<'c> {
    /// What policies can see of the request.
    const fn context(&self) -> RequestContext<'c> {
        let Request { method, path, client, is_stream, .. } = *self.request;
        RequestContext { method, path, client, now: self.now, is_stream }
    }

    /// Whether the host is that of a workspace.
    const fn is_for_workspace(&self) -> bool {
        matches!(self.host, HostMatch::Matched(..))
    }
}
