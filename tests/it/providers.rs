//! Providers and their habits: presets, against tokens of the shape each of them makes.

use identity_spoa::{
    identity::{Identity, TokenError, claims, settings::IssuerSettings},
    sign_in::logout::Ended,
    time::Timestamp,
};
use serde_json::{Map, Value, json};

use crate::support::issuers;

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const OTHER_TENANT: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

fn one(table: &str) -> IssuerSettings {
    issuers(&format!("[[issuer]]\nname = 'corp'\naudience = 'workspaces'\n{table}"))
        .unwrap()
        .remove(0)
}

fn mistake(table: &str) -> String {
    issuers(&format!("[[issuer]]\nname = 'corp'\naudience = 'workspaces'\n{table}")).unwrap_err()
}

/// The identity of claims with those that each token has.
fn read(issuer: &IssuerSettings, typed: bool, more: Value) -> Result<Identity, TokenError> {
    let now = Timestamp::now().as_millis() / 1000;
    let mut all =
        json!({"aud": "workspaces", "exp": now + 60, "iat": now}).as_object().unwrap().clone();
    let Value::Object(more) = more else { panic!() };
    all.extend(more);
    let all: Map<_, _> = all.into_iter().filter(|(_, value)| !value.is_null()).collect();
    claims::identity(&issuer.profile, &all, typed, Timestamp::now())
}

fn groups(identity: &Identity) -> Vec<&str> {
    identity.groups.iter().map(|group| &**group).collect()
}

#[test]
fn okta_access_tokens_of_a_custom_server_count_and_its_org_server_is_pointed_out() {
    let okta = one("preset = 'okta'\nissuer = 'https://corp.okta.com/oauth2/default'");
    let token = json!({
        "ver": 1, "jti": "AT.x", "iss": "https://corp.okta.com/oauth2/default", "cid": "0oa1",
        "uid": "00u1", "scp": ["openid"], "auth_time": 1, "sub": "alice@corp.test",
        "groups": ["Everyone", "Engineers"],
    });
    let alice = read(&okta, false, token).unwrap();
    assert_eq!((&*alice.subject, alice.label()), ("alice@corp.test", "alice@corp.test"));
    assert_eq!(groups(&alice), ["Everyone", "Engineers"]);
    assert_eq!(
        alice.email, None,
        "a login name that looks like an address is not a verified address"
    );
    let text = mistake("preset = 'okta'\nissuer = 'https://corp.okta.com'");
    assert!(text.contains("oauth2/default"), "{text}");
}

fn entra(table: &str) -> IssuerSettings {
    one(&format!("preset = 'entra'\ntenants = ['{TENANT}']\n{table}"))
}

fn entra_token(version: u8, tenant: &str) -> Value {
    let iss = match version {
        1 => format!("https://sts.windows.net/{tenant}/"),
        _ => format!("https://login.microsoftonline.com/{tenant}/v2.0"),
    };
    json!({
        "iss": iss, "tid": tenant, "oid": "oid-alice", "sub": "pairwise", "ver": format!("{version}.0"),
        "preferred_username": "alice@corp.test", "email": "alice@corp.test",
        "roles": ["Admin"], "groups": ["g-1"],
    })
}

#[test]
fn j10_entra_tokens_count_for_the_listed_tenants_only() {
    let entra = entra("");
    assert!(
        entra
            .profile
            .discovery
            .as_str()
            .ends_with("/organizations/v2.0/.well-known/openid-configuration")
    );
    let alice = read(&entra, false, entra_token(2, TENANT)).unwrap();
    assert_eq!(&*alice.subject, "oid-alice", "sub differs from application to application");
    assert_eq!(&*alice.issuer, format!("https://login.microsoftonline.com/{TENANT}/v2.0"));
    assert_eq!(groups(&alice), ["g-1", "role:Admin"]);
    assert_eq!(alice.email, None, "j20: Entra's e-mail is anything its owner likes");
    assert_eq!(read(&entra, false, entra_token(2, OTHER_TENANT)).unwrap_err(), TokenError::Issuer);
    let mut mixed = entra_token(2, TENANT);
    for tid in [json!(OTHER_TENANT), Value::Null, json!([TENANT])] {
        mixed["tid"] = tid;
        assert_eq!(read(&entra, false, mixed.clone()).unwrap_err(), TokenError::Tenant);
    }
    let mut template = entra_token(2, TENANT);
    template["iss"] = json!("https://login.microsoftonline.com/{tenantid}/v2.0");
    assert_eq!(read(&entra, false, template).unwrap_err(), TokenError::Issuer);
}

