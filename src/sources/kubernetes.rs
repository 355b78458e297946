//! Kubernetes: workspaces that are custom resources, listed and watched.
//!
//! [`resource`] reads the known kinds of resource. The workspace id is a field of the object and
//! not its name, and a workspace that is started again can have two objects for a while. The object
//! that is up wins, then the newer one.
//!
//! Invariant: an id that objects of different owners have is routed to none of them, since an
//! object's author can choose its id.

use std::{collections::HashMap, path::PathBuf};

use futures_util::{StreamExt as _, pin_mut};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher::{self, watcher},
};
use tokio::sync::{OnceCell, mpsc};
use tracing::warn;

use crate::{
    identity::profile::MatchBy,
    lock::Mutex,
    time::MonotonicTime,
    workspaces::{
        Workspace, WorkspaceId,
        destination::DestinationTemplate,
        directory::Member,
        source::{Capabilities, IdentityMapping, Source, SourceError, SourceEvent},
    },
};

mod resource;

pub use resource::Resource;

/// The number of objects on a page.
const PAGE: u32 = 500;

/// The settings of a Kubernetes source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The kind of resource.
    pub resource: Resource,
    /// The only namespace that is watched; `None` means all.
    pub namespace: Option<String>,
    /// The file that says how to reach the cluster; `None` means as a pod in it.
    pub kubeconfig: Option<PathBuf>,
    /// The kind of name that objects have for their owner.
    pub owner: MatchBy,
    /// How owners are mapped to identities.
    pub identity_mapping: IdentityMapping,
    /// Where workspaces are, if not at the address of their pod or service.
    pub destination: Option<DestinationTemplate>,
}

/// A cluster.
pub struct Kubernetes {
    settings: KubernetesSettings,
    client: OnceCell<Client>,
    /// The objects that the watch has reported, by namespace and name.
    objects: Mutex<Objects>,
}

type Objects = HashMap<(String, String), ObjectWorkspace>;

/// A workspace as an object describes it.
#[derive(Clone, Debug)]
struct ObjectWorkspace {
    workspace: Workspace,
    /// The creation time of the object. The text sorts like the time.
    created: String,
}

impl Kubernetes {
    /// A cluster. The connection is made with the first request.
    #[must_use]
    pub fn new(settings: KubernetesSettings) -> Self {
        Self { settings, client: OnceCell::new(), objects: Mutex::default() }
    }

    async fn api(&self) -> Result<Api<DynamicObject>, SourceError> {
        let client = self.client.get_or_try_init(|| self.connect()).await?.clone();
        let kind = self.settings.resource.kind();
        Ok(match &self.settings.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind),
            None => Api::all_with(client, &kind),
        })
    }

    async fn connect(&self) -> Result<Client, SourceError> {
        let unusable = |error: String| SourceError::Unauthorized(error);
        let config = match &self.settings.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|e| unusable(e.to_string()))?;
                let mut clusters = file.clusters.iter().filter_map(|named| named.cluster.as_ref());
                let is_named = clusters.any(|cluster| cluster.proxy_url.is_some());
                let options = KubeConfigOptions::default();
                let mut config = kube::Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(|e| unusable(e.to_string()))?;
                // HTTPS_PROXY of the environment would be taken, and no client could be made with it: this program has no
                // proxies for Kubernetes. A proxy that the file itself names is an error.
                if !is_named {
                    config.proxy_url = None;
                }
                config
            }
            None => kube::Config::incluster().map_err(|e| unusable(e.to_string()))?,
        };
        Client::try_from(config).map_err(|error| source_error(&error))
    }

    fn read_object(&self, object: &DynamicObject) -> Option<((String, String), ObjectWorkspace)> {
        let key = (
            object.metadata.namespace.clone().unwrap_or_default(),
            object.metadata.name.clone().unwrap_or_default(),
        );
        let created = object.metadata.creation_timestamp.as_ref();
        let created = created.map(|time| time.0.to_string()).unwrap_or_default();
        let workspace = self.settings.resource.workspace(object, &self.settings)?;
        Some((key, ObjectWorkspace { workspace, created }))
    }

    /// Applies a change of an object, which is now `found`, and returns the events for it.
    fn change(&self, key: (String, String), found: Option<ObjectWorkspace>) -> Vec<SourceEvent> {
        let mut objects = self.objects.lock();
        let new = found.as_ref().map(|found| found.workspace.id.clone());
        let old = match found {
            Some(found) => objects.insert(key, found),
            None => objects.remove(&key),
        };
        // An object whose id has changed ends the workspace with the old id.
        let old = old.map(|old| old.workspace.id).filter(|old| Some(old) != new.as_ref());
        let tell = |id: WorkspaceId| match newest(&objects, &id) {
            Some(workspace) => SourceEvent::Described(Box::new(workspace)),
            None => SourceEvent::Ended(id),
        };
        old.into_iter().chain(new).map(tell).collect()
    }
}

