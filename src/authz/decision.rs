//! The decision about one request: may this identity reach this endpoint now, and where is it?
//!
//! [`decide`] is a pure function without I/O or clock, so that the gate, `explain` and the tests run the same code.
//! `agent::variables` turns a decision into the variables of HAProxy; [`crate::authz::reason`] lists every outcome.
//!
//! The invariant: a [`Route`] exists only in a decision whose reason allows the request.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    authz::{
        limits::Limits,
        permission::{self, Permission},
        policy::{PolicyRequest, PolicySet, PolicySets, RequestContext, ShadowDecision},
        reason::{Reason, Verdict},
    },
    identity::{Authentication, Identity},
    workspaces::{
        Admission, Destination, EndpointName, NamedServer, Phase, Protocol, Workspace,
        host::{Host, HostError},
        pattern::PatternMatch,
        registry::{LookupResult, Snapshot, WorkspaceRecord},
    },
};
use arrayvec::ArrayString;

/// The id of one decision: its time, the run of the agent that made it, and a number within that run.
pub type DecisionId = ArrayString<40>;

#[cfg(test)]
mod tests;

/// The destination of an allowed request, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A backend of haproxy.cfg, by name.
    Backend(Arc<str>),
    /// An address.
    Direct(SocketAddr),
    /// The address that a name had at this moment, and the name, under which the server is reached.
    Named(SocketAddr, Arc<NamedServer>),
}

/// The host of a request, and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// The request has no host.
    Missing,
    /// The host is not a host name.
    Invalid(HostError),
    /// No pattern matches the host.
    Unmatched(Host),
    /// The host names this endpoint of a workspace, which may not exist.
    Matched(Host, PatternMatch),
}

/// A decision about one request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The reason, from which the verdict follows.
    pub reason: Reason,
    /// The person, if known.
    pub identity: Option<Arc<Identity>>,
    /// The workspace, if it exists and the decision got as far as its permissions.
    pub workspace: Option<Arc<Workspace>>,
    /// The owner of the workspace in one word.
    pub owner: Option<Arc<str>>,
    /// The endpoint that the host or the path names.
    pub endpoint: Option<EndpointName>,
    /// The destination of an allowed request.
    pub route: Option<Route>,
    /// What ownership permits, where policies were evaluated.
    pub relation: Option<Permission>,
    /// The policy that decided; `None` where ownership did.
    pub policy: Option<Arc<str>>,
    /// What would have been decided with the shadow policies, where there are any.
    pub shadow: Option<ShadowDecision>,
}

impl Decision {
    /// A decision without identity and workspace.
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

    /// What happens to the request.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.reason.verdict()
    }
}

