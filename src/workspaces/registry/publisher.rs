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
    Registry, RegistryEntry, SourcePart, UndeclaredPorts, WriterState,
    claims::Claimant,
};
use crate::{time::MonotonicTime, workspaces::source::SourceId};

/// How long a removed workspace is remembered. It must be longer than any read takes.
const REMOVED_RETENTION: Duration = Duration::from_mins(15);
/// How long after a reported end the platform may still return the old description, from a replica
/// that lags behind.
const REPLICA_LAG: Duration = Duration::from_secs(10);
/// How many removed workspaces are remembered. Beyond this number only those of the last minute
/// are.
const MAX_REMOVED: usize = 100_000;

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
enum EndKind {
    /// The platform reported it.
    Reported,
    /// The workspace was missing in a response of the platform.
    Missing,
}

/// A workspace that was removed.
pub(super) struct RemovedWorkspace {
    /// When the agent sent the request, or received the report.
    at: MonotonicTime,
    /// When the response arrived.
    arrived: MonotonicTime,
    /// How its end became known.
    end: EndKind,
    instance: Option<Box<str>>,
    revision: Revision,
}

/// The effect of a description that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObserveOutcome {
    /// The registry has changed.
    Changed,
    /// The description is older or says the same, so nothing has changed.
    Unchanged,
    /// The description differs from the known one, and both were requested at the same time. It is
    /// not known which is newer, so the workspace must be read again.
    Unordered,
}

