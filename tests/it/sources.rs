//! Sources whose platforms cannot be had: Coder by its documented JSON, Kubernetes by its API
//! conventions; and the administrator's API, which is our own.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as Segment, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_stage::{AgentToml, Setup};
use tokio::sync::broadcast;

use crate::{
    support::{AgentProcess, agent::program, until},
    wire::Peer,
};
use dev_idp::DevIdp;

mod joins;

/// An agent whose only source is the one in `settings`.
struct Stage {
    agent: AgentProcess,
    idp: DevIdp,
    directory: TempDir,
}

impl Stage {
    async fn start(settings: &str, files: &[(&str, &str)]) -> Self {
        let idp = DevIdp::start().await;
        let setup = Setup::new();
        for (name, text) in files {
            setup.write(name, text);
        }
        let config = AgentToml::new(idp.issuer())
            .lines("[[issuer]]", "match = [\"username\", \"email\"]")
            .admin()
            .audit();
        let agent = setup.agent(format!("{config}\n{settings}\n")).await;
        let directory = setup.directory;
        Self { agent, idp, directory }
    }

    async fn reason(&self, host: &str, who: Option<&str>) -> String {
        let token = who.map(|who| self.idp.token_of(who));
        let mut peer = Peer::unix(&self.agent.socket()).await;
        // An agent that begins has no keys for a moment.
        until("the keys", async || {
            let reason = peer.ask(host, token.as_deref()).await.unwrap();
            (reason != "keys_unavailable").then_some(reason)
        })
        .await
    }

