//! The file of records: one writer, a chain that goes on over restarts, rotation and retention.
//!
//! A file that is full or old enough is renamed to `FILE.<UTC time>.<number of its last record>` and a
//! new one begun. A file that somebody else renamed, as logrotate does, is noticed and begun anew too.

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

/// An agent that ends lets go of the file within this time.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether somebody renamed the file.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause after a rotation that failed.
const ROTATE_PAUSE: Duration = Duration::from_mins(1);

/// When a new file is begun, and how long old ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// At this size, in bytes.
    pub size: Option<u64>,
    /// At this age.
    pub age: Option<Duration>,
    /// Old files are removed after this time; never unless said.
    pub keep: Option<Duration>,
}

/// A file that is appended to.
pub(in super::super) struct FileSink {
    path: PathBuf,
    file: Arc<File>,
    rotation: Rotation,
    maintenance: Maintenance,
    /// Devices and pipes are not rotated, read or locked.
    regular: bool,
    size: u64,
    born: Timestamp,
    looked: Instant,
    not_before: Option<Instant>,
}

/// What a file ended with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Tail {
    /// The number and hash of the last record, if there is one.
    pub(in super::super) last: Option<(u64, Hash)>,
    /// Whether the last record says that nothing is missing after it.
    pub(in super::super) ended: bool,
    /// What follows it and is no record: what a crash left of the last write.
    pub(in super::super) torn: Vec<u8>,
}

impl FileSink {
    /// Opens the file, alone, and says what it ends with. A torn last line is ended, not removed.
    pub(in super::super) fn open(
        path: &Path,
        rotation: Rotation,
        disk: Box<dyn Disk>,
    ) -> io::Result<(Self, Tail)> {
        let file = Arc::new(begin(path)?);
        let metadata = file.metadata()?;
        let regular = metadata.is_file();
        let mut sink = Self {
            path: path.to_owned(),
            regular,
            size: metadata.len(),
            born: born(&metadata),
            file,
            rotation,
            maintenance: Maintenance::start(path, disk)?,
            looked: Instant::now(),
            not_before: None,
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
            // A crash between renaming the old file and beginning the new one.
            if let Some(newest) = rotated(path)?.pop() {
                let old = read_tail(&File::open(newest)?)?;
                tail = Tail { torn: vec![], ..old };
            }
        }
        Ok((sink, tail))
    }

    /// Whether a new file is to be begun before `now`'s records are written.
    pub(in super::super) fn is_due(&mut self, now: Timestamp) -> bool {
        if !self.regular || self.not_before.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let full = self.rotation.size.is_some_and(|most| self.size >= most);
        let old = self.rotation.age.is_some_and(|most| now.since(self.born) >= most);
        ((self.size > 0 && (full || old)) || self.is_gone()) && self.maintenance.has_room()
    }

    /// Whether the path is another file's by now.
    fn is_gone(&mut self) -> bool {
        if self.looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.looked = Instant::now();
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => id(there) != id(ours),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Ends this file, whose last record has that number, and begins another. The old one becomes durable
    /// beside the writer; until it is, a power failure may take its end.
    ///
    /// # Errors
    /// The file cannot be renamed or begun; the old one is written on.
    pub(in super::super) fn rotate(&mut self, last: u64, now: Timestamp) -> io::Result<()> {
        let result = self.try_rotate(last, now);
        if result.is_err() {
            self.not_before = Instant::now().checked_add(ROTATE_PAUSE);
        }
        result
    }

    fn try_rotate(&mut self, last: u64, now: Timestamp) -> io::Result<()> {
        self.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap_or(self.looked);
        if !self.is_gone() {
            let to = rotated_name(&self.path, last, now);
            std::fs::rename(&self.path, &to)?;
            info!(to = %to.display(), "the audit file is rotated");
        }
        let file = begin(&self.path)?;
        // Without waiting: records come in meanwhile, and the old file still takes them.
        try_lock(&file)?;
        self.size = file.metadata()?.len();
        let old = std::mem::replace(&mut self.file, Arc::new(file));
        self.maintenance.retire(old);
        self.born = now;
        Ok(())
    }

    /// Begins to remove rotated files that are older than they are to be kept.
    pub(in super::super) fn expire(&self, now: Timestamp) {
        if let Some(keep) = self.rotation.keep.filter(|_| self.regular) {
            self.maintenance.expire(now, keep);
        }
    }

    /// Whether files are being removed, or were and [`FileSink::removed`] has not named them.
    pub(in super::super) fn is_expiring(&self) -> bool {
        self.maintenance.is_expiring()
    }

    /// The names of files that were removed since the last call.
    pub(in super::super) fn removed(&self) -> Vec<String> {
        self.maintenance.removed()
    }

    /// Waits until files that are to be removed are. Only for the end: this may take a while.
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

fn begin(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Reading is for the last record; a device that cannot be read has none.
    match options.read(true).append(true).create(true).mode(0o640).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().append(true).open(path)
        }
        other => other,
    }
}

/// Two writers would break the chain.
fn lock(file: &File) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_WITHIN => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(locked()),
        }
    }
}

/// As [`lock`], without waiting for another process to end.
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

/// When the file was begun, as far as the file system knows.
fn born(metadata: &Metadata) -> Timestamp {
    metadata
        .created()
        .or_else(|_| metadata.modified())
        .map_or_else(|_| Timestamp::now(), Into::into)
}

fn rotated_name(path: &Path, last: u64, now: Timestamp) -> PathBuf {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(now.as_millis()).unwrap_or_default())
        .unwrap_or_default();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{last}", at.strftime("%Y%m%dT%H%M%SZ")));
    name.into()
}

/// What the file ends with. Looks back over a few records only: what a crash tore is at most the last.
fn read_tail(mut file: &File) -> io::Result<Tail> {
    const LOOK_BACK: u64 = 64 * MAX_LINE as u64;
    let end = file.seek(SeekFrom::End(0))?;
    let start = end.saturating_sub(LOOK_BACK);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOOK_BACK).read_to_end(&mut bytes)?;
    let mut torn = 0;
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').rev().peekable();
    while let Some(line) = lines.next() {
        // The first of them may be the end of one that began before.
        if start > 0 && lines.peek().is_none() {
            break;
        }
        if let Some((last, ended)) = line.strip_suffix(b"\n").and_then(record) {
            let torn = bytes.get(bytes.len() - torn..).unwrap_or_default().to_vec();
            return Ok(Tail { last: Some(last), ended, torn });
        }
        torn += line.len();
    }
    let torn = bytes.get(bytes.len() - torn..).unwrap_or_default().to_vec();
    Ok(Tail { last: None, ended: false, torn })
}

fn record(line: &[u8]) -> Option<((u64, Hash), bool)> {
    let hash = Line::split(line)?.stated()?;
    let value: Value = serde_json::from_slice(line).ok()?;
    let seq = value.get("seq")?.as_u64()?;
    let ended = value.get("end").and_then(Value::as_bool) == Some(true)
        && value.get("event").and_then(Value::as_str) == Some("checkpoint");
    Some(((seq, hash), ended))
}
