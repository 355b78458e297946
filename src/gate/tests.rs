//! The gate as tables: the result for each combination of token, certificate, session and page,
//! what is refused with any credential, and what a response has besides the decision.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    scene::{ALICES, BOBS, Scene, certificate, host},
    *,
};
use crate::{
    identity::{TokenError, evidence::CredentialKind, revocation::Revocation},
    request::{Browser, PassedArguments},
};

mod cors;
mod credentials;
mod siblings;

static MACHINE: LazyLock<Vec<u8>> = LazyLock::new(|| certificate("machine:build"));
static OTHER_CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| certificate("desk"));

/// The token in the Authorization header or in a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    None,
    /// A credential for the workspace, not for the gate.
    Basic,
    /// A token of alice.
    Good,
    /// An expired token.
    Expired,
    /// A token of alice that is bound to the machine's certificate (RFC 8705).
    Bound,
    /// A token of alice with the scheme of RFC 9449.
    Dpop,
    /// A token of alice in a cookie.
    Cookie,
    /// Two tokens of alice.
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certificate {
    None,
    /// A certificate that a rule matches.
    Machine,
    /// A certificate that no rule matches.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cookie {
    None,
    /// The cookie of alice's session.
    Alice,
    /// A cookie of no session.
    Unknown,
}

/// The page that makes the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// No page: a program.
    None,
    /// A page of the same host.
    Own,
    /// A page of another port of the workspace.
    OtherPort,
    /// A script of another workspace.
    Sibling,
    /// A link of another workspace.
    SiblingLink,
    /// A page of another workspace, which shows this one in a frame.
    SiblingFrame,
    /// A page of another port of the workspace, which shows this one in a frame.
    OwnFrame,
    /// A WebSocket of the same host.
    OwnSocket,
    /// A WebSocket of another workspace.
    SiblingSocket,
    /// A WebSocket of another port.
    OtherPortSocket,
    /// A WebSocket without an origin.
    Socket,
}

const TOKENS: [Token; 8] = [
    Token::None,
    Token::Basic,
    Token::Good,
    Token::Expired,
    Token::Bound,
    Token::Dpop,
    Token::Cookie,
    Token::Twice,
];
const CERTIFICATES: [Certificate; 3] =
    [Certificate::None, Certificate::Machine, Certificate::Other];
const COOKIES: [Cookie; 3] = [Cookie::None, Cookie::Alice, Cookie::Unknown];
const PAGES: [Page; 11] = [
    Page::None,
    Page::Own,
    Page::OtherPort,
    Page::Sibling,
    Page::SiblingLink,
    Page::SiblingFrame,
    Page::OwnFrame,
    Page::OwnSocket,
    Page::SiblingSocket,
    Page::OtherPortSocket,
    Page::Socket,
];

/// The pages that must not use a credential that is added automatically.
const FOREIGN: &[Page] = &[Page::Sibling, Page::SiblingFrame, Page::SiblingSocket];
/// The same for a credential that only browsers have: a WebSocket must name its origin.
const FOREIGN_TO_BROWSERS: &[Page] =
    &[Page::Sibling, Page::SiblingFrame, Page::SiblingSocket, Page::Socket];

/// Which requests a row matches, and the expected result. The first row that matches counts.
type Row = (
    &'static [Token],
    &'static [Certificate],
    &'static [Cookie],
    &'static [Page],
    Reason,
    CredentialKind,
);

const EXPIRED: Reason = Reason::Refused(TokenError::Expired);
const BOUND: Reason = Reason::Refused(TokenError::Bound);
const MISSING: Reason = Reason::CredentialMissing;
const NONE: &[Token] = &[Token::None, Token::Basic];

