//! Workspaces and their sources: looked at, and written where a source is one of the API's.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::error;

use super::{Caller, Shared, failed, parts};
use crate::{
    audit::{AuditEvent, Entry, Object},
    sources::{
        WatchedSource,
        api::{LeaseError, Leases},
        file::document,
    },
    time::{MonotonicTime, Timestamp},
    workspaces::{
        WorkspaceId,
        reconcile::status::SourceStatus,
        registry::{WorkspaceListing, WorkspaceRecord},
        source::SourceId,
    },
};

/// Every source.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sources {
    /// In the order of the configuration.
    pub sources: Vec<SourceView>,
}

/// A source, for people and machines.
#[derive(Debug, Serialize, Deserialize)]
pub struct SourceView {
    /// Its name.
    pub name: String,
    /// How it is doing.
    #[serde(flatten)]
    pub status: SourceStatus,
    /// How many workspaces it has.
    pub workspaces: usize,
    /// How many of them are up.
    pub routable: usize,
    /// How many are at an address that another claims too.
    pub contested: usize,
    /// How many changed in a way that could not be read.
    pub doubtful: usize,
    /// Seconds since the source said all it knows.
    pub age_seconds: Option<u64>,
}

/// Workspaces, for people and machines.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Views {
    /// In the order of sources and ids.
    pub workspaces: Vec<View>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A workspace, for people and machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The name of its source.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Its owner in one word.
    pub owner: String,
    /// Its organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// What it is doing.
    pub phase: String,
    /// Why it is not routed to, if so: `contested`, `stale` or `not_running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// The platform's name for its present life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its ways in.
    pub endpoints: Vec<EndpointView>,
}

/// A way into a workspace, for people and machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its name.
    pub name: String,
    /// What its server speaks: `http` or `tcp`.
    pub protocol: String,
    /// Whom it admits, within the operator's caps.
    pub admission: String,
    /// Where it is.
    pub destination: String,
}

impl View {
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

impl Shared {
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

    fn views(&self, mut wanted: impl FnMut(&WorkspaceRecord<'_>) -> bool) -> Vec<View> {
        let gate = self.live.gate();
        let snapshot = gate.registry.snapshot();
        let mut views = Vec::new();
        for (number, source) in gate.watched.iter().enumerate() {
            let start = views.len();
            let records = snapshot.all(SourceId::new(number)).filter(|record| wanted(record));
            views.extend(records.map(|record| View::new(&source.name, &record)));
            if let Some(new) = views.get_mut(start..) {
                new.sort_by(|a: &View, b: &View| a.id.cmp(&b.id));
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

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let gate = shared.live.gate();
    let snapshot = gate.registry.snapshot();
    let sources = gate.watched.iter().enumerate();
    let listings: Vec<(Box<str>, WorkspaceListing)> =
        sources.map(|(number, source)| (source.name.clone(), snapshot.listing(number))).collect();
    drop(snapshot);
    let views = listings.into_iter().flat_map(|(source, listing)| {
        let view = move |number| Some(View::new(&source, &listing.get(number)?));
        (0..).map_while(view)
    });
    parts::list("workspaces", views)
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let workspaces = shared.views(|record| record.workspace.id.as_str() == id);
    if workspaces.is_empty() {
        return failed(StatusCode::NOT_FOUND, format!("there is no workspace {id:?}"));
    }
    Json(Views { workspaces, error: None }).into_response()
}

pub(super) async fn sources(State(shared): State<Arc<Shared>>) -> Json<Sources> {
    Json(Sources { sources: shared.source_views() })
}

/// What comes with a change.
#[derive(Deserialize)]
pub(super) struct Terms {
    revision: Option<u64>,
    lease_seconds: Option<u64>,
}

pub(super) async fn held(
    State(shared): State<Arc<Shared>>,
    Path(source): Path<String>,
) -> Response {
    match shared.leases(&source) {
        Ok(leases) => {
            Json(json!({ "workspaces": leases.list(MonotonicTime::now()) })).into_response()
        }
        Err(response) => *response,
    }
}

pub(super) async fn show_held(
    State(shared): State<Arc<Shared>>,
    Path((source, id)): Path<(String, String)>,
) -> Response {
    let leases = match shared.leases(&source) {
        Ok(leases) => leases,
        Err(response) => return *response,
    };
    match leases.list(MonotonicTime::now()).into_iter().find(|held| held.id == id) {
        Some(held) => Json(held).into_response(),
        None => failed(StatusCode::NOT_FOUND, format!("nobody holds a workspace {id:?}")),
    }
}

pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path((source, id)): Path<(String, String)>,
    Query(terms): Query<Terms>,
    body: String,
) -> Response {
    let leases = match shared.leases(&source) {
        Ok(leases) => leases,
        Err(response) => return *response,
    };
    let gate = shared.live.gate();
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
    let lease = terms.lease_seconds.map(Duration::from_secs);
    match leases.put(workspace, terms.revision, lease, MonotonicTime::now()) {
        Ok(held) => {
            record(&shared, AuditEvent::PutWorkspace, caller, &source, &id, held.revision);
            Json(held).into_response()
        }
        Err(error @ LeaseError::Outdated(_)) => failed(StatusCode::CONFLICT, error.to_string()),
        Err(error @ LeaseError::Full) => {
            failed(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
        }
    }
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path((source, id)): Path<(String, String)>,
    Query(terms): Query<Terms>,
) -> Response {
    let leases = match shared.leases(&source) {
        Ok(leases) => leases,
        Err(response) => return *response,
    };
    let there = match id.parse::<WorkspaceId>() {
        Ok(id) => leases.delete(&id, terms.revision, MonotonicTime::now()),
        Err(_) => Ok(false),
    };
    match there {
        Ok(true) => {
            record(
                &shared,
                AuditEvent::DeleteWorkspace,
                caller,
                &source,
                &id,
                terms.revision.unwrap_or(0),
            );
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(false) => failed(StatusCode::NOT_FOUND, format!("nobody holds a workspace {id:?}")),
        Err(error) => failed(StatusCode::CONFLICT, error.to_string()),
    }
}

fn record(
    shared: &Shared,
    event: AuditEvent,
    caller: Caller,
    source: &str,
    workspace: &str,
    revision: u64,
) {
    let time = Timestamp::now();
    let record = WorkspaceEvent { time, event, uid: caller.uid, source, workspace, revision };
    if shared.audit_log.record(&record).is_err() {
        error!(
            event = event.id(),
            "recording an event failed: the audit log has no room or cannot be written"
        );
    }
}

/// What a writer of the administrator's API did to a workspace.
pub(super) struct WorkspaceEvent<'a> {
    /// When.
    pub time: Timestamp,
    /// `put_workspace` or `delete_workspace`.
    pub event: AuditEvent,
    /// The user id at the other end of the socket.
    pub uid: Option<u32>,
    /// The name of the source.
    pub source: &'a str,
    /// The workspace.
    pub workspace: &'a str,
    /// The number of this version; zero where the writer gave none.
    pub revision: u64,
}

impl Entry for WorkspaceEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.displayed("uid", self.uid);
        line.text("source", self.source);
        line.text("workspace", self.workspace);
        line.number("revision", self.revision);
        line.end();
    }
}
