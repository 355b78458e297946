//! What a decision may wait for: a fetch of keys, or a lookup of a token, session or workspace.
//!
//! A decision never waits itself. It returns a [`Pending`]; the connection waits for it, for 200 ms at most, and decides
//! again with [`Waiting::Never`].

use std::time::Duration;

use tokio::sync::watch;

/// Whether a decision may wait for what the agent does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The decision may return [`Pending`] and be made again after the wait.
    Allowed,
    /// The decision must be made from what is known.
    Never,
}

/// A fetch or lookup under way, whose end can be waited for.
pub struct Pending(watch::Receiver<u64>);

impl Pending {
    /// A wait until the channel changes or closes.
    #[must_use]
    pub fn new(ended: watch::Receiver<u64>) -> Self {
        Self(ended)
    }

    /// Waits until it has ended, for `limit` at most. Returns whether it has ended.
    pub async fn ended(mut self, limit: Duration) -> bool {
        // A closed channel is an end too: its task is gone.
        tokio::time::timeout(limit, self.0.changed()).await.is_ok()
    }
}
