//! Follows the file of workspaces and publishes each good version at once.
//!
//! A version that cannot be read keeps the last good one and says so.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    diagnostics::{Format, Mistakes},
    file_watch,
    time::MonotonicTime,
    workspaces::{
        Workspace,
        destination::Backends,
        reconcile::status::{Health, Status},
        registry::{ListExtent, Publisher},
    },
};

pub mod document;

/// A file is also looked at this often, should an event be lost.
const SWEEP: Duration = Duration::from_secs(5);
/// A file of more bytes than this is refused.
pub const MAX_FILE: u64 = 256 << 20;

/// The file source.
pub struct FileSource {
    path: PathBuf,
    issuers: BTreeSet<Box<str>>,
    backends: Backends,
    publisher: Publisher,
    last: Option<Vec<u8>>,
    status: Arc<Mutex<Status>>,
}

impl FileSource {
    /// A source that publishes through `publisher`. Its workspaces may be of these issuers' people and at these
    /// backends.
    #[must_use]
    pub fn new(
        path: PathBuf,
        issuers: &BTreeSet<&str>,
        backends: Backends,
        publisher: Publisher,
    ) -> Self {
        let issuers = issuers.iter().map(|name| Box::from(*name)).collect();
        Self { path, issuers, backends, publisher, last: None, status: Arc::default() }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> Arc<Mutex<Status>> {
        Arc::clone(&self.status)
    }

    /// Reads the file now and publishes it, if it is new and good.
    ///
    /// # Errors
    /// The mistakes in it; the last good version stays.
    pub fn load(&mut self) -> Result<(), Mistakes> {
        let result = self.read();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            // What did not change may be broken still.
            Ok(false) => {}
            Ok(true) => {
                status.health = Health::Live;
                status.lists += 1;
                status.last_error = None;
            }
            Err(mistakes) => {
                status.failures += 1;
                status.last_error = mistakes.as_slice().first().map(ToString::to_string);
            }
        }
        result.map(|_| ())
    }

    /// Returns whether there was something new.
    fn read(&mut self) -> Result<bool, Mistakes> {
        let name = self.path.display().to_string();
        let bytes = read(&self.path).map_err(|error| Mistakes::whole(&name, error))?;
        if self.last.as_deref() == Some(&*bytes) {
            return Ok(false);
        }
        let parsed = self.parse(&name, &bytes);
        // Also after a failure: one broken version is reported once, not every few seconds.
        self.last = Some(bytes);
        let workspaces = parsed?;
        let count = workspaces.len();
        let now = MonotonicTime::now();
        self.publisher.complete(workspaces, now, now, ListExtent::Snapshot);
        self.publisher.confirm(now);
        info!(file = %name, workspaces = count, "workspaces loaded");
        Ok(true)
    }

    fn parse(&self, name: &str, bytes: &[u8]) -> Result<Vec<Workspace>, Mistakes> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Mistakes::whole(name, format!("not UTF-8: {error}")))?;
        let format = Format::of(&self.path).unwrap_or(Format::Yaml);
        let issuers = self.issuers.iter().map(|name| &**name).collect();
        document::parse(name, text, format, &issuers, &self.backends)
    }

    /// Follows the file until cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let (sender, mut events) = mpsc::channel(1);
        let _watcher = match file_watch::watch(&self.path, sender) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(file = %self.path.display(), %error, every = ?SWEEP, "watching the directory of the list of workspaces failed: the file is read every few seconds instead");
                None
            }
        };
        let mut missing = false;
        loop {
            // Reading a long list takes a moment, in which requests must not wait.
            let loaded = tokio::task::spawn_blocking(move || {
                let result = self.load();
                (self, result)
            });
            let Ok((source, result)) = loaded.await else {
                error!(
                    "reading the list of workspaces panicked: the last good list stays in use until the agent restarts; please report the lines above"
                );
                return;
            };
            self = source;
            match result {
                Ok(()) => missing = false,
                Err(mistakes) => {
                    // A file that stays away is reported once.
                    let gone = mistakes.as_slice().iter().all(|m| m.place.is_none());
                    if !(gone && missing) {
                        error!(
                            "reading the list of workspaces failed, the last good list stays in use:\n{mistakes}"
                        );
                    }
                    missing = gone;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = events.recv() => {}
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|e| format!("cannot read the file: {e}"))?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|e| format!("cannot read the file: {e}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|n| n <= MAX_FILE) {
        Ok(bytes)
    } else {
        Err(format!("the file is larger than {MAX_FILE} bytes"))
    }
}
