//! From the claims of a token whose signature fits to an [`Identity`].

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    Identity, Refusal,
    profile::{ClaimPath, Profile},
};
use crate::clock::Timestamp;

/// The longest subject in bytes (OIDC Core section 2).
pub const MAX_SUBJECT: usize = 255;
/// The longest e-mail address, login name, group or organization in bytes.
const MAX_TEXT: usize = 320;
/// The longest list of groups for headers, in bytes; HAProxy's buffers are 16 KiB for everything.
const MAX_GROUPS_JOINED: usize = 4096;
/// 9999-12-31T23:59:59Z: a `NumericDate` beyond it is a mistake, not a date.
const MAX_DATE: f64 = 253_402_300_799.0;

/// Checks the claims and reads the identity from them.
///
/// # Errors
/// The first claim that is missing, of the wrong type, or speaks against the token.
pub fn identity(
    profile: &Arc<Profile>,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<Identity, Refusal> {
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Refusal::Claims)?;
    if issuer != profile.issuer.as_str() {
        return Err(Refusal::Issuer);
    }
    check_audience(profile, claims.get("aud"))?;
    let expires = check_time(profile, claims, now)?;
    // A token bound to a key is worth nothing without the proof (RFC 7800 section 3.1).
    if claims.contains_key("cnf") {
        return Err(Refusal::Bound);
    }
    // A logout token tells of a sign-out; its `events` claim tells it from others
    // (OIDC Back-Channel Logout section 2.4).
    if claims.contains_key("events") {
        return Err(Refusal::Type);
    }
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(Refusal::Claims)?;
    if subject.is_empty()
        || subject.len() > MAX_SUBJECT
        || !subject.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    {
        return Err(Refusal::Claims);
    }
    let paths = &profile.claims;
    let verified = claims.get("email_verified") == Some(&Value::Bool(true));
    let email = text(claims, &paths.email).filter(|_| verified).map(|e| e.to_lowercase().into());
    let groups = groups(claims, &paths.groups);
    let organization = match &paths.organization {
        Some(path) => text(claims, path).map(Into::into),
        None => profile.organization.clone(),
    };
    Ok(Identity {
        issuer: Arc::clone(profile),
        subject: subject.into(),
        email,
        username: text(claims, &paths.username).map(Into::into),
        groups_joined: join(&groups),
        groups,
        organization,
        expires,
    })
}

fn check_audience(profile: &Profile, audience: Option<&Value>) -> Result<(), Refusal> {
    let meant =
        |value: &Value| value.as_str().is_some_and(|a| profile.audience.iter().any(|b| a == b));
    match audience {
        Some(one @ Value::String(_)) if meant(one) => Ok(()),
        Some(Value::Array(several)) if !several.iter().all(Value::is_string) => {
            Err(Refusal::Claims)
        }
        Some(Value::Array(several)) if several.iter().any(meant) => Ok(()),
        Some(Value::String(_) | Value::Array(_)) => Err(Refusal::Audience),
        _ => Err(Refusal::Claims),
    }
}

/// Checks `exp`, `nbf` and `iat`; returns when the token ends, leeway included.
fn check_time(
    profile: &Profile,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<Timestamp, Refusal> {
    let expires = date(claims, "exp")?.ok_or(Refusal::Claims)?.plus(profile.leeway);
    if now >= expires {
        return Err(Refusal::Expired);
    }
    for claim in ["nbf", "iat"] {
        if date(claims, claim)?.is_some_and(|at| at > now.plus(profile.leeway)) {
            return Err(Refusal::NotYetValid);
        }
    }
    Ok(expires)
}

/// A `NumericDate` (RFC 7519 section 2): a number, never text.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or(Refusal::Claims)?;
    if !(0.0..=MAX_DATE).contains(&seconds) {
        return Err(Refusal::Claims);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let millis = (seconds * 1000.0) as u64;
    Ok(Some(Timestamp::from_millis(millis)))
}

/// Text that may stand in headers and logs; anything else counts as absent.
fn text<'c>(claims: &'c Map<String, Value>, path: &ClaimPath) -> Option<&'c str> {
    path.find(claims)?.as_str().filter(|text| is_clean(text))
}

fn is_clean(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

/// The groups: a list of texts, or one text, which is one group whatever it contains. A claim of any
/// other type is no group at all (never part of one).
fn groups(claims: &Map<String, Value>, path: &ClaimPath) -> Vec<Box<str>> {
    let one = |value: &Value| value.as_str().filter(|text| is_clean(text)).map(Box::from);
    match path.find(claims) {
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => {
            several.iter().filter_map(one).collect()
        }
        Some(single @ Value::String(_)) => one(single).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The groups in one header value. A group with a comma would read as two, so it is left out.
fn join(groups: &[Box<str>]) -> Box<str> {
    let mut joined = String::new();
    for group in groups.iter().filter(|group| !group.contains(',')) {
        if joined.len() + group.len() >= MAX_GROUPS_JOINED {
            break;
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(group);
    }
    joined.into()
}
