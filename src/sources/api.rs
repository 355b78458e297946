//! Workspaces that somebody writes through the administrator's API: a controller, a build script.
//!
//! Each has a lease: who stops renewing it, because it died or lost its way, takes its routes along.
//! Nothing is kept over a restart, after which whoever writes writes again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    time::MonotonicTime,
    workspaces::{
        Revision, Workspace, WorkspaceId,
        registry::{Found, Publisher},
    },
};

/// The most workspaces that can be written.
const MAX: usize = 200_000;
/// How long the number of one that was taken away is remembered.
const REMEMBER: Duration = Duration::from_mins(15);

/// The workspaces of one such source.
pub struct Leases {
    publisher: Publisher,
    longest: Duration,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    all: HashMap<WorkspaceId, Lease>,
    /// Where they went with another configuration.
    moved: Option<Arc<Leases>>,
}

#[derive(Clone, Copy)]
struct Lease {
    revision: u64,
    /// When it ends; for one that was taken away, when it is forgotten.
    until: MonotonicTime,
    there: bool,
}

/// What became of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its id.
    pub id: String,
    /// The number of this version, the writer's or counted here.
    pub revision: u64,
    /// How long it holds if it is not written again.
    pub lease_seconds: u64,
}

/// Why a workspace was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// What is known is as new.
    #[error("revision {0} is known already: write a higher one")]
    Outdated(u64),
    /// Too many.
    #[error("{MAX} workspaces are written already")]
    Full,
}

impl Leases {
    /// No workspaces yet; each may be held for `longest` at most.
    #[must_use]
    pub fn new(publisher: Publisher, longest: Duration) -> Arc<Self> {
        // Nobody else knows of workspaces of this source, so what was not written does not exist.
        publisher.confirm(MonotonicTime::now());
        Arc::new(Self { publisher, longest, state: Mutex::default(), wake: Notify::new() })
    }

    /// The name of the source.
    #[must_use]
    pub fn name(&self) -> &str {
        self.publisher.name()
    }

    /// Writes a workspace, for so long at most. A writer that counts its versions gives their numbers,
    /// so that one that comes late changes nothing.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn put(
        &self,
        mut workspace: Workspace,
        revision: Option<u64>,
        lease: Option<Duration>,
        now: MonotonicTime,
    ) -> Result<Held, LeaseError> {
        let lease = lease.unwrap_or(self.longest).min(self.longest);
        let id = workspace.id.clone();
        let mut state = self.lock();
        if let Some(next) = &state.moved {
            let held = next.put(workspace.clone(), revision, Some(lease), now)?;
            self.publisher.set(workspace, now);
            return Ok(held);
        }
        let known = state.all.get(&id).map(|lease| lease.revision);
        let revision = next(known, revision)?;
        if known.is_none() && state.all.len() >= MAX {
            return Err(LeaseError::Full);
        }
        workspace.revision = Revision { spec: Some(revision), status: None };
        // Under the lock, so that what is written last is what holds.
        self.publisher.set(workspace, now);
        state.all.insert(id.clone(), Lease { revision, until: now.plus(lease), there: true });
        drop(state);
        self.wake.notify_one();
        Ok(Held { id: id.to_string(), revision, lease_seconds: lease.as_secs() })
    }

    /// Takes a workspace away. Returns whether it was there.
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
        let revision = next(Some(known), revision)?;
        self.publisher.end(id, now);
        state.all.insert(id.clone(), Lease { revision, until: now.plus(REMEMBER), there: false });
        Ok(there)
    }

    /// Everything that is held, by id.
    #[must_use]
    pub fn list(&self, now: MonotonicTime) -> Vec<Held> {
        let state = self.lock();
        if let Some(next) = &state.moved {
            return next.list(now);
        }
        let held = state.all.iter().filter(|(_, lease)| lease.there).map(|(id, lease)| Held {
            id: id.to_string(),
            revision: lease.revision,
            lease_seconds: lease.until.since(now).as_secs(),
        });
        let mut held: Vec<_> = held.collect();
        held.sort_by(|a, b| a.id.cmp(&b.id));
        held
    }

    /// Hands everything that is held over to the same source of another configuration. Whoever still writes
    /// here writes there too.
    pub fn move_to(&self, next: &Arc<Self>) {
        let mut state = self.lock();
        let snapshot = self.publisher.registry().snapshot();
        let mut taken = next.lock();
        for (id, lease) in &state.all {
            if lease.there
                && let Found::Workspace(record) =
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

    /// Ends what is not renewed, until stopped.
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

    /// Ends every lease that is over. Returns when the next one is.
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next(known: Option<u64>, given: Option<u64>) -> Result<u64, LeaseError> {
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
            destination::Backends,
            registry::{Found, Registry, SourceRules},
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
        let known = (["corp"].into(), Backends::default());
        document::parse("w", &text, Format::Yaml, &known.0, &known.1).unwrap().remove(0)
    }

    fn port(registry: &Registry) -> Option<String> {
        match registry.snapshot().find(None, "w") {
            Found::Workspace(record) => Some(record.workspace.endpoints[0].destination.to_string()),
            _ => None,
        }
    }

    fn at(secs: u64) -> MonotonicTime {
        MonotonicTime::at(Duration::from_secs(secs))
    }

    #[test]
    fn a_lease_that_nobody_renews_ends() {
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
        assert_eq!(leases.list(at(4)), [Held { id: "w".into(), revision: 5, lease_seconds: 60 }]);
    }
}