/// Decides about one request.
///
/// The order protects what a refusal may tell:
///
/// 1. A host that no pattern matches is refused.
/// 2. A public endpoint of a running workspace needs no identity.
/// 3. Without a valid identity the request is refused before anything shows whether the workspace exists.
/// 4. Permission comes before phase, so that only a person who may reach a workspace learns that it is stopped.
///
/// Policies are evaluated after ownership, at a public endpoint too.
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
        LookupResult::Workspace(record) => {
            record.workspace.endpoint_at(&target.endpoint, context.path)
        }
        // Records of a workspace that does not exist have the endpoint too.
        LookupResult::Unknown | LookupResult::NotLoaded | LookupResult::Ambiguous => {
            target.endpoint.clone()
        }
    };
    let mut decision = Decision {
        endpoint: Some(endpoint.clone()),
        ..Decision::refuse(Reason::CredentialMissing)
    };
    if let LookupResult::Workspace(record) = &found
        && permission::admission(record, &endpoint, limits) == Some(Admission::Public)
        && record.workspace.phase.is_routable()
    {
        // A record that is too old does not prove that the endpoint is still public. A known person is then checked below,
        // as the owner or by a grant, which stay valid for longer.
        let fresh = record.age <= record.rules.stale_open_after;
        if fresh || matches!(authentication, Authentication::Absent) {
            // A credential that is not valid does not matter here: the endpoint admits everyone.
            if let Authentication::Known(identity) = authentication {
                decision.identity = Some(identity);
            }
            return decision.apply_policies(
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
        Authentication::OriginForeign => {
            decision.reason = Reason::OriginForeign;
            return decision;
        }
        Authentication::Known(identity) => identity,
    };
    decision.identity = Some(Arc::clone(&identity));
    let record = match found {
        LookupResult::Workspace(record) => record,
        LookupResult::Unknown => return Decision { reason: Reason::WorkspaceUnknown, ..decision },
        LookupResult::NotLoaded => {
            return Decision { reason: Reason::WorkspacesNotLoaded, ..decision };
        }
        LookupResult::Ambiguous => {
            return Decision { reason: Reason::WorkspaceAmbiguous, ..decision };
        }
    };
    let relation = permission::evaluate(&identity, &record, &endpoint, limits);
    decision.apply_policies(policies, relation, &record, limits, context)
}

/// Decides about a CORS preflight that the workspace answers itself. It has no credential, so it may reach only an endpoint
/// that the workspace declares, and only where the policies let a person without an identity.
#[must_use]
pub fn decide_preflight(
    target: &PatternMatch,
    context: &RequestContext<'_>,
    record: &WorkspaceRecord<'_>,
    limits: &Limits,
    policies: PolicySets<'_>,
) -> Decision {
    let endpoint = record.workspace.endpoint_at(&target.endpoint, context.path);
    if record.workspace.endpoint(&endpoint).is_none() {
        return Decision::refuse(Reason::CorsPreflight);
    }
    let decision = Decision { endpoint: Some(endpoint), ..Decision::refuse(Reason::CorsPreflight) };
    // Policies see what they see of a request without an identity at a public endpoint.
    let open = Permission::Granted(Reason::Public);
    let mut decision = decision.apply_policies(policies, open, record, limits, context);
    if decision.reason == Reason::Public {
        decision.reason = Reason::PreflightPassed;
    }
    decision
}

impl Decision {
    /// Evaluates the policies after ownership, and completes the decision by their outcome.
    fn apply_policies(
        mut self,
        policies: PolicySets<'_>,
        relation: Permission,
        record: &WorkspaceRecord<'_>,
        limits: &Limits,
        context: &RequestContext<'_>,
    ) -> Self {
        let PolicySets { enforced, shadow } = policies;
        // Without policies nothing is prepared for them: most agents have none.
        if enforced.or(shadow).is_none() {
            return self.complete(relation, record, limits, context);
        }
        let identity = self.identity.clone();
        let endpoint = self.endpoint.clone().unwrap_or(EndpointName::Main);
        let (identity, workspace) = (identity.as_deref(), record.workspace);
        let request = PolicyRequest::new(identity, workspace, &endpoint, relation, *context);
        let outcome = |set: &PolicySet| set.decide(&request);
        self.relation = Some(relation);
        // The shadow decision is completed too, so that it differs only where the client would notice.
        self.shadow = shadow.map(|set| {
            let outcome = outcome(set);
            let decision = self.clone().complete(outcome.permission, record, limits, context);
            ShadowDecision { reason: decision.reason, policy: outcome.policy, set: set.hash() }
        });
        match enforced.map(outcome) {
            Some(outcome) => {
                self.policy = outcome.policy;
                self.complete(outcome.permission, record, limits, context)
            }
            None => self.complete(relation, record, limits, context),
        }
    }

    /// Completes the decision by what ownership and policies permit.
    fn complete(
        mut self,
        permission: Permission,
        record: &WorkspaceRecord<'_>,
        limits: &Limits,
        context: &RequestContext<'_>,
    ) -> Self {
        match permission {
            Permission::Granted(reason) => self.reach(record, reason, limits, context),
            Permission::Denied(reason) => {
                self.add_workspace(record);
                self.reason = reason;
                self
            }
        }
    }

    /// Allows a request that may reach the workspace, if the workspace is running and has a destination.
    fn reach(
        mut self,
        record: &WorkspaceRecord<'_>,
        allowed: Reason,
        limits: &Limits,
        context: &RequestContext<'_>,
    ) -> Self {
        self.add_workspace(record);
        let used = if context.is_stream { Protocol::Tcp } else { Protocol::Http };
        self.reason = match record.workspace.phase {
            // Before the phase, which is stale as well.
            _ if is_stale(record, allowed) => Reason::WorkspaceStale,
            Phase::Running | Phase::Updating if owner_has_left(record) => Reason::OwnerInactive,
            Phase::Running | Phase::Updating => match self.route(record, limits, used) {
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

    /// Adds the workspace and its owner, for records, pages and headers.
    fn add_workspace(&mut self, record: &WorkspaceRecord<'_>) {
        let account = record.workspace.owner.account.as_deref();
        let owner = record.directory.zip(account).and_then(|(all, id)| all.account(id));
        let label = owner.map_or(&record.workspace.owner_label, |member| &member.label);
        self.owner = Some(Arc::clone(label));
        self.workspace = Some(Arc::clone(record.workspace));
    }

    /// The destination for the protocol that is used: HTTP for a request, TCP for a stream.
    ///
    /// HAProxy tells a workspace in headers who makes a request. A stream has no headers of HAProxy, and can itself carry
    /// requests with any header and for any host. So it only reaches an endpoint that is declared as TCP, at an address
    /// of its own.
    fn route(
        &self,
        record: &WorkspaceRecord<'_>,
        limits: &Limits,
        used: Protocol,
    ) -> Result<Route, Reason> {
        let endpoint = self.endpoint.as_ref();
        let destination = endpoint.and_then(|name| permission::destination(record, name));
        let destination = destination.ok_or(Reason::EndpointUndeclared)?;
        let declared = endpoint.map_or(Protocol::Http, |name| permission::protocol(record, name));
        match (used, declared, &destination) {
            (Protocol::Http, Protocol::Http, _)
            | (Protocol::Tcp, Protocol::Tcp, Destination::Address(_)) => {}
            (Protocol::Tcp, Protocol::Http, _) => return Err(Reason::EndpointNotTcp),
            (Protocol::Http, Protocol::Tcp, _) => return Err(Reason::EndpointIsTcp),
            (Protocol::Tcp, Protocol::Tcp, _) => return Err(Reason::StreamNeedsAddress),
        }
        // Two workspaces at one address: one of them is wrong, and the agent cannot tell which.
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
            // The name is resolved in the background; a request takes the address of this moment.
            Destination::NamedServer(gateway) => {
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

/// Whether the workspace was confirmed too long ago to allow a request for that reason. Ownership and grants change
/// seldom; to whom a workspace is open may change at any time.
fn is_stale(record: &WorkspaceRecord<'_>, allowed: Reason) -> bool {
    let limit = match allowed {
        Reason::Owner | Reason::GrantedUser | Reason::GrantedGroup => record.rules.stale_after,
        _ => record.rules.stale_open_after,
    };
    record.age > limit
}

/// Whether the owner's account at the platform is suspended or gone.
fn owner_has_left(record: &WorkspaceRecord<'_>) -> bool {
    match (record.directory, &record.workspace.owner.account) {
        (Some(directory), Some(account)) => {
            directory.account(account).is_none_or(|member| !member.active)
        }
        _ => false,
    }
}
