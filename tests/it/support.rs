//! The stage: a provider, workspaces, the agent and HAProxy, all real, all on loopback.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::{fmt::Write as _, path::PathBuf};

use tempfile::TempDir;

use crate::{dev_idp::DevIdp, dev_workspace::DevWorkspace};

pub(crate) mod agent;
pub(crate) mod certificates;
pub(crate) mod haproxy;
pub(crate) mod http;
pub(crate) mod machine;
pub(crate) mod redis;
mod until;

pub(crate) use agent::AgentProcess;
pub(crate) use haproxy::{Haproxy, Version};
pub(crate) use http::{Client, Reply};
pub(crate) use until::{PATIENCE, until};

/// Everything between a client and two workspaces.
pub(crate) struct Stage {
    pub haproxy: Haproxy,
    pub agent: AgentProcess,
    pub idp: DevIdp,
    pub alice: DevWorkspace,
    pub bob: DevWorkspace,
    pub directory: TempDir,
}

/// alice's workspace, as it stands in host names.
pub(crate) const ALICES: &str = "pinkpanda-demo-ns35kd21abc";
/// bob's.
pub(crate) const BOBS: &str = "redfox-demo-ns35kd21xyz";

/// The editor of a workspace.
pub(crate) fn host(workspace: &str) -> String {
    format!("{workspace}.ws.gitpod.test")
}

/// A port of a workspace.
pub(crate) fn port_host(port: u16, workspace: &str) -> String {
    format!("{port}-{workspace}.ws.gitpod.test")
}

impl Stage {
    pub(crate) async fn start(version: &Version) -> Self {
        let idp = DevIdp::start().await;
        Self::with(version, idp).await
    }

    pub(crate) async fn with(version: &Version, idp: DevIdp) -> Self {
        Self::changed(version, idp, |_, _, _| ()).await
    }

    /// With other files: gets the directory, the configuration and the list of workspaces.
    pub(crate) async fn changed(
        version: &Version,
        idp: DevIdp,
        change: impl FnOnce(&std::path::Path, &mut String, &mut String),
    ) -> Self {
        machine::watch();
        let directory = tempfile::tempdir().unwrap();
        let alice = DevWorkspace::start("alices").await;
        let bob = DevWorkspace::start("bobs").await;
        let mut config = config(idp.issuer());
        let mut list = workspaces(&alice, &bob, "running");
        change(directory.path(), &mut config, &mut list);
        std::fs::write(directory.path().join("agent.toml"), config).unwrap();
        std::fs::write(directory.path().join("workspaces.yaml"), list).unwrap();
        let agent = AgentProcess::start(directory.path()).await;
        let haproxy =
            Haproxy::start(version, directory.path(), &agent.socket(), bob.address()).await;
        let stage = Self { haproxy, agent, idp, alice, bob, directory };
        // Up when HAProxy has an agent and the agent has keys.
        until("the gate to open", || async {
            let reply = stage.get(&host(ALICES), Some("alice")).await;
            (reply.status == 200).then_some(())
        })
        .await;
        // From the first question of the process on, whose stream id is zero.
        let log = stage.haproxy.log();
        let mut errors = log.lines().filter(|line| line.contains("spoe_error="));
        assert!(errors.all(|line| line.ends_with("spoe_error=-")), "{version:?} {log}");
        stage
    }

    pub(crate) fn workspaces_file(&self) -> PathBuf {
        self.directory.path().join("workspaces.yaml")
    }

    /// Writes the list of workspaces anew, alice's in this phase.
    pub(crate) fn set_phase(&self, phase: &str) {
        std::fs::write(self.workspaces_file(), workspaces(&self.alice, &self.bob, phase)).unwrap();
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.haproxy.http).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, host: &str, user: Option<&str>) -> Reply {
        let token = user.map(|user| self.idp.token_of(user));
        self.get_with(host, token.as_deref()).await
    }

    pub(crate) async fn get_with(&self, host: &str, token: Option<&str>) -> Reply {
        self.client().await.get(host, token).await
    }

    /// The lines of the audit log.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        records(self.directory.path())
    }
}

/// The records of the audit log in a directory, as far as they are written.
pub(crate) fn records(directory: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(directory.join("audit.jsonl")).unwrap();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The issuers of a configuration that holds these tables.
pub(crate) fn issuers(tables: &str) -> Result<Vec<identity_spoa::config::Issuer>, String> {
    let text = format!(
        "[agent]\nlisten = ['127.0.0.1:0']\n[workspaces]\nfile = 'w.yaml'\n\
         [[host]]\npreset = 'ona'\ndomain = 'x.test'\n{tables}"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let config = identity_spoa::config::Config::load(&path).map_err(|m| m.to_string())?;
    Ok(config.issuers)
}

/// The configuration of the stage.
pub(crate) fn config(issuer: &str) -> String {
    format!(
        r#"
[agent]
listen = ["unix:spop.sock", "127.0.0.1:0"]
socket_mode = "0666"

[[issuer]]
name = "dev"
issuer = "{issuer}"
audience = "workspaces"
match = ["subject", "email", "username"]
unknown_key_seconds = 1

[issuer.claims]
organization = "org"

[[host]]
preset = "gitpod"
domain = "gitpod.test"

[destinations]
allow = ["127.0.0.0/8", "::1"]
backends = ["named", "no-such-backend"]

[workspaces]
file = "workspaces.yaml"

[audit]
file = "audit.jsonl"
"#
    )
}

/// The list of workspaces of the stage.
pub(crate) fn workspaces(alice: &DevWorkspace, bob: &DevWorkspace, phase: &str) -> String {
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
