//! For whom a token is: `aud`, `azp`, and the claim that stands for `aud` where an issuer leaves it out.
//!
//! An access token must name one of the configured audiences and may name others, which are other services that take the
//! same token. An ID token tells this client alone who signed in: it must name no party that the operator does not trust
//! with that (OIDC Core section 3.1.3.7, steps 3 to 5).

use std::fmt::Write as _;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{TokenError, profile::Profile, token_kind::TokenKind};

/// The most audiences that a message names.
const MAX_NAMED: usize = 5;
/// The longest audience that is shown, in characters.
const MAX_SHOWN: usize = 80;

/// Why a token is not for this agent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AudienceError {
    /// It names no audience.
    #[error("it has no 'aud'")]
    Missing,
    /// The claim is not a text or a list of texts.
    #[error("its audience is not a text or a list of texts")]
    Form,
    /// It names others only.
    #[error("it is for {}", listed(.0))]
    Foreign(Vec<String>),
    /// It is an ID token that names others, too.
    #[error("it is also for {}, which 'trusted_audiences' does not list", listed(.0))]
    Strangers(Vec<String>),
    /// It is an ID token that was issued to another client (`azp`), or to several without saying to which one.
    #[error("it was issued to {}", .0.as_ref().map_or_else(|| "several clients, and has no 'azp'".into(), |party| shown(party)))]
    Party(Option<String>),
}

impl From<AudienceError> for TokenError {
    fn from(error: AudienceError) -> Self {
        match error {
            AudienceError::Missing | AudienceError::Form => Self::Claims,
            AudienceError::Foreign(_) | AudienceError::Strangers(_) | AudienceError::Party(_) => {
                Self::Audience
            }
        }
    }
}

/// Checks the audience of a token of this kind.
pub(super) fn check(
    profile: &Profile,
    claims: &Map<String, Value>,
    kind: TokenKind,
) -> Result<(), AudienceError> {
    let named = named(profile, claims, kind)?;
    let is_ours = |name: &str| profile.audience.iter().any(|ours| ours == name);
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    if !named.iter().any(|name| is_ours(name)) {
        return Err(AudienceError::Foreign(owned(&named)));
    }
    if kind != TokenKind::Id {
        return Ok(());
    }
    let is_trusted = |name: &str| profile.trusted_audiences.iter().any(|other| **other == *name);
    let strangers = named.iter().copied().filter(|name| !is_ours(name) && !is_trusted(name));
    let strangers: Vec<_> = strangers.collect();
    if !strangers.is_empty() {
        return Err(AudienceError::Strangers(owned(&strangers)));
    }
    match claims.get("azp") {
        None if named.len() > 1 => Err(AudienceError::Party(None)),
        None => Ok(()),
        Some(Value::String(party)) if is_ours(party) => Ok(()),
        Some(Value::String(party)) => Err(AudienceError::Party(Some(party.clone()))),
        Some(other) => Err(AudienceError::Party(Some(other.to_string()))),
    }
}

/// The audiences that a token names.
fn named<'c>(
    profile: &Profile,
    claims: &'c Map<String, Value>,
    kind: TokenKind,
) -> Result<Vec<&'c str>, AudienceError> {
    match claims.get("aud") {
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(several)) => {
            let names = several.iter().map(|name| name.as_str().ok_or(AudienceError::Form));
            names.collect()
        }
        Some(_) => Err(AudienceError::Form),
        // An ID token always has `aud` (OIDC Core section 2).
        None if kind == TokenKind::Id => Err(AudienceError::Missing),
        None => {
            let claim = profile.audience_claim.as_ref().and_then(|path| path.find(claims));
            let claim = claim.ok_or(AudienceError::Missing)?;
            Ok(vec![claim.as_str().ok_or(AudienceError::Form)?])
        }
    }
}

/// Audiences in one line: texts of the issuer, shortened and quoted.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "no audience".into();
    }
    let mut text = String::new();
    for (index, name) in names.iter().take(MAX_NAMED).enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        let _ = write!(text, "{separator}{}", shown(name));
    }
    if names.len() > MAX_NAMED {
        let _ = write!(text, " and {} more", names.len() - MAX_NAMED);
    }
    text
}

