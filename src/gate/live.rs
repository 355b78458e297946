//! The gate as it is configured at the moment, and how it becomes another one.
//!
//! Whoever decides takes the gate once for all that belongs together, so that no decision is made from
//! parts of two configurations.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Gate;
use crate::reaper::Reaper;

/// Where the current gate is.
pub struct Live {
    gate: ArcSwap<Gate>,
    reaper: Reaper<Gate>,
}

impl Live {
    /// Begins with a gate.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate: ArcSwap::new(gate), reaper: Reaper::default() }
    }

    /// The current gate, for one batch of questions; never waits.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Gate>> {
        self.gate.load()
    }

    /// The current gate, to be kept for longer.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.load_full()
    }

    /// Puts another gate in its place. Questions under way end with the one they began with.
    pub fn replace(&self, gate: Arc<Gate>) {
        self.reaper.free(self.gate.swap(gate));
    }
}
