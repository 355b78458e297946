//! The administrator's API over its router, without a socket: each path, and each refusal.

use std::{io::sink, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::Request,
};
use serde_json::Value;
use tower_service::Service as _;

use super::*;
use crate::{
    audit::WriterThread,
    gate::scene::{ALICES, Scene},
    sources::{WatchedSource, api::Leases},
    tunnels::TunnelSettings,
};

const REPLACED: &str = "bluebird-demo-ns35kd21abc";

/// The API about a scene with a second source, which is written through the API.
struct Api {
    router: Router,
    scene: Arc<AdminState>,
    _writer: WriterThread,
}

impl Api {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut AdminState)) -> Self {
        let mut scene = Scene::new();
        let (log, writer) = AuditLog::to_sink(Box::new(sink()), 1 << 20).unwrap();
        let log = Arc::new(log);
        let leases = Leases::new(scene.publisher.clone(), Duration::from_mins(1));
        scene.gate.watched.push(WatchedSource {
            name: "api".into(),
            status: Arc::default(),
            leases: Some(leases),
        });
        let mut state = AdminState {
            revocations: Arc::clone(&scene.gate.revocations),
            browser: scene.gate.browser.clone(),
            live: Arc::new(Live::new(Arc::new(scene.gate))),
            tunnels: Some(Arc::new(Tunnels::new(TunnelSettings::default(), 1, Arc::clone(&log)))),
            audit_log: log,
            verdict_cache: None,
        };
        change(&mut state);
        let scene = Arc::new(state);
        Self { router: router(Arc::clone(&scene)), scene, _writer: writer }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path);
        if body.starts_with('{') {
            request = request.header("content-type", "application/json");
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(ConnectInfo(Caller { uid: Some(7) }));
        let response = self.router.clone().call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, text) = self.call(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The call fails with that status and says why.
    async fn fails(&self, method: &str, path: &str, body: &str, status: u16, error: &str) {
        let (found, text) = self.call(method, path, body).await;
        assert_eq!(found, status, "{method} {path} {body}: {text}");
        let said: Value = serde_json::from_str(&text).unwrap();
        let said = said["error"].as_str().unwrap();
        assert!(said.contains(error), "{method} {path} {body}: {said}");
    }
}

/// A workspace as a writer gives it.
fn document(id: &str) -> String {
    format!(
        r#"{{"id": "{id}", "issuer": "corp", "owner": {{"subject": "carol"}}, "phase": "running",
            "admission": "owner", "destination": "10.0.0.9:80"}}"#
    )
}

