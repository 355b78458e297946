//! What an identity is to a workspace: its owner, somebody it was shared with, a colleague, a guest,
//! a stranger.

use crate::{
    authz::{limits::Limits, reason::Reason},
    identity::Identity,
    workspaces::{
        Admission, Destination, EndpointName, Grant, Grantee, Person, Protocol,
        destination::Server,
        directory::{Membership, is_person},
        registry::{Record, UndeclaredPorts},
    },
};

/// Whether an identity may reach an endpoint, and why.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may.
    Granted(Reason),
    /// It may not.
    Denied(Reason),
}

impl Permission {
    /// Why.
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

/// Whom the endpoint admits, if it is declared: what its workspace says, within what the operator lets
/// any workspace and this source's say.
#[must_use]
pub fn admission(
    record: &Record<'_>,
    endpoint: &EndpointName,
    limits: &Limits,
) -> Option<Admission> {
    let declared = record.workspace.endpoint(endpoint)?;
    Some(declared.admission.min(record.rules.max_admission).min(limits.max_admission))
}

/// Whether the identity may reach the endpoint by what it is to the workspace.
pub fn relation(
    identity: &Identity,
    record: &Record<'_>,
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
        Membership::NoDirectory | Membership::Stranger | Membership::Member(_) => {}
    }
    let asker = Asker { identity, membership };
    let owner = asker.is(&workspace.owner);
    let Some(admission) = admission(record, endpoint, limits) else {
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
        && let Some(reason) = asker.granted(&workspace.grants, endpoint)
    {
        return Permission::Granted(reason);
    }
    let colleague = matches!(membership, Membership::Member(_))
        || workspace.organization.as_ref().is_some_and(|one| one.includes(identity));
    if admission >= Admission::Organization && colleague {
        return Permission::Granted(Reason::Organization);
    }
    if admission >= Admission::Authenticated {
        return Permission::Granted(Reason::Authenticated);
    }
    let to_groups = |grant: &Grant| matches!(grant.to, Grantee::Group { .. });
    if identity.groups_overage && workspace.grants.iter().any(to_groups) {
        return Permission::Denied(Reason::GroupsOverage);
    }
    Permission::Denied(Reason::NotPermitted)
}

/// Where the endpoint is. An undeclared port has a place only where the policy gives it one.
#[must_use]
pub fn destination(record: &Record<'_>, endpoint: &EndpointName) -> Option<Destination> {
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

/// What the endpoint's server speaks. An endpoint that says nothing, an undeclared port too, speaks HTTP.
#[must_use]
pub fn protocol(record: &Record<'_>, endpoint: &EndpointName) -> Protocol {
    record.workspace.endpoint(endpoint).map_or(Protocol::Http, |declared| declared.protocol)
}

/// Who asks, and what that is to the workspace's platform.
struct Asker<'a> {
    identity: &'a Identity,
    membership: Membership<'a>,
}

impl Asker<'_> {
    /// Whether this is the person. An account of the platform is what the directory says and nothing
    /// else.
    fn is(&self, person: &Person) -> bool {
        match &person.account {
            Some(account) => {
                matches!(self.membership, Membership::Member(member) if member.account == *account)
            }
            None => is_person(self.identity, person),
        }
    }

    fn granted(&self, grants: &[Grant], endpoint: &EndpointName) -> Option<Reason> {
        let covers = |grant: &&Grant| grant.endpoints.as_ref().is_none_or(|e| e.contains(endpoint));
        grants.iter().filter(covers).find_map(|grant| match &grant.to {
            Grantee::User(person) => self.is(person).then_some(Reason::GrantedUser),
            Grantee::Group { issuers, name } => (issuers.include(self.identity)
                && self.identity.groups.contains(name))
            .then_some(Reason::GrantedGroup),
            Grantee::Team(team) => {
                let member =
                    matches!(self.membership, Membership::Member(m) if m.teams.contains(team));
                member.then_some(Reason::GrantedGroup)
            }
        })
    }
}