/// The workspace of this id, by its newest object.
fn newest(objects: &Objects, id: &WorkspaceId) -> Option<Workspace> {
    newest_of(objects.values().filter(|found| found.workspace.id == *id))
}

/// All workspaces, each once.
fn all(objects: &Objects) -> Vec<Workspace> {
    let mut of_ids: HashMap<&WorkspaceId, Vec<&ObjectWorkspace>> = HashMap::new();
    for found in objects.values() {
        of_ids.entry(&found.workspace.id).or_default().push(found);
    }
    of_ids.into_values().filter_map(newest_of).collect()
}

/// The workspace that several objects with one id describe: an object that is up wins over one that
/// is going down, then the newer one wins.
///
/// `None` if they have different owners. The author of an object can choose its id (the
/// DevWorkspace operator has an annotation for it), and must not take over the hosts of another
/// person's workspace that way.
fn newest_of<'f>(objects: impl IntoIterator<Item = &'f ObjectWorkspace>) -> Option<Workspace> {
    let objects: Vec<_> = objects.into_iter().collect();
    let newest =
        objects.iter().max_by_key(|found| (found.workspace.phase.is_routable(), &found.created))?;
    let workspace = &newest.workspace;
    if objects.iter().any(|found| found.workspace.owner != workspace.owner) {
        warn!(workspace = %workspace.id, "Kubernetes objects of different owners have the same workspace id: requests for this workspace are refused");
        return None;
    }
    Some(workspace.clone())
}

impl Source for Kubernetes {
    fn capabilities(&self) -> Capabilities {
        Capabilities { watches: true, reads: false, accounts: false, lists_are_snapshots: true }
    }

    async fn list(&self) -> Result<Vec<Workspace>, SourceError> {
        let api = self.api().await?;
        let mut objects = Objects::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await.map_err(|error| source_error(&error))?;
            objects.extend(page.items.iter().filter_map(|object| self.read_object(object)));
            // All pages of one list show the same moment (Kubernetes API concepts, "Retrieving
            // large results sets in chunks").
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all(&objects)),
            }
        }
    }

    async fn read(&self, _: &WorkspaceId) -> Result<Option<Workspace>, SourceError> {
        Err(SourceError::Protocol("objects are not called as their workspaces".into()))
    }

    async fn watch(&self, events: mpsc::Sender<SourceEvent>) -> SourceError {
        let api = match self.api().await {
            Ok(api) => api,
            Err(error) => return error,
        };
        let stream = watcher(api, watcher::Config::default());
        pin_mut!(stream);
        let (mut started, mut listed) = (MonotonicTime::now(), Objects::new());
        while let Some(event) = stream.next().await {
            let told = match event {
                Err(error) => return watch_error(&error),
                // The watch begins again, and a new list is collected from here on.
                Ok(watcher::Event::Init) => {
                    (started, listed) = (MonotonicTime::now(), Objects::new());
                    vec![]
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(self.read_object(&object));
                    vec![]
                }
                // The initial list is complete: it replaces everything that the previous watch
                // reported.
                Ok(watcher::Event::InitDone) => {
                    let everything = all(&listed);
                    *self.objects.lock() = std::mem::take(&mut listed);
                    vec![SourceEvent::Listed(everything, started)]
                }
                Ok(watcher::Event::Apply(object)) => match self.read_object(&object) {
                    Some((key, found)) => self.change(key, Some(found)),
                    // The object has lost its id, so it does not describe a workspace any more.
                    None => self.change(key_of(&object), None),
                },
                Ok(watcher::Event::Delete(object)) => self.change(key_of(&object), None),
            };
            for event in told {
                if events.send(event).await.is_err() {
                    return SourceError::Unavailable("the agent no longer listens".into());
                }
            }
        }
        SourceError::Unavailable("the watch ended".into())
    }

    async fn accounts(&self) -> Result<Vec<Member>, SourceError> {
        Err(SourceError::Protocol("a cluster does not list its users".into()))
    }
}