const TABLE: &[Row] = &[
    (
        &[Token::Twice],
        &CERTIFICATES,
        &COOKIES,
        &PAGES,
        Reason::CredentialRepeated,
        CredentialKind::None,
    ),
    // A page cannot make a browser add these.
    (&[Token::Good], &CERTIFICATES, &COOKIES, &PAGES, Reason::Owner, CredentialKind::Bearer),
    (&[Token::Expired], &CERTIFICATES, &COOKIES, &PAGES, EXPIRED, CredentialKind::Bearer),
    (
        &[Token::Bound],
        &[Certificate::Machine],
        &COOKIES,
        &PAGES,
        Reason::Owner,
        CredentialKind::Bearer,
    ),
    (&[Token::Bound], &CERTIFICATES, &COOKIES, &PAGES, BOUND, CredentialKind::Bearer),
    (&[Token::Dpop], &CERTIFICATES, &COOKIES, &PAGES, BOUND, CredentialKind::Dpop),
    (
        &[Token::Cookie],
        &CERTIFICATES,
        &COOKIES,
        FOREIGN,
        Reason::OriginForeign,
        CredentialKind::None,
    ),
    (&[Token::Cookie], &CERTIFICATES, &COOKIES, &PAGES, Reason::Owner, CredentialKind::Bearer),
    // A session is preferred to a certificate. It is the only credential for which a WebSocket must
    // name its origin.
    (
        NONE,
        &CERTIFICATES,
        &[Cookie::Alice],
        FOREIGN_TO_BROWSERS,
        Reason::OriginForeign,
        CredentialKind::None,
    ),
    (NONE, &CERTIFICATES, &[Cookie::Alice], &PAGES, Reason::Owner, CredentialKind::Session),
    (NONE, &[Certificate::Machine], &COOKIES, FOREIGN, Reason::OriginForeign, CredentialKind::None),
    (
        NONE,
        &[Certificate::Machine],
        &COOKIES,
        &PAGES,
        Reason::GrantedUser,
        CredentialKind::Certificate,
    ),
    (NONE, &CERTIFICATES, &COOKIES, &PAGES, MISSING, CredentialKind::None),
];

#[test]
fn what_comes_of_each_credential_certificate_session_and_page() {
    let scene = Scene::new();
    let tokens = Tokens::mint(&scene);
    let mut used = vec![0; TABLE.len()];
    for token in TOKENS {
        for certificate in CERTIFICATES {
            for cookie in COOKIES {
                for page in PAGES {
                    let row =
                        TABLE.iter().position(|(tokens, certificates, cookies, pages, ..)| {
                            tokens.contains(&token)
                                && certificates.contains(&certificate)
                                && cookies.contains(&cookie)
                                && pages.contains(&page)
                        });
                    let row = row.unwrap();
                    used[row] += 1;
                    let (.., reason, kind) = TABLE[row];
                    let response = tokens.ask(&scene, token, certificate, cookie, page);
                    assert_eq!(
                        (response.decision.reason, response.evidence.credential),
                        (reason, kind),
                        "{token:?} {certificate:?} {cookie:?} {page:?}"
                    );
                }
            }
        }
    }
    assert!(used.iter().all(|count| *count > 0), "rows that are about nothing: {used:?}");
}

/// Tokens as headers contain them.
struct Tokens {
    good: String,
    expired: String,
    bound: String,
    host: String,
}

impl Tokens {
    fn mint(scene: &Scene) -> Self {
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &MACHINE));
        Self {
            good: scene.token(&json!({})),
            expired: scene.token(&json!({"exp": 1})),
            bound: scene.token(&json!({"cnf": {"x5t#S256": thumbprint}})),
            host: host("", ALICES),
        }
    }

    fn ask(
        &self,
        scene: &Scene,
        token: Token,
        certificate: Certificate,
        cookie: Cookie,
        page: Page,
    ) -> Response {
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        let authorization = match token {
            Token::None | Token::Cookie => None,
            Token::Basic => Some("Basic YTpi".to_owned()),
            Token::Good | Token::Twice => bearer(&self.good),
            Token::Expired => bearer(&self.expired),
            Token::Bound => bearer(&self.bound),
            Token::Dpop => Some(format!("DPoP {}", self.good)),
        };
        let mut cookies = match cookie {
            Cookie::None => String::new(),
            Cookie::Alice => scene.cookie.clone(),
            Cookie::Unknown => format!("{}=AAAA", crate::sessions::COOKIE),
        };
        if matches!(token, Token::Cookie | Token::Twice) {
            cookies = format!("{cookies}; token={}", self.good);
        }
        let [own, other_port, sibling] = [("", ALICES), ("3000-", ALICES), ("", BOBS)]
            .map(|(p, id)| format!("https://{}", host(p, id)));
        let request = Request {
            authorization: authorization.as_deref().map(str::as_bytes),
            certificate: match certificate {
                Certificate::None => None,
                Certificate::Machine => Some(&**MACHINE),
                Certificate::Other => Some(&**OTHER_CERTIFICATE),
            },
            cookie: (!cookies.is_empty()).then_some(cookies.as_bytes()),
            browser: browser(page, &own, &other_port, &sibling),
            ..plain(&self.host)
        };
        ask(scene, &request)
    }
}

