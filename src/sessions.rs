//! Browser sessions: who signed in, until when, and which cookie belongs to which session.
//!
//! The gate asks [`Sessions`] for the session of a cookie; [`crate::sign_in`] begins, refreshes and ends sessions. A
//! person signs in once, at the login host. Each workspace's host then gets a cookie of its own, which is worth nothing at
//! another host, since what runs in a workspace is not trusted. Cookies are only names: what they stand for is here, so
//! that the end of a session takes effect at every host at once.
//!
//! [`table`] has the sessions of this process. [`store`] is the interface to where they outlive it: memory, a file, or
//! Redis, which several agents share. [`flow`] has the encrypted values that travel through the browser during a
//! sign-in, [`keyring`] the keys that encrypt them, and [`replay`] the ids that are valid once.
//!
//! No HTTP server and no identity provider here; those are in [`crate::sign_in`].

use std::{
    collections::VecDeque,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use secrecy::SecretString;

use crate::{identity::Identity, lock::Mutex, time::Timestamp};

mod deliveries;
pub mod flow;
pub mod keyring;
pub mod replay;
pub mod settings;
pub mod store;
pub mod table;

use deliveries::Deliveries;
use flow::PublicUrls;
use keyring::Keyring;
use store::{Key, StoredSession, redis::RedisStore};
pub use table::Sessions;

/// The name of the session cookie at a workspace's host.
pub const COOKIE: &str = "__Host-identity";
/// The name of the session cookie at the login host.
pub const LOGIN_COOKIE: &str = "__Host-identity_login";
/// How long after a sign-in the other agents may not know of all its cookies yet.
const SETTLING_TIME: Duration = Duration::from_secs(3);
/// The most cookies of one session. When another host needs one, the oldest becomes invalid.
const MAX_HOSTS: usize = 256;

/// Everything about browser sessions that the gate and the pages of sign-in share.
pub struct BrowserSessions {
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The store that several agents share, if `[redis]` is configured.
    pub redis: Option<Arc<RedisStore>>,
    /// Encrypts what travels through browsers.
    pub keyring: Arc<Keyring>,
    /// The addresses of the login host and of workspaces.
    pub urls: PublicUrls,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// A session ends after this time without a request.
    pub idle: Duration,
    /// A session ends after this time even if it is in use.
    pub absolute: Duration,
}

/// One sign-in of a person in one browser.
pub struct Session {
    pub(crate) identity: ArcSwap<Identity>,
    tokens: Mutex<Tokens>,
    key: Key,
    /// When the person signed in.
    began: Timestamp,
    /// When the session ends even if it is in use.
    end: Timestamp,
    /// The time of the last request, in milliseconds since the Unix epoch.
    last_used: AtomicU64,
    /// The value of `last_used` that the store has.
    stored_last_used: AtomicU64,
    /// Set once, when the session ends. An open tunnel holds the session and reads this.
    ended: AtomicBool,
    /// The cookies, oldest first. A host has one at most, so that a browser that comes again and again does not fill
    /// the table.
    hosts: Mutex<VecDeque<(Box<str>, Digest)>>,
    /// Where cookies were sent that the browser may not have taken.
    deliveries: Mutex<Deliveries>,
}

/// What the identity provider issued at a sign-in, with the state of refreshing it.
#[derive(Clone)]
pub struct Tokens {
    /// The ID token, which the provider's logout endpoint expects as a hint.
    pub id_token: SecretString,
    /// The refresh token; the session is never refreshed without one.
    pub refresh_token: Option<SecretString>,
    /// The nonce of the first ID token, which later ones may repeat (OIDC Core section 12.2).
    pub nonce: Box<str>,
    /// When the provider last confirmed the session.
    pub refreshed: Timestamp,
    /// When the session is refreshed next, if it was used since.
    pub refresh_due: Timestamp,
}

/// The SHA-256 of a cookie. Only digests are stored, so that what is in the store is not enough to sign in.
pub type Digest = [u8; 32];

impl Session {
    /// Who signed in, as the provider said last. The identity expires with the session.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// The public id of the session. It is not a cookie and cannot be used to sign in.
    #[must_use]
    pub fn id(&self) -> String {
        store::row_name(&self.key)
    }

    /// When the person signed in.
    #[must_use]
    pub const fn began(&self) -> Timestamp {
        self.began
    }

    /// When the session ends even if it is in use.
    #[must_use]
    pub const fn end(&self) -> Timestamp {
        self.end
    }

    /// The time of the last request.
    #[must_use]
    pub fn last_used(&self) -> Timestamp {
        Timestamp::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// The hosts that have a cookie of this session, including the login host.
    #[must_use]
    pub fn host_names(&self) -> Vec<String> {
        self.lock_hosts().iter().map(|(host, _)| host.to_string()).collect()
    }

    /// Whether a cookie may be sent to a host that was not opened: it has none, none was sent lately, and there is room for
    /// those of hosts that are opened.
    #[must_use]
    pub fn may_send_cookie(&self, host: &str, now: Timestamp) -> bool {
        let hosts = self.lock_hosts();
        let is_missing = hosts.iter().all(|(known, _)| **known != *host);
        let has_room = hosts.len() < MAX_HOSTS / 2;
        drop(hosts);
        is_missing && has_room && self.deliveries.lock().may_send(host, now)
    }

    /// Notes that a cookie is sent to a host that was not opened.
    pub fn note_cookie_sent(&self, host: &str, now: Timestamp) {
        self.deliveries.lock().note_sent(host, now);
    }

    /// Notes that a browser which opens a host is led through the login host, for cookies of other hosts. Returns whether it
    /// may be: not again at once, and not again and again for hosts that take none. Nor just after the sign-in: another
    /// agent may have made cookies that this one does not know yet.
    #[must_use]
    pub fn begin_round(&self, host: &str, others: &[&str], now: Timestamp) -> bool {
        now.since(self.began) >= SETTLING_TIME
            && self.deliveries.lock().begin_round(host, others, now)
    }

    /// The tokens that the provider issued last.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.lock_tokens().clone()
    }

    /// Whether both are the same session.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// Whether the provider should be asked to confirm the session: the time has come, and the session was used since
    /// the last time.
    fn is_refresh_due(&self, now: Timestamp) -> bool {
        let tokens = self.lock_tokens();
        tokens.refresh_token.is_some()
            && tokens.refresh_due <= now
            && tokens.refreshed < self.last_used()
    }

    /// Postpones the next refresh by this agent.
    pub(crate) fn postpone_refresh(&self, until: Timestamp) {
        self.lock_tokens().refresh_due = until;
    }

    fn replace(&self, identity: Identity, tokens: Tokens) {
        self.identity.store(Arc::new(identity));
        *self.lock_tokens() = tokens;
    }

    fn note_use(&self, now: Timestamp) {
        self.last_used.fetch_max(now.as_millis(), Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn to_stored(&self) -> StoredSession {
        StoredSession::new(
            &self.identity(),
            &self.tokens(),
            [self.began, self.end, self.last_used()],
        )
    }

    fn cookie_digests(&self) -> Vec<Digest> {
        self.lock_hosts().iter().map(|(_, digest)| *digest).collect()
    }

    fn forget_cookies(&self) {
        self.lock_hosts().clear();
    }

    /// The cookie that a new one for this host will replace: the host's own, or the oldest when there are too many.
    fn replaced_cookie(&self, host: &str) -> Option<Digest> {
        let hosts = self.lock_hosts();
        let same = hosts.iter().find(|(known, _)| **known == *host);
        let oldest = || hosts.front().filter(|_| hosts.len() >= MAX_HOSTS);
        same.or_else(oldest).map(|(_, digest)| *digest)
    }

    /// Notes a cookie for a host. Returns the cookie that it replaces.
    fn add_cookie(&self, host: &str, digest: Digest) -> Option<Digest> {
        let replaced = self.replaced_cookie(host);
        let mut hosts = self.lock_hosts();
        hosts.retain(|(_, known)| Some(*known) != replaced);
        hosts.push_back((host.into(), digest));
        replaced
    }

    fn lock_tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock()
    }

    fn lock_hosts(&self) -> MutexGuard<'_, VecDeque<(Box<str>, Digest)>> {
        self.hosts.lock()
    }
}

/// The SHA-256 of bytes.
fn hash(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}
