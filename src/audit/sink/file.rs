//! The file sink: one file with one writer, rotation, and a chain that continues over restarts.
//!
//! A file that is full or old enough is renamed to `FILE.<UTC time>.<number of its last record>`, and a new one is begun. A
//! file that another program renamed, as logrotate does, is noticed and a new one begun as well. The file is locked, because
//! two writers would break the chain.
//!
//! A write returns when the operating system has the bytes. Syncing to disk, and removing old files, is the work of
//! [`super::maintenance`], on a thread of its own.

use std::{
    fs::{File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tracing::{info, warn};

use super::{
    super::chain::{Hash, Line, MAX_LINE},
    maintenance::{Disk, Maintenance},
};
use crate::{audit::sink::names::rotated, time::Timestamp};

/// How long to wait for the lock: an agent that is being restarted releases it within this time.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between attempts to lock the file.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How often the sink checks whether the file was renamed.
const RENAME_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The pause before a failed rotation is tried again.
const ROTATE_BACKOFF: Duration = Duration::from_mins(1);

/// When a new file is begun, and how long old files stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// A new file is begun at this size, in bytes.
    pub size: Option<u64>,
    /// A new file is begun at this age.
    pub age: Option<Duration>,
    /// Old files are removed after this time. `None` keeps them.
    pub keep: Option<Duration>,
}

/// The file that records are appended to.
pub(in super::super) struct FileSink {
    path: PathBuf,
    file: Arc<File>,
    rotation: Rotation,
    maintenance: Maintenance,
    /// Whether this is a regular file: devices and pipes are not rotated, read or locked.
    regular: bool,
    size: u64,
    created_at: Timestamp,
    /// When the sink last checked whether the file was renamed.
    rename_checked_at: Instant,
    /// No rotation is tried before this moment.
    rotate_not_before: Option<Instant>,
}

/// The end of a file, as an agent finds it at its start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Tail {
    /// The number and hash of the last record.
    pub(in super::super) last: Option<(u64, Hash)>,
    /// Whether the last record is the final checkpoint of a run.
    pub(in super::super) ended: bool,
    /// The bytes after the last record: an incomplete record that a crash left.
    pub(in super::super) torn: Vec<u8>,
}

impl FileSink {
    /// Opens and locks the file, and reads its end. An incomplete last line gets a line end and stays.
    pub(in super::super) fn open(
        path: &Path,
        rotation: Rotation,
        disk: Box<dyn Disk>,
    ) -> io::Result<(Self, Tail)> {
        let file = Arc::new(open_file(path)?);
        let metadata = file.metadata()?;
        let regular = metadata.is_file();
        let mut sink = Self {
            path: path.to_owned(),
            regular,
            size: metadata.len(),
            created_at: created_at(&metadata),
            file,
            rotation,
            maintenance: Maintenance::start(path, disk)?,
            rename_checked_at: Instant::now(),
            rotate_not_before: None,
        };
        if !regular {
            return Ok((sink, Tail::default()));
        }
        lock(&sink.file)?;
        let mut tail = read_tail(&sink.file)?;
        if !tail.torn.is_empty() {
            let whole = tail.torn.ends_with(b"\n");
            warn!(path = %path.display(), bytes = tail.torn.len(), "the audit file ends in an incomplete record: it is kept, and new records follow after it");
            if !whole {
                sink.write_all(b"\n")?;
            }
        }
        if tail.last.is_none() && sink.size == 0 {
            // A crash between renaming the old file and writing to the new one: the chain continues from the old one.
            if let Some(newest) = rotated(path)?.pop() {
                let old = read_tail(&File::open(newest)?)?;
                tail = Tail { torn: vec![], ..old };
            }
        }
        Ok((sink, tail))
    }

    /// Whether a new file must be begun before further records are written.
    pub(in super::super) fn is_due(&mut self, now: Timestamp) -> bool {
        if !self.regular || self.rotate_not_before.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let full = self.rotation.size.is_some_and(|most| self.size >= most);
        let old = self.rotation.age.is_some_and(|most| now.since(self.created_at) >= most);
        ((self.size > 0 && (full || old)) || self.is_gone()) && self.maintenance.has_room()
    }

