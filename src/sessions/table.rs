//! All sessions and their cookies, in memory, beside wherever they are kept.
//!
//! A request only reads, and never waits. Changes are few; they may wait for the disk or the store.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use tokio::sync::watch;
use tracing::error;

use super::{
    Digest, Lifetime, Session, Tokens, hash,
    seal::{Purpose, Sealer},
    shared::{Change, Shared, SharedError},
    store::{Key, Row, Store, StoreError},
};
use crate::{
    identity::{Identity, profile::Authority},
    lock::Mutex,
    reaper::Reaper,
    sessions::store::{CookieEntry, Entry},
    time::Timestamp,
};

/// The most sessions, and the most cookies of hosts for each on average.
const MAX_SESSIONS: usize = 100_000;
const HOSTS_EACH: usize = 16;
/// The most sessions of one person: beyond it, the one that was used longest ago ends, so that nobody fills the
/// table alone.
const MAX_OF_PERSON: usize = 64;
/// Longer than any cookie of ours, in bytes.
const MAX_ID: usize = 128;
/// Sessions that are written to the file together. A sign-in may wait for one such write.
const WRITTEN_TOGETHER: usize = 1000;
const BETWEEN_WRITES: std::time::Duration = std::time::Duration::from_millis(1);
/// How many ended sessions are remembered, so that late news does not bring them back.
const MAX_GONE: usize = 100_000;

/// A cookie of a host.
#[derive(Clone)]
struct Handle {
    session: Arc<Session>,
    /// The host it counts at.
    host: Box<str>,
}

type Handles = imbl::HashMap<Digest, Handle>;

/// All sessions.
pub struct Sessions {
    handles: ArcSwap<Handles>,
    /// Frees tables that were replaced, which requests may still read.
    reaper: Reaper<Handles>,
    /// Held by whoever changes them.
    known: Mutex<Known>,
    lifetime: Lifetime,
    sealer: Arc<Sealer>,
    authorities: ArcSwap<Vec<Arc<Authority>>>,
    keeper: Keeper,
    /// The most sessions.
    most: usize,
    /// How often sessions were taken out.
    ends: AtomicU64,
}

/// Where sessions outlive the agent.
enum Keeper {
    Nowhere,
    File(Store),
    Shared(Arc<Shared>),
}

#[derive(Default)]
struct Known {
    sessions: HashMap<Key, Arc<Session>>,
    gone: HashSet<Key>,
    /// The same, oldest first.
    gone_since: VecDeque<Key>,
}

/// There is no room for another session, or it cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more sessions can be held at the moment")]
pub struct NoRoom;

