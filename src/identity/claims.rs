//! Reads an [`Identity`] from the claims of a token whose signature was checked.
//!
//! Every claim that decides something (`iss`, `aud`, `exp`, the subject, the kind of the token, what the configuration
//! requires) must be there in its proper type, or the token is refused. Claims that only describe the person are left
//! out where they are not proper text. The same rules hold for JWTs, for responses of introspection, and at sign-in.
//!
//! The invariant: no text of an identity has control characters, and an e-mail address is there only if the issuer
//! vouches for it, as the configuration says ([`EmailVouching`](super::profile::EmailVouching)).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    Identity, TokenError, TokenIds, audience,
    groups::JoinedGroups,
    profile::{ClaimPath, GroupNames, GroupRule, Profile},
    token_kind::TokenKind,
};
use crate::time::Timestamp;

/// The longest subject in bytes (OIDC Core section 2).
pub const MAX_SUBJECT: usize = 255;
/// The longest e-mail address, login name, group or organization in bytes.
pub const MAX_TEXT: usize = 320;
/// 9999-12-31T23:59:59Z: a `NumericDate` beyond it is a mistake, not a date.
const MAX_DATE: f64 = 253_402_300_799.0;

/// What is known of a token whose issuer, kind, audience and time were checked.
struct Checked<'c> {
    issuer: &'c str,
    expires: Timestamp,
}

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
    let Checked { issuer, expires } = checked(profile, claims, typed_access, now)?;
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
        email: email(profile, claims),
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

/// Checks who issued a token, of which kind it is, for whom, and that it is valid now.
///
/// # Errors
/// The first claim that is missing, has the wrong type, or makes the token invalid.
pub(super) fn check(
    profile: &Profile,
    claims: &Map<String, Value>,
    typed_access: bool,
    now: Timestamp,
) -> Result<(), TokenError> {
    checked(profile, claims, typed_access, now).map(|_| ())
}

fn checked<'c>(
    profile: &Profile,
    claims: &'c Map<String, Value>,
    typed_access: bool,
    now: Timestamp,
) -> Result<Checked<'c>, TokenError> {
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::Claims)?;
    let accepted = profile.accepts(issuer).ok_or(TokenError::Issuer)?;
    if let Some(tenant) = &accepted.tenant
        && claims.get("tid").and_then(Value::as_str) != Some(tenant)
    {
        return Err(TokenError::Tenant);
    }
    let kind = TokenKind::of(claims, typed_access)?;
    kind.check(profile.tokens)?;
    audience::check(profile, claims, kind)?;
    let expires = check_time(profile, claims, now)?;
    Ok(Checked { issuer, expires })
}

/// The e-mail address, if the issuer vouches for it.
fn email(profile: &Profile, claims: &Map<String, Value>) -> Option<Box<str>> {
    let email = text(claims, &profile.claims.email)?;
    // ASCII letters only: other characters would become ASCII in lower case (U+212A, the Kelvin sign, becomes "k"), and
    // so another person's address.
    profile.email.standing(claims, email).is_used().then(|| email.to_ascii_lowercase().into())
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
pub(super) fn has_overage(claims: &Map<String, Value>) -> bool {
    let named = claims.get("_claim_names").and_then(Value::as_object);
    claims.get("hasgroups") == Some(&Value::Bool(true))
        || named.is_some_and(|names| names.contains_key("groups"))
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

/// The groups of a claim: a list of texts, or one text, which is one group whatever it contains; or the keys of an object,
/// where the configuration says so. A claim of any other type gives no groups; a list with anything other than text gives
/// none either.
fn groups(claims: &Map<String, Value>, rule: &GroupRule) -> Vec<Box<str>> {
    let named = |name: &str| {
        let name = name.strip_prefix(&*rule.strip).unwrap_or(name);
        let name = format!("{}{name}", rule.prefix);
        is_clean(&name).then(|| name.into())
    };
    match (rule.claim.find(claims), rule.names) {
        (Some(Value::Array(several)), GroupNames::Values)
            if several.iter().all(Value::is_string) =>
        {
            several.iter().filter_map(|value| named(value.as_str()?)).collect()
        }
        (Some(Value::String(single)), GroupNames::Values) => named(single).into_iter().collect(),
        (Some(Value::Object(members)), GroupNames::Keys) => {
            members.keys().filter_map(|name| named(name)).collect()
        }
        _ => Vec::new(),
    }
}
