//! Reads an [`Identity`] from the claims of a token whose signature was checked.
//!
//! Every claim that decides something (`iss`, `aud`, `exp`, the subject, the kind of the token, what the configuration
//! requires) must be there in its proper type, or the token is refused. Claims that only describe the person are left
//! out where they are not proper text. The same rules hold for JWTs, for responses of introspection, and at sign-in.
//!
//! The invariant: no text of an identity has control characters, and an e-mail address is there only if the issuer says
//! that it is verified.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    Identity, TokenError, TokenIds,
    groups::JoinedGroups,
    profile::{ClaimPath, GroupRule, Profile, TokenKinds},
};
use crate::time::Timestamp;

/// The longest subject in bytes (OIDC Core section 2).
pub const MAX_SUBJECT: usize = 255;
/// The longest e-mail address, login name, group or organization in bytes.
const MAX_TEXT: usize = 320;
/// 9999-12-31T23:59:59Z: a `NumericDate` beyond it is a mistake, not a date.
const MAX_DATE: f64 = 253_402_300_799.0;

/// Checks the claims and reads the identity from them. `typed_access` says whether the header calls the token an access
/// token.
///
/// # Errors
/// The first claim that is missing, has the wrong type, or makes the token invalid.
pub fn identity(
    profile: &Profile,
    claims: &Map<String, Value>,
    typed_access: bool,
    now: Timestamp,
) -> Result<Identity, TokenError> {
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::Claims)?;
    let accepted = profile.accepts(issuer).ok_or(TokenError::Issuer)?;
    if let Some(tenant) = &accepted.tenant
        && claims.get("tid").and_then(Value::as_str) != Some(tenant)
    {
        return Err(TokenError::Tenant);
    }
    let kind = kind(claims, typed_access)?;
    check_kind(profile.tokens, kind)?;
    check_audience(profile, claims, kind)?;
    let expires = check_time(profile, claims, now)?;
    let bound_to = confirmation(claims)?;
    let paths = &profile.claims;
    let subject = paths.subject.find(claims).and_then(Value::as_str).ok_or(TokenError::Claims)?;
    if subject.is_empty()
        || subject.len() > MAX_SUBJECT
        || !subject.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    {
        return Err(TokenError::Claims);
    }
    if !profile.require.iter().all(|requirement| requirement.is_met(claims)) {
        return Err(TokenError::Requirement);
    }
    let verified = claims.get("email_verified") == Some(&Value::Bool(true));
    // ASCII letters only: other characters would become ASCII in lower case (U+212A, the Kelvin sign, becomes "k"), and
    // so another person's address.
    let email = text(claims, &paths.email).filter(|_| verified);
    let email = email.map(|email| email.to_ascii_lowercase().into());
    let groups: Vec<_> = paths.groups.iter().flat_map(|rule| groups(claims, rule)).collect();
    let organization = match &paths.organization {
        Some(path) => text(claims, path).map(Into::into),
        None => profile.organization.clone(),
    };
    let named = |name| text(claims, &ClaimPath::named(name)).map(Box::from);
    Ok(Identity {
        authority: Arc::clone(&profile.authority),
        issuer: issuer.into(),
        subject: subject.into(),
        email,
        username: text(claims, &paths.username).map(Into::into),
        groups_joined: JoinedGroups::new(&groups),
        groups,
        groups_overage: has_overage(claims),
        organization,
        token: TokenIds {
            id: named("jti"),
            session: named("sid"),
            sub: named("sub").filter(|sub| **sub != *subject),
            issued: date(claims, "iat")?,
        },
        bound_to,
        expires,
    })
}

/// The kind of a token, as far as its header and claims show it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    TypedAccess,
    Access,
    Id,
}

/// The kind of a token. An issuer signs several kinds with the same key, and only some of them give access (RFC 8725
/// section 3.12).
fn kind(claims: &Map<String, Value>, typed_access: bool) -> Result<TokenKind, TokenError> {
    // Only a logout token has `events` (OIDC Back-Channel Logout section 2.4).
    if claims.contains_key("events") {
        return Err(TokenError::Type);
    }
    // Keycloak and Amazon Cognito write the kind into a claim.
    let said = match (claims.get("typ"), claims.get("token_use")) {
        (None, None) => None,
        (Some(Value::String(kind)), None) | (None, Some(Value::String(kind))) => {
            match kind.to_ascii_lowercase().as_str() {
                "bearer" | "access" | "at+jwt" => Some(TokenKind::Access),
                "id" => Some(TokenKind::Id),
                "jwt" => None,
                // Refresh, Offline, Logout, and kinds that do not exist yet.
                _ => return Err(TokenError::Type),
            }
        }
        _ => return Err(TokenError::Type),
    };
    // Only ID tokens have these claims (OIDC Core sections 2 and 3.3.2.11).
    let marked = ["nonce", "at_hash", "c_hash", "s_hash"].iter().any(|m| claims.contains_key(*m));
    match (typed_access, said) {
        (true, Some(TokenKind::Id)) => Err(TokenError::Type),
        (true, _) => Ok(TokenKind::TypedAccess),
        (false, Some(kind)) => Ok(kind),
        (false, None) if marked => Ok(TokenKind::Id),
        (false, None) => Ok(TokenKind::Access),
    }
}

