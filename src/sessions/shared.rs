//! Sessions and revocations that several agents share, in Redis (6.2 or later) or Valkey.
//!
//! What is there is sealed with the operator's keys: who reads it learns how many sessions there are and
//! nothing else. Every change is also a line of a stream that all agents [`follow`] within milliseconds;
//! one that was away reads on from where it was, or everything where the stream does not reach back.
//!
//! A request reads the agent's own memory and never waits for the store, except when it has a cookie of
//! ours that is unknown here: another agent may have made it a moment ago. A session that began is
//! confirmed when the store has it; one that ended is ended here at once.

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
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tracing::{debug, warn};

use super::{
    Digest, Sessions,
    seal::{Purpose, SealError, Sealer},
    store::{Kept, KeptHandle, Key, Row, name},
};
use crate::{
    identity::revocation::{OtherAgents, RevocationChange},
    lock::Mutex,
    sessions::store::{CookieEntry, Entry},
    time::{MonotonicTime, Timestamp},
};

pub mod follow;
mod script;

use script::{Names, Scripts};

/// Within which time other agents hear that a session was used.
pub(super) const USED_WITHIN: Duration = Duration::from_mins(1);
/// How long whoever signs in or out waits for the store.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the store may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// The most cookies that the store is asked about at once.
const MAX_ASKING: usize = 256;
/// How many cookies are remembered as unknown to the store, and for how long. Cookies are random, so one
/// that is unknown stays so.
const MAX_UNKNOWN: u64 = 10_000;
const UNKNOWN_FOR: Duration = Duration::from_mins(1);
/// How many uses of sessions are told at once.
const TOLD_AT_ONCE: usize = 500;
/// How long an agent may take to ask a provider about a session before another one may.
const RENEWING: Duration = Duration::from_secs(30);

/// Where the store is.
#[derive(Debug)]
pub struct Settings {
    /// `redis://`, `rediss://` or `redis+unix://`; without a password.
    pub address: Address,
    /// Who we are to it, where it asks.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// Certificates of a private authority, PEM.
    pub authority: Option<Vec<u8>>,
    /// How all names in it begin.
    pub prefix: String,
    /// How long sessions count after the store was last heard.
    pub keep: Duration,
}

/// The address of a store.
#[derive(Clone, Debug)]
pub struct Address(ConnectionInfo);

/// Why a text is no address of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected \"redis://HOST:PORT/DATABASE\", \"rediss://…\" (TLS) or \"redis+unix:///PATH\", without a password in it"
)]
pub struct AddressError;

/// The store.
pub struct Shared {
    client: Client,
    commands: ConnectionManager,
    runtime: Handle,
    sealer: Arc<Sealer>,
    names: Names,
    scripts: Scripts,
    keep: Duration,
    /// When the store was last heard, as nanoseconds of [`MonotonicTime`]; zero before the first time.
    heard: AtomicU64,
    /// What the others were not told yet, since the store was away.
    untold: Mutex<Untold>,
    unknown: Cache<Digest, ()>,
    asking: Mutex<HashMap<Digest, watch::Receiver<u64>>>,
}

#[derive(Default)]
struct Untold {
    ended: Vec<(Key, Vec<Digest>)>,
    revocations: bool,
}

/// The store could not be told, or asked.
#[derive(Debug, Error)]
pub enum SharedError {
    /// It does not answer, or refuses.
    #[error("the store of sessions: {0}")]
    Store(#[from] RedisError),
    /// It takes too long.
    #[error("the store of sessions does not answer")]
    Silent,
    /// Another agent ended the session.
    #[error("the session has ended")]
    Ended,
    /// No random numbers.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What one agent did, for the others.
#[derive(Serialize, Deserialize)]
pub(super) enum Change {
    /// A session began, with its first cookie.
    Begun { kept: Kept, cookie: CookieEntry },
    /// A session has a cookie for another host.
    Cookie(CookieEntry),
    /// The provider was asked again.
    Renewed { key: Key, kept: Kept },
    /// Sessions were used, last then.
    Used(Vec<(Key, u64)>),
    /// Sessions ended.
    Ended(Vec<Key>),
    /// Something was revoked, or a revocation taken back.
    Revocation(RevocationChange),
    /// The stream begins.
    Hello,
}

impl Settings {
    /// The address, with who we are.
    fn info(&self) -> ConnectionInfo {
        let info = self.address.0.clone();
        let mut redis = info.redis_settings().clone();
        if let Some(user) = &self.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password.expose_secret());
        }
        info.set_redis_settings(redis)
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let info = text.into_connection_info().map_err(|_| AddressError)?;
        let supported = match info.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => !insecure,
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) => true,
            _ => false,
        };
        let named = info.redis_settings().password().is_some();
        (supported && !named).then_some(Self(info)).ok_or(AddressError)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.addr().fmt(f)
    }
}

