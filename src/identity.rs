//! A credential becomes an [`Identity`], or a [`Refusal`] that says why not.
//!
//! [`credential`] finds the credential in a request, [`jwt`] verifies it against the keys that
//! [`provider`] keeps fresh, [`cache`] remembers what was verified, [`issuers`] joins them. Nothing
//! here knows workspaces or decides access.

use std::{fmt, sync::Arc};

use self::groups::JoinedGroups;
use crate::time::Timestamp;

pub mod at_hash;
pub mod cache;
pub mod certificate;
pub mod claims;
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
pub mod stored;

pub use profile::{Authority, Profile};

/// A person or machine that an issuer vouched for. Exists only for a verified credential.
///
/// No text in it has control characters, so that it can stand in headers and logs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who vouches, and how its identities are joined to the people in workspace records.
    pub authority: Arc<Authority>,
    /// The issuer's identifier, as in the `iss` claim.
    pub issuer: Box<str>,
    /// The issuer's id of the subject; with the issuer it is the principal (OIDC Core section 5.7).
    pub subject: Box<str>,
    /// The e-mail address, its ASCII letters in lower case, present only if the issuer says it is verified.
    pub email: Option<Box<str>>,
    /// The login name.
    pub username: Option<Box<str>>,
    /// The groups, as the issuer spells them.
    pub groups: Vec<Box<str>>,
    /// The groups as one text, for HAProxy.
    pub groups_joined: JoinedGroups,
    /// The organization.
    pub organization: Option<Box<str>>,
    /// The issuer left the groups out because there were too many (Entra: more than 200).
    pub groups_overage: bool,
    /// What revocation can name.
    pub token: TokenIds,
    /// SHA-256 of the client certificate without which the credential is worth nothing
    /// (RFC 8705 section 3.1).
    pub bound_to: Option<[u8; 32]>,
    /// When the credential ends, with the issuer's leeway included.
    pub expires: Timestamp,
}

#[cfg(test)]
impl Identity {
    /// Somebody of whom no more is known than who says so, for tests.
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

/// What a credential is called by its issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// The token (`jti`).
    pub id: Option<Box<str>>,
    /// The session at the issuer (`sid`).
    pub session: Option<Box<str>>,
    /// What the issuer calls the person in its own protocol (`sub`), where another claim is our subject. Logout
    /// tokens name people so, and nothing else is decided by it.
    pub sub: Option<Box<str>>,
    /// When it was issued (`iat`).
    pub issued: Option<Timestamp>,
}

impl Identity {
    /// Whether two are the same person: issuer and subject, and nothing else (OIDC Core section 5.7).
    #[must_use]
    pub fn is_same_person(&self, other: &Self) -> bool {
        (&self.issuer, &self.subject) == (&other.issuer, &other.subject)
    }

    /// One word for the person: the login name, else the verified e-mail address, else the subject.
    #[must_use]
    pub fn label(&self) -> &str {
        self.username.as_deref().or(self.email.as_deref()).unwrap_or(&self.subject)
    }
}

/// What is known about who asks.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// No credential that is meant for us.
    Absent,
    /// A verified one.
    Known(Arc<Identity>),
    /// A credential that does not count.
    Refused(Refusal),
    /// The issuer's keys are not at hand, so nobody can tell.
    KeysUnavailable,
    /// The issuer cannot be asked about an opaque token, so nobody can tell.
    IntrospectionUnavailable,
    /// The store of sessions is away, so nobody can tell.
    SessionsUnavailable,
}

/// Why a credential does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not a compact JWS with a JSON header and JSON claims, or one with repeated members.
    Malformed,
    /// Longer than is read at all.
    Oversized,
    /// An algorithm, or an extension in `crit`, that is not accepted here.
    Algorithm,
    /// From no configured issuer.
    Issuer,
    /// Signed by a key that its issuer does not publish, or that cannot be told from others.
    Key,
    /// The signature does not fit.
    Signature,
    /// Over.
    Expired,
    /// Not yet valid.
    NotYetValid,
    /// Meant for somebody else.
    Audience,
    /// A claim is missing or of the wrong type.
    Claims,
    /// A JWT of a kind that is no access credential, such as a logout token (RFC 8725 section 3.11).
    Type,
    /// Encrypted (RFC 7516); nobody here has the key.
    Encrypted,
    /// An access token for Microsoft Graph, which only Graph can verify.
    Graph,
    /// Of another tenant than those that are configured.
    Tenant,
    /// A claim does not say what the configuration requires.
    Requirement,
    /// Opaque, and its issuer says that it is not active.
    Inactive,
    /// Revoked, or of a subject or session that was.
    Revoked,
    /// Bound to a key or certificate that this request does not prove (RFC 8705, RFC 9449).
    Bound,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Oversized,
        Self::Algorithm,
        Self::Issuer,
        Self::Key,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Audience,
        Self::Claims,
        Self::Type,
        Self::Encrypted,
        Self::Graph,
        Self::Tenant,
        Self::Requirement,
        Self::Inactive,
        Self::Revoked,
        Self::Bound,
    ];

    /// The stable id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Oversized => "token_oversized",
            Self::Algorithm => "token_algorithm",
            Self::Issuer => "token_issuer",
            Self::Key => "token_key",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience => "token_audience",
            Self::Claims => "token_claims",
            Self::Type => "token_type",
            Self::Encrypted => "token_encrypted",
            Self::Graph => "token_graph",
            Self::Tenant => "token_tenant",
            Self::Requirement => "token_requirement",
            Self::Inactive => "token_inactive",
            Self::Revoked => "token_revoked",
            Self::Bound => "token_bound",
        }
    }

    /// What was wrong, for the person who sent the token (RFC 6750 section 3 `error_description`;
    /// no quotes or backslashes).
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Malformed => "the token is not a signed JWT in compact form",
            Self::Oversized => "the token is too long",
            Self::Algorithm => "the token uses an algorithm or extension that is not accepted",
            Self::Issuer => "the token is from an issuer that is not configured",
            Self::Key => "the token is signed by a key that its issuer does not publish",
            Self::Signature => "the signature of the token does not fit",
            Self::Expired => "the token is expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Audience => "the token is meant for another audience",
            Self::Claims => "a claim of the token is missing or of the wrong type",
            Self::Type => "the token is of a kind that gives no access",
            Self::Encrypted => {
                "the token is encrypted, often for want of an audience in the request"
            }
            Self::Graph => "the token is for Microsoft Graph and nobody else can verify it",
            Self::Tenant => "the token is of a tenant that is not configured",
            Self::Requirement => "a claim of the token does not have a required value",
            Self::Inactive => "the token is not active, its issuer says",
            Self::Revoked => "the token was revoked",
            Self::Bound => "the token is bound to a key that the request does not prove",
        }
    }
}

impl Refusal {
    /// Whether the token may be one of a configured issuer all the same, so that it must not travel
    /// on to a workspace.
    #[must_use]
    pub const fn may_be_ours(self) -> bool {
        !matches!(self, Self::Malformed | Self::Issuer | Self::Encrypted)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl Authentication {
    /// Whether the credential was one for the gate, known or not.
    #[must_use]
    pub fn is_by_token_of_ours(&self) -> bool {
        match self {
            Self::Absent | Self::SessionsUnavailable => false,
            Self::Known(_) | Self::KeysUnavailable | Self::IntrospectionUnavailable => true,
            Self::Refused(refusal) => refusal.may_be_ours(),
        }
    }
}
