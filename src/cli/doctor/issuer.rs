//! Findings about an issuer: its discovery document, algorithms, clock and keys.

use std::time::{Duration, SystemTime};

use super::{Finding, quoted};
use crate::{
    identity::{
        Profile,
        client_auth::OfferedMethods,
        keys::{KeySet, KeySetError},
        profile::{TENANT, algorithm},
        provider::{Discovery, IssuerExamination},
        settings::{ClientKey, IssuerSettings},
    },
    outbound,
};

/// Clocks that differ by more than this are reported.
const NOTICEABLE_SKEW: Duration = Duration::from_secs(5);

/// The findings of an examination; `now` is the time of this machine when it ended.
pub(super) fn judge(
    profile: &Profile,
    issuer: &IssuerSettings,
    examined: &IssuerExamination,
    now: SystemTime,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let proxies: Vec<_> = outbound::proxy_variables().collect();
    if !proxies.is_empty() && !outbound::is_loopback(&profile.discovery) {
        let proxies = proxies.join(", ");
        findings.push(Finding::ok(format!("proxy: {proxies}, except for what NO_PROXY lists")));
    }
    match &examined.discovery {
        Ok(document) => {
            findings.push(names(profile, document));
            findings.push(algorithms(profile, document));
            if let Some(settings) = &issuer.introspection {
                findings.push(introspection(issuer, document));
                let offered = document.introspection_methods();
                findings.push(client_method("introspection", &settings.key, &offered));
            }
            if let Some(client) = &issuer.client {
                findings.push(client_method("sign-in", &client.key, &document.token_methods()));
            }
        }
        // With a configured address of the keys, tokens can be verified without discovery.
        Err(error) if issuer.jwks_uri.is_some() => findings.push(Finding::warn(
            format!("discovery: {error}"),
            "not needed, since 'jwks_uri' is set; sign-in and introspection would need it",
        )),
        Err(error) => findings.push(Finding::fail(
            format!("discovery: {error}"),
            "check 'issuer', and that this machine reaches the address (proxy, DNS, 'ca_file')",
        )),
    }
    findings.extend(examined.date.map(|date| clock(profile, date, now)));
    match &examined.keys {
        None => {}
        Some(Err(error)) => findings.push(Finding::fail(
            format!("keys: {error}"),
            "check that this machine reaches the address; until then only keys in 'key_cache_file' help",
        )),
        Some(Ok((url, document, max_age))) => {
            findings.extend(keys(profile, document));
            if url.origin() != profile.discovery.origin() {
                findings.push(Finding::ok(format!("keys: on another host, {}", url.as_str())));
            }
            if let Some(age) = max_age.filter(|age| *age > issuer.schedule.refresh) {
                findings.push(Finding::ok(format!(
                    "keys: may be kept {} s, and are fetched every {} s",
                    age.as_secs(),
                    issuer.schedule.refresh.as_secs()
                )));
            }
        }
    }
    findings
}

/// Whether the document is the one of the configured issuer.
fn names(profile: &Profile, document: &Discovery) -> Finding {
    let (found, configured) = (document.issuer.as_str(), profile.issuer.as_str());
    if found == configured {
        return Finding::ok("discovery: the issuer is the configured one");
    }
    let text = format!("discovery: the document is of {}", quoted(found));
    let advice = if found.trim_end_matches('/') == configured.trim_end_matches('/') {
        format!("a slash at the end makes the difference: set issuer = {}", quoted(found))
    } else if found.contains(TENANT) {
        "the document is Entra's for all tenants: use preset = \"entra\" with 'tenants'".to_owned()
    } else {
        format!(
            "tokens will say that too: if it is the right provider, set issuer = {}",
            quoted(found)
        )
    };
    Finding::fail(text, advice)
}

/// Whether the provider signs with an algorithm that is accepted.
fn algorithms(profile: &Profile, document: &Discovery) -> Finding {
    let offered = &document.id_token_signing_alg_values_supported;
    let common = offered
        .iter()
        .filter(|name| algorithm(name).is_some_and(|a| profile.algorithms.contains(&a)));
    let common: Vec<_> = common.map(String::as_str).collect();
    let list = offered.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    if offered.is_empty() {
        Finding::ok("algorithms: the provider does not say")
    } else if common.is_empty() {
        Finding::fail(
            format!("algorithms: the provider signs with {list}, none of which is accepted"),
            "let it sign with RS256 or ES256; HS algorithms share their secret with every verifier",
        )
    } else {
        Finding::ok(format!("algorithms: {}", common.join(", ")))
    }
}

/// Whether opaque tokens can be introspected.
fn introspection(issuer: &IssuerSettings, document: &Discovery) -> Finding {
    let configured = issuer.introspection.as_ref().and_then(|i| i.endpoint.as_ref());
    match (configured, &document.introspection_endpoint) {
        (None, None) => Finding::fail(
            "introspection: the discovery document names no introspection_endpoint",
            "set 'endpoint' in [issuer.introspection], or take the table out",
        ),
        (Some(_), _) => Finding::ok("introspection: at the configured endpoint"),
        (None, Some(found)) => Finding::ok(format!("introspection: {}", quoted(found))),
    }
}

