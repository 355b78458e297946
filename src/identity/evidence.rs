//! What a decision about a person rests on, for the record of it.

use crate::fingerprint::Fingerprint;

/// What kind of credential a request carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CredentialKind {
    /// None of ours.
    #[default]
    Nothing,
    /// A bearer token.
    Bearer,
    /// A token bound to a key of the client (RFC 9449).
    Dpop,
    /// The cookie of a session.
    Session,
    /// A client certificate.
    Certificate,
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The kind of credential.
    pub credential: CredentialKind,
    /// Whether the token was remembered from another request.
    pub cached: bool,
    /// The token's own id (`jti`), if it has one.
    pub token: Option<Fingerprint>,
    /// The keys that verified the token.
    pub key_set: Option<Fingerprint>,
}

impl CredentialKind {
    /// The stable id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Bearer => "bearer",
            Self::Dpop => "dpop",
            Self::Session => "session",
            Self::Certificate => "certificate",
        }
    }
}
