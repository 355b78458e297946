//! What an issuer says about a person at its userinfo endpoint and not in the ID token (OIDC Core section 5.3).
//!
//! Some issuers keep ID tokens small and have groups, names and addresses at userinfo only. [`lacks`] tells whether an ID
//! token has what the configuration needs; [`complete`] adds the missing claims from a response. Nothing here does I/O.
//!
//! The invariants: a response counts only if it is about the `sub` of the ID token; what the ID token says is never
//! replaced, except an address without a word on whether it is verified, which is taken from one place as a whole; and
//! no claim about the token itself (who issued it, for whom, how the person signed in) is taken from a response.

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    claims, json,
    profile::{ClaimPath, MatchBy, Profile},
};

/// The claims that are about the token and the sign-in, which userinfo cannot change.
const OF_THE_TOKEN: [&str; 24] = [
    "iss",
    "sub",
    "aud",
    "azp",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "nonce",
    "auth_time",
    "acr",
    "amr",
    "at_hash",
    "c_hash",
    "s_hash",
    "cnf",
    "typ",
    "token_use",
    "events",
    "tid",
    "client_id",
    "hasgroups",
    "_claim_names",
];

/// Whether userinfo is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum UserinfoUse {
    /// If the ID token lacks a claim that the configuration needs, and the issuer has the endpoint.
    #[default]
    WhenNeeded,
    /// Never.
    Never,
}

/// Why a response of userinfo is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UserinfoError {
    /// It is not one JSON object.
    #[error(
        "the userinfo response is not a JSON object (a signed one cannot be read: let the provider send it unsigned)"
    )]
    Form,
    /// It is about another person (OIDC Core section 5.3.2).
    #[error("the userinfo response has another 'sub' than the ID token")]
    Person,
}

/// The claims that the configuration needs and an ID token lacks, as they are written in the configuration; empty if it
/// has them all.
#[must_use]
pub fn lacks<'p>(profile: &'p Profile, claims: &Map<String, Value>) -> Vec<&'p str> {
    let is_absent = |path: &&ClaimPath| path.find(claims).is_none();
    let paths = &profile.claims;
    let matches_by = |field| profile.authority.matching.contains(&field);
    let mut lacking: Vec<&ClaimPath> = Vec::new();
    lacking.extend(Some(&paths.subject).filter(is_absent));
    lacking.extend(profile.require.iter().map(|requirement| &requirement.claim).filter(is_absent));
    lacking.extend(paths.organization.iter().filter(is_absent));
    if matches_by(MatchBy::Username) {
        lacking.extend(Some(&paths.username).filter(is_absent));
    }
    if matches_by(MatchBy::Email) {
        lacking.extend(lacks_of_email(profile, claims));
    }
    // An issuer that left the groups out of the token because there are too many has an address of its own for them.
    if !claims::has_overage(claims) && paths.groups.iter().all(|rule| is_absent(&&rule.claim)) {
        lacking.extend(paths.groups.iter().map(|rule| &rule.claim));
    }
    lacking.into_iter().map(ClaimPath::as_str).collect()
}

/// What an address lacks to be used: itself, or the claim by which the issuer vouches for it.
fn lacks_of_email<'p>(profile: &'p Profile, claims: &Map<String, Value>) -> Option<&'p ClaimPath> {
    let path = &profile.claims.email;
    let Some(email) = path.find(claims).and_then(Value::as_str) else { return Some(path) };
    let is_vouched_for = profile.email.claim.find(claims).is_some()
        || profile.email.standing(claims, email).is_used();
    (!is_vouched_for).then_some(&profile.email.claim)
}

/// Adds to the claims of an ID token what it lacks and a response of userinfo has.
///
/// # Errors
/// The response cannot be read, or is about another person. The claims are unchanged then.
pub fn complete(
    profile: &Profile,
    claims: &mut Map<String, Value>,
    response: &[u8],
) -> Result<(), UserinfoError> {
    let response = json::object(response).map_err(|_| UserinfoError::Form)?;
    let sub =
        |claims: &Map<String, Value>| claims.get("sub").and_then(Value::as_str).map(str::to_owned);
    if sub(&response).is_none() || sub(&response) != sub(claims) {
        return Err(UserinfoError::Person);
    }
    let paths = &profile.claims;
    let (email, vouching) = (&paths.email, &profile.email.claim);
    let others = [&paths.subject, &paths.username]
        .into_iter()
        .chain(&paths.organization)
        .chain(paths.groups.iter().map(|rule| &rule.claim))
        .chain(profile.require.iter().map(|requirement| &requirement.claim));
    let is_of_email = |name: &str| name == email.top_level() || name == vouching.top_level();
    for path in others {
        let name = path.top_level();
        if !is_of_email(&name) && !claims.contains_key(&*name) {
            take(&name, &response, claims);
        }
    }
    // The word that an address is verified is about the address next to it, never about another one.
    if lacks_of_email(profile, claims).is_some() && email.find(&response).is_some() {
        for path in [email, vouching] {
            let name = path.top_level();
            if !OF_THE_TOKEN.contains(&&*name) {
                claims.remove(&*name);
                take(&name, &response, claims);
            }
        }
    }
    Ok(())
}