fn browser<'a>(page: Page, own: &'a str, other_port: &'a str, sibling: &'a str) -> Browser<'a> {
    let (mode, dest) = (Some(&b"cors"[..]), Some(&b"empty"[..]));
    let script = |origin: &'a str| Browser {
        mode,
        dest,
        site: Some(if origin == own { b"same-origin" } else { b"same-site" }),
        origin: Some(origin.as_bytes()),
        ..Browser::default()
    };
    let opened = |dest: &'static [u8], referer: &'a str| Browser {
        mode: Some(b"navigate"),
        dest: Some(dest),
        site: Some(b"same-site"),
        referer: Some(referer.as_bytes()),
        ..Browser::default()
    };
    let socket = |origin: Option<&'a str>| Browser {
        upgrade: Some(b"websocket"),
        origin: origin.map(str::as_bytes),
        ..Browser::default()
    };
    match page {
        Page::None => Browser::default(),
        Page::Own => script(own),
        Page::OtherPort => script(other_port),
        Page::Sibling => script(sibling),
        Page::SiblingLink => opened(b"document", sibling),
        Page::SiblingFrame => opened(b"iframe", sibling),
        Page::OwnFrame => opened(b"iframe", other_port),
        Page::OwnSocket => socket(Some(own)),
        Page::SiblingSocket => socket(Some(sibling)),
        Page::OtherPortSocket => socket(Some(other_port)),
        Page::Socket => socket(None),
    }
}

/// A request without a credential, for which HAProxy passes every argument.
fn plain(host: &str) -> Request<'_> {
    let passed = PassedArguments {
        token: true,
        query: true,
        protocols: true,
        browser: true,
        tunnels: true,
        policies: true,
    };
    Request {
        method: Some(b"GET"),
        host: Some(host.as_bytes()),
        hosts: 1,
        path: Some(b"/"),
        passed,
        ..Request::default()
    }
}

fn step(scene: &Scene, request: &Request<'_>, waiting: Waiting) -> Step {
    let workspaces = scene.gate.registry.snapshot();
    scene.gate.decide(request, &workspaces, scene.now, &mut Scratch::default(), waiting)
}

fn ask(scene: &Scene, request: &Request<'_>) -> Response {
    match step(scene, request, Waiting::Never) {
        Step::Done(response) => response,
        Step::Wait(_) => panic!("waits though it may not"),
    }
}

#[test]
fn what_is_refused_with_any_credential() {
    let scene = Scene::new();
    let bearer = format!("Bearer {}", scene.token(&json!({})));
    let host = host("", ALICES);
    let good = Request { authorization: Some(bearer.as_bytes()), ..plain(&host) };
    for (request, reason) in [
        (good, Reason::Owner),
        (Request { method: Some(b"connect"), ..good }, Reason::MethodRefused),
        (Request { hosts: 2, ..good }, Reason::HostRepeated),
        (Request { authorizations: 2, ..good }, Reason::AuthorizationRepeated),
        (Request { cookies: 2, ..good }, Reason::CookieRepeated),
        (Request { protocol_lines: 2, ..good }, Reason::CredentialRepeated),
        (Request { host: None, ..good }, Reason::HostMissing),
        (Request { host: Some(b"a b"), ..good }, Reason::HostInvalid),
        (Request { host: Some(b"www.x.test"), ..good }, Reason::HostUnmatched),
        (
            Request { passed: PassedArguments { browser: false, ..good.passed }, ..good },
            Reason::MessageUnknown,
        ),
    ] {
        assert_eq!(ask(&scene, &request).decision.reason, reason, "{request:?}");
    }
}

#[test]
fn a_credential_for_a_host_of_no_workspace_is_not_read() {
    let scene = Scene::new();
    let request = Request {
        authorization: Some(b"Bearer x"),
        cookie: Some(b"token=y"),
        ..plain("www.x.test")
    };
    let response = ask(&scene, &request);
    assert_eq!(response.decision.reason, Reason::HostUnmatched);
    assert_eq!(response.evidence.credential, CredentialKind::None);
    assert_eq!(response.authorization, AuthorizationHeader::Workspaces);
}

#[test]
fn what_is_revoked_is_refused_and_a_person_may_sign_in_again() {
    let scene = Scene::new();
    let tokens = Tokens::mint(&scene);
    let ask = |token, certificate, cookie| {
        tokens.ask(&scene, token, certificate, cookie, Page::None).decision.reason
    };
    let subject = |issuer: &str, subject: &str| Revocation {
        issuer: issuer.into(),
        subject: Some(subject.into()),
        ..Revocation::default()
    };
    scene.gate.revocations.revoke(subject("corp", "alice"), scene.now).unwrap();
    scene.gate.revocations.revoke(subject("machines", "build"), scene.now).unwrap();
    let revoked = Reason::Refused(TokenError::Revoked);
    assert_eq!(ask(Token::Good, Certificate::None, Cookie::None), revoked);
    assert_eq!(ask(Token::None, Certificate::Machine, Cookie::None), revoked);
    assert_eq!(ask(Token::None, Certificate::None, Cookie::Alice), MISSING);
}

