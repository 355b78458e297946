//! The way from a workspace's host to the provider and back, as values: no HTTP here.
//!
//! 1. A browser without a session opens a workspace's host. It gets a secret, as a cookie of that host,
//!    and is sent to the login host with a sealed [`Start`] that knows a hash of the secret.
//! 2. The login host has a session of its own, or an [`Attempt`] is made at the provider: code, PKCE,
//!    state and nonce, all in a sealed cookie, so that nothing is kept for strangers.
//! 3. The login host's page delivers a sealed [`Ticket`] to the workspace's host: good for half a minute, once,
//!    there, and in the browser that has the secret. Pages and service workers of the workspace never see it
//!    (docs/decisions/0014-hand-over.md).

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use aws_lc_rs::{constant_time, digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    identity::Identity,
    lock::Mutex,
    request::cookie,
    sessions::{
        seal::{Purpose, SealError, Sealer},
        shared::Shared,
    },
    time::Timestamp,
};

/// How the cookies with the secrets of a workspace's host begin; each tab has one of its own.
pub const PRE_COOKIE: &str = "__Host-identity_pre_";
/// How the cookies of attempts begin.
pub const ATTEMPT_COOKIE: &str = "__Host-identity_at_";
/// The path of our own pages, at the login host and at those of workspaces.
pub const PATHS: &str = "/.well-known/identity-spoa/";
/// How long a person may take at the provider.
pub const ATTEMPT_FOR: Duration = Duration::from_mins(10);
/// How long a ticket is good.
const TICKET_FOR: Duration = Duration::from_secs(30);
/// The length of what tells cookies of one kind apart.
const NAME: usize = 8;
/// The longest path that is come back to, in bytes.
const MAX_PATH: usize = 2048;
/// The most secrets that one browser has at one host; beyond it, the oldest goes.
const MAX_SECRETS: usize = 8;
/// The most ids that are remembered as used.
const MAX_USED: usize = 100_000;
/// The most of them that one person has.
const MAX_USED_OF_ONE: usize = 1_000;

/// What the login host is told of where somebody wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The workspace's host.
    pub host: String,
    /// The path there, with its query.
    pub path: String,
    /// SHA-256 of the secret in the browser.
    secret: String,
    /// In milliseconds since the Unix epoch.
    until: u64,
}

/// What is remembered while a person is at the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The configured name of the issuer.
    pub issuer: String,
    /// Echoed by the provider (RFC 6749 section 10.12).
    pub state: String,
    /// Found again in the ID token (OIDC Core section 15.5.2).
    pub nonce: String,
    /// The PKCE verifier (RFC 7636 section 4.1).
    pub verifier: String,
    /// Where to go then.
    pub start: Option<Start>,
    until: u64,
}

/// The right to a session's cookie at one host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ticket {
    /// The cookie of the login host, whose session this is.
    pub session: String,
    /// Whose session it is: see [`person`].
    person: String,
    secret: String,
    id: String,
    until: u64,
}

/// Where a browser is sent, and the secret that it keeps.
#[derive(Debug)]
pub struct Offer {
    /// The address at the login host.
    pub location: String,
    /// The Set-Cookie header for the workspace's host.
    pub cookie: String,
}

/// The addresses of the login host and of workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The login host.
    pub login: Box<str>,
    /// The port of HAProxy's https, the same for all.
    pub port: u16,
}

impl Places {
    /// The origin of a host (RFC 6454 section 6.2).
    #[must_use]
    pub fn origin(&self, host: &str) -> String {
        match self.port {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        }
    }

    /// The address of one of our own pages at the login host.
    #[must_use]
    pub fn page(&self, name: &str) -> String {
        self.page_at(&self.login, name)
    }

    /// The address of one of our own pages at a host.
    #[must_use]
    pub fn page_at(&self, host: &str, name: &str) -> String {
        format!("{}{PATHS}{name}", self.origin(host))
    }
}

