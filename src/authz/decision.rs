//! The decision: may this identity reach this endpoint, now?
//!
//! A pure function without I/O or clock, so that the live path, `explain` and the tests run the very
//! same code. [`reason`] lists every outcome; [`variables`] turns one into what HAProxy is told.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    authz::{
        limits::Limits,
        permission::{self, Permission},
        policy::{PolicySet, PolicySets, Question, RequestContext, Shadow},
        reason::{Reason, Verdict},
    },
    identity::{Authentication, Identity},
    workspaces::{
        Admission, Destination, EndpointName, Gateway, Phase, Protocol, Workspace,
        host::{Host, HostError},
        pattern::Target,
        registry::{Found, Record, Snapshot},
    },
};
use arrayvec::ArrayString;

/// The id of one decision: when it was made, by which run of the agent, and its number there.
pub type DecisionId = ArrayString<40>;

#[cfg(test)]
mod tests;

/// Where an allowed request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a backend of haproxy.cfg.
    Backend(Arc<str>),
    /// To an address.
    Direct(SocketAddr),
    /// To the address that a name had at this moment, under that name.
    Named(SocketAddr, Arc<Gateway>),
}

/// The host of a request, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// No host was sent.
    Missing,
    /// Not a host name.
    Invalid(HostError),
    /// A host that no pattern matches.
    Unmatched(Host),
    /// A workspace's host.
    Matched(Host, Target),
}

/// The outcome for one request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Why; the verdict follows from it.
    pub reason: Reason,
    /// Who asked, if that is known.
    pub identity: Option<Arc<Identity>>,
    /// The workspace, if there is one and the one who asked may know.
    pub workspace: Option<Arc<Workspace>>,
    /// Its owner in one word.
    pub owner: Option<Arc<str>>,
    /// The endpoint the host names.
    pub endpoint: Option<EndpointName>,
    /// Where an allowed request goes.
    pub route: Option<Route>,
    /// What ownership said, where policies were asked.
    pub relation: Option<Permission>,
    /// The policy that decided; none where ownership did.
    pub policy: Option<Arc<str>>,
    /// What policies that are only put on record would have decided, where they were asked.
    pub shadow: Option<Shadow>,
}

impl Decision {
    /// A decision that no workspace or identity has a part in.
    #[must_use]
    pub fn refuse(reason: Reason) -> Self {
        Self {
            reason,
            identity: None,
            workspace: None,
            owner: None,
            endpoint: None,
            route: None,
            relation: None,
            policy: None,
            shadow: None,
        }
    }

    /// Allow, or one of the ways of refusing.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.reason.verdict()
    }
}

