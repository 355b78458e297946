//! All sessions and their cookies, in memory, in front of a store.
//!
//! The gate reads the table for every request with a session cookie; [`crate::sign_in`] and the administrator change it.
//! A request only reads: it takes no lock and never waits. Changes are rare. They take a lock, and those that write to
//! the store may block on the disk or the network, but never while they hold the lock.
//!
//! The table does not know which store it has ([`SessionStore`]). [`learn`] has what a shared store tells it about the
//! changes of other agents.
//!
//! Invariants: there is one [`Session`] value for each key, so that ending it ends it for everything that holds it, such as an
//! open tunnel. A key that ended is remembered, so that news that arrive late do not bring the session back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use tokio::sync::watch;

use super::{
    Digest, Lifetime, Session, Tokens, hash,
    keyring::{Keyring, Purpose, SealError},
    store::{
        CookieLookup, Key, LAST_USED_DELAY, RefreshLock, RemovedSession, SessionStore, StoreError,
        StoredCookie, memory::MemoryStore,
    },
};
use crate::{
    identity::{Identity, profile::Authority},
    lock::Mutex,
    reaper::Reaper,
    time::Timestamp,
};

mod learn;

/// The most sessions.
const MAX_SESSIONS: usize = 100_000;
/// The most cookies of a session on average.
const MAX_COOKIES_EACH: usize = 16;
/// The most sessions of one person. When another one begins, the one that was used longest ago ends, so that one person
/// cannot fill the table alone.
const MAX_OF_PERSON: usize = 64;
/// The longest cookie that is looked up, in bytes. Ours have 64.
const MAX_COOKIE_LENGTH: usize = 128;
/// How many ended sessions are remembered.
const MAX_ENDED: usize = 100_000;

/// The session cookie of one host.
#[derive(Clone)]
struct HostCookie {
    session: Arc<Session>,
    /// The host at which the cookie is valid.
    host: Box<str>,
}

type Cookies = imbl::HashMap<Digest, HostCookie>;

/// All sessions.
pub struct Sessions {
    /// Read by requests, and replaced as a whole by changes.
    cookies: ArcSwap<Cookies>,
    /// Frees replaced tables, which requests may still read.
    reaper: Reaper<Cookies>,
    /// Locked by every change of `cookies`.
    state: Mutex<TableState>,
    lifetime: Lifetime,
    keyring: Arc<Keyring>,
    authorities: ArcSwap<Vec<Arc<Authority>>>,
    store: Arc<dyn SessionStore>,
    /// The most sessions; lower in tests.
    most: usize,
    /// How often sessions were removed.
    removals: AtomicU64,
}

#[derive(Default)]
struct TableState {
    sessions: HashMap<Key, Arc<Session>>,
    ended: HashSet<Key>,
    /// The keys in `ended`, oldest first.
    ended_order: VecDeque<Key>,
}

/// Why a session or cookie could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// There are too many sessions or cookies.
    #[error("the table of sessions is full")]
    Full,
    /// The store does not have it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The session ended meanwhile.
    #[error("the session has ended")]
    Ended,
    /// The system has no random numbers.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Whether a session may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionValidity {
    /// It is valid.
    Valid,
    /// It ended, or is idle or too old.
    Ended,
    /// It is valid as far as this agent knows, but the store has been silent for too long to be sure.
    Unknown,
}

impl Sessions {
    /// Sessions that end with the process.
    #[must_use]
    pub fn in_memory(lifetime: Lifetime, keyring: Arc<Keyring>) -> Self {
        Self::empty(lifetime, Arc::new(MemoryStore), keyring, vec![])
    }

