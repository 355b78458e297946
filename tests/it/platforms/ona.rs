//! Ona: our source against a fake made from the server side of Ona's own SDK, so that the wire is
//! theirs. `make platforms` proves the fake with the SDK's client first.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Program, file, python, secret};
use crate::{
    support::{AgentProcess, agent::program, until},
    wire::Peer,
};
use dev_idp::DevIdp;
use test_stage::{AgentToml, Setup};

const TOKEN: &str = "ona-test-token";

/// The id of a user.
fn user(name: &str) -> String {
    let number = name.bytes().fold(0_u64, |sum, byte| sum * 256 + u64::from(byte));
    format!("019a0000-0000-7000-8001-{:012x}", number & 0xffff_ffff_ffff)
}

fn environment_id(number: usize) -> String {
    format!("019a0000-0000-7000-8000-{number:012x}")
}

fn member(name: &str, status: &str) -> Value {
    json!({
        "userId": user(name), "fullName": name, "email": format!("{name}@example.com"),
        "status": format!("USER_STATUS_{status}"), "role": "ORGANIZATION_ROLE_MEMBER",
    })
}

/// An environment with a port for each kind of admission.
fn environment(number: usize, owner: &str, phase: &str) -> Value {
    let port = |port: u16, admission: Value| json!({ "port": port, "admission": admission });
    json!({
        "id": environment_id(number),
        "metadata": {
            "name": format!("env-{number}"),
            "creator": { "id": user(owner), "principal": "PRINCIPAL_USER" },
            "lastStartedAt": "2026-11-02T08:00:00Z",
        },
        "spec": { "specVersion": "1", "ports": [
            port(3000, json!("ADMISSION_LEVEL_CREATOR_ONLY")),
            port(4000, json!("ADMISSION_LEVEL_ORGANIZATION")),
            port(5000, json!("ADMISSION_LEVEL_EVERYONE")),
        ]},
        "status": { "phase": format!("ENVIRONMENT_PHASE_{phase}"), "environmentUrls": { "ports": [
            { "port": 3000, "url": format!("https://3000--{}.eu-01.gitpod.dev", environment_id(number)) },
        ]}},
    })
}

fn host(port: u16, number: usize) -> String {
    format!("{port}--{}.eu-01.ona.test", environment_id(number))
}

struct Stage {
    _fake: Program,
    url: String,
    agent: AgentProcess,
    idp: DevIdp,
    http: reqwest::Client,
    directory: TempDir,
}

impl Stage {
    async fn start(settings: &str) -> Self {
        Self::with(settings, (0..3).map(|n| environment(n, "alice", "RUNNING")).collect()).await
    }

    /// With these environments, of which the first is waited for.
    async fn with(settings: &str, environments: Vec<Value>) -> Self {
        let idp = DevIdp::start().await;
        let setup = Setup::new();
        let path = setup.path();
        let mut command = Command::new(python("ona"));
        let mut fake = Program::start(command.arg(file("ona", "server.py")), path.join("ona.log"));
        let url = fake.listening().await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        secret(path, "ona-token", TOKEN);
        let config = AgentToml::new(idp.issuer())
            .lines("[[issuer]]", "match = [\"email\"]")
            .table("[[host]]", "preset = \"ona\"\ndomain = \"ona.test\"")
            .admin()
            .audit()
            .table("[destinations]", "backends = [\"gateway\"]")
            .table(
                "[[source]]",
                &format!(
                    "name = \"ona\"\nkind = \"ona\"\nurl = \"{url}\"\ntoken_file = \"ona-token\"\n\
                     destination = \"backend:gateway\"\n{settings}"
                ),
            );
        let first = environments.first().cloned();
        put(&http, &url, "environments", &json!(environments)).await;
        let members = ["alice", "bob", "carol"].map(|name| member(name, "ACTIVE"));
        put(&http, &url, "members", &json!(members)).await;
        let agent = setup.agent(config).await;
        let stage = Self { _fake: fake, url, agent, idp, http, directory: setup.directory };
        if first.is_some() {
            stage.until(3000, 0, Some("alice"), "owner").await;
        }
        stage
    }

    async fn control(&self, path: &str, body: &Value) {
        put(&self.http, &self.url, path, body).await;
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/control/{path}", self.url);
        let response = self.http.post(url).body(body.to_string()).send().await.unwrap();
        assert!(response.status().is_success(), "{path}");
        serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default()
    }

