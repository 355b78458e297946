//! Where workspaces come from: an adapter for each platform, a file, and the administrator's API.
//!
//! A platform that can be asked implements [`Source`](crate::workspaces::source::Source), and
//! [`crate::workspaces::reconcile`] lists it, follows it and repairs what was lost. A source that is told ([`file`],
//! [`hub`], [`api`]) writes through a [`Publisher`](crate::workspaces::registry::Publisher) itself. No adapter decides
//! anything about requests.

use std::sync::{Arc, Mutex};

use crate::workspaces::reconcile::status::Status;

pub mod api;
pub mod coder;
pub mod connect;
pub mod file;
pub mod gitpod;
pub mod http;
pub mod hub;
pub mod kubernetes;
pub mod ona;
pub(crate) mod words;

/// A source as the administrator sees it.
#[derive(Clone)]
pub struct WatchedSource {
    /// Its name.
    pub name: Box<str>,
    /// How it is doing.
    pub status: Arc<Mutex<Status>>,
    /// Its workspaces, where they are written through the administrator's API.
    pub leases: Option<Arc<api::Leases>>,
}
