//! The program, as a process.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

use super::until;

/// The path of the program under test: `IDENTITY_SPOA_PROGRAM`, else the one that was built next to the running test.
///
/// # Panics
/// When it is not there: `cargo build`, or `cargo build --release` for benchmarks, makes it.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(path) = std::env::var_os("IDENTITY_SPOA_PROGRAM") {
            return path.into();
        }
        let mut directory = std::env::current_exe().unwrap();
        directory.pop();
        // Tests and benchmarks stand in target/PROFILE/deps, programs in target/PROFILE.
        if directory.ends_with("deps") {
            directory.pop();
        }
        let program = directory.join("identity-spoa");
        assert!(program.exists(), "{} is not built", program.display());
        program
    });
    &PROGRAM
}

/// A running agent; killed when dropped.
pub struct AgentProcess {
    child: Child,
    directory: PathBuf,
    tcp: String,
}

impl AgentProcess {
    /// Starts `identity-spoa run` with `agent.toml` of the directory and waits until it is ready.
    pub async fn start(directory: &Path) -> Self {
        let log = directory.join("agent.log");
        // A test may want more than that.
        let level = std::fs::read_to_string(directory.join("agent.level"));
        let level = level
            .unwrap_or_else(|_| "debug,hyper=info,h2=info,reqwest=info,hyper_util=info".into());
        // Or start it through something else, such as a limit, a word a line.
        let wrapped = std::fs::read_to_string(directory.join("agent.wrap")).unwrap_or_default();
        let mut words = wrapped.lines().map(OsStr::new).chain([program().as_os_str()]);
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
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("spop.sock")
    }

    /// The TCP address.
    pub fn tcp(&self) -> &str {
        &self.tcp
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: &str) {
        // The shell's own: a bare machine has no program of that name.
        let kill = format!("kill {signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Stops the agent in its tracks; returns when every thread stands still, so that no answer can
    /// follow.
    pub async fn freeze(&self) {
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
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends the agent in order; returns whether it ended well.
    pub async fn end(&mut self) -> bool {
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
        // This kills a stopped process too; a process that ended already is not an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
