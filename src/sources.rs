//! Where workspaces come from: the platforms' own APIs, a file, whoever writes to the admin API.
//!
//! A source that can be asked implements [`Source`], and [`crate::workspaces::reconcile`] does the rest; one that
//! is told ([`file`], [`hub`], the admin API) writes through a
//! [`Publisher`](crate::workspaces::registry::Publisher) itself. None decides anything about requests.

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
