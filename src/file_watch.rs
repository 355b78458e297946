//! Tells when a file may have changed.
//!
//! Watched are the file itself and the symbolic links on the way to it, not the directory: the kernel cannot
//! tell the files of a directory apart, so that each write of a log or of our own state in it would wake us up.
//! A file that is replaced by renaming (editors) or by another link (Kubernetes volumes) loses a name, which
//! the kernel tells too; then the way is looked up again. Only while the file is away is a directory watched.

use std::path::Path;

use tokio::sync::mpsc;

#[cfg(target_os = "linux")]
mod inotify;

#[cfg(target_os = "linux")]
pub use inotify::Watcher;

/// Sends something whenever the file may have changed, until what is returned is dropped. A channel of one
/// place is enough: one event waiting says all there is to say. To be called within a runtime.
///
/// # Errors
/// The file cannot be watched, or this system is not Linux: look at it now and then instead.
#[cfg(target_os = "linux")]
pub fn watch(path: &Path, events: mpsc::Sender<()>) -> std::io::Result<Watcher> {
    inotify::watch(path, events)
}

/// As above.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn watch(_: &Path, _: mpsc::Sender<()>) -> std::io::Result<Watcher> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Watches until it is dropped.
#[cfg(not(target_os = "linux"))]
pub struct Watcher;

#[cfg(test)]
mod tests;
