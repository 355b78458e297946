//! The requests of one source that are due, running or repeated.
//!
//! Plain state for [`super::core`], which decides when each is sent and what its response means.

use std::time::Duration;

use crate::time::MonotonicTime;

/// The shortest time between the starts of two lists.
const MIN_LIST_INTERVAL: Duration = Duration::from_secs(1);

/// The connection on which the platform sends events.
#[derive(Default)]
pub(super) struct WatchState {
    pub(super) open: Option<MonotonicTime>,
    pub(super) connected: Option<MonotonicTime>,
    pub(super) retry_at: MonotonicTime,
    pub(super) failures: u32,
    /// When to list because a silent connection for events has probably been established.
    pub(super) list_at: Option<MonotonicTime>,
}

/// A request that is repeated at an interval.
#[derive(Default)]
pub(super) struct RepeatedRequest {
    pub(super) running: bool,
    pub(super) due: MonotonicTime,
    /// Repeat it as soon as the running one ends.
    pub(super) again: bool,
    pub(super) failures: u32,
    pub(super) started: Option<MonotonicTime>,
    /// When the last answered request was sent.
    pub(super) last_answered: Option<MonotonicTime>,
}

/// How far the read of a workspace is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ReadStep {
    /// It waits for its time.
    #[default]
    Due,
    /// It waits for one of the running reads to end.
    Queued,
    /// The request is running.
    Running,
}

/// A workspace that must be read.
#[derive(Default)]
pub(super) struct PendingRead {
    pub(super) step: ReadStep,
    /// Another change was reported after the running read began.
    pub(super) again: bool,
    /// When the first pending change was reported.
    pub(super) changed: Option<MonotonicTime>,
    pub(super) failures: u32,
    pub(super) due: MonotonicTime,
    pub(super) wanted: bool,
    /// The workspace was closed because the change stayed pending.
    pub(super) closed: bool,
}

impl RepeatedRequest {
    /// Makes the request due now, unless it runs already or waits after a failure.
    pub(super) fn request_soon(&mut self, now: MonotonicTime) {
        if self.running {
            self.again = true;
        } else if self.failures == 0 {
            self.due = self.due.min(now);
        }
    }

    /// Returns whether to send the request now, and marks it as running.
    pub(super) fn start(&mut self, now: MonotonicTime) -> bool {
        let free = self.started.is_none_or(|at| now.since(at) >= MIN_LIST_INTERVAL);
        if !free && self.due <= now && !self.running {
            self.due = self.started.unwrap_or(now).plus(MIN_LIST_INTERVAL);
        }
        let start = !self.running && self.due <= now;
        if start {
            self.running = true;
            self.started = Some(now);
        }
        start
    }

    pub(super) fn succeeded(&mut self, started: MonotonicTime, next: MonotonicTime) {
        self.last_answered = self.last_answered.max(Some(started));
        self.failures = 0;
        self.running = false;
        self.due = if std::mem::take(&mut self.again) { MonotonicTime::default() } else { next };
    }

    pub(super) fn failed(&mut self, next: MonotonicTime) {
        self.failures = self.failures.saturating_add(1);
        self.running = false;
        self.again = false;
        self.due = next;
    }
}
