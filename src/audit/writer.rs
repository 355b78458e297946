//! The thread that takes what waits into the chain and writes it to every sink.

use std::{
    io::{self, Write},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    CheckpointEvery, Settings, Shared, WhenFull, WriterState,
    chain::{self, Chain},
    fold::Fold,
    key::SigningKey,
    sink::{
        Syslog,
        file::{FileSink, Tail},
        maintenance::Disk,
    },
};
use crate::{audit::AuditEvent, time::Timestamp};

/// How long records may wait for others before they are written together. What waits is lost when the
/// agent is killed.
const COLLECT: Duration = Duration::from_millis(10);
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_millis(50);
/// Written in one piece.
const CHUNK: usize = 64 * 1024;
/// How often it is looked whether old files are removed, while they are.
const REMOVED_LOOK: Duration = Duration::from_millis(100);
/// How often old files are looked for.
const EXPIRE_EVERY: Duration = Duration::from_mins(10);

/// What the thread owns.
pub(super) struct Output {
    /// The first is the one that must have every record.
    sinks: Vec<Sink>,
    chain: Chain,
    key: Option<SigningKey>,
    every: CheckpointEvery,
    fold: Option<Fold>,
    /// What is about to be written.
    out: Vec<u8>,
    /// Records in `out`.
    held: u64,
    /// The number of the record after the last checkpoint.
    checked: u64,
    checked_at: Instant,
    expired_at: Option<Instant>,
    /// Until when further records are collected, after some were taken.
    collect_until: Option<Instant>,
    /// Lost records that are on record.
    told: u64,
}

struct Sink {
    name: &'static str,
    to: To,
    failing: bool,
}

enum To {
    File(FileSink),
    Other(Box<dyn Write + Send>),
}

impl Output {
    pub(super) fn open(settings: &Settings, disk: Box<dyn Disk>) -> io::Result<Self> {
        let mut sinks = Vec::new();
        let mut tail = Tail::default();
        if let Some(path) = &settings.file {
            let (file, found) = FileSink::open(path, settings.rotation, disk)?;
            tail = found;
            sinks.push(Sink::new("file", To::File(file)));
        }
        if settings.stdout || (settings.file.is_none() && settings.syslog.is_none()) {
            sinks.push(Sink::new("stdout", To::Other(Box::new(io::stdout()))));
        }
        if let Some(address) = &settings.syslog {
            let syslog = Box::new(Syslog::new(address.clone()));
            sinks.push(Sink::new("syslog", To::Other(syslog)));
        }
        let key = match &settings.key {
            Some(path) => Some(SigningKey::open(path).map_err(|error| {
                let message = format!("the key_file {}: {error}", path.display());
                io::Error::new(error.kind(), message)
            })?),
            None => None,
        };
        let fold = settings
            .fold
            .map(|window| Fold::new(u64::try_from(window.as_millis()).unwrap_or(u64::MAX)));
        Ok(Self { key, fold, every: settings.checkpoint, ..Self::after(sinks, &tail) })
    }

    pub(super) fn to(sink: Box<dyn Write + Send>) -> Self {
        Self::after(vec![Sink::new("sink", To::Other(sink))], &Tail::default())
    }

    /// Goes on after what is there already, which the first record says.
    fn after(sinks: Vec<Sink>, tail: &Tail) -> Self {
        let (seq, last) = tail.last.unwrap_or_default();
        let mut chain = Chain::after(seq, last);
        let mut out = Vec::with_capacity(2 * CHUNK);
        let after = match tail {
            Tail { last: None, torn, .. } if torn.is_empty() => "nothing",
            Tail { ended: true, torn, .. } if torn.is_empty() => "end",
            _ => "crash",
        };
        chain.note(AuditEvent::Open, &mut out, |line| {
            line.text("previous", &chain::hex(&last));
            line.text("after", after);
            if !tail.torn.is_empty() {
                let torn = tail.torn.strip_suffix(b"\n").unwrap_or(&tail.torn);
                line.number("torn_bytes", u64::try_from(torn.len()).unwrap_or(u64::MAX));
                line.fingerprint("torn", Some(chain::fingerprint(torn)));
            }
        });
        Self {
            sinks,
            chain,
            key: None,
            every: CheckpointEvery::default(),
            fold: None,
            out,
            held: 1,
            checked: seq.saturating_add(1),
            checked_at: Instant::now(),
            expired_at: None,
            collect_until: None,
            told: 0,
        }
    }

