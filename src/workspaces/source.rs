//! What a platform can be asked, and what it tells: the interface that [`super::reconcile`] works with.

use std::{future::Future, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;

use super::{IssuerNames, Organization, Workspace, WorkspaceId, directory::Member};
use crate::time::MonotonicTime;

/// A source of workspaces: its place in the configuration, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

impl SourceId {
    /// The source at that place.
    #[must_use]
    pub const fn new(place: usize) -> Self {
        Self(place)
    }

    /// Its place.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// How the people of a platform are joined to identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// The issuers whose identities they have.
    pub issuers: IssuerNames,
    /// What they are called together in identities of these issuers.
    pub organization: Option<Box<str>>,
}

impl Joining {
    /// The organization of the platform's workspaces.
    #[must_use]
    pub fn organization(&self) -> Option<Organization> {
        let name = self.organization.clone()?;
        Some(Organization { issuers: self.issuers.clone(), name })
    }
}

/// What a source can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub struct Abilities {
    /// It tells of changes.
    pub watches: bool,
    /// It can be asked about one workspace.
    pub reads: bool,
    /// It knows accounts.
    pub accounts: bool,
    /// Its lists are made at one moment, so that what is not in one is nowhere.
    pub whole_lists: bool,
}

/// A platform that can be asked.
pub trait Source: Send + Sync + 'static {
    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// Every workspace that is up, and maybe others.
    fn list(&self) -> impl Future<Output = Result<Vec<Workspace>, SourceError>> + Send;

    /// One workspace; `None` when the platform does not have it.
    fn read(
        &self,
        id: &WorkspaceId,
    ) -> impl Future<Output = Result<Option<Workspace>, SourceError>> + Send;

    /// Follows changes until it can no more. Also an end in good order is one.
    fn watch(&self, events: mpsc::Sender<Event>) -> impl Future<Output = SourceError> + Send;

    /// Every account.
    fn accounts(&self) -> impl Future<Output = Result<Vec<Member>, SourceError>> + Send;
}

/// What a platform tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It listens from now on: what changed before may have gone unsaid.
    Connected,
    /// Something about this workspace changed.
    Changed(WorkspaceId),
    /// This workspace has ended.
    Ended(WorkspaceId),
    /// The workspace is like this now.
    Described(Box<Workspace>),
    /// Every workspace there is, as of this moment.
    Everything(Vec<Workspace>, MonotonicTime),
    /// Something about accounts changed.
    Accounts,
    /// Something changed that may concern any workspace.
    Anything,
}

/// Why a source cannot tell.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// No answer, or a fault of the platform's.
    #[error("the platform does not answer: {0}")]
    Unavailable(String),
    /// Asked too often.
    #[error("the platform asks for fewer requests (next in {0:?})")]
    RateLimited(Duration),
    /// The credential is missing, wrong or over.
    #[error("the platform refuses the credential: {0}")]
    Unauthorized(String),
    /// The credential does not reach so far.
    #[error("the credential may not do this: {0}")]
    Forbidden(String),
    /// An answer that cannot be read.
    #[error("the platform's answer cannot be read: {0}")]
    Protocol(String),
    /// No answer in time.
    #[error("the platform did not answer in time")]
    Timeout,
}

impl SourceError {
    /// Whether an administrator has to do something before it can end.
    #[must_use]
    pub fn is_credential(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Forbidden(_))
    }
}
