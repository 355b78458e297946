//! Browser sign-in: who signed in, and for which host.
//!
//! A person signs in once, at the login host, which no workspace can see. Each workspace host then gets a
//! cookie of its own that is worth nothing elsewhere, since what runs there is hostile. Cookies are random
//! ids; all that they stand for is here, so that ending a session ends it everywhere at once.
//!
//! [`flow`] is the way from a workspace's host to the provider and back; [`web`] serves it; [`seal`]
//! protects what travels through browsers meanwhile.

use std::{
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

use crate::{clock::Timestamp, identity::Identity};

pub mod client;
pub mod flow;
pub mod logout;
mod page;
pub mod seal;
pub mod web;

use flow::Places;
use seal::Sealer;

/// The cookie of a workspace's host.
pub const COOKIE: &str = "__Host-identity";
/// The cookie of the login host.
pub const LOGIN_COOKIE: &str = "__Host-identity_login";
/// The most sessions, and the most cookies of hosts for each on average.
const MAX_SESSIONS: usize = 100_000;
const HOSTS_EACH: usize = 16;

/// What sign-in needs, for the gate and for the pages.
pub struct SignIn {
    /// The sessions.
    pub sessions: Sessions,
    /// Protects what travels through browsers.
    pub sealer: Sealer,
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
    /// When it ends whatever happens.
    end: Timestamp,
    /// The last request, in milliseconds since the Unix epoch.
    last: AtomicU64,
    ended: AtomicBool,
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

/// All sessions. Readers never lock.
pub struct Sessions {
    handles: ArcSwap<Handles>,
    writer: Mutex<()>,
    lifetime: Lifetime,
}

/// There is no room for another session, or no random number for its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more sessions can be held at the moment")]
pub struct NoRoom;

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(lifetime: Lifetime) -> Self {
        Self { handles: ArcSwap::default(), writer: Mutex::default(), lifetime }
    }

    /// Begins a session. Returns the id for the login host's cookie.
    ///
    /// # Errors
    /// There are too many.
    pub fn begin(
        &self,
        identity: Identity,
        id_token: SecretString,
        login_host: &str,
        now: Timestamp,
    ) -> Result<(String, Arc<Session>), NoRoom> {
        let end = now.plus(self.lifetime.absolute);
        let session = Arc::new(Session {
            identity: Arc::new(Identity { expires: end, ..identity }),
            id_token,
            end,
            last: AtomicU64::new(now.as_millis()),
            ended: AtomicBool::new(false),
        });
        let id = self.handle(&session, login_host, now)?;
        Ok((id, session))
    }

    /// Gives a session a cookie for another host. Returns its id.
    ///
    /// # Errors
    /// There are too many.
    pub fn handle(
        &self,
        session: &Arc<Session>,
        host: &str,
        now: Timestamp,
    ) -> Result<String, NoRoom> {
        let mut id = [0; 32];
        rand::fill(&mut id).map_err(|_| NoRoom)?;
        let handle = Handle { session: Arc::clone(session), host: host.into() };
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handles = Handles::clone(&self.handles.load());
        if handles.len() >= MAX_SESSIONS {
            handles.retain(|_, handle| self.is_alive(&handle.session, now));
        }
        if handles.len() >= MAX_SESSIONS * HOSTS_EACH {
            return Err(NoRoom);
        }
        // What is kept is no cookie: whoever reads our memory or a dump of it cannot sign in with it.
        handles.insert(hash(&id), handle);
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

    /// Ends every session of which that is true. Returns how many.
    pub fn end(&self, is_over: impl Fn(&Identity) -> bool) -> usize {
        let handles = self.handles.load();
        let over = handles.values().filter(|handle| is_over(&handle.session.identity));
        // A session has a cookie for each host, and ends once.
        over.filter(|handle| !handle.session.ended.swap(true, Ordering::AcqRel)).count()
    }

    fn is_alive(&self, session: &Session, now: Timestamp) -> bool {
        let last = Timestamp::from_millis(session.last.load(Ordering::Relaxed));
        !session.ended.load(Ordering::Acquire)
            && now < session.end
            && now.since(last) < self.lifetime.idle
    }
}

impl Session {
    /// Ends it, at every host.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
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
    use crate::identity::{
        TokenIds,
        profile::{Authority, MatchBy},
    };

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
        session.end();
        assert!(sessions.find(id.as_bytes(), "login", at(1)).is_none());
        assert!(sessions.find(one.as_bytes(), "one", at(1)).is_none());
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
