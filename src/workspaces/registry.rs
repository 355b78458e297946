//! The workspaces of all sources, for the request path.
//!
//! The registry is one immutable snapshot behind an atomic pointer. Readers take a [`Snapshot`] and
//! never lock. Each source writes its own part through a [`Publisher`]; the parts are persistent
//! maps, so one change among a hundred thousand workspaces costs about a microsecond. Old snapshots
//! are freed by the [`Reaper`], away from requests.
//!
//! Invariant: everything in a snapshot is as old as its [`WorkspaceRecord::age`] says, or newer. What was
//! not confirmed recently enough is still in the snapshot, and the decision refuses it by its age.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};

use super::{
    Admission, CorsAnswers, CrossOrigin, EndpointName, Workspace, WorkspaceId,
    destination::resolver::Resolver, directory::Directory,
};
use crate::{lock::Mutex, reaper::Reaper, time::MonotonicTime, workspaces::source::SourceId};

mod claims;
mod publisher;

#[cfg(test)]
mod tests;

use claims::Claims;
pub use publisher::{ListExtent, ListOutcome, ObserveOutcome, Publisher};

/// All sources' workspaces, and what writers need to change them.
pub struct Registry {
    current: ArcSwap<SourceParts>,
    reaper: Reaper<SourceParts>,
    writer: Mutex<WriterState>,
    names: Vec<Box<str>>,
    resolver: Arc<Resolver>,
}

/// What the operator set for all workspaces of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRules {
    /// No endpoint of the source admits more than this.
    pub max_admission: Admission,
    /// What happens to a port that a workspace does not declare.
    pub undeclared_ports: UndeclaredPorts,
    /// How long the owner and people with a grant have access after the source last confirmed the
    /// workspace.
    pub stale_after: Duration,
    /// The same for all other people. It is never longer.
    pub stale_open_after: Duration,
    /// Which pages of other origins may use its endpoints.
    pub cross_origin: CrossOrigin,
    /// Who answers CORS at its endpoints.
    pub cors_answers: CorsAnswers,
}

/// What happens to a port that a workspace does not declare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum UndeclaredPorts {
    /// Requests for it are refused.
    #[default]
    Deny,
    /// The owner reaches it, at the workspace's own address.
    Owner,
}

impl Default for SourceRules {
    fn default() -> Self {
        Self {
            max_admission: Admission::Public,
            undeclared_ports: UndeclaredPorts::Deny,
            stale_after: Duration::from_mins(5),
            stale_open_after: Duration::from_mins(1),
            cross_origin: CrossOrigin::default(),
            cors_answers: CorsAnswers::default(),
        }
    }
}

impl SourceRules {
    /// The rules for a source that pushes every change by itself, so that its silence does not make
    /// it stale.
    #[must_use]
    pub fn never_stale(self) -> Self {
        Self { stale_after: Duration::MAX, stale_open_after: Duration::MAX, ..self }
    }
}

type SourceParts = Vec<SourcePart>;

/// The part of the snapshot that one source writes.
#[derive(Clone)]
struct SourcePart {
    rules: SourceRules,
    map: imbl::HashMap<WorkspaceId, Arc<RegistryEntry>>,
    directory: Option<Arc<Directory>>,
    /// When the agent last sent a request that was answered with everything the source knows, its
    /// directory included.
    confirmed: Option<MonotonicTime>,
    /// When the agent last asked for a list that was answered.
    listed: Option<MonotonicTime>,
}

/// A workspace, with what the registry knows about its freshness.
#[derive(Clone, Debug)]
struct RegistryEntry {
    workspace: Arc<Workspace>,
    /// When the agent asked for this description or received it. The description was true then or
    /// later.
    seen: MonotonicTime,
    /// When the response arrived. The description was true by then.
    arrived: MonotonicTime,
    /// Whether every complete list since then confirmed it.
    listed: bool,
    /// A change was reported since then and could not be read.
    doubtful: bool,
    /// Another workspace claims the same address.
    contested: bool,
}

/// State that only writers use.
struct WriterState {
    claims: Claims,
    removed: Vec<HashMap<WorkspaceId, publisher::RemovedWorkspace>>,
}

/// The workspaces of all sources at one moment. Ages are computed for that moment.
pub struct Snapshot {
    state: Guard<Arc<SourceParts>>,
    now: MonotonicTime,
}

/// The workspaces of one source at one moment, sorted by id, for a reader that may be slow. It does
/// not delay requests, which go on with newer snapshots.
pub struct WorkspaceListing {
    part: Option<SourcePart>,
    entries: Vec<Arc<RegistryEntry>>,
    now: MonotonicTime,
}