/// Sessions ended here, but may come back.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// With the next start.
    #[error(transparent)]
    File(#[from] StoreError),
    /// At other agents, until the store can be told.
    #[error(transparent)]
    Shared(#[from] SharedError),
}

impl Sessions {
    /// No sessions yet; they end with the process.
    #[must_use]
    pub fn new(lifetime: Lifetime, sealer: Arc<Sealer>) -> Self {
        Self {
            handles: ArcSwap::default(),
            reaper: Reaper::default(),
            known: Mutex::default(),
            lifetime,
            sealer,
            authorities: ArcSwap::default(),
            keeper: Keeper::Nowhere,
            most: MAX_SESSIONS,
            ends: AtomicU64::new(0),
        }
    }

    /// The sessions of a file, whose issuers are still known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(
        lifetime: Lifetime,
        store: Store,
        sealer: Arc<Sealer>,
        authorities: Vec<Arc<Authority>>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let loaded = store.load(&sealer)?;
        let keeper = Keeper::File(store);
        let authorities = ArcSwap::from_pointee(authorities);
        let sessions = Self { authorities, keeper, ..Self::new(lifetime, sealer) };
        sessions.replace(loaded.sessions, loaded.handles, now);
        Ok(sessions)
    }

    /// The sessions of several agents; none until [`Shared::follow`] brings them.
    #[must_use]
    pub fn shared(
        lifetime: Lifetime,
        shared: Arc<Shared>,
        sealer: Arc<Sealer>,
        authorities: Vec<Arc<Authority>>,
    ) -> Self {
        let keeper = Keeper::Shared(shared);
        let authorities = ArcSwap::from_pointee(authorities);
        Self { authorities, keeper, ..Self::new(lifetime, sealer) }
    }

    /// Other issuers are configured now: what other agents tell of sessions at these counts. Sessions go on at
    /// theirs, whatever it is called now.
    pub fn set_authorities(&self, authorities: Vec<Arc<Authority>>) {
        let known = self.lock();
        for session in known.sessions.values() {
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

    /// Begins a session. Returns the login host's cookie. May wait.
    ///
    /// # Errors
    /// There are too many, or it cannot be kept.
    pub fn begin(
        &self,
        identity: Identity,
        tokens: Tokens,
        login_host: &str,
        now: Timestamp,
    ) -> Result<(String, Arc<Session>), NoRoom> {
        self.make_room(&identity, now)?;
        let end = now.plus(self.lifetime.absolute);
        let mut key = Key::default();
        rand::fill(&mut key).map_err(|_| NoRoom)?;
        let session = Arc::new(Session {
            identity: ArcSwap::from_pointee(Identity { expires: end, ..identity }),
            tokens: Mutex::new(tokens),
            key,
            began: now,
            end,
            last: AtomicU64::new(now.as_millis()),
            kept: AtomicU64::new(now.as_millis()),
            ended: AtomicBool::new(false),
            hosts: Mutex::default(),
        });
        self.add(&session, login_host, true, now)
    }

    /// Makes sure that there is room for another session of somebody.
    fn make_room(&self, identity: &Identity, now: Timestamp) -> Result<(), NoRoom> {
        let is_full = || self.lock().sessions.len() >= self.most;
        if is_full() {
            self.tidy_now(Some(now)).map_err(|_| NoRoom)?;
        }
        if is_full() {
            return Err(NoRoom);
        }
        let mut theirs: Vec<(u64, Key)> = {
            let known = self.lock();
            let all = known.sessions.values();
            let theirs = all.filter(|session| session.identity.load().is_same_person(identity));
            theirs.map(|session| (session.last.load(Ordering::Relaxed), session.key)).collect()
        };
        theirs.sort_unstable();
        let too_many = (theirs.len() + 1).saturating_sub(MAX_OF_PERSON);
        let over: HashSet<Key> = theirs.into_iter().take(too_many).map(|(_, key)| key).collect();
        if !over.is_empty() {
            self.end(|session| over.contains(&session.key)).map_err(|error| {
                error!(%error, "storing a session failed: the sign-in is refused");
                NoRoom
            })?;
        }
        Ok(())
    }

    /// Gives a session a cookie for another host. Returns it. May wait.
    ///
    /// # Errors
    /// There are too many, or it cannot be kept.
    pub fn handle(
        &self,
        session: &Arc<Session>,
        host: &str,
        now: Timestamp,
    ) -> Result<String, NoRoom> {
        self.add(session, host, false, now).map(|(id, _)| id)
    }

    /// Gives a session a cookie. Returns it, and the session as the table has it.
    fn add(
        &self,
        session: &Arc<Session>,
        host: &str,
        is_new: bool,
        now: Timestamp,
    ) -> Result<(String, Arc<Session>), NoRoom> {
        if self.len() >= MAX_SESSIONS * HOSTS_EACH {
            self.tidy_now(Some(now)).map_err(|_| NoRoom)?;
        }
        if self.len() >= MAX_SESSIONS * HOSTS_EACH {
            return Err(NoRoom);
        }
        // 24 random bytes and a seal over them: a cookie that is unknown here is worth a question to
        // other agents only if one of them made it.
        let id = self.sealer.seal(Purpose::Cookie, host, &()).map_err(|_| NoRoom)?;
        let digest = hash(id.as_bytes());
        let kept = is_new.then(|| session.as_kept());
        let (old, row) =
            (session.replaces(host), Row { session: &session.key, handle: &digest, host });
        let done = match &self.keeper {
            Keeper::Nowhere => Ok(()),
            Keeper::File(store) => {
                store.keep(&self.sealer, kept.as_ref(), &row, old.as_ref()).map_err(KeepError::from)
            }
            Keeper::Shared(shared) => {
                shared.keep(kept, &row, old, session.end).map_err(KeepError::from)
            }
        };
        if let Err(error) = done {
            error!(%error, "storing a session failed: the sign-in is refused");
            return Err(NoRoom);
        }
        let mut known = self.lock();
        // What the store was told comes back as news, which may have been quicker than this thread: then the
        // table has the session already, or it has ended again. Two objects of one session would be ended
        // one without the other.
        if known.gone.contains(&session.key) {
            return Err(NoRoom);
        }
        let there = known.sessions.entry(session.key).or_insert_with(|| Arc::clone(session));
        let there = Arc::clone(there);
        self.insert(&there, digest, host);
        Ok((id, there))
    }

    /// Puts a cookie into the table; the caller holds the lock.
    fn insert(&self, session: &Arc<Session>, digest: Digest, host: &str) {
        let mut handles = Handles::clone(&self.handles.load());
        if handles.contains_key(&digest) {
            return;
        }
        if let Some(old) = session.take_in(host, digest) {
            handles.remove(&old);
        }
        handles.insert(digest, Handle { session: Arc::clone(session), host: host.into() });
        self.set_handles(handles);
    }

    /// The session of a cookie, if it is one of that host and lasts. Never waits.
    #[must_use]
    pub fn find(&self, id: &[u8], host: &str, now: Timestamp) -> Option<Arc<Session>> {
        let handles = self.handles.load();
        let handle = handles.get(&hash(Some(id).filter(|id| id.len() <= MAX_ID)?))?;
        if *handle.host != *host || !self.is_alive(&handle.session, now) {
            return None;
        }
        handle.session.last.fetch_max(now.as_millis(), Ordering::Relaxed);
        Some(Arc::clone(&handle.session))
    }

    /// How often sessions ended. As long as it is the same, so are those that count, but for their deadlines.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.ends.load(Ordering::Acquire)
    }

    /// Whether the session lasts. An open tunnel is use of it, and keeps it awake.
    #[must_use]
    pub fn counts(&self, session: &Session, now: Timestamp) -> bool {
        let lasts = self.is_alive(session, now);
        if lasts {
            session.last.fetch_max(now.as_millis(), Ordering::Relaxed);
        }
        lasts && !self.is_stale()
    }

    /// Whether nobody can tell at the moment which sessions have ended elsewhere.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(&self.keeper, Keeper::Shared(shared) if shared.is_stale())
    }

    /// Asks the store for a cookie of ours that is unknown here; what is returned tells of the end of the
    /// question. `None` if there is nothing to ask. Must be called within the runtime.
    #[must_use]
    pub fn ask(self: &Arc<Self>, id: &[u8], host: &str) -> Option<watch::Receiver<u64>> {
        let Keeper::Shared(shared) = &self.keeper else { return None };
        shared.ask(self.ours(id, host)?, self)
    }

    /// Whether another agent may know a cookie that is unknown here, and nobody can tell at the moment.
    #[must_use]
    pub fn is_unsettled(&self, id: &[u8], host: &str) -> bool {
        let Keeper::Shared(shared) = &self.keeper else { return false };
        self.ours(id, host).is_some_and(|digest| !shared.is_unknown(&digest))
    }

    /// A cookie that some agent made for the host, whether or not it counts.
    fn ours(&self, id: &[u8], host: &str) -> Option<Digest> {
        let text = std::str::from_utf8(Some(id).filter(|id| id.len() <= MAX_ID)?).ok()?;
        self.sealer.open::<()>(Purpose::Cookie, host, text)?;
        Some(hash(id))
    }

    /// As [`Sessions::find`], but also among what other agents did a moment ago.
    pub async fn find_anywhere(
        self: &Arc<Self>,
        id: &[u8],
        host: &str,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        if let Some(session) = self.find(id, host, now) {
            return Some(session);
        }
        // A closed channel means that the question has ended.
        let _ = self.ask(id, host)?.changed().await;
        self.find(id, host, now)
    }

    /// Ends every session of which that is true, at every host. Returns how many. May wait.
    ///
    /// # Errors
    /// They are ended here, but whoever keeps them could not be told.
    pub fn end(&self, is_over: impl Fn(&Session) -> bool) -> Result<usize, KeepError> {
        let over: Vec<_> = {
            let known = self.lock();
            let over = known.sessions.values().filter(|session| is_over(session));
            over.filter(|session| !session.ended.swap(true, Ordering::AcqRel)).cloned().collect()
        };
        if let Keeper::Shared(shared) = &self.keeper {
            self.forget_ended();
            if !over.is_empty() {
                shared.ended(over.iter().map(|session| session.ending()).collect())?;
            }
        } else {
            self.tidy_now(None)?;
        }
        Ok(over.len())
    }

    /// The sessions about which their providers are to be asked again.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let known = self.lock();
        let due = known.sessions.values().filter(|session| session.is_due(now));
        due.filter(|session| self.is_alive(session, now)).cloned().collect()
    }

    /// Those that count.
    #[must_use]
    pub fn alive(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let known = self.lock();
        known.sessions.values().filter(|session| self.is_alive(session, now)).cloned().collect()
    }

    /// Takes the right to ask a provider about a session; false while another agent does, or when it just
    /// has. To be given back by [`Sessions::release`].
    pub async fn claim(&self, session: &Session) -> bool {
        let Keeper::Shared(shared) = &self.keeper else { return true };
        let Some(kept) = shared.claim(&session.key).await else { return false };
        let asked = session.tokens().asked;
        self.apply(Change::Renewed { key: session.key, kept }, Timestamp::now());
        if session.tokens().asked == asked {
            return true;
        }
        self.release(session).await;
        false
    }

    /// Gives the right to ask back.
    pub async fn release(&self, session: &Session) {
        if let Keeper::Shared(shared) = &self.keeper {
            shared.release(&session.key).await;
        }
    }

    /// Takes in what a provider said of a session anew. The session's end stays. May wait.
    ///
    /// # Errors
    /// It cannot be kept; it counts here all the same.
    pub fn renew(
        &self,
        session: &Session,
        identity: Identity,
        tokens: Tokens,
    ) -> Result<(), KeepError> {
        session.replace(Identity { expires: session.end, ..identity }, tokens);
        match &self.keeper {
            Keeper::Nowhere => {}
            Keeper::File(store) => {
                // Not after it has ended and was taken out.
                let known = self.lock();
                if known.sessions.contains_key(&session.key) {
                    store.update(&self.sealer, &[(session.key, session.as_kept())], &[], &[])?;
                }
            }
            Keeper::Shared(shared) => shared.renew(&session.key, session.as_kept())?,
        }
        Ok(())
    }

    /// Forgets what is over, and keeps when the others were used last; to be done now and then. May wait.
    ///
    /// # Errors
    /// Whoever keeps them could not be told.
    pub fn tidy(&self, now: Timestamp) -> Result<(), KeepError> {
        self.tidy_now(Some(now))
    }

    fn tidy_now(&self, now: Option<Timestamp>) -> Result<(), KeepError> {
        let mut known = self.lock();
        let is_over = |session: &Session| match now {
            Some(now) => !self.is_alive(session, now),
            None => session.ended.load(Ordering::Acquire),
        };
        let (keys, digests) = self.forget(&mut known, is_over);
        let mut used = Vec::new();
        for session in known.sessions.values() {
            let last = session.last.load(Ordering::Relaxed);
            if session.kept.load(Ordering::Relaxed) != last {
                used.push((Arc::clone(session), last));
            }
        }
        match &self.keeper {
            Keeper::Nowhere => {}
            Keeper::File(store) => {
                store.update(&self.sealer, &[], &keys, &digests)?;
                drop(known);
                for some in used.chunks(WRITTEN_TOGETHER) {
                    self.write_used(store, some)?;
                    // The lock would be taken again before a sign-in that waits for it wakes up.
                    std::thread::sleep(BETWEEN_WRITES);
                }
            }
            Keeper::Shared(shared) => {
                drop(known);
                let told: Vec<_> =
                    used.iter().map(|(session, last)| (session.key, *last)).collect();
                shared.used(&told)?;
            }
        }
        for (session, last) in used {
            session.kept.store(last, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes to the file when sessions were used last.
    fn write_used(&self, store: &Store, used: &[(Arc<Session>, u64)]) -> Result<(), StoreError> {
        let known = self.lock();
        // None that has ended since: it was taken out of the file under this lock.
        let here = used.iter().filter(|(session, _)| known.sessions.contains_key(&session.key));
        let kept: Vec<_> = here.map(|(session, _)| (session.key, session.as_kept())).collect();
        store.update(&self.sealer, &kept, &[], &[])
    }

    /// Takes what is over out of the table. Returns the sessions and their cookies.
    fn forget(
        &self,
        known: &mut Known,
        is_over: impl Fn(&Session) -> bool,
    ) -> (Vec<Key>, Vec<Digest>) {
        let over: Vec<_> =
            known.sessions.values().filter(|session| is_over(session)).cloned().collect();
        if over.is_empty() {
            return (vec![], vec![]);
        }
        let mut handles = Handles::clone(&self.handles.load());
        let (mut keys, mut digests) = (Vec::new(), Vec::new());
        for session in over {
            known.sessions.remove(&session.key);
            if session.ended.load(Ordering::Acquire) {
                known.remember_gone(session.key);
            }
            let (key, cookies) = session.ending();
            for digest in &cookies {
                handles.remove(digest);
            }
            keys.push(key);
            digests.extend(cookies);
        }
        self.set_handles(handles);
        self.ends.fetch_add(1, Ordering::Release);
        (keys, digests)
    }

    fn forget_ended(&self) {
        let mut known = self.lock();
        let _ = self.forget(&mut known, |session| session.ended.load(Ordering::Acquire));
    }

    /// Whether a session counts. What other agents saw of it may be news a minute later.
    fn is_alive(&self, session: &Session, now: Timestamp) -> bool {
        let last = Timestamp::from_millis(session.last.load(Ordering::Relaxed));
        let late = match self.keeper {
            Keeper::Shared(_) => super::shared::USED_WITHIN,
            _ => std::time::Duration::ZERO,
        };
        !session.ended.load(Ordering::Acquire)
            && now < session.end
            && now.since(last) < self.lifetime.idle + late
    }

    fn set_handles(&self, handles: Handles) {
        self.reaper.free(self.handles.swap(Arc::new(handles)));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

/// What whoever keeps the sessions has of them.
impl Sessions {
    /// Takes all that is kept in place of what is here.
    pub(super) fn replace(&self, sessions: Vec<Entry>, cookies: Vec<CookieEntry>, now: Timestamp) {
        let mut known = self.lock();
        let before = std::mem::take(&mut known.sessions);
        for entry in sessions {
            let key = entry.key;
            let session = match before.get(&key) {
                Some(here) => {
                    self.catch_up(here, entry);
                    Some(Arc::clone(here))
                }
                None => self.revive(entry).map(Arc::new),
            };
            let session = session.filter(|session| self.is_alive(session, now));
            if let Some(session) = session.filter(|_| !known.gone.contains(&key)) {
                session.forget_cookies();
                known.sessions.insert(key, session);
            }
        }
        // Whoever still holds one, as a live tunnel does, must learn of it.
        for (key, session) in &before {
            if !known.sessions.contains_key(key) {
                session.ended.store(true, Ordering::Release);
            }
        }
        let mut handles = Handles::new();
        for CookieEntry { digest, session, host } in cookies {
            let Some(session) = known.sessions.get(&session) else { continue };
            if let Some(old) = session.take_in(&host, digest) {
                handles.remove(&old);
            }
            handles.insert(digest, Handle { session: Arc::clone(session), host: host.into() });
        }
        self.set_handles(handles);
    }

    /// Takes in one cookie, with its session if it may be unknown here.
    pub(super) fn learn(&self, entry: Option<Entry>, cookie: &CookieEntry, now: Timestamp) {
        let mut known = self.lock();
        let key = cookie.session;
        if known.gone.contains(&key) {
            return;
        }
        if let Some(entry) =
            entry.filter(|entry| entry.key == key && !known.sessions.contains_key(&key))
            && let Some(session) = self.revive(entry)
        {
            known.sessions.insert(key, Arc::new(session));
        }
        let session = known.sessions.get(&key).filter(|session| self.is_alive(session, now));
        if let Some(session) = session {
            self.insert(session, cookie.digest, &cookie.host);
        }
    }

    /// Another agent ended sessions.
    fn learn_end(&self, keys: &[Key]) {
        {
            let mut known = self.lock();
            for key in keys {
                known.remember_gone(*key);
                if let Some(session) = known.sessions.get(key) {
                    session.ended.store(true, Ordering::Release);
                }
            }
        }
        self.forget_ended();
    }

    /// What a change among the agents means here.
    pub(super) fn apply(&self, change: Change, now: Timestamp) {
        match change {
            Change::Begun { kept, cookie } => {
                let entry = Entry { key: cookie.session, kept, last: None };
                self.learn(Some(entry), &cookie, now);
            }
            Change::Cookie(cookie) => self.learn(None, &cookie, now),
            Change::Renewed { key, kept } => {
                let known = self.lock();
                if let Some(session) = known.sessions.get(&key)
                    && let Some((identity, tokens)) = kept.identity(&self.authorities.load())
                    && session.tokens().asked < tokens.asked
                {
                    session.replace(identity, tokens);
                }
            }
            Change::Used(used) => {
                let known = self.lock();
                for (key, last) in used {
                    if let Some(session) = known.sessions.get(&key) {
                        session.last.fetch_max(last, Ordering::Relaxed);
                        session.kept.fetch_max(last, Ordering::Relaxed);
                    }
                }
            }
            Change::Ended(keys) => self.learn_end(&keys),
            Change::Revocation(_) | Change::Hello => {}
        }
    }

    /// Takes in what became of a session while this agent heard nothing.
    fn catch_up(&self, session: &Session, entry: Entry) {
        let last = entry.last.map_or(entry.kept.last, |last| last.as_millis().max(entry.kept.last));
        session.last.fetch_max(last, Ordering::Relaxed);
        if let Some((identity, tokens)) = entry.kept.identity(&self.authorities.load())
            && session.tokens().asked < tokens.asked
        {
            session.replace(identity, tokens);
        }
    }

    fn revive(&self, entry: Entry) -> Option<Session> {
        let Entry { key, kept, last } = entry;
        let end = Timestamp::from_millis(kept.end);
        let last = last.map_or(kept.last, |last| last.as_millis().max(kept.last));
        let began = Timestamp::from_millis(kept.began);
        let (identity, tokens) = kept.identity(&self.authorities.load())?;
        Some(Session {
            identity: ArcSwap::from_pointee(identity),
            tokens: Mutex::new(tokens),
            key,
            began,
            end,
            last: AtomicU64::new(last),
            kept: AtomicU64::new(last),
            ended: AtomicBool::new(false),
            hosts: Mutex::default(),
        })
    }
}

impl Known {
    fn remember_gone(&mut self, key: Key) {
        if self.gone_since.len() >= MAX_GONE
            && let Some(oldest) = self.gone_since.pop_front()
        {
            self.gone.remove(&oldest);
        }
        if self.gone.insert(key) {
            self.gone_since.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests;
