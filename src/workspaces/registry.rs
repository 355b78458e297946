//! The table of workspaces that the request path reads: an immutable snapshot behind an atomic
//! pointer.
//!
//! Readers never lock. Each source writes into a part of its own through a [`Publisher`]; the parts are
//! persistent maps, so that one change among a hundred thousand workspaces costs about a microsecond.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};

use super::{
    Admission, Workspace, WorkspaceId, destination::resolver::Resolver, directory::Directory,
};
use crate::{reaper::Reaper, time::MonotonicTime, workspaces::source::SourceId};

mod claims;
mod publisher;

#[cfg(test)]
mod tests;

use claims::Claims;
pub use publisher::{Completed, ListExtent, Observed, Publisher};

/// Where the current snapshot is.
pub struct Registry {
    current: ArcSwap<State>,
    reaper: Reaper<State>,
    writer: Mutex<Writer>,
    names: Vec<Box<str>>,
    resolver: Arc<Resolver>,
}

/// What holds for all workspaces of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRules {
    /// No endpoint admits more than this.
    pub max_admission: Admission,
    /// What happens to a port that a workspace does not declare.
    pub undeclared_ports: UndeclaredPorts,
    /// How long the owner, and whom a workspace was granted to, are let in after the source last
    /// confirmed it.
    pub stale_after: Duration,
    /// The same for everybody else; never longer.
    pub stale_open_after: Duration,
}

/// What happens to a port that the workspace does not declare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UndeclaredPorts {
    /// Nobody reaches it.
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
        }
    }
}

impl SourceRules {
    /// Of a source that says of itself when something changes, and is never out of date otherwise.
    #[must_use]
    pub fn never_stale(self) -> Self {
        Self { stale_after: Duration::MAX, stale_open_after: Duration::MAX, ..self }
    }
}

type State = Vec<Part>;

/// What one source said.
#[derive(Clone)]
struct Part {
    rules: SourceRules,
    map: imbl::HashMap<WorkspaceId, Arc<Entry>>,
    directory: Option<Arc<Directory>>,
    /// When the source was last asked for all it knows, and answered; its directory included.
    confirmed: Option<MonotonicTime>,
    /// When it was last asked for the list it answered.
    listed: Option<MonotonicTime>,
}

/// A workspace with what the registry knows of it.
#[derive(Clone, Debug)]
struct Entry {
    workspace: Arc<Workspace>,
    /// When this was asked for or received; what it says was true then or later.
    seen: MonotonicTime,
    /// When the answer came; what it says was true by then.
    arrived: MonotonicTime,
    /// Whether every complete list since had it, and the same.
    listed: bool,
    /// Something changed since, and nobody knows what.
    doubtful: bool,
    /// Another workspace claims to be at the same address.
    contested: bool,
}

/// What only writers need.
struct Writer {
    claims: Claims,
    gone: Vec<HashMap<WorkspaceId, publisher::Gone>>,
}

/// What the sources said last, at the moment of asking.
pub struct Snapshot {
    state: Guard<Arc<State>>,
    now: MonotonicTime,
}

/// The workspaces of a source at a moment, in the order of their ids, for a reader that takes its time. Requests go on
/// with newer snapshots.
pub struct Listing {
    part: Option<Part>,
    entries: Vec<Arc<Entry>>,
    now: MonotonicTime,
}

/// See [`Registry::mark`]. Holds the snapshot, so that no other comes to be at its address.
pub struct Mark(Arc<State>);

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What is known of a workspace id.
pub enum Found<'s> {
    /// This.
    Workspace(Record<'s>),
    /// There is none of that id.
    Unknown,
    /// Nobody can tell whether there is one.
    NotLoaded,
    /// Several sources have one of that id.
    Ambiguous,
}

/// What is known of a workspace.
#[derive(Clone, Copy)]
pub struct Record<'s> {
    /// The workspace.
    pub workspace: &'s Arc<Workspace>,
    /// Whom its platform knows.
    pub directory: Option<&'s Directory>,
    /// The rules of its source.
    pub rules: &'s SourceRules,
    /// How long ago its source last confirmed it; the longest possible time if something changed
    /// since that could not be read.
    pub age: Duration,
    /// Whether another workspace claims to be at the same address, so that neither is.
    pub contested: bool,
}

/// The state of a source, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartState {
    /// How many workspaces it has.
    pub workspaces: usize,
    /// How many of them are up.
    pub routable: usize,
    /// How many are at an address that another claims too.
    pub contested: usize,
    /// How many changed in a way that could not be read.
    pub doubtful: usize,
    /// How long ago the source said all it knows; `None` before its first complete list.
    pub age: Option<Duration>,
}

