//! The current gate, which a reload replaces.
//!
//! A reader takes the gate once for everything that belongs together, so that no decision is made
//! from parts of two configurations. Reading never blocks.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Gate;
use crate::reaper::Reaper;

/// Holds the current gate.
pub struct Live {
    gate: ArcSwap<Gate>,
    reaper: Reaper<Gate>,
}

impl Live {
    /// Starts with a gate.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate: ArcSwap::new(gate), reaper: Reaper::default() }
    }

    /// The current gate, for one batch of requests.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Gate>> {
        self.gate.load()
    }

    /// The current gate, for a longer time.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.load_full()
    }

    /// Replaces the gate. Requests that are being decided end with the gate that they began with.
    pub fn replace(&self, gate: Arc<Gate>) {
        self.reaper.free(self.gate.swap(gate));
    }
}