/// Decides.
///
/// The order matters: a host that is nobody's is told apart first; then a public endpoint of a
/// running workspace opens without asking who; then nobody learns whether a workspace exists without
/// an identity; then permission comes before phase, so that only those who may reach a workspace
/// learn that it is stopped. Policies are asked where ownership has spoken, at a public endpoint too.
#[must_use]
pub fn decide(
    host: &HostMatch,
    context: &RequestContext<'_>,
    authentication: Authentication,
    workspaces: &Snapshot,
    limits: &Limits,
    policies: PolicySets<'_>,
) -> Decision {
    let target = match host {
        HostMatch::Missing => return Decision::refuse(Reason::HostMissing),
        HostMatch::Invalid(_) => return Decision::refuse(Reason::HostInvalid),
        HostMatch::Unmatched(_) => return Decision::refuse(Reason::HostUnmatched),
        HostMatch::Matched(_, target) => target,
    };
    let found = workspaces.find(target.source, &target.workspace);
    let endpoint = match &found {
        Found::Workspace(record) => record.workspace.endpoint_at(&target.endpoint, context.path),
        Found::Unknown | Found::NotLoaded | Found::Ambiguous => target.endpoint.clone(),
    };
    let mut decision = Decision {
        endpoint: Some(endpoint.clone()),
        ..Decision::refuse(Reason::CredentialMissing)
    };
    if let Found::Workspace(record) = &found
        && permission::admission(record, &endpoint, limits) == Some(Admission::Public)
        && record.workspace.phase.is_routable()
    {
        let fresh = record.age <= record.rules.stale_open_after;
        if fresh || matches!(authentication, Authentication::Absent) {
            if let Authentication::Known(identity) = authentication {
                decision.identity = Some(identity);
            }
            return decision.ask(
                policies,
                Permission::Granted(Reason::Public),
                record,
                limits,
                context,
            );
        }
    }
    let identity = match authentication {
        Authentication::Absent => return decision,
        Authentication::Refused(error) => {
            decision.reason = Reason::Refused(error);
            return decision;
        }
        Authentication::IntrospectionUnavailable => {
            decision.reason = Reason::IntrospectionUnavailable;
            return decision;
        }
        Authentication::SessionsUnavailable => {
            decision.reason = Reason::SessionsUnavailable;
            return decision;
        }
        Authentication::KeysUnavailable => {
            decision.reason = Reason::KeysUnavailable;
            return decision;
        }
        Authentication::Known(identity) => identity,
    };
    decision.identity = Some(Arc::clone(&identity));
    let record = match found {
        Found::Workspace(record) => record,
        Found::Unknown => return Decision { reason: Reason::WorkspaceUnknown, ..decision },
        Found::NotLoaded => return Decision { reason: Reason::WorkspacesNotLoaded, ..decision },
        Found::Ambiguous => return Decision { reason: Reason::WorkspaceAmbiguous, ..decision },
    };
    let relation = permission::relation(&identity, &record, &endpoint, limits);
    decision.ask(policies, relation, &record, limits, context)
}

impl Decision {
    /// Asks the policies about what ownership says, and goes on with what comes of it.
    fn ask(
        mut self,
        policies: PolicySets<'_>,
        relation: Permission,
        record: &Record<'_>,
        limits: &Limits,
        context: &RequestContext<'_>,
    ) -> Self {
        let PolicySets { enforced, shadow } = policies;
        if enforced.or(shadow).is_none() {
            return self.follow(relation, record, limits, context);
        }
        let identity = self.identity.clone();
        let endpoint = self.endpoint.clone().unwrap_or(EndpointName::Main);
        let (identity, workspace) = (identity.as_deref(), record.workspace);
        let question = Question::new(identity, workspace, &endpoint, relation, *context);
        let outcome = |set: &PolicySet| set.decide(&question);
        self.relation = Some(relation);
        self.shadow = shadow.map(|set| {
            let outcome = outcome(set);
            let decision = self.clone().follow(outcome.permission, record, limits, context);
            Shadow { reason: decision.reason, policy: outcome.policy, set: set.hash() }
        });
        match enforced.map(outcome) {
            Some(outcome) => {
                self.policy = outcome.policy;
                self.follow(outcome.permission, record, limits, context)
            }
            None => self.follow(relation, record, limits, context),
        }
    }

    /// Goes on with what ownership and policies say.
    fn follow(
        mut self,
        permission: Permission,
        record: &Record<'_>,
        limits: &Limits,
        context: &RequestContext<'_>,
    ) -> Self {
        match permission {
            Permission::Granted(reason) => self.reach(record, reason, limits, context),
            Permission::Denied(reason) => {
                self.about(record);
                self.reason = reason;
                self
            }
        }
    }

