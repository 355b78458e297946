//! The interface between the agent and a platform that can be queried.
//!
//! An adapter in [`crate::sources`] implements [`Source`] for one platform. [`super::reconcile`]
//! calls it: it asks for lists, reads and accounts, follows events, and publishes the results into
//! the [registry](super::registry). An adapter translates; it keeps no schedule, retries nothing
//! and decides nothing about requests.

use std::{future::Future, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;

use super::{IssuerNames, Organization, Workspace, WorkspaceId, directory::Member};
use crate::time::MonotonicTime;

/// The index of a source in the configuration, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

impl SourceId {
    /// The source with this index.
    #[must_use]
    pub const fn new(place: usize) -> Self {
        Self(place)
    }

    /// The index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// How the people of a platform are mapped to identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityMapping {
    /// The issuers at which these people sign in.
    pub issuers: IssuerNames,
    /// The name in identities of the organization that all of them belong to, if there is one.
    pub organization: Option<Box<str>>,
}

impl IdentityMapping {
    /// The organization that the platform's workspaces belong to.
    #[must_use]
    pub fn organization(&self) -> Option<Organization> {
        let name = self.organization.clone()?;
        Some(Organization { issuers: self.issuers.clone(), name })
    }
}

/// What a source supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub struct Capabilities {
    /// It reports changes as events.
    pub watches: bool,
    /// It can read a single workspace.
    pub reads: bool,
    /// It has accounts.
    pub accounts: bool,
    /// Its lists show one point in time, so a workspace that is missing in a list does not exist.
    pub lists_are_snapshots: bool,
}

/// A platform that can be queried.
pub trait Source: Send + Sync + 'static {
    /// What the source supports.
    fn capabilities(&self) -> Capabilities;

    /// Lists all workspaces that are up. Others may be in the list.
    fn list(&self) -> impl Future<Output = Result<Vec<Workspace>, SourceError>> + Send;

    /// Reads one workspace; `None` if the platform does not have it.
    fn read(
        &self,
        id: &WorkspaceId,
    ) -> impl Future<Output = Result<Option<Workspace>, SourceError>> + Send;

    /// Sends events until the connection ends, and returns why it ended. A clean end is an error
    /// too, since the caller must connect again.
    fn watch(&self, events: mpsc::Sender<SourceEvent>) -> impl Future<Output = SourceError> + Send;

    /// Lists all accounts.
    fn accounts(&self) -> impl Future<Output = Result<Vec<Member>, SourceError>> + Send;
}

/// A change that a platform reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// Events are delivered from now on. Changes before may not have been reported.
    Connected,
    /// This workspace changed.
    Changed(WorkspaceId),
    /// This workspace ended.
    Ended(WorkspaceId),
    /// This workspace changed to what is described.
    Described(Box<Workspace>),
    /// The complete list of workspaces at this moment.
    Listed(Vec<Workspace>, MonotonicTime),
    /// Some account or group changed.
    Accounts,
    /// Something changed that may concern any workspace.
    AnyWorkspace,
}

/// The reason why a source did not deliver.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// There was no response, or the platform reported an error of its own.
    #[error("the platform does not respond: {0}")]
    Unavailable(String),
    /// There were too many requests.
    #[error("the platform limits requests (next one in {0:?})")]
    RateLimited(Duration),
    /// The credential is missing, wrong or expired.
    #[error("the platform refuses the credential: {0}")]
    Unauthorized(String),
    /// The credential lacks a permission.
    #[error("the credential lacks a permission: {0}")]
    Forbidden(String),
    /// The response cannot be parsed.
    #[error("the platform's response cannot be parsed: {0}")]
    Protocol(String),
    /// There was no response in time.
    #[error("the platform did not respond in time")]
    Timeout,
}

impl SourceError {
    /// Returns whether an administrator must replace or extend the credential before requests can
    /// succeed.
    #[must_use]
    pub fn is_credential(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Forbidden(_))
    }
}
