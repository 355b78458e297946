//! Logout tokens, by which a provider says that a person's session there has ended (OIDC Back-Channel Logout 1.0).
//!
//! [`read`] verifies a token with the provider's keys and says whose sessions must end. Whether the token was used
//! before is up to the caller, as is ending the sessions.

use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    identity::{
        Identity, TokenError, TokenIds,
        jwt::{Unverified, VerifyError},
        keys::KeySet,
        profile::Profile,
    },
    time::Timestamp,
};

/// The event that makes a JWT a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// How old a token may be, in seconds.
const MAX_AGE: f64 = 300.0;

/// Whose sessions must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The issuer's identifier.
    pub issuer: Box<str>,
    /// The subject, all of whose sessions end if the token names no session.
    pub subject: Option<Box<str>>,
    /// The session at the issuer.
    pub session: Option<Box<str>>,
    /// The token's own id, which makes it valid once.
    pub id: Box<str>,
}

impl Ended {
    /// Whether it names the session of this identity (section 2.7). If both have the issuer's session id, that decides.
    /// Otherwise the person does, by the `sub` of the ID token, even if another claim is configured as the subject.
    #[must_use]
    pub fn names(&self, identity: &Identity) -> bool {
        let TokenIds { session, sub, .. } = &identity.token;
        let is_theirs = || {
            let sub = sub.as_ref().unwrap_or(&identity.subject);
            self.subject.as_ref() == Some(sub)
        };
        identity.issuer == self.issuer
            && match (&self.session, session) {
                (Some(ended), Some(session)) => ended == session,
                _ => is_theirs(),
            }
    }
}

/// Why a logout token is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogoutError {
    /// For a reason that any token can have.
    #[error("{0}")]
    Token(TokenError),
    /// It is signed with a key that the issuer does not publish.
    #[error("the token is signed by a key that its issuer does not publish")]
    UnknownKey,
    /// Its claims are not those of a logout token.
    #[error("the claim '{0}' is missing, of the wrong type, or must not be there")]
    Claim(&'static str),
}

impl From<TokenError> for LogoutError {
    fn from(refusal: TokenError) -> Self {
        Self::Token(refusal)
    }
}

/// Verifies a logout token for one of the audiences of `profile`, whose issuer has `keys`: everything in section 2.6 except
/// whether the token was used before.
///
/// # Errors
/// See [`LogoutError`].
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
        return Err(TokenError::Issuer.into());
    }
    let audience = match claims.get("aud") {
        Some(Value::String(audience)) => vec![audience.as_str()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => return Err(LogoutError::Claim("aud")),
    };
    if !audience.iter().any(|audience| profile.audience.iter().any(|ours| ours == audience)) {
        return Err(TokenError::Audience.into());
    }
    let seconds = Duration::from_millis(now.as_millis()).as_secs_f64();
    let leeway = profile.leeway.as_secs_f64();
    let made = number(claims, "iat").ok_or(LogoutError::Claim("iat"))?;
    if made > seconds + leeway {
        return Err(TokenError::NotYetValid.into());
    }
    let expired = match claims.get("exp") {
        None => false,
        Some(_) => number(claims, "exp").ok_or(LogoutError::Claim("exp"))? + leeway <= seconds,
    };
    if expired || made + MAX_AGE + leeway < seconds {
        return Err(TokenError::Expired.into());
    }
    let event = claims.get("events").and_then(|events| events.get(EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(LogoutError::Claim("events"));
    }
    // An ID token has a nonce, and must never be taken for a logout token.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Authority;

    fn identity(sub: Option<&str>, sid: Option<&str>) -> Identity {
        let authority = Authority::new("corp", "https://corp", vec![]);
        let text = |text: Option<&str>| text.map(Box::from);
        let token = TokenIds { session: text(sid), sub: text(sub), ..TokenIds::default() };
        Identity { token, ..Identity::plain(Arc::new(authority), "https://corp", "object-id") }
    }

    fn ended(subject: Option<&str>, session: Option<&str>) -> Ended {
        let text = |text: Option<&str>| text.map(Box::from);
        let (subject, session) = (text(subject), text(session));
        Ended { issuer: "https://corp".into(), subject, session, id: "1".into() }
    }

    #[test]
    fn s8_a_person_is_named_by_the_sub_of_the_id_token_whatever_the_subject_is() {
        let mine = identity(Some("pairwise"), None);
        assert!(ended(Some("pairwise"), None).names(&mine));
        assert!(!ended(Some("object-id"), None).names(&mine), "the provider calls another so");
        assert!(!ended(Some("else"), None).names(&mine));
        // Where `sub` is our subject.
        assert!(ended(Some("object-id"), None).names(&identity(None, None)));
        assert!(!ended(None, None).names(&identity(None, None)));
        let elsewhere = Ended { issuer: "https://else".into(), ..ended(Some("pairwise"), None) };
        assert!(!elsewhere.names(&mine));
    }

    #[test]
    fn s8_the_session_at_the_issuer_decides_where_both_have_one() {
        let mine = identity(Some("pairwise"), Some("s-1"));
        for (subject, session, named) in [
            (None, Some("s-1"), true),
            (Some("pairwise"), Some("s-1"), true),
            (Some("pairwise"), Some("s-2"), false),
            (Some("pairwise"), None, true),
            (None, Some("s-2"), false),
        ] {
            assert_eq!(ended(subject, session).names(&mine), named, "{subject:?} {session:?}");
        }
        // A session that does not know its own is ended with all of the person's.
        let unknown = identity(Some("pairwise"), None);
        assert!(ended(Some("pairwise"), Some("s-2")).names(&unknown));
        assert!(!ended(None, Some("s-2")).names(&unknown));
    }
}
