//! The evidence of a decision: which kind of credential was presented and which keys verified it.
//!
//! The record of each decision has it, so that an auditor can tell on which key an allow rests. It holds fingerprints,
//! never a token.

use crate::fingerprint::Fingerprint;

/// The kind of credential of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CredentialKind {
    /// None for the gate.
    #[default]
    None,
    /// A bearer token.
    Bearer,
    /// A token that is bound to a key of the client (DPoP, RFC 9449).
    Dpop,
    /// A session cookie.
    Session,
    /// A client certificate.
    Certificate,
}

/// The evidence of one decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The kind of credential.
    pub credential: CredentialKind,
    /// Whether the token was verified for an earlier request.
    pub cached: bool,
    /// The token's own id (`jti`), if it has one.
    pub token: Option<Fingerprint>,
    /// The key set that verified the token.
    pub key_set: Option<Fingerprint>,
}

impl CredentialKind {
    /// The stable id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bearer => "bearer",
            Self::Dpop => "dpop",
            Self::Session => "session",
            Self::Certificate => "certificate",
        }
    }
}
