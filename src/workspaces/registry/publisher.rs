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
    Entry, Part, Registry, UndeclaredPorts, Writer,
    claims::Holder,
};
use crate::{time::MonotonicTime, workspaces::source::SourceId};

/// How long a workspace that went is remembered: longer than any read takes.
const REMEMBER: Duration = Duration::from_mins(15);
/// For how long a platform that reported an end may still give the old description from a copy that
/// lags behind.
const LAG: Duration = Duration::from_secs(10);
/// How many workspaces that went are remembered; beyond it, only those of the last minute.
const MAX_GONE: usize = 100_000;

/// The part of the registry that one source writes.
#[derive(Clone)]
pub struct Publisher {
    registry: Arc<Registry>,
    source: SourceId,
}

/// How a complete list was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListExtent {
    /// At one moment.
    Snapshot,
    /// Page by page, so that it can miss workspaces that moved between pages.
    Pages,
}

/// How the end of a workspace was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The platform reported it.
    Reported,
    /// The platform was asked and does not have it any more.
    Missed,
}

/// A workspace that went.
pub(super) struct Gone {
    /// When the platform was asked, or told.
    at: MonotonicTime,
    /// When the answer came.
    arrived: MonotonicTime,
    /// How its end was learnt.
    end: End,
    instance: Option<Box<str>>,
    revision: Revision,
}

/// What came of a description of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It is what is known now.
    News,
    /// It says the same as before, or is older.
    Nothing,
    /// It and what is known were asked for at the same time and differ, so that nobody can tell which
    /// is newer: to be read again.
    Overlap,
}

/// What came of a complete list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Workspaces to be read one by one: they are up and were not in the list, and one over several
    /// pages can miss some; or they changed while it was made.
    pub unclear: Vec<WorkspaceId>,
    /// How many were removed.
    pub removed: usize,
    /// How many came or changed.
    pub changed: usize,
}

impl Publisher {
    /// The publisher of the source with that number.
    #[must_use]
    pub fn new(registry: Arc<Registry>, source: SourceId) -> Self {
        Self { registry, source }
    }

