//! Providers and their habits: presets, against tokens of the shape each of them makes.

use identity_spoa::{
    identity::{Identity, TokenError, claims, settings::IssuerSettings},
    sign_in::logout::Ended,
    time::Timestamp,
};
use serde_json::{Map, Value, json};

use crate::support::{issuers, issuers_of_file};

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

/// For people of two tenants.
fn entra_of_two() -> IssuerSettings {
    one(&format!("preset = 'entra'\ntenants = ['{TENANT}', '{OTHER_TENANT}']"))
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
        entra_of_two()
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
        // Some pages have a whole file, others what belongs to the provider.
        let read = if example.starts_with("[agent]") { issuers_of_file } else { issuers };
        assert_eq!(read(example).unwrap().len(), 1, "{}", path.display());
        pages += 1;
    }
    assert_eq!(pages, 13);
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

#[test]
fn q12_with_one_tenant_that_tenants_own_addresses_are_used() {
    let own = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
    let single = entra("");
    let discovery = format!("{own}/.well-known/openid-configuration");
    assert_eq!(single.profile.discovery.as_str(), discovery, "not /organizations/: AADSTS50194");
    assert_eq!(single.profile.issuer.as_str(), own, "which that document names as its issuer");
    // The tenant is checked as before, and the issuer keeps its identifier when a second tenant is added.
    assert!(read(&single, false, entra_token(2, TENANT)).is_ok());
    let mut foreign = entra_token(2, TENANT);
    foreign["tid"] = json!(OTHER_TENANT);
    assert_eq!(read(&single, false, foreign).unwrap_err(), TokenError::Tenant);
    let other = read(&single, false, entra_token(2, OTHER_TENANT));
    assert_eq!(other.unwrap_err(), TokenError::Issuer);
    let several = entra_of_two();
    let identifier = |issuer: &IssuerSettings| issuer.profile.authority.identifier.clone();
    assert_eq!(identifier(&single), identifier(&several));
    for tenant in [TENANT, OTHER_TENANT] {
        assert!(read(&several, false, entra_token(2, tenant)).is_ok());
    }
    let old = entra("also_issuers = ['https://sts.windows.net/{tenantid}/']");
    assert!(read(&old, false, entra_token(1, TENANT)).is_ok());
    assert_eq!(old.profile.discovery.as_str(), discovery);
    let elsewhere = entra("discovery_url = 'https://login.microsoftonline.us/x'");
    assert_eq!(elsewhere.profile.discovery.as_str(), "https://login.microsoftonline.us/x");
}

/// An ID token of Azure AD B2C, which has the policy in `tfp` and addresses in a list.
fn b2c_token(policy: &str) -> Value {
    json!({
        "iss": format!("https://corp.b2clogin.com/{TENANT}/v2.0/"), "sub": "oid-alice", "tfp": policy,
        "nonce": "n", "emails": ["Alice@corp.test", "other@corp.test"], "ver": "1.0",
    })
}

#[test]
fn q12_b2c_has_a_discovery_document_for_each_policy_and_one_issuer() {
    let b2c = one(&format!(
        "issuer = 'https://corp.b2clogin.com/{TENANT}/v2.0/'\n\
         discovery_url = 'https://corp.b2clogin.com/corp.onmicrosoft.com/B2C_1_in/v2.0/.well-known/openid-configuration'\n\
         token_types = ['access', 'id']\nmanaged_email_domains = ['corp.test']\n\
         require = [{{ claim = 'tfp', any_of = ['B2C_1_in'] }}]\n[issuer.claims]\nemail = '/emails/0'"
    ));
    let alice = read(&b2c, false, b2c_token("B2C_1_in")).unwrap();
    assert_eq!((&*alice.subject, alice.email.as_deref()), ("oid-alice", Some("alice@corp.test")));
    let other = read(&b2c, false, b2c_token("B2C_1_edit"));
    assert_eq!(other.unwrap_err(), TokenError::Requirement);
}

