//! Hearing what other agents did.

use std::{collections::HashSet, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, RedisError,
    aio::MultiplexedConnection,
    streams::{StreamId, StreamRangeReply, StreamReadReply},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    super::{
        Sessions,
        seal::Purpose,
        store::{Kept, KeptHandle, Key, name},
    },
    ANSWER, Change, Shared,
    script::FIELD,
};
use crate::{
    backoff::Backoff,
    identity::revocation::{Revocation, RevocationChange, Revocations},
    sessions::{
        Digest,
        store::{CookieEntry, Entry},
    },
    time::Timestamp,
};

/// How long the store may keep us waiting for news, and so how soon its silence is noticed.
const NEWS_WITHIN: Duration = Duration::from_millis(500);
/// How many changes are read at once.
const AT_ONCE: usize = 1000;
/// The longest pause before the store is tried again.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// Where in the stream we are: everything up to there is known here.
type Position = Option<String>;

impl Shared {
    /// Follows the store until stopped: brings what is there, and then each change.
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
                failed = self.hear_all(&sessions, &revocations, &mut position, &mut failures) => failed,
            };
            if let Err(error) = failed
                && failures == 0
            {
                error!(
                    %error,
                    keep_seconds = self.keep.as_secs(),
                    "the session store does not answer: sign-in is not possible, and known sessions stay valid for 'keep_seconds' at most"
                );
            }
            let pause = RETRY.pause(failures);
            failures = failures.saturating_add(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Hears changes until something fails.
    async fn hear_all(
        &self,
        sessions: &Arc<Sessions>,
        revocations: &Arc<Revocations>,
        position: &mut Position,
        failures: &mut u32,
    ) -> Result<(), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(NEWS_WITHIN + ANSWER));
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
            self.hear();
            *position = Some(at.clone());
            self.tell_untold(&mut connection, revocations).await?;
            loop {
                let news: Option<StreamReadReply> = redis::cmd("XREAD")
                    .arg("COUNT")
                    .arg(AT_ONCE)
                    .arg("BLOCK")
                    .arg(u64::try_from(NEWS_WITHIN.as_millis()).unwrap_or(u64::MAX))
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
                // Sealed by a key that is not in this agent's ring: it may have been the end of a session,
                // which is not in the store any more.
                if !understood {
                    error!(
                        "decrypting a change made by another agent failed: give all agents the same 'keys_file', with a new key last at first; until then the whole session store is read again and again"
                    );
                    tokio::time::sleep(NEWS_WITHIN).await;
                    *position = None;
                    break;
                }
                // Emptied or taken back to an earlier state, it may have lost what is known here.
                if !any && !self.has(&mut connection, &at).await? {
                    warn!(
                        "the session store lost its latest changes: everything in it is read again"
                    );
                    *position = None;
                    break;
                }
                self.hear();
                *position = Some(at.clone());
            }
        }
    }

    /// Whether the stream still has the entry: then it has all that came after it too.
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

    /// Does what another agent did. Returns whether that could be read.
    async fn apply(
        &self,
        entry: StreamId,
        sessions: &Arc<Sessions>,
        revocations: &Arc<Revocations>,
    ) -> bool {
        let change = entry.get::<String>(FIELD);
        let change =
            change.and_then(|text| self.sealer.open::<Change>(Purpose::Shared, "change", &text));
        match change {
            None => return false,
            Some(Change::Revocation(spread)) => learn(revocations, vec![spread]).await,
            Some(change) => sessions.apply(change, Timestamp::now()),
        }
        true
    }

    /// Reads everything. Returns the position from which changes are to be heard.
    async fn read_all(
        &self,
        connection: &mut MultiplexedConnection,
        sessions: &Arc<Sessions>,
        revocations: &Arc<Revocations>,
    ) -> Result<String, RedisError> {
        // First the position: what changes while the rest is read is heard again.
        let at = self.last(connection).await?;
        let mut entries = Vec::new();
        for keys in self.scan(connection, 's').await?.chunks(AT_ONCE) {
            let known: Vec<Key> = keys.iter().filter_map(|text| self.names.key(text)).collect();
            let names: Vec<_> = known.iter().map(|key| self.names.session(key)).collect();
            let used: Vec<_> = known.iter().map(|key| self.names.used(key)).collect();
            let texts = get(connection, &names).await?;
            let used = get(connection, &used).await?;
            for ((key, text), last) in known.into_iter().zip(texts).zip(used) {
                let open =
                    |text: String| self.sealer.open::<Kept>(Purpose::Session, &name(&key), &text);
                let last = last.and_then(|last| last.parse().ok()).map(Timestamp::from_millis);
                entries.extend(text.and_then(open).map(|kept| Entry { key, kept, last }));
            }
        }
        let mut cookies = Vec::new();
        for keys in self.scan(connection, 'h').await?.chunks(AT_ONCE) {
            let known: Vec<Digest> = keys.iter().filter_map(|text| self.names.key(text)).collect();
            let names: Vec<_> = known.iter().map(|digest| self.names.handle(digest)).collect();
            for (digest, text) in known.into_iter().zip(get(connection, &names).await?) {
                let open = |text: String| {
                    self.sealer.open::<KeptHandle>(Purpose::Session, &name(&digest), &text)
                };
                if let Some(KeptHandle { session, host }) = text.and_then(open) {
                    cookies.push(CookieEntry { digest, session, host });
                }
            }
        }
        info!(sessions = entries.len(), "the sessions in the session store have been read");
        sessions.replace(entries, cookies, Timestamp::now());
        self.exchange_revocations(connection, revocations).await?;
        Ok(at)
    }

    /// The last entry of the stream; there is always one.
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
        let hello = self.seal(&Change::Hello).unwrap_or_default();
        let add =
            redis::cmd("XADD").arg(self.names.changes()).arg("*").arg(FIELD).arg(hello).to_owned();
        add.query_async(connection).await
    }

    /// All names that begin with a letter, each at least once if it was there all the time.
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
                .arg(AT_ONCE)
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

    /// Learns what the others revoked, and tells them what they do not know.
    async fn exchange_revocations(
        &self,
        connection: &mut MultiplexedConnection,
        revocations: &Arc<Revocations>,
    ) -> Result<(), RedisError> {
        let all: Vec<(String, String)> =
            redis::cmd("HGETALL").arg(self.names.revocations()).query_async(connection).await?;
        let open = |(field, text): (String, String)| {
            self.sealer.open::<RevocationChange>(Purpose::Shared, &field, &text)
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

    /// Tells the others what they could not be told while the store was away.
    async fn tell_untold(
        &self,
        connection: &mut MultiplexedConnection,
        revocations: &Arc<Revocations>,
    ) -> Result<(), RedisError> {
        let ended = self.untold().ended.clone();
        for part in ended.chunks(AT_ONCE) {
            if let Ok(pipe) = self.ending(part) {
                pipe.query_async::<()>(connection).await?;
                self.untold().ended.drain(..part.len());
            }
        }
        if self.untold().revocations {
            self.exchange_revocations(connection, revocations).await?;
            self.untold().revocations = false;
        }
        Ok(())
    }
}

/// The journal is synced to disk, which is not to be waited for here.
async fn learn(revocations: &Arc<Revocations>, spread: Vec<RevocationChange>) {
    let revocations = Arc::clone(revocations);
    let learned = move || spread.iter().for_each(|spread| revocations.learn(spread));
    if tokio::task::spawn_blocking(learned).await.is_err() {
        error!(
            "applying a revocation made at another agent panicked: repeat it at this agent, and please report the lines above"
        );
    }
}

async fn get(
    connection: &mut MultiplexedConnection,
    names: &[String],
) -> Result<Vec<Option<String>>, RedisError> {
    if names.is_empty() {
        return Ok(vec![]);
    }
    redis::cmd("MGET").arg(names).query_async(connection).await
}