fn check_kind(accepted: TokenKinds, kind: TokenKind) -> Result<(), TokenError> {
    let counts = match kind {
        TokenKind::TypedAccess => accepted.typed_access || accepted.access,
        // An ID token may have nothing that shows its kind. Where only ID tokens are accepted, it is taken for one.
        TokenKind::Access => accepted.access || (accepted.id && !accepted.typed_access),
        TokenKind::Id => accepted.id,
    };
    if counts { Ok(()) } else { Err(TokenError::Type) }
}

/// The certificate that the token is bound to, if it is bound (RFC 8705 section 3.1). A token that is bound to anything
/// else needs a proof that the agent cannot check (RFC 7800 section 3.1, RFC 9449 section 6).
fn confirmation(claims: &Map<String, Value>) -> Result<Option<[u8; 32]>, TokenError> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let members = confirmation.as_object().ok_or(TokenError::Bound)?;
    let thumbprint = members.get("x5t#S256").and_then(Value::as_str).ok_or(TokenError::Bound)?;
    if members.len() != 1 {
        return Err(TokenError::Bound);
    }
    let bytes = URL_SAFE_NO_PAD.decode(thumbprint).map_err(|_| TokenError::Bound)?;
    bytes.try_into().map(Some).map_err(|_| TokenError::Bound)
}

/// Whether the issuer left the groups out. Entra does so when there are too many, and names an address where they can be
/// fetched; the agent never follows that address.
fn has_overage(claims: &Map<String, Value>) -> bool {
    let named = claims.get("_claim_names").and_then(Value::as_object);
    claims.get("hasgroups") == Some(&Value::Bool(true))
        || named.is_some_and(|names| names.contains_key("groups"))
}

/// Checks the audience. An access token must name one of the configured audiences and may name others. An ID token must
/// name configured ones only, and `azp` must be one of them (OIDC Core section 3.1.3.7, steps 3 to 5).
fn check_audience(
    profile: &Profile,
    claims: &Map<String, Value>,
    kind: TokenKind,
) -> Result<(), TokenError> {
    let is_ours =
        |value: &Value| value.as_str().is_some_and(|a| profile.audience.iter().any(|b| a == b));
    if kind == TokenKind::Id {
        let several = claims.get("aud").and_then(Value::as_array);
        let party = claims.get("azp");
        if several.is_some_and(|several| !several.iter().all(is_ours))
            || party.is_some_and(|party| !is_ours(party))
            || (several.is_some_and(|several| several.len() > 1) && party.is_none())
        {
            return Err(TokenError::Audience);
        }
    }
    match claims.get("aud") {
        Some(one @ Value::String(_)) if is_ours(one) => Ok(()),
        Some(Value::Array(several)) if !several.iter().all(Value::is_string) => {
            Err(TokenError::Claims)
        }
        Some(Value::Array(several)) if several.iter().any(is_ours) => Ok(()),
        Some(Value::String(_) | Value::Array(_)) => Err(TokenError::Audience),
        _ => Err(TokenError::Claims),
    }
}

/// Checks `exp`, `nbf` and `iat`, and returns when the token ends, with the leeway included.
fn check_time(
    profile: &Profile,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<Timestamp, TokenError> {
    let expires = date(claims, "exp")?.ok_or(TokenError::Claims)?.plus(profile.leeway);
    if now >= expires {
        return Err(TokenError::Expired);
    }
    for claim in ["nbf", "iat"] {
        if date(claims, claim)?.is_some_and(|at| at > now.plus(profile.leeway)) {
            return Err(TokenError::NotYetValid);
        }
    }
    let Some(max_age) = profile.max_age else { return Ok(expires) };
    // A token without `iat` has no known age, so it cannot prove that it is young enough.
    let oldest = date(claims, "iat")?.ok_or(TokenError::Claims)?.plus(max_age).plus(profile.leeway);
    if now >= oldest {
        return Err(TokenError::Expired);
    }
    Ok(expires.min(oldest))
}

/// A claim that is a `NumericDate` (RFC 7519 section 2): a number, never text.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or(TokenError::Claims)?;
    if !(0.0..=MAX_DATE).contains(&seconds) {
        return Err(TokenError::Claims);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let millis = (seconds * 1000.0) as u64;
    Ok(Some(Timestamp::from_millis(millis)))
}

/// A claim that is text and may stand in headers and logs; `None` for anything else.
fn text<'c>(claims: &'c Map<String, Value>, path: &ClaimPath) -> Option<&'c str> {
    path.find(claims)?.as_str().filter(|text| is_clean(text))
}

fn is_clean(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

/// The groups of a claim: a list of texts, or one text, which is one group whatever it contains. A claim of any other
/// type gives no groups; a list with anything other than text gives none either.
fn groups(claims: &Map<String, Value>, rule: &GroupRule) -> Vec<Box<str>> {
    let one = |value: &Value| {
        let name = value.as_str()?;
        let name = name.strip_prefix(&*rule.strip).unwrap_or(name);
        let name = format!("{}{name}", rule.prefix);
        is_clean(&name).then(|| name.into())
    };
    match rule.claim.find(claims) {
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => {
            several.iter().filter_map(one).collect()
        }
        Some(single @ Value::String(_)) => one(single).into_iter().collect(),
        _ => Vec::new(),
    }
}
