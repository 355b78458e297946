//! What a store tells the table: all sessions at once, or one change that another agent made.
//!
//! A change may arrive twice, late, or about a session that is unknown here. None of the methods blocks, so that the
//! task that follows a shared store may call them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{Cookies, HostCookie, Sessions};
use crate::{
    lock::Mutex,
    sessions::{
        Session,
        store::{Key, LoadedSession, StoredCookie, StoredSession},
    },
    time::Timestamp,
};

impl Sessions {
    /// Replaces all sessions by those of the store. A session that the store does not have any more has ended.
    pub(in crate::sessions) fn replace_all(
        &self,
        sessions: Vec<LoadedSession>,
        cookies: Vec<StoredCookie>,
        now: Timestamp,
    ) {
        let mut state = self.lock();
        let before: HashMap<Key, Arc<Session>> = std::mem::take(&mut state.sessions);
        for loaded in sessions {
            let key = loaded.key;
            let session = match before.get(&key) {
                // The value stays the same, since a tunnel may hold it.
                Some(here) => {
                    self.catch_up(here, loaded);
                    Some(Arc::clone(here))
                }
                None => self.restore(loaded).map(Arc::new),
            };
            let session = session.filter(|session| self.is_active(session, now));
            if let Some(session) = session.filter(|_| !state.ended.contains(&key)) {
                session.forget_cookies();
                state.sessions.insert(key, session);
            }
        }
        for (key, session) in &before {
            if !state.sessions.contains_key(key) {
                session.ended.store(true, Ordering::Release);
            }
        }
        let mut table = Cookies::new();
        for StoredCookie { digest, session, host } in cookies {
            // The cookies of sessions that are over are left out with them.
            let Some(session) = state.sessions.get(&session) else { continue };
            if let Some(replaced) = session.add_cookie(&host, digest) {
                table.remove(&replaced);
            }
            table.insert(digest, HostCookie { session: Arc::clone(session), host: host.into() });
        }
        self.set_cookies(table);
    }

    /// Another agent made a cookie. `loaded` is its session, if that may be unknown here.
    pub(in crate::sessions) fn learn_cookie(
        &self,
        loaded: Option<LoadedSession>,
        cookie: &StoredCookie,
        now: Timestamp,
    ) {
        let mut state = self.lock();
        let key = cookie.session;
        if state.ended.contains(&key) {
            return;
        }
        let unknown =
            |loaded: &LoadedSession| loaded.key == key && !state.sessions.contains_key(&key);
        if let Some(loaded) = loaded.filter(unknown)
            && let Some(session) = self.restore(loaded)
        {
            state.sessions.insert(key, Arc::new(session));
        }
        let session = state.sessions.get(&key).filter(|session| self.is_active(session, now));
        if let Some(session) = session {
            self.insert(session, cookie.digest, &cookie.host);
        }
    }

    /// Another agent refreshed a session.
    pub(in crate::sessions) fn learn_refresh(&self, key: Key, stored: StoredSession) {
        let state = self.lock();
        if let Some(session) = state.sessions.get(&key) {
            self.take_newer_tokens(session, stored);
        }
    }

    /// Other agents saw requests of sessions, at these times in milliseconds since the Unix epoch.
    pub(in crate::sessions) fn learn_last_used(&self, used: Vec<(Key, u64)>) {
        let state = self.lock();
        for (key, last_used) in used {
            if let Some(session) = state.sessions.get(&key) {
                session.last_used.fetch_max(last_used, Ordering::Relaxed);
                session.stored_last_used.fetch_max(last_used, Ordering::Relaxed);
            }
        }
    }

    /// Another agent ended sessions.
    pub(in crate::sessions) fn learn_end(&self, keys: &[Key]) {
        let mut state = self.lock();
        for key in keys {
            // Also of a session that is unknown here: the news of its beginning may arrive later.
            state.remember_ended(*key);
            if let Some(session) = state.sessions.get(key) {
                session.ended.store(true, Ordering::Release);
            }
        }
        // The agent that ended them removed them from the store.
        let _ = self.remove(&mut state, Session::has_ended);
    }

    /// Brings a session up to date that changed while this agent did not hear from the store.
    fn catch_up(&self, session: &Session, loaded: LoadedSession) {
        session.last_used.fetch_max(loaded.last_used(), Ordering::Relaxed);
        self.take_newer_tokens(session, loaded.session);
    }

    fn take_newer_tokens(&self, session: &Session, stored: StoredSession) {
        if let Some((identity, tokens)) = stored.into_identity(&self.authorities.load())
            && session.tokens().refreshed < tokens.refreshed
        {
            session.replace(identity, tokens);
        }
    }

    /// The session of a row of the store; `None` if its issuer is no longer configured.
    fn restore(&self, loaded: LoadedSession) -> Option<Session> {
        let (key, last_used) = (loaded.key, loaded.last_used());
        let began = Timestamp::from_millis(loaded.session.began);
        let end = Timestamp::from_millis(loaded.session.end);
        let (identity, tokens) = loaded.session.into_identity(&self.authorities.load())?;
        Some(Session {
            identity: ArcSwap::from_pointee(identity),
            tokens: Mutex::new(tokens),
            key,
            began,
            end,
            last_used: AtomicU64::new(last_used),
            stored_last_used: AtomicU64::new(last_used),
            ended: AtomicBool::new(false),
            hosts: Mutex::default(),
            deliveries: Mutex::default(),
        })
    }
}
