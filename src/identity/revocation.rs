//! The list of revocations: of a subject, of what a subject was issued so far, of a session, of a token.
//!
//! Administrators add and lift them through the admin API; agents that share a store pass them on to each other. Every
//! request is compared with the list, so a revocation is in force from the next request on, for cached tokens and
//! sessions too. Nearly always the list is empty, and then the comparison is one read of an atomic.
//!
//! The invariant: a revocation is on disk before it is confirmed, and the list in memory and the journal change in the
//! same order.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{error, warn};

use super::{Authority, Identity};
use crate::{
    lock::{Mutex, RwLock},
    time::Timestamp,
};

mod journal;
mod record;

pub use journal::JournalError;
use journal::{Journal, JournalEntry};
pub use record::Revocation;
use record::{AuthorityRevocations, MAX_TEXT};

/// The most revocations. A million take 330 MiB of memory.
pub const MAX_REVOCATIONS: usize = 1_000_000;

/// Why a revocation was not added or lifted.
#[derive(Debug, Error)]
pub enum RevokeError {
    /// It does not name exactly one thing.
    #[error(
        "expected exactly one of 'subject' (with 'before_ms' or without), 'session' and 'token'"
    )]
    Target,
    /// It has a text that no token can have.
    #[error("expected texts of 1 to {MAX_TEXT} bytes without control characters")]
    Text,
    /// Its issuer is not configured.
    #[error("expected 'issuer' to be one of {0}")]
    Issuer(String),
    /// There are too many revocations.
    #[error(
        "there are {MAX_REVOCATIONS} revocations already: lift those whose tokens have expired"
    )]
    Full,
    /// It cannot be written, so it is not in force: it would not survive a restart.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It is in force at this agent, but the other agents could not be told.
    #[error("in force at this agent; the others get it when they can be reached again: {0}")]
    Others(String),
    /// The other agents could not be told, so it is not lifted.
    #[error("other agents cannot be told, so the revocation stays: {0}")]
    Stays(String),
}

/// All revocations.
pub struct Revocations {
    authorities: ArcSwap<Vec<Arc<Authority>>>,
    /// By the identifier of the authority, since a revocation must outlive a change of the name.
    all: RwLock<HashMap<Box<str>, AuthorityRevocations>>,
    /// How many there are. Requests read it first, and nearly always it is zero.
    count: AtomicUsize,
    /// How often the list changed.
    changes: AtomicU64,
    /// The lock is held during a whole change, so that memory and disk change in the same order.
    journal: Mutex<Option<Journal>>,
    others: OnceLock<Arc<dyn OtherAgents>>,
}

/// A change of the list, for the other agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationChange {
    /// The revocation.
    pub revocation: Revocation,
    /// Whether it was lifted.
    pub lifted: bool,
    /// The time of the change in milliseconds since the Unix epoch: of two changes the later one holds.
    pub at_ms: u64,
}

/// The other agents, which get every change that is made here.
pub trait OtherAgents: Send + Sync {
    /// Passes a change on. May block.
    ///
    /// # Errors
    /// Why it failed. The change is passed on as soon as that is possible.
    fn pass_on(&self, change: &RevocationChange) -> Result<(), String>;
}

/// A kind of change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RevocationAction {
    Revoked,
    Lifted,
}

impl Revocations {
    /// The revocations of the journal, or none without a journal. `authorities` are the configured issuers and certificate
    /// rules.
    ///
    /// # Errors
    /// The journal cannot be read to its end. The agent must not start then, as it would accept what was revoked.
    pub fn open(
        authorities: Vec<Arc<Authority>>,
        journal: Option<PathBuf>,
    ) -> Result<Self, JournalError> {
        let revocations = Self {
            authorities: ArcSwap::from_pointee(authorities),
            all: RwLock::default(),
            count: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            journal: Mutex::new(None),
            others: OnceLock::new(),
        };
        if let Some(path) = journal {
            let journal = Journal::open(path, |change| match change {
                JournalEntry::Revoke(revocation) => {
                    revocations.insert(revocations.identified(revocation));
                }
                JournalEntry::Lift(revocation) => {
                    revocations.remove(&revocations.identified(revocation));
                }
            })?;
            *revocations.journal.lock() = Some(journal);
        }
        Ok(revocations)
    }

    /// Takes over the issuers and certificate rules of a new configuration. Revocations of those that are gone stay in the
    /// list, in case they return.
    pub fn set_authorities(&self, authorities: Vec<Arc<Authority>>) {
        self.authorities.store(Arc::new(authorities));
    }

