//! Whom a platform knows: its accounts and groups, joined to identities.
//!
//! A platform names the owner of a workspace by an id of its own. The directory says which identity
//! that is (by subject, verified e-mail address or login name, as the issuer's match rules have it),
//! in which of the platform's groups it is, and whether the account is still active.

use std::{collections::HashMap, sync::Arc};

use super::Person;
use crate::identity::{Identity, profile::MatchBy};

/// One account of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The platform's id.
    pub account: Box<str>,
    /// Who that is; its `account` is not looked at.
    pub person: Person,
    /// The same in one word, for records and headers.
    pub label: Arc<str>,
    /// Whether the account may be used.
    pub active: bool,
    /// The ids of the platform's groups it is in.
    pub teams: Vec<Box<str>>,
}

/// All accounts of a platform.
#[derive(Debug, Default)]
pub struct Directory {
    members: Vec<Member>,
    by_account: HashMap<Box<str>, usize>,
    by_subject: Names,
    by_email: Names,
    by_username: Names,
}

type Names = HashMap<Box<str>, Vec<usize>>;

/// What an identity is to a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'d> {
    /// The platform has no directory: records name people by what identities carry.
    NoDirectory,
    /// The platform does not know it.
    Stranger,
    /// It has this account.
    Member(&'d Member),
    /// It has this account, which is suspended or left behind.
    Inactive(&'d Member),
    /// Several accounts fit: whose identity it is cannot be told.
    Ambiguous,
}

impl Directory {
    /// A directory of these accounts. An account that is listed twice is active only if both are.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let mut directory = Self::default();
        for member in members {
            if let Some(known) = directory
                .by_account
                .get(&member.account)
                .and_then(|n| directory.members.get_mut(*n))
            {
                known.active &= member.active;
                continue;
            }
            let number = directory.members.len();
            directory.by_account.insert(member.account.clone(), number);
            let person = &member.person;
            for (names, name) in [
                (&mut directory.by_subject, &person.subject),
                (&mut directory.by_email, &person.email),
                (&mut directory.by_username, &person.username),
            ] {
                if let Some(name) = name {
                    names.entry(name.clone()).or_default().push(number);
                }
            }
            directory.members.push(member);
        }
        directory
    }

    /// The account with that id.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<&Member> {
        self.by_account.get(id).and_then(|n| self.members.get(*n))
    }

    /// What the identity is to the platform.
    #[must_use]
    pub fn standing(&self, identity: &Identity) -> Standing<'_> {
        let mut found: Option<&Member> = None;
        for rule in &identity.authority.matching {
            let (names, name) = match rule {
                MatchBy::Subject => (&self.by_subject, Some(&identity.subject)),
                MatchBy::Email => (&self.by_email, identity.email.as_ref()),
                MatchBy::Username => (&self.by_username, identity.username.as_ref()),
            };
            let fitting = name.and_then(|name| names.get(name)).into_iter().flatten();
            let members = fitting.filter_map(|n| self.members.get(*n));
            for member in members.filter(|member| is_person(identity, &member.person)) {
                if found.is_some_and(|other| other.account != member.account) {
                    return Standing::Ambiguous;
                }
                found = Some(member);
            }
        }
        match found {
            None => Standing::Stranger,
            Some(member) if member.active => Standing::Member(member),
            Some(member) => Standing::Inactive(member),
        }
    }

    /// How many accounts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Whether the identity is the person, by what it carries. The first of the issuer's match rules that
/// the record has a field for decides alone: a record that names a subject is never matched by an
/// e-mail address instead.
#[must_use]
pub fn is_person(identity: &Identity, person: &Person) -> bool {
    if !person.issuers.include(identity) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::profile::Authority, workspaces::IssuerNames};

    fn identity(subject: &str, email: Option<&str>) -> Identity {
        let matching = vec![MatchBy::Subject, MatchBy::Email];
        let authority = Authority::new("corp", "https://corp", matching);
        let plain = Identity::plain(Arc::new(authority), "https://corp", subject);
        Identity { email: email.map(Into::into), ..plain }
    }

    fn member(account: &str, email: &str, active: bool) -> Member {
        let issuers = IssuerNames::one("corp");
        let person = Person { issuers, email: Some(email.into()), ..Person::default() };
        Member { account: account.into(), label: email.into(), person, active, teams: vec![] }
    }

    fn account(standing: Standing<'_>) -> Option<&str> {
        match standing {
            Standing::Member(member) => Some(&member.account),
            _ => None,
        }
    }

    #[test]
    fn an_identity_is_joined_to_its_account_by_verified_email() {
        let directory = Directory::new([member("1", "a@x", true), member("2", "b@x", true)]);
        assert_eq!(account(directory.standing(&identity("s", Some("b@x")))), Some("2"));
        assert_eq!(directory.standing(&identity("s", None)), Standing::Stranger);
        assert_eq!(directory.standing(&identity("1", Some("c@x"))), Standing::Stranger);
    }

    #[test]
    fn a_suspended_account_is_told_apart() {
        let directory = Directory::new([member("1", "a@x", false)]);
        let standing = directory.standing(&identity("s", Some("a@x")));
        assert!(matches!(standing, Standing::Inactive(m) if &*m.account == "1"));
    }

    #[test]
    fn two_accounts_of_one_address_are_nobodys() {
        let directory = Directory::new([member("1", "a@x", true), member("2", "a@x", false)]);
        assert_eq!(directory.standing(&identity("s", Some("a@x"))), Standing::Ambiguous);
    }

    #[test]
    fn an_account_listed_twice_is_active_only_if_both_are() {
        let directory = Directory::new([member("1", "a@x", true), member("1", "a@x", false)]);
        assert!(!directory.account("1").unwrap().active);
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn accounts_of_another_issuer_are_somebody_elses() {
        let mut partner = member("1", "a@x", true);
        partner.person.issuers = IssuerNames::one("partner");
        let directory = Directory::new([partner]);
        assert_eq!(directory.standing(&identity("s", Some("a@x"))), Standing::Stranger);
    }
}
