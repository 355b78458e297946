//! Why a token is not valid: a stable id for logs, metrics and HAProxy, and a sentence for the client.
//!
//! Each error is declared once, in the list below. The ids are also reasons of decisions
//! ([`Reason::Refused`](crate::authz::reason::Reason)), and `docs/reasons.md` explains each of them.

use std::fmt;

/// Declares the errors: documentation, name, id and sentence of each.
macro_rules! token_errors {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal, $sentence:literal;)+) => {
        /// Why a token is not valid.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum TokenError {
            $($(#[doc = $doc])+ $name,)+
        }

        impl TokenError {
            /// Every error.
            pub const ALL: [Self; [$($id),+].len()] = [$(Self::$name),+];

            /// The stable id.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)+
                }
            }

            /// What is wrong, for the person who sent the token. It has no quotes and no backslashes, so that it can
            /// stand in `error_description` (RFC 6750 section 3).
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$name => $sentence,)+
                }
            }
        }
    };
}

token_errors! {
    /// It is not a compact JWS with a JSON header and JSON claims, or a member occurs twice.
    Malformed = "token_malformed", "the token is not a signed JWT in compact form";
    /// It is longer than the agent reads.
    Oversized = "token_oversized", "the token is too long";
    /// Its algorithm, or an extension in `crit`, is not accepted.
    Algorithm = "token_algorithm", "the token uses an algorithm or extension that is not accepted";
    /// Its issuer is not configured.
    Issuer = "token_issuer", "the token is from an issuer that is not configured";
    /// Its issuer does not publish the key that signed it, or several keys have the same id.
    Key = "token_key", "the token is signed by a key that its issuer does not publish";
    /// The signature is wrong.
    Signature = "token_signature", "the signature of the token does not fit";
    /// It has expired.
    Expired = "token_expired", "the token is expired";
    /// It is not valid yet.
    NotYetValid = "token_not_yet_valid", "the token is not valid yet";
    /// It was issued for another audience.
    Audience = "token_audience", "the token is meant for another audience";
    /// A claim is missing or has the wrong type.
    Claims = "token_claims", "a claim of the token is missing or of the wrong type";
    /// It is a JWT of a kind that gives no access, such as a logout token (RFC 8725 section 3.11).
    Type = "token_type", "the token is of a kind that gives no access";
    /// It is encrypted (RFC 7516), and the agent has no key for it.
    Encrypted = "token_encrypted", "the token is encrypted, often because no audience was asked for";
    /// It is an access token for Microsoft Graph, which only Graph can verify.
    Graph = "token_graph", "the token is for Microsoft Graph, which alone can verify it";
    /// Its tenant is not one of the configured ones.
    Tenant = "token_tenant", "the token is of a tenant that is not configured";
    /// A claim does not have a value that the configuration requires.
    Requirement = "token_requirement", "a claim of the token does not have a required value";
    /// It is opaque, and its issuer answers that it is not active.
    Inactive = "token_inactive", "the issuer of the token answers that it is not active";
    /// It is revoked, or its subject or session is.
    Revoked = "token_revoked", "the token was revoked";
    /// It is bound to a key or certificate that the request does not prove (RFC 8705, RFC 9449).
    Bound = "token_bound", "the token is bound to a key that the request does not prove";
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_can_stand_in_a_header() {
        for error in TokenError::ALL {
            let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
            assert!(error.describe().bytes().all(plain), "{}", error.id());
        }
    }
}
