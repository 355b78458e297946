//! The kinds of custom resource that describe workspaces, and how each is read.
//!
//! An object without a usable id is not a workspace yet. Fields that are missing or not understood
//! give the narrowest access: the owner only, and a state that is not routable.

use std::sync::Arc;

use kube::{
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;

use super::KubernetesSettings;
use crate::{
    identity::profile::MatchBy,
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, Person, Phase, Protocol, Revision,
        Workspace, WorkspaceId,
        destination::{Address, Server},
        without_control_characters,
    },
};

/// A kind of custom resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `workspace.gitpod.io/v1` `Workspace` of Gitpod's ws-manager, which Gitpod's own ws-proxy
    /// watches too. The editor is at `ide_port` of the pod.
    Gitpod {
        /// The port of the editor.
        ide_port: u16,
    },
    /// `workspace.devfile.io/v1alpha2` `DevWorkspace` of the DevWorkspace operator (Eclipse Che).
    DevWorkspace,
}

/// The label in which the operator records who created a DevWorkspace. Its webhooks prevent changes
/// to it, while everyone who may edit the object can write annotations.
const CREATOR: &str = "controller.devfile.io/creator";

impl Resource {
    pub(super) fn kind(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Gitpod { .. } => ("workspace.gitpod.io", "v1", "Workspace"),
            Self::DevWorkspace => ("workspace.devfile.io", "v1alpha2", "DevWorkspace"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }

    /// The workspace that an object describes, or `None` if it has no usable id yet.
    pub(super) fn workspace(
        self,
        object: &DynamicObject,
        settings: &KubernetesSettings,
    ) -> Option<Workspace> {
        let mut workspace = match self {
            Self::Gitpod { ide_port } => gitpod(object, settings, ide_port)?,
            Self::DevWorkspace => devworkspace(object, settings)?,
        };
        let metadata = &object.metadata;
        workspace.instance = metadata.uid.as_deref().map(Into::into);
        workspace.revision = Revision {
            spec: None,
            // Revisions are compared only within one instance, which is one object.
            status: metadata.resource_version.as_deref().and_then(|text| text.parse().ok()),
        };
        if metadata.deletion_timestamp.is_some() {
            // The object is being deleted, whatever its phase says.
            workspace.phase = Phase::Stopping;
        }
        Some(workspace)
    }
}

fn gitpod(
    object: &DynamicObject,
    settings: &KubernetesSettings,
    ide_port: u16,
) -> Option<Workspace> {
    let data = &object.data;
    let id: WorkspaceId = text(data, "/spec/ownership/workspaceID")?.parse().ok()?;
    let owner = text(data, "/spec/ownership/owner").unwrap_or_default();
    let pod: Option<Address> = text(data, "/status/runtime/podIP").and_then(|ip| ip.parse().ok());
    let whole = gitpod_admission(text(data, "/spec/admission/level"));
    let mut workspace = blank(id, owner, settings);
    // With a template, the operator has said that pods are reached in another way.
    workspace.address = pod.filter(|_| settings.destination.is_none());
    let mut push = |name: EndpointName, port: u16, admission: Admission| {
        let destination = match (&settings.destination, pod) {
            (Some(template), _) => template.render(&workspace.id, &name),
            (None, Some(address)) => Server::new(address, port).map(Destination::Address),
            (None, None) => None,
        };
        let new = workspace.endpoints.iter().all(|endpoint| endpoint.name != name);
        if let Some(destination) = destination.filter(|_| new && port != 0) {
            // Gitpod's protocols for a port are HTTP and HTTPS only.
            let protocol = Protocol::Http;
            workspace.endpoints.push(Endpoint::new(name, protocol, admission, destination));
        }
    };
    push(EndpointName::Main, ide_port, whole);
    let ports = data.pointer("/spec/ports").and_then(Value::as_array);
    for port in ports.into_iter().flatten() {
        let number = port.get("port").and_then(Value::as_u64);
        let own = gitpod_admission(text(port, "/visibility"));
        if let Some(number) = number.and_then(|number| u16::try_from(number).ok()) {
            push(EndpointName::Port(number), number, own.max(whole));
        }
    }
    workspace.phase = match text(data, "/status/phase").unwrap_or_default() {
        "Pending" | "Imagebuild" | "Creating" | "Initializing" => Phase::Provisioning,
        "Running" => Phase::Running,
        "Stopping" => Phase::Stopping,
        "Stopped" => Phase::Stopped,
        _ => Phase::Unknown,
    };
    Some(workspace)
}

fn devworkspace(object: &DynamicObject, settings: &KubernetesSettings) -> Option<Workspace> {
    let data = &object.data;
    let id: WorkspaceId = text(data, "/status/devworkspaceId")?.parse().ok()?;
    let creator = object.metadata.labels.as_ref().and_then(|labels| labels.get(CREATOR));
    let mut workspace = blank(id, creator.map_or("", String::as_str), settings);
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let components = data.pointer("/spec/template/components").and_then(Value::as_array);
    let endpoints = components.into_iter().flatten().filter_map(|component| {
        component.pointer("/container/endpoints").and_then(Value::as_array)
    });
    for endpoint in endpoints.flatten() {
        // The other exposures are for clients within the cluster or the pod.
        if !matches!(text(endpoint, "/exposure"), None | Some("public")) {
            continue;
        }
        let port = endpoint.get("targetPort").and_then(Value::as_u64);
        let Some(port) = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0) else {
            continue;
        };
        let Some(protocol) = devfile_protocol(text(endpoint, "/protocol")) else { continue };
        // The main endpoint is reachable as the editor and by its port.
        let main = text(endpoint, "/attributes/type") == Some("main");
        let names = [main.then_some(EndpointName::Main), Some(EndpointName::Port(port))];
        for name in names.into_iter().flatten() {
            let place = EndpointName::Port(port);
            let destination = match &settings.destination {
                Some(template) => template.render_in(&workspace.id, &place, namespace),
                None => service(&workspace.id, namespace, port),
            };
            let new = workspace.endpoints.iter().all(|endpoint| endpoint.name != name);
            if let Some(destination) = destination.filter(|_| new) {
                // A DevWorkspace says nothing about sharing.
                let admission = Admission::Owner;
                workspace.endpoints.push(Endpoint::new(name, protocol, admission, destination));
            }
        }
    }
    workspace.phase = match text(data, "/status/phase").unwrap_or_default() {
        "Starting" => Phase::Provisioning,
        "Running" => Phase::Running,
        "Stopping" => Phase::Stopping,
        "Stopped" => Phase::Stopped,
        "Failing" | "Failed" | "Error" => Phase::Failed,
        _ => Phase::Unknown,
    };
    Some(workspace)
}