    /// Writes until the audit log is closed and everything is written.
    pub(super) fn run(mut self, shared: &Shared) {
        let mut batch = Vec::with_capacity(shared.capacity);
        // That the audit log was opened is on record whether anything follows or not.
        self.deliver(shared);
        loop {
            let (lost, closed) = self.wait(shared, &mut batch);
            self.collect_until =
                if batch.is_empty() { None } else { Instant::now().checked_add(COLLECT) };
            self.rotate(shared);
            for line in batch.split_inclusive(|byte| *byte == b'\n') {
                self.take(line.strip_suffix(b"\n").unwrap_or(line), shared);
            }
            let end = closed && batch.is_empty();
            batch.clear();
            self.close_windows(closed, shared);
            if lost > self.told {
                let since = lost - self.told;
                warn!(lost = since, "records are missing from the audit log: its queue was full");
                self.note(AuditEvent::Gap, |line| line.number("lost", since));
                self.told = lost;
            }
            if end {
                self.settle();
            }
            self.checkpoint(end);
            self.deliver(shared);
            if end {
                // Dropping the file waits until everything in it is durable.
                return;
            }
        }
    }

    /// Waits for records, or for something else to do, and takes what is there. Says how many records
    /// were lost so far, and whether no more will come.
    ///
    /// After a pause the first record is taken at once. Those that follow it are collected, so that under
    /// load the thread wakes up once for many of them, and requests need not wake it at all.
    fn wait(&self, shared: &Shared, batch: &mut Vec<u8>) -> (u64, bool) {
        let mut waiting = shared.lock();
        if let Some(until) = self.collect_until {
            waiting.writer = WriterState::Collecting;
            while waiting.lines.len() < shared.plenty && !waiting.closed {
                let pause = until.saturating_duration_since(Instant::now());
                if pause.is_zero() {
                    break;
                }
                waiting = shared.sleep(waiting, Some(pause));
            }
        }
        let due = self.due();
        while waiting.lines.is_empty() && !waiting.closed {
            let pause = due.map(|at| at.saturating_duration_since(Instant::now()));
            if pause == Some(Duration::ZERO) {
                break;
            }
            waiting.writer = WriterState::Idle;
            waiting = shared.sleep(waiting, pause);
        }
        waiting.writer = WriterState::Writing;
        std::mem::swap(&mut waiting.lines, batch);
        (waiting.lost, waiting.closed)
    }

    /// When there is something to do without a record.
    fn due(&self) -> Option<Instant> {
        let unchecked = self.key.is_some() && self.chain.next() > self.checked;
        let checkpoint = unchecked.then(|| self.checked_at.checked_add(self.every.time)).flatten();
        let fold = self.fold.as_ref().map(Fold::due_ms).filter(|at| *at < u64::MAX);
        let fold = fold.and_then(|at| {
            Instant::now().checked_add(Duration::from_millis(at.saturating_sub(now_ms())))
        });
        let removed = self
            .sinks
            .first()
            .is_some_and(|sink| matches!(&sink.to, To::File(file) if file.is_expiring()));
        let removed = removed.then(|| Instant::now().checked_add(REMOVED_LOOK)).flatten();
        checkpoint.into_iter().chain(fold).chain(removed).min()
    }

    fn take(&mut self, line: &[u8], shared: &Shared) {
        if let Some(fold) = &mut self.fold
            && fold.takes(line, now_ms())
        {
            return;
        }
        self.chain.append(line, chain::up_ms(), &mut self.out);
        self.held += 1;
        if self.chain.next() - self.checked >= self.every.records {
            self.checkpoint(false);
        }
        if self.out.len() >= CHUNK {
            self.deliver(shared);
        }
    }

    fn close_windows(&mut self, all: bool, shared: &Shared) {
        let Some(mut fold) = self.fold.take() else { return };
        fold.close(now_ms(), all, |line| {
            self.chain.append(line, chain::up_ms(), &mut self.out);
            self.held += 1;
            if self.out.len() >= CHUNK {
                self.deliver(shared);
            }
        });
        self.fold = Some(fold);
    }