/// How the agent authenticates at an endpoint, and whether the provider offers that.
fn client_method(what: &str, key: &ClientKey, offered: &OfferedMethods) -> Finding {
    let method = match key.method(offered) {
        Ok(method) => method,
        Err(error) => {
            let advice = "the message names the settings; compare with the client at the provider";
            return Finding::fail(format!("{what}: {error}"), advice);
        }
    };
    let name: &str = method.into();
    let text = format!("{what}: the agent authenticates by {name}");
    if offered.0.is_none() || offered.has(method) {
        return Finding::ok(text);
    }
    Finding::warn(
        format!("{text}, and the provider offers {}", offered.listed()),
        "set 'auth_method' in the same table, or let the provider accept this method for the client",
    )
}

/// Whether the clocks agree well enough for `exp` and `nbf`.
fn clock(profile: &Profile, theirs: SystemTime, ours: SystemTime) -> Finding {
    let (apart, ahead) = match theirs.duration_since(ours) {
        Ok(apart) => (apart, "behind"),
        Err(error) => (error.duration(), "ahead of"),
    };
    let text = format!("clock: this machine is {} s {ahead} the provider", apart.as_secs());
    if apart > profile.leeway.max(NOTICEABLE_SKEW) {
        Finding::fail(
            text,
            "set this machine's clock (chrony, systemd-timesyncd): good tokens are refused",
        )
    } else if apart > NOTICEABLE_SKEW {
        Finding::warn(text, "within 'leeway_seconds' still; set this machine's clock")
    } else {
        Finding::ok(format!("clock: within {} s of the provider's", apart.as_secs()))
    }
}

/// Which of the published keys can verify tokens.
fn keys(profile: &Profile, document: &[u8]) -> Vec<Finding> {
    let set = match KeySet::parse(document) {
        Ok(set) => set,
        Err(error) => {
            return vec![Finding::fail(format!("keys: {error}"), no_keys(document, &error))];
        }
    };
    let (listed, usable) = (KeySet::listed(document), set.len());
    let mut findings = vec![Finding::ok(format!("keys: {usable} of {listed} can verify tokens"))];
    for refused in set.refused().iter() {
        let text = format!("keys: {refused}");
        findings.push(if refused.why.is_defect() {
            Finding::warn(
                text,
                "tokens that it signs are refused: let the provider publish it again, or remove it",
            )
        } else {
            Finding::ok(text)
        });
    }
    let serves = |algorithm: &&jsonwebtoken::Algorithm| {
        // An error other than this one means that such a key exists, even if it needs a key id to be found.
        !matches!(set.select(None, **algorithm), Err(crate::identity::keys::KeyMiss::Algorithm))
    };
    if !profile.algorithms.iter().any(|algorithm| serves(&algorithm)) {
        findings.push(Finding::fail(
            "keys: none is for an accepted algorithm",
            "compare 'algorithms' with what the provider signs with",
        ));
    }
    if set.ambiguous() > 0 {
        findings.push(Finding::warn(
            format!(
                "keys: {} have an id that another key has too, and are not used",
                set.ambiguous()
            ),
            "give each key an id of its own at the provider",
        ));
    }
    if set.nameless() > 0 && usable > 1 {
        findings.push(Finding::warn(
            format!("keys: {} have no id", set.nameless()),
            "tokens without a key id are refused as soon as two keys of one type are published",
        ));
    }
    findings
}

