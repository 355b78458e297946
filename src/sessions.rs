//! Browser sign-in: who signed in, and for which host.
//!
//! A person signs in once, at the login host, which no workspace can see. Each workspace host then gets a
//! cookie of its own that is worth nothing elsewhere, since what runs there is hostile. All that cookies
//! stand for is here, so that ending a session ends it everywhere at once.
//!
//! [`flow`] has the values of the way from a workspace's host to the provider and back; [`seal`] protects what travels
//! through browsers meanwhile; [`table`] has the sessions, [`store`] keeps them in a file, [`shared`] among several
//! agents. The server of the way, and what asks providers, is [`crate::sign_in`].

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use secrecy::SecretString;

use crate::{identity::Identity, lock::Mutex, time::Timestamp};

pub mod flow;
pub mod seal;
pub mod shared;
pub mod store;
pub mod table;

use flow::Places;
use seal::Sealer;
pub use table::Sessions;

/// The cookie of a workspace's host.
pub const COOKIE: &str = "__Host-identity";
/// The cookie of the login host.
pub const LOGIN_COOKIE: &str = "__Host-identity_login";
/// The most cookies of one session; beyond it, the oldest counts no more.
const MAX_HOSTS: usize = 256;

/// The sessions of browsers, with what leads a browser to one: for the gate and for the pages of sign-in.
pub struct BrowserSessions {
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The store that several agents share, if they do.
    pub shared: Option<Arc<shared::Shared>>,
    /// Protects what travels through browsers.
    pub sealer: Arc<Sealer>,
    /// The addresses of the login host and of workspaces.
    pub places: Places,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Without a request.
    pub idle: Duration,
    /// In any case.
    pub absolute: Duration,
}

/// One sign-in of a person.
pub struct Session {
    pub(crate) identity: ArcSwap<Identity>,
    tokens: Mutex<Tokens>,
    key: store::Key,
    /// When the person signed in.
    began: Timestamp,
    /// When it ends whatever happens.
    end: Timestamp,
    /// The last request, in milliseconds since the Unix epoch.
    last: AtomicU64,
    /// The last request that whoever keeps it knows of.
    kept: AtomicU64,
    ended: AtomicBool,
    /// Its cookies, oldest first: one for each host, so that nobody fills the table by coming again.
    hosts: Mutex<VecDeque<(Box<str>, Digest)>>,
}

/// What the provider gave for a sign-in.
#[derive(Clone)]
pub struct Tokens {
    /// The proof, which the provider's logout asks for.
    pub id: SecretString,
    /// With which it is asked again.
    pub refresh: Option<SecretString>,
    /// What the first ID token had to say; a later one may say it too (OIDC Core section 12.2).
    pub nonce: Box<str>,
    /// When it was asked last.
    pub asked: Timestamp,
    /// When it is to be asked again, if the session is in use.
    pub due: Timestamp,
}

/// SHA-256 of a cookie: what is kept is no cookie, so that whoever reads it cannot sign in with it.
type Digest = [u8; 32];

impl Session {
    /// Who signed in, as far as the provider was asked; ends with the session.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// What tells it from others, and says nothing of its cookies.
    #[must_use]
    pub fn name(&self) -> String {
        store::name(&self.key)
    }

    /// When the person signed in.
    #[must_use]
    pub const fn began(&self) -> Timestamp {
        self.began
    }

    /// When it ends whatever happens.
    #[must_use]
    pub const fn end(&self) -> Timestamp {
        self.end
    }

    /// The last request.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        Timestamp::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// The hosts that have a cookie of it, the login host among them.
    #[must_use]
    pub fn host_names(&self) -> Vec<String> {
        let hosts = self.hosts.lock();
        hosts.iter().map(|(host, _)| host.to_string()).collect()
    }

    /// What the provider gave last.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.tokens.lock().clone()
    }

    /// Whether the provider is to be asked whether it still counts: it was used since it was asked last.
    fn is_due(&self, now: Timestamp) -> bool {
        let tokens = self.tokens.lock();
        tokens.refresh.is_some() && tokens.due <= now && tokens.asked < self.last()
    }

    /// Puts the question off, at this agent.
    pub(crate) fn put_off(&self, until: Timestamp) {
        self.tokens.lock().due = until;
    }

    fn replace(&self, identity: Identity, tokens: Tokens) {
        self.identity.store(Arc::new(identity));
        *self.tokens.lock() = tokens;
    }

    fn as_kept(&self) -> store::Kept {
        store::Kept::new(&self.identity(), &self.tokens(), [self.began, self.end, self.last()])
    }

    /// What ends with it.
    fn ending(&self) -> (store::Key, Vec<Digest>) {
        let hosts = self.hosts.lock();
        (self.key, hosts.iter().map(|(_, digest)| *digest).collect())
    }

    fn forget_cookies(&self) {
        self.hosts.lock().clear();
    }

    /// The cookie that another one for the host will replace.
    fn replaces(&self, host: &str) -> Option<Digest> {
        let hosts = self.hosts.lock();
        let same = hosts.iter().find(|(known, _)| **known == *host);
        let oldest = || hosts.front().filter(|_| hosts.len() >= MAX_HOSTS);
        same.or_else(oldest).map(|(_, digest)| *digest)
    }

    /// Notes a cookie for a host. Returns the one it replaces.
    fn take_in(&self, host: &str, digest: Digest) -> Option<Digest> {
        let old = self.replaces(host);
        let mut hosts = self.hosts.lock();
        hosts.retain(|(_, known)| Some(*known) != old);
        hosts.push_back((host.into(), digest));
        old
    }

    /// Whether two are the same session.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// SHA-256.
fn hash(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}