fn take(name: &str, from: &Map<String, Value>, claims: &mut Map<String, Value>) {
    if OF_THE_TOKEN.contains(&name) {
        return;
    }
    if let Some(value) = from.get(name) {
        claims.insert(name.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection, prelude::*, sample};
    use serde_json::json;

    use super::*;
    use crate::identity::{
        Authority,
        profile::{ClaimPaths, EmailVouching, Requirement},
    };

    fn profile(matching: &[MatchBy]) -> Profile {
        let issuer = "https://auth.example.com";
        let authority = Arc::new(Authority::new("corp", issuer, matching.to_vec()));
        Profile { authority, ..Profile::new("corp", issuer.parse().unwrap(), vec!["gate".into()]) }
    }

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(value) = value else { panic!("not an object: {value}") };
        value
    }

    /// The claims after a response.
    fn completed(profile: &Profile, id: Value, response: &Value) -> Result<Value, UserinfoError> {
        let mut claims = object(id);
        complete(profile, &mut claims, response.to_string().as_bytes())?;
        Ok(Value::Object(claims))
    }

    /// An ID token as Authelia makes it from 4.39 on.
    fn thin() -> Value {
        json!({
            "iss": "https://auth.example.com", "sub": "f0919359", "aud": ["gate"], "azp": "gate",
            "exp": 2_000_000_000, "iat": 1_900_000_000, "auth_time": 1_900_000_000, "nonce": "n",
            "amr": ["pwd"], "at_hash": "x", "jti": "j",
        })
    }

    fn said() -> Value {
        json!({
            "sub": "f0919359", "preferred_username": "alice", "groups": ["engineers"],
            "email": "alice@corp.test", "email_verified": true, "name": "Alice", "rat": 1,
        })
    }

    #[test]
    fn q15_userinfo_is_needed_where_the_id_token_lacks_what_the_configuration_names() {
        let usual = profile(&[MatchBy::Subject]);
        let full = object(json!({"sub": "a", "groups": []}));
        assert_eq!(lacks(&usual, &object(thin())), ["groups"]);
        assert_eq!(lacks(&usual, &full), [""; 0]);
        let by_email = profile(&[MatchBy::Email, MatchBy::Username]);
        assert_eq!(lacks(&by_email, &full), ["preferred_username", "email"]);
        let address =
            json!({"sub": "a", "groups": [], "preferred_username": "a", "email": "a@b.test"});
        assert_eq!(lacks(&by_email, &object(address.clone())), ["email_verified"]);
        // The issuer said no, and is not asked again.
        let mut said_no = address.clone();
        said_no["email_verified"] = json!(false);
        assert_eq!(lacks(&by_email, &object(said_no)), [""; 0]);
        let managed =
            EmailVouching { managed_domains: vec!["b.test".into()], ..by_email.email.clone() };
        let managed = Profile { email: managed, ..by_email };
        assert_eq!(lacks(&managed, &object(address)), [""; 0]);
        let require = Requirement { claim: ClaimPath::named("hd"), any_of: vec!["x".into()] };
        let claims = ClaimPaths {
            organization: ClaimPath::new("/org/id"),
            groups: vec![],
            ..ClaimPaths::default()
        };
        let more = Profile { require: vec![require], claims, ..usual.clone() };
        assert_eq!(lacks(&more, &full), ["hd", "/org/id"]);
        // Entra left the groups out: they are not at userinfo either.
        let overage = json!({"sub": "a", "_claim_names": {"groups": "src1"}});
        assert_eq!(lacks(&usual, &object(overage)), [""; 0]);
    }

    #[test]
    fn q15_what_the_id_token_lacks_is_added_and_nothing_it_says_is_replaced() {
        let profile = profile(&[MatchBy::Email]);
        let all = completed(&profile, thin(), &said()).unwrap();
        for name in ["preferred_username", "groups", "email", "email_verified"] {
            assert_eq!(all[name], said()[name], "{name}");
        }
        assert!(all.get("name").is_none() && all.get("rat").is_none(), "only what is configured");
        let mut own = thin();
        own["preferred_username"] = json!("own");
        own["groups"] = json!(["own"]);
        let kept = completed(&profile, own, &said()).unwrap();
        assert_eq!(
            (&kept["preferred_username"], &kept["groups"]),
            (&json!("own"), &json!(["own"]))
        );
    }

    #[test]
    fn q15_a_response_about_another_person_is_refused() {
        let profile = profile(&[MatchBy::Subject]);
        for sub in [
            json!("f0919358"),
            json!("F0919359"),
            json!(""),
            json!(null),
            json!(7),
            json!(["f0919359"]),
        ] {
            let mut response = said();
            response["sub"] = sub.clone();
            let error = completed(&profile, thin(), &response).unwrap_err();
            assert_eq!(error, UserinfoError::Person, "{sub}");
        }
        let mut without = said();
        without.as_object_mut().unwrap().remove("sub");
        assert_eq!(completed(&profile, thin(), &without), Err(UserinfoError::Person));
        for text in ["", "[]", "eyJhbGciOiJSUzI1NiJ9.e30.x", r#"{"sub":"f0919359","sub":"x"}"#] {
            let mut claims = object(thin());
            let error = complete(&profile, &mut claims, text.as_bytes());
            assert_eq!(error, Err(UserinfoError::Form), "{text}");
            assert_eq!(Value::Object(claims), thin(), "unchanged");
        }
    }

    #[test]
    fn q15_no_claim_about_the_token_itself_is_taken() {
        let any_of: Vec<Box<str>> = vec!["x".into()];
        let require = OF_THE_TOKEN
            .map(|name| Requirement { claim: ClaimPath::named(name), any_of: any_of.clone() });
        let claims = ClaimPaths {
            organization: Some(ClaimPath::named("tid")),
            username: ClaimPath::new("/cnf/jkt").unwrap(),
            email: ClaimPath::named("nonce"),
            ..ClaimPaths::default()
        };
        let profile = Profile { require: require.into(), claims, ..profile(&[MatchBy::Email]) };
        let mut response: Map<_, _> =
            OF_THE_TOKEN.iter().map(|name| ((*name).to_owned(), json!("x"))).collect();
        response.insert("sub".into(), json!("f0919359"));
        let id = json!({"sub": "f0919359", "groups": []});
        let all = completed(&profile, id.clone(), &Value::Object(response)).unwrap();
        assert_eq!(all, id);
    }

    #[test]
    fn q15_an_address_and_the_word_that_it_is_verified_come_from_one_place() {
        let profile = profile(&[MatchBy::Email]);
        let id = |email: Value, verified: Value| {
            let mut claims = object(thin());
            claims.extend([("email".to_owned(), email), ("email_verified".to_owned(), verified)]);
            claims.retain(|_, value| !value.is_null());
            Value::Object(claims)
        };
        let pair =
            |claims: &Value| (claims.get("email").cloned(), claims.get("email_verified").cloned());
        let (theirs, yes, no) = (json!("alice@corp.test"), json!(true), json!(false));
        let victim = json!("victim@corp.test");
        for (email, verified, want) in [
            (json!(null), json!(null), (Some(theirs.clone()), Some(yes.clone()))),
            // An address that the provider does not vouch for is not made verified by a word about another one.
            (victim.clone(), json!(null), (Some(theirs.clone()), Some(yes.clone()))),
            (json!(null), yes.clone(), (Some(theirs), Some(yes))),
            (victim.clone(), no.clone(), (Some(victim), Some(no))),
        ] {
            let all = completed(&profile, id(email.clone(), verified.clone()), &said()).unwrap();
            assert_eq!(pair(&all), want, "{email} {verified}");
        }
        // Userinfo has an address, and no word on it.
        let silent = json!({"sub": "f0919359", "email": "alice@corp.test"});
        let all = completed(&profile, id(json!(null), json!(true)), &silent).unwrap();
        assert_eq!(pair(&all), (Some(json!("alice@corp.test")), None));
        // Userinfo has a word, and no address.
        let word = json!({"sub": "f0919359", "email_verified": true});
        let all = completed(&profile, id(json!("x@y.test"), json!(null)), &word).unwrap();
        assert_eq!(pair(&all), (Some(json!("x@y.test")), None));
    }

    /// Claims with names that matter here and values of every type.
    fn any_claims() -> impl Strategy<Value = Map<String, Value>> {
        let names: Vec<&str> = OF_THE_TOKEN
            .into_iter()
            .chain(["groups", "preferred_username", "email", "email_verified", "org", "x"])
            .collect();
        let value = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z@.]{0,8}".prop_map(Value::from),
            Just(json!(["a", 1, {"b": []}])),
            Just(json!({"a": {"b": null}})),
        ];
        let pairs = collection::vec((sample::select(names), value), 0..12);
        pairs.prop_map(|pairs| {
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        })
    }

    proptest! {
        #[test]
        fn q15_no_response_changes_what_the_id_token_says(
            id in any_claims(),
            response in any_claims(),
            is_same: bool,
        ) {
            let claims = ClaimPaths { organization: ClaimPath::new("/org/a"), ..ClaimPaths::default() };
            let profile = Profile { claims, ..profile(&[MatchBy::Email]) };
            let (mut claims, mut response) = (id, response);
            claims.insert("sub".into(), json!("alice"));
            if is_same {
                response.insert("sub".into(), json!("alice"));
            }
            let before = claims.clone();
            let text = Value::Object(response).to_string();
            if complete(&profile, &mut claims, text.as_bytes()).is_err() {
                prop_assert_eq!(&claims, &before);
            }
            for name in OF_THE_TOKEN {
                prop_assert_eq!(claims.get(name), before.get(name), "{}", name);
            }
            for (name, value) in before.iter().filter(|(name, _)| !name.starts_with("email")) {
                prop_assert_eq!(claims.get(name), Some(value), "{}", name);
            }
        }
    }
}
