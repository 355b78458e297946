//! Tells when a file may have changed.
//!
//! The directory is watched, not the file, so that replacing the file by renaming (editors, Kubernetes
//! volumes) is seen too. What changed, if anything, is the reader's to find out. Other files there that are
//! written to, such as logs, are none of its business.

use std::path::Path;

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::mpsc;

/// Sends something whenever a file in the file's directory may have changed, until the watcher is dropped.
/// A channel of one place is enough: one event waiting says all there is to say.
///
/// # Errors
/// The directory cannot be watched.
pub fn watch(path: &Path, events: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let name = path.file_name().map(std::ffi::OsStr::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let ours =
            |event: &Event| event.paths.iter().any(|path| path.file_name() == name.as_deref());
        if event.is_ok_and(|event| matters(&event, ours(&event))) {
            let _ = events.try_send(());
        }
    })?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether the file may be another one after this; `ours` says that the event names it.
fn matters(event: &Event, ours: bool) -> bool {
    match event.kind {
        // Our own reading must not wake us.
        EventKind::Access(kind) => ours && kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(kind) => ours || matches!(kind, ModifyKind::Name(_)),
        // The file may be a link, into a directory that was replaced.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange};

    use super::*;

    #[test]
    fn what_is_written_to_another_file_wakes_nobody() {
        let written = Event::new(EventKind::Modify(ModifyKind::Data(DataChange::Any)));
        let closed = Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)));
        for event in [&written, &closed] {
            assert!(matters(event, true) && !matters(event, false), "{event:?}");
        }
        let read = Event::new(EventKind::Access(AccessKind::Close(AccessMode::Read)));
        assert!(!matters(&read, true));
        let created = Event::new(EventKind::Create(CreateKind::File));
        assert!(matters(&created, false), "Kubernetes makes another link");
    }
}
