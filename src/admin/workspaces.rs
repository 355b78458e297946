//! Workspaces and their sources: shows them, and takes workspaces from a controller for sources of kind `api`.
//!
//! A controller puts a workspace with a lease, and repeats that before the lease ends. Every change is recorded with the user
//! id of the process that made it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AdminState, Caller, failed, parts};
use crate::{
    audit::AuditEvent,
    sources::{
        WatchedSource,
        api::{LeaseError, Leases},
        file::document,
    },
    time::MonotonicTime,
    workspaces::{
        WorkspaceId,
        reconcile::status::SourceStatus,
        registry::{WorkspaceListing, WorkspaceRecord},
        source::SourceId,
    },
};

mod record;

use record::{WorkspaceEvent, access};

/// The sources of workspaces.
#[derive(Debug, Serialize, Deserialize)]
pub struct SourceViews {
    /// The sources, in the order of the configuration.
    pub sources: Vec<SourceView>,
}

/// A source, as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceView {
    /// The name of the source.
    pub name: String,
    /// The state of its connection to the platform.
    #[serde(flatten)]
    pub status: SourceStatus,
    /// How many workspaces the source has.
    pub workspaces: usize,
    /// How many of them run and can be reached.
    pub routable: usize,
    /// How many are refused because another workspace claims the same address.
    pub contested: usize,
    /// How many changed in a way that could not be read.
    pub doubtful: usize,
    /// Seconds since the last complete list.
    pub age_seconds: Option<u64>,
}

/// Workspaces, or an error.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkspaceViews {
    /// The workspaces, in the order of sources and ids.
    pub workspaces: Vec<WorkspaceView>,
    /// Why the request failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A workspace, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceView {
    /// The name of its source.
    pub source: String,
    /// The id of the workspace.
    pub id: String,
    /// The name of its owner.
    pub owner: String,
    /// Its organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// The phase of its life, such as `running`.
    pub phase: String,
    /// Why requests are not routed to it: `contested`, `stale` or `not_running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// The platform's id for the present run of the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint of a workspace, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// The name of the endpoint.
    pub name: String,
    /// The protocol of its server: `http` or `tcp`.
    pub protocol: String,
    /// Who may reach it, within the limits of the configuration.
    pub admission: String,
    /// The address that HAProxy connects to.
    pub destination: String,
}

impl WorkspaceView {
    fn new(source: &str, record: &WorkspaceRecord<'_>) -> Self {
        let workspace = record.workspace;
        let account = workspace.owner.account.as_deref();
        let owner = record.directory.zip(account).and_then(|(all, id)| all.account(id));
        let closed = if record.contested {
            Some("contested")
        } else if record.age > record.rules.stale_after {
            Some("stale")
        } else {
            (!workspace.phase.is_routable()).then_some("not_running")
        };
        let endpoints = workspace.endpoints.iter().map(|endpoint| EndpointView {
            name: endpoint.name.to_string(),
            protocol: endpoint.protocol.to_string(),
            admission: endpoint.admission.min(record.rules.max_admission).to_string(),
            destination: endpoint.destination.to_string(),
        });
        Self {
            source: source.into(),
            id: workspace.id.to_string(),
            owner: owner.map_or(&workspace.owner_label, |member| &member.label).to_string(),
            organization: workspace.organization.as_ref().map(|one| one.name.to_string()),
            phase: workspace.phase.id().into(),
            closed: closed.map(Into::into),
            instance: workspace.instance.as_deref().map(Into::into),
            endpoints: endpoints.collect(),
        }
    }
}

impl AdminState {
    fn leases(&self, source: &str) -> Result<Arc<Leases>, Box<Response>> {
        let gate = self.live.gate();
        let known = gate.watched.iter().find(|known| *known.name == *source);
        let Some(known) = known else {
            let error = format!("there is no source {source:?}");
            return Err(Box::new(failed(StatusCode::NOT_FOUND, error)));
        };
        known.leases.clone().ok_or_else(|| {
            let error =
                format!("the source {source:?} is not of kind \"api\": it cannot be written");
            Box::new(failed(StatusCode::METHOD_NOT_ALLOWED, error))
        })
    }

