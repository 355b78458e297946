//! Where sessions outlive the agent, behind one interface.
//!
//! [`SessionStore`] is all that the table of sessions knows about a store: it loads, saves, updates and clears sessions,
//! and cannot tell which store it has. [`memory`] keeps nothing, [`file`] is one embedded database, [`redis`] is shared
//! with other agents.
//!
//! What leaves the process is encrypted with the key ring, each row for its own name, so that a row that was copied to
//! another name cannot be decrypted. The invariant of every store: a call that succeeds is durable (file) or
//! visible to all agents (Redis), and a session that was cleared is never written again.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use ::redis::RedisError;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use super::{Digest, Session, Sessions, Tokens, keyring::SealError};
use crate::{
    identity::{Authority, Identity, stored::StoredIdentity},
    time::Timestamp,
};

pub mod file;
pub mod memory;
pub mod redis;

/// The random key of a session in a store.
pub type Key = [u8; 16];

/// Within this time other agents learn that a session was used. A session that looks idle is valid for this much longer.
pub(super) const LAST_USED_DELAY: Duration = Duration::from_mins(1);

/// A future of a store. Stores are used as trait objects, so it is boxed.
pub type StoreFuture<'s, T> = Pin<Box<dyn Future<Output = T> + Send + 's>>;

/// Where sessions outlive the agent. Methods that are not `async` may block on the disk or the network, and must be
/// called from a thread that may, except [`SessionStore::is_shared`], [`SessionStore::is_stale`] and
/// [`SessionStore::look_up`].
pub trait SessionStore: Send + Sync {
    /// Loads all sessions at the start. A shared store returns none here, since it is read while it is followed.
    ///
    /// # Errors
    /// The store cannot be read.
    fn load(&self) -> Result<StoredSessions, StoreError>;

    /// Saves a new session with its first cookie.
    ///
    /// # Errors
    /// It could not be stored.
    fn save(&self, session: &Session, cookie: &StoredCookie) -> Result<(), StoreError>;

    /// Saves another cookie of a session, and removes the cookie that it replaces.
    ///
    /// # Errors
    /// It could not be stored, or the session has ended.
    fn save_cookie(
        &self,
        session: &Session,
        cookie: &StoredCookie,
        replaced: Option<&Digest>,
    ) -> Result<(), StoreError>;

    /// Writes a session that was refreshed, unless it has ended.
    ///
    /// # Errors
    /// It could not be stored, or the session has ended.
    fn update(&self, session: &Session) -> Result<(), StoreError>;

    /// Writes when sessions were last used, in milliseconds since the Unix epoch. Sessions that ended are skipped.
    ///
    /// # Errors
    /// It could not be stored.
    fn save_last_used(&self, sessions: &[(Arc<Session>, u64)]) -> Result<(), StoreError>;

    /// Removes sessions that ended, with their cookies.
    ///
    /// # Errors
    /// The store could not be told. Whether it is told later depends on the store.
    fn clear(&self, ended: Vec<RemovedSession>) -> Result<(), StoreError>;

    /// Removes sessions that are idle or too old here, with their cookies.
    ///
    /// # Errors
    /// The store could not be told.
    fn expire(&self, expired: Vec<RemovedSession>) -> Result<(), StoreError>;

    /// Whether other agents begin and end sessions in this store.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether the store was silent for too long, so that it is not known which sessions other agents ended.
    fn is_stale(&self) -> bool {
        false
    }

    /// Looks for a cookie that the table does not have. The answer is delivered into `sessions`. Returns at once.
    fn look_up(self: Arc<Self>, _digest: Digest, _sessions: &Arc<Sessions>) -> CookieLookup {
        CookieLookup::Unknown
    }

    /// Whether the store answers now.
    fn is_reachable(&self) -> StoreFuture<'_, bool> {
        Box::pin(async { true })
    }

    /// Takes the right to refresh a session at its provider, so that two agents do not use one refresh token at once.
    /// [`SessionStore::unlock`] returns it.
    fn lock<'s>(&'s self, _session: &'s Session) -> StoreFuture<'s, RefreshLock> {
        Box::pin(async { RefreshLock::Granted(None) })
    }

    /// Returns the right to refresh a session.
    fn unlock<'s>(&'s self, _session: &'s Session) -> StoreFuture<'s, ()> {
        Box::pin(async {})
    }

    /// Takes an id that is valid once among all agents until a time. Returns whether it was not taken before.
    ///
    /// # Errors
    /// The store does not answer.
    fn take_id<'s>(
        &'s self,
        _id: &'s str,
        _until: Timestamp,
    ) -> StoreFuture<'s, Result<bool, StoreError>> {
        Box::pin(async { Ok(true) })
    }

    /// Returns an id that was taken. If that fails, it stays taken until its time.
    fn return_id<'s>(&'s self, _id: &'s str) -> StoreFuture<'s, ()> {
        Box::pin(async {})
    }
}

