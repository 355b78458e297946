//! The write side of the registry: how one source changes its part.
//!
//! Responses of a platform overtake each other: a list that was requested before a workspace
//! stopped may arrive after the report of its end. Every change therefore carries the moment of its
//! request, and a change that is older than what is known is dropped. Where two responses cannot be
//! ordered, the caller is told to read again.
//!
//! Invariant: a workspace whose end was reported does not come back with a description from before
//! the end.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, MutexGuard},
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

/// How long a removed workspace is remembered. It must be longer than any read takes.
const REMEMBER: Duration = Duration::from_mins(15);
/// How long after a reported end the platform may still return the old description, from a replica
/// that lags behind.
const LAG: Duration = Duration::from_secs(10);
/// How many removed workspaces are remembered. Beyond this number only those of the last minute
/// are.
const MAX_GONE: usize = 100_000;

/// Writes the part of the registry that belongs to one source.
#[derive(Clone)]
pub struct Publisher {
    registry: Arc<Registry>,
    source: SourceId,
}

/// What a complete list can have missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListExtent {
    /// The list shows one moment and has missed nothing.
    Snapshot,
    /// The list was read page by page and can have missed workspaces that moved between pages.
    Pages,
}

/// How the end of a workspace became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The platform reported it.
    Reported,
    /// The workspace was missing in a response of the platform.
    Missed,
}

/// A workspace that was removed.
pub(super) struct Gone {
    /// When the agent sent the request, or received the report.
    at: MonotonicTime,
    /// When the response arrived.
    arrived: MonotonicTime,
    /// How its end became known.
    end: End,
    instance: Option<Box<str>>,
    revision: Revision,
}

/// The effect of a description that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The registry has changed.
    News,
    /// The description is older or says the same, so nothing has changed.
    Nothing,
    /// The description differs from the known one, and both were requested at the same time. It is
    /// not known which is newer, so the workspace must be read again.
    Overlap,
}

/// The effect of a complete list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Workspaces to be read one by one: a list over several pages lacks them although they are up,
    /// or they changed while the list was made.
    pub unclear: Vec<WorkspaceId>,
    /// The number of workspaces that were removed.
    pub removed: usize,
    /// The number of workspaces that were added or changed.
    pub changed: usize,
}

impl Publisher {
    /// The publisher of this source.
    #[must_use]
    pub fn new(registry: Arc<Registry>, source: SourceId) -> Self {
        Self { registry, source }
    }

    /// The name of the source.
    #[must_use]
    pub fn name(&self) -> &str {
        self.registry.names().get(self.source.index()).map_or("", |name| name)
    }

    /// The registry that it writes into.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// Applies the description of a workspace that was requested at `seen` and arrived at `now`.
    #[expect(clippy::must_use_candidate, reason = "told, not asked")]
    pub fn observe(
        &self,
        workspace: Workspace,
        seen: MonotonicTime,
        now: MonotonicTime,
    ) -> Observed {
        self.write(|change| change.observe(workspace, seen, now))
    }

    /// Applies a description that the source pushed. It is the newest there is.
    pub fn set(&self, workspace: Workspace, now: MonotonicTime) {
        self.write(|change| {
            change.gone(|gone| {
                gone.remove(&workspace.id);
            });
            change.put(workspace, now, now);
        });
    }

    /// Removes a workspace whose end the platform reported.
    pub fn end(&self, id: &WorkspaceId, at: MonotonicTime) {
        self.write(|change| change.remove(id, at, at, End::Reported));
    }

    /// Removes a workspace that the platform, asked at `seen`, does not have. Returns whether it
    /// was known.
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

    /// Closes a workspace that changed in an unknown way, until it can be read.
    pub fn doubt(&self, id: &WorkspaceId) {
        self.write(|change| {
            if let Some(entry) = change.find(id).map(|(_, entry)| Entry::clone(entry)) {
                change.insert(Entry { doubtful: true, ..entry });
            }
        });
    }

    /// Applies a complete list whose first page was requested at `started`. A workspace that a
    /// snapshot list lacks is removed.
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
                // A workspace that is up may only have moved between pages, so it is read before it
                // is removed.
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

    /// Records that the source, asked at `at`, has delivered everything it knows, its directory
    /// included.
    pub fn confirm(&self, at: MonotonicTime) {
        self.write(|change| {
            if let Some(part) = change.part() {
                part.confirmed = part.confirmed.max(Some(at));
            }
        });
    }

    /// Replaces the accounts of the platform.
    pub fn set_directory(&self, directory: Directory) {
        let directory = Arc::new(directory);
        self.write(|change| {
            if let Some(part) = change.part() {
                part.directory = Some(directory);
            }
        });
    }

    /// The ids of all workspaces of the source.
    #[must_use]
    pub fn ids(&self) -> Vec<WorkspaceId> {
        let state = self.registry.current.load();
        state
            .get(self.source.index())
            .map(|part| part.map.keys().cloned().collect())
            .unwrap_or_default()
    }

    fn write<T>(&self, work: impl FnOnce(&mut Change<'_>) -> T) -> T {
        let writer = self.registry.writer.lock();
        // The vector has one element per source, and each map is shared until it is changed.
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

/// A change of the registry in progress. Readers see nothing of it before its end.
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
            // Without counters, only the order of request and response tells which description is
            // newer.
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

    /// Inserts or replaces an entry, and updates the address conflicts of others.
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
        let undeclared = self
            .state
            .get(source.index())
            .map_or(UndeclaredPorts::Deny, |part| part.rules.undeclared_ports);
        self.writer.claims.contested(source, workspace, undeclared)
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

    /// Updates whether these workspaces are in conflict about an address.
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
    /// Judges a description that was requested at `seen`, after the end of the workspace. `None` if
    /// the description may be used.
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
