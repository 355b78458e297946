//! The record of what happened: who, which workspace, what verdict and why.
//!
//! Records are one JSON object a line ([`Entry`]). They go into a bounded buffer that one thread takes
//! into a chain of hashes ([`verify`] proves it) and writes to a file, standard output and syslog. When the
//! buffer is full or the last write failed, [`AuditLog::record`] says so, and the caller refuses the request:
//! nothing is allowed that is not on record, unless the operator decided to count what is lost. No token,
//! cookie or header value but the host is ever part of a record.

use std::{
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
mod entry;
mod fold;
mod key;
mod object;
pub mod read;
mod sink;
pub mod verify;
mod writer;

pub use crate::audit::sink::names::rotated;
pub use chain::MAX_LINE;
pub use entry::{AuditEvent, Entry};
pub use key::PublicKey;
pub use object::Object;
use sink::maintenance::LocalDisk;
pub use sink::{SyslogAddress, file::Rotation};

/// Some ten thousand records.
const DEFAULT_BUFFER: usize = 4096 * 1024;

/// Where records go, and how they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub file: Option<PathBuf>,
    /// Whether they go to standard output.
    pub stdout: bool,
    /// Syslog on this machine.
    pub syslog: Option<SyslogAddress>,
    /// How many bytes of records may wait to be written.
    pub buffer: usize,
    /// What happens when no more fit, or cannot be written.
    pub when_full: WhenFull,
    /// The key that signs checkpoints; there are none without.
    pub key: Option<PathBuf>,
    /// When checkpoints are made.
    pub checkpoint: CheckpointEvery,
    /// When a new file is begun.
    pub rotation: Rotation,
    /// How long identical allows are counted into one record; not at all unless said.
    pub fold: Option<Duration>,
}

/// What happens when a record cannot be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum WhenFull {
    /// What it would allow is refused.
    #[default]
    Deny,
    /// It is lost; how many were is on record as soon as there is room.
    Count,
}

/// When a checkpoint is made: whichever comes first, and never without a record since the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEvery {
    /// After so many records.
    pub records: u64,
    /// After so long.
    pub time: Duration,
}

/// Where records go.
pub struct AuditLog(Arc<Shared>);

/// How the audit log is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Bytes of records that wait to be written, of so many at most.
    pub waiting: usize,
    /// See [`Settings::buffer`].
    pub capacity: usize,
    /// Records written since the start.
    pub written: u64,
    /// Records that were not kept.
    pub lost: u64,
    /// Whether the last write failed.
    pub broken: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// So many bytes of records do not wait for others.
    plenty: usize,
    broken: AtomicBool,
    lost: AtomicU64,
    written: AtomicU64,
    capacity: usize,
    when_full: WhenFull,
}

struct Waiting {
    lines: Vec<u8>,
    /// Records that found no room so far.
    lost: u64,
    /// No more records will come.
    closed: bool,
    writer: WriterState,
}

/// What the writing thread does, so that it is woken up only where it has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// It sleeps until there is a record.
    Idle,
    /// It sleeps for a moment while records collect, or until there are plenty.
    Collecting,
    /// It writes, and looks again before it sleeps.
    Writing,
}

/// The writing thread; ends when the [`AuditLog`] is gone and everything is written.
pub struct Writer(JoinHandle<()>);

/// A record could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded;

impl Default for Settings {
    fn default() -> Self {
        Self {
            file: None,
            stdout: true,
            syslog: None,
            buffer: DEFAULT_BUFFER,
            when_full: WhenFull::Deny,
            key: None,
            checkpoint: CheckpointEvery::default(),
            rotation: Rotation::default(),
            fold: None,
        }
    }
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        Self { records: 10_000, time: Duration::from_secs(10) }
    }
}

impl AuditLog {
    /// Opens the audit log. The chain goes on where the file ends.
    ///
    /// # Errors
    /// The file or the key cannot be opened, another agent writes to the file, or the thread cannot be
    /// started.
    pub fn open(settings: &Settings) -> io::Result<(Self, Writer)> {
        let output = writer::Output::open(settings, Box::new(LocalDisk))?;
        Self::start(output, settings.buffer, settings.when_full)
    }

    /// An audit log into any sink: a chain of its own, without checkpoints.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to_sink(sink: Box<dyn Write + Send>, capacity: usize) -> io::Result<(Self, Writer)> {
        Self::start(writer::Output::to(sink), capacity, WhenFull::Deny)
    }

    fn start(
        output: writer::Output,
        capacity: usize,
        when_full: WhenFull,
    ) -> io::Result<(Self, Writer)> {
        let lines = Vec::with_capacity(capacity);
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting {
                lines,
                lost: 0,
                closed: false,
                writer: WriterState::Writing,
            }),
            wake: Condvar::new(),
            plenty: capacity / 8,
            broken: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            written: AtomicU64::new(0),
            capacity,
            when_full,
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || output.run(&of_thread))?;
        Ok((Self(shared), Writer(thread)))
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// There is no room, the last write failed, or the audit log is closed: what the record would allow must
    /// be refused. The record waits to be written all the same where there is room and the audit log is open.
    /// With [`WhenFull::Count`], only an audit log that is closed says so.
    pub fn record(&self, record: &impl Entry) -> Result<(), NotRecorded> {
        let shared = &*self.0;
        let mut waiting = shared.lock();
        if waiting.closed {
            return Err(NotRecorded);
        }
        let start = waiting.lines.len();
        record.write(&mut waiting.lines);
        let counts = shared.when_full == WhenFull::Count;
        if waiting.lines.len() > shared.capacity {
            waiting.lines.truncate(start);
            waiting.lost += 1;
            shared.lost.store(waiting.lost, Ordering::Relaxed);
            return if counts { Ok(()) } else { Err(NotRecorded) };
        }
        let wake = match waiting.writer {
            WriterState::Idle => true,
            WriterState::Collecting => waiting.lines.len() >= shared.plenty,
            WriterState::Writing => false,
        };
        if wake {
            // One wake-up serves many records.
            waiting.writer = WriterState::Writing;
        }
        drop(waiting);
        if wake {
            shared.wake.notify_one();
        }
        if shared.broken.load(Ordering::Acquire) && !counts { Err(NotRecorded) } else { Ok(()) }
    }

    /// Takes no further record: [`Writer::finish`] then ends once what is kept is written.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }

    /// How many records found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
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