/// The identity of a snapshot, returned by [`Registry::mark`]. It holds the snapshot, so that no
/// other snapshot can be allocated at the same address.
pub struct SnapshotMark(Arc<SourceParts>);

impl PartialEq for SnapshotMark {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The result of a search for a workspace id.
pub enum LookupResult<'s> {
    /// The workspace.
    Workspace(WorkspaceRecord<'s>),
    /// No source has a workspace with that id.
    Unknown,
    /// A source that might have it has not delivered a complete list recently.
    NotLoaded,
    /// Several sources have a workspace with that id.
    Ambiguous,
}

/// A workspace with the facts that decisions need.
#[derive(Clone, Copy)]
pub struct WorkspaceRecord<'s> {
    /// The workspace.
    pub workspace: &'s Arc<Workspace>,
    /// The accounts of its platform.
    pub directory: Option<&'s Directory>,
    /// The rules of its source.
    pub rules: &'s SourceRules,
    /// The time since its source last confirmed it. `Duration::MAX` if it changed since then and
    /// the change could not be read.
    pub age: Duration,
    /// Whether another workspace claims the same address, so that requests for both are refused.
    pub contested: bool,
}

/// The state of a source, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceSummary {
    /// The number of workspaces.
    pub workspaces: usize,
    /// The number of workspaces that are up.
    pub routable: usize,
    /// The number of workspaces at an address that another workspace claims too.
    pub contested: usize,
    /// The number of workspaces with a change that could not be read.
    pub doubtful: usize,
    /// The time since the source last delivered everything it knows; `None` before its first
    /// complete list.
    pub age: Option<Duration>,
}

impl Registry {
    /// An empty registry for sources with these names and rules. `resolver` resolves the host names
    /// in destinations.
    #[must_use]
    pub fn new(sources: &[(&str, SourceRules)], resolver: Arc<Resolver>) -> Self {
        let part = |rules: SourceRules| SourcePart {
            rules,
            map: imbl::HashMap::new(),
            directory: None,
            confirmed: None,
            listed: None,
        };
        let removed = sources.iter().map(|_| HashMap::new()).collect();
        Self {
            current: ArcSwap::from_pointee(
                sources.iter().map(|(_, rules)| part(rules.clone())).collect(),
            ),
            reaper: Reaper::default(),
            writer: Mutex::new(WriterState { claims: Claims::default(), removed }),
            names: sources.iter().map(|(name, _)| Box::from(*name)).collect(),
            resolver,
        }
    }

    /// Returns the current snapshot. Take it once per batch of requests.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(MonotonicTime::now())
    }

    /// Returns the current snapshot with ages as of `now`.
    pub fn snapshot_at(&self, now: MonotonicTime) -> Snapshot {
        Snapshot { state: self.current.load(), now }
    }

    /// Returns the identity of the current snapshot. Two marks are equal as long as nothing was
    /// written between them.
    #[must_use]
    pub fn mark(&self) -> SnapshotMark {
        SnapshotMark(self.current.load_full())
    }

    /// The names of the sources, by index.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }
}