fn shown(name: &str) -> String {
    let name: String = name.chars().take(MAX_SHOWN).collect();
    format!("\"{}\"", name.escape_debug())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::profile::ClaimPath;

    fn profile(trusted: &[&str], claim: Option<&str>) -> Profile {
        let issuer = "https://idp.example.com".parse().unwrap();
        Profile {
            trusted_audiences: trusted.iter().map(|name| (*name).into()).collect(),
            audience_claim: claim.and_then(ClaimPath::new),
            ..Profile::new("corp", issuer, vec!["gate".into(), "other-gate".into()])
        }
    }

    fn judge(profile: &Profile, claims: Value, kind: TokenKind) -> Result<(), AudienceError> {
        let Value::Object(mut claims) = claims else { panic!("not an object: {claims}") };
        claims.retain(|_, value| !value.is_null());
        check(profile, &claims, kind)
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn q14_an_id_token_may_name_trusted_audiences_next_to_ours_and_no_others() {
        // ZITADEL puts the other applications and the project into `aud`.
        let trusting = profile(&["project", "app"], None);
        for (aud, azp, want) in [
            (json!("gate"), json!(null), Ok(())),
            (json!(["gate"]), json!(null), Ok(())),
            (json!(["gate", "project"]), json!("gate"), Ok(())),
            (json!(["app", "project", "gate"]), json!("gate"), Ok(())),
            (json!(["gate", "project"]), json!(null), Err(AudienceError::Party(None))),
            (
                json!(["gate", "project"]),
                json!("project"),
                Err(AudienceError::Party(Some("project".into()))),
            ),
            (
                json!(["gate", "project"]),
                json!("app"),
                Err(AudienceError::Party(Some("app".into()))),
            ),
            (
                json!(["gate", "project", "x", "y"]),
                json!("gate"),
                Err(AudienceError::Strangers(names(&["x", "y"]))),
            ),
            (
                json!(["project", "app"]),
                json!("gate"),
                Err(AudienceError::Foreign(names(&["project", "app"]))),
            ),
            (json!("project"), json!(null), Err(AudienceError::Foreign(names(&["project"])))),
            (json!("project"), json!("gate"), Err(AudienceError::Foreign(names(&["project"])))),
            (json!([]), json!("gate"), Err(AudienceError::Foreign(vec![]))),
            (json!(["gate", 7]), json!("gate"), Err(AudienceError::Form)),
            (json!(7), json!("gate"), Err(AudienceError::Form)),
            (
                json!(["gate"]),
                json!(["gate"]),
                Err(AudienceError::Party(Some("[\"gate\"]".into()))),
            ),
            (json!(null), json!("gate"), Err(AudienceError::Missing)),
        ] {
            let claims = json!({"aud": aud, "azp": azp});
            assert_eq!(judge(&trusting, claims.clone(), TokenKind::Id), want, "{claims}");
        }
        // Without the list the same token names strangers, and the message says which.
        let claims = json!({"aud": ["gate", "project"], "azp": "gate"});
        let error = judge(&profile(&[], None), claims, TokenKind::Id).unwrap_err();
        assert!(error.to_string().contains("also for \"project\""), "{error}");
    }

    #[test]
    fn q14_a_trusted_audience_alone_is_not_for_us_in_any_kind_of_token() {
        for kind in [TokenKind::Id, TokenKind::Access, TokenKind::TypedAccess] {
            for aud in [json!("project"), json!(["project", "elsewhere"])] {
                let claims = json!({"aud": aud, "azp": "gate", "client_id": "gate"});
                let error = judge(&profile(&["project"], Some("client_id")), claims, kind);
                assert!(matches!(error, Err(AudienceError::Foreign(_))), "{aud} {kind:?}");
            }
        }
    }

    #[test]
    fn q16_client_id_stands_for_aud_only_where_configured_and_aud_is_absent() {
        let cognito = profile(&[], Some("client_id"));
        let (access, id) = (TokenKind::Access, TokenKind::Id);
        for (claims, kind, want) in [
            (json!({"client_id": "gate"}), access, Ok(())),
            (json!({"client_id": "gate"}), TokenKind::TypedAccess, Ok(())),
            (
                json!({"client_id": "elsewhere"}),
                access,
                Err(AudienceError::Foreign(names(&["elsewhere"]))),
            ),
            (json!({"client_id": ["gate"]}), access, Err(AudienceError::Form)),
            (json!({"client_id": 7}), access, Err(AudienceError::Form)),
            (json!({}), access, Err(AudienceError::Missing)),
            // What is there decides, even if the other claim would be right.
            (
                json!({"aud": "elsewhere", "client_id": "gate"}),
                access,
                Err(AudienceError::Foreign(names(&["elsewhere"]))),
            ),
            (json!({"aud": [], "client_id": "gate"}), access, Err(AudienceError::Foreign(vec![]))),
            (json!({"aud": 7, "client_id": "gate"}), access, Err(AudienceError::Form)),
            (json!({"client_id": "gate"}), id, Err(AudienceError::Missing)),
        ] {
            assert_eq!(judge(&cognito, claims.clone(), kind), want, "{claims} {kind:?}");
        }
        let usual = judge(&profile(&[], None), json!({"client_id": "gate"}), access);
        assert_eq!(usual, Err(AudienceError::Missing));
    }

    #[test]
    fn q14_audiences_in_messages_are_quoted_and_bounded() {
        let long: Vec<_> =
            (0..100).map(|n| format!("{n}\u{1b}[31m\n{}", "x".repeat(500))).collect();
        let claims = json!({"aud": long});
        let text = judge(&profile(&[], None), claims, TokenKind::Access).unwrap_err().to_string();
        assert!(text.len() < 800 && text.ends_with("and 95 more"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\n'), "{text}");
    }
}
