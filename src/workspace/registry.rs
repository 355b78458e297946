//! The table of workspaces that the request path reads: an immutable snapshot behind an atomic
//! pointer. Readers never lock; a source replaces the whole snapshot or nothing.

use std::{collections::HashMap, sync::Arc};

use arc_swap::{ArcSwap, Guard};

use super::{Workspace, WorkspaceId};

/// Where the current snapshot is.
#[derive(Default)]
pub struct Registry {
    current: ArcSwap<Snapshot>,
}

/// What the sources said last.
#[derive(Default)]
pub struct Snapshot {
    workspaces: HashMap<WorkspaceId, Arc<Workspace>>,
    loaded: bool,
}

impl Registry {
    /// The current snapshot; take it once per batch.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Replaces everything by a complete list. From then on, what is not in it is unknown.
    pub fn replace(&self, workspaces: impl IntoIterator<Item = Workspace>) {
        let workspaces =
            workspaces.into_iter().map(|w| (w.id.clone(), Arc::new(w))).collect::<HashMap<_, _>>();
        self.current.store(Arc::new(Snapshot { workspaces, loaded: true }));
    }
}

impl Snapshot {
    /// Whether any source has delivered a complete list yet. Until then an absent workspace is not
    /// "unknown": nobody can tell.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The workspace with that id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Arc<Workspace>> {
        self.workspaces.get(id)
    }

    /// How many workspaces there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workspaces.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workspaces.is_empty()
    }
}
