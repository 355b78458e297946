//! Whose credential is it? Every combination of a token at a place of `[credentials]`, an
//! Authorization header, a session, a client certificate, a page, an endpoint and an introspection,
//! with the result that the table of docs/credentials.md gives.

use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::{
    gate::AuthorizationHeader,
    identity::{
        Identity,
        credential::{TokenHeader, TokenLocations},
    },
    request::token_location::SUBPROTOCOL,
    workspaces::Admission,
};

/// A token at a place where only tokens for the gate are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    None,
    At(Spot, Quality),
    /// Two tokens of alice, at two places.
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    Header,
    Cookie,
    Query,
    Subprotocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quality {
    /// A token of alice.
    Good,
    Expired,
    Garbage,
}

/// What the answers of introspection are in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Introspection {
    Off,
    Inactive,
    /// Every opaque token is alice's.
    Active,
    Away,
}

/// Whose the Authorization header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// There is none.
    Nothing,
    /// It has another scheme.
    Other,
    /// It has another scheme, and a token for the gate in it.
    Hidden,
    /// It has a token for the gate.
    Ours(Result<(), TokenError>),
    /// It has the app's token, which has this error where it is the only credential.
    Apps(TokenError),
    /// It is opaque, and its issuer says that it is not active.
    Ended,
    /// Its issuer cannot be asked.
    Unknown,
}

/// An Authorization header, with what it is where no issuer is asked.
struct Authorization {
    name: &'static str,
    value: Option<String>,
    whose: Whose,
    /// The token, where an issuer may be asked about it; and whether it names our issuer as well.
    opaque: Option<(String, bool)>,
}

impl Authorization {
    fn whose(&self, introspection: Introspection) -> Whose {
        let is_dpop = self.value.as_deref().is_some_and(|value| value.starts_with("DPoP"));
        match (&self.opaque, introspection) {
            (None, _) | (Some(_), Introspection::Off) => self.whose,
            (Some(_), Introspection::Active) if is_dpop => Whose::Ours(Err(TokenError::Bound)),
            (Some(_), Introspection::Active) => Whose::Ours(Ok(())),
            (Some(_), Introspection::Away) => Whose::Unknown,
            (Some((_, true)), Introspection::Inactive) => Whose::Ours(Err(TokenError::Inactive)),
            (Some((_, false)), Introspection::Inactive) => Whose::Ended,
        }
    }
}

struct Case<'c> {
    own: Own,
    authorization: &'c Authorization,
    session: bool,
    machine: bool,
    page: Page,
    public: bool,
    introspection: Introspection,
}

/// The expected result: the reason, the credential of an identity, and whether the header travels on.
type Expected = (Reason, Option<CredentialKind>, bool);

/// What the table says. It is written from the document, not from the code.
fn expected(case: &Case<'_>) -> Expected {
    let whose = case.authorization.whose(case.introspection);
    let refused = |reason| (reason, None, false);
    // What an endpoint makes of a request whose person is not known.
    let unknown =
        |reason, travels| (if case.public { Reason::Public } else { reason }, None, travels);
    let known = |kind, travels| {
        let reason = match kind {
            _ if case.public => Reason::Public,
            CredentialKind::Certificate => Reason::GrantedUser,
            _ => Reason::Owner,
        };
        (reason, Some(kind), travels)
    };
    let bearer = |result: Result<(), TokenError>, travels| match result {
        Ok(()) => known(CredentialKind::Bearer, travels),
        Err(error) => unknown(Reason::Refused(error), travels),
    };
    let (own, spot) = match case.own {
        Own::Twice => return refused(Reason::CredentialRepeated),
        Own::None => (None, None),
        Own::At(spot, Quality::Good) => (Some(Ok(())), Some(spot)),
        Own::At(spot, Quality::Expired) => (Some(Err(TokenError::Expired)), Some(spot)),
        Own::At(spot, Quality::Garbage) => (Some(Err(TokenError::Malformed)), Some(spot)),
    };
    if let Some(own) = own {
        let travels = match whose {
            Whose::Ours(_) => return refused(Reason::CredentialRepeated),
            Whose::Unknown => return unknown(Reason::IntrospectionUnavailable, false),
            Whose::Apps(_) | Whose::Other => true,
            Whose::Ended => own.is_ok(),
            Whose::Hidden | Whose::Nothing => false,
        };
        if spot == Some(Spot::Cookie) && case.page == Page::Sibling {
            return refused(Reason::OriginForeign);
        }
        return bearer(own, travels);
    }
    // Who the browser or its connection says it is; `None` if the page must not use that.
    let browser = match (case.session, case.machine, case.page) {
        (true, _, Page::Sibling | Page::Socket) | (false, true, Page::Sibling) => None,
        (true, ..) => Some(CredentialKind::Session),
        (false, true, _) => Some(CredentialKind::Certificate),
        (false, false, _) => Some(CredentialKind::None),
    };
    match (whose, browser) {
        (Whose::Ours(result), _) => bearer(result, false),
        (Whose::Unknown, _) => unknown(Reason::IntrospectionUnavailable, false),
        (Whose::Nothing | Whose::Other | Whose::Hidden, None) => refused(Reason::OriginForeign),
        (Whose::Nothing | Whose::Other | Whose::Hidden, Some(CredentialKind::None)) => {
            unknown(MISSING, whose == Whose::Other)
        }
        (Whose::Nothing | Whose::Other | Whose::Hidden, Some(kind)) => {
            known(kind, whose == Whose::Other)
        }
        (Whose::Apps(_), None) => unknown(Reason::OriginForeign, true),
        (Whose::Ended, None) => unknown(Reason::OriginForeign, false),
        (Whose::Apps(error), Some(CredentialKind::None)) => unknown(Reason::Refused(error), true),
        (Whose::Ended, Some(CredentialKind::None)) => {
            unknown(Reason::Refused(TokenError::Inactive), false)
        }
        (Whose::Apps(_) | Whose::Ended, Some(kind)) => known(kind, true),
    }
}

