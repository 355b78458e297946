//! Browser sign-in: who signed in, and for which host.
//!
//! A person signs in once, at the login host, which no workspace can see. Each workspace host then gets a
//! cookie of its own that is worth nothing elsewhere, since what runs there is hostile. Cookies are random
//! ids; all that they stand for is here, so that ending a session ends it everywhere at once.
//!
//! [`flow`] is the way from a workspace's host to the provider and back; [`web`] serves it; [`seal`]
//! protects what travels through browsers meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use tracing::error;

use crate::{
    clock::Timestamp,
    identity::{Identity, profile::Authority},
};

pub mod client;
pub mod flow;
pub mod logout;
pub mod page;
pub mod seal;
pub mod store;
pub mod web;

use flow::Places;
use seal::Sealer;
use store::{Store, StoreError};

/// The cookie of a workspace's host.
pub const COOKIE: &str = "__Host-identity";
/// The cookie of the login host.
pub const LOGIN_COOKIE: &str = "__Host-identity_login";
/// The most sessions, and the most cookies of hosts for each on average.
const MAX_SESSIONS: usize = 100_000;
const HOSTS_EACH: usize = 16;
/// The most cookies of one session; beyond it, the oldest counts no more.
const MAX_HOSTS: usize = 256;

/// What sign-in needs, for the gate and for the pages.
pub struct SignIn {
    /// The sessions.
    pub sessions: Sessions,
    /// Protects what travels through browsers.
    pub sealer: Arc<Sealer>,
    /// Where things are.
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
    /// Who signed in; ends with the session.
    pub identity: Arc<Identity>,
    /// What the provider calls this sign-in's proof, which its logout asks for.
    pub id_token: SecretString,
    key: store::Key,
    /// When it ends whatever happens.
    end: Timestamp,
    /// The last request, in milliseconds since the Unix epoch.
    last: AtomicU64,
    /// The last request that is on disk.
    kept: AtomicU64,
    ended: AtomicBool,
    /// Its cookies, oldest first: one for each host, so that nobody fills the table by coming again.
    hosts: Mutex<VecDeque<(Box<str>, Digest)>>,
}

/// A cookie of a host.
#[derive(Clone)]
struct Handle {
    session: Arc<Session>,
    /// The host it counts at.
    host: Box<str>,
}

type Digest = [u8; 32];
type Handles = imbl::HashMap<Digest, Handle>;

/// All sessions. Readers never lock; writers may wait for the disk.
pub struct Sessions {
    handles: ArcSwap<Handles>,
    writer: Mutex<()>,
    lifetime: Lifetime,
    file: Option<File>,
}

/// Where sessions outlive the agent.
struct File {
    store: Store,
    sealer: Arc<Sealer>,
}

/// There is no room for another session, or it cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more sessions can be held at the moment")]
pub struct NoRoom;

impl Sessions {
    /// No sessions yet; they end with the process.
    #[must_use]
    pub fn new(lifetime: Lifetime) -> Self {
        Self { handles: ArcSwap::default(), writer: Mutex::default(), lifetime, file: None }
    }

