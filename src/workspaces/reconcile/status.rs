//! The state of a source, for people and metrics.

use serde::{Deserialize, Serialize};

/// The state of a source in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceHealth {
    /// No complete list was received yet, so requests for its workspaces are refused.
    #[default]
    Starting,
    /// Lists and events arrive.
    Live,
    /// Lists arrive and events do not, so ended workspaces are noticed late.
    Degraded,
    /// No complete list was received for longer than `stale_seconds`, so requests for its
    /// workspaces are refused.
    Stale,
}

/// Counters and the last error of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The state in one word.
    pub health: SourceHealth,
    /// The number of complete lists received.
    pub lists: u64,
    /// The number of workspaces that were read one by one.
    pub reads: u64,
    /// The number of events received.
    pub events: u64,
    /// The number of failed requests.
    pub failures: u64,
    /// The error of the last request, until one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Whether the platform refuses the credential.
    pub unauthorized: bool,
    /// The number of reported changes that were not read yet.
    pub pending: usize,
}
