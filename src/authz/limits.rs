//! The limits that the operator sets for all workspaces, whatever their sources say.
//!
//! They come from `[workspaces]`, `[destinations]` and `[sign_in]` of the configuration. A source can have stricter
//! limits of its own; a decision always applies the stricter of both.

use crate::workspaces::{Admission, destination::DestinationLimits};

/// The limits that the operator sets for all workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The widest admission that an endpoint can have.
    pub max_admission: Admission,
    /// The addresses and backends to which requests may be sent.
    pub ranges: DestinationLimits,
    /// The pages that may show a workspace in a frame.
    pub framing: Framing,
}

/// The pages that may show a workspace in a frame with the session of their visitor. Pages of the same host always may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Pages of the workspace's other hosts.
    #[default]
    Workspace,
    /// Pages of the same site (registrable domain). Without a site of its own for each workspace, these are pages of other
    /// workspaces too.
    Site,
    /// Every page.
    Any,
}

impl Default for Limits {
    fn default() -> Self {
        let (ranges, framing) = (DestinationLimits::default(), Framing::default());
        Self { max_admission: Admission::Public, ranges, framing }
    }
}
