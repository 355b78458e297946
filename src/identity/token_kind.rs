//! The kind of a token: an issuer signs several kinds with the same key, and only some of them give access (RFC 8725
//! section 3.12).

use serde_json::{Map, Value};

use super::{TokenError, profile::TokenKinds};

/// The kind of a token, as far as its header and claims show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An access token whose header says so.
    TypedAccess,
    /// An access token, or a token that does not show what it is.
    Access,
    /// An ID token.
    Id,
}

impl TokenKind {
    /// The kind of a token with these claims. `typed_access` says whether the header calls it an access token.
    pub(super) fn of(claims: &Map<String, Value>, typed_access: bool) -> Result<Self, TokenError> {
        // Only a logout token has `events` (OIDC Back-Channel Logout section 2.4).
        if claims.contains_key("events") {
            return Err(TokenError::Type);
        }
        // Keycloak and Amazon Cognito write the kind into a claim.
        let said = match (claims.get("typ"), claims.get("token_use")) {
            (None, None) => None,
            (Some(Value::String(kind)), None) | (None, Some(Value::String(kind))) => {
                match kind.to_ascii_lowercase().as_str() {
                    "bearer" | "access" | "at+jwt" => Some(Self::Access),
                    "id" => Some(Self::Id),
                    "jwt" => None,
                    // Refresh, Offline, Logout, and kinds that do not exist yet.
                    _ => return Err(TokenError::Type),
                }
            }
            _ => return Err(TokenError::Type),
        };
        // Only ID tokens have these claims (OIDC Core sections 2 and 3.3.2.11).
        let marked =
            ["nonce", "at_hash", "c_hash", "s_hash"].iter().any(|m| claims.contains_key(*m));
        match (typed_access, said) {
            (true, Some(Self::Id)) => Err(TokenError::Type),
            (true, _) => Ok(Self::TypedAccess),
            (false, Some(kind)) => Ok(kind),
            (false, None) if marked => Ok(Self::Id),
            (false, None) => Ok(Self::Access),
        }
    }

    /// Checks that the kind is accepted.
    pub(super) fn check(self, accepted: TokenKinds) -> Result<(), TokenError> {
        let counts = match self {
            Self::TypedAccess => accepted.typed_access || accepted.access,
            // An ID token may have nothing that shows its kind. Where only ID tokens are accepted, it is taken for one.
            Self::Access => accepted.access || (accepted.id && !accepted.typed_access),
            Self::Id => accepted.id,
        };
        if counts { Ok(()) } else { Err(TokenError::Type) }
    }
}