impl Start {
    /// Sends a browser to the login host. `held` is the Cookie header that it sent.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn offer(
        sealer: &Sealer,
        places: &Places,
        host: &str,
        path: &str,
        held: &[u8],
        now: Timestamp,
    ) -> Result<Offer, SealError> {
        let secret = random()?;
        let name = secret_name(&secret, held);
        let start = Self {
            host: host.into(),
            path: if is_path(path) { path.into() } else { "/".into() },
            secret: hash(&secret),
            until: now.plus(ATTEMPT_FOR).as_millis(),
        };
        let text = sealer.seal(Purpose::Start, &places.login, &start)?;
        let seconds = ATTEMPT_FOR.as_secs();
        Ok(Offer {
            location: format!("{}?r={text}", places.page("start")),
            cookie: format!(
                "{name}={secret}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}"
            ),
        })
    }

    /// Reads what came back from the browser.
    #[must_use]
    pub fn open(sealer: &Sealer, places: &Places, text: &str, now: Timestamp) -> Option<Self> {
        Self::of(sealer, places, text).filter(|start| now.as_millis() < start.until)
    }

    /// Reads it even if it is too late to go on from there: for a link to where it began.
    #[must_use]
    pub fn of(sealer: &Sealer, places: &Places, text: &str) -> Option<Self> {
        sealer.open(Purpose::Start, &places.login, text)
    }

    /// Where it began.
    #[must_use]
    pub fn address(&self, places: &Places) -> String {
        format!("{}{}", places.origin(&self.host), self.path)
    }

    /// The same again, for a link on a page.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn seal(&self, sealer: &Sealer, places: &Places) -> Result<String, SealError> {
        sealer.seal(Purpose::Start, &places.login, self)
    }

    /// The sealed ticket that makes a session's cookie at the workspace's host.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn ticket(
        &self,
        sealer: &Sealer,
        session: &str,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<String, SealError> {
        let ticket = Ticket {
            session: session.into(),
            person: person(identity),
            secret: self.secret.clone(),
            id: random()?,
            until: now.plus(TICKET_FOR).as_millis(),
        };
        sealer.seal(Purpose::Ticket, &self.host, &ticket)
    }
}

impl Attempt {
    /// An attempt at an issuer, with a fresh state, nonce and verifier.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn new(issuer: &str, start: Option<Start>, now: Timestamp) -> Result<Self, SealError> {
        Ok(Self {
            issuer: issuer.into(),
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            start,
            until: now.plus(ATTEMPT_FOR).as_millis(),
        })
    }

    /// The PKCE challenge, always S256 (RFC 7636 section 4.2).
    #[must_use]
    pub fn challenge(&self) -> String {
        hash(&self.verifier)
    }

    /// The name of its cookie: each tab has one of its own.
    #[must_use]
    pub fn cookie_of(state: &str) -> String {
        format!("{ATTEMPT_COOKIE}{}", short(state))
    }

    /// The Set-Cookie header that remembers it.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn cookie(&self, sealer: &Sealer, places: &Places) -> Result<String, SealError> {
        let text = sealer.seal(Purpose::Attempt, &places.login, self)?;
        let (name, seconds) = (Self::cookie_of(&self.state), ATTEMPT_FOR.as_secs());
        // Lax: it must come along when the provider sends the browser back.
        Ok(format!("{name}={text}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}"))
    }

    /// Reads its cookie; `None` unless it is the attempt of that state.
    #[must_use]
    pub fn open(
        sealer: &Sealer,
        places: &Places,
        cookie: &str,
        state: &str,
        now: Timestamp,
    ) -> Option<Self> {
        let attempt: Self = sealer.open(Purpose::Attempt, &places.login, cookie)?;
        (same(&attempt.state, state) && now.as_millis() < attempt.until).then_some(attempt)
    }
}

impl Ticket {
    /// Reads a ticket; `None` unless it is for that host and in time.
    #[must_use]
    pub fn open(sealer: &Sealer, host: &str, text: &str, now: Timestamp) -> Option<Self> {
        let ticket: Self = sealer.open(Purpose::Ticket, host, text)?;
        (now.as_millis() < ticket.until).then_some(ticket)
    }

    /// Whether the browser that has this secret began the sign-in.
    #[must_use]
    pub fn is_of(&self, secret: &str) -> bool {
        same(&hash(secret), &self.secret)
    }

