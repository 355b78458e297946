//! Disk work on the audit files, on a thread of its own: syncing, closing rotated files, removing expired ones.
//!
//! The writing thread only hands work over. It never waits for the disk to confirm something, because meanwhile the buffer
//! would fill and requests whose record finds no room are refused.
//!
//! Rotated files are synced before anything that is written later, so that after a power failure the chain has no gap in
//! its middle.

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

/// Written bytes are synced after this time at the latest, if the disk keeps up.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// They are synced earlier once there are this many, so that no sync has much to do.
const SYNC_BYTES: u64 = 16 << 20;
/// How many rotated files may wait for their sync. With so many, no further file is begun.
const MAX_UNSYNCED_FILES: usize = 8;

/// The operations on the disk, which may take any time. Tests replace them.
pub(in super::super) trait Disk: Send + 'static {
    /// Syncs the content of a file, so that it survives a power failure.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Syncs the names in a directory, so that they survive a power failure.
    ///
    /// # Errors
    /// Those of `open(2)` and `fsync(2)`.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Removes a file. Freeing the space of a large one takes time.
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

/// The maintenance thread. Dropping it waits until all its work is done.
pub(super) struct Maintenance {
    shared: Arc<JobQueue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct JobQueue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    unsynced: Option<Unsynced>,
    /// Rotated files that wait for their sync, oldest first.
    retired: VecDeque<Arc<File>>,
    expiry: Option<(Timestamp, Duration)>,
    /// Whether a removal of expired files waits or runs.
    expiring: bool,
    /// Names of removed files that were not reported yet.
    removed: Vec<String>,
    closed: bool,
}

/// The file that is being written, if it has bytes that are not synced.
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
    /// Starts the thread for the audit file at `path`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(path: &Path, disk: Box<dyn Disk>) -> io::Result<Self> {
        let shared = Arc::<JobQueue>::default();
        let (path, for_thread) = (path.to_owned(), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("audit-disk".into())
            .spawn(move || for_thread.run(&path, &*disk))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Reports bytes that were written to the file, which are synced soon.
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

    /// Whether a further rotated file can be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.shared.lock().retired.len() < MAX_UNSYNCED_FILES
    }

    /// Hands over a rotated file, which is synced before anything that is written later.
    pub(super) fn retire(&self, file: Arc<File>) {
        let mut jobs = self.shared.lock();
        jobs.unsynced = None;
        jobs.retired.push_back(file);
        drop(jobs);
        self.shared.changed.notify_all();
    }

    /// Starts to remove the rotated files that were last written longer than `keep` before `now`.
    pub(super) fn expire(&self, now: Timestamp, keep: Duration) {
        let mut jobs = self.shared.lock();
        jobs.expiry = Some((now, keep));
        jobs.expiring = true;
        drop(jobs);
        self.shared.changed.notify_all();
    }

    /// Whether a removal runs, or [`Maintenance::removed`] has names to report.
    pub(super) fn is_expiring(&self) -> bool {
        let jobs = self.shared.lock();
        jobs.expiring || !jobs.removed.is_empty()
    }

    /// The names of the files that were removed since the last call.
    pub(super) fn removed(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().removed)
    }

    /// Waits until the removal that was started has ended.
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

impl JobQueue {
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

    /// Waits for the next job. Returns `None` once the sink is closed and all work is done.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            // Rotated files come first: records that follow them in the chain must not be durable without them.
            if let Some(file) = jobs.retired.front() {
                return Some(Job::Retire(Arc::clone(file)));
            }
            if let Some((now, keep)) = jobs.expiry.take() {
                return Some(Job::Expire(now, keep));
            }
            let pause = jobs.unsynced.as_ref().map(|unsynced| {
                let urgent = jobs.closed || unsynced.bytes >= SYNC_BYTES;
                let rest = SYNC_INTERVAL.saturating_sub(unsynced.since.elapsed());
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

/// Removes expired files and returns their names. One that cannot be removed is tried again later.
fn expire(path: &Path, disk: &dyn Disk, now: Timestamp, keep: Duration) -> Vec<String> {
    let Ok(all) = rotated(path) else { return vec![] };
    let is_old = |path: &PathBuf| {
        let changed = path.metadata().and_then(|metadata| metadata.modified());
        changed.is_ok_and(|at| now.since(Timestamp::from(at)) > keep)
    };
    let is_removed = |path: &PathBuf| match disk.remove(path) {
        Ok(()) => true,
        Err(error) => {
            warn!(path = %path.display(), %error, "removing an old audit file failed: it stays and is tried again later");
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
