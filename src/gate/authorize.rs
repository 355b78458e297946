//! Decides whether a person may reach the endpoint that a host names.
//!
//! The decision itself is the pure function [`decision::decide`]. Here it gets the gate's limits
//! and policies, and a workspace that is not known yet is looked up at its source.

use std::sync::Arc;

use super::{Check, Gate, Stop};
use crate::{
    authz::{
        decision::{self, Decision, HostMatch},
        policy::{Policies, PolicySets, RequestContext},
        reason::Reason,
    },
    identity::{
        Authentication, Identity, TokenError,
        pending::{Pending, Waiting},
    },
    time::{MonotonicTime, Timestamp},
    workspaces::{
        host::Host,
        pattern::{PatternMatch, Scratch},
        registry::Snapshot,
    },
};

impl Gate {
    /// Decides for the result of authentication. A workspace that is not known may have started a
    /// moment ago, so its source is asked where the request may wait.
    pub(super) fn authorize(
        &self,
        check: &Check<'_>,
        authentication: Authentication,
    ) -> Result<Decision, Stop> {
        let (context, workspaces) = (check.context(), check.workspaces);
        let (limits, policies) = (&self.limits, self.policy_sets());
        let decision =
            decision::decide(&check.host, &context, authentication, workspaces, limits, policies);
        // The identity is known by then, so a client without a credential cannot make the agent
        // ask.
        if decision.reason == Reason::WorkspaceUnknown
            && check.waiting == Waiting::Allowed
            && let HostMatch::Matched(_, target) = &check.host
            && let Some(pending) = self.look_up(target)
        {
            return Err(Stop::Pending(pending));
        }
        Ok(decision)
    }

    /// Decides whether a person could open a page, for the pages of sign-in. The address of the
    /// client is not known there: if a policy reads it, the result is [`Reason::PolicyError`], and
    /// only the request itself can be decided.
    #[must_use]
    pub fn decide_for_page(
        &self,
        host: &Host,
        path: &[u8],
        identity: Arc<Identity>,
        now: Timestamp,
    ) -> Decision {
        // HAProxy passes the path without the query, so policies see the same here.
        let path = path.split(|byte| *byte == b'?').next();
        let method = Some(&b"GET"[..]);
        let context = RequestContext { method, path, now, ..RequestContext::default() };
        let workspaces = self.registry.snapshot();
        self.decide_for_identity(
            &workspaces,
            host,
            &context,
            Some(identity),
            &mut Scratch::default(),
        )
    }

    /// Decides for an identity that was verified before, or for none. Shadow policies are not
    /// evaluated.
    #[must_use]
    pub fn decide_for_identity(
        &self,
        workspaces: &Snapshot,
        host: &Host,
        context: &RequestContext<'_>,
        identity: Option<Arc<Identity>>,
        scratch: &mut Scratch,
    ) -> Decision {
        let Some(target) = self.patterns.resolve(host, scratch) else {
            return Decision::refuse(Reason::HostUnmatched);
        };
        let host = HostMatch::Matched(host.clone(), target);
        let authentication = match identity.map(|identity| self.vouched(identity)) {
            None => Authentication::Absent,
            Some(None) => Authentication::Refused(TokenError::Issuer),
            Some(Some(identity)) if self.revocations.cover(&identity) => {
                Authentication::Refused(TokenError::Revoked)
            }
            Some(Some(identity)) => Authentication::Known(identity),
        };
        let (limits, policies) = (&self.limits, self.policy_sets().without_shadow());
        decision::decide(&host, context, authentication, workspaces, limits, policies)
    }

    /// The configured policies; none by default.
    pub(super) fn policy_sets(&self) -> PolicySets<'_> {
        self.policies.as_deref().map(Policies::sets).unwrap_or_default()
    }

    /// Starts to ask a source for a workspace. With several sources that can be asked, the host
    /// must name the source.
    fn look_up(&self, target: &PatternMatch) -> Option<Pending> {
        let mut able = self.lookups.iter().enumerate().filter_map(|(number, lookup)| {
            let named = target.source.is_none_or(|source| source.index() == number);
            lookup.as_ref().filter(|_| named)
        });
        let (lookup, others) = (able.next()?, able.next());
        // Which source the host belongs to is unknown, and asking all of them would multiply the
        // load.
        if others.is_some() {
            return None;
        }
        lookup.request_read(&target.workspace, MonotonicTime::now()).map(Pending::new)
    }
}
