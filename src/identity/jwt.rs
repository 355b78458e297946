//! The verifier of JWTs (RFC 7515, RFC 7519, RFC 8725): the only one, for programs' tokens and for sign-in.
//!
//! The structure is read strictly before any signature is checked. The configuration and the key set choose algorithm
//! and key; `jsonwebtoken` only checks the signature (docs/decisions/0002). [`super::claims`] checks the claims. Headers
//! that name or contain keys (`jwk`, `jku`, `x5u`, `x5c`) are ignored.
//!
//! The invariant: nothing of an [`Unverified`] token decides anything except which issuer's keys are tried.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{
    Identity, TokenError, at_hash,
    audience::{self, AudienceError},
    claims, json,
    keys::{Key, KeyMiss, KeySet},
    profile::{Profile, TENANT},
    token_kind::TokenKind,
};
use crate::{identity::profile::algorithm, time::Timestamp};

/// The longest token that is read, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// The longest header, in bytes of JSON.
pub const MAX_HEADER: usize = 2 * 1024;

/// A token that is well formed. Nothing in it is verified.
pub struct Unverified<'t> {
    token: &'t str,
    header: Header,
    claims: Map<String, Value>,
}

/// The kind of token that the header names in `typ` (RFC 9068 section 2.1, OIDC Back-Channel Logout section 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderType {
    /// No kind, or just a JWT.
    Plain,
    /// An access token.
    Access,
    /// A logout token.
    Logout,
}

/// The members of the header that are used.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
    kind: HeaderType,
}

/// Why a token was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// The key set has no key of that id; a newer one may.
    UnknownKey,
    /// The token is not valid.
    Refused(TokenError),
}

impl From<TokenError> for VerifyError {
    fn from(error: TokenError) -> Self {
        Self::Refused(error)
    }
}

impl<'t> Unverified<'t> {
    /// Reads a token in compact form without trusting it.
    ///
    /// # Errors
    /// The token does not have three segments of strict base64url with a JSON object in the first two; a member occurs
    /// twice; the header has a critical extension or an algorithm that is never accepted; the kind of JWT gives no
    /// access.
    pub fn inspect(token: &'t [u8]) -> Result<Self, TokenError> {
        let unverified = Self::read(token)?;
        if unverified.header.kind == HeaderType::Logout {
            return Err(TokenError::Type);
        }
        Ok(unverified)
    }

    /// As [`Self::inspect`], for a token that ends sessions and gives no access
    /// (OIDC Back-Channel Logout section 2.4).
    ///
    /// # Errors
    /// As [`Self::inspect`], or the token says that it is an access token.
    pub fn inspect_logout(token: &'t [u8]) -> Result<Self, TokenError> {
        let unverified = Self::read(token)?;
        if unverified.header.kind == HeaderType::Access {
            return Err(TokenError::Type);
        }
        Ok(unverified)
    }

