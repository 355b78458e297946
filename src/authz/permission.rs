//! What ownership, grants and admission permit a person at an endpoint.
//!
//! In this order: the owner, the grants, the organization, everyone signed in. Each step needs the endpoint's admission
//! to be wide enough, within the operator's limits and the rules of the source. Public endpoints are decided before, in
//! [`super::decision`], since they need no identity. Policies and the workspace's phase come after.

use crate::{
    authz::{limits::Limits, reason::Reason},
    identity::Identity,
    workspaces::{
        Admission, Destination, EndpointName, Grant, Grantee, Person, Protocol,
        destination::Server,
        directory::{Membership, is_person},
        registry::{UndeclaredPorts, WorkspaceRecord},
    },
};

/// Whether an identity may reach an endpoint, and why.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The endpoint may be reached.
    Granted(Reason),
    /// The endpoint may not be reached.
    Denied(Reason),
}

impl Permission {
    /// The reason.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Granted(reason) | Self::Denied(reason) => reason,
        }
    }

    /// Whether the endpoint may be reached.
    #[must_use]
    pub const fn is_granted(self) -> bool {
        matches!(self, Self::Granted(_))
    }
}

/// The admission of an endpoint: what the workspace declares, at most what its source and the operator allow. `None` for
/// an endpoint that the workspace does not declare.
#[must_use]
pub fn admission(
    record: &WorkspaceRecord<'_>,
    endpoint: &EndpointName,
    limits: &Limits,
) -> Option<Admission> {
    let declared = record.workspace.endpoint(endpoint)?;
    Some(declared.admission.min(record.rules.max_admission).min(limits.max_admission))
}

/// Whether the identity may reach the endpoint.
pub fn evaluate(
    identity: &Identity,
    record: &WorkspaceRecord<'_>,
    endpoint: &EndpointName,
    limits: &Limits,
) -> Permission {
    let workspace = record.workspace;
    let membership = match record.directory {
        None => Membership::NoDirectory,
        Some(directory) => directory.membership(identity),
    };
    match membership {
        Membership::Ambiguous => return Permission::Denied(Reason::UserAmbiguous),
        Membership::Inactive(_) => return Permission::Denied(Reason::UserInactive),
        // A person whom the directory does not know may still have a grant by name, or reach what is open to everyone.
        Membership::NoDirectory | Membership::Stranger | Membership::Member(_) => {}
    }
    let visitor = Visitor { identity, membership };
    let owner = visitor.is(&workspace.owner);
    let Some(admission) = admission(record, endpoint, limits) else {
        // A person who is not the owner must not learn which endpoints a workspace declares.
        return match (owner, destination(record, endpoint)) {
            (true, Some(_)) => Permission::Granted(Reason::Owner),
            (true, None) => Permission::Denied(Reason::EndpointUndeclared),
            (false, _) => Permission::Denied(Reason::NotPermitted),
        };
    };
    if owner {
        return Permission::Granted(Reason::Owner);
    }
    if admission >= Admission::Grants
        && let Some(reason) = visitor.granted(&workspace.grants, endpoint)
    {
        return Permission::Granted(reason);
    }
    // An account at the platform is membership of the organization that the platform stands for.
    let colleague = matches!(membership, Membership::Member(_))
        || workspace.organization.as_ref().is_some_and(|one| one.includes(identity));
    if admission >= Admission::Organization && colleague {
        return Permission::Granted(Reason::Organization);
    }
    if admission >= Admission::Authenticated {
        return Permission::Granted(Reason::Authenticated);
    }
    // Without the groups of the token nothing tells whether a grant to a group would have let the person in.
    let to_groups = |grant: &Grant| matches!(grant.to, Grantee::Group { .. });
    if identity.groups_overage && workspace.grants.iter().any(to_groups) {
        return Permission::Denied(Reason::GroupsOverage);
    }
    Permission::Denied(Reason::NotPermitted)
}

/// The destination of an endpoint. A port that the workspace does not declare has one only where the rules of the source
/// give owners every port.
#[must_use]
pub fn destination(record: &WorkspaceRecord<'_>, endpoint: &EndpointName) -> Option<Destination> {
    let workspace = record.workspace;
    if let Some(declared) = workspace.endpoint(endpoint) {
        return Some(declared.destination.clone());
    }
    match (record.rules.undeclared_ports, endpoint) {
        (UndeclaredPorts::Owner, EndpointName::Port(port)) => match workspace.address {
            Some(address) => Server::new(address, *port).map(Destination::Address),
            None => workspace.template.as_ref()?.render_backend(&workspace.id, endpoint),
        },
        _ => None,
    }
}

/// The protocol of the endpoint's server: HTTP, unless the workspace declares TCP.
#[must_use]
pub fn protocol(record: &WorkspaceRecord<'_>, endpoint: &EndpointName) -> Protocol {
    record.workspace.endpoint(endpoint).map_or(Protocol::Http, |declared| declared.protocol)
}

/// The person who makes the request, and their account at the workspace's platform.
struct Visitor<'a> {
    identity: &'a Identity,
    membership: Membership<'a>,
}

impl Visitor<'_> {
    /// Whether the visitor is this person of the workspace's record. Where the record names an account of the platform,
    /// only the platform's directory decides.
    fn is(&self, person: &Person) -> bool {
        match &person.account {
            Some(account) => {
                matches!(self.membership, Membership::Member(member) if member.account == *account)
            }
            None => is_person(self.identity, person),
        }
    }

    /// The reason of the first grant that covers the endpoint and names the visitor.
    fn granted(&self, grants: &[Grant], endpoint: &EndpointName) -> Option<Reason> {
        let covers = |grant: &&Grant| grant.endpoints.as_ref().is_none_or(|e| e.contains(endpoint));
        grants.iter().filter(covers).find_map(|grant| match &grant.to {
            Grantee::User(person) => self.is(person).then_some(Reason::GrantedUser),
            Grantee::Group { issuers, name } => (issuers.include(self.identity)
                && self.identity.groups.contains(name))
            .then_some(Reason::GrantedGroup),
            Grantee::PlatformGroup(team) => {
                let member =
                    matches!(self.membership, Membership::Member(m) if m.platform_groups.contains(team));
                member.then_some(Reason::GrantedGroup)
            }
        })
    }
}