    /// Takes it; false when it was taken before.
    pub async fn take(&self, used: &Used, now: Timestamp) -> bool {
        used.take_of(&self.person, &self.id, Timestamp::from_millis(self.until), now).await
    }
}

/// Ids that count once, among all agents.
#[derive(Default)]
pub struct Used {
    here: Mutex<UsedHere>,
    shared: Option<Arc<Shared>>,
}

/// Ids that this agent saw, until they are no good anyway.
#[derive(Default)]
struct UsedHere {
    ids: HashMap<String, Timestamp>,
    /// Until when those of each person are, so that one person cannot use up the room of all.
    of: HashMap<String, Vec<Timestamp>>,
}

impl UsedHere {
    fn take(&mut self, person: Option<&str>, id: &str, until: Timestamp, now: Timestamp) -> bool {
        if self.ids.contains_key(id) || !self.has_room(now) {
            return false;
        }
        let may = person.is_none_or(|person| self.charge(person, until, now));
        may && self.ids.insert(id.into(), until).is_none()
    }

    fn has_room(&mut self, now: Timestamp) -> bool {
        if self.ids.len() >= MAX_USED {
            self.ids.retain(|_, until| now < *until);
            self.of.retain(|_, all| {
                all.retain(|until| now < *until);
                !all.is_empty()
            });
        }
        self.ids.len() < MAX_USED
    }

    fn charge(&mut self, person: &str, until: Timestamp, now: Timestamp) -> bool {
        let all = self.of.entry(person.into()).or_default();
        if all.len() >= MAX_USED_OF_ONE {
            all.retain(|until| now < *until);
        }
        let may = all.len() < MAX_USED_OF_ONE;
        if may {
            all.push(until);
        }
        may
    }
}

impl Used {
    /// None yet; with a store, what other agents took counts too.
    #[must_use]
    pub fn new(shared: Option<Arc<Shared>>) -> Self {
        Self { here: Mutex::default(), shared }
    }

    fn here(&self) -> MutexGuard<'_, UsedHere> {
        self.here.lock()
    }

    /// Takes an id, which is good until some moment anyway; false when it was taken before, or when
    /// nobody can tell or remember that.
    pub async fn take(&self, id: &str, until: Timestamp, now: Timestamp) -> bool {
        let is_first = self.here().take(None, id, until, now);
        is_first && self.take_shared(id, until).await
    }

    /// The same for an id of a [`person`]; false, too, when that person has too many of them at this agent.
    pub async fn take_of(&self, person: &str, id: &str, until: Timestamp, now: Timestamp) -> bool {
        let is_first = self.here().take(Some(person), id, until, now);
        is_first && self.take_shared(id, until).await
    }

    /// Puts an id, which was taken before it was known whose it is, down to a [`person`]; false when that person
    /// has too many of them. It must be given back then.
    #[must_use]
    pub fn charge(&self, person: &str, until: Timestamp, now: Timestamp) -> bool {
        self.here().charge(person, until, now)
    }

    async fn take_shared(&self, id: &str, until: Timestamp) -> bool {
        match &self.shared {
            Some(shared) => shared.take(id, until).await,
            None => true,
        }
    }

    /// Gives an id back that came to nothing, so that strangers cannot use up what can be remembered.
    pub async fn give_back(&self, id: &str) {
        self.here().ids.remove(id);
        if let Some(shared) = &self.shared {
            shared.give_back(id).await;
        }
    }
}

/// What stands for a person where their ids are counted.
#[must_use]
pub fn person(identity: &Identity) -> String {
    hash(&format!("{} {}", identity.issuer, identity.subject))
}

/// Whether a text is a path to come back to: at this host whatever a browser makes of it
/// (RFC 9700 section 4.11).
#[must_use]
pub fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH
        && text.starts_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// The cookies with secrets in a Cookie header, with their names. Whoever sends more than a browser of ours
/// has, sent them in vain.
pub fn secrets(header: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let pairs = cookie::pairs(header).filter(|pair| pair.starts_with(PRE_COOKIE.as_bytes()));
    pairs.filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('=')).take(2 * MAX_SECRETS)
}

