//! What was revoked before its time: a subject, what a subject was issued so far, a session, a token.
//!
//! Every request asks, so a revocation counts for the next one, and nothing that was remembered of a
//! token needs to be forgotten for it. Each is on disk before it is confirmed.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{error, warn};

use super::{Authority, Identity};
use crate::{
    lock::{Mutex, RwLock},
    time::Timestamp,
};

mod journal;

pub use journal::JournalError;
use journal::{Journal, JournalEntry};

/// The most revocations that are kept: one for each person of a large company twice over, in 330 MiB.
pub const MAX_REVOCATIONS: usize = 1_000_000;
/// The longest text in one, in bytes.
const MAX_TEXT: usize = 512;

/// One revocation, as the administrator writes it and the journal keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revocation {
    /// The issuer: its identifier, by which revocations are kept, or its configured name or that of a certificate
    /// rule; may be left out where there is just one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub issuer: Box<str>,
    /// Everything of a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<str>>,
    /// With a subject: only what was issued before, in milliseconds since the Unix epoch, and what does
    /// not say when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<u64>,
    /// A session at the issuer (`sid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<str>>,
    /// A token (`jti`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Box<str>>,
    /// When it was revoked, by the agent's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Why, in the administrator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Box<str>>,
}

/// Why a revocation was not kept.
#[derive(Debug, Error)]
pub enum RevokeError {
    /// Not exactly one thing.
    #[error(
        "expected exactly one of 'subject' (with 'before_ms' or without), 'session' and 'token'"
    )]
    Target,
    /// A text that no token could have.
    #[error("expected texts of 1 to {MAX_TEXT} bytes without control characters")]
    Text,
    /// An issuer that is not configured.
    #[error("expected 'issuer' to be one of {0}")]
    Issuer(String),
    /// Too many.
    #[error("{MAX_REVOCATIONS} revocations are kept already: lift those whose tokens have expired")]
    Full,
    /// It would not outlive a restart, so it does not count now either.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It counts here, but other agents could not be told.
    #[error("done at this agent; the others hear of it when they can be reached again: {0}")]
    Others(String),
    /// Other agents could not be told, so it is not taken back.
    #[error("other agents cannot be told, so the revocation stays: {0}")]
    Stays(String),
}

#[derive(Clone, Copy)]
enum RevocationKind {
    Subject,
    Session,
    Token,
}

/// All revocations.
pub struct Revocations {
    authorities: ArcSwap<Vec<Arc<Authority>>>,
    /// By the identifier of the authority: its name may change, and what was revoked must stay so.
    all: RwLock<HashMap<Box<str>, AuthorityRevocations>>,
    /// How many there are; nearly always none, and then a request looks no further.
    count: AtomicUsize,
    /// How often they changed.
    changes: AtomicU64,
    /// Held for a whole change, so that memory and disk change in the same order.
    journal: Mutex<Option<Journal>>,
    others: OnceLock<Arc<dyn OtherAgents>>,
}

/// A change for other agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationChange {
    /// What is revoked.
    pub revocation: Revocation,
    /// Whether it is no longer.
    pub lifted: bool,
    /// When that was, in milliseconds since the Unix epoch: of two changes the later one counts.
    pub at_ms: u64,
}

/// Other agents, which must hear of what is revoked here.
pub trait OtherAgents: Send + Sync {
    /// Tells them. May wait.
    ///
    /// # Errors
    /// Why not; they are told as soon as they can be.
    fn tell(&self, spread: &RevocationChange) -> Result<(), String>;
}

/// What was done to a revocation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RevocationAction {
    Revoked,
    Lifted,
}

/// The revocations of one authority, by what they name. The maps are persistent, so that a copy of all is made at
/// once, however many there are: a request must not wait behind a list of a million.
#[derive(Clone, Default)]
struct AuthorityRevocations {
    subjects: RevocationsById,
    sessions: RevocationsById,
    tokens: RevocationsById,
}

type RevocationsById = imbl::HashMap<Arc<str>, Arc<Revocation>>;

impl Revocations {
    /// None yet; those of the journal are read first, if there is one. `authorities` are the configured issuers
    /// and certificate rules.
    ///
    /// # Errors
    /// The journal cannot be read to its end: nobody knows then what else was revoked.
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

    /// Other issuers and certificate rules are configured now. Revocations of those that are not stay, should
    /// they come back.
    pub fn set_authorities(&self, authorities: Vec<Arc<Authority>>) {
        self.authorities.store(Arc::new(authorities));
    }