#[tokio::test]
async fn revocations_are_made_listed_and_lifted() {
    let api = Api::new();
    let one = r#"{"issuer": "corp", "subject": "alice"}"#;
    let made = api.json("POST", REVOCATIONS, one).await;
    assert_eq!(made["revocations"][0]["subject"], "alice");
    let listed = api.json("GET", REVOCATIONS, "").await;
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 1);
    assert_eq!(api.scene.revocations.len(), 1);
    api.json("DELETE", REVOCATIONS, one).await;
    assert_eq!(api.scene.revocations.len(), 0);
    api.fails("DELETE", REVOCATIONS, one, 404, "there is no such revocation").await;
    for body in [
        r#"{"issuer": "corp"}"#,
        r#"{"issuer": "corp", "subject": "a", "token": "b"}"#,
        r#"{"issuer": "elsewhere", "subject": "a"}"#,
        r#"{"subject": "a"}"#,
    ] {
        api.fails("POST", REVOCATIONS, body, 422, "expected").await;
    }
    api.fails("POST", REVOCATIONS, "{", 400, "").await;
    api.fails("POST", REVOCATIONS, r#"{"subject": 7}"#, 422, "").await;
    api.fails("POST", REVOCATIONS, "subject=a", 415, "").await;
    let long = format!(r#"{{"subject": "{}"}}"#, "a".repeat(MAX_BODY));
    api.fails("POST", REVOCATIONS, &long, 413, "").await;
    assert_eq!(api.scene.revocations.len(), 0);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let api = Api::new();
    let listed = api.json("GET", SESSIONS, "").await;
    assert_eq!(listed["sessions"][0]["user"], "alice");
    for body in ["{}", r#"{"user": "a", "subject": "b"}"#, r#"{"issuer": "corp"}"#] {
        api.fails("DELETE", SESSIONS, body, 422, "exactly one of").await;
    }
    api.fails("DELETE", SESSIONS, r#"{"name": "alice"}"#, 422, "").await;
    let other = api.json("DELETE", SESSIONS, r#"{"user": "bob"}"#).await;
    assert_eq!(other["sessions"], Value::Array(vec![]));
    let ended = api.json("DELETE", SESSIONS, r#"{"user": "alice"}"#).await;
    assert_eq!(ended["sessions"][0]["subject"], "alice");
    assert_eq!(api.json("GET", SESSIONS, "").await["sessions"], Value::Array(vec![]));
    let (_, metrics) = api.call("GET", "/metrics", "").await;
    let counted = "identity_spoa_session_events_total{event=\"end_session\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    let without = Api::with(|state| state.browser = None);
    without.fails("GET", SESSIONS, "", 404, "[sign_in]").await;
    without.fails("DELETE", SESSIONS, r#"{"user": "alice"}"#, 404, "[sign_in]").await;
}

#[tokio::test]
async fn workspaces_and_sources_are_shown() {
    let api = Api::new();
    let all = api.json("GET", WORKSPACES, "").await;
    let ids: Vec<_> = all["workspaces"].as_array().unwrap().iter().map(|w| &w["id"]).collect();
    assert!(ids.len() == 2 && ids.iter().any(|id| *id == ALICES), "{all}");
    let one = api.json("GET", &format!("{WORKSPACES}/{ALICES}"), "").await;
    assert_eq!(one["workspaces"][0]["owner"], "alice");
    api.fails("GET", &format!("{WORKSPACES}/none"), "", 404, "no workspace \"none\"").await;
    let sources = api.json("GET", SOURCES, "").await;
    assert_eq!(
        (&sources["sources"][0]["name"], &sources["sources"][0]["workspaces"]),
        (&Value::from("test"), &Value::from(2))
    );
}

#[tokio::test]
async fn a_writer_puts_shows_and_deletes_workspaces_of_its_source() {
    let api = Api::new();
    let path = format!("{SOURCES}/api/workspaces/{REPLACED}");
    let (good, list) = (document(REPLACED), format!("{SOURCES}/api/workspaces"));
    let put = api.json("PUT", &format!("{path}?revision=5&lease_seconds=30"), &good).await;
    assert_eq!(put["revision"], 5);
    assert_eq!(api.json("GET", &path, "").await["id"], REPLACED);
    assert_eq!(api.json("GET", &list, "").await["workspaces"].as_array().unwrap().len(), 1);
    api.fails("PUT", &format!("{path}?revision=4"), &good, 409, "").await;
    api.fails("DELETE", &format!("{path}?revision=4"), "", 409, "").await;
    api.fails("PUT", &path, &document("other"), 422, "the path names").await;
    api.fails("PUT", &path, "{}", 422, "").await;
    assert_eq!(api.call("PUT", &format!("{path}?revision=x"), &good).await.0, 400);
    assert_eq!(api.call("DELETE", &format!("{path}?revision=6"), "").await.0, 204);
    api.fails("DELETE", &path, "", 404, "there is no workspace").await;
    api.fails("GET", &path, "", 404, "there is no workspace").await;
    for (source, status, error) in [("none", 404, "no source"), ("test", 405, "cannot be written")]
    {
        let path = format!("{SOURCES}/{source}/workspaces");
        let one = format!("{path}/{REPLACED}");
        api.fails("GET", &path, "", status, error).await;
        api.fails("GET", &one, "", status, error).await;
        api.fails("PUT", &one, &good, status, error).await;
        api.fails("DELETE", &one, "", status, error).await;
    }
}

#[tokio::test]
async fn tunnels_are_listed_and_closed_by_name() {
    let api = Api::new();
    assert_eq!(api.json("GET", TUNNELS, "").await["tunnels"], Value::Array(vec![]));
    assert_eq!(api.json("DELETE", TUNNELS, r#"{"user": "alice"}"#).await["terminating"], 0);
    api.fails("DELETE", TUNNELS, "{}", 422, "expected 'user', 'workspace' or 'id'").await;
    api.fails("DELETE", TUNNELS, r#"{"all": true}"#, 422, "").await;
    let without = Api::with(|state| state.tunnels = None);
    without.fails("GET", TUNNELS, "", 404, "[haproxy]").await;
    without.fails("DELETE", TUNNELS, r#"{"user": "alice"}"#, 404, "[haproxy]").await;
}

#[tokio::test]
async fn health_and_metrics_are_told() {
    let api = Api::new();
    assert_eq!(api.call("GET", "/livez", "").await, (200, "alive\n".into()));
    let (status, ready) = api.call("GET", "/readyz", "").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    // The source of the scene has no follower, so that it never becomes live.
    assert_eq!((status, &ready["ready"]), (503, &Value::from(false)));
    let parts: Vec<_> =
        ready["checks"].as_array().unwrap().iter().map(|c| (&c["part"], &c["ok"])).collect();
    assert!(parts.contains(&(&Value::from("issuer"), &Value::from(true))), "{ready}");
    assert!(parts.contains(&(&Value::from("source"), &Value::from(false))), "{ready}");
    assert!(parts.contains(&(&Value::from("audit"), &Value::from(true))), "{ready}");
    let (status, metrics) = api.call("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    for line in
        ["identity_spoa_ready 0", "identity_spoa_session_cookies 2", "identity_spoa_revocations 0"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let api = Api::new();
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/revocation", 404),
        ("PUT", REVOCATIONS, 405),
        ("POST", SESSIONS, 405),
        ("DELETE", WORKSPACES, 405),
        ("POST", SOURCES, 405),
        ("POST", TUNNELS, 405),
        ("POST", STATUS, 405),
        ("POST", "/metrics", 405),
    ] {
        assert_eq!(api.call(method, path, "").await.0, status, "{method} {path}");
    }
}

#[tokio::test]
async fn the_status_has_each_part_and_names_no_user_or_workspace() {
    let api = Api::new();
    let status = api.json("GET", STATUS, "").await;
    assert_eq!(
        (&status["ready"], &status["problems"][0]["part"]),
        (&false.into(), &"source".into())
    );
    assert_eq!(status["issuers"][0]["usable"], true, "{status}");
    assert_eq!((&status["sessions"]["cookies"], &status["revocations"]), (&2.into(), &0.into()));
    assert_eq!(status["tunnels"]["sockets"][0]["up"], true, "no round has failed yet: {status}");
    assert_eq!((&status["audit"]["broken"], &status["audit"]["lost"]), (&false.into(), &0.into()));
    let again = api.json("GET", STATUS, "").await;
    assert_eq!(status["run"], again["run"], "counters of one run can be compared");
    let text = status.to_string();
    assert!(!text.contains("alice") && !text.contains(ALICES), "{text}");
    let without = Api::with(|state| state.tunnels = None).json("GET", STATUS, "").await;
    assert_eq!(without["tunnels"], Value::Null);
}