#[test]
fn j10_entra_tokens_of_version_1_count_only_where_they_are_listed() {
    assert_eq!(read(&entra(""), false, entra_token(1, TENANT)).unwrap_err(), TokenError::Issuer);
    let both = entra("also_issuers = ['https://sts.windows.net/{tenantid}/']");
    assert!(read(&both, false, entra_token(1, TENANT)).is_ok());
    assert!(read(&both, false, entra_token(2, TENANT)).is_ok());
    assert_eq!(read(&both, false, entra_token(1, OTHER_TENANT)).unwrap_err(), TokenError::Issuer);
}

#[test]
fn entra_of_a_single_tenant_is_reached_at_its_own_address() {
    let own = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
    let table = format!("preset = 'entra'\nissuer = '{own}'");
    let single = one(&table);
    let discovery = format!("{own}/.well-known/openid-configuration");
    assert_eq!(single.profile.discovery.as_str(), discovery);
    assert_eq!(&*read(&single, false, entra_token(2, TENANT)).unwrap().subject, "oid-alice");
    for (version, tenant) in [(2, OTHER_TENANT), (1, TENANT)] {
        let other = read(&single, false, entra_token(version, tenant));
        assert_eq!(other.unwrap_err(), TokenError::Issuer);
    }
    let text = mistake(&format!("{table}\ntenants = ['{TENANT}']"));
    assert!(text.contains("remove 'tenants'"), "{text}");
}

#[test]
fn entra_without_a_tenant_or_with_all_of_them_is_a_mistake() {
    for (table, want) in [
        ("preset = 'entra'", "an issuer with \"{tenantid}\" needs 'tenants'"),
        ("preset = 'entra'\ntenants = []", "an issuer with \"{tenantid}\" needs 'tenants'"),
        ("preset = 'entra'\ntenants = ['common']", "expected a tenant id"),
        (
            "issuer = 'https://a.test'\ntenants = ['72f988bf-86f1-41af-91ab-2d7cd011db47']",
            "'tenants' needs an issuer with \"{tenantid}\": remove 'tenants'",
        ),
    ] {
        let text = mistake(table);
        assert!(text.contains(want), "{table}: {text}");
    }
}

#[test]
fn entra_says_when_it_left_the_groups_out() {
    for mark in [
        json!({"hasgroups": true}),
        json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.windows.net/x"}}}),
    ] {
        let mut token = entra_token(2, TENANT);
        token["groups"] = Value::Null;
        token.as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
        assert!(read(&entra(""), false, token).unwrap().groups_overage, "{mark}");
    }
    assert!(!read(&entra(""), false, entra_token(2, TENANT)).unwrap().groups_overage);
}

#[test]
fn auth0_has_namespaced_claims_and_an_issuer_with_a_slash() {
    let auth0 = one(
        "preset = 'auth0'\nissuer = 'https://corp.eu.auth0.com/'\n[issuer.claims]\ngroups = [{ claim = 'https://corp.test/roles', prefix = 'role:' }]",
    );
    assert_eq!(
        auth0.profile.discovery.as_str(),
        "https://corp.eu.auth0.com/.well-known/openid-configuration"
    );
    let token = json!({
        "iss": "https://corp.eu.auth0.com/", "sub": "auth0|5f", "azp": "client", "scope": "openid",
        "aud": ["workspaces", "https://corp.eu.auth0.com/userinfo"],
        "https://corp.test/roles": ["admin"],
    });
    let alice = read(&auth0, true, token.clone()).unwrap();
    assert_eq!(groups(&alice), ["role:admin"]);
    let mut without = token;
    without["iss"] = json!("https://corp.eu.auth0.com");
    assert_eq!(read(&auth0, true, without).unwrap_err(), TokenError::Issuer);
    let text = mistake("preset = 'auth0'\nissuer = 'https://corp.eu.auth0.com'");
    assert!(text.contains("slash"), "{text}");
}