/// What to do about a document without usable keys.
fn no_keys(document: &[u8], error: &KeySetError) -> &'static str {
    match error {
        KeySetError::Json(_) if document.trim_ascii_start().starts_with(b"<") => {
            "the address answers with a page: check 'jwks_uri', and for a log-in page or a proxy in between"
        }
        KeySetError::Json(_) => "the address must answer with {\"keys\": […]}: check 'jwks_uri'",
        KeySetError::TooMany => "let the provider publish fewer keys",
        // authentik publishes no key, and signs with the client's secret, until it has one.
        KeySetError::NoneUsable(refused) if refused.is_empty() => {
            "the provider publishes no keys: choose a signing key there (at authentik, 'Signing Key' of the provider)"
        }
        KeySetError::NoneUsable(_) => {
            "publish an RSA key of 2048 bits or more, or one of P-256, P-384 or Ed25519"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    fn profile() -> Profile {
        Profile::new("corp", "https://idp.example.com/".parse().unwrap(), vec!["a".into()])
    }

    fn document(issuer: &str, algorithms: &[&str]) -> Discovery {
        Discovery {
            issuer: issuer.into(),
            jwks_uri: "https://idp.example.com/jwks".into(),
            introspection_endpoint: None,
            authorization_endpoint: None,
            token_endpoint: None,
            end_session_endpoint: None,
            revocation_endpoint: None,
            userinfo_endpoint: None,
            token_endpoint_auth_methods_supported: None,
            introspection_endpoint_auth_methods_supported: None,
            revocation_endpoint_auth_methods_supported: None,
            authorization_response_iss_parameter_supported: false,
            id_token_signing_alg_values_supported: algorithms.iter().map(|a| (*a).into()).collect(),
        }
    }

    #[test]
    fn another_issuer_is_reported_with_the_difference() {
        for (found, want) in [
            ("https://idp.example.com", "a slash at the end"),
            ("https://login.microsoftonline.com/{tenantid}/v2.0", "'tenants'"),
            ("https://other.example.com/\u{1b}[31m", "\\u{1b}"),
        ] {
            let finding = names(&profile(), &document(found, &[]));
            assert_eq!(finding.level, Level::Fail);
            assert!(finding.advice.unwrap().contains(want), "{found}");
        }
        let finding = names(&profile(), &document("https://idp.example.com/", &[]));
        assert_eq!(finding.level, Level::Ok);
    }

    #[test]
    fn a_provider_that_signs_with_a_shared_secret_is_reported() {
        let level = |names: &[&str]| algorithms(&profile(), &document("x", names)).level;
        assert_eq!(level(&["HS256"]), Level::Fail);
        assert_eq!(level(&["HS256", "RS256"]), Level::Ok);
        assert_eq!(level(&[]), Level::Ok);
    }

    #[test]
    fn q11_each_published_key_that_is_not_used_is_named_with_its_reason() {
        let good = r#"{"kty":"OKP","crv":"Ed25519","kid":"g","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
        let judge = |keys: &str| keys_of(&format!("{{\"keys\":[{keys}]}}"));
        let short = r#"{"kty":"RSA","kid":"short","n":"AQAB","e":"AQAB"}"#;
        let found = judge(&format!("{good},{short}"));
        assert_eq!((found[0].level, found[1].level), (Level::Ok, Level::Warn));
        assert!(found[0].text.contains("1 of 2"), "{found:?}");
        assert!(found[1].text.contains("\"short\": its RSA modulus has 17 bits"), "{found:?}");
        let enc = r#"{"kty":"RSA","kid":"enc","use":"enc","n":"AQAB","e":"AQAB"}"#;
        assert_eq!(judge(&format!("{good},{enc}"))[1].level, Level::Ok);
        for (document, want) in [
            ("<!doctype html>", "a page"),
            ("{}", "must answer with"),
            ("{\"keys\":[]}", "Signing Key"),
            (&*format!("{{\"keys\":[{short}]}}"), "2048 bits or more"),
        ] {
            let found = keys_of(document);
            assert_eq!(found[0].level, Level::Fail);
            assert!(found[0].advice.as_deref().unwrap().contains(want), "{document}: {found:?}");
        }
    }

    #[test]
    fn q16_the_method_of_the_client_is_named_and_compared_with_what_is_offered() {
        use crate::{identity::client_auth::SecretMethod, secret::SecretLocation};
        let offered = |names: &[&str]| {
            OfferedMethods(Some(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        let secret = |method| ClientKey::Secret(SecretLocation::Env("X".into()), method);
        let key = ClientKey::PrivateKey("key.pem".into(), None, None);
        for (key, offered, level, want) in [
            (secret(None), OfferedMethods(None), Level::Ok, "client_secret_basic"),
            (secret(None), offered(&["client_secret_post"]), Level::Ok, "client_secret_post"),
            (secret(None), offered(&["private_key_jwt"]), Level::Fail, "private_key_file"),
            (
                secret(Some(SecretMethod::Post)),
                offered(&["client_secret_basic"]),
                Level::Warn,
                "the provider offers \"client_secret_basic\"",
            ),
            (key.clone(), offered(&["private_key_jwt"]), Level::Ok, "private_key_jwt"),
            (key, offered(&["client_secret_basic"]), Level::Warn, "private_key_jwt"),
            (ClientKey::Public, offered(&["none"]), Level::Ok, "by none"),
            (ClientKey::Public, offered(&[]), Level::Warn, "offers no methods"),
        ] {
            let found = client_method("sign-in", &key, &offered);
            assert!(found.level == level && found.text.contains(want), "{found:?}");
        }
    }

    fn keys_of(document: &str) -> Vec<Finding> {
        keys(&profile(), document.as_bytes())
    }

    #[test]
    fn a_clock_is_judged_by_the_leeway() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, level) in [(0, Level::Ok), (6, Level::Warn), (31, Level::Fail)] {
            for theirs in [now + Duration::from_secs(seconds), now - Duration::from_secs(seconds)] {
                assert_eq!(clock(&profile(), theirs, now).level, level, "{seconds}");
            }
        }
    }
}
