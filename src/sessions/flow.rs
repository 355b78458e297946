//! The values that travel through a browser during a sign-in, from a workspace's host to the provider and back.
//!
//! 1. A browser without a session opens a workspace's host. The gate gives it a secret, as a cookie of that host, and
//!    redirects it to the login host with an encrypted [`Start`], which contains a hash of the secret.
//! 2. If the login host has no session of this browser, it makes an [`Attempt`] at the provider: state, nonce and PKCE
//!    verifier, in an encrypted cookie. So the agent stores nothing for strangers.
//! 3. A page of the login host delivers an encrypted [`Ticket`] to the workspace's host. The ticket is valid for half a
//!    minute, once, at that host, and in the browser that has the secret. Pages and service workers of the
//!    workspace never see it (docs/decisions/0014-hand-over.md). The workspace's other hosts get one each, which is bound to
//!    no secret (docs/decisions/0018-cross-origin.md).
//!
//! The gate makes the redirect; [`crate::sign_in`] does the rest. No HTTP here: only the values, and what makes them valid.

use std::time::Duration;

use aws_lc_rs::{constant_time, digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    identity::Identity,
    request::cookie::{self, CookieLifetime, set_cookie},
    sessions::{
        keyring::{Keyring, Purpose, SealError},
        replay::{ReplayGuard, Taken},
    },
    time::Timestamp,
};

/// The prefix of the names of the cookies with secrets at a workspace's host. Each tab has a cookie of its own.
pub const SECRET_COOKIE: &str = "__Host-identity_pre_";
/// The prefix of the names of the cookies with attempts at the login host.
pub const ATTEMPT_COOKIE: &str = "__Host-identity_at_";
/// The path of the pages of this program, at the login host and at the hosts of workspaces.
pub const PATHS: &str = "/.well-known/identity-spoa/";
/// How long a person may take at the provider.
pub const ATTEMPT_TIME: Duration = Duration::from_mins(10);
/// How long a ticket is valid.
const TICKET_TIME: Duration = Duration::from_secs(30);
/// The length of the random end of a cookie's name.
const NAME_LENGTH: usize = 8;
/// The longest path to which a browser returns after signing in, in bytes.
const MAX_PATH: usize = 2048;
/// The most secrets of one browser at one host. When it needs another one, the oldest is replaced.
const MAX_SECRETS: usize = 8;
/// Where a person wants to go, as the login host is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The workspace's host.
    pub host: String,
    /// The path with the query.
    pub path: String,
    /// The SHA-256 of the secret that the browser has, in base64url.
    secret: String,
    /// What it is for.
    #[serde(default)]
    pub aim: Aim,
    /// When it becomes invalid, in milliseconds since the Unix epoch.
    until: u64,
}

/// What a browser is sent to the login host for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// A session at the host that was opened.
    #[default]
    SignIn,
    /// Only cookies for the workspace's other hosts: the one that was opened has a session.
    OtherHosts,
}

/// One attempt to sign in, while the person is at the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The configured name of the issuer.
    pub issuer: String,
    /// Echoed by the provider (RFC 6749 section 10.12).
    pub state: String,
    /// Repeated in the ID token (OIDC Core section 15.5.2).
    pub nonce: String,
    /// The PKCE verifier (RFC 7636 section 4.1).
    pub verifier: String,
    /// Where to go afterwards; the login host itself if nowhere.
    pub start: Option<Start>,
    /// When it becomes invalid, in milliseconds since the Unix epoch.
    until: u64,
}

/// The right to get a session's cookie at one host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ticket {
    /// The login host's cookie of the session.
    pub session: String,
    /// Whose session it is: see [`person`].
    person: String,
    /// The SHA-256 of the secret that the browser has.
    secret: String,
    /// Makes the ticket valid once.
    id: String,
    /// When it becomes invalid, in milliseconds since the Unix epoch.
    until: u64,
}

/// The redirect of a browser to the login host.
#[derive(Debug)]
pub struct SignInRedirect {
    /// The address at the login host.
    pub location: String,
    /// The Set-Cookie header with the secret, for the workspace's host.
    pub cookie: String,
}

