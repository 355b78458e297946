//! Workspaces that a controller or a build script writes through the admin API.
//!
//! Each workspace has a lease and is removed when the lease is not renewed, so a writer that
//! crashed leaves no open routes behind. Writers may number their versions, and a version that
//! arrives late changes nothing. Nothing is stored across a restart of the agent; writers write
//! again within the lease.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    lock::Mutex,
    time::MonotonicTime,
    workspaces::{
        Revision, Workspace, WorkspaceId,
        registry::{LookupResult, Publisher},
    },
};

/// The most workspaces that one source can hold.
const MAX_WORKSPACES: usize = 200_000;
/// How long the revision of a deleted workspace is remembered, so that a late write does not
/// restore it.
const DELETED_RETENTION: Duration = Duration::from_mins(15);

/// The workspaces of one such source, with their leases.
pub struct Leases {
    publisher: Publisher,
    longest: Duration,
    state: Mutex<LeaseTable>,
    wake: Notify,
}

#[derive(Default)]
struct LeaseTable {
    all: HashMap<WorkspaceId, Lease>,
    /// The same source of a newer configuration, after a reload.
    moved: Option<Arc<Leases>>,
}

#[derive(Clone, Copy)]
struct Lease {
    revision: u64,
    /// When the lease ends. For a deleted workspace, when its revision is forgotten.
    until: MonotonicTime,
    there: bool,
}

/// A workspace that is held, as the API returns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldWorkspace {
    /// The workspace id.
    pub id: String,
    /// The revision: the writer's own, or counted by the agent.
    pub revision: u64,
    /// The seconds until it is removed, if it is not written again.
    pub lease_seconds: u64,
}

/// The reason why a workspace was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// The known version is the same or newer.
    #[error("revision {0} is known already: send a higher one")]
    Outdated(u64),
    /// The source holds too many workspaces.
    #[error("the source has {MAX_WORKSPACES} workspaces already, which is the limit")]
    Full,
}

impl Leases {
    /// A source without workspaces. No lease is longer than `longest`.
    #[must_use]
    pub fn new(publisher: Publisher, longest: Duration) -> Arc<Self> {
        // All workspaces of this source are written here, so what was not written does not exist.
        publisher.confirm(MonotonicTime::now());
        Arc::new(Self { publisher, longest, state: Mutex::default(), wake: Notify::new() })
    }

    /// The name of the source.
    #[must_use]
    pub fn name(&self) -> &str {
        self.publisher.name()
    }

    /// Writes a workspace with a lease. A `revision` that is not higher than the known one is
    /// refused.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn put(
        &self,
        mut workspace: Workspace,
        revision: Option<u64>,
        lease: Option<Duration>,
        now: MonotonicTime,
    ) -> Result<HeldWorkspace, LeaseError> {
        // The operator's limit holds, whatever the writer asks for.
        let lease = lease.unwrap_or(self.longest).min(self.longest);
        let id = workspace.id.clone();
        let mut state = self.lock();
        if let Some(next) = &state.moved {
            // Requests that began before the reload still read the old registry, so both are
            // written.
            let held = next.put(workspace.clone(), revision, Some(lease), now)?;
            self.publisher.set(workspace, now);
            return Ok(held);
        }
        let known = state.all.get(&id).map(|lease| lease.revision);
        let revision = next_revision(known, revision)?;
        if known.is_none() && state.all.len() >= MAX_WORKSPACES {
            return Err(LeaseError::Full);
        }
        workspace.revision = Revision { spec: Some(revision), status: None };
        // The lock is held until the lease is entered, so that the last write wins in both places.
        self.publisher.set(workspace, now);
        state.all.insert(id.clone(), Lease { revision, until: now.plus(lease), there: true });
        drop(state);
        self.wake.notify_one();
        Ok(HeldWorkspace { id: id.to_string(), revision, lease_seconds: lease.as_secs() })
    }

    /// Deletes a workspace. Returns whether it was there.
    ///
    /// # Errors
    /// See [`LeaseError::Outdated`].
    pub fn delete(
        &self,
        id: &WorkspaceId,
        revision: Option<u64>,
        now: MonotonicTime,
    ) -> Result<bool, LeaseError> {
        let mut state = self.lock();
        if let Some(next) = &state.moved {
            let there = next.delete(id, revision, now)?;
            self.publisher.end(id, now);
            return Ok(there);
        }
        let known = state.all.get(id).map(|lease| (lease.revision, lease.there));
        let Some((known, there)) = known else { return Ok(false) };
        let revision = next_revision(Some(known), revision)?;
        self.publisher.end(id, now);
        state.all.insert(
            id.clone(),
            Lease { revision, until: now.plus(DELETED_RETENTION), there: false },
        );
        Ok(there)
    }

    /// All workspaces that are held, sorted by id.
    #[must_use]
    pub fn list(&self, now: MonotonicTime) -> Vec<HeldWorkspace> {
        let state = self.lock();
        if let Some(next) = &state.moved {
            return next.list(now);
        }
        let held =
            state.all.iter().filter(|(_, lease)| lease.there).map(|(id, lease)| HeldWorkspace {
                id: id.to_string(),
                revision: lease.revision,
                lease_seconds: lease.until.since(now).as_secs(),
            });
        let mut held: Vec<_> = held.collect();
        held.sort_by(|a, b| a.id.cmp(&b.id));
        held
    }

    /// Moves all leases to the same source of a new configuration. Later writes to this object go
    /// there too.
    pub fn move_to(&self, next: &Arc<Self>) {
        let mut state = self.lock();
        let snapshot = self.publisher.registry().snapshot();
        let mut taken = next.lock();
        for (id, lease) in &state.all {
            if lease.there
                && let LookupResult::Workspace(record) =
                    snapshot.find(Some(self.publisher.source()), id.as_str())
            {
                next.publisher.set(Workspace::clone(record.workspace), MonotonicTime::now());
            }
            taken.all.insert(id.clone(), *lease);
        }
        drop(taken);
        next.wake.notify_one();
        state.moved = Some(Arc::clone(next));
    }

    /// Ends leases that are not renewed, until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let now = MonotonicTime::now();
            let next = self.expire(now);
            let pause = next.map_or(Duration::from_hours(1), |next| next.since(now));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Ends every lease that is over. Returns when the next one ends.
    fn expire(&self, now: MonotonicTime) -> Option<MonotonicTime> {
        let mut state = self.lock();
        let over: Vec<WorkspaceId> = state
            .all
            .iter()
            .filter(|(_, lease)| lease.until <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            if state.all.remove(&id).is_some_and(|lease| lease.there) {
                info!(source = self.name(), workspace = %id, "a lease was not renewed in time: its workspace is removed");
                self.publisher.end(&id, now);
            }
        }
        state.all.values().map(|lease| lease.until).min()
    }

    fn lock(&self) -> MutexGuard<'_, LeaseTable> {
        self.state.lock()
    }
}

