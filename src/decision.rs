//! The decision: may this identity reach this endpoint, now?
//!
//! A pure function without I/O or clock, so that the live path, `explain` and the tests run the very
//! same code. [`reason`] lists every outcome; [`variables`] turns one into what HAProxy is told.

use std::sync::Arc;

use crate::{
    identity::{Authentication, Identity, credential::Sources},
    workspace::{
        Destination, EndpointName, Phase, Workspace,
        host::{Host, HostError},
        pattern::Target,
        registry::Snapshot,
    },
};

pub mod reason;
pub mod relation;
pub mod variables;

#[cfg(test)]
mod tests;

pub use reason::{Reason, Verdict};

/// What the operator decided once for all workspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What happens to a port that the workspace does not declare.
    pub undeclared_ports: UndeclaredPorts,
}

/// What happens to a port that the workspace does not declare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UndeclaredPorts {
    /// Nobody reaches it.
    #[default]
    Deny,
    /// The owner reaches it, at the workspace's own address.
    Owner,
}

/// The host of a request, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "on the stack for one request; a box would allocate")]
pub enum Place {
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
    /// The endpoint the host names.
    pub endpoint: Option<EndpointName>,
    /// Where an allowed request goes.
    pub destination: Option<Destination>,
    /// Whether the Authorization header was meant for us and must not travel on.
    pub strip_authorization: bool,
    /// Where else tokens may be, so that none travels on; nowhere unless configured.
    pub sources: Option<Arc<Sources>>,
    /// Who gives tokens for workspaces, where clients may be told.
    pub metadata: Option<Arc<Metadata>>,
}

/// What clients are told of tokens for workspaces (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The issuer identifiers.
    pub authorization_servers: Vec<Box<str>>,
}

impl Metadata {
    /// Where each workspace's document is (RFC 9728 section 3).
    pub const PATH: &str = "/.well-known/oauth-protected-resource";
}

impl Decision {
    /// A decision that no workspace or identity has a part in.
    #[must_use]
    pub fn refuse(reason: Reason) -> Self {
        Self {
            reason,
            identity: None,
            workspace: None,
            endpoint: None,
            destination: None,
            strip_authorization: false,
            sources: None,
            metadata: None,
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
/// learn that it is stopped.
#[must_use]
pub fn decide(
    place: &Place,
    authentication: Authentication,
    workspaces: &Snapshot,
    policy: Policy,
) -> Decision {
    let target = match place {
        Place::Missing => return Decision::refuse(Reason::HostMissing),
        Place::Invalid(_) => return Decision::refuse(Reason::HostInvalid),
        Place::Unmatched(_) => return Decision::refuse(Reason::HostUnmatched),
        Place::Matched(_, target) => target,
    };
    let strip_authorization = match &authentication {
        Authentication::Absent => false,
        Authentication::Known(_)
        | Authentication::KeysUnavailable
        | Authentication::IntrospectionUnavailable => true,
        Authentication::Refused(refusal) => refusal.may_be_ours(),
    };
    let mut decision = Decision {
        endpoint: Some(target.endpoint.clone()),
        strip_authorization,
        ..Decision::refuse(Reason::CredentialMissing)
    };
    let workspace = workspaces.find(&target.workspace);
    if let Some(workspace) = workspace
        && relation::is_public(workspace, &target.endpoint)
        && workspace.phase.is_routable()
    {
        if let Authentication::Known(identity) = authentication {
            decision.identity = Some(identity);
        }
        return decision.reach(workspace, Reason::Public, policy);
    }
    let identity = match authentication {
        Authentication::Absent => return decision,
        Authentication::Refused(refusal) => {
            decision.reason = Reason::Refused(refusal);
            return decision;
        }
        Authentication::IntrospectionUnavailable => {
            decision.reason = Reason::IntrospectionUnavailable;
            return decision;
        }
        Authentication::KeysUnavailable => {
            decision.reason = Reason::KeysUnavailable;
            return decision;
        }
        Authentication::Known(identity) => identity,
    };
    decision.identity = Some(Arc::clone(&identity));
    let Some(workspace) = workspace else {
        decision.reason = if workspaces.is_loaded() {
            Reason::WorkspaceUnknown
        } else {
            Reason::WorkspacesNotLoaded
        };
        return decision;
    };
    match relation::relation(&identity, workspace, &target.endpoint, policy) {
        Ok(reason) => decision.reach(workspace, reason, policy),
        Err(reason) => {
            decision.workspace = Some(Arc::clone(workspace));
            decision.reason = reason;
            decision
        }
    }
}

impl Decision {
    /// The end of the way for a request that may reach the workspace, if it is up.
    fn reach(mut self, workspace: &Arc<Workspace>, allowed: Reason, policy: Policy) -> Self {
        self.workspace = Some(Arc::clone(workspace));
        self.reason = match workspace.phase {
            Phase::Running | Phase::Updating => allowed,
            Phase::Provisioning => Reason::WorkspaceStarting,
            Phase::Interrupted => Reason::WorkspaceInterrupted,
            Phase::Unknown | Phase::Stopping | Phase::Stopped | Phase::Deleted | Phase::Failed => {
                Reason::WorkspaceStopped
            }
        };
        if self.verdict() == Verdict::Allow {
            let endpoint = self.endpoint.as_ref();
            match endpoint.and_then(|name| relation::destination(workspace, name, policy)) {
                Some(destination) => self.destination = Some(destination),
                None => self.reason = Reason::EndpointUndeclared,
            }
        }
        self
    }
}

impl Phase {
    /// Whether requests may reach a workspace in this phase.
    #[must_use]
    pub fn is_routable(self) -> bool {
        matches!(self, Self::Running | Self::Updating)
    }
}
