//! The keys of one issuer, fetched in the background and kept fresh.
//!
//! A task fetches the discovery document and the key set: on schedule, and when a token names an unknown key id.
//! Requests read an atomic pointer and never fetch. Fetches for unknown key ids are limited, as every client can make
//! such ids up.
//!
//! The invariant: a fetch that fails never takes the last good key set away before `max_stale` is over.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Profile, keys::KeySet};
use crate::{
    backoff::{Backoff, jitter},
    lock::Mutex,
    time::Timestamp,
};

mod discovery;
mod error;
mod fetch;
mod store;

#[cfg(test)]
mod tests;

pub use discovery::{Discovery, Endpoints};
pub use error::FetchError;
pub use fetch::{Fetched, Fetcher, IssuerExamination, KeysDocument};
use store::KeysFile;

/// When keys are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSchedule {
    /// The longest time between two fetches; the `Cache-Control` of the response can only shorten it.
    pub refresh: Duration,
    /// The shortest average time between two fetches for unknown key ids. After a pause of twice this time, two fetches may
    /// follow each other.
    pub unknown_key: Duration,
    /// How long the last good set is used while fetches fail.
    pub max_stale: Duration,
}

/// The shortest time between two scheduled fetches, even if `Cache-Control` is shorter.
const MIN_REFRESH: Duration = Duration::from_mins(1);
/// How many fetches for unknown key ids may follow each other after a pause.
const MAX_UNKNOWN_KEY_FETCHES: u32 = 2;
/// The pauses between failed fetches.
const RETRY_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

impl FetchSchedule {
    /// The time until the next fetch of a set whose response allows this age.
    fn next(&self, max_age: Duration) -> Duration {
        self.refresh.min(max_age.max(MIN_REFRESH))
    }
}

impl Default for FetchSchedule {
    fn default() -> Self {
        Self {
            refresh: Duration::from_hours(1),
            unknown_key: Duration::from_secs(30),
            max_stale: Duration::from_hours(24),
        }
    }
}

/// The current key set, and when it was last confirmed.
pub struct CurrentKeys {
    /// The set.
    pub set: Arc<KeySet>,
    /// The number of the set: it changes whenever the keys do, so that cached tokens are verified again.
    pub number: u64,
    /// When it was last fetched.
    pub confirmed: Timestamp,
}

/// Called for each new key set, with the set before it.
type OnChange = Box<dyn Fn(&Profile, &KeySet, Option<&KeySet>) + Send + Sync>;

/// The keys of one issuer.
pub struct Provider {
    profile: Arc<Profile>,
    schedule: FetchSchedule,
    fetcher: Fetcher,
    file: Option<KeysFile>,
    keys: ArcSwapOption<CurrentKeys>,
    wake: Notify,
    fetching: AtomicBool,
    attempts: watch::Sender<u64>,
    /// When the last two fetches for unknown key ids were started, the older one first.
    starts: Mutex<[Option<Instant>; MAX_UNKNOWN_KEY_FETCHES as usize]>,
    on_change: OnceLock<OnChange>,
    fetched: AtomicU64,
    failed: AtomicU64,
}