    async fn until(&self, host: &str, who: Option<&str>, want: &str) {
        until(&format!("{want} at {host}"), async || {
            (self.reason(host, who).await == want).then_some(())
        })
        .await;
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("agent-admin.sock")
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

// --- Coder ----------------------------------------------------------------------------------------

#[derive(Default)]
struct Coder {
    workspaces: BTreeMap<String, Value>,
    shares: Vec<Value>,
    suspended: Option<String>,
}

type Shared<T> = State<Arc<Mutex<T>>>;

fn coder_workspace(name: &str, owner: &str, build: u64, status: &str) -> Value {
    json!({
        "id": format!("id-{name}-{owner}"), "name": name, "owner_id": format!("user-{owner}"),
        "owner_name": owner, "organization_id": "o1",
        "latest_build": {
            "id": format!("build-{build}"), "build_number": build, "status": status,
            "resources": [{ "agents": [{ "name": "main", "status": "connected", "apps": [
                { "slug": "code", "subdomain": true, "sharing_level": "owner", "health": "healthy" },
                { "slug": "wiki", "subdomain": true, "sharing_level": "authenticated" },
                { "slug": "site", "subdomain": true, "sharing_level": "public" },
            ]}]}],
        },
    })
}

async fn coder(coder: Arc<Mutex<Coder>>) -> SocketAddr {
    async fn list(
        State(coder): Shared<Coder>,
        Query(query): Query<BTreeMap<String, String>>,
        headers: HeaderMap,
    ) -> Response {
        if headers.get("coder-session-token").is_none_or(|token| token != "coder-token") {
            return (StatusCode::UNAUTHORIZED, Json(json!({ "message": "no" }))).into_response();
        }
        assert_eq!(query["q"], "status:running");
        let number = |key: &str| query[key].parse::<usize>().unwrap();
        let coder = coder.lock().unwrap();
        let running = coder.workspaces.values();
        let running = running.filter(|w| w["latest_build"]["status"] == "running");
        let page: Vec<_> = running.skip(number("offset")).take(number("limit")).collect();
        Json(json!({ "workspaces": page, "count": coder.workspaces.len() })).into_response()
    }
    async fn one(
        State(coder): Shared<Coder>,
        Segment((owner, name)): Segment<(String, String)>,
    ) -> Response {
        match coder.lock().unwrap().workspaces.get(&format!("{name}--{owner}")) {
            Some(workspace) => Json(workspace.clone()).into_response(),
            None => (StatusCode::NOT_FOUND, Json(json!({ "message": "no" }))).into_response(),
        }
    }
    async fn shares(State(coder): Shared<Coder>, Segment(id): Segment<String>) -> Json<Value> {
        let coder = coder.lock().unwrap();
        let of_it = coder.shares.iter().filter(|share| share["workspace_id"] == *id);
        Json(json!({ "shares": of_it.collect::<Vec<_>>() }))
    }
    async fn users(
        State(coder): Shared<Coder>,
        Query(query): Query<BTreeMap<String, String>>,
    ) -> Json<Value> {
        let suspended = coder.lock().unwrap().suspended.clone();
        let user = |name: &str, organizations: &[&str]| {
            let status = if suspended.as_deref() == Some(name) { "suspended" } else { "active" };
            json!({
                "id": format!("user-{name}"), "username": name, "status": status,
                "email": format!("{name}@example.com"), "organization_ids": organizations,
            })
        };
        let users = [user("alice", &["o1"]), user("bob", &["o1"]), user("carol", &["o2"])];
        let offset = query["offset"].parse().unwrap();
        Json(json!({ "users": users.into_iter().skip(offset).collect::<Vec<_>>(), "count": 3 }))
    }
    let router = Router::new()
        .route("/api/v2/workspaces", get(list))
        .route("/api/v2/users", get(users))
        .route("/api/v2/users/{owner}/workspace/{name}", get(one))
        .route("/api/v2/workspaces/{id}/port-share", get(shares))
        .with_state(coder);
    serve(router).await
}

#[tokio::test(flavor = "multi_thread")]
async fn coder_workspaces_apps_and_shared_ports_are_followed() {
    let deployment = Arc::new(Mutex::new(Coder::default()));
    let put = |name: &str, build, status| {
        let workspace = coder_workspace(name, "alice", build, status);
        deployment.lock().unwrap().workspaces.insert(format!("{name}--alice"), workspace);
    };
    // More than a page.
    (0..130).for_each(|n| put(&format!("w{n:03}"), 1, "running"));
    put("dev", 1, "running");
    deployment.lock().unwrap().shares = vec![
        json!({ "workspace_id": "id-dev-alice", "agent_name": "main", "port": 8080, "protocol": "http", "share_level": "organization" }),
        json!({ "workspace_id": "id-dev-alice", "agent_name": "main", "port": 9090, "protocol": "http", "share_level": "public" }),
    ];
    let address = coder(Arc::clone(&deployment)).await;
    let settings = format!(
        "[[source]]\nname = 'coder'\nkind = 'coder'\nurl = 'http://{address}'\ntoken_file = 'token'\n\
         destination = 'backend:coder'\nresync_seconds = 1\nundeclared_ports = 'owner'\n\
         [[host]]\npreset = 'coder'\ndomain = 'apps.test'\nsource = 'coder'\n\
         [destinations]\nbackends = ['coder']\n"
    );
    let stage = Stage::start(&settings, &[("token", "coder-token\n")]).await;
    let host = |what: &str| format!("{what}--dev--alice.apps.test");
    stage.until(&host("code"), Some("alice"), "owner").await;
    for (what, who, want) in [
        ("code", Some("bob"), "not_permitted"),
        ("code", None, "credential_missing"),
        ("wiki", Some("bob"), "organization"),
        // dave has no account at Coder.
        ("wiki", Some("dave"), "not_permitted"),
        ("site", None, "public"),
        ("8080--main", Some("bob"), "granted_group"),
        ("8080--main", Some("carol"), "not_permitted"),
        ("9090--main", None, "public"),
        // The owner reaches what is not shared, too.
        ("7070--main", Some("alice"), "owner"),
        ("7070--main", Some("bob"), "not_permitted"),
        ("code--w129", Some("alice"), "host_unmatched"),
    ] {
        let host = if what == "code--w129" { "code.apps.test".into() } else { host(what) };
        assert_eq!(stage.reason(&host, who).await, want, "{what} {who:?}");
    }
    assert_eq!(stage.reason("code--w129--alice.apps.test", Some("alice")).await, "owner");
    deployment.lock().unwrap().suspended = Some("alice".into());
    stage.until(&host("code"), Some("alice"), "user_inactive").await;
    assert_eq!(stage.reason(&host("site"), None).await, "owner_inactive");
    deployment.lock().unwrap().suspended = None;
    stage.until(&host("code"), Some("alice"), "owner").await;
    deployment.lock().unwrap().shares.clear();
    stage.until(&host("9090--main"), None, "credential_missing").await;
    put("dev", 2, "stopping");
    stage.until(&host("code"), Some("alice"), "workspace_stopped").await;
    deployment.lock().unwrap().workspaces.remove("dev--alice");
    stage.until(&host("code"), Some("alice"), "workspace_unknown").await;
}

// --- Kubernetes -----------------------------------------------------------------------------------

/// An API server with one kind of object.
struct Cluster {
    objects: Mutex<BTreeMap<String, Value>>,
    version: Mutex<u64>,
    changes: broadcast::Sender<String>,
    lists: Mutex<u64>,
}

impl Cluster {
    fn new() -> Arc<Self> {
        let (changes, _) = broadcast::channel(1000);
        let (objects, version, lists) = (Mutex::default(), Mutex::new(100), Mutex::new(0));
        Arc::new(Self { objects, version, changes, lists })
    }

    fn put(&self, name: &str, mut object: Value) {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("default");
        object["metadata"]["uid"] = json!(format!("uid-{name}"));
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["creationTimestamp"] =
            json!(format!("2026-11-24T00:00:{:02}Z", *version % 60));
        let old = self.objects.lock().unwrap().insert(name.into(), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let _ = self.changes.send(format!("{}\n", json!({ "type": kind, "object": object })));
    }

    fn delete(&self, name: &str) {
        let object = self.objects.lock().unwrap().remove(name).unwrap();
        let _ = self.changes.send(format!("{}\n", json!({ "type": "DELETED", "object": object })));
    }

    /// Ends every watch as an API server does whose history is too short.
    fn expire(&self) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": "Expired", "code": 410, "message": "too old resource version" });
        let _ = self.changes.send(format!("{}\n", json!({ "type": "ERROR", "object": status })));
    }

    async fn serve(self: &Arc<Self>) -> SocketAddr {
        async fn answer(
            State(cluster): State<Arc<Cluster>>,
            Query(query): Query<BTreeMap<String, String>>,
            headers: HeaderMap,
        ) -> Response {
            if headers.get("authorization").is_none_or(|token| token != "Bearer kube-token") {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "reason": "Unauthorized", "code": 401, "message": "Unauthorized" });
                return (StatusCode::UNAUTHORIZED, Json(status)).into_response();
            }
            if query.contains_key("watch") {
                let changes = cluster.changes.subscribe();
                let stream = futures_util::stream::unfold(changes, |mut changes| async {
                    let change = changes.recv().await.ok()?;
                    Some((Ok::<_, Infallible>(change), changes))
                });
                return Body::from_stream(stream).into_response();
            }
            *cluster.lists.lock().unwrap() += 1;
            let objects = cluster.objects.lock().unwrap();
            let version = cluster.version.lock().unwrap().to_string();
            Json(json!({
                "apiVersion": "workspace.gitpod.io/v1", "kind": "WorkspaceList",
                "metadata": { "resourceVersion": version },
                "items": objects.values().collect::<Vec<_>>(),
            }))
            .into_response()
        }
        let router = Router::new()
            .route("/apis/workspace.gitpod.io/v1/workspaces", get(answer))
            .with_state(Arc::clone(self));
        serve(router).await
    }
}