/// The protocol of a devfile's endpoint (devfile 2.x: `http` by default), or `None` if HAProxy
/// cannot carry it.
fn devfile_protocol(word: Option<&str>) -> Option<Protocol> {
    match word {
        None | Some("http" | "https" | "ws" | "wss") => Some(Protocol::Http),
        Some("tcp") => Some(Protocol::Tcp),
        // `udp`, and what a later version may add.
        Some(_) => None,
    }
}

/// The service that the operator creates for a DevWorkspace.
fn service(id: &WorkspaceId, namespace: &str, port: u16) -> Option<Destination> {
    let template = crate::workspaces::destination::DestinationTemplate::parse(
        "http://{workspace}-service.{namespace}.svc:{port}",
    );
    template.ok()?.render_in(id, &EndpointName::Port(port), namespace)
}

fn blank(id: WorkspaceId, owner: &str, settings: &KubernetesSettings) -> Workspace {
    let named = (!owner.is_empty()).then(|| Box::from(owner));
    let mut person =
        Person { issuers: settings.identity_mapping.issuers.clone(), ..Person::default() };
    match settings.owner {
        MatchBy::Subject => person.subject = named,
        MatchBy::Email => person.email = named.map(|email| email.to_ascii_lowercase().into()),
        MatchBy::Username => person.username = named,
    }
    Workspace {
        id,
        instance: None,
        revision: Revision::default(),
        organization: settings.identity_mapping.organization(),
        owner: person,
        owner_label: without_control_characters(owner),
        grants: vec![],
        phase: Phase::Unknown,
        address: None,
        template: settings.destination.clone().map(Arc::new),
        endpoints: vec![],
        paths: vec![],
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    let text = value.pointer(pointer)?.as_str()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

/// Maps a sharing level. An unknown level admits only the owner.
fn gitpod_admission(level: Option<&str>) -> Admission {
    match level {
        Some("Everyone") => Admission::Public,
        _ => Admission::Owner,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workspaces::{IssuerNames, source::IdentityMapping};

    fn settings(resource: Resource) -> KubernetesSettings {
        KubernetesSettings {
            resource,
            namespace: None,
            kubeconfig: None,
            owner: MatchBy::Username,
            identity_mapping: IdentityMapping {
                issuers: IssuerNames::one("corp"),
                organization: None,
            },
            destination: None,
        }
    }

    fn read(resource: Resource, object: Value) -> Option<Workspace> {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        resource.workspace(&object, &settings(resource))
    }

    fn lines(workspace: &Workspace) -> Vec<String> {
        let line = |e: &Endpoint| format!("{} {} {}", e.name, e.admission, e.destination);
        workspace.endpoints.iter().map(line).collect()
    }

    #[test]
    fn a_gitpod_workspace_is_at_its_pod() {
        let object = |phase: &str, deleted: bool| {
            let mut object = json!({
                "apiVersion": "workspace.gitpod.io/v1", "kind": "Workspace",
                "metadata": { "name": "i1", "uid": "uid-1", "resourceVersion": "42" },
                "spec": {
                    "ownership": { "owner": "alice", "workspaceID": "pinkpanda-demo-ns35kd21abc" },
                    "admission": { "level": "Owner" },
                    "ports": [{ "port": 3000, "visibility": "Everyone" }, { "port": 4000 }],
                },
                "status": { "phase": phase, "runtime": { "podIP": "10.1.2.3" } },
            });
            if deleted {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
            }
            object
        };
        let resource = Resource::Gitpod { ide_port: 23000 };
        let workspace = read(resource, object("Running", false)).unwrap();
        assert_eq!(
            lines(&workspace),
            [
                "main owner 10.1.2.3:23000",
                "port:3000 public 10.1.2.3:3000",
                "port:4000 owner 10.1.2.3:4000"
            ]
        );
        assert_eq!(workspace.instance.as_deref(), Some("uid-1"));
        assert_eq!(workspace.revision.status, Some(42));
        let going = read(resource, object("Running", true)).unwrap();
        assert_eq!(going.phase, Phase::Stopping);
        assert_eq!(read(resource, object("Dreaming", false)).unwrap().phase, Phase::Unknown);
    }

    #[test]
    fn a_devworkspace_is_behind_its_service() {
        let workspace = read(
            Resource::DevWorkspace,
            json!({
                "apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace",
                "metadata": { "name": "web", "namespace": "alice-dev", "uid": "u",
                    "labels": { CREATOR: "alice" } },
                "spec": { "template": { "components": [{ "container": { "endpoints": [
                    { "name": "ide", "targetPort": 3100, "attributes": { "type": "main" } },
                    { "name": "db", "targetPort": 5432, "exposure": "internal" },
                    { "name": "none", "targetPort": 1, "exposure": "none" },
                    { "name": "app", "targetPort": 8080, "exposure": "public" },
                ]}}]}},
                "status": { "phase": "Running", "devworkspaceId": "workspace0123456789abcdef" },
            }),
        )
        .unwrap();
        let service = "http://workspace0123456789abcdef-service.alice-dev.svc";
        assert_eq!(
            lines(&workspace),
            [
                format!("main owner {service}:3100"),
                format!("port:3100 owner {service}:3100"),
                format!("port:8080 owner {service}:8080")
            ]
        );
        assert_eq!(workspace.owner.username.as_deref(), Some("alice"));
    }

    #[test]
    fn s1_an_endpoint_of_a_devfile_speaks_what_it_says() {
        let endpoint = |name: &str, port: u16, protocol: &str| json!({ "name": name, "targetPort": port, "protocol": protocol });
        let workspace = read(
            Resource::DevWorkspace,
            json!({
                "apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace",
                "metadata": { "name": "web", "namespace": "alice-dev", "uid": "u" },
                "spec": { "template": { "components": [{ "container": { "endpoints": [
                    endpoint("page", 1, "http"), endpoint("safe", 2, "https"),
                    endpoint("socket", 3, "ws"), endpoint("sockets", 4, "wss"),
                    endpoint("ssh", 22, "tcp"), endpoint("game", 5, "udp"),
                    endpoint("new", 6, "quic"), { "name": "plain", "targetPort": 7 },
                ]}}]}},
                "status": { "phase": "Running", "devworkspaceId": "workspace0123456789abcdef" },
            }),
        );
        let endpoints = workspace.unwrap().endpoints;
        let found: Vec<_> =
            endpoints.iter().map(|e| format!("{} {}", e.name, e.protocol)).collect();
        let want = ["1 http", "2 http", "3 http", "4 http", "22 tcp", "7 http"];
        assert_eq!(found, want.map(|e| format!("port:{e}")));
    }

    #[test]
    fn s9_the_creator_is_what_the_protected_label_says_and_no_annotation() {
        let workspace = |metadata: Value| {
            let object = json!({
                "apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace",
                "metadata": metadata, "spec": {},
                "status": { "phase": "Running", "devworkspaceId": "workspace0123456789abcdef" },
            });
            read(Resource::DevWorkspace, object).unwrap()
        };
        let both = json!({ "name": "web", "labels": { CREATOR: "alice" }, "annotations": { CREATOR: "mallory" } });
        assert_eq!(workspace(both).owner.username.as_deref(), Some("alice"));
        let annotated = workspace(json!({ "name": "web", "annotations": { CREATOR: "mallory" } }));
        let Person { account, subject, email, username, .. } = annotated.owner;
        assert_eq!([account, subject, email, username], [None, None, None, None]);
        assert_eq!(&*annotated.owner_label, "");
        let lying = workspace(json!({ "name": "web", "labels": { CREATOR: "a\r\nX-User: b" } }));
        assert_eq!(&*lying.owner_label, "aX-User: b", "it stands in headers and logs");
    }

    #[test]
    fn an_object_without_an_id_is_none() {
        for resource in [Resource::Gitpod { ide_port: 1 }, Resource::DevWorkspace] {
            let object = json!({ "apiVersion": "a/v1", "kind": "B", "metadata": { "name": "x" } });
            assert!(read(resource, object).is_none());
        }
    }
}