    async fn state(&self) -> Value {
        let url = format!("{}/control/state", self.url);
        let text = self.http.get(url).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    async fn calls(&self, method: &str) -> u64 {
        self.state().await["calls"][method].as_u64().unwrap_or(0)
    }

    async fn peer(&self) -> Peer {
        Peer::unix(&self.agent.socket()).await
    }

    async fn reason(&self, port: u16, number: usize, who: Option<&str>) -> String {
        let token = who.map(|who| self.idp.token_of(who));
        let answer = self.peer().await.ask(&host(port, number), token.as_deref()).await;
        answer.unwrap()
    }

    async fn until(&self, port: u16, number: usize, who: Option<&str>, want: &str) {
        let token = who.map(|who| self.idp.token_of(who));
        let mut peer = self.peer().await;
        let mut last = String::new();
        until(&format!("{want} at {port} of {number}"), async || {
            last = peer.ask(&host(port, number), token.as_deref()).await.unwrap();
            (last == want).then_some(())
        })
        .await;
    }

    async fn set_phase(&self, number: usize, phase: &str, event: &str) {
        let path = format!("environments/{}?event={event}", environment_id(number));
        let mut environment = environment(number, "alice", phase);
        environment["status"]["statusVersion"] = json!(next().to_string());
        self.control(&path, &environment).await;
    }

    fn workspaces(&self, args: &[&str]) -> String {
        let config = self.directory.path().join("agent.toml");
        let output = Command::new(program())
            .args(["workspaces", "--config"])
            .arg(config)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Each change of an environment has a higher version.
fn next() -> u64 {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(10);
    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

async fn put(http: &reqwest::Client, url: &str, path: &str, body: &Value) {
    let request = http.put(format!("{url}/control/{path}")).body(body.to_string());
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn who_reaches_a_port_is_what_its_admission_says() {
    let stage = Stage::start("organization = 'acme'").await;
    for (port, who, want) in [
        (3000, Some("alice"), "owner"),
        (3000, Some("bob"), "not_permitted"),
        (3000, None, "credential_missing"),
        (4000, Some("bob"), "organization"),
        // dave is not a member; his token is valid, like bob's.
        (4000, Some("dave"), "not_permitted"),
        (4000, None, "credential_missing"),
        (5000, Some("dave"), "public"),
        (5000, None, "public"),
        (6000, Some("alice"), "endpoint_undeclared"),
    ] {
        assert_eq!(stage.reason(port, 0, who).await, want, "{port} {who:?}");
    }
    // A level that the agent does not understand admits only the creator.
    let mut odd = environment(0, "alice", "RUNNING");
    odd["spec"]["ports"] = json!([{ "port": 4000, "admission": 9 }]);
    odd["status"]["statusVersion"] = json!(next().to_string());
    stage.control(&format!("environments/{}", environment_id(0)), &odd).await;
    stage.until(4000, 0, Some("bob"), "not_permitted").await;
    assert_eq!(stage.reason(4000, 0, Some("alice")).await, "owner");
    let listed = stage.workspaces(&["list"]);
    assert!(listed.contains("alice@example.com") && listed.contains("running"), "{listed}");
    let sources = stage.workspaces(&["sources"]);
    assert!(sources.contains("live"), "{sources}");
    let shown: Value =
        serde_json::from_str(&stage.workspaces(&["show", &environment_id(0), "--json"])).unwrap();
    assert_eq!(shown[0]["endpoints"][0]["admission"], "owner");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn a_member_who_is_suspended_or_leaves_reaches_nothing_and_neither_do_others_what_is_left() {
    let stage = Stage::start("").await;
    let members = |alice: &str| {
        json!([member("alice", alice), member("bob", "ACTIVE"), member("carol", "SUSPENDED")])
    };
    stage.control("members?event=user", &members("ACTIVE")).await;
    stage.until(4000, 0, Some("carol"), "user_inactive").await;
    for status in ["SUSPENDED", "LEFT"] {
        stage.control("members?event=user", &members(status)).await;
        stage.until(3000, 0, Some("alice"), "user_inactive").await;
        assert_eq!(stage.reason(4000, 0, Some("bob")).await, "owner_inactive");
        assert_eq!(stage.reason(5000, 0, None).await, "owner_inactive");
        stage.control("members?event=user", &members("ACTIVE")).await;
        stage.until(3000, 0, Some("alice"), "owner").await;
    }
    // Gone from the list altogether.
    stage.control("members?event=user", &json!([member("bob", "ACTIVE")])).await;
    stage.until(4000, 0, Some("bob"), "owner_inactive").await;
    assert_eq!(stage.reason(3000, 0, Some("alice")).await, "not_permitted");
    // Two accounts with one address match no identity.
    let mut twin = member("alice", "ACTIVE");
    twin["userId"] = json!(user("twin"));
    stage.control("members?event=user", &json!([member("alice", "ACTIVE"), twin])).await;
    stage.until(3000, 0, Some("alice"), "user_ambiguous").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn what_the_organization_forbids_and_shares_counts() {
    let stage = Stage::start("shares = true\nmax_admission = 'organization'").await;
    // The operator's cap.
    assert_eq!(stage.reason(5000, 0, None).await, "credential_missing");
    assert_eq!(stage.reason(5000, 0, Some("bob")).await, "organization");
    let group = "019a0000-0000-7000-8000-0000000000d1";
    let shared = |role: &str| {
        json!({
            "groups": [{ "id": group, "name": "web" }],
            "memberships": { group: [{
                "id": "019a0000-0000-7000-8000-0000000000d2", "groupId": group,
                "subject": { "id": user("bob"), "principal": "PRINCIPAL_USER" },
            }]},
            "assignments": [{
                "id": "019a0000-0000-7000-8000-0000000000d3", "groupId": group,
                "resourceId": environment_id(0), "resourceType": "RESOURCE_TYPE_ENVIRONMENT",
                "resourceRole": format!("RESOURCE_ROLE_ENVIRONMENT_{role}"),
            }],
        })
    };
    stage.control("groups?event=group", &shared("USER")).await;
    stage.until(3000, 0, Some("bob"), "granted_group").await;
    assert_eq!(stage.reason(3000, 1, Some("bob")).await, "not_permitted");
    assert_eq!(stage.reason(3000, 0, Some("carol")).await, "not_permitted");
    stage.control("groups?event=group", &shared("VIEWER")).await;
    stage.until(3000, 0, Some("bob"), "not_permitted").await;
    stage.control("policies?event=update", &json!({ "portSharingDisabled": true })).await;
    stage.until(4000, 0, Some("bob"), "not_permitted").await;
    assert_eq!(stage.reason(4000, 0, Some("alice")).await, "owner");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn a_list_of_many_pages_is_read_whole_and_one_that_breaks_off_removes_nothing() {
    let environments = (0..350).map(|n| environment(n, "alice", "RUNNING")).collect();
    let stage = Stage::with("resync_seconds = 1", environments).await;
    for number in [0, 99, 100, 349] {
        assert_eq!(stage.reason(3000, number, Some("alice")).await, "owner", "{number}");
    }
    stage.control("faults", &json!({ "fail_after_pages": 1 })).await;
    let lists = stage.calls("ListEnvironments").await;
    until("a list that breaks off", async || {
        (stage.calls("ListEnvironments").await >= lists + 4).then_some(())
    })
    .await;
    for number in [0, 99, 100, 349] {
        assert_eq!(stage.reason(3000, number, Some("alice")).await, "owner", "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn an_environment_is_there_on_start_and_gone_on_stop() {
    let stage = Stage::start("").await;
    let token = stage.idp.token_of("alice");
    let mut peer = stage.peer().await;
    let mut times = Vec::new();
    for round in 0..100 {
        let number = round % 3;
        for (phase, want) in [("STOPPING", "workspace_stopped"), ("RUNNING", "owner")] {
            let start = Instant::now();
            stage.set_phase(number, phase, "update_status").await;
            while peer.ask(&host(3000, number), Some(&token)).await.as_deref() != Some(want) {
                assert!(start.elapsed() < Duration::from_secs(10), "{phase} {round}");
            }
            times.push(start.elapsed());
        }
    }
    times.sort();
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("event to refusal, Ona's wire: p50 {half:?}, p99 {most:?}, {} changes", times.len());
    assert!(most < Duration::from_secs(1), "{most:?}");
    // Deleted permanently.
    let path = format!("{}/control/environments/{}?event=delete", stage.url, environment_id(0));
    assert!(stage.http.delete(path).send().await.unwrap().status().is_success());
    stage.until(3000, 0, Some("alice"), "workspace_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn lost_doubled_and_disordered_events_end_in_the_truth() {
    let stage = Stage::start("resync_seconds = 1").await;
    stage.control("faults", &json!({ "drop_events": true })).await;
    stage.set_phase(0, "STOPPED", "update_status").await;
    stage.until(3000, 0, Some("alice"), "workspace_stopped").await;
    stage.control("faults", &json!({})).await;
    // Hints of long ago, of what is unknown, and nonsense.
    for operation in ["UPDATE_STATUS", "CREATE", "UPDATE", "UPDATE_STATUS"] {
        for number in [0, 1, 999] {
            let hint = json!({
                "operation": format!("RESOURCE_OPERATION_{operation}"),
                "resourceType": "RESOURCE_TYPE_ENVIRONMENT",
                "resourceId": environment_id(number),
            });
            stage.post("event", &hint).await;
        }
    }
    stage.set_phase(0, "RUNNING", "create").await;
    stage.until(3000, 0, Some("alice"), "owner").await;
    assert_eq!(stage.reason(3000, 1, Some("alice")).await, "owner");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn a_stream_that_ends_is_opened_again_and_what_happened_meanwhile_is_found() {
    let stage = Stage::start("").await;
    for how in ["clean", "abort"] {
        // Only what is told makes the stream known to be there.
        until("the stream", async || (stage.state().await["streams"] == 1).then_some(())).await;
        stage.set_phase(1, "RUNNING", "update_status").await;
        stage.control("faults", &json!({ "drop_events": true })).await;
        stage.set_phase(0, "STOPPED", "update_status").await;
        stage.post(&format!("cut?how={how}"), &json!({})).await;
        stage.until(3000, 0, Some("alice"), "workspace_stopped").await;
        stage.control("faults", &json!({})).await;
        until("the stream", async || (stage.state().await["streams"] == 1).then_some(())).await;
        stage.set_phase(0, "RUNNING", "update_status").await;
        stage.until(3000, 0, Some("alice"), "owner").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn a_refused_credential_alarms_at_once_and_a_new_one_is_taken_without_a_restart() {
    let stage = Stage::start("resync_seconds = 1").await;
    stage.control("faults", &json!({ "token": "another-token" })).await;
    until("the alarm", async || {
        stage
            .agent
            .log()
            .contains("refuses the agent's credential, which must be replaced")
            .then_some(())
    })
    .await;
    until("the state", async || {
        stage.workspaces(&["sources"]).contains("unauthorized").then_some(())
    })
    .await;
    assert_eq!(stage.reason(3000, 0, Some("alice")).await, "owner", "known and not yet stale");
    secret(stage.directory.path(), "ona-token", "another-token");
    until("the source to be well", async || {
        (!stage.workspaces(&["sources"]).contains("unauthorized")).then_some(())
    })
    .await;
    stage.set_phase(0, "STOPPED", "none").await;
    stage.until(3000, 0, Some("alice"), "workspace_stopped").await;
    let log = stage.agent.log();
    assert!(!log.contains(TOKEN) && !log.contains("another-token"), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn a_change_that_cannot_be_read_closes_its_environment_whatever_the_fault() {
    let stage = Stage::start("").await;
    for fault in [
        json!({ "status": 500 }),
        json!({ "garbage": true }),
        json!({ "hang": true }),
        json!({ "status": 502 }),
    ] {
        let mut fault = fault;
        fault["methods"] = json!(["GetEnvironment", "ListEnvironments"]);
        stage.control("faults", &fault).await;
        stage.set_phase(0, "RUNNING", "update_status").await;
        stage.until(3000, 0, Some("alice"), "workspace_stale").await;
        assert_eq!(stage.reason(3000, 1, Some("alice")).await, "owner", "{fault}");
        stage.control("faults", &json!({})).await;
        stage.until(3000, 0, Some("alice"), "owner").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn everything_is_refused_when_the_platform_is_silent_for_too_long() {
    let stage = Stage::start("resync_seconds = 1\nstale_seconds = 4\nstale_open_seconds = 2").await;
    stage.control("faults", &json!({ "status": 503 })).await;
    stage.until(5000, 0, None, "workspace_stale").await;
    stage.until(3000, 0, Some("alice"), "workspace_stale").await;
    assert_eq!(stage.reason(3000, 777, Some("alice")).await, "workspaces_not_loaded");
    assert!(stage.workspaces(&["sources"]).contains("stale"));
    stage.control("faults", &json!({})).await;
    stage.until(3000, 0, Some("alice"), "owner").await;
    stage.until(5000, 0, None, "public").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn a_platform_that_asks_for_a_pause_is_left_alone() {
    let stage = Stage::start("resync_seconds = 1").await;
    let fault = json!({ "status": 429, "retry_after": "3.5", "methods": ["ListEnvironments"] });
    stage.control("faults", &fault).await;
    until("the refusal", async || {
        stage.workspaces(&["sources"]).contains("limits requests").then_some(())
    })
    .await;
    let (calls, start) = (stage.calls("ListEnvironments").await, Instant::now());
    until("the next try", async || (stage.calls("ListEnvironments").await > calls).then_some(()))
        .await;
    // Some of the pause was over when the refusal was seen.
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ona's SDK: make platforms"]
async fn an_environment_without_an_event_is_read_once_for_requests_with_an_identity() {
    let stage = Stage::start("").await;
    // The connection for events may cause a list a moment later.
    stage.set_phase(1, "RUNNING", "update_status").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    stage.set_phase(50, "RUNNING", "none").await;
    let reads = stage.calls("GetEnvironment").await;
    for _ in 0..5 {
        assert_eq!(stage.reason(3000, 60, None).await, "credential_missing");
    }
    assert_eq!(
        stage.calls("GetEnvironment").await,
        reads,
        "requests without an identity cause no read"
    );
    assert_eq!(stage.reason(3000, 50, Some("alice")).await, "owner");
    for _ in 0..5 {
        assert_eq!(stage.reason(3000, 60, Some("alice")).await, "workspace_unknown");
    }
    assert_eq!(stage.calls("GetEnvironment").await, reads + 2, "one for each");
}
