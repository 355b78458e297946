//! Gitpod classic: our source against a fake on the library that its own server stands on.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Program, secret};
use crate::{
    support::{AgentProcess, haproxy::root, until},
    wire::Peer,
};
use dev_idp::DevIdp;
use test_stage::{AgentToml, Setup};

const ORGANIZATION: &str = "019b0000-0000-4000-8000-000000000001";
/// Whose token the agent has.
const CALLER: &str = "019b0000-0000-4000-8000-000000000002";
const ALICE: &str = "019b0000-0000-4000-8000-0000000000a1";
const TOKEN: &str = "gitpod_pat_test.token";

struct Stage {
    fake: Program,
    url: String,
    agent: AgentProcess,
    idp: DevIdp,
    http: reqwest::Client,
    directory: TempDir,
}

fn instance(number: usize) -> String {
    format!("226695b4-0000-4000-8000-{number:012x}")
}

fn id(number: usize) -> String {
    format!("pinkpanda-demo-ns{number:08}")
}

fn host(number: usize) -> String {
    format!("{}.ws-eu1.gitpod.test", id(number))
}

fn session(number: usize, owner: &str, phase: &str, version: u64) -> Value {
    json!({
        "workspace": {
            "id": id(number),
            "metadata": { "ownerId": owner, "organizationId": ORGANIZATION, "name": "demo" },
            "spec": { "type": "WORKSPACE_TYPE_REGULAR", "admission": "ADMISSION_LEVEL_OWNER_ONLY",
                "ports": [{ "port": "3000", "admission": "ADMISSION_LEVEL_EVERYONE" }] },
            "status": { "statusVersion": version.to_string(),
                "phase": { "name": format!("PHASE_{phase}") }, "instanceId": instance(number) },
        },
        "owner": { "id": owner, "name": "another" },
    })
}

impl Stage {
    async fn start() -> Self {
        let idp = DevIdp::start().await;
        let setup = Setup::new();
        let path = setup.path();
        let platforms = root().join("target/platforms");
        let mut command = Command::new(platforms.join("node"));
        command.arg(platforms.join("gitpod/server.mjs"));
        let mut fake = Program::start(&mut command, path.join("gitpod.log"));
        let url = fake.listening().await;
        secret(path, "token", TOKEN);
        let config = AgentToml::new(idp.issuer())
            .lines("[[issuer]]", "match = [\"email\"]")
            .gitpod_hosts()
            .audit()
            .table("[destinations]", "backends = [\"ws-proxy\"]")
            .table(
                "[[source]]",
                &format!(
                    "name = \"gitpod\"\nkind = \"gitpod\"\nurl = \"{url}\"\ntoken_file = \"token\"\n\
                     organization_id = \"{ORGANIZATION}\"\ndestination = \"backend:ws-proxy\"\nresync_seconds = 1"
                ),
            );
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let agent = setup.agent(config).await;
        let stage = Self { fake, url, agent, idp, http, directory: setup.directory };
        let member = |id: &str, name: &str| {
            json!({ "userId": id, "email": format!("{name}@example.com"), "fullName": name,
                "role": "ORGANIZATION_ROLE_MEMBER" })
        };
        stage.put("members", &json!([member(ALICE, "alice"), member(CALLER, "carol")])).await;
        stage
    }

    async fn put(&self, path: &str, body: &Value) {
        let url = format!("{}/control/{path}", self.url);
        let response = self.http.put(url).body(body.to_string()).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}\n{}", self.fake.log());
    }

    async fn session(&self, number: usize, owner: &str, phase: &str, version: u64) {
        let path = format!("sessions/{}", instance(number));
        self.put(&path, &session(number, owner, phase, version)).await;
    }

    async fn reason(&self, host: &str, who: Option<&str>) -> String {
        let token = who.map(|who| self.idp.token_of(who));
        let mut peer = Peer::unix(&self.agent.socket()).await;
        peer.ask(host, token.as_deref()).await.unwrap()
    }

    async fn until(&self, host: &str, who: Option<&str>, want: &str) {
        until(&format!("{want} at {host}"), async || {
            (self.reason(host, who).await == want).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Connect's library: make platforms"]
async fn workspaces_of_the_whole_organization_are_followed_by_its_list() {
    let stage = Stage::start().await;
    // More than a page, of a person whose events the token does not get.
    for number in 0..450 {
        stage.session(number, ALICE, "RUNNING", 1).await;
    }
    for number in [0, 399, 449] {
        stage.until(&host(number), Some("alice"), "owner").await;
    }
    assert_eq!(stage.reason(&host(0), Some("carol")).await, "not_permitted");
    assert_eq!(stage.reason(&host(0), None).await, "credential_missing");
    assert_eq!(stage.reason(&format!("3000-{}", host(0)), None).await, "public");
    for (phase, want) in
        [("STOPPING", "workspace_stopped"), ("INTERRUPTED", "workspace_interrupted")]
    {
        stage.session(0, ALICE, phase, 2).await;
        stage.until(&host(0), Some("alice"), want).await;
    }
    stage.session(0, ALICE, "STOPPED", 3).await;
    stage.until(&host(0), Some("alice"), "workspace_unknown").await;
    assert_eq!(stage.reason(&host(1), Some("alice")).await, "owner");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Connect's library: make platforms"]
async fn a_workspace_of_the_tokens_owner_is_followed_by_events() {
    let stage = Stage::start().await;
    stage.session(1, CALLER, "RUNNING", 1).await;
    stage.until(&host(1), Some("carol"), "owner").await;
    until("the stream", async || {
        let url = format!("{}/control/state", stage.url);
        let text = stage.http.get(url).send().await.unwrap().text().await.unwrap();
        let told: Value = serde_json::from_str(&text).unwrap();
        (told["streams"] == 1).then_some(())
    })
    .await;
    // The list cannot help now.
    let fault = json!({ "status": 503, "methods": ["ListWorkspaceSessions"] });
    stage.put("faults", &fault).await;
    stage.session(1, CALLER, "STOPPING", 2).await;
    stage.until(&host(1), Some("carol"), "workspace_stopped").await;
    stage.put("faults", &json!({})).await;
    stage.session(1, CALLER, "RUNNING", 3).await;
    stage.until(&host(1), Some("carol"), "owner").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Connect's library: make platforms"]
async fn a_refused_token_alarms_and_who_leaves_the_organization_reaches_nothing() {
    let stage = Stage::start().await;
    stage.session(1, ALICE, "RUNNING", 1).await;
    stage.until(&host(1), Some("alice"), "owner").await;
    stage.put("members", &json!([])).await;
    stage.until(&host(1), Some("alice"), "not_permitted").await;
    assert_eq!(stage.reason(&format!("3000-{}", host(1)), None).await, "owner_inactive");
    stage.put("faults", &json!({ "token": "gitpod_pat_other.token" })).await;
    until("the alarm", async || {
        stage
            .agent
            .log()
            .contains("refuses the agent's credential, which must be replaced")
            .then_some(())
    })
    .await;
    assert!(!stage.agent.log().contains(TOKEN));
    secret(stage.directory.path(), "token", "gitpod_pat_other.token");
    until("the source to be well", async || {
        stage.agent.log().contains("the source answers again").then_some(())
    })
    .await;
}
