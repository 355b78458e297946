//! The thread that writes audit records: it takes them from the queue, chains them and writes them to every sink.
//!
//! It owns everything that happens after [`super::AuditLog::record`]: deduplication, the hash chain, signed checkpoints,
//! rotation and retries. Requests only append to the queue and never wait for this thread or for a disk. The thread ends
//! when the log is closed and all records are written.
//!
//! The first sink in the order file, standard output, syslog must receive every record: while it fails, the thread retries
//! and the log reports itself as broken. Records reach the sinks in the order of the chain, each exactly once.

use std::{
    io::{self, Write},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    AuditSettings, CheckpointInterval, RecordQueue, WhenFull, WriterState,
    chain::{self, Chain, CheckpointKind},
    dedupe::{Deduplicator, Windows},
    key::SigningKey,
    sink::{
        Syslog,
        file::{FileSink, Tail},
        maintenance::Disk,
    },
};
use crate::{
    audit::{AuditEvent, JsonObject},
    time::Timestamp,
};

/// How long records are collected before they are written together. A kill of the agent loses at most so much.
const COLLECT_WINDOW: Duration = Duration::from_millis(10);
/// The pause between attempts of a sink that fails.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);
/// How many bytes are written to the sinks at once.
const CHUNK: usize = 64 * 1024;
/// How often the thread asks for the names of removed files while a removal runs.
const REMOVED_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often the thread looks for expired files.
const EXPIRE_INTERVAL: Duration = Duration::from_mins(10);

/// The state of the writing thread.
pub(super) struct ChainWriter {
    /// The first one must receive every record.
    sinks: Vec<Sink>,
    chain: Chain,
    key: Option<SigningKey>,
    checkpoint_interval: CheckpointInterval,
    dedupe: Option<Deduplicator>,
    /// Chained records that no sink has yet.
    out: Vec<u8>,
    /// How many records `out` has.
    unwritten_records: u64,
    /// The number of the record after the last checkpoint.
    after_checkpoint: u64,
    last_checkpoint_at: Instant,
    last_expiry_at: Option<Instant>,
    /// Until when further records are collected, once some were taken.
    collect_until: Option<Instant>,
    /// How many lost records a `gap` record tells of already.
    recorded_losses: u64,
}

struct Sink {
    name: &'static str,
    target: SinkTarget,
    role: SinkRole,
    failing: bool,
}

enum SinkTarget {
    File(FileSink),
    Other(Box<dyn Write + Send>),
}

/// What a failure of a sink means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SinkRole {
    /// It must have every record.
    Primary,
    /// It may miss records where the operator chose to count losses.
    Copy,
}

impl ChainWriter {
    /// Opens the sinks and the key of the settings.
    ///
    /// # Errors
    /// A file cannot be opened or is locked by another agent, or the key cannot be read or created.
    pub(super) fn open(settings: &AuditSettings, disk: Box<dyn Disk>) -> io::Result<Self> {
        let mut targets = Vec::new();
        let mut tail = Tail::default();
        if let Some(path) = &settings.file {
            let (file, found) = FileSink::open(path, settings.rotation, disk)?;
            tail = found;
            targets.push(("file", SinkTarget::File(file)));
        }
        if settings.stdout || (settings.file.is_none() && settings.syslog.is_none()) {
            targets.push(("stdout", SinkTarget::Other(Box::new(io::stdout()))));
        }
        if let Some(address) = &settings.syslog {
            let syslog = Box::new(Syslog::new(address.clone()));
            targets.push(("syslog", SinkTarget::Other(syslog)));
        }
        let key = match &settings.key {
            Some(path) => Some(SigningKey::open(path).map_err(|error| {
                let message = format!("the key_file {}: {error}", path.display());
                io::Error::new(error.kind(), message)
            })?),
            None => None,
        };
        let dedupe = settings
            .dedupe
            .map(|window| Deduplicator::new(u64::try_from(window.as_millis()).unwrap_or(u64::MAX)));
        let checkpoint_interval = settings.checkpoint;
        Ok(Self { key, checkpoint_interval, dedupe, ..Self::after(targets, &tail) })
    }

