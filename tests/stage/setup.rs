//! The directory that an agent and its HAProxy start from: `agent.toml`, the files next to it, HAProxy's environment.
//!
//! A stage says only what is its own: the tables of its configuration, its files, its variables. [`AgentToml`] has what
//! all of them share. Nothing is written before a process is started.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    AgentProcess, Haproxy, Version,
    haproxy::{copy_with_browser_args, root},
};

/// The host of the pages of sign-in.
pub const LOGIN: &str = "login.gate.test";

/// An `agent.toml`, table by table.
#[derive(Clone)]
pub struct AgentToml(Vec<(String, String)>);

impl AgentToml {
    /// One issuer named `dev` and the sockets of [`AgentProcess`]; nothing else yet.
    pub fn new(issuer: &str) -> Self {
        Self(vec![])
            .table(
                "[agent]",
                "listen = [\"unix:spop.sock\", \"127.0.0.1:0\"]\nsocket_mode = \"0666\"",
            )
            .table(
                "[[issuer]]",
                &format!("name = \"dev\"\nissuer = \"{issuer}\"\naudience = \"workspaces\""),
            )
    }

    /// The audit log in `audit.jsonl`.
    #[must_use]
    pub fn audit(self) -> Self {
        self.table("[audit]", "file = \"audit.jsonl\"")
    }

    /// Adds a table at the end.
    #[must_use]
    pub fn table(mut self, header: &str, lines: &str) -> Self {
        self.0.push((header.into(), format!("{}\n", lines.trim_end())));
        self
    }

    /// Adds lines to the first table with this header; sub-tables of it may be among them.
    ///
    /// # Panics
    /// When there is no such table.
    #[must_use]
    pub fn lines(mut self, header: &str, lines: &str) -> Self {
        let table = self.0.iter_mut().find(|(name, _)| name == header);
        let (_, body) = table.unwrap_or_else(|| panic!("no table {header}"));
        body.push_str(lines.trim_end());
        body.push('\n');
        self
    }

    /// Hosts as Gitpod names them, below `gitpod.test`.
    #[must_use]
    pub fn gitpod_hosts(self) -> Self {
        self.table("[[host]]", "preset = \"gitpod\"\ndomain = \"gitpod.test\"")
    }

    /// The administrator's socket.
    #[must_use]
    pub fn admin(self) -> Self {
        self.table("[admin]", "socket = \"agent-admin.sock\"\nrevocations = \"revocations.jsonl\"")
    }

    /// Sign-in at the issuer, with pages at an address, for browsers that come to a port of HAProxy. The client's secret
    /// is in the file that [`Setup::with_sign_in`] writes.
    #[must_use]
    pub fn sign_in(self, https: u16, pages: SocketAddr, lines: &str) -> Self {
        self.lines(
            "[[issuer]]",
            "\n[issuer.sign_in]\nclient_id = \"gate\"\nclient_secret_file = \"secret\"",
        )
        .table(
            "[sign_in]",
            &format!(
                "host = \"{LOGIN}\"\nport = {https}\nlisten = \"{pages}\"\nencryption_keys_file = \"keys\"\n{lines}"
            ),
        )
    }
}

impl fmt::Display for AgentToml {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(header, body)| writeln!(out, "{header}\n{body}"))
    }
}

/// A directory, and how HAProxy is started from it.
pub struct Setup {
    pub directory: TempDir,
    env: String,
    /// HAProxy's configuration: the shipped one, or a copy.
    files: PathBuf,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// An empty directory, and HAProxy with the shipped files.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, env: String::new(), files: root().join("haproxy") }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file into the directory.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// A variable of HAProxy's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.env.push_str(&format!("{name}={value}\n"));
        self
    }

    /// HAProxy tells the agent what a browser does: sign-in and tokens in cookies need it.
    #[must_use]
    pub fn with_browser_args(mut self) -> Self {
        self.files = self.path().join("haproxy");
        copy_with_browser_args(&self.files);
        self
    }

    /// What HAProxy and the agent need for sign-in, with the agent's pages at this address.
    #[must_use]
    pub fn with_sign_in(self, pages: SocketAddr) -> Self {
        self.write("secret", "s3cret&+\n");
        self.with_browser_args().env("GATE_LOGIN_HOST", LOGIN).env("GATE_LOGIN_PAGES", pages)
    }

    /// Starts HAProxy, which asks the agent of this directory.
    pub async fn haproxy(&self, version: &Version, named: SocketAddr) -> Haproxy {
        // A test may have written some variables already.
        let path = self.path().join("haproxy.env");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        self.write("haproxy.env", written + &self.env);
        let socket = self.path().join("spop.sock");
        Haproxy::start_from(&self.files, version, self.path(), &socket, named).await
    }

    /// Starts an agent with this configuration.
    pub async fn agent(&self, config: impl fmt::Display) -> AgentProcess {
        self.write("agent.toml", config.to_string());
        AgentProcess::start(self.path()).await
    }
}