    /// The sessions of a file, whose issuers are still known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(
        lifetime: Lifetime,
        store: Store,
        sealer: Arc<Sealer>,
        authorities: &[Arc<Authority>],
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let loaded = store.load(&sealer)?;
        let file = Some(File { store, sealer });
        let sessions = Self { file, ..Self::new(lifetime) };
        let mut known = HashMap::new();
        for (key, kept) in loaded.sessions {
            let (end, last) = (Timestamp::from_millis(kept.end), kept.last);
            let Some((identity, id_token)) = kept.identity(authorities) else { continue };
            let session = Session {
                identity: Arc::new(identity),
                id_token,
                key,
                end,
                last: AtomicU64::new(last),
                kept: AtomicU64::new(last),
                ended: AtomicBool::new(false),
                hosts: Mutex::default(),
            };
            if sessions.is_alive(&session, now) {
                known.insert(key, Arc::new(session));
            }
        }
        let mut handles = Handles::new();
        for (digest, key, host) in loaded.handles {
            if let Some(session) = known.get(&key) {
                let session = Arc::clone(session);
                if let Some(old) = session.take_in(&host, digest) {
                    handles.remove(&old);
                }
                handles.insert(digest, Handle { session, host: host.into() });
            }
        }
        sessions.handles.store(Arc::new(handles));
        Ok(sessions)
    }

    /// How many cookies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handles.load().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a session. Returns the id for the login host's cookie.
    ///
    /// # Errors
    /// There are too many, or it cannot be kept.
    pub fn begin(
        &self,
        identity: Identity,
        id_token: SecretString,
        login_host: &str,
        now: Timestamp,
    ) -> Result<(String, Arc<Session>), NoRoom> {
        let end = now.plus(self.lifetime.absolute);
        let mut key = store::Key::default();
        rand::fill(&mut key).map_err(|_| NoRoom)?;
        let session = Arc::new(Session {
            identity: Arc::new(Identity { expires: end, ..identity }),
            id_token,
            key,
            end,
            last: AtomicU64::new(now.as_millis()),
            kept: AtomicU64::new(now.as_millis()),
            ended: AtomicBool::new(false),
            hosts: Mutex::default(),
        });
        let id = self.add(&session, login_host, true, now)?;
        Ok((id, session))
    }

    /// Gives a session a cookie for another host. Returns its id.
    ///
    /// # Errors
    /// There are too many, or it cannot be kept.
    pub fn handle(
        &self,
        session: &Arc<Session>,
        host: &str,
        now: Timestamp,
    ) -> Result<String, NoRoom> {
        self.add(session, host, false, now)
    }

    fn add(
        &self,
        session: &Arc<Session>,
        host: &str,
        is_new: bool,
        now: Timestamp,
    ) -> Result<String, NoRoom> {
        let mut id = [0; 32];
        rand::fill(&mut id).map_err(|_| NoRoom)?;
        // What is kept is no cookie: whoever reads our memory or our file cannot sign in with it.
        let digest = hash(&id);
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handles = Handles::clone(&self.handles.load());
        if handles.len() >= MAX_SESSIONS {
            handles.retain(|_, handle| self.is_alive(&handle.session, now));
        }
        if handles.len() >= MAX_SESSIONS * HOSTS_EACH {
            return Err(NoRoom);
        }
        let old = session.replaces(host);
        if let Some(File { store, sealer }) = &self.file {
            let kept = is_new.then(|| session.as_kept());
            let row = store::Row { session: &session.key, handle: &digest, host };
            if let Err(error) = store.keep(sealer, kept.as_ref(), &row, old.as_ref()) {
                error!(%error, "nobody can sign in");
                return Err(NoRoom);
            }
        }
        if let Some(old) = session.take_in(host, digest) {
            handles.remove(&old);
        }
        handles.insert(digest, Handle { session: Arc::clone(session), host: host.into() });
        self.handles.store(Arc::new(handles));
        Ok(URL_SAFE_NO_PAD.encode(id))
    }

    /// The session of a cookie, if it is one of that host and lasts.
    #[must_use]
    pub fn find(&self, id: &[u8], host: &str, now: Timestamp) -> Option<Arc<Session>> {
        let mut bytes = [0; 33];
        let length = URL_SAFE_NO_PAD.decode_slice(id, &mut bytes).ok()?;
        let handles = self.handles.load();
        let handle = handles.get(&hash(bytes.get(..length).filter(|id| id.len() == 32)?))?;
        if *handle.host != *host || !self.is_alive(&handle.session, now) {
            return None;
        }
        handle.session.last.fetch_max(now.as_millis(), Ordering::Relaxed);
        Some(Arc::clone(&handle.session))
    }

    /// Ends every session of which that is true, at every host. Returns how many.
    ///
    /// # Errors
    /// They are ended here, but the file could not be told: they come back with the next start.
    pub fn end(&self, is_over: impl Fn(&Session) -> bool) -> Result<usize, StoreError> {
        let handles = self.handles.load();
        let over = handles.values().filter(|handle| is_over(&handle.session));
        // A session has a cookie for each host, and ends once.
        let count = over.filter(|h| !h.session.ended.swap(true, Ordering::AcqRel)).count();
        self.tidy_now(None)?;
        Ok(count)
    }

    /// Forgets what is over, and keeps when the others were used last; to be done now and then.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tidy(&self, now: Timestamp) -> Result<(), StoreError> {
        self.tidy_now(Some(now))
    }

    fn tidy_now(&self, now: Option<Timestamp>) -> Result<(), StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handles = Handles::clone(&self.handles.load());
        let is_over = |session: &Session| match now {
            Some(now) => !self.is_alive(session, now),
            None => session.ended.load(Ordering::Acquire),
        };
        let over = handles.iter().filter(|(_, handle)| is_over(&handle.session));
        let over: Vec<_> = over.map(|(digest, handle)| (*digest, handle.session.key)).collect();
        for (digest, _) in &over {
            handles.remove(digest);
        }
        if let Some(File { store, sealer }) = &self.file {
            let mut changed = HashMap::new();
            for session in handles.values().map(|handle| &handle.session) {
                let last = session.last.load(Ordering::Relaxed);
                if session.kept.swap(last, Ordering::Relaxed) != last {
                    changed.insert(session.key, session.as_kept());
                }
            }
            let changed: Vec<_> = changed.into_iter().collect();
            let (digests, keys): (Vec<_>, Vec<_>) = over.into_iter().unzip();
            store.update(sealer, &changed, &keys, &digests)?;
        }
        self.handles.store(Arc::new(handles));
        Ok(())
    }

    fn is_alive(&self, session: &Session, now: Timestamp) -> bool {
        let last = Timestamp::from_millis(session.last.load(Ordering::Relaxed));
        !session.ended.load(Ordering::Acquire)
            && now < session.end
            && now.since(last) < self.lifetime.idle
    }
}

