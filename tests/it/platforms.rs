//! The agent against workspace platforms. They come from package registries, so plain `cargo test`
//! leaves these tests out; `make platforms` gets them and runs these tests.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{
    haproxy::{free_port, root},
    until,
};

mod gitpod;
mod jupyterhub;
mod ona;

/// A program from another project; killed when dropped. It ends by itself too when its standard input
/// does.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let output = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: start it by 'make platforms'"));
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says `listening URL`.
    async fn listening(&mut self) -> String {
        until("a program to listen", async || {
            let log = self.log();
            assert!(self.child.try_wait().unwrap().is_none(), "{log}");
            // A line that ends: half a port is another one.
            let (_, rest) = log.split_once("listening ")?;
            rest.split_once('\n').map(|(url, _)| url.to_owned())
        })
        .await
    }

    fn terminate(&mut self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that has a platform's packages.
fn python(platform: &str) -> PathBuf {
    root().join("target/platforms").join(platform).join("bin/python")
}

/// A file of a platform's.
fn file(platform: &str, name: &str) -> PathBuf {
    root().join("tests/platforms").join(platform).join(name)
}

/// Writes a secret as the agent wants it.
fn secret(directory: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join(name);
    std::fs::write(&path, format!("{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