impl Snapshot {
    /// Finds the workspace with this id; only in the given source if there is one.
    #[must_use]
    pub fn find(&self, source: Option<SourceId>, id: &str) -> LookupResult<'_> {
        let mut found = LookupResult::Unknown;
        for (number, part) in self.state.iter().enumerate() {
            if source.is_some_and(|source| source.index() != number) {
                continue;
            }
            match (part.map.get(id), &found) {
                (Some(entry), LookupResult::Unknown | LookupResult::NotLoaded) => {
                    found = LookupResult::Workspace(part.record(entry, self.now));
                }
                // Two platforms may use the same ids: choosing one of them could lead into another
                // person's workspace.
                (Some(_), _) => return LookupResult::Ambiguous,
                (None, LookupResult::Unknown) if !part.knows_all(self.now) => {
                    found = LookupResult::NotLoaded;
                }
                (None, _) => {}
            }
        }
        found
    }

    /// All workspaces of a source, in no order.
    pub fn all(&self, source: SourceId) -> impl Iterator<Item = WorkspaceRecord<'_>> {
        let parts = self.state.get(source.index()).into_iter();
        parts.flat_map(|part| part.map.values().map(|entry| part.record(entry, self.now)))
    }

    /// All workspaces of a source, sorted by id.
    #[must_use]
    pub fn listing(&self, source: usize) -> WorkspaceListing {
        let part = self.state.get(source);
        let mut entries: Vec<_> =
            part.into_iter().flat_map(|part| part.map.values().cloned()).collect();
        entries.sort_unstable_by(|a, b| a.workspace.id.cmp(&b.workspace.id));
        // A record needs the rules and the directory of the source, not the map.
        let part = part.map(|part| SourcePart { map: imbl::HashMap::new(), ..part.clone() });
        WorkspaceListing { part, entries, now: self.now }
    }

    /// The number of workspaces of all sources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.iter().map(|part| part.map.len()).sum()
    }

    /// Whether there are no workspaces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The directories of all sources that have one.
    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.state.iter().filter_map(|part| part.directory.as_deref())
    }

    /// The directory of a source.
    #[must_use]
    pub fn directory(&self, source: SourceId) -> Option<&Directory> {
        self.state.get(source.index()).and_then(|part| part.directory.as_deref())
    }

    /// The rules of a source.
    #[must_use]
    pub fn rules(&self, source: SourceId) -> Option<&SourceRules> {
        self.state.get(source.index()).map(|part| &part.rules)
    }

    /// The rules that a workspace of a host would have, whether it exists or not: those of the source that the host
    /// names, or of the only source.
    #[must_use]
    pub fn rules_for(&self, source: Option<SourceId>) -> Option<&SourceRules> {
        match (source, &self.state[..]) {
            (Some(source), _) => self.rules(source),
            (None, [only]) => Some(&only.rules),
            (None, _) => None,
        }
    }

    /// The state of a source.
    #[must_use]
    pub fn state(&self, source: SourceId) -> Option<SourceSummary> {
        let part = self.state.get(source.index())?;
        let mut state = SourceSummary {
            workspaces: part.map.len(),
            routable: 0,
            contested: 0,
            doubtful: 0,
            age: part.confirmed.map(|at| self.now.since(at)),
        };
        for entry in part.map.values() {
            state.routable += usize::from(entry.workspace.phase.is_routable());
            state.contested += usize::from(entry.contested);
            state.doubtful += usize::from(entry.doubtful);
        }
        Some(state)
    }
}

impl<'s> WorkspaceRecord<'s> {
    /// Which pages of other origins may use an endpoint: as it says itself, or else its source.
    #[must_use]
    pub fn cross_origin(&self, endpoint: &EndpointName) -> &'s CrossOrigin {
        let own = self.workspace.endpoint(endpoint).map(|endpoint| &endpoint.origins);
        own.and_then(|own| own.cross_origin.as_ref()).unwrap_or(&self.rules.cross_origin)
    }

    /// Who answers CORS at an endpoint: as it says itself, or else its source.
    #[must_use]
    pub fn cors_answers(&self, endpoint: &EndpointName) -> CorsAnswers {
        let own = self.workspace.endpoint(endpoint).map(|endpoint| &endpoint.origins);
        own.and_then(|own| own.cors_answers).unwrap_or(self.rules.cors_answers)
    }
}

impl WorkspaceListing {
    /// Returns the workspace with this index, or `None` after the last one.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<WorkspaceRecord<'_>> {
        let (part, entry) = (self.part.as_ref()?, self.entries.get(number)?);
        Some(part.record(entry, self.now))
    }
}

impl SourcePart {
    fn record<'s>(&'s self, entry: &'s RegistryEntry, now: MonotonicTime) -> WorkspaceRecord<'s> {
        let age = match self.confirmed {
            Some(confirmed) if !entry.doubtful => {
                // A list confirms only the workspaces that were in it.
                let listed = if entry.listed { confirmed } else { entry.seen };
                // A single read a moment ago confirms the workspace like a list.
                now.since(listed.max(entry.seen))
            }
            _ => Duration::MAX,
        };
        WorkspaceRecord {
            workspace: &entry.workspace,
            directory: self.directory.as_deref(),
            rules: &self.rules,
            age,
            contested: entry.contested,
        }
    }

    /// When the description of the workspace was last known to be true.
    fn seen(&self, entry: &RegistryEntry) -> MonotonicTime {
        match self.listed {
            Some(listed) if entry.listed => listed.max(entry.seen),
            _ => entry.seen,
        }
    }

    /// Whether a workspace that is missing here does not exist, as far as the source knew recently.
    fn knows_all(&self, now: MonotonicTime) -> bool {
        self.confirmed.is_some_and(|at| now.since(at) <= self.rules.stale_after)
    }
}