    fn read(token: &'t [u8]) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Oversized);
        }
        let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
        // Five segments are an encrypted token (RFC 7516 section 7.1).
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if token.bytes().all(plain) && token.split('.').count() == 5 {
            return Err(TokenError::Encrypted);
        }
        let mut segments = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(TokenError::Malformed);
        };
        let decode = |segment| URL_SAFE_NO_PAD.decode(segment).map_err(|_| TokenError::Malformed);
        let header = decode(header)?;
        // Real headers are short. The limit keeps certificates and keys out, which a header may contain.
        if header.len() > MAX_HEADER {
            return Err(TokenError::Oversized);
        }
        let header = json::object(&header).map_err(|_| TokenError::Malformed)?;
        let header = Header::read(&header)?;
        // An empty signature is what "alg": "none" has; it must not even reach a verifier.
        if decode(signature)?.is_empty() {
            return Err(TokenError::Malformed);
        }
        let claims = json::object(&decode(payload)?).map_err(|_| TokenError::Malformed)?;
        Ok(Self { token, header, claims })
    }

    /// The claims, not verified.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The key id of the header.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.header.key_id.as_deref()
    }

    /// The issuer the token claims to be from.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Whether the token can have been issued together with this access token, by its `at_hash` if it has one.
    #[must_use]
    pub fn fits_access_token(&self, access_token: Option<&str>) -> bool {
        let claim = self.claims.get("at_hash");
        claim.is_none_or(|claim| at_hash::fits(claim, self.header.algorithm, access_token))
    }

    /// Verifies the token against the issuer that it names. It costs at most one check of a signature.
    ///
    /// # Errors
    /// The first check that fails: algorithm, key, signature, then claims.
    pub fn verify(
        &self,
        profile: &Profile,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<Identity, VerifyError> {
        self.verify_signature(profile, keys)?;
        Ok(self.identity(profile, &self.claims, now)?)
    }

    /// Checks issuer, kind, audience and time. The signature must have been verified.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_claims(&self, profile: &Profile, now: Timestamp) -> Result<(), TokenError> {
        claims::check(profile, &self.claims, self.is_typed_access(), now)
    }

    /// The identity by `claims`: those of this token, perhaps with what its issuer says elsewhere. The signature must have
    /// been verified.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn identity(
        &self,
        profile: &Profile,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Identity, TokenError> {
        claims::identity(profile, claims, self.is_typed_access(), now)
    }

    /// Why the token is not for one of the audiences of `profile`, for messages; `None` if it is.
    #[must_use]
    pub fn audience_error(&self, profile: &Profile) -> Option<AudienceError> {
        let kind = TokenKind::of(&self.claims, self.is_typed_access()).ok()?;
        audience::check(profile, &self.claims, kind).err()
    }

    /// Whether the token shows that it is an ID token.
    #[must_use]
    pub fn is_marked_as_id(&self) -> bool {
        TokenKind::of(&self.claims, self.is_typed_access()) == Ok(TokenKind::Id)
    }

    fn is_typed_access(&self) -> bool {
        self.header.kind == HeaderType::Access
    }

    /// Verifies the signature alone.
    ///
    /// # Errors
    /// The first check that fails: algorithm, key, signature.
    pub fn verify_signature(&self, profile: &Profile, keys: &KeySet) -> Result<(), VerifyError> {
        let algorithm = self.header.algorithm;
        // The header only proposes an algorithm: configuration and key must both allow it (RFC 8725 section 3.1).
        if !profile.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm.into());
        }
        let key =
            keys.select(self.header.key_id.as_deref(), algorithm).map_err(|miss| match miss {
                KeyMiss::Unknown => VerifyError::UnknownKey,
                KeyMiss::Algorithm => TokenError::Algorithm.into(),
                KeyMiss::Ambiguous => TokenError::Key.into(),
            })?;
        if !self.is_issuer_of(profile, key) {
            return Err(TokenError::Key.into());
        }
        Ok(self.check_signature(key)?)
    }

    /// Whether the key may verify tokens of the token's tenant. Where one key set serves many tenants, each key names its
    /// issuer, and the key of one tenant must not verify tokens of another.
    fn is_issuer_of(&self, profile: &Profile, key: &Key) -> bool {
        let tenant = self.issuer().and_then(|iss| profile.accepts(iss)?.tenant.as_deref());
        match (tenant, &key.issuer) {
            (Some(tenant), Some(issuer)) => {
                let issuer = issuer.replace(TENANT, tenant);
                profile.accepts(&issuer).is_some_and(|a| a.tenant.as_deref() == Some(tenant))
            }
            _ => true,
        }
    }

    /// Checks the signature over everything before the last dot (RFC 7515 section 5.2). Only this is left to jsonwebtoken:
    /// its check of claims accepts a token without an audience, and one whose issuer is a list.
    fn check_signature(&self, key: &Key) -> Result<(), TokenError> {
        let (message, signature) = self.token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let fits = jsonwebtoken::crypto::verify(
            signature,
            message.as_bytes(),
            &key.decoding,
            self.header.algorithm,
        );
        if matches!(fits, Ok(true)) { Ok(()) } else { Err(TokenError::Signature) }
    }
}

impl Header {
    fn read(header: &Map<String, Value>) -> Result<Self, TokenError> {
        // No extension is understood, so none can be critical (RFC 7515 section 4.1.11).
        if header.contains_key("crit") {
            return Err(TokenError::Algorithm);
        }
        // Tokens for Microsoft Graph are signed over a header in which the nonce is hashed: only Graph can verify them.
        if header.contains_key("nonce") {
            return Err(TokenError::Graph);
        }
        let name = header.get("alg").and_then(Value::as_str).ok_or(TokenError::Malformed)?;
        let algorithm = algorithm(name).ok_or(TokenError::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            // A number or a list is not an id; to guess would be to choose a key.
            Some(_) => return Err(TokenError::Malformed),
        };
        let kind = match header.get("typ") {
            None => HeaderType::Plain,
            Some(Value::String(kind)) => {
                let kind = kind.to_ascii_lowercase();
                match kind.strip_prefix("application/").unwrap_or(&kind) {
                    "at+jwt" => HeaderType::Access,
                    "logout+jwt" => HeaderType::Logout,
                    "jwt" => HeaderType::Plain,
                    _ => return Err(TokenError::Type),
                }
            }
            Some(_) => return Err(TokenError::Malformed),
        };
        Ok(Self { algorithm, key_id, kind })
    }
}
