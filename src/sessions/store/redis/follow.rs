//! Follows the store: loads what is there, then applies each change that another agent makes.
//!
//! One task per agent reads the stream of changes. It notes its position, so that after an interruption it continues
//! there. Everything is read again when the position is not in the stream any more (the store was emptied, restored
//! from an older state, or the agent was away for too long), and while there are changes that this agent's key ring
//! cannot decrypt: one of them could be the end of a session.
//!
//! After an interruption it first tells the store what could not be told meanwhile. The invariant: whenever
//! [`RedisStore::silent`] is short, this agent has applied every change up to that time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, RedisError,
    aio::MultiplexedConnection,
    streams::{StreamId, StreamRangeReply, StreamReadReply},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Change, CookieRow, Key, LoadedSession, RESPONSE_TIMEOUT, RedisStore, StoredCookie,
    StoredSession, script::FIELD,
};
use crate::{
    backoff::Backoff,
    identity::revocation::{Revocation, RevocationChange, Revocations},
    sessions::{Digest, Sessions, keyring::Purpose},
    time::Timestamp,
};

/// How long the store holds back its answer when there is no change. Its silence is noticed within about this time.
const READ_BLOCK_TIME: Duration = Duration::from_millis(500);
/// How many changes or keys are read with one command.
const BATCH: usize = 1000;
/// The pauses before the store is tried again.
const RETRY_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// The id of the last entry of the stream that was applied, if any.
type Position = Option<String>;

