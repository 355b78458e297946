//! The list of live tunnels, as the command line prints it and the admin API returns it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Tunnel, Tunnels};
use crate::{identity::Identity, time::Timestamp};

/// A list of live tunnels.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelList {
    /// The tunnels, oldest first.
    pub tunnels: Vec<TunnelView>,
    /// How many tunnels are being terminated. Only in the response to a request to terminate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<usize>,
    /// Why sockets of HAProxy do not answer.
    pub problems: Vec<String>,
    /// Why the request failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One live tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelView {
    /// The id of the tunnel, which is that of the decision that opened it.
    pub id: String,
    /// `upgrade`, `connect`, `tcp` or `request`.
    pub kind: String,
    /// The person or machine that opened it, as records name them.
    pub user: Option<String>,
    /// The subject at the issuer.
    pub subject: Option<String>,
    /// The issuer.
    pub issuer: Option<String>,
    /// The credential that opened it: `token`, `session`, `certificate` or `none`.
    pub credential: String,
    /// The workspace.
    pub workspace: Option<String>,
    /// The endpoint.
    pub endpoint: Option<String>,
    /// The reason for which it was allowed.
    pub reason: String,
    /// The address of the client.
    pub client: Option<String>,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How many seconds ago it was opened.
    pub age_seconds: u64,
    /// The frontend of HAProxy.
    pub frontend: String,
    /// The id of the HAProxy process.
    pub process: Option<u32>,
    /// The number of the stream.
    pub stream: Option<u32>,
    /// Whether its stream was found in a process of HAProxy.
    pub found: bool,
    /// Why it is being terminated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<String>,
}

/// Selects tunnels: those that match every field that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelSelection {
    /// The user as records name them, or the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The id of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl TunnelSelection {
    /// Whether no field is set, so that every tunnel matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a tunnel matches.
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
    /// The tunnels that match, oldest first.
    #[must_use]
    pub fn views(&self, selection: &TunnelSelection, now: Timestamp) -> TunnelList {
        let state = self.lock();
        let selected = state.entries.values().filter(|entry| selection.covers(&entry.tunnel));
        let selected: Vec<_> = selected
            .map(|entry| {
                let terminating = entry.due.map(|due| due.cause.id());
                (Arc::clone(&entry.tunnel), entry.is_there(), terminating)
            })
            .collect();
        let problems = state.errors.iter().flatten().cloned().collect();
        // Texts are made without the lock: requests need it.
        drop(state);
        let view = |(tunnel, found, terminating): (Arc<Tunnel>, bool, Option<&str>)| {
            let identity = tunnel.identity.as_deref();
            TunnelView {
                id: tunnel.id.to_string(),
                kind: tunnel.kind.id().into(),
                user: identity.map(|i| Identity::label(i).into()),
                subject: identity.map(|i| i.subject.to_string()),
                issuer: identity.map(|i| i.issuer.to_string()),
                credential: tunnel.credential.id().into(),
                workspace: tunnel.workspace.as_ref().map(ToString::to_string),
                endpoint: tunnel.endpoint.as_ref().map(ToString::to_string),
                reason: tunnel.reason.id().into(),
                client: tunnel.client.map(|ip| ip.to_string()),
                since_ms: tunnel.since.as_millis(),
                age_seconds: now.since(tunnel.since).as_secs(),
                frontend: tunnel.location.frontend.escape_ascii().to_string(),
                process: tunnel.location.process,
                stream: tunnel.location.stream,
                found,
                terminating: terminating.map(Into::into),
            }
        };
        let mut tunnels: Vec<TunnelView> = selected.into_iter().map(view).collect();
        // Tunnels of one millisecond are ordered by id, so that two lists are alike.
        tunnels.sort_by(|a, b| (a.since_ms, &a.id).cmp(&(b.since_ms, &b.id)));
        TunnelList { tunnels, problems, ..TunnelList::default() }
    }
}
