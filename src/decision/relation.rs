//! What an identity is to a workspace: its owner, somebody it was shared with, a colleague, a guest,
//! a stranger.

use std::net::SocketAddr;

use super::{Policy, Reason, UndeclaredPorts};
use crate::{
    identity::{Identity, profile::MatchBy},
    workspace::{Admission, Destination, EndpointName, Grant, Grantee, Person, Workspace},
};

/// Whether the endpoint is open to everyone.
#[must_use]
pub fn is_public(workspace: &Workspace, endpoint: &EndpointName) -> bool {
    workspace.endpoint(endpoint).is_some_and(|e| e.admission == Admission::Public)
}

/// Why the identity may reach the endpoint.
///
/// # Errors
/// Why it may not.
pub fn relation(
    identity: &Identity,
    workspace: &Workspace,
    endpoint: &EndpointName,
    policy: Policy,
) -> Result<Reason, Reason> {
    let owner = is_person(identity, &workspace.owner);
    let Some(declared) = workspace.endpoint(endpoint) else {
        return match (owner, destination(workspace, endpoint, policy)) {
            (true, Some(_)) => Ok(Reason::Owner),
            (true, None) => Err(Reason::EndpointUndeclared),
            (false, _) => Err(Reason::NotPermitted),
        };
    };
    if owner {
        return Ok(Reason::Owner);
    }
    let admission = declared.admission;
    if admission >= Admission::Grants
        && let Some(reason) = granted(identity, &workspace.grants, endpoint)
    {
        return Ok(reason);
    }
    let colleague =
        workspace.organization.is_some() && workspace.organization == identity.organization;
    if admission >= Admission::Organization && colleague {
        return Ok(Reason::Organization);
    }
    if admission >= Admission::Authenticated {
        return Ok(Reason::Authenticated);
    }
    let to_groups = |grant: &Grant| matches!(grant.to, Grantee::Group { .. });
    if identity.groups_overage && workspace.grants.iter().any(to_groups) {
        return Err(Reason::GroupsOverage);
    }
    Err(Reason::NotPermitted)
}

/// Where the endpoint is. An undeclared port has a place only where the policy gives it one.
#[must_use]
pub fn destination(
    workspace: &Workspace,
    endpoint: &EndpointName,
    policy: Policy,
) -> Option<Destination> {
    if let Some(declared) = workspace.endpoint(endpoint) {
        return Some(declared.destination.clone());
    }
    match (policy.undeclared_ports, endpoint, workspace.address) {
        (UndeclaredPorts::Owner, EndpointName::Port(port), Some(ip)) => {
            Some(Destination::Address(SocketAddr::new(ip, *port)))
        }
        _ => None,
    }
}

fn granted(identity: &Identity, grants: &[Grant], endpoint: &EndpointName) -> Option<Reason> {
    let covers = |grant: &&Grant| grant.endpoints.as_ref().is_none_or(|e| e.contains(endpoint));
    grants.iter().filter(covers).find_map(|grant| match &grant.to {
        Grantee::User(person) => is_person(identity, person).then_some(Reason::GrantedUser),
        Grantee::Group { issuer, name } => {
            let same_issuer = issuer.as_ref().is_none_or(|i| *i == identity.authority.name);
            (same_issuer && identity.groups.contains(name)).then_some(Reason::GrantedGroup)
        }
    })
}

/// Whether the identity is the person. The first of the issuer's match rules that the record has a
/// field for decides alone: a record that names a subject is never matched by an e-mail address
/// instead.
#[must_use]
pub fn is_person(identity: &Identity, person: &Person) -> bool {
    if person.issuer.as_ref().is_some_and(|issuer| *issuer != identity.authority.name) {
        return false;
    }
    let verdict = identity.authority.matching.iter().find_map(|rule| match rule {
        MatchBy::Subject => person.subject.as_ref().map(|s| *s == identity.subject),
        MatchBy::Email => person.email.as_ref().map(|e| Some(e) == identity.email.as_ref()),
        MatchBy::Username => {
            person.username.as_ref().map(|u| Some(u) == identity.username.as_ref())
        }
    });
    verdict.unwrap_or(false)
}
