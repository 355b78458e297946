//! A cluster whose objects are workspaces, by the API conventions of Kubernetes: list and watch. It can lie.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};

use super::upstream::Pods;
use crate::truth::Place;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Honest,
    /// Each list takes so long.
    Slow(Duration),
    /// Lists are not JSON.
    Garbage,
    /// Lists are megabytes of nothing.
    Endless,
}

struct Cluster {
    /// By workspace.
    objects: BTreeMap<String, Value>,
    version: u64,
    mood: Mood,
}

/// A running one.
#[derive(Clone)]
pub struct Platform {
    cluster: Arc<Mutex<Cluster>>,
    events: broadcast::Sender<(u64, String)>,
    pub address: SocketAddr,
}

impl Platform {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = Cluster { objects: BTreeMap::new(), version: 1, mood: Mood::Honest };
        let platform = Self {
            cluster: Arc::new(Mutex::new(cluster)),
            events: broadcast::Sender::new(4096),
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new()
            .route("/apis/workspace.gitpod.io/v1/workspaces", get(ask))
            .with_state(platform.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        platform
    }

    pub fn set(&self, mood: Mood) {
        self.cluster.lock().unwrap().mood = mood;
    }

    /// Writes what is true of a workspace.
    pub fn write(&self, place: &Place, pods: &Pods) {
        let mut cluster = self.cluster.lock().unwrap();
        cluster.version += 1;
        let version = cluster.version;
        let phase = match place.phase.latest() {
            "running" => "Running",
            "provisioning" => "Creating",
            "stopping" => "Stopping",
            _ => "Stopped",
        };
        let object = json!({
            "apiVersion": "workspace.gitpod.io/v1", "kind": "Workspace",
            "metadata": { "name": place.id, "namespace": "ws", "uid": format!("uid-{}", place.id),
                "resourceVersion": version.to_string(), "creationTimestamp": "2026-11-24T00:00:00Z" },
            "spec": {
                "ownership": { "owner": format!("sub-{}", place.owner), "workspaceID": place.id },
                "admission": { "level": "Owner" },
                "ports": [{ "port": pods.public_port, "visibility": "Everyone" }],
            },
            "status": { "phase": phase, "runtime": { "podIP": pods.address(place.slot).to_string() } },
        });
        cluster.objects.insert(place.id.clone(), object.clone());
        let event = json!({ "type": "MODIFIED", "object": object }).to_string();
        let _ = self.events.send((version, event));
    }
    /// A workspace was deleted.
    pub fn remove(&self, place: &Place) {
        let mut cluster = self.cluster.lock().unwrap();
        cluster.version += 1;
        let version = cluster.version;
        if let Some(mut object) = cluster.objects.remove(&place.id) {
            object["metadata"]["resourceVersion"] = version.to_string().into();
            let event = json!({ "type": "DELETED", "object": object }).to_string();
            let _ = self.events.send((version, event));
        }
    }
}

async fn ask(
    State(platform): State<Platform>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let (mood, version, list) = {
        let cluster = platform.cluster.lock().unwrap();
        let items: Vec<_> = cluster.objects.values().cloned().collect();
        (cluster.mood, cluster.version, items)
    };
    let watches = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    match mood {
        Mood::Honest => {}
        Mood::Slow(late) => tokio::time::sleep(late).await,
        Mood::Garbage => return "<html>\u{fffd}".into_response(),
        Mood::Endless => {
            let chunk = Bytes::from(vec![b' '; 64 * 1024]);
            let chunks = std::iter::repeat_n(chunk, 8192).map(Ok::<_, Infallible>);
            return Response::new(Body::from_stream(futures_util::stream::iter(chunks)));
        }
    }
    if watches {
        let from = query.get("resourceVersion").and_then(|text| text.parse::<u64>().ok());
        return watch(platform.events.subscribe(), from.unwrap_or(version), &platform);
    }
    let list = json!({
        "apiVersion": "workspace.gitpod.io/v1", "kind": "WorkspaceList",
        "metadata": { "resourceVersion": version.to_string() }, "items": list,
    });
    ([("content-type", "application/json")], list.to_string()).into_response()
}

/// Everything newer than a version, as it comes.
fn watch(events: broadcast::Receiver<(u64, String)>, from: u64, platform: &Platform) -> Response {
    // What changed between the list and now: the objects as they are say it too.
    let missed: Vec<_> = {
        let cluster = platform.cluster.lock().unwrap();
        let version = |object: &Value| {
            object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        };
        let newer = cluster.objects.values().filter(|object| version(object) > from);
        newer.map(|object| json!({ "type": "MODIFIED", "object": object }).to_string()).collect()
    };
    let first = futures_util::stream::iter(missed);
    let rest = futures_util::stream::unfold(events, |mut events| async move {
        // A client that cannot follow lists again.
        events.recv().await.ok().map(|(_, event)| (event, events))
    });
    let lines = futures_util::StreamExt::chain(first, rest);
    let lines = futures_util::StreamExt::map(lines, |line| {
        Ok::<_, Infallible>(Bytes::from(format!("{line}\n")))
    });
    Response::builder()
        .header("content-type", "application/json")
        .body(Body::from_stream(lines))
        .unwrap()
}