fn next_revision(known: Option<u64>, given: Option<u64>) -> Result<u64, LeaseError> {
    match (known, given) {
        (Some(known), Some(given)) if given <= known => Err(LeaseError::Outdated(known)),
        (_, Some(given)) => Ok(given),
        (known, None) => Ok(known.unwrap_or(0).saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnostics::Format,
        sources::file::document,
        workspaces::{
            destination::AllowedBackends,
            registry::{LookupResult, Registry, SourceRules},
            source::SourceId,
        },
    };

    fn leases() -> (Arc<Registry>, Arc<Leases>) {
        let rules = SourceRules::default().never_stale();
        let registry = Arc::new(Registry::new(&[("api", rules)], Arc::default()));
        let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(0));
        (registry, Leases::new(publisher, Duration::from_mins(1)))
    }

    fn workspace(port: u16) -> Workspace {
        let text = format!(
            "workspaces: [{{ id: w, owner: {{ subject: s }}, phase: running, destination: 10.0.0.1:{port} }}]"
        );
        let known = (["corp"].into(), AllowedBackends::default());
        document::parse("w", &text, Format::Yaml, &known.0, &known.1).unwrap().remove(0)
    }

    fn port(registry: &Registry) -> Option<String> {
        match registry.snapshot().find(None, "w") {
            LookupResult::Workspace(record) => {
                Some(record.workspace.endpoints[0].destination.to_string())
            }
            _ => None,
        }
    }

    fn at(secs: u64) -> MonotonicTime {
        MonotonicTime::at(Duration::from_secs(secs))
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends() {
        let (registry, leases) = leases();
        let lease = Some(Duration::from_secs(10));
        leases.put(workspace(1), None, lease, at(0)).unwrap();
        assert_eq!(leases.expire(at(9)), Some(at(10)));
        assert!(port(&registry).is_some());
        leases.put(workspace(1), None, lease, at(9)).unwrap();
        assert_eq!(leases.expire(at(18)), Some(at(19)), "renewed");
        assert_eq!(leases.expire(at(19)), None);
        assert_eq!(port(&registry), None);
        let hour = Some(Duration::from_hours(1));
        let held = leases.put(workspace(1), None, hour, at(20)).unwrap();
        assert_eq!(held.lease_seconds, 60, "no longer than the operator allows");
    }

    #[test]
    fn a_version_that_comes_late_changes_nothing() {
        let (registry, leases) = leases();
        leases.put(workspace(2), Some(2), None, at(0)).unwrap();
        assert_eq!(leases.put(workspace(1), Some(1), None, at(1)), Err(LeaseError::Outdated(2)));
        assert_eq!(leases.put(workspace(1), Some(2), None, at(1)), Err(LeaseError::Outdated(2)));
        assert_eq!(port(&registry).as_deref(), Some("10.0.0.1:2"));
        let id: WorkspaceId = "w".parse().unwrap();
        assert_eq!(leases.delete(&id, Some(1), at(2)), Err(LeaseError::Outdated(2)));
        assert_eq!(leases.delete(&id, Some(3), at(2)), Ok(true));
        assert_eq!(leases.put(workspace(2), Some(3), None, at(3)), Err(LeaseError::Outdated(3)));
        assert_eq!(port(&registry), None);
        assert_eq!(leases.delete(&id, None, at(3)), Ok(false));
        leases.put(workspace(4), None, None, at(4)).unwrap();
        assert_eq!(
            leases.list(at(4)),
            [HeldWorkspace { id: "w".into(), revision: 5, lease_seconds: 60 }]
        );
    }
}