#[test]
fn q13_entra_vouches_by_xms_edov_and_by_nothing_else() {
    for (claims, used) in [
        (json!({"xms_edov": true}), true),
        (json!({"xms_edov": 1}), true),
        (json!({"xms_edov": "1"}), true),
        (json!({"xms_edov": "true"}), true),
        (json!({"xms_edov": false}), false),
        (json!({"xms_edov": 0}), false),
        (json!({"xms_edov": "0"}), false),
        (json!({"email_verified": true}), false),
        (json!({}), false),
    ] {
        let mut token = entra_token(2, TENANT);
        token.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let alice = read(&entra(""), false, token).unwrap();
        assert_eq!(alice.email.is_some(), used, "{claims}");
    }
    let managed = entra("managed_email_domains = ['corp.test']");
    let alice = read(&managed, false, entra_token(2, TENANT)).unwrap();
    assert_eq!(alice.email.as_deref(), Some("alice@corp.test"));
    // A guest has an address of another company.
    let mut guest = entra_token(2, TENANT);
    guest["email"] = json!("bob@partner.test");
    assert_eq!(read(&managed, false, guest).unwrap().email, None);
    let text = mistake(&format!(
        "preset = 'entra'\ntenants = ['{TENANT}', '{OTHER_TENANT}']\nmanaged_email_domains = ['corp.test']"
    ));
    assert!(text.contains("an [[issuer]] for each tenant"), "{text}");
    for domain in ["@corp.test", "Corp.test", "corp", "corp.test.", "", "*.corp.test"] {
        let text = mistake(&format!(
            "preset = 'entra'\ntenants = ['{TENANT}']\nmanaged_email_domains = ['{domain}']"
        ));
        assert!(text.contains("expected a domain in lower case"), "{domain}: {text}");
    }
}

fn cognito(token_use: &str) -> Value {
    let mut token = json!({
        "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_abc", "sub": "c0ffee",
        "token_use": token_use, "cognito:groups": ["engineers"], "event_id": "e", "jti": "j",
        "origin_jti": "o", "auth_time": 1,
    });
    let more = match token_use {
        "access" => {
            json!({"aud": null, "client_id": "workspaces", "scope": "openid", "version": 2, "username": "alice"})
        }
        _ => {
            json!({"cognito:username": "alice", "email": "a@corp.test", "email_verified": true, "at_hash": "x"})
        }
    };
    token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    token
}

#[test]
fn q16_cognito_access_tokens_are_for_the_client_that_they_name() {
    let issuer =
        "preset = 'cognito'\nissuer = 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_abc'";
    let pool = one(issuer);
    let alice = read(&pool, false, cognito("access")).unwrap();
    assert_eq!((&*alice.subject, groups(&alice)), ("c0ffee", vec!["engineers"]));
    let mut other = cognito("access");
    other["client_id"] = json!("elsewhere");
    assert_eq!(read(&pool, false, other).unwrap_err(), TokenError::Audience);
    let mut none = cognito("access");
    none["client_id"] = Value::Null;
    assert_eq!(read(&pool, false, none).unwrap_err(), TokenError::Claims);
    for kind in ["id", "refresh"] {
        assert_eq!(read(&pool, false, cognito(kind)).unwrap_err(), TokenError::Type);
    }
    let ids = one(&format!("{issuer}\ntoken_types = ['id']"));
    let alice = read(&ids, false, cognito("id")).unwrap();
    assert_eq!((alice.label(), alice.email.as_deref()), ("alice", Some("a@corp.test")));
    // Without the preset the claim must be named.
    let plain = "issuer = 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_abc'";
    assert_eq!(read(&one(plain), false, cognito("access")).unwrap_err(), TokenError::Claims);
    let named = one(&format!("{plain}\naudience_claim = 'client_id'"));
    assert!(read(&named, false, cognito("access")).is_ok());
    let text =
        mistake("preset = 'cognito'\nissuer = 'https://corp.auth.eu-west-1.amazoncognito.com'");
    assert!(text.contains("names the user pool"), "{text}");
}