    /// The name of the source.
    #[must_use]
    pub fn name(&self) -> &str {
        self.registry.names().get(self.source.index()).map_or("", |name| name)
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The number of the source.
    #[must_use]
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// Takes in what was read of a workspace; the platform was asked at `seen`, the answer came now.
    #[expect(clippy::must_use_candidate, reason = "told, not asked")]
    pub fn observe(
        &self,
        workspace: Workspace,
        seen: MonotonicTime,
        now: MonotonicTime,
    ) -> Observed {
        self.write(|change| change.observe(workspace, seen, now))
    }

    /// Takes in what the platform, or whoever writes for it, says by itself: the newest there is.
    pub fn set(&self, workspace: Workspace, now: MonotonicTime) {
        self.write(|change| {
            change.gone(|gone| {
                gone.remove(&workspace.id);
            });
            change.put(workspace, now, now);
        });
    }

    /// The platform says that the workspace has ended.
    pub fn end(&self, id: &WorkspaceId, at: MonotonicTime) {
        self.write(|change| change.remove(id, at, at, End::Reported));
    }

    /// The platform, asked at `seen`, does not have the workspace. Returns whether that is news.
    #[expect(clippy::must_use_candidate, reason = "told, not asked")]
    pub fn absent(&self, id: &WorkspaceId, seen: MonotonicTime, now: MonotonicTime) -> bool {
        self.write(|change| {
            let known = change.find(id).map(|(part, entry)| part.seen(entry));
            let older = known.is_some_and(|known| seen < known);
            if !older {
                change.remove(id, seen, now, End::Missed);
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

    /// Takes in a complete list; the platform was asked for its first page at `started`. What a
    /// snapshot does not have does not exist.
    #[expect(clippy::must_use_candidate, reason = "told, not asked")]
    pub fn complete(
        &self,
        list: Vec<Workspace>,
        started: MonotonicTime,
        now: MonotonicTime,
        extent: ListExtent,
    ) -> Completed {
        self.write(|change| {
            let mut completed = Completed::default();
            let mut listed = HashSet::with_capacity(list.len());
            for workspace in list {
                let id = workspace.id.clone();
                match change.observe(workspace, started, now) {
                    Observed::News => completed.changed += 1,
                    Observed::Nothing => {}
                    Observed::Overlap => completed.unclear.push(id.clone()),
                }
                listed.insert(id);
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
                let clear = extent == ListExtent::Snapshot && entry.arrived <= started;
                if clear || !entry.workspace.phase.is_routable() {
                    change.remove(&id, started, now, End::Missed);
                    completed.removed += 1;
                } else {
                    let seen = match before {
                        Some(before) if entry.listed => before.max(entry.seen),
                        _ => entry.seen,
                    };
                    change.insert(Entry { listed: false, seen, ..entry });
                    completed.unclear.push(id);
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
    pub fn confirm(&self, at: MonotonicTime) {
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
        state
            .get(self.source.index())
            .map(|part| part.map.keys().cloned().collect())
            .unwrap_or_default()
    }

    fn write<T>(&self, work: impl FnOnce(&mut Change<'_>) -> T) -> T {
        let writer = self.registry.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let state = Vec::clone(&self.registry.current.load());
        let resolver = &self.registry.resolver;
        let mut change = Change { source: self.source, resolver, state, writer };
        let result = work(&mut change);
        let old = self.registry.current.swap(Arc::new(change.state));
        drop(change.writer);
        self.registry.reaper.free(old);
        result
    }
}

/// A change of the registry under way; readers see nothing of it before its end.
struct Change<'w> {
    source: SourceId,
    resolver: &'w Resolver,
    state: Vec<Part>,
    writer: MutexGuard<'w, Writer>,
}

impl Change<'_> {
    fn part(&mut self) -> Option<&mut Part> {
        self.state.get_mut(self.source.index())
    }

    fn gone<T>(&mut self, work: impl FnOnce(&mut HashMap<WorkspaceId, Gone>) -> T) -> Option<T> {
        self.writer.gone.get_mut(self.source.index()).map(work)
    }

    fn find(&self, id: &WorkspaceId) -> Option<(&Part, &Arc<Entry>)> {
        let part = self.state.get(self.source.index())?;
        part.map.get(id).map(|entry| (part, entry))
    }

    fn observe(
        &mut self,
        workspace: Workspace,
        seen: MonotonicTime,
        now: MonotonicTime,
    ) -> Observed {
        let judge = |gone: &mut HashMap<WorkspaceId, Gone>| {
            gone.get(&workspace.id).and_then(|gone| gone.judge(&workspace, seen))
        };
        if let Some(verdict) = self.gone(judge).flatten() {
            return verdict;
        }
        if let Some((part, known)) = self.find(&workspace.id) {
            let same_life = known.workspace.instance == workspace.instance;
            let older = workspace.revision.is_older_than(known.workspace.revision);
            let newer = known.workspace.revision.is_older_than(workspace.revision);
            if seen < part.seen(known) || (same_life && older) {
                return Observed::Nothing;
            }
            let same = *known.workspace == workspace;
            if same && !known.doubtful && known.listed {
                return Observed::Nothing;
            }
            let told_apart = same || (same_life && newer);
            if !told_apart && seen < known.arrived {
                return Observed::Overlap;
            }
        }
        self.gone(|gone| gone.remove(&workspace.id));
        self.put(workspace, seen, now);
        Observed::News
    }

    fn put(&mut self, mut workspace: Workspace, seen: MonotonicTime, arrived: MonotonicTime) {
        for endpoint in &mut workspace.endpoints {
            if let Destination::Gateway(gateway) = &mut endpoint.destination {
                *gateway = self.resolver.adopt(gateway);
            }
        }
        let workspace = Arc::new(workspace);
        let (doubtful, contested) = (false, false);
        self.insert(Entry { workspace, seen, arrived, listed: true, doubtful, contested });
    }

    /// Inserts or replaces an entry, and settles who is at its addresses.
    fn insert(&mut self, mut entry: Entry) {
        let source = self.source;
        let Some(part) = self.state.get_mut(source.index()) else { return };
        let id = entry.workspace.id.clone();
        let undeclared = part.rules.undeclared_ports;
        let old = part.map.get(&id).map(|old| Arc::clone(&old.workspace));
        let claims = &mut self.writer.claims;
        let touched =
            claims.change(source, &id, old.as_deref(), Some(&entry.workspace), undeclared);
        entry.contested = self.contested(source, &entry.workspace);
        if let Some(part) = self.state.get_mut(source.index()) {
            part.map.insert(id, Arc::new(entry));
        }
        self.settle(touched);
    }

    fn contested(&self, source: SourceId, workspace: &Workspace) -> bool {
        let undeclared = |source: SourceId| {
            self.state
                .get(source.index())
                .map_or(UndeclaredPorts::Deny, |p| p.rules.undeclared_ports)
        };
        self.writer.claims.contested(source, workspace, undeclared(source), |(source, id)| {
            let entry = self.state.get(source.index())?.map.get(id)?;
            Some((&*entry.workspace, undeclared(*source)))
        })
    }

    fn remove(&mut self, id: &WorkspaceId, at: MonotonicTime, arrived: MonotonicTime, end: End) {
        let source = self.source;
        let Some(part) = self.state.get_mut(source.index()) else { return };
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
            gone.insert(id.clone(), Gone { at, arrived, end, instance, revision });
        });
    }

    /// Marks anew who shares an address with another.
    fn settle(&mut self, touched: BTreeSet<Holder>) {
        for (source, id) in touched {
            let entry =
                self.state.get(source.index()).and_then(|part| part.map.get(&id)).map(Arc::clone);
            let Some(entry) = entry else { continue };
            let contested = self.contested(source, &entry.workspace);
            if contested == entry.contested {
                continue;
            }
            if contested {
                error!(
                    workspace = %id,
                    "two workspaces claim the same address: requests for either are refused"
                );
            }
            let entry = Entry { contested, ..Entry::clone(&entry) };
            if let Some(part) = self.state.get_mut(source.index()) {
                part.map.insert(id, Arc::new(entry));
            }
        }
    }
}

impl Gone {
    /// What a description that was asked for at `seen` is worth after the end, if not what it says.
    fn judge(&self, workspace: &Workspace, seen: MonotonicTime) -> Option<Observed> {
        let known = self.instance.is_some()
            || self.revision.spec.is_some()
            || self.revision.status.is_some();
        let same_life = known
            && self.instance == workspace.instance
            && !self.revision.is_older_than(workspace.revision);
        let another_life = self.instance.is_some() && self.instance != workspace.instance;
        if seen <= self.at || (self.end == End::Reported && same_life && seen.since(self.at) < LAG)
        {
            Some(Observed::Nothing)
        } else {
            (seen < self.arrived && !another_life).then_some(Observed::Overlap)
        }
    }
}
