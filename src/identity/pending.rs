//! What a decision may wait for.

use std::time::Duration;

use tokio::sync::watch;

/// Whether a decision may wait for what is not at hand yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It may: it then comes back as [`Pending`], and is made again after the wait.
    Allowed,
    /// It is made from what is at hand.
    Never,
}

/// The end of a fetch of keys, or of a question about a token, a session or a workspace, to be waited for.
pub struct Pending(watch::Receiver<u64>);

impl Pending {
    /// A wait for a value in the channel, or for its end.
    #[must_use]
    pub fn new(ended: watch::Receiver<u64>) -> Self {
        Self(ended)
    }

    /// Waits until the fetch has ended, for `limit` at most. Returns whether it has.
    pub async fn ended(mut self, limit: Duration) -> bool {
        // A closed channel means that its task is gone: there is nothing left to wait for.
        tokio::time::timeout(limit, self.0.changed()).await.is_ok()
    }
}
