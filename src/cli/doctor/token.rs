//! Findings about a token: its issuer and audience, and whether it is accepted or why not.
//!
//! Only claims are shown, as quoted text. No part of the token itself is, since anyone who reads it could use it.

use serde_json::{Map, Value};

use super::{Finding, quoted};
use crate::{
    identity::{
        Authentication, Identity, TokenError,
        audience::AudienceError,
        issuers::{Issuers, Outcome},
        jwt::{Unverified, VerifyError},
        keys::KeySet,
        pending::Waiting,
        profile::{EmailStanding, MatchBy, Profile},
        settings::{ClientSettings, IssuerSettings},
        userinfo::{self, UserinfoUse},
    },
    time::Timestamp,
};

/// The findings about a token; the keys of its issuer must have been fetched. `settings` has the issuers in the same
/// order.
pub(super) fn judge(
    issuers: &Issuers,
    settings: &[IssuerSettings],
    token: &[u8],
    now: Timestamp,
) -> Vec<Finding> {
    let token = token.strip_prefix(b"Bearer ").unwrap_or(token);
    // The gate would pass on such a token as the app's.
    let is_apps = !issuers.may_be_in(token) && !issuers.introspects(token);
    let unverified = match Unverified::inspect(token) {
        Ok(unverified) => unverified,
        Err(error) => {
            return std::iter::once(unread(error)).chain(is_apps.then(passed_on)).collect();
        }
    };
    let mut findings = vec![claims(&unverified)];
    let of_token = issuers.providers().iter().zip(settings).find(|(provider, _)| {
        unverified.issuer().is_some_and(|issuer| provider.profile().accepts(issuer).is_some())
    });
    let Some((provider, settings)) = of_token else {
        findings.push(unknown_issuer(&unverified, issuers));
        findings.extend(is_apps.then(passed_on));
        return findings;
    };
    let profile = provider.profile();
    let Some(keys) = provider.keys(now) else {
        findings.push(Finding::fail(
            "the keys of its issuer could not be fetched",
            "see the findings about the issuer above",
        ));
        return findings;
    };
    if let Some(client) =
        settings.client.as_ref().filter(|c| is_of_sign_in(&unverified, profile, c))
    {
        findings.extend(of_sign_in(&unverified, profile, client, &keys.set, now));
        return findings;
    }
    match issuers.authenticate(token, None, now, Waiting::Never) {
        Outcome::Settled(Authentication::Known(identity)) => {
            findings.extend(known(profile, unverified.claims(), &identity));
        }
        Outcome::Settled(Authentication::Refused(error)) => {
            findings.push(refused(profile, &unverified, error, &keys.set, now));
        }
        _ => findings.push(Finding::fail(
            "the keys of its issuer could not be fetched",
            "see the findings about the issuer above",
        )),
    }
    findings
}

/// Whether it is an ID token for the client of sign-in, which programs could not present.
fn is_of_sign_in(token: &Unverified<'_>, profile: &Profile, client: &ClientSettings) -> bool {
    let names_client = !matches!(
        token.audience_error(&client.profile(profile)),
        Some(AudienceError::Foreign(_) | AudienceError::Missing | AudienceError::Form)
    );
    token.is_marked_as_id() && names_client && token.audience_error(profile).is_some()
}

/// The findings about an ID token, judged as at sign-in.
fn of_sign_in(
    token: &Unverified<'_>,
    profile: &Profile,
    client: &ClientSettings,
    keys: &KeySet,
    now: Timestamp,
) -> Vec<Finding> {
    let profile = client.profile(profile);
    let mut findings = vec![Finding::ok("an ID token for [issuer.sign_in]: judged as at sign-in")];
    let lacking = userinfo::lacks(&profile, token.claims());
    let is_asked = client.userinfo.unwrap_or_default() == UserinfoUse::WhenNeeded;
    match token.verify(&profile, keys, now) {
        Ok(identity) => findings.extend(known(&profile, token.claims(), &identity)),
        // What it lacks may be at userinfo.
        Err(VerifyError::Refused(TokenError::Claims | TokenError::Requirement))
            if is_asked && !lacking.is_empty() && token.check_claims(&profile, now).is_ok() => {}
        Err(VerifyError::Refused(error)) => {
            findings.push(refused(&profile, token, error, keys, now));
        }
        Err(VerifyError::UnknownKey) => {
            findings.push(refused(&profile, token, TokenError::Key, keys, now));
        }
    }
    if !lacking.is_empty() {
        let text = format!("the ID token lacks {}", lacking.join(", "));
        findings.push(if is_asked {
            Finding::ok(format!("{text}: sign-in asks userinfo for it, if the provider has that"))
        } else {
            Finding::warn(text, "set userinfo = \"when_needed\" in [issuer.sign_in]")
        });
    }
    findings
}

