//! Findings about a token: its issuer and audience, and whether it is accepted or why not.
//!
//! Only claims are shown, as quoted text. No part of the token itself is, since anyone who reads it could use it.

use serde_json::Value;

use super::{Finding, quoted};
use crate::{
    identity::{
        Authentication, Identity, TokenError,
        issuers::{Issuers, Outcome},
        jwt::Unverified,
        pending::Waiting,
        profile::{MatchBy, Profile},
    },
    time::Timestamp,
};

/// The findings about a token; the keys of its issuer must have been fetched.
pub(super) fn judge(issuers: &Issuers, token: &[u8], now: Timestamp) -> Vec<Finding> {
    let token = token.strip_prefix(b"Bearer ").unwrap_or(token);
    let unverified = match Unverified::inspect(token) {
        Ok(unverified) => unverified,
        Err(error) => return vec![unread(error)],
    };
    let mut findings = vec![claims(&unverified)];
    let profile = issuers.profiles().find(|profile| {
        unverified.issuer().is_some_and(|issuer| profile.accepts(issuer).is_some())
    });
    let Some(profile) = profile else {
        findings.push(unknown_issuer(&unverified, issuers));
        return findings;
    };
    match issuers.authenticate(token, None, now, Waiting::Never) {
        Outcome::Settled(Authentication::Known(identity)) => {
            findings.extend(known(profile, &identity));
        }
        Outcome::Settled(Authentication::Refused(error)) => {
            findings.push(refused(profile, &unverified, error, now));
        }
        _ => findings.push(Finding::fail(
            "the keys of its issuer could not be fetched",
            "see the findings about the issuer above",
        )),
    }
    findings
}

/// A text that cannot be read as a token at all.
fn unread(error: TokenError) -> Finding {
    let advice = match error {
        TokenError::Encrypted => {
            "Auth0 encrypts tokens that were asked for without an audience: ask with one"
        }
        TokenError::Malformed => {
            "it is not a JWT: with Auth0 ask for it with an audience; an opaque one needs [issuer.introspection], and 'explain' asks about it"
        }
        TokenError::Graph => {
            "ask Entra for a token for your own application (scope <application id URI>/.default)"
        }
        TokenError::Algorithm => "let the provider sign with RS256 or ES256",
        TokenError::Type => "send the access token, not a logout token or proof",
        _ => "send the token as the provider gave it",
    };
    Finding::fail(format!("{}: {error}", error.id()), advice)
}

/// What the token says about itself, before it is verified.
fn claims(token: &Unverified<'_>) -> Finding {
    let claim = |name: &str| match token.claims().get(name) {
        None => "absent".to_owned(),
        Some(Value::String(text)) => quoted(text),
        Some(other) => quoted(&other.to_string()),
    };
    let key = token.key_id().map_or_else(|| "absent".to_owned(), quoted);
    Finding::ok(format!("iss {}, aud {}, key id {key}", claim("iss"), claim("aud")))
}

/// A token of an issuer that is not configured, with the likely reason.
fn unknown_issuer(token: &Unverified<'_>, issuers: &Issuers) -> Finding {
    let found = token.issuer().unwrap_or_default();
    let same = |one: &str| one.trim_end_matches('/') == found.trim_end_matches('/');
    let advice = if found.starts_with("https://sts.windows.net/") {
        "a version 1 token of Entra: set \"requestedAccessTokenVersion\": 2 in the manifest, or add also_issuers = [\"https://sts.windows.net/{tenantid}/\"]".to_owned()
    } else if found.starts_with("https://login.microsoftonline.com/") {
        "a token of another tenant: add its id to 'tenants' if its people may have access"
            .to_owned()
    } else if let Some(profile) = issuers.profiles().find(|p| same(p.issuer.as_str())) {
        let name = &profile.authority.name;
        format!(
            "only a slash at the end differs from the issuer '{name}': both must be exactly equal"
        )
    } else {
        "configure it as an [[issuer]] if its tokens are to be accepted".to_owned()
    };
    Finding::fail(format!("token_issuer: {} is not configured", quoted(found)), advice)
}

/// A token that is refused, with the likely remedy.
fn refused(
    profile: &Profile,
    token: &Unverified<'_>,
    error: TokenError,
    now: Timestamp,
) -> Finding {
    let claims = token.claims();
    let seconds = |name: &str| claims.get(name).and_then(Value::as_u64);
    let now = now.as_millis() / 1000;
    let advice = match error {
        TokenError::Audience if claims.get("aud").is_some_and(|aud| aud == "account") => {
            "Keycloak's default: add an audience mapper for the gate's client to the client's scope".into()
        }
        TokenError::Audience => {
            let wanted: Vec<_> = profile.audience.iter().map(|a| quoted(a)).collect();
            format!("ask the provider for a token for {}, or change 'audience'", wanted.join(" or "))
        }
        TokenError::Expired => match seconds("exp") {
            Some(end) if end <= now => format!("it ended {} s ago: get a new one", now - end),
            _ => "older than 'max_age_seconds' allows: get a new one".into(),
        },
        TokenError::NotYetValid => "the clocks differ: see the finding about the issuer's clock above".into(),
        TokenError::Key => "the provider does not publish the key it is signed with; Okta's org server never does for access tokens".into(),
        TokenError::Type => "of a type that 'token_types' does not list: \"at+jwt\", \"access\" or \"id\"".into(),
        TokenError::Requirement => "compare 'require' with what the token says".into(),
        TokenError::Bound => "bound to a certificate (send that certificate) or a DPoP key (not supported)".into(),
        TokenError::Claims => "each token needs iss, sub, aud, exp, of the right types, and the claim that 'claims.subject' names".into(),
        TokenError::Tenant => "'tid' and 'iss' name different tenants".into(),
        TokenError::Revoked => "see 'identity-spoa revocations'".into(),
        _ => "send the token as the provider gave it".into(),
    };
    Finding::fail(format!("{}: {error}", error.id()), advice)
}

/// A token that is accepted, and what its identity lacks for the configured matching.
fn known(profile: &Profile, identity: &Identity) -> Vec<Finding> {
    let groups: Vec<_> = identity.groups.iter().map(|group| quoted(group)).collect();
    let mut findings = vec![Finding::ok(format!(
        "verified: {}, subject {}, groups [{}]",
        quoted(identity.label()),
        quoted(&identity.subject),
        groups.join(", ")
    ))];
    let by = |rule| profile.authority.matching.contains(&rule);
    if by(MatchBy::Email) && identity.email.is_none() {
        findings.push(Finding::warn(
            "no verified e-mail address, which 'match' asks for",
            "let the provider add 'email' and 'email_verified: true', or match by subject",
        ));
    }
    if by(MatchBy::Username) && identity.username.is_none() {
        findings.push(Finding::warn(
            "no login name, which 'match' asks for",
            "name the claim that has it in 'claims.username'",
        ));
    }
    if identity.groups_joined.left_out() {
        findings.push(Finding::warn(
            "HAProxy's variable 'groups' lacks some of these groups: 'groups_incomplete' is set",
            "names with a comma, and what is beyond 4096 bytes, are left out: decide by grants and policies, or filter the groups at the provider",
        ));
    }
    if identity.groups_overage {
        findings.push(Finding::warn(
            "the provider left the groups out: there are too many",
            "use application roles, or a filter on the groups that go into tokens",
        ));
    }
    findings
}