fn key_of(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn source_error(error: &kube::Error) -> SourceError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    // The text comes from the cluster and goes to logs.
    let text: String = text.chars().take(300).flat_map(char::escape_debug).collect();
    match error {
        kube::Error::Api(status) => match status.code {
            401 => SourceError::Unauthorized(text),
            403 => SourceError::Forbidden(text),
            429 => SourceError::RateLimited(std::time::Duration::from_secs(1)),
            _ => SourceError::Unavailable(text),
        },
        kube::Error::SerdeError(_) => SourceError::Protocol(text),
        _ => SourceError::Unavailable(text),
    }
}

fn watch_error(error: &watcher::Error) -> SourceError {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => source_error(error),
        other => SourceError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workspaces::IssuerNames;

    #[test]
    fn s9_an_id_that_objects_of_two_owners_have_belongs_to_neither() {
        let identity_mapping =
            IdentityMapping { issuers: IssuerNames::one("corp"), organization: None };
        let cluster = Kubernetes::new(KubernetesSettings {
            resource: Resource::DevWorkspace,
            namespace: None,
            kubeconfig: None,
            owner: MatchBy::Username,
            identity_mapping,
            destination: None,
        });
        let found = |name: &str, creator: &str, second: u8| {
            let object = json!({
                "apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace",
                "metadata": { "name": name, "namespace": name, "creationTimestamp": format!("2026-11-24T00:00:0{second}Z"),
                    "labels": { "controller.devfile.io/creator": creator } },
                "spec": {}, "status": { "phase": "Running", "devworkspaceId": "w" },
            });
            cluster.read_object(&serde_json::from_value(object).unwrap()).unwrap()
        };
        let (key, alices) = found("alice", "alice", 1);
        let told = cluster.change(key.clone(), Some(alices));
        assert!(
            matches!(told.as_slice(), [SourceEvent::Described(w)] if w.owner.username.as_deref() == Some("alice"))
        );
        let (other, mallorys) = found("mallory", "mallory", 2);
        let told = cluster.change(other.clone(), Some(mallorys.clone()));
        assert_eq!(told, [SourceEvent::Ended("w".parse().unwrap())], "the newer one does not win");
        let objects = Objects::from([found("alice", "alice", 1), (other.clone(), mallorys)]);
        assert_eq!(all(&objects), []);
        let told = cluster.change(other, None);
        assert!(
            matches!(told.as_slice(), [SourceEvent::Described(w)] if w.owner.username.as_deref() == Some("alice"))
        );
        // Two objects of one owner are a workspace that is started again.
        let (second, newer) = found("alice-2", "alice", 3);
        let told = cluster.change(second, Some(newer));
        assert!(matches!(told.as_slice(), [SourceEvent::Described(_)]));
    }
}