impl RedisStore {
    /// Follows the store until stopped. `sessions` and `revocations` learn what is there, and then each change.
    pub async fn follow(
        self: Arc<Self>,
        sessions: Arc<Sessions>,
        revocations: Arc<Revocations>,
        stop: CancellationToken,
    ) {
        let mut position = None;
        let mut failures = 0;
        loop {
            let failed = tokio::select! {
                () = stop.cancelled() => return,
                failed = self.apply_changes(&sessions, &revocations, &mut position, &mut failures) => failed,
            };
            if let Err(error) = failed
                && failures == 0
            {
                error!(
                    %error,
                    max_staleness_seconds = self.max_staleness.as_secs(),
                    "the session store does not answer: sign-in is not possible, and known sessions stay valid for 'max_staleness_seconds' at most"
                );
            }
            let pause = RETRY_BACKOFF.pause(failures);
            failures = failures.saturating_add(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Applies changes until something fails.
    async fn apply_changes(
        &self,
        sessions: &Arc<Sessions>,
        revocations: &Arc<Revocations>,
        position: &mut Position,
        failures: &mut u32,
    ) -> Result<(), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(READ_BLOCK_TIME + RESPONSE_TIMEOUT));
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        loop {
            let mut at = match position.take() {
                Some(at) if self.has(&mut connection, &at).await? => at,
                _ => self.read_all(&mut connection, sessions, revocations).await?,
            };
            if *failures > 0 {
                info!("the session store answers again");
            }
            *failures = 0;
            self.note_answer();
            *position = Some(at.clone());
            self.deliver(&mut connection, revocations).await?;
            loop {
                let news: Option<StreamReadReply> = redis::cmd("XREAD")
                    .arg("COUNT")
                    .arg(BATCH)
                    .arg("BLOCK")
                    .arg(u64::try_from(READ_BLOCK_TIME.as_millis()).unwrap_or(u64::MAX))
                    .arg("STREAMS")
                    .arg(self.names.changes())
                    .arg(&at)
                    .query_async(&mut connection)
                    .await?;
                let news = news.into_iter().flat_map(|news| news.keys).flat_map(|key| key.ids);
                let (mut any, mut understood) = (false, true);
                for entry in news {
                    any = true;
                    at.clone_from(&entry.id);
                    understood &= self.apply(entry, sessions, revocations).await;
                }
                // Encrypted with a key that is not in this agent's ring. It may have been the end of a session, which
                // only a complete read can tell now.
                if !understood {
                    error!(
                        "decrypting a change made by another agent failed, so the whole session store is read again and again: add the key that this agent lacks as the last line of its 'encryption_keys_file'"
                    );
                    tokio::time::sleep(READ_BLOCK_TIME).await;
                    *position = None;
                    break;
                }
                // The store was emptied, or restored from an older state, and may lack sessions that are known here.
                if !any && !self.has(&mut connection, &at).await? {
                    warn!(
                        "the session store lost its latest changes: everything in it is read again"
                    );
                    *position = None;
                    break;
                }
                self.note_answer();
                *position = Some(at.clone());
            }
        }
    }

    /// Whether the stream still has the entry. Then it also has all later ones.
    async fn has(
        &self,
        connection: &mut MultiplexedConnection,
        at: &str,
    ) -> Result<bool, RedisError> {
        let found: StreamRangeReply = redis::cmd("XRANGE")
            .arg(self.names.changes())
            .arg(at)
            .arg(at)
            .query_async(connection)
            .await?;
        Ok(!found.ids.is_empty())
    }

    /// Applies a change. Returns false if it cannot be decrypted.
    async fn apply(
        &self,
        entry: StreamId,
        sessions: &Arc<Sessions>,
        revocations: &Arc<Revocations>,
    ) -> bool {
        let change = entry.get::<String>(FIELD);
        let change =
            change.and_then(|text| self.keyring.open::<Change>(Purpose::Shared, "change", &text));
        let Some(change) = change else { return false };
        let now = Timestamp::now();
        match change {
            Change::Begun { session, cookie } => {
                let key = cookie.session;
                let loaded = LoadedSession { key, session, last_used: None };
                sessions.learn_cookie(Some(loaded), &cookie, now);
            }
            Change::Cookie(cookie) => sessions.learn_cookie(None, &cookie, now),
            Change::Refreshed { key, session } => sessions.learn_refresh(key, session),
            Change::LastUsed(used) => sessions.learn_last_used(used),
            Change::Ended(keys) => sessions.learn_end(&keys),
            Change::Revocation(spread) => learn(revocations, vec![spread]).await,
            Change::StreamBegins => {}
        }
        true
    }

    /// Reads everything. Returns the position from which changes must be applied.
    async fn read_all(
        &self,
        connection: &mut MultiplexedConnection,
        sessions: &Arc<Sessions>,
        revocations: &Arc<Revocations>,
    ) -> Result<String, RedisError> {
        // The position comes first: what changes while the rest is read is applied again afterwards.
        let at = self.last(connection).await?;
        let loaded = self.read_sessions(connection).await?;
        let cookies = self.read_cookies(connection).await?;
        info!(sessions = loaded.len(), "the sessions in the session store have been read");
        sessions.replace_all(loaded, cookies, Timestamp::now());
        self.exchange_revocations(connection, revocations).await?;
        Ok(at)
    }

    async fn read_sessions(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<LoadedSession>, RedisError> {
        let mut all = Vec::new();
        for names in self.scan(connection, 's').await?.chunks(BATCH) {
            let keys: Vec<Key> = names.iter().filter_map(|name| self.names.key(name)).collect();
            let names: Vec<_> = keys.iter().map(|key| self.names.session(key)).collect();
            let last_used: Vec<_> = keys.iter().map(|key| self.names.last_used(key)).collect();
            let texts = get(connection, &names).await?;
            let last_used = get(connection, &last_used).await?;
            for ((key, text), last_used) in keys.into_iter().zip(texts).zip(last_used) {
                let session = text.and_then(|text| self.open_row::<StoredSession>(&key, &text));
                let last_used = last_used.and_then(|last_used| last_used.parse().ok());
                let last_used = last_used.map(Timestamp::from_millis);
                all.extend(session.map(|session| LoadedSession { key, session, last_used }));
            }
        }
        Ok(all)
    }

    async fn read_cookies(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<StoredCookie>, RedisError> {
        let mut all = Vec::new();
        for names in self.scan(connection, 'c').await?.chunks(BATCH) {
            let digests: Vec<Digest> =
                names.iter().filter_map(|name| self.names.key(name)).collect();
            let names: Vec<_> = digests.iter().map(|digest| self.names.cookie(digest)).collect();
            for (digest, text) in digests.into_iter().zip(get(connection, &names).await?) {
                let row = text.and_then(|text| self.open_row::<CookieRow>(&digest, &text));
                all.extend(row.map(|CookieRow { session, host }| StoredCookie {
                    digest,
                    session,
                    host,
                }));
            }
        }
        Ok(all)
    }

    /// The id of the last entry of the stream. Adds an entry if there is none.
    async fn last(&self, connection: &mut MultiplexedConnection) -> Result<String, RedisError> {
        let last: StreamRangeReply = redis::cmd("XREVRANGE")
            .arg(self.names.changes())
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1)
            .query_async(connection)
            .await?;
        if let Some(entry) = last.ids.into_iter().next() {
            return Ok(entry.id);
        }
        let first = self.seal_change(&Change::StreamBegins).unwrap_or_default();
        let add =
            redis::cmd("XADD").arg(self.names.changes()).arg("*").arg(FIELD).arg(first).to_owned();
        add.query_async(connection).await
    }

    /// The names of all keys of one kind. A key that is there all the time is found; one that is added or removed
    /// meanwhile may be (SCAN in the documentation of Redis).
    async fn scan(
        &self,
        connection: &mut MultiplexedConnection,
        letter: char,
    ) -> Result<Vec<String>, RedisError> {
        let mut names = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let (next, mut some): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(self.names.all(letter))
                .arg("COUNT")
                .arg(BATCH)
                .query_async(connection)
                .await?;
            names.append(&mut some);
            if next == 0 {
                break;
            }
            cursor = next;
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Learns the revocations in the store, and adds those that it does not have.
    async fn exchange_revocations(
        &self,
        connection: &mut MultiplexedConnection,
        revocations: &Arc<Revocations>,
    ) -> Result<(), RedisError> {
        let all: Vec<(String, String)> =
            redis::cmd("HGETALL").arg(self.names.revocations()).query_async(connection).await?;
        let open = |(field, text): (String, String)| {
            self.keyring.open::<RevocationChange>(Purpose::Shared, &field, &text)
        };
        let theirs: Vec<_> = all.into_iter().filter_map(open).collect();
        learn(revocations, theirs.clone()).await;
        let known: HashSet<_> = theirs
            .iter()
            .filter(|their| !their.lifted)
            .map(|their| their.revocation.key())
            .collect();
        for revocation in revocations.list() {
            if known.contains(&revocation.key()) {
                continue;
            }
            let at_ms = revocation.at_ms.unwrap_or_default();
            let revocation = Revocation::clone(&revocation);
            let spread = RevocationChange { revocation, lifted: false, at_ms };
            if let Ok(pipe) = self.spreading(&spread) {
                pipe.query_async::<()>(connection).await?;
            }
        }
        Ok(())
    }

    /// Tells the store what it could not be told while it was away.
    async fn deliver(
        &self,
        connection: &mut MultiplexedConnection,
        revocations: &Arc<Revocations>,
    ) -> Result<(), RedisError> {
        let ended = self.undelivered().ended.clone();
        for part in ended.chunks(BATCH) {
            if let Ok(pipe) = self.clearing(part) {
                pipe.query_async::<()>(connection).await?;
                self.undelivered().ended.drain(..part.len());
            }
        }
        if self.undelivered().revocations {
            self.exchange_revocations(connection, revocations).await?;
            self.undelivered().revocations = false;
        }
        Ok(())
    }
}

/// Adds revocations of other agents. Their journal is synced to disk, so that happens on a thread that may block.
async fn learn(revocations: &Arc<Revocations>, spread: Vec<RevocationChange>) {
    let revocations = Arc::clone(revocations);
    let learned = move || spread.iter().for_each(|spread| revocations.learn(spread));
    if tokio::task::spawn_blocking(learned).await.is_err() {
        error!(
            "applying a revocation made at another agent panicked: repeat it at this agent, and please report the lines above"
        );
    }
}

/// The values of keys, in their order.
async fn get(
    connection: &mut MultiplexedConnection,
    names: &[String],
) -> Result<Vec<Option<String>>, RedisError> {
    if names.is_empty() {
        return Ok(vec![]);
    }
    redis::cmd("MGET").arg(names).query_async(connection).await
}