    /// The sessions of a store, as far as their issuers are configured.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn load(
        lifetime: Lifetime,
        store: Arc<dyn SessionStore>,
        keyring: Arc<Keyring>,
        authorities: Vec<Arc<Authority>>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let stored = store.load()?;
        let sessions = Self::empty(lifetime, store, keyring, authorities);
        sessions.replace_all(stored.sessions, stored.cookies, now);
        Ok(sessions)
    }

    fn empty(
        lifetime: Lifetime,
        store: Arc<dyn SessionStore>,
        keyring: Arc<Keyring>,
        authorities: Vec<Arc<Authority>>,
    ) -> Self {
        Self {
            cookies: ArcSwap::default(),
            reaper: Reaper::default(),
            state: Mutex::default(),
            lifetime,
            keyring,
            authorities: ArcSwap::from_pointee(authorities),
            store,
            most: MAX_SESSIONS,
            removals: AtomicU64::new(0),
        }
    }

    /// The store of these sessions.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    /// Replaces the configured issuers after a reload. Sessions of an issuer that has another name now continue under the
    /// new name.
    pub fn set_authorities(&self, authorities: Vec<Arc<Authority>>) {
        let state = self.lock();
        for session in state.sessions.values() {
            let identity = session.identity();
            let old = &identity.authority;
            let now =
                Authority::find(authorities.iter(), &old.name, &old.identifier, &identity.issuer);
            if let Some(authority) = now.filter(|now| now.as_ref() != old.as_ref()) {
                let authority = Arc::clone(authority);
                let identity = Identity { authority, ..Identity::clone(&identity) };
                session.identity.store(Arc::new(identity));
            }
        }
        self.authorities.store(Arc::new(authorities));
    }

    /// The number of cookies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cookies.load().len()
    }

    /// Whether there are no cookies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a session. Returns the login host's cookie and the session. Blocks.
    ///
    /// # Errors
    /// There are too many sessions, or the store does not have it.
    pub fn begin(
        &self,
        identity: Identity,
        tokens: Tokens,
        login_host: &str,
        now: Timestamp,
    ) -> Result<(String, Arc<Session>), BeginError> {
        self.make_room(&identity, now)?;
        let end = now.plus(self.lifetime.absolute);
        let mut key = Key::default();
        rand::fill(&mut key).map_err(|_| SealError)?;
        let session = Arc::new(Session {
            identity: ArcSwap::from_pointee(Identity { expires: end, ..identity }),
            tokens: Mutex::new(tokens),
            key,
            began: now,
            end,
            last_used: AtomicU64::new(now.as_millis()),
            stored_last_used: AtomicU64::new(now.as_millis()),
            ended: AtomicBool::new(false),
            hosts: Mutex::default(),
            deliveries: Mutex::default(),
        });
        let (id, cookie) = self.new_cookie(&session, login_host, now)?;
        self.store.save(&session, &cookie)?;
        self.insert_stored(&session, &cookie).map(|session| (id, session))
    }

    /// Ends the sessions of a person that are too many, and makes sure that the table has room for one more.
    fn make_room(&self, identity: &Identity, now: Timestamp) -> Result<(), BeginError> {
        let is_full = || self.lock().sessions.len() >= self.most;
        if is_full() {
            self.remove_expired(now)?;
        }
        if is_full() {
            return Err(BeginError::Full);
        }
        let mut theirs: Vec<(u64, Key)> = {
            let state = self.lock();
            let all = state.sessions.values();
            let theirs = all.filter(|session| session.identity.load().is_same_person(identity));
            theirs.map(|session| (session.last_used.load(Ordering::Relaxed), session.key)).collect()
        };
        theirs.sort_unstable();
        let too_many = (theirs.len() + 1).saturating_sub(MAX_OF_PERSON);
        let over: HashSet<Key> = theirs.into_iter().take(too_many).map(|(_, key)| key).collect();
        if !over.is_empty() {
            self.end_where(|session| over.contains(&session.key))?;
        }
        Ok(())
    }

    /// Makes a cookie of a session for another host. Blocks.
    ///
    /// # Errors
    /// There are too many cookies, the store does not have it, or the session has ended.
    pub fn add_cookie(
        &self,
        session: &Arc<Session>,
        host: &str,
        now: Timestamp,
    ) -> Result<String, BeginError> {
        let (id, cookie) = self.new_cookie(session, host, now)?;
        let replaced = session.replaced_cookie(host);
        self.store.save_cookie(session, &cookie, replaced.as_ref())?;
        self.insert_stored(session, &cookie).map(|_| id)
    }

    /// A new cookie, which neither the table nor the store has yet.
    fn new_cookie(
        &self,
        session: &Session,
        host: &str,
        now: Timestamp,
    ) -> Result<(String, StoredCookie), BeginError> {
        if self.len() >= MAX_SESSIONS * MAX_COOKIES_EACH {
            self.remove_expired(now)?;
        }
        if self.len() >= MAX_SESSIONS * MAX_COOKIES_EACH {
            return Err(BeginError::Full);
        }
        // 24 random bytes, encrypted with the key ring: a cookie that is unknown here is looked up at other agents only
        // if one of them made it, so strangers cannot cause lookups.
        let id = self.keyring.seal(Purpose::Cookie, host, &())?;
        let digest = hash(id.as_bytes());
        Ok((id, StoredCookie { digest, session: session.key, host: host.into() }))
    }

    /// Puts a cookie that the store has into the table. Returns the session as the table has it.
    fn insert_stored(
        &self,
        session: &Arc<Session>,
        cookie: &StoredCookie,
    ) -> Result<Arc<Session>, BeginError> {
        let mut state = self.lock();
        // A shared store tells every agent about the new session, this one too, and may have been quicker than this
        // thread. Then the table already has the session, or it has ended again. A second value of one session would
        // not end with the first.
        if state.ended.contains(&session.key) {
            return Err(BeginError::Ended);
        }
        let there = state.sessions.entry(session.key).or_insert_with(|| Arc::clone(session));
        let there = Arc::clone(there);
        self.insert(&there, cookie.digest, &cookie.host);
        Ok(there)
    }

    /// Puts a cookie into the table. The caller holds the lock.
    fn insert(&self, session: &Arc<Session>, digest: Digest, host: &str) {
        let mut cookies = Cookies::clone(&self.cookies.load());
        if cookies.contains_key(&digest) {
            return;
        }
        if let Some(replaced) = session.add_cookie(host, digest) {
            cookies.remove(&replaced);
        }
        cookies.insert(digest, HostCookie { session: Arc::clone(session), host: host.into() });
        self.set_cookies(cookies);
    }

    /// The session of a cookie, if the cookie is of this host and the session is valid. Never waits.
    #[must_use]
    pub fn find(&self, id: &[u8], host: &str, now: Timestamp) -> Option<Arc<Session>> {
        let cookies = self.cookies.load();
        let cookie = cookies.get(&hash(Some(id).filter(|id| id.len() <= MAX_COOKIE_LENGTH)?))?;
        if *cookie.host != *host || !self.is_active(&cookie.session, now) {
            return None;
        }
        cookie.session.note_use(now);
        Some(Arc::clone(&cookie.session))
    }

    /// How often sessions were removed. As long as it is the same, every session that was valid is valid, except for its
    /// deadlines.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Whether an open tunnel of a session may stay open. The tunnel counts as use of the session.
    #[must_use]
    pub fn validity(&self, session: &Session, now: Timestamp) -> SessionValidity {
        if !self.is_active(session, now) {
            return SessionValidity::Ended;
        }
        session.note_use(now);
        if self.is_stale() { SessionValidity::Unknown } else { SessionValidity::Valid }
    }

    /// Whether the store was silent for too long, so that it is not known which sessions other agents ended.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.store.is_stale()
    }

    /// Looks up a cookie that is unknown here, since another agent may have made it a moment ago. Must be called within
    /// the runtime; returns at once.
    #[must_use]
    pub fn look_up(self: &Arc<Self>, id: &[u8], host: &str) -> CookieLookup {
        let made_by_us = || {
            let id = Some(id).filter(|id| id.len() <= MAX_COOKIE_LENGTH)?;
            let text = std::str::from_utf8(id).ok()?;
            self.keyring.open::<()>(Purpose::Cookie, host, text)
        };
        // Most cookies that are unknown here are old or made up, and cause no request to the store.
        if !self.store.is_shared() || made_by_us().is_none() {
            return CookieLookup::Unknown;
        }
        Arc::clone(&self.store).look_up(hash(id), self)
    }

    /// As [`Sessions::find`], but waits for the store if the cookie is unknown here.
    pub async fn find_anywhere(
        self: &Arc<Self>,
        id: &[u8],
        host: &str,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        if let Some(session) = self.find(id, host, now) {
            return Some(session);
        }
        let CookieLookup::Pending(mut answered) = self.look_up(id, host) else { return None };
        // An error means that the sender is gone, so the lookup has ended as well.
        let _: Result<(), watch::error::RecvError> = answered.changed().await;
        self.find(id, host, now)
    }

    /// Ends every session for which `is_over` is true, at every host. Returns how many. Blocks.
    ///
    /// # Errors
    /// They ended here, but the store could not be told.
    pub fn end_where(&self, is_over: impl Fn(&Session) -> bool) -> Result<usize, StoreError> {
        let (count, removed) = {
            let mut state = self.lock();
            let over = state.sessions.values().filter(|session| is_over(session));
            let count = over.filter(|session| !session.ended.swap(true, Ordering::AcqRel)).count();
            (count, self.remove(&mut state, Session::has_ended))
        };
        if !removed.is_empty() {
            self.store.clear(removed)?;
        }
        Ok(count)
    }

    /// The valid sessions that their providers should confirm again.
    #[must_use]
    pub fn due_for_refresh(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let state = self.lock();
        let due = state.sessions.values().filter(|session| session.is_refresh_due(now));
        due.filter(|session| self.is_active(session, now)).cloned().collect()
    }

    /// All valid sessions.
    #[must_use]
    pub fn active(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let state = self.lock();
        state.sessions.values().filter(|session| self.is_active(session, now)).cloned().collect()
    }

    /// Takes the right to refresh a session, so that no other agent does it at the same time. False if another agent has
    /// the right, or has just refreshed the session. [`Sessions::unlock_refresh`] returns it.
    pub async fn lock_refresh(&self, session: &Session) -> bool {
        let stored = match self.store.lock(session).await {
            RefreshLock::Refused => return false,
            RefreshLock::Granted(None) => return true,
            RefreshLock::Granted(Some(stored)) => stored,
        };
        let refreshed = session.tokens().refreshed;
        self.learn_refresh(session.key, *stored);
        // Another agent was quicker, and this one now has what the provider said.
        let is_ours = session.tokens().refreshed == refreshed;
        if !is_ours {
            self.unlock_refresh(session).await;
        }
        is_ours
    }

    /// Returns the right to refresh a session.
    pub async fn unlock_refresh(&self, session: &Session) {
        self.store.unlock(session).await;
    }

    /// Replaces the identity and tokens of a session by those that the provider issued now. The session's end does not
    /// change. Blocks.
    ///
    /// # Errors
    /// The store does not have it; it is valid here all the same, unless the session has ended.
    pub fn refresh(
        &self,
        session: &Session,
        identity: Identity,
        tokens: Tokens,
    ) -> Result<(), StoreError> {
        session.replace(Identity { expires: session.end, ..identity }, tokens);
        self.store.update(session)
    }

    /// Removes sessions that are idle or too old, and stores when the others were last used. Called now and then; blocks.
    ///
    /// # Errors
    /// The store could not be told.
    pub fn remove_expired(&self, now: Timestamp) -> Result<(), StoreError> {
        let (removed, used) = {
            let mut state = self.lock();
            let removed = self.remove(&mut state, |session| !self.is_active(session, now));
            let used: Vec<_> = state.sessions.values().filter_map(used_since_stored).collect();
            (removed, used)
        };
        if !removed.is_empty() {
            self.store.expire(removed)?;
        }
        if !used.is_empty() {
            self.store.save_last_used(&used)?;
        }
        for (session, last_used) in used {
            session.stored_last_used.store(last_used, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes sessions out of the table. Returns what the store must remove.
    fn remove(
        &self,
        state: &mut TableState,
        is_over: impl Fn(&Session) -> bool,
    ) -> Vec<RemovedSession> {
        let over: Vec<_> =
            state.sessions.values().filter(|session| is_over(session)).cloned().collect();
        if over.is_empty() {
            return vec![];
        }
        let mut cookies = Cookies::clone(&self.cookies.load());
        let mut removed = Vec::new();
        for session in over {
            state.sessions.remove(&session.key);
            if session.has_ended() {
                state.remember_ended(session.key);
            }
            let digests = session.cookie_digests();
            for digest in &digests {
                cookies.remove(digest);
            }
            removed.push(RemovedSession { key: session.key, cookies: digests });
        }
        self.set_cookies(cookies);
        self.removals.fetch_add(1, Ordering::Release);
        removed
    }

    /// Whether a session is valid as far as this agent knows.
    fn is_active(&self, session: &Session, now: Timestamp) -> bool {
        // Another agent may have seen a request that this one learns of a minute later.
        let delay = if self.store.is_shared() { LAST_USED_DELAY } else { Duration::ZERO };
        !session.has_ended()
            && now < session.end
            && now.since(session.last_used()) < self.lifetime.idle + delay
    }

    fn set_cookies(&self, cookies: Cookies) {
        self.reaper.free(self.cookies.swap(Arc::new(cookies)));
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        self.state.lock()
    }
}

impl TableState {
    fn remember_ended(&mut self, key: Key) {
        if self.ended_order.len() >= MAX_ENDED
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        if self.ended.insert(key) {
            self.ended_order.push_back(key);
        }
    }
}

/// The session with the time of its last request, unless the store has that time.
fn used_since_stored(session: &Arc<Session>) -> Option<(Arc<Session>, u64)> {
    let last_used = session.last_used.load(Ordering::Relaxed);
    let is_new = session.stored_last_used.load(Ordering::Relaxed) != last_used;
    is_new.then(|| (Arc::clone(session), last_used))
}

#[cfg(test)]
mod tests;
