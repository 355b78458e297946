//! Points in time: [`Timestamp`] by the wall clock, [`MonotonicTime`] by the monotonic clock.
//!
//! Functions that depend on the time take it as an argument, so that they can be tested. Only the outer layers read the clocks:
//! the agent once for each batch of requests, background tasks, and the command line.
//!
//! Arithmetic saturates: no time computed from untrusted values can overflow or panic.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The present time. A clock set before 1970 reads as 1970: then every token is not yet valid, rather than valid for
    /// ever.
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// A time given in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A time given in whole seconds since the Unix epoch (`NumericDate` of RFC 7519 section 2).
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time `later` after this one, or the greatest one if it does not fit.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this one, or zero if `earlier` is later.
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

/// Nanoseconds by the monotonic clock, since its first use in this process.
///
/// It measures what must not change when the wall clock is set, such as the time since a source confirmed a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime(u64);

impl MonotonicTime {
    /// The present time.
    #[must_use]
    pub fn now() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        Self::at(START.get_or_init(Instant::now).elapsed())
    }

    /// The time this long after the first use of the clock, for tests and for deadlines.
    #[must_use]
    pub fn at(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The time `later` after this one, or the greatest one if it does not fit.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time `earlier` before this one, or `None` if that is before the first use of the clock.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Option<Self> {
        self.0.checked_sub(u64::try_from(earlier.as_nanos()).ok()?).map(Self)
    }

    /// The time from `earlier` to this one, or zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