    /// A writer with one sink, a new chain and no checkpoints.
    pub(super) fn to_sink(sink: Box<dyn Write + Send>) -> Self {
        Self::after(vec![("sink", SinkTarget::Other(sink))], &Tail::default())
    }

    /// Continues the chain where `tail` ends, and says in its first record what was found there.
    fn after(targets: Vec<(&'static str, SinkTarget)>, tail: &Tail) -> Self {
        let (seq, last) = tail.last.unwrap_or_default();
        let mut chain = Chain::after(seq, last);
        let mut out = Vec::with_capacity(2 * CHUNK);
        let after = match tail {
            Tail { last: None, torn, .. } if torn.is_empty() => "nothing",
            Tail { ended: true, torn, .. } if torn.is_empty() => "end",
            _ => "crash",
        };
        chain.append_event(AuditEvent::Open, &mut out, |line| {
            line.text("previous", &chain::hex(&last));
            line.text("after", after);
            // Verification accepts an incomplete record only where this record describes it.
            if !tail.torn.is_empty() {
                let torn = tail.torn.strip_suffix(b"\n").unwrap_or(&tail.torn);
                line.number("torn_bytes", u64::try_from(torn.len()).unwrap_or(u64::MAX));
                line.fingerprint("torn", Some(chain::fingerprint(torn)));
            }
        });
        let roles = std::iter::once(SinkRole::Primary).chain(std::iter::repeat(SinkRole::Copy));
        let sinks = targets.into_iter().zip(roles);
        let sinks = sinks.map(|((name, target), role)| Sink { name, target, role, failing: false });
        Self {
            sinks: sinks.collect(),
            chain,
            key: None,
            checkpoint_interval: CheckpointInterval::default(),
            dedupe: None,
            out,
            unwritten_records: 1,
            after_checkpoint: seq.saturating_add(1),
            last_checkpoint_at: Instant::now(),
            last_expiry_at: None,
            collect_until: None,
            recorded_losses: 0,
        }
    }

    /// Writes records until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &RecordQueue) {
        let mut batch = Vec::with_capacity(queue.capacity);
        // The opening of the log is recorded even if no record follows.
        self.write_to_sinks(queue);
        loop {
            let (lost, closed) = self.wait(queue, &mut batch);
            self.collect_until =
                if batch.is_empty() { None } else { Instant::now().checked_add(COLLECT_WINDOW) };
            self.rotate(queue);
            for line in batch.split_inclusive(|byte| *byte == b'\n') {
                self.append_record(line.strip_suffix(b"\n").unwrap_or(line), queue);
            }
            let end = closed && batch.is_empty();
            batch.clear();
            self.write_repeats(if closed { Windows::All } else { Windows::Ended }, queue);
            if lost > self.recorded_losses {
                let since = lost - self.recorded_losses;
                warn!(lost = since, "records are missing from the audit log: its queue was full");
                self.append_event(AuditEvent::Gap, |line| line.number("lost", since));
                self.recorded_losses = lost;
            }
            if end {
                self.finish_expiry();
                self.checkpoint(CheckpointKind::Final);
            } else if self.is_checkpoint_due() {
                self.checkpoint(CheckpointKind::Periodic);
            }
            self.write_to_sinks(queue);
            if end {
                // Dropping the file sink waits until everything in the file is durable.
                return;
            }
        }
    }