/// What happens to a token that cannot be one for the gate.
fn passed_on() -> Finding {
    Finding::warn(
        "it names no configured issuer: sent in Authorization together with a session or a client certificate, it is the app's and travels on to the workspace",
        "nothing, if it is a token of an app; docs/credentials.md has the table",
    )
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
    keys: &KeySet,
    now: Timestamp,
) -> Finding {
    let claims = token.claims();
    let seconds = |name: &str| claims.get(name).and_then(Value::as_u64);
    let now = now.as_millis() / 1000;
    let audience = token.audience_error(profile);
    if let Some(finding) = audience.and_then(|why| of_audience(profile, token, error, &why)) {
        return finding;
    }
    if let Some(finding) = of_key(token, error, keys) {
        return finding;
    }
    let advice = match error {
        TokenError::Audience => "ask the provider for a token for the configured audience".into(),
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

/// A token that is refused because of its audience, with the setting that accepts it.
fn of_audience(
    profile: &Profile,
    token: &Unverified<'_>,
    error: TokenError,
    why: &AudienceError,
) -> Option<Finding> {
    if TokenError::from(why.clone()) != error {
        return None;
    }
    let claims = token.claims();
    let advice = match why {
        AudienceError::Foreign(_) if claims.get("aud").is_some_and(|aud| aud == "account") => {
            "Keycloak's default: add an audience mapper for the gate's client to the client's scope".into()
        }
        AudienceError::Foreign(_) => {
            let wanted: Vec<_> = profile.audience.iter().map(|a| quoted(a)).collect();
            format!("ask the provider for a token for {}, or change 'audience'", wanted.join(" or "))
        }
        AudienceError::Strangers(names) => {
            let names: Vec<_> = names.iter().take(5).map(|name| quoted(name)).collect();
            format!("if these may know who signs in: trusted_audiences = [{}]", names.join(", "))
        }
        AudienceError::Party(_) => "an ID token must have been issued to the gate's own client ('azp'): ask with that client".into(),
        AudienceError::Missing => {
            let client = claims.get("client_id").and_then(Value::as_str)?;
            format!(
                "as at Cognito: audience_claim = \"client_id\" (or preset = \"cognito\"), and audience = {}",
                quoted(client)
            )
        }
        AudienceError::Form => return None,
    };
    Some(Finding::fail(format!("{}: {why}", error.id()), advice))
}

/// A token whose key is published and not used, or that names no key.
fn of_key(token: &Unverified<'_>, error: TokenError, keys: &KeySet) -> Option<Finding> {
    if !matches!(error, TokenError::Key | TokenError::Algorithm) {
        return None;
    }
    let id = error.id();
    let Some(key) = token.key_id() else {
        let several = error == TokenError::Key;
        return several.then(|| {
            Finding::fail(
                format!(
                    "{id}: the token names no key, and its issuer publishes several of one type"
                ),
                "let the provider write the key's id into tokens ('kid')",
            )
        });
    };
    let published = keys.refused().iter().find(|refused| refused.id.as_deref() == Some(key));
    if let Some(refused) = published {
        let advice = "let the provider publish the key again, or sign with another one";
        return Some(Finding::fail(format!("{id}: {refused}"), advice));
    }
    let is_ambiguous = error == TokenError::Key && keys.ambiguous() > 0;
    is_ambiguous.then(|| {
        Finding::fail(
            format!("{id}: the key {} is not published, or another key has its id", quoted(key)),
            "give each key an id of its own at the provider",
        )
    })
}

/// What an address lacks to be used, with the setting that accepts it.
fn of_email(profile: &Profile, claims: &Map<String, Value>) -> Finding {
    let (path, vouching) = (profile.claims.email.as_str(), profile.email.claim.as_str());
    let found = profile.claims.email.find(claims).and_then(Value::as_str);
    let what = "no verified e-mail address, which 'match' asks for";
    let Some(email) = found else {
        return Finding::warn(
            format!("{what}: the token has no {}", quoted(path)),
            "let the provider add it (scope email), or name its claim in 'claims.email'",
        );
    };
    let value =
        || profile.email.claim.find(claims).map_or_else(String::new, |v| quoted(&v.to_string()));
    let (text, advice) = match profile.email.standing(claims, email) {
        EmailStanding::NoClaim => (
            format!("{what}: the token has no {}", quoted(vouching)),
            "name the claim by which the provider vouches in 'email_verified_claim' (\"xms_edov\" at Entra), or its domains in 'managed_email_domains'".to_owned(),
        ),
        EmailStanding::OtherForm => (
            format!("{what}: {} is {}, and not true", quoted(vouching), value()),
            format!("set email_verified_claim = {}, which accepts this form", quoted(vouching)),
        ),
        EmailStanding::Unverified => (
            format!("{what}: {} is {}", quoted(vouching), value()),
            "verify the address at the provider; where it says so of every address (authentik), correct its mapping or list its domains in 'managed_email_domains'".to_owned(),
        ),
        EmailStanding::Verified | EmailStanding::Managed => (
            format!("{what}: {} cannot be used", quoted(email)),
            "an address with control characters or more than 320 bytes is left out".to_owned(),
        ),
    };
    Finding::warn(text, advice)
}

/// A token that is accepted, and what its identity lacks for the configured matching.
fn known(profile: &Profile, claims: &Map<String, Value>, identity: &Identity) -> Vec<Finding> {
    let groups: Vec<_> = identity.groups.iter().map(|group| quoted(group)).collect();
    let mut findings = vec![Finding::ok(format!(
        "verified: {}, subject {}, groups [{}]",
        quoted(identity.label()),
        quoted(&identity.subject),
        groups.join(", ")
    ))];
    let by = |rule| profile.authority.matching.contains(&rule);
    if by(MatchBy::Email) && identity.email.is_none() {
        findings.push(of_email(profile, claims));
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
            "names with a comma, and what is beyond 8192 bytes, are left out: decide by grants and policies, or filter the groups at the provider",
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

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    /// A key whose numbers say which one it is.
    fn key(id: Option<&str>, fill: u8) -> Value {
        let mut key = json!({
            "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([fill; 32]),
        });
        if let Some(id) = id {
            key["kid"] = json!(id);
        }
        key
    }

    #[test]
    fn q11_a_token_of_a_key_that_is_not_used_is_told_why() {
        let short = json!({"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"});
        let all = [short, key(Some("twice"), 1), key(Some("twice"), 2), key(None, 3), key(None, 4)];
        let keys = KeySet::parse(json!({ "keys": all }).to_string().as_bytes()).unwrap();
        for (id, error, want) in [
            (Some("short"), TokenError::Key, Some("RSA modulus has 17 bits")),
            (Some("twice"), TokenError::Key, Some("another key has its id")),
            (None, TokenError::Key, Some("names no key")),
            (None, TokenError::Algorithm, None),
            (Some("short"), TokenError::Expired, None),
        ] {
            let mut header = json!({ "alg": "EdDSA" });
            if let Some(id) = id {
                header["kid"] = json!(id);
            }
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let token = format!("{}.{}.AAAA", part(&header), part(&json!({})));
            let token = Unverified::inspect(token.as_bytes()).unwrap();
            let found = of_key(&token, error, &keys);
            let text = found.as_ref().map(|finding| &*finding.text);
            assert_eq!(text.is_some(), want.is_some(), "{id:?} {error:?}");
            assert!(text.unwrap_or_default().contains(want.unwrap_or_default()), "{text:?}");
        }
    }
}
