//! Time as a value: [`Timestamp`] is the wall clock's, [`MonotonicTime`] the monotonic one's.
//!
//! Everything that depends on time takes it as an argument; only the edges (the agent's loop, the
//! refresh tasks, the command line) read the clocks, once per batch of requests.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The present moment. A clock set before 1970 reads as 1970, so that every token is "not yet
    /// valid" rather than "valid for ever".
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// A moment given in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A moment given in whole seconds since the Unix epoch (RFC 7519 `NumericDate`).
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `later` after this one; the end of time when it does not fit.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds since some moment before the first use in this process. What must not depend on whoever
/// sets the wall clock, such as the age of what is known of a workspace, is measured so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime(u64);

impl MonotonicTime {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        Self::at(START.get_or_init(Instant::now).elapsed())
    }

    /// The moment so long after the start of the count; for tests, and for moments yet to come.
    #[must_use]
    pub fn at(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment `later` after this one; the end of time when it does not fit.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The moment so long before this one; `None` before the start of the count.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Option<Self> {
        self.0.checked_sub(u64::try_from(earlier.as_nanos()).ok()?).map(Self)
    }

    /// How long ago `earlier` was; zero when it is yet to come.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
