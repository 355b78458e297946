//! Notifies when a file may have changed, for the configuration and for lists of workspaces.
//!
//! The file itself is watched, and the symbolic links on the path to it, but not its directory: a watched directory would
//! cause a wake-up for each write to any file in it, such as a log or the agent's own state. A file that is replaced by
//! renaming (editors) or by another link (Kubernetes volumes) loses a name, which is an event too; then the path is looked
//! up again. Only while the file is missing is its directory watched. An event can be lost or false: callers read the file
//! and compare, and also read it from time to time without an event.

use std::path::Path;

use tokio::sync::mpsc;

#[cfg(target_os = "linux")]
mod inotify;

#[cfg(target_os = "linux")]
pub use inotify::Watcher;

/// Sends an event whenever the file may have changed, until the watcher is dropped. A channel with a capacity of one is
/// enough, since several events mean the same as one. Must be called within a runtime.
///
/// # Errors
/// The file cannot be watched, or this system is not Linux; the caller must then read the file from time to time.
#[cfg(target_os = "linux")]
pub fn watch(path: &Path, events: mpsc::Sender<()>) -> std::io::Result<Watcher> {
    inotify::watch(path, events)
}

/// Systems other than Linux have no watcher.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn watch(_: &Path, _: mpsc::Sender<()>) -> std::io::Result<Watcher> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// A watcher, which cannot exist on this system.
#[cfg(not(target_os = "linux"))]
pub struct Watcher;

#[cfg(test)]
mod tests;