fn gitpod_object(owner: &str, phase: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "workspace.gitpod.io/v1", "kind": "Workspace",
        "metadata": {},
        "spec": {
            "ownership": { "owner": owner, "workspaceID": "pinkpanda-demo-ns35kd21abc" },
            "admission": { "level": "Owner" },
            "ports": [{ "port": 3000, "visibility": "Everyone" }],
        },
        "status": { "phase": phase, "runtime": { "podIP": ip } },
    })
}

fn kubeconfig(address: SocketAddr, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{ name: test, cluster: {{ server: 'http://{address}' }} }}]\n\
         contexts: [{{ name: test, context: {{ cluster: test, user: test }} }}]\n\
         users: [{{ name: test, user: {{ token: {token} }} }}]\n"
    )
}

const KUBERNETES: &str = "[[source]]\nname = 'cluster'\nkind = 'kubernetes'\nresource = 'gitpod'\n\
    kubeconfig = 'kubeconfig'\nowner = 'username'\n\
    [[host]]\npreset = 'gitpod'\ndomain = 'gitpod.test'\n";

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_of_a_cluster_are_listed_and_watched() {
    let cluster = Cluster::new();
    cluster.put("i1", gitpod_object("alice", "Running", "10.1.1.1"));
    let address = cluster.serve().await;
    let config = kubeconfig(address, "kube-token");
    let stage = Stage::start(KUBERNETES, &[("kubeconfig", &config)]).await;
    let (main, port) = (
        "pinkpanda-demo-ns35kd21abc.ws.gitpod.test",
        "3000-pinkpanda-demo-ns35kd21abc.ws.gitpod.test",
    );
    stage.until(main, Some("alice"), "owner").await;
    assert_eq!(stage.reason(main, Some("bob")).await, "not_permitted");
    assert_eq!(stage.reason(port, None).await, "public");
    until("the watch", async || (cluster.changes.receiver_count() > 0).then_some(())).await;
    cluster.put("i1", gitpod_object("alice", "Stopping", "10.1.1.1"));
    stage.until(main, Some("alice"), "workspace_stopped").await;
    // The next life starts while the last is not gone yet.
    cluster.put("i2", gitpod_object("alice", "Running", "10.1.1.2"));
    stage.until(main, Some("alice"), "owner").await;
    cluster.delete("i1");
    assert_eq!(stage.reason(main, Some("alice")).await, "owner");
    cluster.delete("i2");
    stage.until(main, Some("alice"), "workspace_unknown").await;
    // The watch is too old: everything is listed again.
    let lists = *cluster.lists.lock().unwrap();
    cluster.put("i3", gitpod_object("alice", "Running", "10.1.1.3"));
    stage.until(main, Some("alice"), "owner").await;
    cluster.expire();
    until("the new list", async || (*cluster.lists.lock().unwrap() > lists).then_some(())).await;
    stage.until(main, Some("alice"), "owner").await;
    until("the new watch", async || (cluster.changes.receiver_count() > 0).then_some(())).await;
    cluster.delete("i3");
    stage.until(main, Some("alice"), "workspace_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_refuses_the_credential_alarms() {
    let address = Cluster::new().serve().await;
    let config = kubeconfig(address, "wrong");
    let stage = Stage::start(KUBERNETES, &[("kubeconfig", &config)]).await;
    until("the alarm", async || {
        stage
            .agent
            .log()
            .contains("refuses the agent's credential, which must be replaced")
            .then_some(())
    })
    .await;
    let host = "pinkpanda-demo-ns35kd21abc.ws.gitpod.test";
    assert_eq!(stage.reason(host, Some("alice")).await, "workspaces_not_loaded");
}

// --- the administrator's API ----------------------------------------------------------------------

const API: &str = "[[source]]\nname = 'builds'\nkind = 'api'\nlease_seconds = 60\n\
    [[host]]\npattern = '(?<workspace>[a-z0-9-]+)\\.ci\\.test'\n[destinations]\nonly = ['10.0.0.0/8']\n";

/// Asks the admin socket, as curl does.
async fn admin(socket: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().unix_socket(socket.to_owned()).build().unwrap();
    let request = client.request(method.parse().unwrap(), format!("http://agent{path}"));
    let response = request.body(body.to_owned()).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_writes_workspaces_with_leases_and_revisions() {
    let stage = Stage::start(API, &[]).await;
    let socket = stage.socket();
    let at = "/v1/sources/builds/workspaces/job-1";
    let record = |destination: &str| {
        json!({ "id": "job-1", "owner": { "username": "alice" }, "phase": "running",
            "destination": destination })
        .to_string()
    };
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "workspace_unknown");
    let (status, held) =
        admin(&socket, "PUT", &format!("{at}?revision=5"), &record("10.0.0.1:80")).await;
    assert_eq!((status, &held["revision"], &held["lease_seconds"]), (200, &json!(5), &json!(60)));
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "owner");
    assert_eq!(stage.reason("job-1.ci.test", Some("bob")).await, "not_permitted");
    let (status, error) =
        admin(&socket, "PUT", &format!("{at}?revision=4"), &record("10.0.0.2:80")).await;
    assert_eq!(status, 409, "{error}");
    // Where no request may be sent.
    admin(&socket, "PUT", at, &record("192.168.1.1:80")).await;
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "destination_forbidden");
    admin(&socket, "PUT", at, &record("169.254.169.254:80")).await;
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "destination_forbidden");
    for (path, body, want) in [
        (at, "nonsense", 422),
        (at, &record("backend:workspace"), 422),
        (at, &record("backend:named"), 422),
        (
            at,
            r#"{"id":"job-2","owner":{"username":"a"},"phase":"running","destination":"10.0.0.1:1"}"#,
            422,
        ),
        ("/v1/sources/missing/workspaces/job-1", "{}", 404),
        ("/v1/sources/builds/workspaces/job-1?revision=x", "{}", 400),
    ] {
        let (status, error) = admin(&socket, "PUT", path, body).await;
        assert_eq!(status, want, "{path} {error}");
    }
    let (_, listed) = admin(&socket, "GET", "/v1/sources/builds/workspaces", "").await;
    assert_eq!(listed["workspaces"][0]["id"], "job-1");
    let (_, metrics) = admin(&socket, "GET", "/metrics", "").await;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("identity_spoa_source_workspaces{source=\"builds\"} 1"), "{metrics}");
    assert!(metrics.contains("identity_spoa_source_live{source=\"builds\"} 1"), "{metrics}");
    // A short lease that is not renewed.
    let (status, _) =
        admin(&socket, "PUT", &format!("{at}?lease_seconds=1"), &record("10.0.0.1:80")).await;
    assert_eq!(status, 200);
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "owner");
    stage.until("job-1.ci.test", Some("alice"), "workspace_unknown").await;
    admin(&socket, "PUT", at, &record("10.0.0.1:80")).await;
    assert_eq!(admin(&socket, "DELETE", at, "").await.0, 204);
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "workspace_unknown");
    assert_eq!(admin(&socket, "DELETE", at, "").await.0, 404);
    let audit = std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).unwrap();
    for event in ["put_workspace", "delete_workspace"] {
        assert!(audit.contains(&format!("\"event\":\"{event}\"")), "{event} {audit}");
    }
    // Who could reach the workspace is on record: such workspaces have no other history.
    assert!(audit.contains("\"access\":[\"owner alice\""), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workspaces_at_one_address_are_both_refused_until_one_goes() {
    let stage = Stage::start(API, &[]).await;
    let put = async |id: &str, address: &str| {
        let body = json!({ "id": id, "owner": { "username": "alice" }, "phase": "running",
            "destination": address });
        let path = format!("/v1/sources/builds/workspaces/{id}");
        assert_eq!(admin(&stage.socket(), "PUT", &path, &body.to_string()).await.0, 200);
    };
    put("a", "10.0.0.1:80").await;
    put("b", "10.0.0.1:80").await;
    for host in ["a.ci.test", "b.ci.test"] {
        assert_eq!(stage.reason(host, Some("alice")).await, "destination_contested");
    }
    put("b", "10.0.0.2:80").await;
    for host in ["a.ci.test", "b.ci.test"] {
        assert_eq!(stage.reason(host, Some("alice")).await, "owner");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_workspaces_and_their_sources() {
    let stage = Stage::start(API, &[]).await;
    let body = json!({ "id": "job-1", "owner": { "username": "alice" }, "phase": "running",
        "admission": "owner", "destination": "10.0.0.1:80" });
    admin(&stage.socket(), "PUT", "/v1/sources/builds/workspaces/job-1", &body.to_string()).await;
    let run = |args: &[&str]| {
        let output = Command::new(program())
            .args(["workspaces", "--config"])
            .arg(stage.directory.path().join("agent.toml"))
            .args(args)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let (code, list) = run(&["list"]);
    assert_eq!(code, 0, "{list}");
    assert_eq!(
        list,
        "WORKSPACE  PHASE    OWNER  SOURCE  ENDPOINTS\n\
         job-1      running  alice  builds  main=owner\n"
    );
    let (_, shown) = run(&["show", "job-1"]);
    assert!(shown.contains("endpoint      main  http  owner  10.0.0.1:80"), "{shown}");
    let (_, json) = run(&["show", "job-1", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["source"], "builds");
    let (_, sources) = run(&["sources"]);
    assert!(sources.contains("builds  live"), "{sources}");
    let (code, error) = run(&["show", "job-9"]);
    assert_eq!(code, 2);
    assert!(error.contains("there is no workspace"), "{error}");
}

// --- configuration --------------------------------------------------------------------------------

#[test]
fn every_mistake_in_a_source_is_told_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[agent]\nlisten = ['127.0.0.1:0']\n\
        [[issuer]]\nname = 'dev'\nissuer = 'https://dev.test'\naudience = 'w'\n\
        [[host]]\npreset = 'ona'\ndomain = 'x.test'\nsource = 'missing'\n\
        [[source]]\nname = 'one'\nkind = 'ona'\nurl = 'http://ona.example'\n\
        [[source]]\nname = 'one'\nkind = 'coder'\nurl = 'https://coder.test'\ntoken_file = 't'\n\
        [[source]]\nname = 'two'\nkind = 'gitpot'\n\
        [[source]]\nname = 'three'\nkind = 'jupyterhub'\nhost = 'hub..test'\nurl = 'https://h.test'\ntoken_env = 'T'\n\
        [[source]]\nname = 'four'\nkind = 'api'\n\
        [destinations]\nonly = ['10.0.0.0/33']\n";
    std::fs::write(directory.path().join("agent.toml"), text).unwrap();
    let error = identity_spoa::config::Config::load(&directory.path().join("agent.toml"));
    let text = error.unwrap_err().to_string();
    for part in [
        ":14:",
        "expected either 'token_file' or 'token_env'",
        "'destination' is missing",
        "expected one of file, api, jupyterhub, coder, gitpod, kubernetes, ona",
        "routes_listen",
        "routes_token_file",
        "10.0.0.0/33",
        "label of the host",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn s14_a_backend_must_be_permitted_for_every_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let load = |source: &str, destination: &str, backends: &str| {
        let text = format!(
            "[agent]\nlisten = ['127.0.0.1:0']\n\
             [[issuer]]\nname = 'dev'\nissuer = 'https://dev.test'\naudience = 'w'\n\
             [[host]]\npreset = 'ona'\ndomain = 'x.test'\n\
             [destinations]\nbackends = [{backends}]\n\
             [[source]]\nname = 'one'\nissuer = 'dev'\n{source}\ndestination = 'backend:{destination}'\n"
        );
        std::fs::write(&path, text).unwrap();
        identity_spoa::config::Config::load(&path).map(|_| ()).map_err(|m| m.to_string())
    };
    let platform = |kind: &str| format!("kind = '{kind}'\nurl = 'https://p.test'\ntoken_env = 'T'");
    for source in [
        platform("coder"),
        platform("ona"),
        format!("{}\norganization_id = 'o'", platform("gitpod")),
        "kind = 'kubernetes'\nresource = 'devworkspace'".into(),
    ] {
        for (destination, backends) in [("named", "'named'"), ("ws-{workspace}", "'ws-*'")] {
            assert_eq!(load(&source, destination, backends), Ok(()), "{source} {destination}");
        }
        for (destination, backends, why) in [
            ("named", "", "backends = [\"named\"]"),
            ("ws-{workspace}", "'ws-1'", "backends = [\"ws-*\"]"),
            ("{workspace}", "'ws-*'", "backends = [\"*\"]"),
            ("workspace", "'*'", "the gate's own"),
            ("identity-agent", "'identity-*'", "the gate's own"),
            ("named", "'named', 'nowhere'", ":11:"),
            ("named", "'named', 'a b'", "expected the name of a backend"),
        ] {
            let error = load(&source, destination, backends).unwrap_err();
            assert!(error.contains(why), "{source} {destination}: {error}");
        }
    }
}

#[test]
fn the_example_of_each_platforms_page_is_a_good_configuration() {
    let directory = crate::support::haproxy::root().join("docs/platforms");
    let mut pages = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let page = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = text.split_once("```toml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        // Keys that the page leaves out have the defaults that the reference shows.
        let commented = example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let commented: Vec<_> = commented.collect();
        for example in [example.to_owned(), commented.join("\n")] {
            let text = format!(
                "[agent]\nlisten = ['127.0.0.1:0']\n\
                 [[issuer]]\nname = 'corp'\nissuer = 'https://corp.test'\naudience = 'w'\n{example}"
            );
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("agent.toml"), &text).unwrap();
            let config = identity_spoa::config::Config::load(&directory.path().join("agent.toml"));
            let config = config.unwrap_or_else(|error| panic!("{page}: {error}\n{text}"));
            assert!(example.contains(&format!("kind = \"{page}\"")), "{page}");
            assert_eq!(config.sources.sources.len(), 1, "{page}");
        }
        pages += 1;
    }
    assert_eq!(pages, 6);
}
