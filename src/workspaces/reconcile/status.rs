//! How a source is doing, for people and metrics.

use serde::{Deserialize, Serialize};

/// The state of a source in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has not said all it knows yet: everything of it is refused.
    #[default]
    Starting,
    /// Lists and events come.
    Live,
    /// Lists come, but no events: an end is noticed late.
    Degraded,
    /// It has not said all it knows for longer than owners may rely on: everything of it is refused.
    Stale,
}

/// What a source has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// In one word.
    pub health: Health,
    /// Complete lists taken in.
    pub lists: u64,
    /// Workspaces read one by one.
    pub reads: u64,
    /// Events received.
    pub events: u64,
    /// Questions that failed.
    pub failures: u64,
    /// Why the last question failed, until one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Whether the platform refuses the credential.
    pub unauthorized: bool,
    /// Changes that nobody could read yet.
    pub pending: usize,
}