impl Shared {
    /// A store; nobody is asked before the first use. Must be called within the runtime.
    ///
    /// # Errors
    /// The certificates are none.
    pub fn new(settings: &Settings, sealer: Arc<Sealer>) -> Result<Self, RedisError> {
        let info = settings.info();
        let client = match &settings.authority {
            Some(authority) => {
                let root_cert = Some(authority.clone());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
            }
            None => Client::open(info)?,
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(200));
        Ok(Self {
            commands: ConnectionManager::new_lazy_with_config(client.clone(), config)?,
            client,
            runtime: Handle::current(),
            sealer,
            names: Names::new(&settings.prefix),
            scripts: Scripts::default(),
            keep: settings.keep,
            heard: AtomicU64::new(0),
            untold: Mutex::default(),
            unknown: Cache::builder().max_capacity(MAX_UNKNOWN).time_to_live(UNKNOWN_FOR).build(),
            asking: Mutex::default(),
        })
    }

    /// Whether it was silent for too long: which sessions ended elsewhere is not known then.
    pub(super) fn is_stale(&self) -> bool {
        self.heard.load(Ordering::Relaxed) == 0 || self.silent() > self.keep
    }

    /// How long ago it was heard; before the first time, how long ago the agent started.
    #[must_use]
    pub fn silent(&self) -> Duration {
        let heard = Duration::from_nanos(self.heard.load(Ordering::Relaxed));
        MonotonicTime::now().since(MonotonicTime::at(heard))
    }

