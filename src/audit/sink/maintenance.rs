//! Work on the audit files that waits for the disk, on a thread of its own: making them durable, ending
//! rotated ones, removing expired ones.
//!
//! The writer only hands work over. It never waits for the disk to confirm something, because while it waits
//! the buffer fills, and requests whose record finds no room are refused.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use crate::{
    audit::sink::names::{directory_of, rotated},
    lock::{Condvar, Mutex},
    time::Timestamp,
};

/// What was written is made durable after this time at the latest, if the disk keeps up.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// Or once this many bytes wait for it, so that no sync has much to do.
const SYNC_BYTES: u64 = 16 << 20;
/// Rotated files that may wait to become durable. While so many do, no further file is begun.
const MAX_RETIRED: usize = 8;

/// The operations that may take as long as the disk likes.
pub(in super::super) trait Disk: Send + 'static {
    /// Makes the file's content outlive a power failure.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Makes the names in a directory outlive a power failure.
    ///
    /// # Errors
    /// Those of `open(2)` and `fsync(2)`.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Removes a file; freeing the space of a large one takes a moment.
    ///
    /// # Errors
    /// Those of `unlink(2)`.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The disk of this machine.
pub(in super::super) struct LocalDisk;

impl Disk for LocalDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

/// The thread and its work. Dropping it ends the thread once everything is done.
pub(super) struct Maintenance {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    unsynced: Option<Unsynced>,
    /// Oldest first.
    retired: VecDeque<Arc<File>>,
    expiry: Option<(Timestamp, Duration)>,
    /// Whether an expiry waits or runs.
    expiring: bool,
    /// Names of removed files that are not on record yet.
    removed: Vec<String>,
    closed: bool,
}

/// The file that is written to, where it has content that is not durable.
struct Unsynced {
    file: Arc<File>,
    bytes: u64,
    since: Instant,
}

enum Job {
    Retire(Arc<File>),
    Expire(Timestamp, Duration),
    Sync(Arc<File>),
}

impl Maintenance {
    /// Starts the thread, for the audit file at `path`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(path: &Path, disk: Box<dyn Disk>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (path, of_thread) = (path.to_owned(), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("audit-disk".into())
            .spawn(move || of_thread.run(&path, &*disk))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The file has this many more bytes, which are made durable soon.
    pub(super) fn wrote(&self, file: &Arc<File>, bytes: u64) {
        let mut jobs = self.shared.lock();
        let first = jobs.unsynced.is_none();
        let unsynced = jobs.unsynced.get_or_insert_with(|| Unsynced {
            file: Arc::clone(file),
            bytes: 0,
            since: Instant::now(),
        });
        let before = unsynced.bytes;
        unsynced.bytes = before.saturating_add(bytes);
        let full = before < SYNC_BYTES && unsynced.bytes >= SYNC_BYTES;
        drop(jobs);
        if first || full {
            self.shared.changed.notify_all();
        }
    }

    /// Whether a rotated file can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.shared.lock().retired.len() < MAX_RETIRED
    }

    /// Nothing more is written to the file. It becomes durable before anything that is written later.
    pub(super) fn retire(&self, file: Arc<File>) {
        let mut jobs = self.shared.lock();
        jobs.unsynced = None;
        jobs.retired.push_back(file);
        drop(jobs);
        self.shared.changed.notify_all();
    }

    /// Removes the rotated files that were written last longer than `keep` before `now`.
    pub(super) fn expire(&self, now: Timestamp, keep: Duration) {
        let mut jobs = self.shared.lock();
        jobs.expiry = Some((now, keep));
        jobs.expiring = true;
        drop(jobs);
        self.shared.changed.notify_all();
    }

    /// Whether [`Maintenance::removed`] may soon have something to say.
    pub(super) fn is_expiring(&self) -> bool {
        let jobs = self.shared.lock();
        jobs.expiring || !jobs.removed.is_empty()
    }

    /// The names of files that were removed since the last call.
    pub(super) fn removed(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().removed)
    }

    /// Waits for the end of an expiry that was asked for.
    pub(super) fn settle(&self) {
        let mut jobs = self.shared.lock();
        while jobs.expiring {
            jobs = self.shared.changed.wait(jobs);
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that syncs the audit files panicked: please report the lines above");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock()
    }

    fn run(&self, path: &Path, disk: &dyn Disk) {
        while let Some(job) = self.next() {
            match job {
                Job::Sync(file) => warn_unsynced(disk.sync(&file)),
                Job::Retire(file) => {
                    warn_unsynced(disk.sync(&file));
                    warn_unsynced(disk.sync_directory(directory_of(path)));
                    self.lock().retired.pop_front();
                }
                Job::Expire(now, keep) => {
                    let removed = expire(path, disk, now, keep);
                    let mut jobs = self.lock();
                    jobs.removed.extend(removed);
                    jobs.expiring = jobs.expiry.is_some();
                    drop(jobs);
                    self.changed.notify_all();
                }
            }
        }
    }

    /// Waits for the next job. `None` once everything is done and no more will come.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            // Rotated files first: what follows them in the chain must not be durable without them.
            if let Some(file) = jobs.retired.front() {
                return Some(Job::Retire(Arc::clone(file)));
            }
            if let Some((now, keep)) = jobs.expiry.take() {
                return Some(Job::Expire(now, keep));
            }
            let pause = jobs.unsynced.as_ref().map(|unsynced| {
                let urgent = jobs.closed || unsynced.bytes >= SYNC_BYTES;
                let rest = SYNC_AFTER.saturating_sub(unsynced.since.elapsed());
                if urgent { Duration::ZERO } else { rest }
            });
            match pause {
                None if jobs.closed => return None,
                None => {
                    jobs = self.changed.wait(jobs);
                }
                Some(Duration::ZERO) => {
                    return jobs.unsynced.take().map(|unsynced| Job::Sync(unsynced.file));
                }
                Some(pause) => {
                    jobs = self.changed.wait_timeout(jobs, pause);
                }
            }
        }
    }
}

fn warn_unsynced(result: io::Result<()>) {
    if let Err(error) = result {
        error!(%error, "syncing the audit file to disk failed: its latest records may be lost in a power failure");
    }
}

fn expire(path: &Path, disk: &dyn Disk, now: Timestamp, keep: Duration) -> Vec<String> {
    let Ok(all) = rotated(path) else { return vec![] };
    let is_old = |path: &PathBuf| {
        let changed = path.metadata().and_then(|metadata| metadata.modified());
        changed.is_ok_and(|at| now.since(Timestamp::from(at)) > keep)
    };
    let is_removed = |path: &PathBuf| match disk.remove(path) {
        Ok(()) => true,
        Err(error) => {
            warn!(path = %path.display(), %error, "removing an old audit file failed: it stays, and it is tried again later");
            false
        }
    };
    let removed = all.into_iter().filter(is_old).filter(is_removed);
    removed
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests;
