//! What a source does to its part of the registry.
//!
//! Reads of a platform overtake each other: a list that began before a workspace stopped may arrive
//! after the news of it. So each change carries the moment it was asked for, and what is older than what
//! is known already is dropped.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::error;

use super::{
    super::{
        Destination, Revision, Workspace, WorkspaceId, destination::resolver::Resolver,
        directory::Directory,
    },
    Entry, Part, Registry, Writer,
};
use crate::clock::Moment;

/// How long a workspace that went is remembered: longer than any read takes.
const REMEMBER: Duration = Duration::from_mins(15);
/// For how long a platform that reported an end may still give the old description from a copy that
/// lags behind.
const LAG: Duration = Duration::from_secs(30);
/// How many workspaces that went are remembered; beyond it, only those of the last minute.
const MAX_GONE: usize = 100_000;

/// The part of the registry that one source writes.
#[derive(Clone)]
pub struct Publisher {
    registry: Arc<Registry>,
    source: usize,
}

/// A workspace that went.
pub(super) struct Gone {
    at: Moment,
    /// Whether the platform said so by itself, rather than by not having it any more.
    reported: bool,
    instance: Option<Box<str>>,
    revision: Revision,
}

/// What came of a complete list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Workspaces that are up and were not in the list: to be read one by one, since a list over
    /// several pages can miss some.
    pub missing: Vec<WorkspaceId>,
    /// How many were removed.
    pub removed: usize,
    /// How many came or changed.
    pub changed: usize,
}

impl Publisher {
    /// The publisher of the source with that number.
    #[must_use]
    pub fn new(registry: Arc<Registry>, source: usize) -> Self {
        Self { registry, source }
    }

    /// The name of the source.
    #[must_use]
    pub fn name(&self) -> &str {
        self.registry.names().get(self.source).map_or("", |name| name)
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The number of the source.
    #[must_use]
    pub fn source(&self) -> usize {
        self.source
    }

    /// Takes in what was read of a workspace; the platform was asked at `seen`. Returns whether it was
    /// news and not older than what is known.
    pub fn observe(&self, workspace: Workspace, seen: Moment) -> bool {
        self.write(|change| change.observe(workspace, seen, true))
    }

    /// Takes in what the platform, or whoever writes for it, says by itself: the newest there is.
    pub fn set(&self, workspace: Workspace, now: Moment) {
        self.write(|change| {
            change.gone(|gone| {
                gone.remove(&workspace.id);
            });
            change.put(workspace, now, false);
        });
    }

    /// The platform says that the workspace has ended.
    pub fn end(&self, id: &WorkspaceId, at: Moment) {
        self.write(|change| change.remove(id, at, true));
    }

    /// The platform, asked at `seen`, does not have the workspace. Returns whether that is news.
    pub fn absent(&self, id: &WorkspaceId, seen: Moment) -> bool {
        self.write(|change| {
            let known = change.find(id).map(|(part, entry)| part.seen(entry));
            let older = known.is_some_and(|known| seen < known);
            if !older {
                change.remove(id, seen, false);
            }
            known.is_some() && !older
        })
    }

    /// The workspace changed, and nobody can tell how: it is closed until somebody can.
    pub fn doubt(&self, id: &WorkspaceId) {
        self.write(|change| {
            if let Some(entry) = change.find(id).map(|(_, entry)| Entry::clone(entry)) {
                change.insert(Entry { doubtful: true, ..entry });
            }
        });
    }

    /// Takes in a complete list; the platform was asked for its first page at `started`. `whole` says
    /// that it was made at one moment, so that what is not in it is nowhere.
    pub fn complete(&self, list: Vec<Workspace>, started: Moment, whole: bool) -> Completed {
        self.write(|change| {
            let mut completed = Completed::default();
            let mut listed = HashSet::with_capacity(list.len());
            for workspace in list {
                listed.insert(workspace.id.clone());
                completed.changed += usize::from(change.observe(workspace, started, true));
            }
            let Some(part) = change.part() else { return completed };
            let before = part.listed;
            let unlisted: Vec<Entry> = part
                .map
                .iter()
                .filter(|(id, entry)| part.seen(entry) < started && !listed.contains(*id))
                .map(|(_, entry)| Entry::clone(entry))
                .collect();
            for entry in unlisted {
                let id = entry.workspace.id.clone();
                if whole || !entry.workspace.phase.is_routable() {
                    change.remove(&id, started, false);
                    completed.removed += 1;
                } else {
                    let seen = match before {
                        Some(before) if entry.listed => before.max(entry.seen),
                        _ => entry.seen,
                    };
                    change.insert(Entry { listed: false, seen, ..entry });
                    completed.missing.push(id);
                }
            }
            if let Some(part) = change.part() {
                part.listed = part.listed.max(Some(started));
            }
            change.gone(|gone| gone.retain(|_, gone| started.since(gone.at) < REMEMBER));
            completed
        })
    }

    /// The source said all it knows, its directory included; it was asked at `at`.
    pub fn confirm(&self, at: Moment) {
        self.write(|change| {
            if let Some(part) = change.part() {
                part.confirmed = part.confirmed.max(Some(at));
            }
        });
    }

    /// Takes in the accounts of the platform.
    pub fn set_directory(&self, directory: Directory) {
        let directory = Arc::new(directory);
        self.write(|change| {
            if let Some(part) = change.part() {
                part.directory = Some(directory);
            }
        });
    }

    /// All that is known of the workspaces now.
    #[must_use]
    pub fn ids(&self) -> Vec<WorkspaceId> {
        let state = self.registry.current.load();
        state.get(self.source).map(|part| part.map.keys().cloned().collect()).unwrap_or_default()
    }

    fn write<T>(&self, work: impl FnOnce(&mut Change<'_>) -> T) -> T {
        let writer = self.registry.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let state = Vec::clone(&self.registry.current.load());
        let resolver = &self.registry.resolver;
        let mut change = Change { source: self.source, resolver, state, writer };
        let result = work(&mut change);
        self.registry.current.store(Arc::new(change.state));
        result
    }
}

/// A change of the registry under way; readers see nothing of it before its end.
struct Change<'w> {
    source: usize,
    resolver: &'w Resolver,
    state: Vec<Part>,
    writer: MutexGuard<'w, Writer>,
}

impl Change<'_> {
    fn part(&mut self) -> Option<&mut Part> {
        self.state.get_mut(self.source)
    }