/// The addresses of the login host and of workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrls {
    /// The login host.
    pub login: Box<str>,
    /// The port of HAProxy's https, the same for all hosts.
    pub port: u16,
}

impl PublicUrls {
    /// The origin of a host (RFC 6454 section 6.2).
    #[must_use]
    pub fn origin(&self, host: &str) -> String {
        match self.port {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        }
    }

    /// The address of a page of this program at the login host.
    #[must_use]
    pub fn page(&self, name: &str) -> String {
        self.page_at(&self.login, name)
    }

    /// The address of a page of this program at a host.
    #[must_use]
    pub fn page_at(&self, host: &str, name: &str) -> String {
        format!("{}{PATHS}{name}", self.origin(host))
    }
}

impl Start {
    /// The redirect of a browser that wants to go to `path` at `host`. `cookies` is the Cookie header that it sent.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn redirect(
        keyring: &Keyring,
        urls: &PublicUrls,
        host: &str,
        path: &str,
        cookies: &[u8],
        aim: Aim,
        now: Timestamp,
    ) -> Result<SignInRedirect, SealError> {
        let secret = random()?;
        let name = secret_name(&secret, cookies);
        let start = Self {
            host: host.into(),
            path: if is_path(path) { path.into() } else { "/".into() },
            secret: hash(&secret),
            aim,
            until: now.plus(ATTEMPT_TIME).as_millis(),
        };
        let text = keyring.seal(Purpose::Start, &urls.login, &start)?;
        Ok(SignInRedirect {
            location: format!("{}?r={text}", urls.page("start")),
            cookie: set_cookie(&name, &secret, CookieLifetime::For(ATTEMPT_TIME)),
        })
    }

    /// Decrypts what the browser brings to the login host; `None` if it is invalid or too old.
    #[must_use]
    pub fn open(keyring: &Keyring, urls: &PublicUrls, text: &str, now: Timestamp) -> Option<Self> {
        Self::open_late(keyring, urls, text).filter(|start| now.as_millis() < start.until)
    }

    /// Decrypts it even if it is too old: for a link back to the workspace.
    #[must_use]
    pub fn open_late(keyring: &Keyring, urls: &PublicUrls, text: &str) -> Option<Self> {
        keyring.open(Purpose::Start, &urls.login, text)
    }

    /// The address where the person wants to go.
    #[must_use]
    pub fn address(&self, urls: &PublicUrls) -> String {
        format!("{}{}", urls.origin(&self.host), self.path)
    }

    /// Encrypts it again, for a link on a page.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(&self, keyring: &Keyring, urls: &PublicUrls) -> Result<String, SealError> {
        keyring.seal(Purpose::Start, &urls.login, self)
    }

    /// The encrypted ticket for the workspace's host. `session` is the login host's cookie.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn ticket(
        &self,
        keyring: &Keyring,
        session: &str,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<String, SealError> {
        let ticket = Ticket::new(session, identity, self.secret.clone(), now)?;
        keyring.seal(Purpose::Ticket, &self.host, &ticket)
    }
}

/// The encrypted ticket for the host of another endpoint of the workspace, which was not opened, so that there is no secret
/// of it in the browser. `session` is the login host's cookie.
///
/// # Errors
/// The system has no random numbers.
pub fn sibling_ticket(
    keyring: &Keyring,
    host: &str,
    session: &str,
    identity: &Identity,
    now: Timestamp,
) -> Result<String, SealError> {
    let ticket = Ticket::new(session, identity, String::new(), now)?;
    keyring.seal(Purpose::SiblingTicket, host, &ticket)
}