    /// Makes this process the one that writes to the journal; without it, a journal is only read.
    ///
    /// # Errors
    /// Another agent has it, or it cannot be written.
    pub fn own(&self) -> Result<(), JournalError> {
        let mut journal = self.journal.lock();
        journal.as_mut().map_or(Ok(()), Journal::own)
    }

    /// Whether the identity, its session or its token was revoked.
    #[must_use]
    pub fn cover(&self, identity: &Identity) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let all = self.all.read();
        let authority = &identity.authority;
        // Another spelling of the issuer may have been its identifier when something was revoked.
        let also = authority.accepted.iter().filter(|iss| **iss != authority.identifier);
        let identifiers = std::iter::once(&authority.identifier).chain(also);
        identifiers.filter_map(|identifier| all.get(identifier)).any(|of| of.cover(identity))
    }

    /// A number that grows with each change, so that whoever acts on revocations knows of one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Revokes. Counts for every request from its return on, and after a restart.
    ///
    /// # Errors
    /// It is no revocation, there are too many, or it cannot be written; nothing is revoked then.
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

    /// Takes a revocation back. Returns whether there was one.
    ///
    /// # Errors
    /// It names nothing, other agents cannot be told, or it cannot be written; the revocation stays then.
    pub fn lift(&self, revocation: Revocation, now: Timestamp) -> Result<bool, RevokeError> {
        let revocation = match self.check(revocation.clone()) {
            // What was revoked of an issuer that is not configured any more can be lifted all the same.
            Err(RevokeError::Issuer(_)) if self.known_at(&revocation).is_some() => revocation,
            checked => checked?,
        };
        if self.known_at(&revocation).is_none() {
            return Ok(false);
        }
        // First the others, so that none of them brings it back.
        self.tell(&revocation, RevocationAction::Lifted, now).map_err(RevokeError::Stays)?;
        let mut journal = self.journal.lock();
        if let Some(journal) = journal.as_mut() {
            journal.append(&JournalEntry::Lift(revocation.clone()))?;
        }
        self.remove(&revocation);
        Ok(true)
    }

    /// Names the other agents, once.
    pub fn share(&self, others: Arc<dyn OtherAgents>) {
        // A second time would be a fault of the start-up, and changes nothing.
        let _ = self.others.set(others);
    }

    /// Tells other agents of a revocation that was made here, if there are any. May wait.
    ///
    /// # Errors
    /// Why they could not be told.
    pub fn tell_revoked(&self, revocation: &Revocation, now: Timestamp) -> Result<(), String> {
        self.tell(revocation, RevocationAction::Revoked, now)
    }

    fn tell(
        &self,
        revocation: &Revocation,
        done: RevocationAction,
        now: Timestamp,
    ) -> Result<(), String> {
        let Some(others) = self.others.get() else { return Ok(()) };
        let (revocation, at_ms) = (revocation.clone(), now.as_millis());
        others.tell(&RevocationChange {
            revocation,
            lifted: done == RevocationAction::Lifted,
            at_ms,
        })
    }

    /// Takes in what was done at another agent, unless something later is known here. May wait for the
    /// disk; what cannot be written counts until the next start.
    pub fn learn(&self, spread: &RevocationChange) {
        // Also of an issuer that is not configured here, or not yet.
        let revocation = self.identified(spread.revocation.clone());
        if let Err(error) = revocation.is_good() {
            return warn!(%error, "applying a revocation made at another agent failed: it is not valid");
        }
        let mut journal = self.journal.lock();
        let known = self.known_at(&revocation);
        let change = match (spread.lifted, known) {
            (true, Some(at)) if at <= spread.at_ms => JournalEntry::Lift(revocation.clone()),
            (false, None) => JournalEntry::Revoke(revocation.clone()),
            (false, Some(at)) if at < spread.at_ms => JournalEntry::Revoke(revocation.clone()),
            _ => return,
        };
        if !spread.lifted && self.count.load(Ordering::Acquire) >= MAX_REVOCATIONS {
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

    /// When something was revoked, if it is; zero if nobody says.
    fn known_at(&self, revocation: &Revocation) -> Option<u64> {
        let (kind, named) = revocation.target()?;
        let all = self.all.read();
        let known = all.get(&revocation.issuer)?.kind(kind).get(named)?;
        Some(known.at_ms.unwrap_or_default())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same with the configured name of its issuer, if it is configured: for people.
    #[must_use]
    pub fn named(&self, mut revocation: Revocation) -> Revocation {
        let authorities = self.authorities.load();
        let is_it = |one: &&Arc<Authority>| one.identifier == revocation.issuer;
        if let Some(known) = authorities.iter().find(is_it) {
            revocation.issuer = known.name.clone();
        }
        revocation
    }

    /// The same with the identifier of its issuer. What names no configured one stays as it is.
    fn identified(&self, mut revocation: Revocation) -> Revocation {
        if let Some(known) = self.authority(&revocation.issuer) {
            revocation.issuer = known.identifier.clone();
        }
        revocation
    }

    /// The authority of this identifier, or else of this `iss` or name.
    fn authority(&self, text: &str) -> Option<Arc<Authority>> {
        let all = self.authorities.load();
        let by = |is_it: &dyn Fn(&Authority) -> bool| all.iter().find(|one| is_it(one)).cloned();
        by(&|one| *one.identifier == *text)
            .or_else(|| by(&|one| one.accepted.iter().any(|iss| **iss == *text)))
            .or_else(|| by(&|one| *one.name == *text))
    }

    /// All of them, the latest first. The lock that requests need is held for one step for each authority.
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

    fn check(&self, mut revocation: Revocation) -> Result<Revocation, RevokeError> {
        let configured = self.authorities.load();
        let only = match configured.as_slice() {
            [only] if revocation.issuer.is_empty() => Some(Arc::clone(only)),
            _ => self.authority(&revocation.issuer),
        };
        let Some(authority) = only else {
            let names = configured.iter().map(|one| format!("{:?}", one.name));
            return Err(RevokeError::Issuer(names.collect::<Vec<_>>().join(", ")));
        };
        revocation.issuer = authority.identifier.clone();
        revocation.is_good()?;
        Ok(revocation)
    }

    fn insert(&self, mut revocation: Revocation) {
        let Some((kind, named)) = revocation.target() else { return };
        let named: Arc<str> = named.into();
        let mut all = self.all.write();
        let map = all.entry(revocation.issuer.clone()).or_default().of_kind(kind);
        if let Some(old) = map.get(&named) {
            // A second revocation never takes part of the first one back.
            revocation.before_ms = match (old.before_ms, revocation.before_ms) {
                (Some(old), Some(new)) => Some(old.max(new)),
                _ => None,
            };
        }
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

impl AuthorityRevocations {
    fn cover(&self, identity: &Identity) -> bool {
        let token = &identity.token;
        let by_subject = self.subjects.get(&*identity.subject).is_some_and(|revocation| {
            match (revocation.before_ms, token.issued) {
                (Some(before), Some(issued)) => issued < Timestamp::from_millis(before),
                _ => true,
            }
        });
        by_subject
            || token.session.as_ref().is_some_and(|id| self.sessions.contains_key(&**id))
            || token.id.as_ref().is_some_and(|id| self.tokens.contains_key(&**id))
    }

    fn of_kind(&mut self, kind: RevocationKind) -> &mut RevocationsById {
        match kind {
            RevocationKind::Subject => &mut self.subjects,
            RevocationKind::Session => &mut self.sessions,
            RevocationKind::Token => &mut self.tokens,
        }
    }

    fn kind(&self, kind: RevocationKind) -> &RevocationsById {
        match kind {
            RevocationKind::Subject => &self.subjects,
            RevocationKind::Session => &self.sessions,
            RevocationKind::Token => &self.tokens,
        }
    }
}

impl Revocation {
    /// The one thing that is revoked, if it is one.
    fn target(&self) -> Option<(RevocationKind, &str)> {
        match (&self.subject, &self.session, &self.token, self.before_ms) {
            (Some(subject), None, None, _) => Some((RevocationKind::Subject, subject)),
            (None, Some(session), None, None) => Some((RevocationKind::Session, session)),
            (None, None, Some(token), None) => Some((RevocationKind::Token, token)),
            _ => None,
        }
    }

    /// Whether it names one thing, in texts that a token could have.
    fn is_good(&self) -> Result<(), RevokeError> {
        let (_, named) = self.target().ok_or(RevokeError::Target)?;
        let clean = |text: &str| {
            !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
        };
        if clean(named) && self.note.as_deref().is_none_or(clean) {
            Ok(())
        } else {
            Err(RevokeError::Text)
        }
    }

    /// SHA-256 of what is revoked, whatever else is said of it.
    #[must_use]
    pub fn name(&self) -> [u8; 32] {
        let target = self.target().map(|(kind, named)| (kind as u8, named));
        // Numbers, strings and pairs of them cannot fail to be written.
        let text = serde_json::to_vec(&(&*self.issuer, target)).unwrap_or_default();
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
        name
    }
}

#[cfg(test)]
mod tests;
