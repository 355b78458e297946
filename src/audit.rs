//! The audit log: who reached which workspace, when, and why, as one JSON object a line.
//!
//! [`AuditLog::record`] appends a record to a bounded buffer in memory. One thread takes the records from there into a chain
//! of hashes, signs checkpoints, and writes to a file, standard output and syslog. [`verify`] checks such files offline, and
//! [`read`] searches them. The module knows no type of the rest of the program: modules that record something implement
//! [`AuditRecord`].
//!
//! Nothing is allowed that is not recorded: if the buffer is full or the last write failed, [`AuditLog::record`] returns an
//! error and the caller refuses the request, unless the operator chose to count losses instead. A record never contains a
//! token, a cookie or a header other than the host.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tracing::error;

mod chain;
mod dedupe;
mod json_object;
mod key;
mod lines;
pub mod read;
mod record;
mod sink;
pub mod verify;
mod writer;

pub use crate::audit::sink::names::rotated;
pub use chain::MAX_LINE;
pub use json_object::JsonObject;
pub use key::{PublicKey, check_signing_key};
pub use record::{AuditEvent, AuditRecord};
use sink::maintenance::LocalDisk;
pub use sink::{SyslogAddress, file::Rotation};

/// The default size of the buffer, in bytes: about ten thousand records.
const DEFAULT_BUFFER: usize = 4096 * 1024;

/// The settings of the audit log, from `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file that records are written to.
    pub file: Option<PathBuf>,
    /// Whether records are written to standard output.
    pub stdout: bool,
    /// The syslog receiver on this machine that gets records.
    pub syslog: Option<SyslogAddress>,
    /// The size of the buffer, in bytes.
    pub buffer: usize,
    /// What happens to requests while the buffer is full or a write fails.
    pub when_full: WhenFull,
    /// The file of the key that signs checkpoints. Without it there are no checkpoints.
    pub key: Option<PathBuf>,
    /// How often checkpoints are made.
    pub checkpoint: CheckpointInterval,
    /// When a new file is begun, and when old ones are removed.
    pub rotation: Rotation,
    /// How long identical allows are counted into one record. `None` writes every record.
    pub dedupe: Option<Duration>,
}

/// What happens when a record cannot be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum WhenFull {
    /// The request is refused.
    #[default]
    Deny,
    /// The request is allowed and the record is lost. A `gap` record later says how many were.
    Count,
}

/// The most records and the longest time between two checkpoints. Without new records there is no new checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInterval {
    /// The most records between two checkpoints.
    pub records: u64,
    /// The longest time between two checkpoints.
    pub time: Duration,
}

/// The open audit log. Dropping it closes the log.
pub struct AuditLog(Arc<RecordQueue>);

/// The state of the audit log, for metrics and health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStatus {
    /// Bytes of records that wait to be written.
    pub waiting: usize,
    /// The size of the buffer, in bytes: see [`AuditSettings::buffer`].
    pub capacity: usize,
    /// Records written since the start.
    pub written: u64,
    /// Records that were lost because the buffer was full.
    pub lost: u64,
    /// Whether the last write failed.
    pub broken: bool,
}

/// The buffer between requests and the writing thread.
struct RecordQueue {
    waiting: Mutex<QueueState>,
    wake: Condvar,
    /// With this many bytes the thread is woken at once, rather than at the end of the time for collecting.
    wake_threshold: usize,
    broken: AtomicBool,
    lost: AtomicU64,
    written: AtomicU64,
    capacity: usize,
    when_full: WhenFull,
}

struct QueueState {
    lines: Vec<u8>,
    /// Records that found no room since the start.
    lost: u64,
    /// Whether the log is closed, so that no record follows.
    closed: bool,
    writer: WriterState,
}

/// What the writing thread does at the moment. Requests wake it only where that is needed, because a wake-up costs more than
/// a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// It sleeps until a record comes.
    Idle,
    /// It sleeps for the time of collecting, or until the buffer holds [`RecordQueue::wake_threshold`].
    Collecting,
    /// It writes, and looks at the buffer again before it sleeps.
    Writing,
}

/// The writing thread. It ends once the [`AuditLog`] is closed and all records are written.
pub struct WriterThread(JoinHandle<()>);

/// The record is not stored, so the request that it belongs to must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded;

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            file: None,
            stdout: true,
            syslog: None,
            buffer: DEFAULT_BUFFER,
            when_full: WhenFull::Deny,
            key: None,
            checkpoint: CheckpointInterval::default(),
            rotation: Rotation::default(),
            dedupe: None,
        }
    }
}

impl Default for CheckpointInterval {
    fn default() -> Self {
        Self { records: 10_000, time: Duration::from_secs(10) }
    }
}

impl AuditLog {
    /// Opens the audit log. The chain continues where the file ends.
    ///
    /// # Errors
    /// The file or the key cannot be opened, another process writes to the file, or the thread cannot be started.
    pub fn open(settings: &AuditSettings) -> io::Result<(Self, WriterThread)> {
        let output = writer::ChainWriter::open(settings, Box::new(LocalDisk))?;
        Self::start(output, settings.buffer, settings.when_full)
    }