impl Provider {
    /// A provider without keys; [`Self::run`] fetches them.
    #[must_use]
    pub fn new(profile: Arc<Profile>, schedule: FetchSchedule, fetcher: Fetcher) -> Self {
        Self {
            profile,
            schedule,
            fetcher,
            file: None,
            keys: ArcSwapOption::empty(),
            wake: Notify::new(),
            fetching: AtomicBool::new(false),
            attempts: watch::Sender::new(0),
            starts: Mutex::default(),
            on_change: OnceLock::new(),
            fetched: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Stores the last good set in a file, and starts with the stored set, until the time at which it would have become too
    /// old without a restart.
    #[must_use]
    pub fn with_file(mut self, path: PathBuf) -> Self {
        let file = KeysFile::new(path, self.profile.issuer.as_str());
        let (issuer, path) = (&self.profile.authority.name, file.path());
        match file.read() {
            // A time in the future has no age, so the set is ignored: it could be used for too long.
            Ok(Some((set, confirmed))) if confirmed <= Timestamp::now() => {
                info!(%issuer, path, keys = set.len(), "starting with the stored keys of an issuer");
                self.adopt(set, confirmed);
            }
            Ok(_) => {}
            Err(error) => {
                warn!(%issuer, path, %error, "reading the stored keys of an issuer failed: the agent starts without them and fetches new ones");
            }
        }
        self.file = Some(file);
        self
    }

    /// Calls `tell` for the current keys and for each change from now on. Only the first call of this method has an effect.
    pub fn on_change(
        &self,
        tell: impl Fn(&Profile, &KeySet, Option<&KeySet>) + Send + Sync + 'static,
    ) {
        let tell = self.on_change.get_or_init(|| Box::new(tell));
        if let Some(keys) = self.latest() {
            tell(&self.profile, &keys.set, None);
        }
    }

    /// How many fetches succeeded, and how many failed.
    #[must_use]
    pub fn fetches(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// The keys of the last good fetch, even if they are too old to be used.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<CurrentKeys>> {
        self.keys.load_full()
    }

    /// The issuer.
    #[must_use]
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Fetches everything once, for `doctor`.
    pub async fn examine(&self) -> IssuerExamination {
        self.fetcher.examine(&self.profile).await
    }

    /// The keys, if they may be used at `now`.
    #[must_use]
    pub fn keys(&self, now: Timestamp) -> Option<Arc<CurrentKeys>> {
        self.keys.load_full().filter(|k| now.since(k.confirmed) < self.schedule.max_stale)
    }

    /// Starts a fetch because a token names an unknown key id. Returns a channel that changes at its end, or `None` when no
    /// fetch is under way and none may be started now.
    ///
    /// One fetch may be started in each `unknown_key` time, and a second one after a pause: so a made-up key id of a client
    /// does not delay the fetch of the provider's own new key.
    pub fn refetch(&self) -> Option<watch::Receiver<u64>> {
        let ended = self.attempts.subscribe();
        let mut starts = self.starts.lock();
        if self.fetching.load(Ordering::Acquire) {
            return Some(ended);
        }
        let [older, newer] = *starts;
        if older
            .is_none_or(|at| at.elapsed() >= MAX_UNKNOWN_KEY_FETCHES * self.schedule.unknown_key)
        {
            *starts = [newer, Some(Instant::now())];
            // Marked here and not when the task wakes, so that a request in between waits for the same fetch.
            self.fetching.store(true, Ordering::Release);
            self.wake.notify_one();
            return Some(ended);
        }
        None
    }

    /// Fetches the keys on schedule until cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let pause = match self.fetch().await {
                Ok(max_age) => {
                    failures = 0;
                    with_jitter(self.schedule.next(max_age))
                }
                Err(error) => {
                    let pause = with_jitter(RETRY_BACKOFF.pause(failures));
                    let issuer = &self.profile.authority.name;
                    warn!(%issuer, %error, retry_in = ?pause, "fetching the keys of an issuer failed: the last good keys stay in use, and it is tried again");
                    failures = failures.saturating_add(1);
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Fetches the keys once: for [`Self::run`], and for commands that need them once.
    ///
    /// # Errors
    /// The fetch failed. The last good set stays.
    pub async fn fetch(&self) -> Result<Duration, FetchError> {
        // If this future is dropped, the guard wakes those who wait: they must not wait for a fetch that was given up.
        let under_way = FetchGuard::begin(self);
        let fetched = self.fetcher.fetch(&self.profile).await;
        let count = if fetched.is_ok() { &self.fetched } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        let result = fetched.map(|fetched| {
            let confirmed = Timestamp::now();
            self.adopt(fetched.set, confirmed);
            if let Some(file) = &self.file
                && let Err(error) = file.write(&fetched.document, confirmed)
            {
                warn!(path = file.path(), %error, "storing the keys of an issuer failed: after a restart they must be fetched before tokens are accepted");
            }
            fetched.max_age.unwrap_or(self.schedule.refresh)
        });
        drop(under_way);
        result
    }

    /// Takes over a fetched set. Equal keys only get a newer time.
    fn adopt(&self, set: KeySet, confirmed: Timestamp) {
        let old = self.keys.load();
        let next = match old.as_ref() {
            Some(old) if old.set.digest() == set.digest() => {
                CurrentKeys { set: Arc::clone(&old.set), number: old.number, confirmed }
            }
            old => {
                let number = old.map_or(0, |old| old.number.wrapping_add(1));
                let issuer = &self.profile.authority.name;
                info!(%issuer, keys = set.len(), number, "new keys of the issuer");
                if let Some(refused) = set.refused().defects() {
                    warn!(%issuer, %refused, "published keys of an issuer are not used: tokens that they sign are refused");
                }
                if set.ambiguous() > 0 {
                    warn!(%issuer, keys = set.ambiguous(), "published keys of an issuer have the same id: none of them is used");
                }
                if let Some(tell) = self.on_change.get() {
                    tell(&self.profile, &set, old.map(|old| &*old.set));
                }
                CurrentKeys { set: Arc::new(set), number, confirmed }
            }
        };
        self.keys.store(Some(Arc::new(next)));
    }
}

#[cfg(test)]
impl Provider {
    /// The same with keys that were fetched at this time.
    pub(crate) fn with_keys(self, keys: KeySet, fetched: Timestamp) -> Self {
        self.adopt(keys, fetched);
        self
    }
}

/// A fetch under way, until it is dropped.
struct FetchGuard<'p>(&'p Provider);

impl<'p> FetchGuard<'p> {
    fn begin(provider: &'p Provider) -> Self {
        provider.fetching.store(true, Ordering::Release);
        Self(provider)
    }
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        self.0.fetching.store(false, Ordering::Release);
        self.0.attempts.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Between 80 and 100 % of the time, so that many agents do not fetch at the same moment.
fn with_jitter(time: Duration) -> Duration {
    time.mul_f64(1.0 - 0.2 * jitter())
}
