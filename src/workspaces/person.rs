//! People, groups and organizations as workspace records name them.
//!
//! A name alone does not identify a person: the same login name or e-mail address can belong to
//! different people at two issuers. Every name here is therefore stored with the issuers at which
//! it is valid, and an empty list of issuers matches no identity.

use std::{fmt, sync::Arc};

use crate::identity::Identity;

/// The configured names of the issuers and certificate rules at which a name is valid. An empty
/// list matches no identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IssuerNames(Arc<[Box<str>]>);

impl IssuerNames {
    /// A list of one issuer.
    #[must_use]
    pub fn one(name: &str) -> Self {
        Self(Arc::new([name.into()]))
    }

    /// Returns whether the issuer with this configured name is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|issuer| **issuer == *name)
    }

    /// Returns whether the identity was issued by one of these issuers.
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
    /// The platform's account id. If it is present, only the source's
    /// [`super::directory::Directory`] decides which identity this is, and the other fields are not
    /// compared.
    pub account: Option<Box<str>>,
    /// The issuers at which the following names are valid.
    pub issuers: IssuerNames,
    /// The issuer's id of the person (`sub`, RFC 7519 section 4.1.2), compared byte for byte.
    pub subject: Option<Box<str>>,
    /// The e-mail address, with its ASCII letters in lower case.
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
    /// The issuers whose statement about membership is accepted.
    pub issuers: IssuerNames,
    /// The organization's name in identities, compared byte for byte.
    pub name: Box<str>,
}

impl Organization {
    /// Returns whether the identity is a member.
    #[must_use]
    pub fn includes(&self, identity: &Identity) -> bool {
        self.issuers.include(identity) && identity.organization.as_ref() == Some(&self.name)
    }
}
