//! Whether a person may reach what the host names.

use std::sync::Arc;

use super::{Check, Gate, Stop};
use crate::{
    authz::{
        decision::{self, Decision, HostMatch},
        policy::{Policies, RequestContext, Rules},
        reason::Reason,
    },
    identity::{
        Authentication, Identity, Refusal,
        pending::{Pending, Waiting},
    },
    time::{MonotonicTime, Timestamp},
    workspaces::{
        host::Host,
        pattern::{Scratch, Target},
        registry::Snapshot,
    },
};

impl Gate {
    /// Decides for a person. A workspace that is not known may have started a moment ago: its source is asked where
    /// the request may wait.
    pub(super) fn authorize(
        &self,
        check: &Check<'_>,
        authentication: Authentication,
    ) -> Result<Decision, Stop> {
        let (context, workspaces) = (check.context(), check.workspaces);
        let (limits, rules) = (&self.policy, self.rules());
        let decision =
            decision::decide(&check.host, &context, authentication, workspaces, limits, rules);
        if decision.reason == Reason::WorkspaceUnknown
            && check.waiting == Waiting::Allowed
            && let HostMatch::Matched(_, target) = &check.host
            && let Some(pending) = self.look_up(target)
        {
            return Err(Stop::Pending(pending));
        }
        Ok(decision)
    }

    /// What would come of opening a page, for the pages of sign-in. They do not know the client's address: where a
    /// policy looks at it, the answer is [`Reason::PolicyError`], and only the request itself tells.
    #[must_use]
    pub fn judge(
        &self,
        host: &Host,
        path: &[u8],
        identity: Arc<Identity>,
        now: Timestamp,
    ) -> Decision {
        let path = path.split(|byte| *byte == b'?').next();
        let method = Some(&b"GET"[..]);
        let context = RequestContext { method, path, now, ..RequestContext::default() };
        let workspaces = self.registry.snapshot();
        self.judge_in(&workspaces, host, &context, Some(identity), &mut Scratch::default())
    }

    /// What would come of a request whose credential was verified before, or that has none. Policies that are only
    /// put on record are not asked.
    #[must_use]
    pub fn judge_in(
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
            Some(None) => Authentication::Refused(Refusal::Issuer),
            Some(Some(identity)) if self.revocations.cover(&identity) => {
                Authentication::Refused(Refusal::Revoked)
            }
            Some(Some(identity)) => Authentication::Known(identity),
        };
        let (limits, rules) = (&self.policy, self.rules().without_shadow());
        decision::decide(&host, context, authentication, workspaces, limits, rules)
    }

    /// The policies that are asked; none is the default.
    fn rules(&self) -> Rules<'_> {
        self.policies.as_deref().map(Policies::rules).unwrap_or_default()
    }

    /// Asks a source for a workspace. With several sources that can be asked, the host must name one.
    fn look_up(&self, target: &Target) -> Option<Pending> {
        let mut able = self.lookups.iter().enumerate().filter_map(|(number, lookup)| {
            let named = target.source.is_none_or(|source| source.index() == number);
            lookup.as_ref().filter(|_| named)
        });
        let (lookup, others) = (able.next()?, able.next());
        if others.is_some() {
            return None;
        }
        lookup.ask(&target.workspace, MonotonicTime::now()).map(Pending::new)
    }
}