impl Session {
    fn as_kept(&self) -> store::Kept {
        let last = Timestamp::from_millis(self.last.load(Ordering::Relaxed));
        store::Kept::new(&self.identity, &self.id_token, self.end, last)
    }

    /// The cookie that another one for the host will replace.
    fn replaces(&self, host: &str) -> Option<Digest> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = hosts.iter().find(|(known, _)| **known == *host);
        let oldest = || hosts.front().filter(|_| hosts.len() >= MAX_HOSTS);
        same.or_else(oldest).map(|(_, digest)| *digest)
    }

    /// Notes a cookie for a host. Returns the one it replaces.
    fn take_in(&self, host: &str, digest: Digest) -> Option<Digest> {
        let old = self.replaces(host);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{TokenIds, profile::MatchBy};

    fn identity() -> Identity {
        let matching = vec![MatchBy::Subject];
        Identity {
            authority: Arc::new(Authority { name: "corp".into(), matching }),
            issuer: "https://corp".into(),
            subject: "s".into(),
            email: None,
            username: None,
            groups: vec![],
            groups_joined: "".into(),
            groups_overage: false,
            organization: None,
            token: TokenIds::default(),
            bound_to: None,
            expires: Timestamp::from_secs(1),
        }
    }

    fn sessions() -> Sessions {
        let lifetime = Lifetime { idle: Duration::from_mins(1), absolute: Duration::from_mins(5) };
        Sessions::new(lifetime)
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    fn begin(sessions: &Sessions) -> (String, Arc<Session>) {
        sessions.begin(identity(), SecretString::from("t"), "login", at(0)).unwrap()
    }

    #[test]
    fn p2_a_cookie_counts_at_its_own_host_only() {
        let sessions = sessions();
        let (login, session) = begin(&sessions);
        let one = sessions.handle(&session, "one", at(0)).unwrap();
        assert!(sessions.find(one.as_bytes(), "one", at(1)).is_some());
        assert!(sessions.find(one.as_bytes(), "two", at(1)).is_none());
        assert!(sessions.find(one.as_bytes(), "login", at(1)).is_none());
        assert!(sessions.find(login.as_bytes(), "one", at(1)).is_none());
        assert!(sessions.find(login.as_bytes(), "login", at(1)).is_some());
    }

    #[test]
    fn c7_sessions_end_when_they_are_idle_and_at_their_end() {
        let sessions = sessions();
        let (id, session) = begin(&sessions);
        let find = |secs| sessions.find(id.as_bytes(), "login", at(secs)).is_some();
        assert!(find(59));
        assert!(find(118), "each request counts");
        assert!(!find(178), "idle");
        assert!(!find(179), "and nothing wakes it");
        let (id, _) = begin(&sessions);
        for secs in (0..300).step_by(30) {
            assert!(sessions.find(id.as_bytes(), "login", at(secs)).is_some());
        }
        assert!(sessions.find(id.as_bytes(), "login", at(300)).is_none(), "absolute");
        assert_eq!(session.identity.expires, at(300));
    }

    #[test]
    fn l11_an_ended_session_is_over_at_every_host() {
        let sessions = sessions();
        let (id, session) = begin(&sessions);
        let one = sessions.handle(&session, "one", at(0)).unwrap();
        assert_eq!(sessions.end(|other| other.is(&session)).unwrap(), 1);
        assert!(sessions.find(id.as_bytes(), "login", at(1)).is_none());
        assert!(sessions.find(one.as_bytes(), "one", at(1)).is_none());
    }

    #[test]
    fn a_session_has_one_cookie_for_each_host_and_a_bounded_number_of_them() {
        let sessions = sessions();
        let (login, session) = begin(&sessions);
        let first = sessions.handle(&session, "one", at(0)).unwrap();
        let second = sessions.handle(&session, "one", at(0)).unwrap();
        assert!(sessions.find(first.as_bytes(), "one", at(1)).is_none());
        assert!(sessions.find(second.as_bytes(), "one", at(1)).is_some());
        assert_eq!(sessions.len(), 2);
        for number in 0..2 * MAX_HOSTS {
            sessions.handle(&session, &format!("host{number}"), at(0)).unwrap();
        }
        assert_eq!(sessions.len(), MAX_HOSTS);
        assert!(sessions.find(second.as_bytes(), "one", at(1)).is_none());
        // Whoever comes and goes that much signs in anew, and no other session is touched.
        assert!(sessions.find(login.as_bytes(), "login", at(1)).is_none());
    }

    #[test]
    fn sessions_outlive_the_agent_in_a_file_and_ended_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions");
        let sealer = || Arc::new(Sealer::ring(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap());
        let authority = identity().authority;
        let load = |sealer: Arc<Sealer>, secs| {
            let store = Store::open(&path).unwrap();
            let lifetime = sessions().lifetime;
            let authorities = [Arc::clone(&authority)];
            Sessions::load(lifetime, store, sealer, &authorities, at(secs)).unwrap()
        };
        let sessions = load(sealer(), 0);
        let (first, one) = begin(&sessions);
        let replaced = sessions.handle(&one, "one", at(0)).unwrap();
        let host = sessions.handle(&one, "one", at(0)).unwrap();
        let (second, two) = begin(&sessions);
        assert!(sessions.find(host.as_bytes(), "one", at(50)).is_some());
        sessions.tidy(at(50)).unwrap();
        assert_eq!(sessions.end(|session| session.is(&two)).unwrap(), 1);
        drop(sessions);
        let text = std::fs::read(&path).unwrap();
        assert!(!text.windows(5).any(|part| part == b"https"), "nothing can be read in it");
        let sessions = load(sealer(), 100);
        assert!(sessions.find(host.as_bytes(), "one", at(100)).is_some(), "used at 50");
        assert!(sessions.find(replaced.as_bytes(), "one", at(100)).is_none());
        assert_eq!(sessions.len(), 2);
        let found = sessions.find(first.as_bytes(), "login", at(100)).unwrap();
        assert_eq!((&*found.identity.subject, found.identity.expires), ("s", at(300)));
        assert!(sessions.find(second.as_bytes(), "login", at(100)).is_none(), "ended");
        drop((sessions, found));
        let other = Arc::new(Sealer::ring(&URL_SAFE_NO_PAD.encode([8; 32])).unwrap());
        assert!(load(other, 101).is_empty(), "keys of somebody else open nothing");
        assert!(load(sealer(), 301).is_empty(), "over");
    }

    #[test]
    fn l9_each_session_and_host_has_an_id_of_its_own() {
        let sessions = sessions();
        let (first, session) = begin(&sessions);
        let (second, _) = begin(&sessions);
        let host = sessions.handle(&session, "one", at(0)).unwrap();
        assert!(first != second && first != host);
        assert_eq!(first.len(), 43);
    }

    #[test]
    fn c6_any_other_text_is_no_cookie() {
        let sessions = sessions();
        let (id, _) = begin(&sessions);
        for end in 0..id.len() {
            assert!(sessions.find(&id.as_bytes()[..end], "login", at(1)).is_none());
            let mut flipped = id.clone().into_bytes();
            flipped[end] ^= 1;
            assert!(sessions.find(&flipped, "login", at(1)).is_none(), "{end}");
        }
        for odd in ["", "=", "%", &"A".repeat(43), &"A".repeat(44), &"A".repeat(5000), "\u{e9}"] {
            assert!(sessions.find(odd.as_bytes(), "login", at(1)).is_none());
        }
    }
}