#[test]
fn keycloak_roles_and_groups_are_found_and_its_other_tokens_refused() {
    let keycloak = one("preset = 'keycloak'\nissuer = 'https://sso.corp.test/realms/main'");
    let token = |kind: &str| {
        json!({
            "iss": "https://sso.corp.test/realms/main", "sub": "f:1", "typ": kind, "azp": "web",
            "aud": ["workspaces", "account"], "preferred_username": "alice",
            "email": "Alice@corp.test", "email_verified": true,
            "realm_access": {"roles": ["developer"]}, "groups": ["/teams/blue", "flat"],
            "sid": "s-1", "jti": "t-1",
        })
    };
    let alice = read(&keycloak, false, token("Bearer")).unwrap();
    assert_eq!(groups(&alice), ["teams/blue", "flat", "role:developer"]);
    assert_eq!(alice.email.as_deref(), Some("alice@corp.test"));
    assert_eq!(
        (alice.token.session.as_deref(), alice.token.id.as_deref()),
        (Some("s-1"), Some("t-1"))
    );
    for kind in ["ID", "Refresh", "Offline", "Logout", "Serialized-ID", ""] {
        assert_eq!(read(&keycloak, false, token(kind)).unwrap_err(), TokenError::Type, "{kind}");
    }
    // Keycloak's usual mistake: the audience mapper is missing.
    let mut unmapped = token("Bearer");
    unmapped["aud"] = json!("account");
    assert_eq!(read(&keycloak, false, unmapped).unwrap_err(), TokenError::Audience);
    let text = mistake("preset = 'keycloak'\nissuer = 'https://sso.corp.test'");
    assert!(text.contains("realm"), "{text}");
}

#[test]
fn google_id_tokens_count_for_the_listed_domain_in_both_spellings_of_the_issuer() {
    let google = one(
        "preset = 'google'\nrequire = [{ claim = 'hd', any_of = ['corp.test', 'corp.example'] }]",
    );
    let token = |iss: &str, hd: Value| {
        json!({"iss": iss, "azp": "workspaces", "sub": "1234", "hd": hd, "email": "a@corp.test",
               "email_verified": true, "at_hash": "x", "nonce": "n"})
    };
    for iss in ["https://accounts.google.com", "accounts.google.com"] {
        let alice = read(&google, false, token(iss, json!("corp.test"))).unwrap();
        assert_eq!(alice.organization.as_deref(), Some("corp.test"));
        for hd in [json!("evil.test"), Value::Null, json!("")] {
            assert_eq!(read(&google, false, token(iss, hd)).unwrap_err(), TokenError::Requirement);
        }
    }
    let wrong = token("http://accounts.google.com", json!("corp.test"));
    assert_eq!(read(&google, false, wrong).unwrap_err(), TokenError::Issuer);
    let text = mistake("preset = 'google'");
    assert!(text.contains("every Google account"), "{text}");
}

#[test]
fn gitpod_and_ona_workspace_tokens_stand_for_the_person_they_belong_to() {
    let gitpod = one("preset = 'gitpod'\nrequire = [{ claim = 'org_id', any_of = ['org-1'] }]");
    let token = json!({
        "iss": "https://api.gitpod.io/idp", "sub": "https://github.com/corp/demo", "user_id": "user-a",
        "org_id": "org-1", "workspace_id": "ws-1", "aud": ["workspaces"],
    });
    let alice = read(&gitpod, false, token.clone()).unwrap();
    assert_eq!((&*alice.subject, alice.organization.as_deref()), ("user-a", Some("org-1")));
    let mut elsewhere = token;
    elsewhere["org_id"] = json!("org-2");
    assert_eq!(read(&gitpod, false, elsewhere).unwrap_err(), TokenError::Requirement);

    let ona = one("preset = 'ona'\nrequire = [{ claim = 'organization_id', any_of = ['o-1'] }]");
    let token = json!({
        "iss": "https://app.gitpod.io", "sub": "organization_id:o-1:project_id:p", "creator_id": "u-1",
        "organization_id": "o-1", "environment_id": "e-1", "creator_email": "a@corp.test",
    });
    let alice = read(&ona, false, token).unwrap();
    assert_eq!((&*alice.subject, alice.email), ("u-1", None));
    for preset in ["gitpod", "ona"] {
        assert!(mistake(&format!("preset = '{preset}'")).contains("every"), "{preset}");
    }
}

