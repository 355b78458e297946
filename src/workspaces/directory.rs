//! The accounts and groups of a platform, and which identity each account belongs to.
//!
//! A platform names the owner of a workspace by its own account id. The directory finds the
//! identity of that account by the issuer's match rules: by subject, verified e-mail address or
//! login name. It also says which of the platform's groups an account is in, and whether the
//! account is active.
//!
//! Invariant: an identity that fits several accounts is [`Membership::Ambiguous`] and gets access to
//! none of them, so a second account with the same e-mail address never inherits the rights of the
//! first.

use std::{collections::HashMap, sync::Arc};

use super::Person;
use crate::identity::{Identity, profile::MatchBy};

/// An account of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The platform's id of the account.
    pub account: Box<str>,
    /// The names by which identities are compared with the account. The field `account` in it is
    /// not used.
    pub person: Person,
    /// The account's name for audit records and headers.
    pub label: Arc<str>,
    /// Whether the account may be used; a suspended account may not.
    pub active: bool,
    /// The platform's ids of the groups that the account is in.
    pub platform_groups: Vec<Box<str>>,
}

/// All accounts of a platform, with an index for each name.
#[derive(Debug, Default)]
pub struct Directory {
    members: Vec<Member>,
    by_account: HashMap<Box<str>, usize>,
    by_subject: NameIndex,
    by_email: NameIndex,
    by_username: NameIndex,
}

type NameIndex = HashMap<Box<str>, Vec<usize>>;

/// The relation of an identity to a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership<'d> {
    /// The platform has no directory: its records name people by the claims of identities.
    NoDirectory,
    /// The identity has no account.
    Stranger,
    /// The identity has this active account.
    Member(&'d Member),
    /// The identity has this account, which is suspended or removed.
    Inactive(&'d Member),
    /// Several accounts fit the identity, so it gets the rights of none.
    Ambiguous,
}

impl Directory {
    /// Builds a directory. An account that is listed twice is active only if both entries are.
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

    /// Returns the account with this platform id.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<&Member> {
        self.by_account.get(id).and_then(|n| self.members.get(*n))
    }

    /// Returns the relation of the identity to the platform.
    #[must_use]
    pub fn membership(&self, identity: &Identity) -> Membership<'_> {
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
                // Two rules may find the same account; only a second account makes the identity
                // ambiguous.
                if found.is_some_and(|other| other.account != member.account) {
                    return Membership::Ambiguous;
                }
                found = Some(member);
            }
        }
        match found {
            None => Membership::Stranger,
            Some(member) if member.active => Membership::Member(member),
            Some(member) => Membership::Inactive(member),
        }
    }

    /// The number of accounts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no accounts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Returns whether the identity is the person that a record names.
///
/// The first of the issuer's match rules for which the record has a field decides alone. A record
/// that names a subject is therefore never matched by an e-mail address instead.
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
        Member {
            account: account.into(),
            label: email.into(),
            person,
            active,
            platform_groups: vec![],
        }
    }

    fn account(membership: Membership<'_>) -> Option<&str> {
        match membership {
            Membership::Member(member) => Some(&member.account),
            _ => None,
        }
    }

    #[test]
    fn an_identity_is_joined_to_its_account_by_verified_email() {
        let directory = Directory::new([member("1", "a@x", true), member("2", "b@x", true)]);
        assert_eq!(account(directory.membership(&identity("s", Some("b@x")))), Some("2"));
        assert_eq!(directory.membership(&identity("s", None)), Membership::Stranger);
        assert_eq!(directory.membership(&identity("1", Some("c@x"))), Membership::Stranger);
    }

    #[test]
    fn a_suspended_account_is_inactive() {
        let directory = Directory::new([member("1", "a@x", false)]);
        let membership = directory.membership(&identity("s", Some("a@x")));
        assert!(matches!(membership, Membership::Inactive(m) if &*m.account == "1"));
    }

    #[test]
    fn two_accounts_with_one_address_match_no_identity() {
        let directory = Directory::new([member("1", "a@x", true), member("2", "a@x", false)]);
        assert_eq!(directory.membership(&identity("s", Some("a@x"))), Membership::Ambiguous);
    }

    #[test]
    fn an_account_listed_twice_is_active_only_if_both_are() {
        let directory = Directory::new([member("1", "a@x", true), member("1", "a@x", false)]);
        assert!(!directory.account("1").unwrap().active);
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn accounts_of_another_issuer_do_not_match() {
        let mut partner = member("1", "a@x", true);
        partner.person.issuers = IssuerNames::one("partner");
        let directory = Directory::new([partner]);
        assert_eq!(directory.membership(&identity("s", Some("a@x"))), Membership::Stranger);
    }
}