/// The effect of a complete list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListOutcome {
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
    ) -> ObserveOutcome {
        self.write(|change| change.observe(workspace, seen, now))
    }

    /// Applies a description that the source pushed. It is the newest there is.
    pub fn set(&self, workspace: Workspace, now: MonotonicTime) {
        self.write(|change| {
            change.removed(|removed| {
                removed.remove(&workspace.id);
            });
            change.put(workspace, now, now);
        });
    }

    /// Removes a workspace whose end the platform reported.
    pub fn end(&self, id: &WorkspaceId, at: MonotonicTime) {
        self.write(|change| change.remove(id, at, at, EndKind::Reported));
    }

    /// Removes a workspace that the platform, asked at `seen`, does not have. Returns whether it
    /// was known.
    #[expect(clippy::must_use_candidate, reason = "told, not asked")]
    pub fn absent(&self, id: &WorkspaceId, seen: MonotonicTime, now: MonotonicTime) -> bool {
        self.write(|change| {
            let known = change.find(id).map(|(part, entry)| part.seen(entry));
            let older = known.is_some_and(|known| seen < known);
            if !older {
                change.remove(id, seen, now, EndKind::Missing);
            }
            known.is_some() && !older
        })
    }

    /// Closes a workspace that changed in an unknown way, until it can be read.
    pub fn doubt(&self, id: &WorkspaceId) {
        self.write(|change| {
            if let Some(entry) = change.find(id).map(|(_, entry)| RegistryEntry::clone(entry)) {
                change.insert(RegistryEntry { doubtful: true, ..entry });
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
    ) -> ListOutcome {
        self.write(|change| {
            let mut completed = ListOutcome::default();
            let mut listed = HashSet::with_capacity(list.len());
            for workspace in list {
                let id = workspace.id.clone();
                match change.observe(workspace, started, now) {
                    ObserveOutcome::Changed => completed.changed += 1,
                    ObserveOutcome::Unchanged => {}
                    ObserveOutcome::Unordered => completed.unclear.push(id.clone()),
                }
                listed.insert(id);
            }
            let Some(part) = change.part() else { return completed };
            let before = part.listed;
            let unlisted: Vec<RegistryEntry> = part
                .map
                .iter()
                .filter(|(id, entry)| part.seen(entry) < started && !listed.contains(*id))
                .map(|(_, entry)| RegistryEntry::clone(entry))
                .collect();
            for entry in unlisted {
                let id = entry.workspace.id.clone();
                // A workspace that is up may only have moved between pages, so it is read before it
                // is removed.
                let clear = extent == ListExtent::Snapshot && entry.arrived <= started;
                if clear || !entry.workspace.phase.is_routable() {
                    change.remove(&id, started, now, EndKind::Missing);
                    completed.removed += 1;
                } else {
                    let seen = match before {
                        Some(before) if entry.listed => before.max(entry.seen),
                        _ => entry.seen,
                    };
                    change.insert(RegistryEntry { listed: false, seen, ..entry });
                    completed.unclear.push(id);
                }
            }
            if let Some(part) = change.part() {
                part.listed = part.listed.max(Some(started));
            }
            change.removed(|removed| {
                removed.retain(|_, removed| started.since(removed.at) < REMOVED_RETENTION);
            });
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

    fn write<T>(&self, work: impl FnOnce(&mut RegistryChange<'_>) -> T) -> T {
        let writer = self.registry.writer.lock();
        // The vector has one element per source, and each map is shared until it is changed.
        let state = Vec::clone(&self.registry.current.load());
        let resolver = &self.registry.resolver;
        let mut change = RegistryChange { source: self.source, resolver, state, writer };
        let result = work(&mut change);
        let old = self.registry.current.swap(Arc::new(change.state));
        drop(change.writer);
        self.registry.reaper.free(old);
        result
    }
}

/// A change of the registry in progress. Readers see nothing of it before its end.
struct RegistryChange<'w> {
    source: SourceId,
    resolver: &'w Resolver,
    state: Vec<SourcePart>,
    writer: MutexGuard<'w, WriterState>,
}

impl RegistryChange<'_> {
    fn part(&mut self) -> Option<&mut SourcePart> {
        self.state.get_mut(self.source.index())
    }

    fn removed<T>(
        &mut self,
        work: impl FnOnce(&mut HashMap<WorkspaceId, RemovedWorkspace>) -> T,
    ) -> Option<T> {
        self.writer.removed.get_mut(self.source.index()).map(work)
    }

    fn find(&self, id: &WorkspaceId) -> Option<(&SourcePart, &Arc<RegistryEntry>)> {
        let part = self.state.get(self.source.index())?;
        part.map.get(id).map(|entry| (part, entry))
    }

    fn observe(
        &mut self,
        workspace: Workspace,
        seen: MonotonicTime,
        now: MonotonicTime,
    ) -> ObserveOutcome {
        let judge = |removed: &mut HashMap<WorkspaceId, RemovedWorkspace>| {
            removed.get(&workspace.id).and_then(|removed| removed.judge(&workspace, seen))
        };
        if let Some(verdict) = self.removed(judge).flatten() {
            return verdict;
        }
        if let Some((part, known)) = self.find(&workspace.id) {
            let same_life = known.workspace.instance == workspace.instance;
            let older = workspace.revision.is_older_than(known.workspace.revision);
            let newer = known.workspace.revision.is_older_than(workspace.revision);
            // An older response must not undo a newer one.
            if seen < part.seen(known) || (same_life && older) {
                return ObserveOutcome::Unchanged;
            }
            let same = *known.workspace == workspace;
            if same && !known.doubtful && known.listed {
                return ObserveOutcome::Unchanged;
            }
            // Without counters, only the order of request and response tells which description is
            // newer.
            let ordered = same || (same_life && newer);
            if !ordered && seen < known.arrived {
                return ObserveOutcome::Unordered;
            }
        }
        self.removed(|removed| removed.remove(&workspace.id));
        self.put(workspace, seen, now);
        ObserveOutcome::Changed
    }

    fn put(&mut self, mut workspace: Workspace, seen: MonotonicTime, arrived: MonotonicTime) {
        for endpoint in &mut workspace.endpoints {
            if let Destination::NamedServer(server) = &mut endpoint.destination {
                *server = self.resolver.share(server);
            }
        }
        let workspace = Arc::new(workspace);
        let (doubtful, contested) = (false, false);
        self.insert(RegistryEntry { workspace, seen, arrived, listed: true, doubtful, contested });
    }

    /// Inserts or replaces an entry, and updates the address conflicts of others.
    fn insert(&mut self, mut entry: RegistryEntry) {
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
        self.update_conflicts(touched);
    }

    fn contested(&self, source: SourceId, workspace: &Workspace) -> bool {
        let undeclared = self
            .state
            .get(source.index())
            .map_or(UndeclaredPorts::Deny, |part| part.rules.undeclared_ports);
        self.writer.claims.contested(source, workspace, undeclared)
    }

    fn remove(
        &mut self,
        id: &WorkspaceId,
        at: MonotonicTime,
        arrived: MonotonicTime,
        end: EndKind,
    ) {
        let source = self.source;
        let Some(part) = self.state.get_mut(source.index()) else { return };
        let old = part.map.remove(id).map(|entry| Arc::clone(&entry.workspace));
        let undeclared = part.rules.undeclared_ports;
        let touched = self.writer.claims.change(source, id, old.as_deref(), None, undeclared);
        self.update_conflicts(touched);
        let (instance, revision) =
            old.map(|old| (old.instance.clone(), old.revision)).unwrap_or_default();
        self.removed(|removed| {
            if removed.len() >= MAX_REMOVED {
                removed.retain(|_, removed| at.since(removed.at) < Duration::from_mins(1));
            }
            removed.insert(id.clone(), RemovedWorkspace { at, arrived, end, instance, revision });
        });
    }

    /// Updates whether these workspaces are in conflict about an address.
    fn update_conflicts(&mut self, touched: BTreeSet<Claimant>) {
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
            let entry = RegistryEntry { contested, ..RegistryEntry::clone(&entry) };
            if let Some(part) = self.state.get_mut(source.index()) {
                part.map.insert(id, Arc::new(entry));
            }
        }
    }
}

impl RemovedWorkspace {
    /// Judges a description that was requested at `seen`, after the end of the workspace. `None` if
    /// the description may be used.
    fn judge(&self, workspace: &Workspace, seen: MonotonicTime) -> Option<ObserveOutcome> {
        let known = self.instance.is_some()
            || self.revision.spec.is_some()
            || self.revision.status.is_some();
        let same_life = known
            && self.instance == workspace.instance
            && !self.revision.is_older_than(workspace.revision);
        let another_life = self.instance.is_some() && self.instance != workspace.instance;
        if seen <= self.at
            || (self.end == EndKind::Reported && same_life && seen.since(self.at) < REPLICA_LAG)
        {
            Some(ObserveOutcome::Unchanged)
        } else {
            (seen < self.arrived && !another_life).then_some(ObserveOutcome::Unordered)
        }
    }
}