impl Writer {
    /// Waits until everything is written. Call it after [`AuditLog::close`], or after the audit log is dropped.
    pub fn finish(self) {
        if self.0.join().is_err() {
            error!("the thread that writes the audit log panicked: please report the lines above");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        match self.waiting.lock() {
            Ok(waiting) => waiting,
            Err(poisoned) => self.mend(poisoned),
        }
    }

    /// Sleeps until woken up, or for `pause`.
    fn sleep<'g>(
        &self,
        waiting: MutexGuard<'g, Waiting>,
        pause: Option<Duration>,
    ) -> MutexGuard<'g, Waiting> {
        let woken = match pause {
            Some(pause) => match self.wake.wait_timeout(waiting, pause) {
                Ok((waiting, _)) => Ok(waiting),
                Err(poisoned) => Err(PoisonError::new(poisoned.into_inner().0)),
            },
            None => self.wake.wait(waiting),
        };
        woken.unwrap_or_else(|poisoned| self.mend(poisoned))
    }

    /// A panic while a record was written left half a line, which is no record.
    fn mend<'g>(&self, poisoned: PoisonError<MutexGuard<'g, Waiting>>) -> MutexGuard<'g, Waiting> {
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
mod tests {
    use std::sync::mpsc;

    use super::{entry::TestEntry, *};

    /// A sink that takes a batch only when told to.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a5_a_full_buffer_is_told_and_nothing_kept_is_lost() {
        let (go, gate) = mpsc::channel();
        let (sink, written) = mpsc::channel();
        let (audit_log, writer) = AuditLog::to_sink(Box::new(Slow(gate, sink)), 2000).unwrap();
        let text = [0xff; 5000];
        let (mut kept, mut refused) = (0, 0);
        while refused < 3 {
            match audit_log.record(&TestEntry(AuditEvent::Start, &text)) {
                Ok(()) => kept += 1,
                Err(NotRecorded) => refused += 1,
            }
        }
        assert_eq!(audit_log.lost(), 3);
        drop(audit_log);
        drop((0..100).map(|_| go.send(())).collect::<Vec<_>>());
        writer.finish();
        let all: Vec<u8> = written.iter().flatten().collect();
        let lines = all.split_inclusive(|b| *b == b'\n').inspect(|l| assert!(l.len() < MAX_LINE));
        let records: Vec<serde_json::Value> =
            lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        let decisions = records.iter().filter(|record| record["event"] == "start");
        assert_eq!(decisions.count(), kept);
        let gap = records.iter().find(|record| record["event"] == "gap").unwrap();
        assert_eq!((&gap["lost"], records.len()), (&3.into(), kept + 2));
    }

    #[test]
    fn a_sink_that_fails_is_told_until_it_works_again() {
        struct Flaky(Arc<AtomicBool>);
        impl Write for Flaky {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0.load(Ordering::Acquire) {
                    Err(io::ErrorKind::StorageFull.into())
                } else {
                    Ok(bytes.len())
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let fails = Arc::new(AtomicBool::new(true));
        let (audit_log, writer) =
            AuditLog::to_sink(Box::new(Flaky(Arc::clone(&fails))), 1 << 20).unwrap();
        let keep = || {
            std::thread::sleep(Duration::from_millis(1));
            audit_log.record(&TestEntry(AuditEvent::Start, b"x"))
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while keep().is_ok() {
            assert!(std::time::Instant::now() < deadline, "the failure is not told");
        }
        fails.store(false, Ordering::Release);
        while keep().is_err() {
            assert!(std::time::Instant::now() < deadline, "the recovery is not told");
        }
        drop(audit_log);
        writer.finish();
    }

    /// A sink that tells each write.
    struct Counting(mpsc::Sender<()>);

    impl Write for Counting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn r2_records_that_come_close_together_are_written_together() {
        let (sink, told) = mpsc::channel();
        let (audit_log, writer) = AuditLog::to_sink(Box::new(Counting(sink)), 1 << 20).unwrap();
        told.recv().unwrap();
        let start = std::time::Instant::now();
        for _ in 0..300 {
            audit_log.record(&TestEntry(AuditEvent::Start, b"x")).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = start.elapsed();
        drop(audit_log);
        writer.finish();
        // Each write is at least the time of collecting after the one before.
        let count = u128::try_from(told.iter().count()).unwrap();
        assert!(count <= took.as_millis() / 10 + 3, "{count} writes in {took:?}");
    }
}
