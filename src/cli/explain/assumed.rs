//! The person that `explain --user` or `--subject` assumes, without their token.
//!
//! An identity normally exists only for a credential that was verified. This one is made from words on the command
//! line: it serves to find out beforehand, and the output says at each place that it was assumed. It never leaves
//! this command.

use std::{sync::Arc, time::Duration};

use anyhow::bail;

use crate::{
    cli::AssumedPerson,
    gate::Gate,
    identity::{Authority, Identity, TokenIds, groups::JoinedGroups},
    time::Timestamp,
    workspaces::{Grantee, Person, Workspace},
};

/// An assumed person, and what of it was not said on the command line.
pub(super) struct Assumed {
    pub(super) identity: Arc<Identity>,
    /// Where the subject comes from, if it was not named; in words.
    pub(super) subject_from: Option<&'static str>,
}

/// The person that the command line describes. The subject of one who is named by `--user` alone is looked up in the
/// record of the workspace; without it there, the name stands for the subject too.
pub(super) fn assume(
    about: &AssumedPerson,
    gate: &Gate,
    workspace: Option<&Workspace>,
) -> anyhow::Result<Option<Assumed>> {
    let Some(name) = about.user.as_deref().or(about.subject.as_deref()) else {
        if about.issuer.is_some() || !about.groups.is_empty() {
            bail!("--issuer and --groups describe an assumed person: add --user or --subject");
        }
        return Ok(None);
    };
    let authority = authority(about.issuer.as_deref(), gate)?;
    let profile = gate.issuers.profiles().find(|known| known.authority == authority);
    let issuer = profile.map_or(&*authority.identifier, |profile| profile.issuer.as_str());
    let email = about.user.as_deref().filter(|user| user.contains('@'));
    let groups: Vec<Box<str>> = about.groups.iter().map(|group| group.as_str().into()).collect();
    let now = Timestamp::now();
    let mut identity = Identity {
        issuer: issuer.into(),
        subject: name.into(),
        email: email.map(|email| email.to_ascii_lowercase().into()),
        username: about.user.as_deref().filter(|user| !user.contains('@')).map(Into::into),
        groups_joined: JoinedGroups::new(&groups),
        groups,
        organization: profile.and_then(|profile| profile.organization.clone()),
        groups_overage: false,
        // A credential of this moment: a revocation of older ones does not refuse it.
        token: TokenIds { issued: Some(now), ..TokenIds::default() },
        bound_to: None,
        expires: now.plus(Duration::from_hours(1)),
        authority,
    };
    let mut subject_from = None;
    if about.subject.is_none() {
        let known = workspace.and_then(|workspace| subject_in(workspace, &identity));
        subject_from = Some(match known {
            Some(_) => "from the record of the workspace",
            None => "unknown, so the name stands for it; --subject tells it",
        });
        identity.subject = known.unwrap_or(identity.subject);
    }
    Ok(Some(Assumed { identity: Arc::new(identity), subject_from }))
}

/// The issuer or certificate rule with that name, or the only one that is configured.
fn authority(name: Option<&str>, gate: &Gate) -> anyhow::Result<Arc<Authority>> {
    let all: Vec<_> = gate.authorities().collect();
    let names: Vec<&str> = all.iter().map(|authority| &*authority.name).collect();
    let found = match (name, all.as_slice()) {
        (None, [only]) => Some(only),
        (None, _) => bail!("--issuer is needed, since there are several: {}", names.join(", ")),
        (Some(name), _) => all.iter().find(|authority| &*authority.name == name),
    };
    match found {
        Some(authority) => Ok(Arc::clone(authority)),
        None => bail!("--issuer: expected one of {}", names.join(", ")),
    }
}

/// The subject of the owner or of a person with a grant who has the assumed e-mail address or login name.
fn subject_in(workspace: &Workspace, identity: &Identity) -> Option<Box<str>> {
    let granted = workspace.grants.iter().filter_map(|grant| match &grant.to {
        Grantee::User(person) => Some(person),
        Grantee::Group { .. } | Grantee::PlatformGroup(_) => None,
    });
    let is_same = |person: &&Person| {
        let same = |known: &Option<Box<str>>, assumed: &Option<Box<str>>| {
            known.is_some() && known == assumed
        };
        person.issuers.include(identity)
            && (same(&person.email, &identity.email) || same(&person.username, &identity.username))
    };
    let mut all = std::iter::once(&workspace.owner).chain(granted);
    all.find(|person| is_same(person) && person.subject.is_some())?.subject.clone()
}