#[test]
fn j13_the_kinds_of_token_are_kept_apart() {
    let base = "issuer = 'https://a.test'";
    let with = |tokens: &str| one(&format!("{base}\ntoken_types = [{tokens}]"));
    let access = json!({"iss": "https://a.test", "sub": "s"});
    let id = json!({"iss": "https://a.test", "sub": "s", "nonce": "n"});
    let said = json!({"iss": "https://a.test", "sub": "s", "token_use": "id"});
    let logout = json!({"iss": "https://a.test", "sub": "s", "events": {}});
    let both = json!({"iss": "https://a.test", "sub": "s", "typ": "Bearer", "token_use": "id"});
    for (tokens, typed, plain, of_id) in [
        ("'at+jwt'", true, false, false),
        ("'access'", true, true, false),
        ("'access', 'id'", true, true, true),
        ("'at+jwt', 'id'", true, false, true),
        ("'id'", false, true, true),
    ] {
        let issuer = with(tokens);
        let counts = |typed, token: &Value| read(&issuer, typed, token.clone()).is_ok();
        assert_eq!(counts(true, &access), typed, "{tokens}");
        assert_eq!(counts(false, &access), plain, "{tokens}");
        assert_eq!((counts(false, &id), counts(false, &said)), (of_id, of_id), "{tokens}");
        for never in [&logout, &both] {
            assert!(!counts(false, never) && !counts(true, never), "{tokens} {never}");
        }
    }
    assert!(mistake(&format!("{base}\ntoken_types = []")).contains("at least one"));
}

#[test]
fn j11_an_id_token_is_for_us_alone() {
    let issuer = one("issuer = 'https://a.test'\ntoken_types = ['id']");
    for (aud, azp, counts) in [
        (json!("workspaces"), Value::Null, true),
        (json!("workspaces"), json!("workspaces"), true),
        (json!(["workspaces"]), Value::Null, true),
        (json!("workspaces"), json!("other"), false),
        (json!("workspaces"), json!(["workspaces"]), false),
        (json!(["workspaces", "other"]), json!("workspaces"), false),
        (json!(["workspaces", "workspaces"]), Value::Null, false),
        (json!("other"), Value::Null, false),
        (json!([]), Value::Null, false),
    ] {
        let token =
            json!({"iss": "https://a.test", "sub": "s", "nonce": "n", "aud": aud, "azp": azp});
        assert_eq!(read(&issuer, false, token).is_ok(), counts, "{aud} {azp}");
    }
}

#[test]
fn j12_a_token_can_be_too_old_whatever_its_end() {
    let issuer = one("issuer = 'https://a.test'\nmax_age_seconds = 600\nleeway_seconds = 0");
    let now = Timestamp::now().as_millis() / 1000;
    let token =
        |iat: Value| json!({"iss": "https://a.test", "sub": "s", "iat": iat, "exp": now + 86_400});
    let young = read(&issuer, false, token(json!(now))).unwrap();
    assert!(young.expires <= Timestamp::from_secs(now + 600), "remembered no longer than that");
    assert_eq!(read(&issuer, false, token(json!(now - 601))).unwrap_err(), TokenError::Expired);
    assert_eq!(read(&issuer, false, token(Value::Null)).unwrap_err(), TokenError::Claims);
}

#[test]
fn the_example_of_each_providers_page_is_a_good_configuration() {
    let directory = crate::support::haproxy::root().join("docs/providers");
    let mut pages = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = text.split_once("```toml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let preset = format!("preset = \"{}\"", path.file_stem().unwrap().to_str().unwrap());
        assert!(example.contains(&preset), "{}", path.display());
        assert_eq!(issuers(example).unwrap().len(), 1, "{}", path.display());
        pages += 1;
    }
    assert_eq!(pages, 7);
}

#[test]
fn s8_presets_with_another_subject_keep_the_sub_of_the_id_token() {
    let require = |claim: &str| format!("require = [{{ claim = '{claim}', any_of = ['o'] }}]");
    let gitpod = one(&format!("preset = 'gitpod'\n{}", require("org_id")));
    let ona = one(&format!("preset = 'ona'\n{}", require("organization_id")));
    for (issuer, token, subject) in [
        (entra(""), entra_token(2, TENANT), "oid-alice"),
        (
            gitpod,
            json!({ "iss": "https://api.gitpod.io/idp", "sub": "pairwise", "user_id": "u", "org_id": "o" }),
            "u",
        ),
        (
            ona,
            json!({ "iss": "https://app.gitpod.io", "sub": "pairwise", "creator_id": "u", "organization_id": "o" }),
            "u",
        ),
    ] {
        let iss = Box::from(token["iss"].as_str().unwrap());
        let alice = read(&issuer, false, token).unwrap();
        assert_eq!((&*alice.subject, alice.token.sub.as_deref()), (subject, Some("pairwise")));
        let ended = |sub: &str| {
            let (issuer, subject) = (Box::clone(&iss), Some(sub.into()));
            Ended { issuer, subject, session: None, id: "1".into() }.names(&alice)
        };
        assert!(ended("pairwise") && !ended(subject));
    }
}