impl Attempt {
    /// An attempt at an issuer, with a new state, nonce and verifier.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(issuer: &str, start: Option<Start>, now: Timestamp) -> Result<Self, SealError> {
        Ok(Self {
            issuer: issuer.into(),
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            start,
            until: now.plus(ATTEMPT_TIME).as_millis(),
        })
    }

    /// The PKCE challenge, always S256 (RFC 7636 section 4.2).
    #[must_use]
    pub fn challenge(&self) -> String {
        hash(&self.verifier)
    }

    /// The name of the cookie of the attempt with this state. Each tab has a cookie of its own.
    #[must_use]
    pub fn cookie_name(state: &str) -> String {
        format!("{ATTEMPT_COOKIE}{}", name_end(state))
    }

    /// The Set-Cookie header that stores the attempt in the browser.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn cookie(&self, keyring: &Keyring, urls: &PublicUrls) -> Result<String, SealError> {
        let text = keyring.seal(Purpose::Attempt, &urls.login, self)?;
        let name = Self::cookie_name(&self.state);
        Ok(set_cookie(&name, &text, CookieLifetime::For(ATTEMPT_TIME)))
    }

    /// Decrypts the cookie of an attempt; `None` if it is invalid, too old or of another state.
    #[must_use]
    pub fn open(
        keyring: &Keyring,
        urls: &PublicUrls,
        cookie: &str,
        state: &str,
        now: Timestamp,
    ) -> Option<Self> {
        let attempt: Self = keyring.open(Purpose::Attempt, &urls.login, cookie)?;
        (same_secret(&attempt.state, state) && now.as_millis() < attempt.until).then_some(attempt)
    }
}

impl Ticket {
    /// A ticket that is valid from now on; `secret` is empty for a host without one in the browser.
    fn new(
        session: &str,
        identity: &Identity,
        secret: String,
        now: Timestamp,
    ) -> Result<Self, SealError> {
        Ok(Self {
            session: session.into(),
            person: person(identity),
            secret,
            id: random()?,
            until: now.plus(TICKET_TIME).as_millis(),
        })
    }

    /// Decrypts a ticket; `None` if it is invalid, too old or for another host.
    #[must_use]
    pub fn open(keyring: &Keyring, host: &str, text: &str, now: Timestamp) -> Option<Self> {
        Self::open_for(Purpose::Ticket, keyring, host, text, now)
    }

    /// The same for a ticket of [`sibling_ticket`].
    #[must_use]
    pub fn open_sibling(keyring: &Keyring, host: &str, text: &str, now: Timestamp) -> Option<Self> {
        Self::open_for(Purpose::SiblingTicket, keyring, host, text, now)
    }

    fn open_for(
        purpose: Purpose,
        keyring: &Keyring,
        host: &str,
        text: &str,
        now: Timestamp,
    ) -> Option<Self> {
        let ticket: Self = keyring.open(purpose, host, text)?;
        (now.as_millis() < ticket.until).then_some(ticket)
    }

    /// Whether the sign-in began in the browser that has this secret.
    #[must_use]
    pub fn belongs_to(&self, secret: &str) -> bool {
        same_secret(&hash(secret), &self.secret)
    }

    /// Uses the ticket up.
    pub async fn take(&self, replay: &ReplayGuard, now: Timestamp) -> Taken {
        replay.take_for(&self.person, &self.id, Timestamp::from_millis(self.until), now).await
    }
}

/// The name of a person in a [`ReplayGuard`], which counts the ids of each.
#[must_use]
pub fn person(identity: &Identity) -> String {
    hash(&format!("{} {}", identity.issuer, identity.subject))
}

/// Whether a text is a path to which a browser may return. Every browser must understand it as a path at the same host
/// (RFC 9700 section 4.11): some take a backslash for a slash, and ignore control characters.
#[must_use]
pub fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH
        && text.starts_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// The names and values of the cookies with secrets in a Cookie header. More than a browser can have from us are
/// ignored.
pub fn secrets(header: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    cookie::with_prefix(header, SECRET_COOKIE)
        .filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)))
        .take(2 * MAX_SECRETS)
}