    fn gone<T>(&mut self, work: impl FnOnce(&mut HashMap<WorkspaceId, Gone>) -> T) -> Option<T> {
        self.writer.gone.get_mut(self.source).map(work)
    }

    fn find(&self, id: &WorkspaceId) -> Option<(&Part, &Arc<Entry>)> {
        let part = self.state.get(self.source)?;
        part.map.get(id).map(|entry| (part, entry))
    }

    fn observe(&mut self, workspace: Workspace, seen: Moment, listed: bool) -> bool {
        if self.gone(|gone| gone.get(&workspace.id).is_some_and(|g| g.outdates(&workspace, seen)))
            != Some(false)
        {
            return false;
        }
        if let Some((part, known)) = self.find(&workspace.id) {
            let same_life = known.workspace.instance == workspace.instance;
            if seen < part.seen(known)
                || (same_life && workspace.revision.is_older_than(known.workspace.revision))
            {
                return false;
            }
            if !known.doubtful && known.listed && *known.workspace == workspace {
                return false;
            }
        }
        self.gone(|gone| gone.remove(&workspace.id));
        self.put(workspace, seen, listed);
        true
    }

    fn put(&mut self, mut workspace: Workspace, seen: Moment, listed: bool) {
        for endpoint in &mut workspace.endpoints {
            if let Destination::Gateway(gateway) = &mut endpoint.destination {
                *gateway = self.resolver.adopt(gateway);
            }
        }
        let workspace = Arc::new(workspace);
        self.insert(Entry { workspace, seen, listed, doubtful: false, contested: false });
    }

    /// Inserts or replaces an entry, and settles who is at its addresses.
    fn insert(&mut self, mut entry: Entry) {
        let source = self.source;
        let Some(part) = self.state.get_mut(source) else { return };
        let id = entry.workspace.id.clone();
        let undeclared = part.rules.undeclared_ports;
        let old = part.map.get(&id).map(|old| Arc::clone(&old.workspace));
        let claims = &mut self.writer.claims;
        let touched =
            claims.change(source, &id, old.as_deref(), Some(&entry.workspace), undeclared);
        entry.contested = claims.contested(&entry.workspace, undeclared);
        part.map.insert(id, Arc::new(entry));
        self.settle(touched);
    }

    fn remove(&mut self, id: &WorkspaceId, at: Moment, reported: bool) {
        let source = self.source;
        let Some(part) = self.state.get_mut(source) else { return };
        let old = part.map.remove(id).map(|entry| Arc::clone(&entry.workspace));
        let undeclared = part.rules.undeclared_ports;
        let touched = self.writer.claims.change(source, id, old.as_deref(), None, undeclared);
        self.settle(touched);
        let (instance, revision) =
            old.map(|old| (old.instance.clone(), old.revision)).unwrap_or_default();
        self.gone(|gone| {
            if gone.len() >= MAX_GONE {
                gone.retain(|_, gone| at.since(gone.at) < Duration::from_mins(1));
            }
            gone.insert(id.clone(), Gone { at, reported, instance, revision });
        });
    }

    /// Marks anew who shares an address with another.
    fn settle(&mut self, touched: BTreeSet<(usize, WorkspaceId)>) {
        for (source, id) in touched {
            let Some(part) = self.state.get_mut(source) else { continue };
            let Some(entry) = part.map.get(&id) else { continue };
            let contested =
                self.writer.claims.contested(&entry.workspace, part.rules.undeclared_ports);
            if contested != entry.contested {
                if contested {
                    error!(
                        workspace = %id,
                        "another workspace claims to be at the same address: neither is routed to"
                    );
                }
                let entry = Entry { contested, ..Entry::clone(entry) };
                part.map.insert(id, Arc::new(entry));
            }
        }
    }
}

impl Gone {
    /// Whether a description that was asked for at `seen` is from before the end.
    fn outdates(&self, workspace: &Workspace, seen: Moment) -> bool {
        let known = self.instance.is_some()
            || self.revision.spec.is_some()
            || self.revision.status.is_some();
        let same_life = known
            && self.instance == workspace.instance
            && !self.revision.is_older_than(workspace.revision);
        let lagging = self.reported && same_life && seen.since(self.at) < LAG;
        seen <= self.at || lagging
    }
}
