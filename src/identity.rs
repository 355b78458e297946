//! Authentication: a credential becomes an [`Identity`], or a [`TokenError`] that says why it is not valid.
//!
//! [`credential`] finds the credential of a request. [`issuers`] verifies tokens: [`jwt`] and [`claims`] against the
//! keys that [`provider`] keeps fresh, [`introspection`] by asking the issuer of an opaque token, and [`cache`] remembers
//! what was verified. [`claimed_issuer`] finds what could be a token of a configured issuer; anything else is the app's. [`certificate`] reads client certificates that HAProxy verified. [`revocation`] is the list of
//! what an administrator took back; every request is compared with it, cached tokens too.
//!
//! Nothing here knows a workspace or decides about access. The invariant: an [`Identity`] exists only for a credential
//! whose proof was checked, and no text in it has control characters.

use std::sync::Arc;

use self::groups::JoinedGroups;
use crate::time::Timestamp;

pub mod at_hash;
pub mod audience;
pub mod cache;
pub mod certificate;
pub mod claimed_issuer;
pub mod claims;
pub mod client_auth;
pub mod credential;
pub mod evidence;
pub mod groups;
pub mod introspection;
pub mod issuers;
pub mod json;
pub mod jwt;
pub mod keys;
pub mod pending;
pub mod profile;
pub mod provider;
pub mod revocation;
pub mod settings;
pub mod stored;
mod token_error;
mod token_kind;
pub mod userinfo;

pub use profile::{Authority, Profile};
pub use token_error::TokenError;

/// A person or machine that an authority vouches for.
///
/// It exists only for a verified credential. No text in it has control characters, so each can stand in headers and
/// logs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The authority that vouches, and how its identities are matched with the people in workspace records.
    pub authority: Arc<Authority>,
    /// The issuer's identifier, as in the `iss` claim.
    pub issuer: Box<str>,
    /// The issuer's id of the person. Issuer and subject together are the principal (OIDC Core section 5.7).
    pub subject: Box<str>,
    /// The e-mail address with its ASCII letters in lower case, if the issuer says that it is verified.
    pub email: Option<Box<str>>,
    /// The login name.
    pub username: Option<Box<str>>,
    /// The groups, as the issuer spells them.
    pub groups: Vec<Box<str>>,
    /// The groups as one text, for HAProxy.
    pub groups_joined: JoinedGroups,
    /// The organization.
    pub organization: Option<Box<str>>,
    /// Whether the issuer left the groups out because there are too many (Entra: more than 200).
    pub groups_overage: bool,
    /// The ids by which a revocation can name the credential.
    pub token: TokenIds,
    /// SHA-256 of the client certificate that a request must present together with the credential (RFC 8705
    /// section 3.1).
    pub bound_to: Option<[u8; 32]>,
    /// When the credential ends, with the issuer's leeway included.
    pub expires: Timestamp,
}

#[cfg(test)]
impl Identity {
    /// An identity with an issuer and a subject and nothing else, for tests.
    pub(crate) fn plain(authority: Arc<Authority>, issuer: &str, subject: &str) -> Self {
        Self {
            authority,
            issuer: issuer.into(),
            subject: subject.into(),
            email: None,
            username: None,
            groups: vec![],
            groups_joined: JoinedGroups::default(),
            groups_overage: false,
            organization: None,
            token: TokenIds::default(),
            bound_to: None,
            expires: Timestamp::from_secs(1),
        }
    }
}

/// The ids that an issuer gave to a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// The token (`jti`).
    pub id: Option<Box<str>>,
    /// The session at the issuer (`sid`).
    pub session: Option<Box<str>>,
    /// The `sub` claim, where the configuration takes another claim as the subject. Logout tokens name people by it;
    /// no decision uses it.
    pub sub: Option<Box<str>>,
    /// When it was issued (`iat`).
    pub issued: Option<Timestamp>,
}

impl Identity {
    /// Whether two identities are the same person: the same issuer and subject (OIDC Core section 5.7).
    #[must_use]
    pub fn is_same_person(&self, other: &Self) -> bool {
        (&self.issuer, &self.subject) == (&other.issuer, &other.subject)
    }

    /// One word for the person: the login name, or else the verified e-mail address, or else the subject.
    #[must_use]
    pub fn label(&self) -> &str {
        self.username.as_deref().or(self.email.as_deref()).unwrap_or(&self.subject)
    }

    /// The verified e-mail address, unless [`Identity::label`] is that address already.
    #[must_use]
    pub fn email_unless_label(&self) -> Option<&str> {
        self.email.as_deref().filter(|email| *email != self.label())
    }
}

/// The result of authentication.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// The request has no credential for the gate.
    Absent,
    /// The credential is valid.
    Known(Arc<Identity>),
    /// The credential is not valid.
    Refused(TokenError),
    /// The credential cannot be checked, because the issuer's keys could not be fetched.
    KeysUnavailable,
    /// The credential cannot be checked, because the issuer of the opaque token does not answer.
    IntrospectionUnavailable,
    /// The credential cannot be checked, because the store of sessions is away.
    SessionsUnavailable,
    /// There is a credential that the browser added by itself, and the page that made the request must not use it.
    OriginForeign,
}