    fn note(&mut self, event: AuditEvent, members: impl FnOnce(&mut super::object::Object<'_>)) {
        self.chain.note(event, &mut self.out, members);
        self.held += 1;
    }

    /// Makes a checkpoint if it is time, or the end.
    fn checkpoint(&mut self, end: bool) {
        let Some(key) = &self.key else { return };
        let records = self.chain.next().saturating_sub(self.checked);
        let time = self.checked_at.elapsed() >= self.every.time || records >= self.every.records;
        if !end && (records == 0 || !time) {
            return;
        }
        self.chain.checkpoint(key, end, &mut self.out);
        self.held += 1;
        self.checked = self.chain.next();
        self.checked_at = Instant::now();
    }

    fn file(&mut self) -> Option<&mut FileSink> {
        match &mut self.sinks.first_mut()?.to {
            To::File(file) => Some(file),
            To::Other(_) => None,
        }
    }

    /// Begins a new file if it is time, and has those removed that are too old.
    fn rotate(&mut self, shared: &Shared) {
        let now = Timestamp::now();
        let due = self.file().is_some_and(|file| file.is_due(now));
        if due {
            if let Some(key) = &self.key {
                self.chain.checkpoint(key, false, &mut self.out);
                self.held += 1;
                self.checked = self.chain.next();
                self.checked_at = Instant::now();
            }
            self.deliver(shared);
            let last = self.chain.next() - 1;
            let previous = chain::hex(self.chain.last());
            match self.file().map_or(Ok(()), |file| file.rotate(last, now)) {
                Ok(()) => {
                    self.note(AuditEvent::ContinueFile, |line| line.text("previous", &previous));
                }
                Err(error) => {
                    error!(%error, "rotating the audit file failed: writing continues in the same file, which grows beyond its limit");
                }
            }
        }
        if due || self.expired_at.is_none_or(|at| at.elapsed() >= EXPIRE_EVERY) {
            self.expired_at = Some(Instant::now());
            if let Some(file) = self.file() {
                file.expire(now);
            }
        }
        self.note_removed();
    }

    /// Puts on record which files were removed.
    fn note_removed(&mut self) {
        let removed = self.file().map(|file| file.removed()).unwrap_or_default();
        for name in removed {
            info!(file = %name, "an old audit file is removed");
            self.note(AuditEvent::Expire, |line| line.foreign("file", name.as_bytes()));
        }
    }

    /// Waits for what is still to be put on record.
    fn settle(&mut self) {
        if let Some(file) = self.file() {
            file.settle();
        }
        self.note_removed();
    }

    /// Writes what is held to every sink.
    fn deliver(&mut self, shared: &Shared) {
        for (number, sink) in self.sinks.iter_mut().enumerate() {
            sink.write_out(&self.out, number == 0, shared);
        }
        self.out.clear();
        shared.written.fetch_add(self.held, Ordering::Relaxed);
        self.held = 0;
    }
}

impl Sink {
    fn new(name: &'static str, to: To) -> Self {
        Self { name, to, failing: false }
    }

    /// Writes all of it, trying again while the sink fails: what was allowed stays provable. Gives up when
    /// the agent ends meanwhile, and for a sink beside the first where losses are counted: its numbers
    /// then show what it has not.
    fn write_out(&mut self, mut rest: &[u8], is_first: bool, shared: &Shared) {
        let name = self.name;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    if std::mem::take(&mut self.failing) {
                        shared.broken.store(false, Ordering::Release);
                        info!(sink = name, "the audit log is written again");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let counts = shared.when_full == WhenFull::Count;
                    if !std::mem::replace(&mut self.failing, true) {
                        let until =
                            if counts { "records may be lost" } else { "requests are denied" };
                        error!(sink = name, %error, "writing the audit log failed: {until} until it works again");
                    }
                    if counts && !is_first {
                        return;
                    }
                    shared.broken.store(true, Ordering::Release);
                    if shared.lock().closed {
                        error!(sink = name, bytes = rest.len(), %error, "the agent ended while the audit log could not be written: its last records are lost");
                        return;
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let to: &mut dyn Write = match &mut self.to {
            To::File(file) => file,
            To::Other(other) => other,
        };
        match to.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => to.flush().map(|()| n),
        }
    }
}

fn now_ms() -> u64 {
    Timestamp::now().as_millis()
}
