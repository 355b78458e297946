//! Live tunnels as people and machines see them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Tunnel, Tunnels};
use crate::{identity::Identity, time::Timestamp};

/// Live tunnels.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Views {
    /// The oldest first.
    pub tunnels: Vec<View>,
    /// How many were told to end, in the answer to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<usize>,
    /// What is wrong with the way to HAProxy.
    pub problems: Vec<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A live tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its id: that of the decision that opened it.
    pub id: String,
    /// `upgrade`, `connect`, `tcp` or `request`.
    pub kind: String,
    /// Who opened it, in one word.
    pub user: Option<String>,
    /// The issuer's id of them.
    pub subject: Option<String>,
    /// The issuer.
    pub issuer: Option<String>,
    /// What said so: `token`, `session`, `certificate` or `nobody`.
    pub by: String,
    /// The workspace.
    pub workspace: Option<String>,
    /// The endpoint.
    pub endpoint: Option<String>,
    /// The rule by which it was allowed.
    pub reason: String,
    /// The client's address.
    pub client: Option<String>,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How long ago that is.
    pub age_seconds: u64,
    /// The frontend, process and number that HAProxy has it under.
    pub frontend: String,
    /// The process.
    pub process: Option<u32>,
    /// The number.
    pub stream: Option<u32>,
    /// Whether its stream was found in a process of HAProxy.
    pub found: bool,
    /// Why it is to be cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutting: Option<String>,
}

/// Whose tunnels are meant; all that is named must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// The user's one word, or subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Selection {
    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the tunnel is meant.
    #[must_use]
    pub fn covers(&self, tunnel: &Tunnel) -> bool {
        let identity = tunnel.identity.as_deref();
        let user = self
            .user
            .as_ref()
            .is_none_or(|user| identity.is_some_and(|i| i.label() == user || *i.subject == **user));
        let workspace = self
            .workspace
            .as_ref()
            .is_none_or(|wanted| tunnel.workspace.as_ref().is_some_and(|id| id.as_str() == wanted));
        user && workspace && self.id.as_ref().is_none_or(|id| tunnel.id.as_str() == id)
    }
}

impl Tunnels {
    /// All tunnels that are meant, the oldest first.
    #[must_use]
    pub fn views(&self, selection: &Selection, now: Timestamp) -> Views {
        let state = self.lock();
        let meant = state.entries.values().filter(|entry| selection.covers(&entry.tunnel));
        let meant: Vec<_> = meant
            .map(|entry| {
                let cutting = entry.due.map(|due| due.cause.id());
                (Arc::clone(&entry.tunnel), entry.is_there(), cutting)
            })
            .collect();
        let problems = state.errors.iter().flatten().cloned().collect();
        drop(state);
        let view = |(tunnel, found, cutting): (Arc<Tunnel>, bool, Option<&str>)| {
            let identity = tunnel.identity.as_deref();
            View {
                id: tunnel.id.to_string(),
                kind: tunnel.kind.id().into(),
                user: identity.map(|i| Identity::label(i).into()),
                subject: identity.map(|i| i.subject.to_string()),
                issuer: identity.map(|i| i.issuer.to_string()),
                by: tunnel.by.id().into(),
                workspace: tunnel.workspace.as_ref().map(ToString::to_string),
                endpoint: tunnel.endpoint.as_ref().map(ToString::to_string),
                reason: tunnel.reason.id().into(),
                client: tunnel.client.map(|ip| ip.to_string()),
                since_ms: tunnel.since.as_millis(),
                age_seconds: now.since(tunnel.since).as_secs(),
                frontend: tunnel.place.frontend.escape_ascii().to_string(),
                process: tunnel.place.process,
                stream: tunnel.place.stream,
                found,
                cutting: cutting.map(Into::into),
            }
        };
        let mut tunnels: Vec<View> = meant.into_iter().map(view).collect();
        tunnels.sort_by(|a, b| (a.since_ms, &a.id).cmp(&(b.since_ms, &b.id)));
        Views { tunnels, problems, ..Views::default() }
    }
}
