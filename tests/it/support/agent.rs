//! The program, as a process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::until;

/// The path of the program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_identity-spoa");

/// A running agent; killed when dropped.
pub(crate) struct AgentProcess {
    child: Child,
    directory: PathBuf,
    tcp: String,
}

impl AgentProcess {
    /// Starts `identity-spoa run` with `agent.toml` of the directory and waits until it is ready.
    pub(crate) async fn start(directory: &Path) -> Self {
        let log = directory.join("agent.log");
        // A test may want more than that.
        let level = std::fs::read_to_string(directory.join("agent.level"));
        let level = level
            .unwrap_or_else(|_| "debug,hyper=info,h2=info,reqwest=info,hyper_util=info".into());
        // Or start it through something else, such as a limit, a word a line.
        let wrapped = std::fs::read_to_string(directory.join("agent.wrap")).unwrap_or_default();
        let mut words = wrapped.lines().chain([PROGRAM]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .args(["run", "--config"])
            .arg(directory.join("agent.toml"))
            .env("RUST_LOG", level)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut agent = Self { child, directory: directory.into(), tcp: String::new() };
        let ready = until("the agent to be ready", || {
            assert!(agent.child.try_wait().unwrap().is_none(), "{}", agent.log());
            let ready = agent.log().lines().find(|l| l.contains("\"ready\"")).map(String::from);
            async { ready }
        })
        .await;
        let start = ready.find("127.0.0.1:").unwrap();
        agent.tcp = ready[start..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
            .collect();
        agent
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("spop.sock")
    }

    /// The TCP address.
    pub(crate) fn tcp(&self) -> &str {
        &self.tcp
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: &str) {
        // The shell's own: a bare machine has no program of that name.
        let kill = format!("kill {signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Stops the agent in its tracks; returns when every thread stands still, so that no answer can
    /// follow.
    pub(crate) async fn freeze(&self) {
        self.signal("-STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        until("the agent to stand still", async || {
            let mut threads = std::fs::read_dir(&tasks).unwrap();
            let still = threads.all(|thread| {
                let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"))
                    .unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            });
            still.then_some(())
        })
        .await;
    }

    /// Kills the agent at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends the agent in order; returns whether it ended well.
    pub(crate) async fn end(&mut self) -> bool {
        self.signal("-TERM");
        until("the agent to end", || {
            let ended = self.child.try_wait().unwrap();
            async move { ended.map(|status| status.success()) }
        })
        .await
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // A stopped process is killed all the same; one that ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
