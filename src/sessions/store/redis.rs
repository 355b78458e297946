//! Sessions and revocations that several agents share, in Redis (6.2 or later) or Valkey.
//!
//! What is in the store is encrypted with the key ring: a reader learns how many sessions there are and
//! nothing else. Every change is also an entry of a stream, which all agents [`follow`] within milliseconds. An agent
//! that was away continues where it was, or reads everything where the stream does not reach back that far.
//!
//! A request reads the agent's own memory and does not wait for the store, with one exception: a cookie that an agent
//! made but this one does not know is looked up, since another agent may have made it a moment ago.
//!
//! Invariants: a sign-in is confirmed when the store has it. A session that ends is ended at this agent at once; if
//! the store cannot be told, it is told when it answers again.

use std::{
    collections::HashMap,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use redis::{
    Client, RedisError, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tracing::{debug, warn};

use super::{
    CookieLookup, CookieRow, Key, LoadedSession, RefreshLock, RemovedSession, SessionStore,
    StoreError, StoreFuture, StoredCookie, StoredSession, StoredSessions, row_name,
};
use crate::{
    identity::revocation::{OtherAgents, RevocationChange},
    lock::Mutex,
    sessions::{
        Digest, Session, Sessions,
        keyring::{Keyring, Purpose, SealError},
    },
    time::{MonotonicTime, Timestamp},
};

mod address;
pub mod follow;
mod script;

pub use address::{Address, AddressError, RedisSettings};
use script::{Names, Scripts};

/// How long a sign-in or sign-out waits for the store.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the store may take to answer one command.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most cookies that are looked up at the same time.
const MAX_LOOKUPS: usize = 256;
/// How many cookies are remembered as unknown to the store.
const MAX_UNKNOWN: u64 = 10_000;
/// For how long they are remembered. A cookie is random, so one that is unknown stays unknown.
const UNKNOWN_FOR: Duration = Duration::from_mins(1);
/// How many times of last use are written with one command.
const LAST_USED_AT_ONCE: usize = 500;
/// How long an agent may take to refresh a session before another one may do it.
const REFRESH_LOCK_TIME: Duration = Duration::from_secs(30);

/// The store.
pub struct RedisStore {
    client: Client,
    commands: ConnectionManager,
    runtime: Handle,
    keyring: Arc<Keyring>,
    names: Names,
    scripts: Scripts,
    /// How long sessions stay valid after the store last answered.
    max_staleness: Duration,
    /// When the store last answered, as nanoseconds of [`MonotonicTime`]; zero before the first time.
    answered: AtomicU64,
    undelivered: Mutex<Undelivered>,
    unknown: Cache<Digest, ()>,
    lookups: Mutex<HashMap<Digest, watch::Receiver<u64>>>,
}

/// What the store could not be told while it was away.
#[derive(Default)]
struct Undelivered {
    ended: Vec<RemovedSession>,
    /// Whether some revocations are not in the store.
    revocations: bool,
}

/// A change that one agent tells the others.
#[derive(Serialize, Deserialize)]
pub(super) enum Change {
    /// A session began, with its first cookie.
    Begun { session: StoredSession, cookie: StoredCookie },
    /// A session has a cookie for another host.
    Cookie(StoredCookie),
    /// A session was refreshed at its provider.
    Refreshed { key: Key, session: StoredSession },
    /// Sessions were used, at these times in milliseconds since the Unix epoch.
    LastUsed(Vec<(Key, u64)>),
    /// Sessions ended.
    Ended(Vec<Key>),
    /// Something was revoked, or a revocation was lifted.
    Revocation(RevocationChange),
    /// The first entry of a stream, so that there is always a last one.
    StreamBegins,
}

impl RedisStore {
    /// A store. It is not contacted before its first use. Must be called within the runtime.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn new(settings: &RedisSettings, keyring: Arc<Keyring>) -> Result<Self, RedisError> {
        let info = settings.connection_info();
        let client = match &settings.authority {
            Some(authority) => {
                let root_cert = Some(authority.clone());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
            }
            None => Client::open(info)?,
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(200));
        Ok(Self {
            commands: ConnectionManager::new_lazy_with_config(client.clone(), config)?,
            client,
            runtime: Handle::current(),
            keyring,
            names: Names::new(&settings.prefix),
            scripts: Scripts::default(),
            max_staleness: settings.max_staleness,
            answered: AtomicU64::new(0),
            undelivered: Mutex::default(),
            unknown: Cache::builder().max_capacity(MAX_UNKNOWN).time_to_live(UNKNOWN_FOR).build(),
            lookups: Mutex::default(),
        })
    }

    /// How long ago the store last answered; before the first time, how long ago the agent started.
    #[must_use]
    pub fn silent(&self) -> Duration {
        let answered = Duration::from_nanos(self.answered.load(Ordering::Relaxed));
        MonotonicTime::now().since(MonotonicTime::at(answered))
    }

    /// Waits until the store has answered for the first time, for `limit` at most.
    pub async fn wait_until_answered(&self, limit: Duration) {
        let answered = async {
            while self.answered.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(limit, answered).await.is_err() {
            warn!("the session store does not answer at the start: the agent starts without it");
        }
    }

    fn note_answer(&self) {
        let now = MonotonicTime::now().since(MonotonicTime::default());
        self.answered.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn seal_row(&self, name: &[u8], value: &impl Serialize) -> Result<String, SealError> {
        self.keyring.seal(Purpose::Session, &row_name(name), value)
    }

    fn seal_change(&self, change: &Change) -> Result<String, SealError> {
        self.keyring.seal(Purpose::Shared, "change", change)
    }

    /// The commands that remove sessions and tell the other agents.
    fn clearing(&self, sessions: &[RemovedSession]) -> Result<redis::Pipeline, SealError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for RemovedSession { key, cookies } in sessions {
            pipe.del(self.names.session(key)).ignore().del(self.names.last_used(key)).ignore();
            for digest in cookies {
                pipe.del(self.names.cookie(digest)).ignore();
            }
        }
        let keys = sessions.iter().map(|session| session.key).collect();
        self.names.add_change(&mut pipe, &self.seal_change(&Change::Ended(keys))?);
        Ok(pipe)
    }

    fn undelivered(&self) -> MutexGuard<'_, Undelivered> {
        self.undelivered.lock()
    }

    /// Tells the other agents of a revocation, or that one was lifted. Blocks.
    ///
    /// # Errors
    /// The store could not be told; [`follow`] tells it when it answers again.
    pub fn spread(&self, spread: &RevocationChange) -> Result<(), StoreError> {
        let told = self.spreading(spread).map_err(StoreError::from).and_then(|pipe| {
            let mut commands = self.commands.clone();
            self.block_on(pipe.query_async(&mut commands))
        });
        self.undelivered().revocations |= told.is_err();
        told
    }

    fn spreading(&self, spread: &RevocationChange) -> Result<redis::Pipeline, SealError> {
        let field = row_name(&spread.revocation.key());
        let blob = self.keyring.seal(Purpose::Shared, &field, spread)?;
        let mut pipe = redis::pipe();
        pipe.atomic().hset(self.names.revocations(), field, blob).ignore();
        self.names.add_change(&mut pipe, &self.seal_change(&Change::Revocation(spread.clone()))?);
        Ok(pipe)
    }

    /// Writes a session and a cookie, or only the cookie (`session` is `None`), and tells the other agents.
    fn save_both(
        &self,
        session: &Session,
        stored: Option<StoredSession>,
        cookie: &StoredCookie,
        replaced: Option<&Digest>,
    ) -> Result<(), StoreError> {
        let cookie_blob = self.seal_row(&cookie.digest, &cookie.row())?;
        let session_blob = stored.as_ref().map(|stored| self.seal_row(&session.key, stored));
        // The script takes an empty text for "the session must be there already".
        let session_blob = session_blob.transpose()?.unwrap_or_default();
        let change = match stored {
            Some(stored) => Change::Begun { session: stored, cookie: cookie.clone() },
            None => Change::Cookie(cookie.clone()),
        };
        let change = self.seal_change(&change)?;
        let mut script = self.scripts.save.prepare_invoke();
        script.key(self.names.session(&session.key)).key(self.names.cookie(&cookie.digest));
        script.key(self.names.changes());
        if let Some(replaced) = replaced {
            script.key(self.names.cookie(replaced));
        }
        script.arg(session_blob).arg(cookie_blob).arg(session.end.as_millis()).arg(change);
        let mut commands = self.commands.clone();
        let saved: bool = self.block_on(script.invoke_async(&mut commands))?;
        if saved { Ok(()) } else { Err(StoreError::Ended) }
    }

    /// Does a `SET` with `NX`. Returns whether the key was not there yet.
    async fn set_if_absent(&self, set: &redis::Cmd) -> Result<bool, StoreError> {
        let mut commands = self.commands.clone();
        let done = timeout(OPERATION_TIMEOUT, set.query_async::<Option<String>>(&mut commands));
        Ok(done.await.map_err(|_| StoreError::Timeout)??.is_some())
    }

    async fn delete(&self, name: String) -> Result<(), StoreError> {
        let mut commands = self.commands.clone();
        let mut del = redis::cmd("DEL");
        let done = timeout(OPERATION_TIMEOUT, del.arg(name).query_async(&mut commands));
        Ok(done.await.map_err(|_| StoreError::Timeout)??)
    }

    /// Whether the store said that it does not have this cookie.
    fn is_unknown(&self, digest: &Digest) -> bool {
        self.unknown.contains_key(digest)
    }

    /// Reads a cookie and its session.
    async fn read_cookie(
        &self,
        digest: Digest,
    ) -> Result<Option<(LoadedSession, StoredCookie)>, RedisError> {
        let mut commands = self.commands.clone();
        let text: Option<String> =
            redis::cmd("GET").arg(self.names.cookie(&digest)).query_async(&mut commands).await?;
        let row = text.and_then(|text| self.open_row::<CookieRow>(&digest, &text));
        let Some(CookieRow { session: key, host }) = row else { return Ok(None) };
        let (text, last_used): (Option<String>, Option<u64>) = redis::pipe()
            .get(self.names.session(&key))
            .get(self.names.last_used(&key))
            .query_async(&mut commands)
            .await?;
        let session = text.and_then(|text| self.open_row::<StoredSession>(&key, &text));
        let Some(session) = session else { return Ok(None) };
        let last_used = last_used.map(Timestamp::from_millis);
        let loaded = LoadedSession { key, session, last_used };
        Ok(Some((loaded, StoredCookie { digest, session: key, host })))
    }

    fn open_row<T: serde::de::DeserializeOwned>(&self, name: &[u8], text: &str) -> Option<T> {
        self.keyring.open(Purpose::Session, &row_name(name), text)
    }

    /// Waits for a command, on a thread that may block.
    fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, StoreError> {
        let done = self.runtime.block_on(async { timeout(OPERATION_TIMEOUT, work).await });
        Ok(done.map_err(|_| StoreError::Timeout)??)
    }
}

impl SessionStore for RedisStore {
    /// None: [`RedisStore::follow`] reads them, and reads them again whenever it has to.
    fn load(&self) -> Result<StoredSessions, StoreError> {
        Ok(StoredSessions::default())
    }

    fn save(&self, session: &Session, cookie: &StoredCookie) -> Result<(), StoreError> {
        self.save_both(session, Some(session.to_stored()), cookie, None)
    }

    fn save_cookie(
        &self,
        session: &Session,
        cookie: &StoredCookie,
        replaced: Option<&Digest>,
    ) -> Result<(), StoreError> {
        self.save_both(session, None, cookie, replaced)
    }

    fn update(&self, session: &Session) -> Result<(), StoreError> {
        let key = &session.key;
        let stored = session.to_stored();
        let blob = self.seal_row(key, &stored)?;
        let change = self.seal_change(&Change::Refreshed { key: *key, session: stored })?;
        let mut script = self.scripts.update.prepare_invoke();
        script.key(self.names.session(key)).key(self.names.changes()).arg(blob).arg(change);
        let mut commands = self.commands.clone();
        let updated: bool = self.block_on(script.invoke_async(&mut commands))?;
        if updated { Ok(()) } else { Err(StoreError::Ended) }
    }

    fn save_last_used(&self, sessions: &[(Arc<Session>, u64)]) -> Result<(), StoreError> {
        for part in sessions.chunks(LAST_USED_AT_ONCE) {
            let used: Vec<_> =
                part.iter().map(|(session, last_used)| (session.key, *last_used)).collect();
            let mut script = self.scripts.last_used.prepare_invoke();
            script.key(self.names.changes());
            script.arg(self.seal_change(&Change::LastUsed(used.clone()))?);
            for (key, last_used) in &used {
                script.key(self.names.session(key)).key(self.names.last_used(key)).arg(*last_used);
            }
            let mut commands = self.commands.clone();
            self.block_on(script.invoke_async::<()>(&mut commands))?;
        }
        Ok(())
    }

    /// If the store does not answer, [`RedisStore::follow`] tells it later.
    fn clear(&self, ended: Vec<RemovedSession>) -> Result<(), StoreError> {
        let told = self.clearing(&ended).map_err(StoreError::from).and_then(|pipe| {
            let mut commands = self.commands.clone();
            self.block_on(pipe.query_async(&mut commands))
        });
        if told.is_err() {
            self.undelivered().ended.extend(ended);
        }
        told
    }

    /// Nothing: another agent may have seen a request since. Redis removes a session at its absolute end.
    fn expire(&self, _: Vec<RemovedSession>) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn is_stale(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == 0 || self.silent() > self.max_staleness
    }

    fn look_up(self: Arc<Self>, digest: Digest, sessions: &Arc<Sessions>) -> CookieLookup {
        if self.is_unknown(&digest) {
            return CookieLookup::Unknown;
        }
        let mut lookups = self.lookups.lock();
        // A page loads many things at once, all with the same cookie: one lookup answers them all.
        if let Some(answered) = lookups.get(&digest) {
            return CookieLookup::Pending(answered.clone());
        }
        if lookups.len() >= MAX_LOOKUPS {
            return CookieLookup::Unavailable;
        }
        let (done, answered) = watch::channel(0);
        lookups.insert(digest, answered.clone());
        let (store, sessions) = (Arc::clone(&self), Arc::clone(sessions));
        self.runtime.spawn(async move {
            match timeout(OPERATION_TIMEOUT, store.read_cookie(digest)).await {
                Ok(Ok(Some((loaded, cookie)))) => {
                    sessions.learn_cookie(Some(loaded), &cookie, Timestamp::now());
                }
                Ok(Ok(None)) => store.unknown.insert(digest, ()),
                // Not remembered as unknown: the next request asks again.
                Ok(Err(_)) | Err(_) => {}
            }
            let mut lookups = store.lookups.lock();
            lookups.remove(&digest);
            // An error means that no request waits any more.
            let _ = done.send(1);
        });
        CookieLookup::Pending(answered)
    }

    fn is_reachable(&self) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let mut commands = self.commands.clone();
            let ping = redis::cmd("PING");
            let done = timeout(OPERATION_TIMEOUT, ping.query_async::<String>(&mut commands)).await;
            matches!(done, Ok(Ok(_)))
        })
    }

    fn lock<'s>(&'s self, session: &'s Session) -> StoreFuture<'s, RefreshLock> {
        Box::pin(async move {
            let key = &session.key;
            let millis = u64::try_from(REFRESH_LOCK_TIME.as_millis()).unwrap_or(u64::MAX);
            let mut set = redis::cmd("SET");
            set.arg(self.names.refresh_lock(key)).arg(1).arg("NX").arg("PX").arg(millis);
            if !matches!(self.set_if_absent(&set).await, Ok(true)) {
                return RefreshLock::Refused;
            }
            let mut commands = self.commands.clone();
            let get = redis::cmd("GET").arg(self.names.session(key)).to_owned();
            let text = get.query_async::<Option<String>>(&mut commands).await.ok().flatten();
            let stored = text.and_then(|text| self.open_row::<StoredSession>(key, &text));
            match stored {
                Some(stored) => RefreshLock::Granted(Some(Box::new(stored))),
                None => RefreshLock::Refused,
            }
        })
    }

    fn unlock<'s>(&'s self, session: &'s Session) -> StoreFuture<'s, ()> {
        Box::pin(async move {
            if let Err(error) = self.delete(self.names.refresh_lock(&session.key)).await {
                debug!(%error, "releasing the lock of a session's refresh failed: it ends by itself");
            }
        })
    }

    fn take_id<'s>(
        &'s self,
        id: &'s str,
        until: Timestamp,
    ) -> StoreFuture<'s, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut set = redis::cmd("SET");
            set.arg(self.names.taken(id)).arg(1).arg("NX").arg("PXAT").arg(until.as_millis());
            self.set_if_absent(&set).await
        })
    }

    fn return_id<'s>(&'s self, id: &'s str) -> StoreFuture<'s, ()> {
        Box::pin(async move {
            if let Err(error) = self.delete(self.names.taken(id)).await {
                debug!(%error, "returning an id that was not used failed: it stays taken until its end");
            }
        })
    }
}

impl OtherAgents for RedisStore {
    fn pass_on(&self, change: &RevocationChange) -> Result<(), String> {
        self.spread(change).map_err(|error| error.to_string())
    }
}