    /// Opens an audit log that writes to `sink`: a new chain without checkpoints, for tests and benchmarks.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to_sink(
        sink: Box<dyn Write + Send>,
        capacity: usize,
    ) -> io::Result<(Self, WriterThread)> {
        Self::start(writer::ChainWriter::to_sink(sink), capacity, WhenFull::Deny)
    }

    fn start(
        output: writer::ChainWriter,
        capacity: usize,
        when_full: WhenFull,
    ) -> io::Result<(Self, WriterThread)> {
        let lines = Vec::with_capacity(capacity);
        let queue = Arc::new(RecordQueue {
            waiting: Mutex::new(QueueState {
                lines,
                lost: 0,
                closed: false,
                writer: WriterState::Writing,
            }),
            wake: Condvar::new(),
            wake_threshold: capacity / 8,
            broken: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            written: AtomicU64::new(0),
            capacity,
            when_full,
        });
        let for_thread = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || output.run(&for_thread))?;
        Ok((Self(queue), WriterThread(thread)))
    }

    /// Appends a record to the buffer.
    ///
    /// # Errors
    /// The buffer is full, the last write failed, or the log is closed: the caller must refuse what the record would allow.
    /// After a failed write the record is in the buffer all the same. With [`WhenFull::Count`] the only error is that the
    /// log is closed.
    pub fn record(&self, record: &impl AuditRecord) -> Result<(), NotRecorded> {
        let queue = &*self.0;
        let mut waiting = queue.lock();
        if waiting.closed {
            return Err(NotRecorded);
        }
        let start = waiting.lines.len();
        record.write(&mut waiting.lines);
        let counts_losses = queue.when_full == WhenFull::Count;
        // The length is known only once the record is written. One that does not fit is taken back.
        if waiting.lines.len() > queue.capacity {
            waiting.lines.truncate(start);
            waiting.lost += 1;
            queue.lost.store(waiting.lost, Ordering::Relaxed);
            return if counts_losses { Ok(()) } else { Err(NotRecorded) };
        }
        let wake = match waiting.writer {
            WriterState::Idle => true,
            WriterState::Collecting => waiting.lines.len() >= queue.wake_threshold,
            WriterState::Writing => false,
        };
        if wake {
            // Later requests see that the thread is on its way and do not wake it again.
            waiting.writer = WriterState::Writing;
        }
        drop(waiting);
        if wake {
            queue.wake.notify_one();
        }
        if queue.broken.load(Ordering::Acquire) && !counts_losses {
            Err(NotRecorded)
        } else {
            Ok(())
        }
    }

    /// Records something that has happened and cannot be undone; `about` names the object in the agent's own log. A record
    /// that is lost is logged as an error. Returns whether it was recorded.
    pub fn record_event(
        &self,
        event: AuditEvent,
        about: impl fmt::Display,
        record: &impl AuditRecord,
    ) -> bool {
        let is_recorded = self.record(record).is_ok();
        if !is_recorded {
            error!(event = event.id(), %about, "recording an event failed: the audit log has no room or cannot be written");
        }
        is_recorded
    }

    /// Closes the log to further records. [`WriterThread::finish`] then returns once the buffered ones are written.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }

    /// How many records were lost because the buffer was full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// The present state.
    #[must_use]
    pub fn status(&self) -> AuditStatus {
        AuditStatus {
            waiting: self.0.lock().lines.len(),
            capacity: self.0.capacity,
            written: self.0.written.load(Ordering::Relaxed),
            lost: self.lost(),
            broken: self.0.broken.load(Ordering::Acquire),
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl WriterThread {
    /// Waits until all records are written. Call it after [`AuditLog::close`], or after dropping the log.
    pub fn finish(self) {
        if self.0.join().is_err() {
            error!("the thread that writes the audit log panicked: please report the lines above");
        }
    }
}

impl RecordQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        match self.waiting.lock() {
            Ok(waiting) => waiting,
            Err(poisoned) => self.recover_from_panic(poisoned),
        }
    }

    /// Sleeps until woken up, or for `pause` at most.
    fn sleep<'g>(
        &self,
        waiting: MutexGuard<'g, QueueState>,
        pause: Option<Duration>,
    ) -> MutexGuard<'g, QueueState> {
        let woken = match pause {
            Some(pause) => match self.wake.wait_timeout(waiting, pause) {
                Ok((waiting, _)) => Ok(waiting),
                Err(poisoned) => Err(PoisonError::new(poisoned.into_inner().0)),
            },
            None => self.wake.wait(waiting),
        };
        woken.unwrap_or_else(|poisoned| self.recover_from_panic(poisoned))
    }

    /// Removes the half line that a panic inside a record left behind, and counts_losses it as lost.
    fn recover_from_panic<'g>(
        &self,
        poisoned: PoisonError<MutexGuard<'g, QueueState>>,
    ) -> MutexGuard<'g, QueueState> {
        let mut waiting = poisoned.into_inner();
        let whole = memchr::memrchr(b'\n', &waiting.lines).map_or(0, |at| at + 1);
        if whole < waiting.lines.len() {
            waiting.lines.truncate(whole);
            waiting.lost += 1;
            self.lost.store(waiting.lost, Ordering::Relaxed);
        }
        self.waiting.clear_poison();
        waiting
    }
}

#[cfg(test)]
mod tests;