impl Registry {
    /// A registry of sources with these names and rules, none of which has said anything yet. The names
    /// in destinations are `resolver`'s to resolve.
    #[must_use]
    pub fn new(sources: &[(&str, SourceRules)], resolver: Arc<Resolver>) -> Self {
        let part = |rules: SourceRules| Part {
            rules,
            map: imbl::HashMap::new(),
            directory: None,
            confirmed: None,
            listed: None,
        };
        let gone = sources.iter().map(|_| HashMap::new()).collect();
        Self {
            current: ArcSwap::from_pointee(sources.iter().map(|(_, rules)| part(*rules)).collect()),
            reaper: Reaper::default(),
            writer: Mutex::new(Writer { claims: Claims::default(), gone }),
            names: sources.iter().map(|(name, _)| Box::from(*name)).collect(),
            resolver,
        }
    }

    /// The current snapshot; take it once per batch.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(MonotonicTime::now())
    }

    /// The current snapshot, as it looks at some moment.
    pub fn snapshot_at(&self, now: MonotonicTime) -> Snapshot {
        Snapshot { state: self.current.load(), now }
    }

    /// Which snapshot is current: two marks are equal as long as nothing was written between them.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.current.load_full())
    }

    /// The names of the sources, by their numbers.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }
}

impl Snapshot {
    /// The workspace with that id, of that source if one is named.
    #[must_use]
    pub fn find(&self, source: Option<SourceId>, id: &str) -> Found<'_> {
        let mut found = Found::Unknown;
        for (number, part) in self.state.iter().enumerate() {
            if source.is_some_and(|source| source.index() != number) {
                continue;
            }
            match (part.map.get(id), &found) {
                (Some(entry), Found::Unknown | Found::NotLoaded) => {
                    found = Found::Workspace(part.record(entry, self.now));
                }
                (Some(_), _) => return Found::Ambiguous,
                (None, Found::Unknown) if !part.knows_all(self.now) => found = Found::NotLoaded,
                (None, _) => {}
            }
        }
        found
    }

    /// Every workspace of a source.
    pub fn all(&self, source: SourceId) -> impl Iterator<Item = Record<'_>> {
        let parts = self.state.get(source.index()).into_iter();
        parts.flat_map(|part| part.map.values().map(|entry| part.record(entry, self.now)))
    }

    /// Every workspace of a source, in the order of their ids.
    #[must_use]
    pub fn listing(&self, source: usize) -> Listing {
        let part = self.state.get(source);
        let mut entries: Vec<_> =
            part.into_iter().flat_map(|part| part.map.values().cloned()).collect();
        entries.sort_unstable_by(|a, b| a.workspace.id.cmp(&b.workspace.id));
        // Only what holds for all of them is needed, not the map.
        let part = part.map(|part| Part { map: imbl::HashMap::new(), ..part.clone() });
        Listing { part, entries, now: self.now }
    }

    /// How many workspaces there are, of all sources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.iter().map(|part| part.map.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The accounts of each source that has a directory.
    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.state.iter().filter_map(|part| part.directory.as_deref())
    }

    /// The accounts of a source.
    #[must_use]
    pub fn directory(&self, source: SourceId) -> Option<&Directory> {
        self.state.get(source.index()).and_then(|part| part.directory.as_deref())
    }

    /// The rules of a source.
    #[must_use]
    pub fn rules(&self, source: SourceId) -> Option<SourceRules> {
        self.state.get(source.index()).map(|part| part.rules)
    }

    /// The state of a source.
    #[must_use]
    pub fn state(&self, source: SourceId) -> Option<PartState> {
        let part = self.state.get(source.index())?;
        let mut state = PartState {
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

impl Listing {
    /// The workspace with that number, from zero; `None` after the last one.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Record<'_>> {
        let (part, entry) = (self.part.as_ref()?, self.entries.get(number)?);
        Some(part.record(entry, self.now))
    }
}

impl Part {
    fn record<'s>(&'s self, entry: &'s Entry, now: MonotonicTime) -> Record<'s> {
        let age = match self.confirmed {
            Some(confirmed) if !entry.doubtful => {
                let listed = if entry.listed { confirmed } else { entry.seen };
                // What was read a moment ago is as good as a list.
                now.since(listed.max(entry.seen))
            }
            _ => Duration::MAX,
        };
        Record {
            workspace: &entry.workspace,
            directory: self.directory.as_deref(),
            rules: &self.rules,
            age,
            contested: entry.contested,
        }
    }

    /// When what is said of a workspace was last true for sure.
    fn seen(&self, entry: &Entry) -> MonotonicTime {
        match self.listed {
            Some(listed) if entry.listed => listed.max(entry.seen),
            _ => entry.seen,
        }
    }

    /// Whether what is not here is nowhere, as far as the source could know.
    fn knows_all(&self, now: MonotonicTime) -> bool {
        self.confirmed.is_some_and(|at| now.since(at) <= self.rules.stale_after)
    }
}