    /// Waits for records or for the next deadline, and moves what is queued into `batch`. Returns how many records were
    /// lost so far, and whether the queue is closed.
    ///
    /// The first record after a pause is taken at once. Those after it are collected for a moment, so that under load the
    /// thread wakes up once for many records and most requests need not wake it.
    fn wait(&self, queue: &RecordQueue, batch: &mut Vec<u8>) -> (u64, bool) {
        let mut waiting = queue.lock();
        if let Some(until) = self.collect_until {
            waiting.writer = WriterState::Collecting;
            while waiting.lines.len() < queue.wake_threshold && !waiting.closed {
                let pause = until.saturating_duration_since(Instant::now());
                if pause.is_zero() {
                    break;
                }
                waiting = queue.sleep(waiting, Some(pause));
            }
        }
        let deadline = self.next_deadline();
        while waiting.lines.is_empty() && !waiting.closed {
            let pause = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if pause == Some(Duration::ZERO) {
                break;
            }
            waiting.writer = WriterState::Idle;
            waiting = queue.sleep(waiting, pause);
        }
        waiting.writer = WriterState::Writing;
        // The two buffers change places, so that neither is allocated again.
        std::mem::swap(&mut waiting.lines, batch);
        (waiting.lost, waiting.closed)
    }

    /// When the thread has work even if no record comes: a checkpoint, a window of repeats, or names of removed files.
    fn next_deadline(&self) -> Option<Instant> {
        let unsigned = self.key.is_some() && self.chain.next() > self.after_checkpoint;
        let checkpoint =
            unsigned.then(|| self.last_checkpoint_at.checked_add(self.checkpoint_interval.time));
        let window = self.dedupe.as_ref().map(Deduplicator::next_flush_ms);
        let window = window.filter(|at| *at < u64::MAX).and_then(|at| {
            Instant::now().checked_add(Duration::from_millis(at.saturating_sub(now_ms())))
        });
        let expiring = self.sinks.first().is_some_and(
            |sink| matches!(&sink.target, SinkTarget::File(file) if file.is_expiring()),
        );
        let removed = expiring.then(|| Instant::now().checked_add(REMOVED_POLL_INTERVAL));
        checkpoint.flatten().into_iter().chain(window).chain(removed.flatten()).min()
    }

    /// Appends a record to the chain, unless it repeats an earlier one and is counted instead.
    fn append_record(&mut self, line: &[u8], queue: &RecordQueue) {
        if let Some(dedupe) = &mut self.dedupe
            && dedupe.absorbs(line, now_ms())
        {
            return;
        }
        self.chain.append(line, chain::up_ms(), &mut self.out);
        self.unwritten_records += 1;
        if self.chain.next() - self.after_checkpoint >= self.checkpoint_interval.records {
            self.checkpoint(CheckpointKind::Periodic);
        }
        if self.out.len() >= CHUNK {
            self.write_to_sinks(queue);
        }
    }

    /// Appends the counted repeats of windows that end.
    fn write_repeats(&mut self, which: Windows, queue: &RecordQueue) {
        let Some(mut dedupe) = self.dedupe.take() else { return };
        dedupe.flush(now_ms(), which, |line| {
            self.chain.append(line, chain::up_ms(), &mut self.out);
            self.unwritten_records += 1;
            if self.out.len() >= CHUNK {
                self.write_to_sinks(queue);
            }
        });
        self.dedupe = Some(dedupe);
    }

