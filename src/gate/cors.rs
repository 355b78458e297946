//! Answers CORS preflights, and says which responses a page of another origin may read.
//!
//! A page of one endpoint of a workspace may use the other endpoints (docs/decisions/0018-cross-origin.md). Its browser
//! first asks with a preflight, which has no credential, so it is answered before authentication: by the names of the
//! two hosts alone, whether the workspace exists or not. What the answer permits is a request, which is decided like
//! every other.
//!
//! Invariant: an origin that is neither an endpoint of the workspace nor in a list gets the response that it would get
//! without this module.

use super::{Check, Gate, Response};
use crate::{
    authz::{
        decision::{self, HostMatch},
        reason::{Reason, Verdict},
    },
    workspaces::{
        CorsAnswers, CrossOrigin, EndpointName,
        pattern::{PatternMatch, Scratch},
        registry::{LookupResult, WorkspaceRecord},
    },
};

/// What a page of another origin is told by CORS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cors {
    /// HAProxy answers the preflight: the request may be sent.
    Preflight,
    /// The page may read the response.
    Readable,
}

impl Gate {
    /// The response to a CORS preflight of an origin that may ask; `None` for every other request.
    pub(super) fn answer_preflight(
        &self,
        check: &Check<'_>,
        scratch: &mut Scratch,
    ) -> Option<Response> {
        let origin = check.request.preflight()?.origin;
        let HostMatch::Matched(host, target) = &check.host else { return None };
        let record = check.record(target);
        let is_sibling = self.is_sibling(origin, host, target, check.request, scratch);
        let is_listed = if let Some(record) = &record {
            record.cross_origin(&check.endpoint(target, record)).lists(origin)
        } else {
            // As for one that is known, unless that has a list of its own.
            let rules = check.workspaces.rules_for(target.source);
            rules.is_some_and(|rules| rules.cross_origin.lists(origin))
        };
        if !is_sibling && !is_listed {
            return None;
        }
        if let Some(record) = &record
            && let endpoint = check.endpoint(target, record)
            && record.cors_answers(&endpoint) == CorsAnswers::Workspace
            && (is_listed || record.cross_origin(&endpoint).admits_siblings())
        {
            let (context, limits) = (check.context(), &self.limits);
            let policies = self.policy_sets();
            let decision = decision::decide_preflight(target, &context, record, limits, policies);
            if decision.verdict() == Verdict::Allow {
                let token_locations = self.token_locations.clone();
                return Some(Response { token_locations, ..decision.into() });
            }
        }
        // By the names of the hosts alone, also where the setting is "none": the request that follows is refused, and
        // the page can read why.
        Some(Response { cors: Some(Cors::Preflight), ..Response::refuse(Reason::CorsPreflight) })
    }

    /// Adds to a response whether the page that made the request may read it.
    ///
    /// A refusal is readable for pages of the same workspace, so that they can say why. What the workspace sends is
    /// readable for those that may use the endpoint, where the gate answers CORS.
    pub(super) fn with_cors(
        &self,
        check: &Check<'_>,
        response: Response,
        scratch: &mut Scratch,
    ) -> Response {
        let HostMatch::Matched(host, target) = &check.host else { return response };
        let Some(origin) = check.request.origin().filter(|_| response.cors.is_none()) else {
            return response;
        };
        let is_readable = match response.decision.verdict() {
            Verdict::Allow => check.record(target).is_some_and(|record| {
                let endpoint = check.endpoint(target, &record);
                record.cors_answers(&endpoint) == CorsAnswers::Gate
                    && self.is_among(record.cross_origin(&endpoint), origin, check, scratch)
            }),
            Verdict::SignIn | Verdict::Deny | Verdict::Unavailable => {
                self.is_sibling(origin, host, target, check.request, scratch)
            }
        };
        Response { cors: is_readable.then_some(Cors::Readable), ..response }
    }

    /// Whether a page of another origin may use the endpoint with the credentials of its visitor.
    pub(super) fn may_use(&self, origin: &[u8], check: &Check<'_>, scratch: &mut Scratch) -> bool {
        let HostMatch::Matched(_, target) = &check.host else { return false };
        match check.record(target) {
            Some(record) => {
                let pages = record.cross_origin(&check.endpoint(target, &record));
                self.is_among(pages, origin, check, scratch)
            }
            // Nothing is served for a workspace that is not known: its pages learn that from the refusal.
            None => self.is_among(&CrossOrigin::default(), origin, check, scratch),
        }
    }

    /// Whether an origin is one of those that a setting admits.
    fn is_among(
        &self,
        pages: &CrossOrigin,
        origin: &[u8],
        check: &Check<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let HostMatch::Matched(host, target) = &check.host else { return false };
        pages.lists(origin)
            || (pages.admits_siblings()
                && self.is_sibling(origin, host, target, check.request, scratch))
    }
}

impl<'c> Check<'c> {
    /// The workspace of a host, if it is known.
    fn record(&self, target: &PatternMatch) -> Option<WorkspaceRecord<'c>> {
        match self.workspaces.find(target.source, &target.workspace) {
            LookupResult::Workspace(record) => Some(record),
            LookupResult::Unknown | LookupResult::NotLoaded | LookupResult::Ambiguous => None,
        }
    }

    /// The endpoint that the host or the path names.
    fn endpoint(&self, target: &PatternMatch, record: &WorkspaceRecord<'_>) -> EndpointName {
        record.workspace.endpoint_at(&target.endpoint, self.request.path)
    }
}
