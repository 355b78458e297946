//! Where workspaces come from: one adapter for each platform, a file, and the admin API.
//!
//! A platform that can be queried implements [`Source`](crate::workspaces::source::Source), and
//! [`crate::workspaces::reconcile`] lists it, follows its events and repairs what was lost. A
//! source that receives its workspaces ([`file`], [`hub`], [`api`]) writes through a
//! [`Publisher`](crate::workspaces::registry::Publisher) itself.
//!
//! An adapter translates the platform's description into a
//! [`Workspace`](crate::workspaces::Workspace). It decides nothing about requests. What it does not
//! understand becomes the narrowest value: an unknown state is not routable, and an unknown sharing
//! level admits only the owner.

use std::sync::Arc;

use crate::{lock::Mutex, workspaces::reconcile::status::SourceStatus};

pub mod api;
pub mod coder;
pub mod connect;
pub(crate) mod cross_origin;
pub mod feeds;
pub mod file;
pub mod gitpod;
pub mod http;
pub mod hub;
pub(crate) mod issuer_key;
pub mod kubernetes;
pub mod ona;
pub mod settings;

/// A source as the admin API and the metrics see it.
#[derive(Clone)]
pub struct WatchedSource {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Its state.
    pub status: Arc<Mutex<SourceStatus>>,
    /// Its leases, if its workspaces are written through the admin API.
    pub leases: Option<Arc<api::Leases>>,
}