    /// Whether the path no longer leads to the open file. Asks the file system at most every
    /// [`RENAME_CHECK_INTERVAL`].
    fn is_gone(&mut self) -> bool {
        if self.rename_checked_at.elapsed() < RENAME_CHECK_INTERVAL {
            return false;
        }
        self.rename_checked_at = Instant::now();
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => id(there) != id(ours),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Ends this file, whose last record has the number `last`, and begins another. The old file is synced by the maintenance
    /// thread; a power failure before that may lose its end.
    ///
    /// # Errors
    /// The file cannot be renamed, or the new one cannot be opened. Writing continues in the old file.
    pub(in super::super) fn rotate(&mut self, last: u64, now: Timestamp) -> io::Result<()> {
        let result = self.try_rotate(last, now);
        if result.is_err() {
            self.rotate_not_before = Instant::now().checked_add(ROTATE_BACKOFF);
        }
        result
    }

    fn try_rotate(&mut self, last: u64, now: Timestamp) -> io::Result<()> {
        self.rename_checked_at =
            Instant::now().checked_sub(RENAME_CHECK_INTERVAL).unwrap_or(self.rename_checked_at);
        if !self.is_gone() {
            let to = rotated_name(&self.path, last, now);
            std::fs::rename(&self.path, &to)?;
            info!(to = %to.display(), "the audit file is rotated");
        }
        let file = open_file(&self.path)?;
        // Without waiting for the lock: records arrive meanwhile, and the old file still takes them.
        try_lock(&file)?;
        self.size = file.metadata()?.len();
        let old = std::mem::replace(&mut self.file, Arc::new(file));
        self.maintenance.retire(old);
        self.created_at = now;
        Ok(())
    }

    /// Starts to remove the rotated files whose time is over.
    pub(in super::super) fn expire(&self, now: Timestamp) {
        if let Some(keep) = self.rotation.keep.filter(|_| self.regular) {
            self.maintenance.expire(now, keep);
        }
    }

    /// Whether a removal runs, or [`FileSink::removed`] has names to report.
    pub(in super::super) fn is_expiring(&self) -> bool {
        self.maintenance.is_expiring()
    }

    /// The names of the files that were removed since the last call.
    pub(in super::super) fn removed(&self) -> Vec<String> {
        self.maintenance.removed()
    }

    /// Waits until the removal that runs has ended. It may take long, so call it only at the end.
    pub(in super::super) fn settle(&self) {
        self.maintenance.settle();
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&*self.file).write(bytes)?;
        let count = u64::try_from(written).unwrap_or_default();
        self.size = self.size.saturating_add(count);
        if self.regular {
            self.maintenance.wrote(&self.file, count);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file for appending, and creates it if it is missing.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Reading serves to find the last record. A device that cannot be read has none.
    match options.read(true).append(true).create(true).mode(0o640).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().append(true).open(path)
        }
        other => other,
    }
}

/// Locks the file, and waits for a process that is about to end.
fn lock(file: &File) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(LOCK_RETRY_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => return Err(locked()),
        }
    }
}

/// Locks the file without waiting.
fn try_lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => locked(),
    })
}

fn locked() -> io::Error {
    let message = "another process writes to it: each agent needs an audit file of its own";
    io::Error::new(io::ErrorKind::ResourceBusy, message)
}

/// When the file was created, as far as the file system knows.
fn created_at(metadata: &Metadata) -> Timestamp {
    metadata
        .created()
        .or_else(|_| metadata.modified())
        .map_or_else(|_| Timestamp::now(), Into::into)
}

/// The name that a file gets when it is rotated.
fn rotated_name(path: &Path, last: u64, now: Timestamp) -> PathBuf {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(now.as_millis()).unwrap_or_default())
        .unwrap_or_default();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{last}", at.strftime("%Y%m%dT%H%M%SZ")));
    name.into()
}

/// Reads the end of a file. It looks back over a few records, because a crash leaves at most one incomplete record.
fn read_tail(mut file: &File) -> io::Result<Tail> {
    const LOOK_BACK_BYTES: u64 = 64 * MAX_LINE as u64;
    let end = file.seek(SeekFrom::End(0))?;
    let start = end.saturating_sub(LOOK_BACK_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOOK_BACK_BYTES).read_to_end(&mut bytes)?;
    let mut torn = 0;
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').rev().peekable();
    while let Some(line) = lines.next() {
        // The first line may have begun before `start`, so it cannot be judged.
        if start > 0 && lines.peek().is_none() {
            break;
        }
        if let Some((last, ended)) = line.strip_suffix(b"\n").and_then(parse_record) {
            let torn = bytes.get(bytes.len() - torn..).unwrap_or_default().to_vec();
            return Ok(Tail { last: Some(last), ended, torn });
        }
        torn += line.len();
    }
    let torn = bytes.get(bytes.len() - torn..).unwrap_or_default().to_vec();
    Ok(Tail { last: None, ended: false, torn })
}

/// The number and hash of a record, and whether it is a final checkpoint.
fn parse_record(line: &[u8]) -> Option<((u64, Hash), bool)> {
    let hash = Line::split(line)?.stated()?;
    let value: Value = serde_json::from_slice(line).ok()?;
    let seq = value.get("seq")?.as_u64()?;
    let ended = value.get("end").and_then(Value::as_bool) == Some(true)
        && value.get("event").and_then(Value::as_str) == Some("checkpoint");
    Some(((seq, hash), ended))
}
