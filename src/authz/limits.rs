//! What the operator decided once for all workspaces.

use crate::workspaces::{Admission, destination::Ranges};

/// What the operator decided once for all workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// No endpoint admits more than this, whatever its workspace says.
    pub max_admission: Admission,
    /// Where requests may be sent.
    pub ranges: Ranges,
    /// Which pages may show a workspace in a frame in their visitor's name.
    pub framing: Framing,
}

/// Which pages may show a workspace in a frame in their visitor's name, beside those of the very host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Those of its other hosts.
    #[default]
    Workspace,
    /// Those of the same site (registrable domain): other workspaces, too, where they have no site of their own.
    Site,
    /// Any.
    Any,
}

impl Default for Limits {
    fn default() -> Self {
        let (ranges, framing) = (Ranges::default(), Framing::default());
        Self { max_admission: Admission::Public, ranges, framing }
    }
}