    /// The end of the way for a request that may reach the workspace, if it is up and can be found.
    fn reach(
        mut self,
        record: &Record<'_>,
        allowed: Reason,
        limits: &Limits,
        context: &RequestContext<'_>,
    ) -> Self {
        self.about(record);
        let asked = if context.is_stream { Protocol::Tcp } else { Protocol::Http };
        self.reason = match record.workspace.phase {
            _ if is_stale(record, allowed) => Reason::WorkspaceStale,
            Phase::Running | Phase::Updating if owner_has_left(record) => Reason::OwnerInactive,
            Phase::Running | Phase::Updating => match self.route(record, limits, asked) {
                Ok(route) => {
                    self.route = Some(route);
                    allowed
                }
                Err(reason) => reason,
            },
            Phase::Provisioning => Reason::WorkspaceStarting,
            Phase::Interrupted => Reason::WorkspaceInterrupted,
            Phase::Unknown | Phase::Stopping | Phase::Stopped | Phase::Deleted | Phase::Failed => {
                Reason::WorkspaceStopped
            }
        };
        self
    }

    fn about(&mut self, record: &Record<'_>) {
        let account = record.workspace.owner.account.as_deref();
        let owner = record.directory.zip(account).and_then(|(all, id)| all.account(id));
        let label = owner.map_or(&record.workspace.owner_label, |member| &member.label);
        self.owner = Some(Arc::clone(label));
        self.workspace = Some(Arc::clone(record.workspace));
    }

    /// Where a request (`asked` is HTTP) or a stream (TCP) goes.
    ///
    /// What HAProxy says of who asks, it says in headers of requests. A stream has none of them, and can carry
    /// requests with any header and for any host: so it only reaches what is declared as TCP, at an address
    /// where there is nothing else.
    fn route(
        &self,
        record: &Record<'_>,
        limits: &Limits,
        asked: Protocol,
    ) -> Result<Route, Reason> {
        let endpoint = self.endpoint.as_ref();
        let destination = endpoint.and_then(|name| permission::destination(record, name));
        let destination = destination.ok_or(Reason::EndpointUndeclared)?;
        let spoken = endpoint.map_or(Protocol::Http, |name| permission::protocol(record, name));
        match (asked, spoken, &destination) {
            (Protocol::Http, Protocol::Http, _)
            | (Protocol::Tcp, Protocol::Tcp, Destination::Address(_)) => {}
            (Protocol::Tcp, Protocol::Http, _) => return Err(Reason::EndpointNotTcp),
            (Protocol::Http, Protocol::Tcp, _) => return Err(Reason::EndpointIsTcp),
            (Protocol::Tcp, Protocol::Tcp, _) => return Err(Reason::StreamNeedsAddress),
        }
        if record.contested {
            return Err(Reason::DestinationContested);
        }
        let route = match destination {
            Destination::Backend(name) => {
                let checked = limits.ranges.backends.check(&name);
                return match checked {
                    Ok(()) => Ok(Route::Backend(name)),
                    Err(_) => Err(Reason::DestinationForbidden),
                };
            }
            Destination::Address(server) => Route::Direct(server.socket()),
            Destination::Gateway(gateway) => {
                let address = gateway.address().ok_or(Reason::DestinationUnresolved)?;
                Route::Named(address, gateway)
            }
        };
        match &route {
            Route::Direct(to) | Route::Named(to, _) if !limits.ranges.permits(to.ip().into()) => {
                Err(Reason::DestinationForbidden)
            }
            _ => Ok(route),
        }
    }
}

/// Whether the workspace was confirmed too long ago to let somebody in for that reason: whom it belongs
/// to changes seldom, whom it is open to may change at any time.
fn is_stale(record: &Record<'_>, allowed: Reason) -> bool {
    let limit = match allowed {
        Reason::Owner | Reason::GrantedUser | Reason::GrantedGroup => record.rules.stale_after,
        _ => record.rules.stale_open_after,
    };
    record.age > limit
}

/// Whether the workspace is left over from somebody whose account is suspended or gone.
fn owner_has_left(record: &Record<'_>) -> bool {
    match (record.directory, &record.workspace.owner.account) {
        (Some(directory), Some(account)) => {
            directory.account(account).is_none_or(|member| !member.active)
        }
        _ => false,
    }
}