/// The name of the cookie of a new secret. When the browser has many, it is the name of the oldest, which browsers send
/// first, so that the new one replaces it.
fn secret_name(secret: &str, cookies: &[u8]) -> String {
    // The name goes into a header, and a workspace may have set any cookie that begins like ours.
    let is_ours = |name: &&str| {
        let own = name.get(SECRET_COOKIE.len()..).unwrap_or_default();
        own.len() == NAME_LENGTH && own.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let mut old = secrets(cookies).map(|(name, _)| name).filter(is_ours);
    let first = old.next();
    match first {
        Some(name) if old.count() + 1 >= MAX_SECRETS => name.into(),
        _ => format!("{SECRET_COOKIE}{}", name_end(&hash(secret))),
    }
}

/// The end of a cookie's name, from a random text.
fn name_end(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(NAME_LENGTH).collect()
}

/// An id for a decision that the sign-in pages make, or for an error that one of them shows.
///
/// # Errors
/// The system has no random numbers.
pub fn decision_id() -> Result<String, SealError> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| SealError)?;
    Ok(format!("web-{:016x}", u64::from_be_bytes(bytes)))
}

/// 32 random bytes as text.
fn random() -> Result<String, SealError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| SealError)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The SHA-256 of a text in base64url.
fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Whether two secrets are the same. The time it takes does not depend on where they differ.
#[must_use]
pub fn same_secret(one: &str, other: &str) -> bool {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::identity::profile::{Authority, MatchBy};

    fn keyring() -> Keyring {
        Keyring::parse(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap()
    }

    fn urls() -> PublicUrls {
        PublicUrls { login: "login.test".into(), port: 443 }
    }

    fn alice() -> Identity {
        let authority = Authority::new("corp", "https://corp", vec![MatchBy::Subject]);
        Identity::plain(Arc::new(authority), "https://idp.test", "alice")
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    /// The encrypted start of a redirect, and the browser's secret.
    fn redirect(path: &str) -> (String, String) {
        let redirect =
            Start::redirect(&keyring(), &urls(), "w.test", path, b"", Aim::SignIn, at(0)).unwrap();
        let sealed = redirect.location.split("?r=").nth(1).unwrap().to_owned();
        let secret = redirect.cookie.split(['=', ';']).nth(1).unwrap().to_owned();
        (sealed, secret)
    }

    fn ticket(path: &str) -> (String, String) {
        let (sealed, secret) = redirect(path);
        let start = Start::open(&keyring(), &urls(), &sealed, at(1)).unwrap();
        assert_eq!(start.path, path);
        (start.ticket(&keyring(), "session", &alice(), at(1)).unwrap(), secret)
    }

    #[tokio::test]
    async fn p3_a_ticket_is_valid_once_at_its_host_in_its_browser_for_half_a_minute() {
        let (text, secret) = ticket("/x");
        let open = |host, secs| Ticket::open(&keyring(), host, &text, at(secs));
        assert!(open("other.test", 2).is_none(), "another host");
        assert!(open("w.test", 31).is_none(), "too late");
        let ticket = open("w.test", 2).unwrap();
        assert!(!ticket.belongs_to("another secret"), "another browser");
        assert!(ticket.belongs_to(&secret));
        let replay = ReplayGuard::default();
        assert_eq!(ticket.take(&replay, at(2)).await, Taken::First);
        let again = open("w.test", 3).unwrap();
        assert_eq!(again.take(&replay, at(3)).await, Taken::Repeated);
    }

    #[test]
    fn each_tab_has_a_secret_of_its_own_and_their_number_is_limited() {
        let mut held: Vec<(String, String)> = Vec::new();
        for _ in 0..20 {
            let header: Vec<_> =
                held.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let header = format!("a=1; {}", header.join("; "));
            let redirect = Start::redirect(
                &keyring(),
                &urls(),
                "w.test",
                "/",
                header.as_bytes(),
                Aim::SignIn,
                at(0),
            );
            let cookie = redirect.unwrap().cookie;
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            held.retain(|(known, _)| known != name);
            held.push((name.into(), value.into()));
        }
        assert_eq!(held.len(), MAX_SECRETS);
        // What others put there is not taken over: nothing but one of our names is set.
        let evil = format!("{SECRET_COOKIE}e\r\nvil=x; ").repeat(20);
        let redirect = Start::redirect(
            &keyring(),
            &urls(),
            "w.test",
            "/",
            evil.as_bytes(),
            Aim::SignIn,
            at(0),
        );
        assert!(!redirect.unwrap().cookie.contains("vil"));
    }

    #[test]
    fn c2_a_value_for_one_step_is_not_valid_for_another() {
        let (start, _) = redirect("/");
        for host in ["login.test", "w.test"] {
            assert!(Ticket::open(&keyring(), host, &start, at(1)).is_none());
        }
        let (ticket, _) = ticket("/");
        // A ticket for a host that was opened needs the secret of the browser there.
        assert!(Ticket::open_sibling(&keyring(), "w.test", &ticket, at(1)).is_none());
        let other = sibling_ticket(&keyring(), "w.test", "session", &alice(), at(1)).unwrap();
        assert!(Ticket::open(&keyring(), "w.test", &other, at(1)).is_none());
        assert!(Ticket::open_sibling(&keyring(), "other.test", &other, at(1)).is_none());
        assert!(Ticket::open_sibling(&keyring(), "w.test", &other, at(31)).is_none(), "too late");
        let other = Ticket::open_sibling(&keyring(), "w.test", &other, at(30)).unwrap();
        assert!(!other.belongs_to("") && !other.belongs_to("secret"), "to no secret");
        assert!(Start::open(&keyring(), &urls(), &ticket, at(1)).is_none());
        assert!(Start::open(&keyring(), &urls(), &start, at(601)).is_none(), "too late");
    }

    #[test]
    fn l2_an_attempt_is_valid_for_its_state_and_for_a_time() {
        let attempt = Attempt::new("corp", None, at(0)).unwrap();
        let cookie = attempt.cookie(&keyring(), &urls()).unwrap();
        let value = cookie.split(['=', ';']).nth(1).unwrap();
        let open = |state: &str, secs| Attempt::open(&keyring(), &urls(), value, state, at(secs));
        assert_eq!(open(&attempt.state, 599).as_ref(), Some(&attempt));
        assert_eq!(open(&attempt.state, 600), None);
        assert_eq!(open("another", 1), None);
    }

    #[test]
    fn l1_l3_each_attempt_has_its_own_verifier_state_and_nonce() {
        let (one, two) = (Attempt::new("c", None, at(0)), Attempt::new("c", None, at(0)));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.state != two.state && one.nonce != two.nonce && one.verifier != two.verifier);
        assert_eq!(one.verifier.len(), 43);
        // RFC 7636 appendix B.
        let attempt = Attempt {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
            ..Attempt::new("c", None, at(0)).unwrap()
        };
        assert_eq!(attempt.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn l5_a_browser_returns_only_to_a_path() {
        for path in ["/", "/a/b?c=d", "//evil.test/", "/%5c%5cevil"] {
            assert!(is_path(path), "{path}");
            // It is appended to the origin of the host, so that two slashes are only slashes.
            let (sealed, _) = redirect(path);
            let start = Start::open(&keyring(), &urls(), &sealed, at(1)).unwrap();
            assert_eq!(start.path, path);
            assert_eq!(start.address(&urls()), format!("https://w.test{path}"));
        }
        for path in ["", "evil", "https://evil.test", "/\\evil", "/a\r\nb", "/\u{e9}", "@evil"] {
            assert!(!is_path(path), "{path}");
        }
        assert!(!is_path(&format!("/{}", "a".repeat(MAX_PATH))));
    }

    #[test]
    fn c1_cookies_are_of_their_host_alone() {
        let redirect =
            Start::redirect(&keyring(), &urls(), "w.test", "/", b"", Aim::SignIn, at(0)).unwrap();
        let attempt = Attempt::new("c", None, at(0)).unwrap();
        for cookie in [redirect.cookie, attempt.cookie(&keyring(), &urls()).unwrap()] {
            assert!(cookie.starts_with("__Host-"), "{cookie}");
            for part in ["; Path=/;", "; Secure;", "; HttpOnly;", "; SameSite=Lax;"] {
                assert!(cookie.contains(part), "{cookie}");
            }
            assert!(!cookie.contains("Domain") && cookie.len() < 4096, "{cookie}");
        }
    }

    #[test]
    fn a_port_other_than_the_usual_is_part_of_addresses() {
        let urls = PublicUrls { login: "login.test".into(), port: 8443 };
        assert_eq!(urls.page("start"), "https://login.test:8443/.well-known/identity-spoa/start");
    }
}
