//! The hosts of a workspace at which a session has no cookie yet, although pages of the workspace may use them.
//!
//! The login host delivers cookies to them together with that of the host which a person opens
//! (docs/decisions/0018-cross-origin.md). An endpoint that appears later gets one when the person opens a page again: then
//! the gate leads the browser through the login host once more.

use std::sync::Arc;

use super::{Check, Gate, Response};
use crate::{
    authz::{
        decision::{Decision, HostMatch},
        policy::RequestContext,
        reason::{Reason, Verdict},
    },
    sessions::Session,
    time::Timestamp,
    workspaces::{
        Endpoint, EndpointName, Protocol,
        host::Host,
        pattern::Scratch,
        registry::{LookupResult, Snapshot},
    },
};

/// The most hosts that get a cookie at once.
const MAX_SIBLINGS: usize = 16;

impl Gate {
    /// The other hosts of the workspace of a host to which a cookie of this session should be sent: those of HTTP endpoints
    /// that pages of the workspace may use, and that the person may reach.
    #[must_use]
    pub fn hosts_without_cookie(
        &self,
        session: &Session,
        host: &Host,
        workspaces: &Snapshot,
        now: Timestamp,
        scratch: &mut Scratch,
    ) -> Vec<Host> {
        let Some(target) = self.patterns.resolve(host, scratch) else { return vec![] };
        let found = workspaces.find(target.source, &target.workspace);
        let LookupResult::Workspace(record) = found else { return vec![] };
        let is_candidate = |endpoint: &&Endpoint| {
            endpoint.protocol == Protocol::Http
                && endpoint.name != target.endpoint
                && record.cross_origin(&endpoint.name).admits_siblings()
        };
        let names: Vec<&EndpointName> = record
            .workspace
            .endpoints
            .iter()
            .filter(is_candidate)
            .map(|endpoint| &endpoint.name)
            .collect();
        if names.is_empty() {
            return vec![];
        }
        let context = RequestContext {
            method: Some(b"GET"),
            path: Some(b"/"),
            now,
            ..RequestContext::default()
        };
        let hosts = self.patterns.hosts_of(host, names, scratch).into_iter();
        let candidates = hosts.filter(|host| session.may_send_cookie(host.as_str(), now));
        // Decided one by one, so that a workspace of many endpoints costs no more decisions than it gets cookies.
        let reachable = candidates.filter(|host| {
            let identity = Some(session.identity());
            let decision = self.decide_for_identity(workspaces, host, &context, identity, scratch);
            // A cookie is not a permission: what a policy cannot decide without the request itself is decided then.
            decision.verdict() == Verdict::Allow || decision.reason == Reason::PolicyError
        });
        reachable.take(MAX_SIBLINGS).collect()
    }

    /// Leads a browser that opens a page through the login host, where other hosts of the workspace need a cookie of its
    /// session. The response is unchanged where none does, or where it cannot be led.
    pub(super) fn deliver_to_siblings(
        &self,
        check: &Check<'_>,
        response: Response,
        scratch: &mut Scratch,
    ) -> Response {
        let (Some(browser), HostMatch::Matched(host, _)) = (&self.browser, &check.host) else {
            return response;
        };
        let Some(session) = response.session.as_ref() else { return response };
        if response.decision.verdict() != Verdict::Allow || !check.request.opens_tab() {
            return response;
        }
        let (workspaces, now) = (check.workspaces, check.now);
        let others = self.hosts_without_cookie(session, host, workspaces, now, scratch);
        let others: Vec<&str> = others.iter().map(Host::as_str).collect();
        if others.is_empty() || !session.begin_round(host.as_str(), &others, now) {
            return response;
        }
        match super::response::way_round(browser, check.request, host, now) {
            Some(redirect) => Response {
                decision: Decision {
                    reason: Reason::EndpointsWithoutSession,
                    route: None,
                    ..response.decision
                },
                sign_in_redirect: Some(Arc::new(redirect)),
                ..response
            },
            None => response,
        }
    }
}