/// A scene with an endpoint and an introspection of this kind.
fn scene(public: bool, introspection: Introspection) -> Scene {
    let mut scene = Scene::new();
    if introspection != Introspection::Off {
        scene = scene.introspecting();
    }
    if public {
        scene.admit(Admission::Public);
    }
    scene.gate.token_locations = Some(Arc::new(TokenLocations {
        header: Some(TokenHeader::parse("X-Token").unwrap()),
        cookie: Some("token".into()),
        query: Some("t".into()),
        subprotocol: true,
    }));
    scene
}

/// A JWT that is not signed by anyone the gate knows.
fn unsigned(header: &serde_json::Value, payload: &str) -> String {
    let [header, payload] =
        [header.to_string(), payload.to_owned()].map(|t| URL_SAFE_NO_PAD.encode(t));
    format!("{header}.{payload}.c2lnbmF0dXJl")
}

fn authorizations(scene: &Scene) -> Vec<Authorization> {
    const ISSUER: &str = "https://corp.example.com";
    let good = scene.token(&json!({}));
    let hs256 = |claims: serde_json::Value| unsigned(&json!({"alg": "HS256"}), &claims.to_string());
    let eddsa = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
    let other = scene.signed(&eddsa, &json!({"iss": "https://app.test", "sub": "alice"}));
    let twice = format!(r#"{{"iss":"https://app.test","iss":"{ISSUER}","sub":"alice"}}"#);
    let jwe = |header: serde_json::Value| {
        format!("{}.a.b.c.d", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let (foreign_jwe, our_jwe) = (
        jwe(json!({"alg": "dir", "enc": "A256GCM"})),
        jwe(json!({"alg": "dir", "enc": "A256GCM", "iss": ISSUER})),
    );
    let cut = good.rsplit_once('.').unwrap().0.to_owned();
    let ours = |error| Whose::Ours(Err(error));
    let bearer = |name, token: &str, whose| Authorization {
        name,
        value: Some(format!("Bearer {token}")),
        whose,
        opaque: None,
    };
    let opaque = |name, scheme: &str, token: &str, whose, names_us| Authorization {
        name,
        value: Some(format!("{scheme} {token}")),
        whose,
        opaque: Some((token.to_owned(), names_us)),
    };
    let value =
        |name, value: Option<String>, whose| Authorization { name, value, whose, opaque: None };
    vec![
        value("none", None, Whose::Nothing),
        value("Basic", Some("Basic YTpi".into()), Whose::Other),
        value("another scheme", Some("token abc".into()), Whose::Other),
        value("no scheme", Some(String::new()), Whose::Other),
        value("ours without a scheme", Some(good.clone()), Whose::Hidden),
        value(
            "ours as a password",
            Some(format!("Basic {}", STANDARD.encode(format!("git:{good}")))),
            Whose::Hidden,
        ),
        bearer("ours", &good, Whose::Ours(Ok(()))),
        bearer("ours, expired", &scene.token(&json!({"exp": 1})), ours(TokenError::Expired)),
        bearer(
            "ours, for others",
            &scene.token(&json!({"aud": "app"})),
            ours(TokenError::Audience),
        ),
        bearer(
            "ours, forged",
            &unsigned(&eddsa, &json!({"iss": ISSUER, "aud": "workspaces"}).to_string()),
            ours(TokenError::Signature),
        ),
        bearer("ours, HS256", &hs256(json!({"iss": ISSUER})), ours(TokenError::Algorithm)),
        bearer("ours, twice", &unsigned(&eddsa, &twice), ours(TokenError::Malformed)),
        bearer("ours in a list", &format!("opaque123, Bearer {good}"), ours(TokenError::Malformed)),
        value("ours, DPoP", Some(format!("DPoP {good}")), ours(TokenError::Bound)),
        opaque("ours, cut", "Bearer", &cut, ours(TokenError::Malformed), true),
        opaque("ours, encrypted", "Bearer", &our_jwe, ours(TokenError::Encrypted), true),
        bearer(
            "the app's, HS256",
            &hs256(json!({"iss": "https://app.test"})),
            Whose::Apps(TokenError::Issuer),
        ),
        bearer(
            "the app's, no issuer",
            &hs256(json!({"sub": "1"})),
            Whose::Apps(TokenError::Issuer),
        ),
        bearer("of another issuer", &other, Whose::Apps(TokenError::Issuer)),
        bearer(
            "almost ours",
            &hs256(json!({"iss": format!("{ISSUER}.evil.test"), "sub": ISSUER})),
            Whose::Apps(TokenError::Issuer),
        ),
        bearer("empty", "", Whose::Apps(TokenError::Malformed)),
        bearer("garbage", "a b, \u{fc}!", Whose::Apps(TokenError::Malformed)),
        bearer("three parts", "a.b.c", Whose::Apps(TokenError::Malformed)),
        opaque("opaque", "Bearer", "opaque123", Whose::Apps(TokenError::Malformed), false),
        opaque("opaque, DPoP", "DPoP", "opaque123", Whose::Apps(TokenError::Malformed), false),
        opaque("encrypted", "Bearer", &foreign_jwe, Whose::Apps(TokenError::Encrypted), false),
    ]
}

fn owns() -> Vec<Own> {
    let spots = [Spot::Header, Spot::Cookie, Spot::Query, Spot::Subprotocol];
    let mut all = vec![Own::None, Own::Twice, Own::At(Spot::Header, Quality::Garbage)];
    all.extend(spots.map(|spot| Own::At(spot, Quality::Good)));
    all.extend(spots.map(|spot| Own::At(spot, Quality::Expired)));
    all
}

fn ask_case(scene: &Scene, case: &Case<'_>) -> Response {
    let (own, sibling) = (host("", ALICES), host("", BOBS));
    let [origin, other_port, sibling] =
        [own.clone(), host("3000-", ALICES), sibling].map(|host| format!("https://{host}"));
    let token = match case.own {
        Own::At(_, Quality::Expired) => scene.token(&json!({"exp": 1})),
        Own::At(_, Quality::Garbage) => "not a token!".into(),
        _ => scene.token(&json!({})),
    };
    let at = |spot| {
        matches!(case.own, Own::At(there, _) if there == spot)
            || case.own == Own::Twice && matches!(spot, Spot::Header | Spot::Cookie)
    };
    let mut cookies = if case.session { scene.cookie.clone() } else { "a=1".into() };
    if at(Spot::Cookie) {
        cookies = format!("{cookies}; token={token}");
    }
    let query = format!("a=1&t={token}");
    let protocols = [SUBPROTOCOL, URL_SAFE_NO_PAD.encode(&token).as_bytes()].concat();
    let request = Request {
        authorization: case.authorization.value.as_deref().map(str::as_bytes),
        token: at(Spot::Header).then_some(token.as_bytes()),
        cookie: Some(cookies.as_bytes()),
        query: at(Spot::Query).then_some(query.as_bytes()),
        protocols: at(Spot::Subprotocol).then_some(&protocols),
        certificate: case.machine.then_some(&**MACHINE),
        browser: browser(case.page, &origin, &other_port, &sibling),
        ..plain(&own)
    };
    ask(scene, &request)
}

#[test]
fn q1_whose_a_credential_is_and_what_travels_on() {
    let (mut count, mut reasons) = (0, std::collections::BTreeSet::new());
    for public in [false, true] {
        for introspection in [
            Introspection::Off,
            Introspection::Inactive,
            Introspection::Active,
            Introspection::Away,
        ] {
            let scene = scene(public, introspection);
            let authorizations = authorizations(&scene);
            for (token, _) in authorizations.iter().filter_map(|one| one.opaque.as_ref()) {
                let corp = scene.gate.issuers.profiles().next().unwrap().authority.clone();
                let alice = Arc::new(Identity::plain(corp, "https://corp.example.com", "alice"));
                match introspection {
                    Introspection::Active => scene.gate.issuers.assume(token.as_bytes(), Ok(alice)),
                    Introspection::Inactive => {
                        scene.gate.issuers.assume(token.as_bytes(), Err(TokenError::Inactive));
                    }
                    Introspection::Off | Introspection::Away => {}
                }
            }
            for own in owns() {
                for authorization in &authorizations {
                    for (session, machine) in
                        [(false, false), (true, false), (false, true), (true, true)]
                    {
                        for page in [Page::None, Page::Own, Page::Sibling, Page::Socket] {
                            let case = Case {
                                own,
                                authorization,
                                session,
                                machine,
                                page,
                                public,
                                introspection,
                            };
                            let response = ask_case(&scene, &case);
                            let what = format!(
                                "{own:?}, Authorization {}, session {session}, machine {machine}, {page:?}, public {public}, introspection {introspection:?}",
                                authorization.name
                            );
                            let (reason, kind, travels) = expected(&case);
                            assert_eq!(response.decision.reason, reason, "{what}");
                            let known = response.decision.identity.as_ref();
                            assert_eq!(known.map(|_| response.evidence.credential), kind, "{what}");
                            if response.decision.verdict() == crate::authz::reason::Verdict::Allow
                                && authorization.value.is_some()
                            {
                                let does =
                                    response.authorization == AuthorizationHeader::Workspaces;
                                assert_eq!(does, travels, "{what}: travels");
                            }
                            // Not by the oracle: no token for the gate travels, whatever was decided.
                            if matches!(
                                authorization.whose(introspection),
                                Whose::Ours(_) | Whose::Hidden
                            ) {
                                assert_eq!(
                                    response.authorization,
                                    AuthorizationHeader::Gates,
                                    "{what}"
                                );
                            }
                            count += 1;
                            reasons.insert(reason.id());
                        }
                    }
                }
            }
        }
    }
    assert_eq!(count, 2 * 4 * 11 * 26 * 4 * 4);
    for reason in [
        "owner",
        "granted_user",
        "public",
        "credential_missing",
        "credential_repeated",
        "origin_foreign",
        "introspection_unavailable",
        "token_malformed",
        "token_issuer",
        "token_algorithm",
        "token_encrypted",
        "token_expired",
        "token_audience",
        "token_signature",
        "token_inactive",
        "token_bound",
    ] {
        assert!(reasons.contains(reason), "{reason} never");
    }
}

#[test]
fn q1_an_opaque_token_that_is_too_long_to_ask_about_is_not_taken_for_the_apps() {
    let long = format!("Bearer {}", "x".repeat(5000));
    let host = host("", ALICES);
    for (introspection, reason) in [
        (Introspection::Off, Reason::Owner),
        (Introspection::Active, Reason::Refused(TokenError::Oversized)),
    ] {
        let scene = scene(false, introspection);
        let request = Request {
            authorization: Some(long.as_bytes()),
            cookie: Some(scene.cookie.as_bytes()),
            ..plain(&host)
        };
        assert_eq!(ask(&scene, &request).decision.reason, reason, "{introspection:?}");
    }
}

#[test]
fn q1_a_session_that_is_revoked_or_unknown_gives_an_apps_token_nothing() {
    let scene = scene(false, Introspection::Off);
    let host = host("", ALICES);
    let with = |cookie: &str| {
        let request = Request {
            authorization: Some(b"Bearer opaque123"),
            cookie: Some(cookie.as_bytes()),
            ..plain(&host)
        };
        ask(&scene, &request).decision.reason
    };
    let malformed = Reason::Refused(TokenError::Malformed);
    assert_eq!(with(&scene.cookie), Reason::Owner);
    assert_eq!(with(&format!("{}=AAAA", crate::sessions::COOKIE)), malformed);
    assert_eq!(with(&format!("{}; {}", scene.cookie, scene.cookie)), malformed);
    let alice = Revocation {
        issuer: "corp".into(),
        subject: Some("alice".into()),
        ..Revocation::default()
    };
    scene.gate.revocations.revoke(alice, scene.now).unwrap();
    assert_eq!(with(&scene.cookie), malformed);
}

#[test]
fn q1_a_header_for_tokens_must_be_there_once_and_be_passed_by_haproxy() {
    let scene = scene(false, Introspection::Off);
    let (host, token) = (host("", ALICES), scene.token(&json!({})));
    let good = Request { token: Some(token.as_bytes()), tokens: 1, ..plain(&host) };
    for (request, reason) in [
        (good, Reason::Owner),
        (Request { tokens: 2, ..good }, Reason::CredentialRepeated),
        (
            Request { passed: PassedArguments { token: false, ..good.passed }, ..good },
            Reason::MessageUnknown,
        ),
    ] {
        assert_eq!(ask(&scene, &request).decision.reason, reason, "{request:?}");
    }
}