/// The name of a new secret's cookie. Browsers send the oldest first, which gives way when there are many.
fn secret_name(secret: &str, held: &[u8]) -> String {
    let is_ours = |name: &&str| {
        let own = name.get(PRE_COOKIE.len()..).unwrap_or_default();
        own.len() == NAME && own.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let mut old = secrets(held).map(|(name, _)| name).filter(is_ours);
    let first = old.next();
    match first {
        Some(name) if old.count() + 1 >= MAX_SECRETS => name.into(),
        _ => format!("{PRE_COOKIE}{}", short(&hash(secret))),
    }
}

/// What tells cookies of one kind apart.
fn short(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(NAME).collect()
}

/// An id for a decision that is made here and not at HAProxy's question.
///
/// # Errors
/// There are no random numbers.
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

/// SHA-256 in base64url.
fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Whether two secrets are the same, in a time that tells nothing of them.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::profile::{Authority, MatchBy};

    fn sealer() -> Sealer {
        Sealer::ring(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap()
    }

    fn places() -> Places {
        Places { login: "login.test".into(), port: 443 }
    }

    fn alice() -> Identity {
        let authority = Authority::new("corp", "https://corp", vec![MatchBy::Subject]);
        Identity::plain(Arc::new(authority), "https://idp.test", "alice")
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    /// An offer's sealed text and the browser's secret.
    fn offer(path: &str) -> (String, String) {
        let offer = Start::offer(&sealer(), &places(), "w.test", path, b"", at(0)).unwrap();
        let sealed = offer.location.split("?r=").nth(1).unwrap().to_owned();
        let secret = offer.cookie.split(['=', ';']).nth(1).unwrap().to_owned();
        (sealed, secret)
    }

    fn ticket(path: &str) -> (String, String) {
        let (sealed, secret) = offer(path);
        let start = Start::open(&sealer(), &places(), &sealed, at(1)).unwrap();
        assert_eq!(start.path, path);
        (start.ticket(&sealer(), "session", &alice(), at(1)).unwrap(), secret)
    }

    #[tokio::test]
    async fn p3_a_ticket_counts_once_at_its_host_in_its_browser_for_half_a_minute() {
        let (text, secret) = ticket("/x");
        let open = |host, secs| Ticket::open(&sealer(), host, &text, at(secs));
        assert!(open("other.test", 2).is_none(), "another host");
        assert!(open("w.test", 31).is_none(), "too late");
        let ticket = open("w.test", 2).unwrap();
        assert!(!ticket.is_of("somebody else's"), "another browser");
        assert!(ticket.is_of(&secret));
        let used = Used::default();
        assert!(ticket.take(&used, at(2)).await);
        assert!(!open("w.test", 3).unwrap().take(&used, at(3)).await, "again");
    }

    #[tokio::test]
    async fn what_came_to_nothing_is_not_remembered() {
        let used = Used::default();
        for id in 0..2 * MAX_USED {
            let id = id.to_string();
            assert!(used.take(&id, at(600), at(0)).await, "{id}");
            used.give_back(&id).await;
        }
        assert!(
            used.take("once", at(600), at(0)).await && !used.take("once", at(600), at(0)).await
        );
    }

    #[tokio::test]
    async fn s15_one_person_does_not_keep_others_from_signing_in() {
        let used = Used::default();
        for id in 0..2 * MAX_USED_OF_ONE {
            let took = used.take_of("alice", &id.to_string(), at(30), at(0)).await;
            assert_eq!(took, id < MAX_USED_OF_ONE, "{id}");
        }
        assert!(!used.charge("alice", at(30), at(0)));
        // Others sign in, as she does when hers are no good any more.
        assert!(used.charge("bob", at(30), at(0)));
        assert!(used.take_of("bob", "bobs", at(30), at(0)).await);
        assert!(used.take("a logout token", at(30), at(0)).await);
        assert!(!used.take_of("alice", "later", at(60), at(29)).await);
        assert!(used.take_of("alice", "later", at(60), at(30)).await);
        assert!(!used.take_of("alice", "later", at(60), at(30)).await, "once");
        // What is remembered of people ends with what is remembered of ids.
        for one in 0..2 * MAX_USED {
            let now = at(100 + u64::try_from(one / 1_000).unwrap());
            let until = now.plus(Duration::from_secs(30));
            let (person, id) = (format!("p{one}"), format!("i{one}"));
            assert!(used.take_of(&person, &id, until, now).await, "{one}");
        }
        let here = used.here();
        assert!(here.ids.len() <= MAX_USED && here.of.len() <= MAX_USED);
    }

    #[test]
    fn each_tab_has_a_secret_of_its_own_and_they_do_not_pile_up() {
        let mut held: Vec<(String, String)> = Vec::new();
        for _ in 0..20 {
            let header: Vec<_> =
                held.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let header = format!("a=1; {}", header.join("; "));
            let offer = Start::offer(&sealer(), &places(), "w.test", "/", header.as_bytes(), at(0));
            let cookie = offer.unwrap().cookie;
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            held.retain(|(known, _)| known != name);
            held.push((name.into(), value.into()));
        }
        assert_eq!(held.len(), MAX_SECRETS);
        // What others put there is not taken over: nothing but one of our names is set.
        let evil = format!("{PRE_COOKIE}e\r\nvil=x; ").repeat(20);
        let offer = Start::offer(&sealer(), &places(), "w.test", "/", evil.as_bytes(), at(0));
        assert!(!offer.unwrap().cookie.contains("vil"));
    }

    #[test]
    fn c2_what_is_for_one_step_is_nothing_for_another() {
        let (start, _) = offer("/");
        for host in ["login.test", "w.test"] {
            assert!(Ticket::open(&sealer(), host, &start, at(1)).is_none());
        }
        let (ticket, _) = ticket("/");
        assert!(Start::open(&sealer(), &places(), &ticket, at(1)).is_none());
        assert!(Start::open(&sealer(), &places(), &start, at(601)).is_none(), "too late");
    }

    #[test]
    fn l2_an_attempt_is_of_its_state_and_ends() {
        let attempt = Attempt::new("corp", None, at(0)).unwrap();
        let cookie = attempt.cookie(&sealer(), &places()).unwrap();
        let value = cookie.split(['=', ';']).nth(1).unwrap();
        let open = |state: &str, secs| Attempt::open(&sealer(), &places(), value, state, at(secs));
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
    fn l5_only_a_path_is_come_back_to() {
        for path in ["/", "/a/b?c=d", "//evil.test/", "/%5c%5cevil"] {
            assert!(is_path(path), "{path}");
            // It is appended to the origin of the host, so that two slashes are only slashes.
            let (sealed, _) = offer(path);
            let start = Start::open(&sealer(), &places(), &sealed, at(1)).unwrap();
            assert_eq!(start.path, path);
            assert_eq!(start.address(&places()), format!("https://w.test{path}"));
        }
        for path in ["", "evil", "https://evil.test", "/\\evil", "/a\r\nb", "/\u{e9}", "@evil"] {
            assert!(!is_path(path), "{path}");
        }
        assert!(!is_path(&format!("/{}", "a".repeat(MAX_PATH))));
    }

    #[test]
    fn c1_cookies_are_of_their_host_alone() {
        let offer = Start::offer(&sealer(), &places(), "w.test", "/", b"", at(0)).unwrap();
        let attempt = Attempt::new("c", None, at(0)).unwrap();
        for cookie in [offer.cookie, attempt.cookie(&sealer(), &places()).unwrap()] {
            assert!(cookie.starts_with("__Host-"), "{cookie}");
            for part in ["; Path=/;", "; Secure;", "; HttpOnly;", "; SameSite=Lax;"] {
                assert!(cookie.contains(part), "{cookie}");
            }
            assert!(!cookie.contains("Domain") && cookie.len() < 4096, "{cookie}");
        }
    }

    #[test]
    fn a_port_other_than_the_usual_is_part_of_addresses() {
        let places = Places { login: "login.test".into(), port: 8443 };
        assert_eq!(places.page("start"), "https://login.test:8443/.well-known/identity-spoa/start");
    }
}
