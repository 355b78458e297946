//! Logout tokens: a provider says that somebody's session there has ended (OIDC Back-Channel Logout 1.0).

use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    clock::Timestamp,
    identity::{
        Refusal,
        jwt::{Unverified, VerifyError},
        keys::KeySet,
        profile::Profile,
    },
};

/// The event that makes a JWT a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// How old a token may be, in seconds; also how long its id is remembered.
const MAX_AGE: f64 = 300.0;

/// Whose sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The issuer's identifier.
    pub issuer: Box<str>,
    /// Everything of this subject, unless there is a session.
    pub subject: Option<Box<str>>,
    /// The session at the issuer.
    pub session: Option<Box<str>>,
    /// The token's own id: it counts once.
    pub id: Box<str>,
}

/// Why a logout token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogoutError {
    /// As for any other token.
    #[error("{0}")]
    Token(Refusal),
    /// Signed by a key that is not known here.
    #[error("the token is signed by a key that its issuer does not publish")]
    UnknownKey,
    /// Not the claims of a logout token.
    #[error("the claim '{0}' is missing, of the wrong type, or must not be there")]
    Claim(&'static str),
}

impl From<Refusal> for LogoutError {
    fn from(refusal: Refusal) -> Self {
        Self::Token(refusal)
    }
}

/// Reads a logout token for one of the audiences of `profile`, whose issuer has `keys`.
///
/// # Errors
/// See [`LogoutError`]. Everything in section 2.6 is checked but whether the token was used before.
pub fn read(
    token: &str,
    profile: &Profile,
    keys: &KeySet,
    now: Timestamp,
) -> Result<Ended, LogoutError> {
    let unverified = Unverified::inspect_logout(token.as_bytes())?;
    unverified.verify_signature(profile, keys).map_err(|error| match error {
        VerifyError::Refused(refusal) => LogoutError::Token(refusal),
        VerifyError::UnknownKey => LogoutError::UnknownKey,
    })?;
    let claims = unverified.claims();
    let issuer = text(claims, "iss").ok_or(LogoutError::Claim("iss"))?;
    if profile.accepts(issuer).is_none() {
        return Err(Refusal::Issuer.into());
    }
    let audience = match claims.get("aud") {
        Some(Value::String(audience)) => vec![audience.as_str()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => return Err(LogoutError::Claim("aud")),
    };
    if !audience.iter().any(|audience| profile.audience.iter().any(|ours| ours == audience)) {
        return Err(Refusal::Audience.into());
    }
    let seconds = Duration::from_millis(now.as_millis()).as_secs_f64();
    let leeway = profile.leeway.as_secs_f64();
    let made = number(claims, "iat").ok_or(LogoutError::Claim("iat"))?;
    if made > seconds + leeway {
        return Err(Refusal::NotYetValid.into());
    }
    let expired = match claims.get("exp") {
        None => false,
        Some(_) => number(claims, "exp").ok_or(LogoutError::Claim("exp"))? + leeway <= seconds,
    };
    if expired || made + MAX_AGE + leeway < seconds {
        return Err(Refusal::Expired.into());
    }
    let event = claims.get("events").and_then(|events| events.get(EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(LogoutError::Claim("events"));
    }
    // An ID token must never end a session.
    if claims.contains_key("nonce") {
        return Err(LogoutError::Claim("nonce"));
    }
    let (subject, session) = (text(claims, "sub"), text(claims, "sid"));
    if subject.is_none() && session.is_none() {
        return Err(LogoutError::Claim("sub"));
    }
    Ok(Ended {
        issuer: issuer.into(),
        subject: subject.map(Into::into),
        session: session.map(Into::into),
        id: text(claims, "jti").ok_or(LogoutError::Claim("jti"))?.into(),
    })
}

fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c str> {
    claims.get(name)?.as_str().filter(|text| !text.is_empty() && text.len() <= 255)
}

fn number(claims: &Map<String, Value>, name: &str) -> Option<f64> {
    claims.get(name)?.as_f64().filter(|number| number.is_finite())
}
