//! The stage of the integration tests: a provider, workspaces, the agent and HAProxy, all real, all on loopback.
//!
//! Tests, proofs and benchmarks start what they need of it. The agent is the program that was built next to the caller
//! ([`agent::program`]); this crate knows nothing of the program's code. A part that cannot start stops the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::format_push_string,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    missing_docs,
    reason = "test support: a surprise must stop the test"
)]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use dev_idp::DevIdp;
use dev_workspace::DevWorkspace;

pub mod agent;
pub mod certificates;
pub mod haproxy;
pub mod http;
pub mod machine;
pub mod redis;
pub mod setup;
mod until;

pub use agent::{AgentProcess, program};
pub use haproxy::{Haproxy, Version};
pub use http::{Client, Reply};
pub use setup::{AgentToml, LOGIN, Setup};
pub use until::{PATIENCE, until};

/// Everything between a client and two workspaces.
pub struct Stage {
    pub haproxy: Haproxy,
    pub agent: AgentProcess,
    pub idp: DevIdp,
    pub alice: DevWorkspace,
    pub bob: DevWorkspace,
    pub directory: TempDir,
}

/// alice's workspace, as it stands in host names.
pub const ALICES: &str = "pinkpanda-demo-ns35kd21abc";
/// bob's.
pub const BOBS: &str = "redfox-demo-ns35kd21xyz";

/// The editor of a workspace.
pub fn host(workspace: &str) -> String {
    format!("{workspace}.ws.gitpod.test")
}

/// A port of a workspace.
pub fn port_host(port: u16, workspace: &str) -> String {
    format!("{port}-{workspace}.ws.gitpod.test")
}

impl Stage {
    pub async fn start(version: &Version) -> Self {
        let idp = DevIdp::start().await;
        Self::with(version, idp).await
    }

    pub async fn with(version: &Version, idp: DevIdp) -> Self {
        Self::changed(version, idp, |_, _, _| ()).await
    }

    /// With other files: gets the directory, the configuration and the list of workspaces.
    pub async fn changed(
        version: &Version,
        idp: DevIdp,
        change: impl FnOnce(&Path, &mut String, &mut String),
    ) -> Self {
        machine::watch();
        let setup = Setup::new();
        let alice = DevWorkspace::start("alices").await;
        let bob = DevWorkspace::start("bobs").await;
        let mut config = config(idp.issuer());
        let mut list = workspaces(&alice, &bob, "running");
        change(setup.path(), &mut config, &mut list);
        setup.write("workspaces.yaml", list);
        let agent = setup.agent(config).await;
        let haproxy = setup.haproxy(version, bob.address()).await;
        let directory = setup.directory;
        let stage = Self { haproxy, agent, idp, alice, bob, directory };
        // Up when HAProxy has an agent and the agent has keys.
        until("the gate to open", || async {
            let reply = stage.get(&host(ALICES), Some("alice")).await;
            (reply.status == 200).then_some(())
        })
        .await;
        // From the first request of the process on, whose stream id is zero.
        let log = stage.haproxy.log();
        let mut errors = log.lines().filter(|line| line.contains("spoe_error="));
        assert!(errors.all(|line| line.ends_with("spoe_error=-")), "{version:?} {log}");
        stage
    }

    pub fn workspaces_file(&self) -> PathBuf {
        self.directory.path().join("workspaces.yaml")
    }

    /// Writes the list of workspaces again, with alice's in this phase.
    pub fn set_phase(&self, phase: &str) {
        std::fs::write(self.workspaces_file(), workspaces(&self.alice, &self.bob, phase)).unwrap();
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.haproxy.http).await
    }

    /// One request on a connection of its own.
    pub async fn get(&self, host: &str, user: Option<&str>) -> Reply {
        let token = user.map(|user| self.idp.token_of(user));
        self.get_with(host, token.as_deref()).await
    }

    pub async fn get_with(&self, host: &str, token: Option<&str>) -> Reply {
        self.client().await.get(host, token).await
    }

    /// The configuration's file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("agent.toml")
    }

    /// The configuration as it is written now.
    pub fn configured(&self) -> String {
        std::fs::read_to_string(self.config_file()).unwrap()
    }

    /// Writes another configuration.
    pub fn configure(&self, text: &str) {
        replace(&self.config_file(), text);
    }

    /// The status of one request on a connection of its own.
    pub async fn status(&self, host: &str, user: Option<&str>) -> u16 {
        self.get(host, user).await.status
    }

    /// The lines of the audit log.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        records(self.directory.path())
    }
}

/// Writes a file as editors do it: in one piece, by renaming another one.
pub fn replace(path: &Path, text: impl AsRef<[u8]>) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let next = path.with_file_name(format!("next-{name}"));
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

/// Writes another configuration into the directory of an agent, asks the agent to read it, and waits until it is applied
/// or refused.
pub async fn reload(agent: &AgentProcess, directory: &Path, change: impl FnOnce(&str) -> String) {
    let path = directory.join("agent.toml");
    let reloads = || {
        let audit_log = std::fs::read_to_string(directory.join("audit.jsonl")).unwrap();
        audit_log.matches("\"event\":\"reload").count()
    };
    let (text, before) = (std::fs::read_to_string(&path).unwrap(), reloads());
    replace(&path, change(&text));
    agent.signal("-HUP");
    until("the reload", async || (reloads() > before).then_some(())).await;
}

/// The records of the audit log in a directory, as far as they are written.
pub fn records(directory: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(directory.join("audit.jsonl")).unwrap();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The configuration of the stage.
pub fn config(issuer: &str) -> String {
    stage_toml(issuer).audit().to_string()
}

/// The same, table by table, without the audit log.
pub fn stage_toml(issuer: &str) -> AgentToml {
    AgentToml::new(issuer)
        .lines(
            "[[issuer]]",
            "match = [\"subject\", \"email\", \"username\"]\nunknown_key_seconds = 1\n\n\
             [issuer.claims]\norganization = \"org\"",
        )
        .gitpod_hosts()
        .table(
            "[destinations]",
            "allow = [\"127.0.0.0/8\", \"::1\"]\nbackends = [\"named\", \"no-such-backend\"]",
        )
        .table("[workspaces]", "file = \"workspaces.yaml\"")
}

/// The list of workspaces of the stage.
pub fn workspaces(alice: &DevWorkspace, bob: &DevWorkspace, phase: &str) -> String {
    let (a, b) = (alice.address(), bob.address());
    let mut text = format!(
        r"
workspaces:
  - id: {ALICES}
    owner: {{ subject: sub-alice, email: alice@example.com }}
    organization: acme
    phase: {phase}
    destination: {a}
    grants:
      - user: {{ email: carol@example.com }}
      - group: engineers
        endpoints: [4000]
    ports:
"
    );
    for (port, admission) in [
        (3000, "public"),
        (4000, "grants"),
        (5000, "organization"),
        (6000, "authenticated"),
        (7000, "owner"),
    ] {
        writeln!(text, "      - {{ port: {port}, admission: {admission}, destination: \"{a}\" }}")
            .unwrap();
    }
    for (port, admission) in [(2222, "grants"), (2223, "public")] {
        writeln!(
            text,
            "      - {{ port: {port}, protocol: tcp, admission: {admission}, destination: \"{a}\" }}"
        )
        .unwrap();
    }
    write!(
        text,
        r#"
  - id: {BOBS}
    owner: {{ username: bob }}
    phase: running
    destination: {b}
    ports:
      - {{ port: 8000, destination: "backend:named" }}
      - {{ port: 8001, destination: "backend:no-such-backend" }}
"#
    )
    .unwrap();
    text
}
