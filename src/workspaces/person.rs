//! People, groups and organizations as records name them, and the issuers that may speak for them.

use std::{fmt, sync::Arc};

use crate::identity::Identity;

/// The configured names of the issuers (and certificate rules) whose identities a name in a record is matched
/// with. The same name can belong to different people at each issuer, so an empty list matches no identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IssuerNames(Arc<[Box<str>]>);

impl IssuerNames {
    /// Just this issuer.
    #[must_use]
    pub fn one(name: &str) -> Self {
        Self(Arc::new([name.into()]))
    }

    /// Whether the identity is from one of these issuers.
    #[must_use]
    pub fn include(&self, identity: &Identity) -> bool {
        self.0.contains(&identity.authority.name)
    }
}

impl FromIterator<Box<str>> for IssuerNames {
    fn from_iter<I: IntoIterator<Item = Box<str>>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A person as a workspace record names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Person {
    /// The platform's own id of the person. Whose identity that is, the source's
    /// [`super::directory::Directory`] tells, and nothing else here counts then.
    pub account: Option<Box<str>>,
    /// The issuers whose identities this person signs in with. All other fields are names at these issuers.
    pub issuers: IssuerNames,
    /// The issuer's id of the person (RFC 7519 section 4.1.2), compared byte for byte.
    pub subject: Option<Box<str>>,
    /// The e-mail address, its ASCII letters in lower case.
    pub email: Option<Box<str>>,
    /// The login name, compared byte for byte.
    pub username: Option<Box<str>>,
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [&self.username, &self.email, &self.subject, &self.account];
        f.write_str(names.into_iter().flatten().next().map_or("?", |name| name))
    }
}

/// The organization that a workspace belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// The issuers that may say who is a member.
    pub issuers: IssuerNames,
    /// What it is called in identities, compared byte for byte.
    pub name: Box<str>,
}

impl Organization {
    /// Whether the identity is a member.
    #[must_use]
    pub fn includes(&self, identity: &Identity) -> bool {
        self.issuers.include(identity) && identity.organization.as_ref() == Some(&self.name)
    }
}