    /// Waits until it was heard, for `limit` at most.
    pub async fn heard(&self, limit: Duration) {
        let heard = async {
            while self.heard.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(limit, heard).await.is_err() {
            warn!("the session store does not answer at the start: the agent starts without it");
        }
    }

    fn hear(&self) {
        let now = MonotonicTime::now().since(MonotonicTime::default());
        self.heard.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Keeps a cookie, and its session if it is a new one; takes away the cookie that it replaces.
    pub(super) fn keep(
        &self,
        session: Option<Kept>,
        row: &Row<'_>,
        old: Option<Digest>,
        end: Timestamp,
    ) -> Result<(), SharedError> {
        let Row { session: key, handle, host } = *row;
        let handle_kept = KeptHandle { session: *key, host: host.into() };
        let handle_kept = self.sealer.seal(Purpose::Session, &name(handle), &handle_kept)?;
        let blob =
            session.as_ref().map(|kept| self.sealer.seal(Purpose::Session, &name(key), kept));
        let blob = blob.transpose()?.unwrap_or_default();
        let cookie = CookieEntry { digest: *handle, session: *key, host: host.into() };
        let change = match session {
            Some(kept) => Change::Begun { kept, cookie },
            None => Change::Cookie(cookie),
        };
        let change = self.seal(&change)?;
        let mut script = self.scripts.keep.prepare_invoke();
        script.key(self.names.session(key)).key(self.names.handle(handle));
        script.key(self.names.changes());
        if let Some(old) = &old {
            script.key(self.names.handle(old));
        }
        script.arg(blob).arg(handle_kept).arg(end.as_millis()).arg(change);
        let mut commands = self.commands.clone();
        let kept: bool = self.wait(script.invoke_async(&mut commands))?;
        if kept { Ok(()) } else { Err(SharedError::Ended) }
    }

    /// Keeps what a provider said of a session anew.
    pub(super) fn renew(&self, key: &Key, kept: Kept) -> Result<(), SharedError> {
        let blob = self.sealer.seal(Purpose::Session, &name(key), &kept)?;
        let change = self.seal(&Change::Renewed { key: *key, kept })?;
        let mut script = self.scripts.renew.prepare_invoke();
        script.key(self.names.session(key)).key(self.names.changes()).arg(blob).arg(change);
        let mut commands = self.commands.clone();
        let kept: bool = self.wait(script.invoke_async(&mut commands))?;
        if kept { Ok(()) } else { Err(SharedError::Ended) }
    }

    /// Takes sessions and their cookies away, and tells the others: now, or when the store is back.
    pub(super) fn ended(&self, sessions: Vec<(Key, Vec<Digest>)>) -> Result<(), SharedError> {
        let told = self.ending(&sessions).map_err(SharedError::from).and_then(|pipe| {
            let mut commands = self.commands.clone();
            self.wait(pipe.query_async(&mut commands))
        });
        if told.is_err() {
            self.untold().ended.extend(sessions);
        }
        told
    }

    fn ending(&self, sessions: &[(Key, Vec<Digest>)]) -> Result<redis::Pipeline, SealError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (key, handles) in sessions {
            pipe.del(self.names.session(key)).ignore().del(self.names.used(key)).ignore();
            for handle in handles {
                pipe.del(self.names.handle(handle)).ignore();
            }
        }
        let keys = sessions.iter().map(|(key, _)| *key).collect();
        self.names.add_change(&mut pipe, &self.seal(&Change::Ended(keys))?);
        Ok(pipe)
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock()
    }

    /// Tells the others when sessions were used last.
    pub(super) fn used(&self, sessions: &[(Key, u64)]) -> Result<(), SharedError> {
        for part in sessions.chunks(TOLD_AT_ONCE) {
            let change = self.seal(&Change::Used(part.to_vec()))?;
            let mut script = self.scripts.used.prepare_invoke();
            script.key(self.names.changes()).arg(change);
            for (key, last) in part {
                script.key(self.names.session(key)).key(self.names.used(key)).arg(*last);
            }
            let mut commands = self.commands.clone();
            self.wait(script.invoke_async::<()>(&mut commands))?;
        }
        Ok(())
    }

    /// Tells the others of a revocation, or that one was taken back. May wait.
    ///
    /// # Errors
    /// Nobody could be told; [`follow`] tells them when the store is back.
    pub fn spread(&self, spread: &RevocationChange) -> Result<(), SharedError> {
        let told = self.spreading(spread).map_err(SharedError::from).and_then(|pipe| {
            let mut commands = self.commands.clone();
            self.wait(pipe.query_async(&mut commands))
        });
        self.untold().revocations |= told.is_err();
        told
    }

    fn spreading(&self, spread: &RevocationChange) -> Result<redis::Pipeline, SealError> {
        let field = name(&spread.revocation.key());
        let blob = self.sealer.seal(Purpose::Shared, &field, spread)?;
        let mut pipe = redis::pipe();
        pipe.atomic().hset(self.names.revocations(), field, blob).ignore();
        self.names.add_change(&mut pipe, &self.seal(&Change::Revocation(spread.clone()))?);
        Ok(pipe)
    }

    /// Takes an id that counts once among all agents; false when it was taken before, or when nobody can
    /// tell.
    pub(super) async fn take(&self, id: &str, until: Timestamp) -> bool {
        let mut set = redis::cmd("SET");
        set.arg(self.names.taken(id)).arg(1).arg("NX").arg("PXAT").arg(until.as_millis());
        self.set(&set).await
    }

    /// Gives an id back; without, it counts as taken until its end.
    pub(super) async fn give_back(&self, id: &str) {
        let mut commands = self.commands.clone();
        let mut del = redis::cmd("DEL");
        let done = timeout(PATIENCE, del.arg(self.names.taken(id)).query_async(&mut commands));
        let done: Result<Result<(), _>, _> = done.await;
        if !matches!(done, Ok(Ok(()))) {
            debug!("an id that came to nothing counts as taken until its end");
        }
    }

    /// Takes the right to ask the provider about a session. Returns the session as it is then, which
    /// another agent may have asked about a moment ago; `None` while one does, or when nobody can tell.
    pub(super) async fn claim(&self, key: &Key) -> Option<Kept> {
        let millis = u64::try_from(RENEWING.as_millis()).unwrap_or(u64::MAX);
        let mut set = redis::cmd("SET");
        set.arg(self.names.claim(key)).arg(1).arg("NX").arg("PX").arg(millis);
        if !self.set(&set).await {
            return None;
        }
        let mut commands = self.commands.clone();
        let text: Option<String> =
            redis::cmd("GET").arg(self.names.session(key)).query_async(&mut commands).await.ok()?;
        self.sealer.open(Purpose::Session, &name(key), &text?)
    }

    /// Gives the right back; without, it ends by itself.
    pub(super) async fn release(&self, key: &Key) {
        let mut commands = self.commands.clone();
        let done: Result<(), _> =
            redis::cmd("DEL").arg(self.names.claim(key)).query_async(&mut commands).await;
        if let Err(error) = done {
            debug!(%error, "the right to ask about a session ends by itself");
        }
    }

    async fn set(&self, set: &redis::Cmd) -> bool {
        let mut commands = self.commands.clone();
        let done = timeout(PATIENCE, set.query_async::<Option<String>>(&mut commands)).await;
        matches!(done, Ok(Ok(Some(_))))
    }

    /// Asks for an unknown cookie; `None` if nothing is to be had by waiting.
    pub(super) fn ask(
        self: &Arc<Self>,
        digest: Digest,
        sessions: &Arc<Sessions>,
    ) -> Option<watch::Receiver<u64>> {
        if self.is_unknown(&digest) {
            return None;
        }
        let mut asking = self.asking.lock();
        if let Some(waiting) = asking.get(&digest) {
            return Some(waiting.clone());
        }
        if asking.len() >= MAX_ASKING {
            return None;
        }
        let (done, waiting) = watch::channel(0);
        asking.insert(digest, waiting.clone());
        let (shared, sessions) = (Arc::clone(self), Arc::clone(sessions));
        self.runtime.spawn(async move {
            match timeout(PATIENCE, shared.look_up(digest)).await {
                Ok(Ok(Some((entry, cookie)))) => {
                    sessions.learn(Some(entry), &cookie, Timestamp::now());
                }
                Ok(Ok(None)) => shared.unknown.insert(digest, ()),
                Ok(Err(_)) | Err(_) => {}
            }
            let mut asking = shared.asking.lock();
            asking.remove(&digest);
            // Nobody may wait any more.
            let _ = done.send(1);
        });
        Some(waiting)
    }

    /// Whether the store said that it has no such cookie.
    pub(super) fn is_unknown(&self, digest: &Digest) -> bool {
        self.unknown.contains_key(digest)
    }

    async fn look_up(&self, digest: Digest) -> Result<Option<(Entry, CookieEntry)>, RedisError> {
        let mut commands = self.commands.clone();
        let text: Option<String> =
            redis::cmd("GET").arg(self.names.handle(&digest)).query_async(&mut commands).await?;
        let open =
            |text: String| self.sealer.open::<KeptHandle>(Purpose::Session, &name(&digest), &text);
        let Some(KeptHandle { session: key, host }) = text.and_then(open) else { return Ok(None) };
        let (text, last): (Option<String>, Option<u64>) = redis::pipe()
            .get(self.names.session(&key))
            .get(self.names.used(&key))
            .query_async(&mut commands)
            .await?;
        let open = |text: String| self.sealer.open::<Kept>(Purpose::Session, &name(&key), &text);
        let Some(kept) = text.and_then(open) else { return Ok(None) };
        let entry = Entry { key, kept, last: last.map(Timestamp::from_millis) };
        Ok(Some((entry, CookieEntry { digest, session: key, host })))
    }

    fn seal(&self, change: &Change) -> Result<String, SealError> {
        self.sealer.seal(Purpose::Shared, "change", change)
    }

    /// Waits, on a thread that may.
    fn wait<T>(&self, work: impl Future<Output = Result<T, RedisError>>) -> Result<T, SharedError> {
        let done = self.runtime.block_on(async { timeout(PATIENCE, work).await });
        Ok(done.map_err(|_| SharedError::Silent)??)
    }
}

impl OtherAgents for Shared {
    fn pass_on(&self, change: &RevocationChange) -> Result<(), String> {
        self.spread(change).map_err(|error| error.to_string())
    }
}