    /// Makes this process the writer of the journal. Without it the journal is only read.
    ///
    /// # Errors
    /// Another agent writes to the journal, or it cannot be written.
    pub fn own(&self) -> Result<(), JournalError> {
        let mut journal = self.journal.lock();
        journal.as_mut().map_or(Ok(()), Journal::own)
    }

    /// Whether the identity, its session or its token is revoked.
    #[must_use]
    pub fn cover(&self, identity: &Identity) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let all = self.all.read();
        let authority = &identity.authority;
        // The identifier may have been another spelling of the issuer when the revocation was made.
        let also = authority.accepted.iter().filter(|iss| **iss != authority.identifier);
        let identifiers = std::iter::once(&authority.identifier).chain(also);
        identifiers.filter_map(|identifier| all.get(identifier)).any(|of| of.cover(identity))
    }

    /// A number that grows with each change, by which revalidation notices one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Adds a revocation. It is in force for every request from the return of this call on, and after a restart.
    ///
    /// # Errors
    /// The revocation is not valid, there are too many, or it cannot be written. Nothing is revoked then.
    pub fn revoke(
        &self,
        revocation: Revocation,
        now: Timestamp,
    ) -> Result<Revocation, RevokeError> {
        let mut revocation = self.check(revocation)?;
        revocation.at_ms = Some(now.as_millis());
        let mut journal = self.journal.lock();
        if self.count.load(Ordering::Acquire) >= MAX_REVOCATIONS {
            return Err(RevokeError::Full);
        }
        if let Some(journal) = journal.as_mut() {
            journal.append(&JournalEntry::Revoke(revocation.clone()))?;
        }
        self.insert(revocation.clone());
        Ok(revocation)
    }

    /// Lifts a revocation. Returns whether there was one.
    ///
    /// # Errors
    /// The revocation is not valid, the other agents cannot be told, or the change cannot be written. The revocation stays
    /// then.
    pub fn lift(&self, revocation: Revocation, now: Timestamp) -> Result<bool, RevokeError> {
        let revocation = match self.check(revocation.clone()) {
            // A revocation of an issuer that is no longer configured can be lifted too.
            Err(RevokeError::Issuer(_)) if self.known_at(&revocation).is_some() => revocation,
            checked => checked?,
        };
        if self.known_at(&revocation).is_none() {
            return Ok(false);
        }
        // The other agents first: otherwise one of them could send the revocation back.
        self.pass_on(&revocation, RevocationAction::Lifted, now).map_err(RevokeError::Stays)?;
        let mut journal = self.journal.lock();
        if let Some(journal) = journal.as_mut() {
            journal.append(&JournalEntry::Lift(revocation.clone()))?;
        }
        self.remove(&revocation);
        Ok(true)
    }

    /// Sets the other agents. Only the first call has an effect.
    pub fn share(&self, others: Arc<dyn OtherAgents>) {
        let _ = self.others.set(others);
    }

    /// Passes a revocation that was made here on to the other agents, if there are any. May block.
    ///
    /// # Errors
    /// Why it failed.
    pub fn share_revoked(&self, revocation: &Revocation, now: Timestamp) -> Result<(), String> {
        self.pass_on(revocation, RevocationAction::Revoked, now)
    }

    fn pass_on(
        &self,
        revocation: &Revocation,
        action: RevocationAction,
        now: Timestamp,
    ) -> Result<(), String> {
        let Some(others) = self.others.get() else { return Ok(()) };
        let (revocation, at_ms) = (revocation.clone(), now.as_millis());
        others.pass_on(&RevocationChange {
            revocation,
            lifted: action == RevocationAction::Lifted,
            at_ms,
        })
    }

    /// Applies a change that was made at another agent, unless a later one is known here. May block on the disk. A change
    /// that cannot be written is in force until the next start.
    pub fn learn(&self, shared: &RevocationChange) {
        // Its issuer need not be configured here, or not yet.
        let revocation = self.identified(shared.revocation.clone());
        if let Err(error) = revocation.validate() {
            return warn!(%error, "reading a revocation made at another agent failed: this agent does not apply it");
        }
        let mut journal = self.journal.lock();
        let known = self.known_at(&revocation);
        // Changes may arrive in another order than they were made, so their times decide.
        let change = match (shared.lifted, known) {
            (true, Some(at)) if at <= shared.at_ms => JournalEntry::Lift(revocation.clone()),
            (false, None) => JournalEntry::Revoke(revocation.clone()),
            (false, Some(at)) if at < shared.at_ms => JournalEntry::Revoke(revocation.clone()),
            _ => return,
        };
        if !shared.lifted && self.count.load(Ordering::Acquire) >= MAX_REVOCATIONS {
            return error!(
                "applying a revocation made at another agent failed, the list is full: {}",
                RevokeError::Full
            );
        }
        if let Some(journal) = journal.as_mut()
            && let Err(error) = journal.append(&change)
        {
            error!(%error, "storing a revocation made at another agent failed: it is in force, but only until this agent restarts");
        }
        match change {
            JournalEntry::Revoke(revocation) => self.insert(revocation),
            JournalEntry::Lift(revocation) => {
                self.remove(&revocation);
            }
        }
    }

    /// When this was revoked; `None` if it is not, zero if the revocation has no time.
    fn known_at(&self, revocation: &Revocation) -> Option<u64> {
        let (kind, named) = revocation.target()?;
        let all = self.all.read();
        let known = all.get(&revocation.issuer)?.kind(kind).get(named)?;
        Some(known.at_ms.unwrap_or_default())
    }

    /// How many revocations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are no revocations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revocation with the configured name of its issuer, if it is configured, for people to read.
    #[must_use]
    pub fn named(&self, mut revocation: Revocation) -> Revocation {
        let authorities = self.authorities.load();
        let is_it = |one: &&Arc<Authority>| one.identifier == revocation.issuer;
        if let Some(known) = authorities.iter().find(is_it) {
            revocation.issuer = known.name.clone();
        }
        revocation
    }

    /// The revocation with the identifier of its issuer. An issuer that is not configured stays as it is.
    fn identified(&self, mut revocation: Revocation) -> Revocation {
        if let Some(known) = self.authority(&revocation.issuer) {
            revocation.issuer = known.identifier.clone();
        }
        revocation
    }

    /// The configured authority with this identifier, or else with this `iss`, or else with this name.
    fn authority(&self, text: &str) -> Option<Arc<Authority>> {
        let all = self.authorities.load();
        let by = |is_it: &dyn Fn(&Authority) -> bool| all.iter().find(|one| is_it(one)).cloned();
        by(&|one| *one.identifier == *text)
            .or_else(|| by(&|one| one.accepted.iter().any(|iss| **iss == *text)))
            .or_else(|| by(&|one| *one.name == *text))
    }

    /// Every revocation, the latest first. The lock that requests need is only held to copy one pointer for each authority.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Revocation>> {
        let all: Vec<AuthorityRevocations> = {
            let all = self.all.read();
            all.values().cloned().collect()
        };
        let maps = all.iter().flat_map(|of| [&of.subjects, &of.sessions, &of.tokens]);
        let mut list: Vec<_> = maps.flat_map(|map| map.values().cloned()).collect();
        list.sort_by_key(|revocation| std::cmp::Reverse(revocation.at_ms));
        list
    }

    /// The revocation with the identifier of its issuer, if it is valid.
    fn check(&self, mut revocation: Revocation) -> Result<Revocation, RevokeError> {
        let configured = self.authorities.load();
        // With one issuer the administrator may leave it out.
        let only = match configured.as_slice() {
            [only] if revocation.issuer.is_empty() => Some(Arc::clone(only)),
            _ => self.authority(&revocation.issuer),
        };
        let Some(authority) = only else {
            let names = configured.iter().map(|one| format!("{:?}", one.name));
            return Err(RevokeError::Issuer(names.collect::<Vec<_>>().join(", ")));
        };
        revocation.issuer = authority.identifier.clone();
        revocation.validate()?;
        Ok(revocation)
    }

    fn insert(&self, mut revocation: Revocation) {
        let Some((kind, named)) = revocation.target() else { return };
        let named: Arc<str> = named.into();
        let mut all = self.all.write();
        let map = all.entry(revocation.issuer.clone()).or_default().of_kind(kind);
        if let Some(old) = map.get(&named) {
            // A second revocation never makes the first one narrower.
            revocation.before_ms = match (old.before_ms, revocation.before_ms) {
                (Some(old), Some(new)) => Some(old.max(new)),
                _ => None,
            };
        }
        // Counted under the lock, but read without it: a request that sees zero began before this revocation was confirmed.
        if map.insert(named, Arc::new(revocation)).is_none() {
            self.count.fetch_add(1, Ordering::Release);
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn remove(&self, revocation: &Revocation) -> bool {
        let Some((kind, named)) = revocation.target() else { return false };
        let mut all = self.all.write();
        let map = all.get_mut(&revocation.issuer).map(|of| of.of_kind(kind));
        let removed = map.and_then(|map| map.remove(named)).is_some();
        if removed {
            self.count.fetch_sub(1, Ordering::Release);
        }
        removed
    }
}

#[cfg(test)]
mod tests;