    fn views(&self, mut wanted: impl FnMut(&WorkspaceRecord<'_>) -> bool) -> Vec<WorkspaceView> {
        let gate = self.live.gate();
        let snapshot = gate.registry.snapshot();
        let mut views = Vec::new();
        for (number, source) in gate.watched.iter().enumerate() {
            let start = views.len();
            let records = snapshot.all(SourceId::new(number)).filter(|record| wanted(record));
            views.extend(records.map(|record| WorkspaceView::new(&source.name, &record)));
            if let Some(new) = views.get_mut(start..) {
                new.sort_by(|a: &WorkspaceView, b: &WorkspaceView| a.id.cmp(&b.id));
            }
        }
        views
    }

    pub(super) fn source_views(&self) -> Vec<SourceView> {
        let gate = self.live.gate();
        let snapshot = gate.registry.snapshot();
        let view = |(number, source): (usize, &WatchedSource)| {
            let state = snapshot.state(SourceId::new(number))?;
            Some(SourceView {
                name: source.name.to_string(),
                status: source.status.lock().clone(),
                workspaces: state.workspaces,
                routable: state.routable,
                contested: state.contested,
                doubtful: state.doubtful,
                age_seconds: state.age.map(|age| age.as_secs()),
            })
        };
        gate.watched.iter().enumerate().filter_map(view).collect()
    }
}

pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Response {
    let gate = state.live.gate();
    let snapshot = gate.registry.snapshot();
    let sources = gate.watched.iter().enumerate();
    let listings: Vec<(Box<str>, WorkspaceListing)> =
        sources.map(|(number, source)| (source.name.clone(), snapshot.listing(number))).collect();
    drop(snapshot);
    let views = listings.into_iter().flat_map(|(source, listing)| {
        let view = move |number| Some(WorkspaceView::new(&source, &listing.get(number)?));
        (0..).map_while(view)
    });
    parts::list("workspaces", views)
}

pub(super) async fn show(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Response {
    let workspaces = state.views(|record| record.workspace.id.as_str() == id);
    if workspaces.is_empty() {
        return failed(StatusCode::NOT_FOUND, format!("there is no workspace {id:?}"));
    }
    Json(WorkspaceViews { workspaces, error: None }).into_response()
}

pub(super) async fn sources(State(state): State<Arc<AdminState>>) -> Json<SourceViews> {
    Json(SourceViews { sources: state.source_views() })
}

/// The query parameters of a change.
#[derive(Deserialize)]
pub(super) struct LeaseParameters {
    revision: Option<u64>,
    lease_seconds: Option<u64>,
}

pub(super) async fn held(
    State(state): State<Arc<AdminState>>,
    Path(source): Path<String>,
) -> Response {
    match state.leases(&source) {
        Ok(leases) => {
            Json(json!({ "workspaces": leases.list(MonotonicTime::now()) })).into_response()
        }
        Err(response) => *response,
    }
}

pub(super) async fn show_held(
    State(state): State<Arc<AdminState>>,
    Path((source, id)): Path<(String, String)>,
) -> Response {
    let leases = match state.leases(&source) {
        Ok(leases) => leases,
        Err(response) => return *response,
    };
    match leases.list(MonotonicTime::now()).into_iter().find(|held| held.id == id) {
        Some(held) => Json(held).into_response(),
        None => {
            failed(StatusCode::NOT_FOUND, format!("there is no workspace {id:?} in this source"))
        }
    }
}

pub(super) async fn put(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path((source, id)): Path<(String, String)>,
    Query(parameters): Query<LeaseParameters>,
    body: String,
) -> Response {
    let leases = match state.leases(&source) {
        Ok(leases) => leases,
        Err(response) => return *response,
    };
    let gate = state.live.gate();
    let issuers = gate.authorities().map(|authority| &*authority.name).collect();
    let backends = &gate.limits.ranges.backends;
    let workspace = match document::parse_one("body", &body, &issuers, backends) {
        Ok(workspace) => workspace,
        Err(mistakes) => return failed(StatusCode::UNPROCESSABLE_ENTITY, mistakes.to_string()),
    };
    if workspace.id.as_str() != id {
        let error = format!("the path names {id:?}, the body {:?}", workspace.id.as_str());
        return failed(StatusCode::UNPROCESSABLE_ENTITY, error);
    }
    let access = access(&workspace);
    let lease = parameters.lease_seconds.map(Duration::from_secs);
    match leases.put(workspace, parameters.revision, lease, MonotonicTime::now()) {
        Ok(held) => {
            let event = WorkspaceEvent {
                event: AuditEvent::PutWorkspace,
                revision: held.revision,
                access: &access,
                ..WorkspaceEvent::by(caller, &source, &id)
            };
            record(&state, &event);
            Json(held).into_response()
        }
        Err(error @ LeaseError::Outdated(_)) => failed(StatusCode::CONFLICT, error.to_string()),
        Err(error @ LeaseError::Full) => {
            failed(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
        }
    }
}

pub(super) async fn delete(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path((source, id)): Path<(String, String)>,
    Query(parameters): Query<LeaseParameters>,
) -> Response {
    let leases = match state.leases(&source) {
        Ok(leases) => leases,
        Err(response) => return *response,
    };
    let there = match id.parse::<WorkspaceId>() {
        Ok(id) => leases.delete(&id, parameters.revision, MonotonicTime::now()),
        Err(_) => Ok(false),
    };
    match there {
        Ok(true) => {
            let event = WorkspaceEvent {
                event: AuditEvent::DeleteWorkspace,
                revision: parameters.revision.unwrap_or(0),
                ..WorkspaceEvent::by(caller, &source, &id)
            };
            record(&state, &event);
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(false) => {
            failed(StatusCode::NOT_FOUND, format!("there is no workspace {id:?} in this source"))
        }
        Err(error) => failed(StatusCode::CONFLICT, error.to_string()),
    }
}

fn record(state: &AdminState, event: &WorkspaceEvent<'_>) {
    state.audit_log.record_event(event.event, event.workspace, event);
}