/// Why a store did not do what it was asked for.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("the sessions file: {0}")]
    File(#[from] redb::Error),
    /// Redis cannot be reached, or refuses.
    #[error("the session store: {0}")]
    Redis(#[from] RedisError),
    /// Redis does not answer in time.
    #[error("the session store does not answer")]
    Timeout,
    /// The session has ended, perhaps at another agent.
    #[error("the session has ended")]
    Ended,
    /// The value cannot be encrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What is known about a cookie that the table does not have.
#[derive(Clone, Debug)]
pub enum CookieLookup {
    /// No agent knows it.
    Unknown,
    /// The store was asked; the channel says when the answer is in the table.
    Pending(watch::Receiver<u64>),
    /// It is not known, and the store cannot be asked now.
    Unavailable,
}

/// Whether this agent may refresh a session at its provider.
pub enum RefreshLock {
    /// It may. A shared store returns the session as it is there, since another agent may have refreshed it.
    Granted(Option<Box<StoredSession>>),
    /// Another agent does it, or the store does not answer.
    Refused,
}

/// A session to remove from a store.
#[derive(Clone, Debug)]
pub struct RemovedSession {
    pub(super) key: Key,
    pub(super) cookies: Vec<Digest>,
}

/// Everything that was in a store.
#[derive(Default)]
pub struct StoredSessions {
    pub(super) sessions: Vec<LoadedSession>,
    pub(super) cookies: Vec<StoredCookie>,
}

/// A session as it was loaded from a store.
pub struct LoadedSession {
    pub(super) key: Key,
    pub(super) session: StoredSession,
    /// The time of the last request that the store knows, where it keeps it apart from the session.
    pub(super) last_used: Option<Timestamp>,
}

/// A cookie in a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredCookie {
    pub(super) digest: Digest,
    pub(super) session: Key,
    /// The host at which the cookie is valid.
    pub(super) host: String,
}

/// The value of a cookie's row, whose name is the digest.
#[derive(Serialize, Deserialize)]
pub(super) struct CookieRow {
    pub(super) session: Key,
    pub(super) host: String,
}

/// The value of a session's row, whose name is the key.
#[derive(Serialize, Deserialize)]
pub struct StoredSession {
    identity: StoredIdentity,
    id_token: String,
    refresh_token: Option<String>,
    nonce: String,
    refreshed: u64,
    refresh_due: u64,
    pub(super) began: u64,
    pub(super) end: u64,
    pub(super) last_used: u64,
}

impl From<SealError> for redb::Error {
    fn from(error: SealError) -> Self {
        Self::Io(io::Error::other(error))
    }
}

impl LoadedSession {
    /// The time of the last request that the store knows, in milliseconds since the Unix epoch.
    pub(super) fn last_used(&self) -> u64 {
        let stored = self.session.last_used;
        self.last_used.map_or(stored, |last_used| last_used.as_millis().max(stored))
    }
}

impl StoredCookie {
    pub(super) fn row(&self) -> CookieRow {
        CookieRow { session: self.session, host: self.host.clone() }
    }
}

impl StoredSession {
    pub(super) fn new(
        identity: &Identity,
        tokens: &Tokens,
        [began, end, last_used]: [Timestamp; 3],
    ) -> Self {
        Self {
            identity: identity.into(),
            id_token: tokens.id_token.expose_secret().into(),
            refresh_token: tokens.refresh_token.as_ref().map(|token| token.expose_secret().into()),
            nonce: tokens.nonce.to_string(),
            refreshed: tokens.refreshed.as_millis(),
            refresh_due: tokens.refresh_due.as_millis(),
            began: began.as_millis(),
            end: end.as_millis(),
            last_used: last_used.as_millis(),
        }
    }

    /// The identity and the tokens; `None` if the issuer is no longer configured.
    pub(super) fn into_identity(
        self,
        authorities: &[Arc<Authority>],
    ) -> Option<(Identity, Tokens)> {
        let identity = Identity {
            // A session is bound to no certificate, and lasts as long as the agent says.
            bound_to: None,
            expires: Timestamp::from_millis(self.end),
            ..self.identity.restore(authorities)?
        };
        let tokens = Tokens {
            id_token: SecretString::from(self.id_token),
            refresh_token: self.refresh_token.map(SecretString::from),
            nonce: self.nonce.into(),
            refreshed: Timestamp::from_millis(self.refreshed),
            refresh_due: Timestamp::from_millis(self.refresh_due),
        };
        Some((identity, tokens))
    }
}

/// The name of a row as text. The value is encrypted for this name, so it cannot be decrypted under another one.
pub(super) fn row_name(key: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}