#[test]
fn q14_zitadel_names_the_project_in_the_audience_and_roles_as_keys() {
    let token = json!({
        "iss": "https://corp.zitadel.cloud", "sub": "2856", "azp": "workspaces", "nonce": "n",
        "aud": ["workspaces", "285641290152214531"], "client_id": "workspaces", "amr": ["pwd"],
        "urn:zitadel:iam:user:resourceowner:id": "org-1",
        "urn:zitadel:iam:org:project:roles": {"admin": {"org-1": "corp.test"}, "dev": {"org-1": "corp.test"}},
    });
    let issuer = "preset = 'zitadel'\nissuer = 'https://corp.zitadel.cloud'\ntoken_types = ['id']";
    let untrusting = read(&one(issuer), false, token.clone());
    assert_eq!(untrusting.unwrap_err(), TokenError::Audience);
    let trusting = one(&format!("{issuer}\ntrusted_audiences = ['285641290152214531']"));
    let alice = read(&trusting, false, token.clone()).unwrap();
    assert_eq!(groups(&alice), ["role:admin", "role:dev"]);
    assert_eq!(alice.organization.as_deref(), Some("org-1"));
    // Roles in any other form are none.
    for roles in [json!(["admin"]), json!("admin"), json!([{"admin": {}}]), json!(null)] {
        let mut other = token.clone();
        other["urn:zitadel:iam:org:project:roles"] = roles.clone();
        assert!(read(&trusting, false, other).unwrap().groups.is_empty(), "{roles}");
    }
    // A claim whose values are names gives no name for its keys.
    let values = one("issuer = 'https://corp.zitadel.cloud'");
    let object = json!({"iss": "https://corp.zitadel.cloud", "sub": "s", "groups": {"admin": {}}});
    assert!(read(&values, false, object).unwrap().groups.is_empty());
    assert!(mistake(&format!("{issuer}\ntrusted_audiences = []")).contains("at least one"));
}

#[test]
fn authentik_and_dex_make_access_tokens_that_look_like_id_tokens() {
    let authentik =
        one("preset = 'authentik'\nissuer = 'https://sso.corp.test/application/o/gate/'");
    let token = json!({
        "iss": "https://sso.corp.test/application/o/gate/", "sub": "b6a1", "azp": "workspaces",
        "acr": "goauthentik.io/providers/oauth2/default", "nonce": "n", "uid": "u", "sid": "s",
        "email": "a@corp.test", "email_verified": false, "preferred_username": "alice",
        "groups": ["authentik Admins"], "scope": "openid",
    });
    let alice = read(&authentik, false, token.clone()).unwrap();
    // q13: false for every person from 2025.10 on.
    assert_eq!((groups(&alice), alice.email.as_deref()), (vec!["authentik Admins"], None));
    let managed = one(
        "preset = 'authentik'\nissuer = 'https://sso.corp.test/application/o/gate/'\nmanaged_email_domains = ['corp.test']",
    );
    assert_eq!(read(&managed, false, token).unwrap().email.as_deref(), Some("a@corp.test"));
    let text = mistake("preset = 'authentik'\nissuer = 'https://sso.corp.test/application/o/gate'");
    assert!(text.contains("slash"), "{text}");

    let dex = one("preset = 'dex'\nissuer = 'https://dex.corp.test'");
    let token = json!({
        "iss": "https://dex.corp.test", "sub": "CgVhbGljZRIEbGRhcA", "at_hash": "x", "email": "a@corp.test",
        "email_verified": true, "groups": ["engineers"], "name": "Alice", "preferred_username": "alice",
        "federated_claims": {"connector_id": "ldap", "user_id": "alice"},
    });
    let alice = read(&dex, false, token.clone()).unwrap();
    assert_eq!((alice.label(), groups(&alice)), ("alice", vec!["engineers"]));
    // Issued to one client for another, which must not know who signs in here.
    let mut cross = token;
    (cross["aud"], cross["azp"]) = (json!(["workspaces", "other"]), json!("other"));
    assert_eq!(read(&dex, false, cross).unwrap_err(), TokenError::Audience);
}

#[test]
fn gitlab_tokens_count_for_members_of_the_listed_groups_only() {
    let gitlab = one(
        "preset = 'gitlab'\nissuer = 'https://gitlab.com'\nrequire = [{ claim = 'groups_direct', any_of = ['corp'] }]",
    );
    let token = |direct: Value| {
        json!({
            "iss": "https://gitlab.com", "sub": "4711", "sub_legacy": "x", "name": "Alice", "nonce": "n",
            "nickname": "alice", "preferred_username": "alice", "email": "a@corp.test",
            "email_verified": true, "groups_direct": direct,
        })
    };
    let alice = read(&gitlab, false, token(json!(["corp", "corp/blue"]))).unwrap();
    assert_eq!((alice.label(), groups(&alice)), ("alice", vec!["corp", "corp/blue"]));
    assert_eq!(alice.email.as_deref(), Some("a@corp.test"));
    for direct in [json!(["evil"]), json!([]), json!(null), json!("corp/x")] {
        let other = read(&gitlab, false, token(direct.clone()));
        assert_eq!(other.unwrap_err(), TokenError::Requirement, "{direct}");
    }
    let text = mistake("preset = 'gitlab'\nissuer = 'https://gitlab.com'");
    assert!(text.contains("every GitLab.com account"), "{text}");
    assert!(one("preset = 'gitlab'\nissuer = 'https://git.corp.test'").profile.tokens.id);
}

