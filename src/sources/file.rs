//! The list of workspaces in a file.
//!
//! The file is read as soon as it changes, and as a whole or not at all: a version with mistakes is
//! reported with the line of each, and the last good version stays in use. [`document`] reads the
//! text.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    diagnostics::{Format, Mistakes},
    file_watch,
    lock::Mutex,
    time::MonotonicTime,
    workspaces::{
        Workspace,
        destination::AllowedBackends,
        reconcile::status::{SourceHealth, SourceStatus},
        registry::{ListExtent, Publisher},
    },
};

pub mod document;

pub use document::review::KnownIssuer;

/// The time between checks of the file, in case a change was not reported by the operating system.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The largest file in bytes that is read.
pub const MAX_FILE: u64 = 256 << 20;

/// Follows one file and publishes its workspaces.
pub struct FileSource {
    path: PathBuf,
    issuers: BTreeSet<Box<str>>,
    backends: AllowedBackends,
    publisher: Publisher,
    last: Option<Vec<u8>>,
    status: Arc<Mutex<SourceStatus>>,
}

impl FileSource {
    /// A source that publishes through `publisher`. `issuers` are the names that records may use,
    /// and `backends` the backends that destinations may name.
    #[must_use]
    pub fn new(
        path: PathBuf,
        issuers: &BTreeSet<&str>,
        backends: AllowedBackends,
        publisher: Publisher,
    ) -> Self {
        let issuers = issuers.iter().map(|name| Box::from(*name)).collect();
        Self { path, issuers, backends, publisher, last: None, status: Arc::default() }
    }

    /// The state of the source, for people and metrics.
    #[must_use]
    pub fn status(&self) -> Arc<Mutex<SourceStatus>> {
        Arc::clone(&self.status)
    }

    /// Reads the file now, and publishes it if it has changed and has no mistakes.
    ///
    /// # Errors
    /// The mistakes in it. The last good version stays in use.
    pub fn load(&mut self) -> Result<(), Mistakes> {
        let result = self.read();
        let mut status = self.status.lock();
        match &result {
            // An unchanged file may still be the broken one, so its error stays.
            Ok(false) => {}
            Ok(true) => {
                status.health = SourceHealth::Live;
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

    /// Finds what the file permits although it can have no effect, for `check`. A file that cannot be read
    /// gives nothing: [`Self::load`] reports that.
    #[must_use]
    pub fn review(&self, issuers: &[KnownIssuer<'_>]) -> Mistakes {
        let Ok(bytes) = read(&self.path) else { return Mistakes::default() };
        let Ok(text) = std::str::from_utf8(&bytes) else { return Mistakes::default() };
        let format = Format::from_path(&self.path).unwrap_or(Format::Yaml);
        document::review::list(&self.path.display().to_string(), text, format, issuers)
    }

    /// Returns whether the file has changed and was published.
    fn read(&mut self) -> Result<bool, Mistakes> {
        let name = self.path.display().to_string();
        let bytes = read(&self.path).map_err(|error| Mistakes::whole(&name, error))?;
        if self.last.as_deref() == Some(&*bytes) {
            return Ok(false);
        }
        let issuers = self.issuers.iter().map(|name| &**name).collect();
        let parsed = parse(&self.path, &bytes, &issuers, &self.backends);
        // Stored also after a failure, so that a broken version is reported once and not every few
        // seconds.
        self.last = Some(bytes);
        let workspaces = parsed?;
        let count = workspaces.len();
        let now = MonotonicTime::now();
        self.publisher.complete(workspaces, now, now, ListExtent::Snapshot);
        self.publisher.confirm(now);
        info!(file = %name, workspaces = count, "workspaces loaded");
        Ok(true)
    }

    /// Follows the file until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let (sender, mut events) = mpsc::channel(1);
        let _watcher = match file_watch::watch(&self.path, sender) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(file = %self.path.display(), %error, every = ?POLL_INTERVAL, "watching the directory of the list of workspaces failed: the file is read every few seconds instead");
                None
            }
        };
        let mut missing = false;
        loop {
            // Reading a long list takes a while, and requests on this thread must not wait for it.
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
                    // A missing file is reported once.
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
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }
}

/// Finds every mistake in a list, without publishing it.
///
/// # Errors
/// The mistakes.
pub(super) fn check(
    path: &Path,
    issuers: &BTreeSet<&str>,
    backends: &AllowedBackends,
) -> Result<(), Mistakes> {
    let bytes = read(path).map_err(|error| Mistakes::whole(&path.display().to_string(), error))?;
    parse(path, &bytes, issuers, backends).map(|_| ())
}

fn parse(
    path: &Path,
    bytes: &[u8],
    issuers: &BTreeSet<&str>,
    backends: &AllowedBackends,
) -> Result<Vec<Workspace>, Mistakes> {
    let name = path.display().to_string();
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Mistakes::whole(&name, format!("not UTF-8: {error}")))?;
    let format = Format::from_path(path).unwrap_or(Format::Yaml);
    document::parse(&name, text, format, issuers, backends)
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