    /// Appends an event of the log itself.
    fn append_event(&mut self, event: AuditEvent, members: impl FnOnce(&mut JsonObject<'_>)) {
        self.chain.append_event(event, &mut self.out, members);
        self.unwritten_records += 1;
    }

    /// Whether records since the last checkpoint are old or many enough for the next one.
    fn is_checkpoint_due(&self) -> bool {
        let records = self.chain.next().saturating_sub(self.after_checkpoint);
        let is_old = self.last_checkpoint_at.elapsed() >= self.checkpoint_interval.time;
        records > 0 && (is_old || records >= self.checkpoint_interval.records)
    }

    /// Appends a checkpoint, if there is a key.
    fn checkpoint(&mut self, kind: CheckpointKind) {
        let Some(key) = &self.key else { return };
        self.chain.checkpoint(key, kind, &mut self.out);
        self.unwritten_records += 1;
        self.after_checkpoint = self.chain.next();
        self.last_checkpoint_at = Instant::now();
    }

    fn file(&mut self) -> Option<&mut FileSink> {
        match &mut self.sinks.first_mut()?.target {
            SinkTarget::File(file) => Some(file),
            SinkTarget::Other(_) => None,
        }
    }

    /// Begins a new file if the present one is full or old, and starts the removal of expired files.
    fn rotate(&mut self, queue: &RecordQueue) {
        let now = Timestamp::now();
        let due = self.file().is_some_and(|file| file.is_due(now));
        if due {
            // A file that ends with a checkpoint can be verified without the next one.
            self.checkpoint(CheckpointKind::Periodic);
            self.write_to_sinks(queue);
            let last = self.chain.next() - 1;
            let previous = chain::hex(self.chain.last());
            match self.file().map_or(Ok(()), |file| file.rotate(last, now)) {
                Ok(()) => {
                    self.append_event(AuditEvent::ContinueFile, |line| {
                        line.text("previous", &previous);
                    });
                }
                Err(error) => {
                    error!(%error, "rotating the audit file failed: writing continues in the same file, which grows beyond its limit");
                }
            }
        }
        if due || self.last_expiry_at.is_none_or(|at| at.elapsed() >= EXPIRE_INTERVAL) {
            self.last_expiry_at = Some(Instant::now());
            if let Some(file) = self.file() {
                file.expire(now);
            }
        }
        self.record_removed_files();
    }

    /// Records the names of files that were removed since the last call.
    fn record_removed_files(&mut self) {
        let removed = self.file().map(|file| file.removed()).unwrap_or_default();
        for name in removed {
            info!(file = %name, "an old audit file is removed");
            self.append_event(AuditEvent::Expire, |line| line.untrusted("file", name.as_bytes()));
        }
    }

    /// Waits for the removal that runs, so that it is recorded before the log ends.
    fn finish_expiry(&mut self) {
        if let Some(file) = self.file() {
            file.settle();
        }
        self.record_removed_files();
    }

    /// Writes the chained records to every sink.
    fn write_to_sinks(&mut self, queue: &RecordQueue) {
        for sink in &mut self.sinks {
            sink.write_out(&self.out, queue);
        }
        self.out.clear();
        queue.written.fetch_add(self.unwritten_records, Ordering::Relaxed);
        self.unwritten_records = 0;
    }
}

impl Sink {
    /// Writes all bytes, and retries while the sink fails, so that each allowed request stays provable.
    ///
    /// It gives up in two cases: the log is closed meanwhile, or the sink is a copy and losses are counted. The numbers of
    /// the records then show which ones the sink misses.
    fn write_out(&mut self, mut rest: &[u8], queue: &RecordQueue) {
        let name = self.name;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    if std::mem::take(&mut self.failing) {
                        queue.broken.store(false, Ordering::Release);
                        info!(sink = name, "the audit log is written again");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let counts_losses = queue.when_full == WhenFull::Count;
                    // Logged once for each outage, not once for each attempt.
                    if !std::mem::replace(&mut self.failing, true) {
                        let until = if counts_losses {
                            "records may be lost"
                        } else {
                            "requests are denied"
                        };
                        error!(sink = name, %error, "writing the audit log failed: {until} until it works again");
                    }
                    if counts_losses && self.role == SinkRole::Copy {
                        return;
                    }
                    queue.broken.store(true, Ordering::Release);
                    if queue.lock().closed {
                        error!(sink = name, bytes = rest.len(), %error, "the agent ended while the audit log could not be written: its last records are lost");
                        return;
                    }
                    std::thread::sleep(RETRY_BACKOFF);
                }
            }
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let target: &mut dyn Write = match &mut self.target {
            SinkTarget::File(file) => file,
            SinkTarget::Other(other) => other,
        };
        match target.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => target.flush().map(|()| n),
        }
    }
}

fn now_ms() -> u64 {
    Timestamp::now().as_millis()
}