#[test]
fn q16_each_way_to_prove_the_client_is_one_configuration_and_mixtures_are_mistakes() {
    let client = |lines: &str| {
        issuers(&format!(
            "[[issuer]]\nname = 'corp'\naudience = 'workspaces'\nissuer = 'https://a.test'\n\
             [issuer.sign_in]\nclient_id = 'gate'\n{lines}"
        ))
    };
    for good in [
        "client_secret_file = 's'",
        "client_secret_env = 'S'\nauth_method = 'client_secret_post'",
        "client_secret_env = 'S'\nauth_method = 'client_secret_basic'",
        "private_key_file = 'k'\nkey_id = '1'\nassertion_audience = 'endpoint'",
        "private_key_file = 'k'\nauth_method = 'private_key_jwt'",
        "auth_method = 'none'",
    ] {
        assert!(client(good).is_ok(), "{good}: {:?}", client(good).err());
    }
    for bad in [
        "",
        "client_secret_env = 'S'\nauth_method = 'none'",
        "client_secret_env = 'S'\nauth_method = 'private_key_jwt'",
        "client_secret_env = 'S'\nkey_id = '1'",
        "client_secret_env = 'S'\nassertion_audience = 'endpoint'",
        "client_secret_env = 'S'\nclient_secret_file = 's'",
        "private_key_file = 'k'\nauth_method = 'client_secret_post'",
        "private_key_file = 'k'\nclient_secret_env = 'S'",
        "auth_method = 'client_secret_basic'",
        "auth_method = 'none'\nkey_id = '1'",
    ] {
        let text = client(bad).unwrap_err();
        assert!(text.contains("expected exactly one of"), "{bad}: {text}");
    }
    let text = issuers(
        "[[issuer]]\nname = 'corp'\naudience = 'w'\nissuer = 'https://a.test'\n\
         [issuer.introspection]\nclient_id = 'gate'\nauth_method = 'none'",
    )
    .unwrap_err();
    assert!(text.contains("is for sign-in"), "{text}");
}

#[test]
fn q16_parameters_of_the_authorize_address_are_those_of_a_list_and_never_the_agents_own() {
    let client = |preset: &str, lines: &str| {
        issuers(&format!(
            "[[issuer]]\nname = 'corp'\naudience = 'w'\n{preset}\n[issuer.sign_in]\nclient_id = 'gate'\n\
             client_secret_env = 'S'\n[issuer.sign_in.authorize]\n{lines}"
        ))
        .map(|mut all| all.remove(0).client.unwrap())
    };
    let plain = "issuer = 'https://a.test'";
    let all = client(
        plain,
        "prompt = 'consent select_account'\nacr_values = 'a b'\ndomain_hint = 'c'\nresource = 'https://r.test'",
    );
    assert_eq!(all.unwrap().authorize.0.len(), 4);
    for ours in [
        "state",
        "nonce",
        "redirect_uri",
        "client_id",
        "scope",
        "response_type",
        "response_mode",
        "code_challenge",
        "code_challenge_method",
        "request",
        "request_uri",
        "State",
        "claims",
    ] {
        let text = client(plain, &format!("{ours} = 'x'")).unwrap_err();
        assert!(text.contains(&format!("unknown key '{ours}'")), "{ours}: {text}");
    }
    for prompt in ["none", "login none", "", "Login", "login  consent"] {
        let text = client(plain, &format!("prompt = '{prompt}'")).unwrap_err();
        assert!(text.contains("expected some of"), "{prompt}: {text}");
    }
    let google = "preset = 'google'\nrequire = [{ claim = 'hd', any_of = ['corp.test'] }]";
    let sent = |lines: &str| client(google, lines).unwrap();
    let is = |client: &identity_spoa::identity::settings::ClientSettings, value: &str| {
        client.authorize.0.iter().any(|(name, found)| *name == "access_type" && **found == *value)
    };
    assert!(is(&sent(""), "offline") && is(&sent("access_type = 'online'"), "online"));
    assert_eq!(sent("access_type = 'online'").authorize.0.len(), 1);
    assert_eq!(sent("").ask_prompt, Some("select_account"));
    assert!(client(plain, "").unwrap().authorize.0.is_empty());
}
