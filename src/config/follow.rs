//! Tells when a file may have changed.
//!
//! The directory is watched, not the file, so that replacing the file by renaming (editors, Kubernetes
//! volumes) is seen too. What changed, if anything, is the reader's to find out.

use std::path::Path;

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

/// Sends something whenever a file in the file's directory may have changed, until the watcher is dropped.
/// A channel of one place is enough: one event waiting says all there is to say.
///
/// # Errors
/// The directory cannot be watched.
pub fn watch(path: &Path, events: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let changed = event.is_ok_and(|e| match e.kind {
            // Our own reading must not wake us.
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        });
        if changed {
            let _ = events.try_send(());
        }
    })?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