#[test]
fn only_an_authorization_for_the_gate_is_removed() {
    let scene = Scene::new();
    let tokens = Tokens::mint(&scene);
    for (token, strips) in [
        (Token::None, false),
        (Token::Basic, false),
        (Token::Good, true),
        (Token::Expired, true),
        (Token::Dpop, true),
        (Token::Cookie, false),
    ] {
        let response = tokens.ask(&scene, token, Certificate::None, Cookie::None, Page::None);
        let gates = response.authorization == AuthorizationHeader::Gates;
        assert_eq!(gates, strips, "{token:?}");
        assert!(response.token_locations.is_some(), "tokens elsewhere are removed in any case");
    }
    let by_session = tokens.ask(&scene, Token::Basic, Certificate::None, Cookie::Alice, Page::None);
    assert!(by_session.authorization == AuthorizationHeader::Workspaces);
    assert!(by_session.session.is_some());
}

#[test]
fn a_browser_without_a_session_is_sent_to_sign_in_and_a_program_is_not() {
    let scene = Scene::new();
    let host = host("", ALICES);
    let opened = Browser {
        mode: Some(b"navigate"),
        dest: Some(b"document"),
        site: Some(b"none"),
        ..Browser::default()
    };
    let page = Request { browser: opened, query: Some(b"a=b"), ..plain(&host) };
    let response = ask(&scene, &page);
    assert_eq!(response.decision.reason, MISSING);
    let location = &response.sign_in_redirect.as_ref().unwrap().location;
    assert!(location.starts_with("https://login.x.test/"), "{location}");
    for other in [
        plain(&host),
        Request { method: Some(b"POST"), ..page },
        Request { browser: Browser { dest: Some(b"iframe"), ..opened }, ..page },
        Request {
            browser: Browser { dest: Some(b"iframe"), site: Some(b"same-origin"), ..opened },
            ..page
        },
        Request { authorization: Some(b"Bearer x"), ..page },
        Request { host: Some(b"www.x.test"), ..page },
        Request { cookie: Some(scene.cookie.as_bytes()), ..page },
    ] {
        assert!(ask(&scene, &other).sign_in_redirect.is_none(), "{other:?}");
    }
    let mut without = Scene::new();
    without.gate.browser = None;
    assert!(ask(&without, &page).sign_in_redirect.is_none());
}

#[test]
fn the_metadata_document_is_served_at_hosts_of_workspaces_only() {
    let mut scene = Scene::new();
    let host = host("", ALICES);
    let document = Request { path: Some(Metadata::PATH.as_bytes()), ..plain(&host) };
    assert_eq!(ask(&scene, &document).decision.reason, MISSING);
    let metadata = Metadata { authorization_servers: vec!["https://corp.example.com".into()] };
    scene.gate.metadata = Some(Arc::new(metadata));
    let response = ask(&scene, &document);
    assert_eq!(response.decision.reason, Reason::ResourceMetadata);
    assert!(response.metadata.is_some());
    let elsewhere = Request { host: Some(b"www.x.test"), ..document };
    assert_eq!(ask(&scene, &elsewhere).decision.reason, Reason::HostUnmatched);
    assert!(ask(&scene, &plain(&host)).metadata.is_some(), "a challenge names it");
}

#[tokio::test]
async fn a_decision_waits_only_where_it_may() {
    let mut scene = Scene::new();
    let (lookup, _lookups) = Lookup::new();
    scene.gate.lookups = vec![Some(lookup)];
    let new_key = scene.signed(
        &json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "new"}),
        &json!({"iss": "https://corp.example.com", "sub": "alice", "aud": "workspaces", "exp": 9_999_999_999_u64}),
    );
    let unknown_key = format!("Bearer {new_key}");
    let bearer = format!("Bearer {}", scene.token(&json!({})));
    let known = host("", ALICES);
    let started = host("", "bluebird-demo-ns35kd21abc");
    for (request, reason) in [
        (
            Request { authorization: Some(unknown_key.as_bytes()), ..plain(&known) },
            Reason::Refused(TokenError::Key),
        ),
        (
            Request { authorization: Some(bearer.as_bytes()), ..plain(&started) },
            Reason::WorkspaceUnknown,
        ),
    ] {
        assert!(matches!(step(&scene, &request, Waiting::Allowed), Step::Wait(_)), "{reason}");
        assert_eq!(ask(&scene, &request).decision.reason, reason);
    }
    // Without an identity no source is asked.
    let stranger = step(&scene, &plain(&started), Waiting::Allowed);
    assert!(matches!(stranger, Step::Done(response) if response.decision.reason == MISSING));
}
