//! The record of each decision: who, which workspace, what verdict and why.
//!
//! Records go through a bounded queue to one writing thread, one JSON object a line. When the queue
//! is full or the last write failed, [`Trail::keep`] says so, and the caller refuses the request:
//! nothing is allowed that is not on record. No token, cookie or header value is ever part of one.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, Write},
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use arrayvec::ArrayString;
use serde::{Serialize, Serializer};
use tracing::{error, info};

use crate::{
    clock::Timestamp,
    decision::{Decision, Reason, variables::DecisionId},
    identity::Identity,
    request::Request,
    workspace::{EndpointName, Workspace},
};

/// The longest text of a stranger that a record keeps, in bytes after escaping.
const MAX_FOREIGN: usize = 255;

/// The bytes that are written at once, but for the last line.
const BATCH: usize = 64 * 1024;
/// How long a record may wait for others before they are written together.
const COLLECT: Duration = Duration::from_millis(2);
/// More than the longest line, in bytes.
const MAX_LINE: usize = 8 * 1024;

/// One decision, without allocation: what is shared is counted, what is foreign is cut and escaped.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was made.
    pub time: Timestamp,
    /// The id that HAProxy logs too.
    pub decision_id: DecisionId,
    /// HAProxy's id of the request.
    pub unique_id: ArrayString<128>,
    /// Why.
    pub reason: Reason,
    /// Who asked.
    pub identity: Option<Arc<Identity>>,
    /// For which workspace.
    pub workspace: Option<Arc<Workspace>>,
    /// For which of its endpoints.
    pub endpoint: Option<EndpointName>,
    /// The host as sent.
    pub host: ArrayString<MAX_FOREIGN>,
    /// The method as sent.
    pub method: ArrayString<32>,
    /// The client's address.
    pub client: Option<IpAddr>,
}

#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    decision_id: &'a str,
    unique_id: &'a str,
    verdict: &'a str,
    reason: &'a str,
    user: Option<&'a str>,
    subject: Option<&'a str>,
    issuer: Option<&'a str>,
    workspace: Option<&'a str>,
    owner: Option<&'a str>,
    endpoint: Option<Displayed<'a>>,
    host: &'a str,
    method: &'a str,
    client: Option<IpAddr>,
}

/// Where records go.
pub struct Trail {
    queue: SyncSender<Record>,
    broken: Arc<AtomicBool>,
    lost: AtomicU64,
}

/// The writing thread; ends when the [`Trail`] is gone and everything is written.
pub struct Writer(JoinHandle<()>);

/// A record could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept;

impl Record {
    /// The record of a decision.
    #[must_use]
    pub fn new(
        decision: &Decision,
        request: &Request<'_>,
        id: DecisionId,
        time: Timestamp,
    ) -> Self {
        Self {
            time,
            decision_id: id,
            unique_id: foreign(request.unique_id),
            reason: decision.reason,
            identity: decision.identity.clone(),
            workspace: decision.workspace.clone(),
            endpoint: decision.endpoint.clone(),
            host: foreign(request.host),
            method: foreign(request.method),
            client: request.client,
        }
    }

    /// The record as one line of JSON, with its newline.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        let identity = self.identity.as_deref();
        let workspace = self.workspace.as_deref();
        let line = Line {
            time_ms: self.time.as_millis(),
            decision_id: &self.decision_id,
            unique_id: &self.unique_id,
            verdict: self.reason.verdict().id(),
            reason: self.reason.id(),
            user: identity.map(Identity::label),
            subject: identity.map(|i| &*i.subject),
            issuer: identity.map(|i| i.issuer.issuer.as_str()),
            workspace: workspace.map(|w| w.id.as_str()),
            owner: workspace.map(|w| &*w.owner_label),
            endpoint: self.endpoint.as_ref().map(Displayed),
            host: &self.host,
            method: &self.method,
            client: self.client,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")
    }
}

impl Trail {
    /// Opens the trail: a file that is appended to, or standard output.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not started.
    pub fn open(file: Option<&Path>, queue: usize) -> io::Result<(Self, Writer)> {
        let sink: Box<dyn Write + Send> = match file {
            Some(path) => Box::new(OpenOptions::new().append(true).create(true).open(path)?),
            None => Box::new(io::stdout()),
        };
        Self::to(sink, queue)
    }

    /// A trail into any sink.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to(sink: Box<dyn Write + Send>, queue: usize) -> io::Result<(Self, Writer)> {
        let (sender, receiver) = sync_channel(queue);
        let broken = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&broken);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write(sink, &receiver, &mark))?;
        Ok((Self { queue: sender, broken, lost: AtomicU64::new(0) }, Writer(thread)))
    }

    /// Puts a record into the queue.
    ///
    /// # Errors
    /// The queue is full, or the last write failed: what the record would allow must be refused.
    /// The record is in the queue all the same where there was room.
    pub fn keep(&self, record: Record) -> Result<(), NotKept> {
        if self.queue.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err(NotKept);
        }
        if self.broken.load(Ordering::Acquire) { Err(NotKept) } else { Ok(()) }
    }

    /// How many records found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Waits until everything is written. Call it after the last [`Trail`] is dropped.
    pub fn finish(self) {
        if self.0.join().is_err() {
            error!("the audit thread ended in a panic");
        }
    }
}

fn write(mut sink: Box<dyn Write + Send>, queue: &Receiver<Record>, broken: &AtomicBool) {
    let mut batch = Vec::with_capacity(BATCH + MAX_LINE);
    while let Ok(first) = queue.recv() {
        // While this thread does not wait for a record, nobody has to wake it.
        std::thread::sleep(COLLECT);
        let mut next = Some(first);
        while let Some(record) = next {
            batch.clear();
            next = collect(record, queue, &mut batch);
            let written = sink.write_all(&batch).and_then(|()| sink.flush());
            let failed = written.is_err();
            if failed != broken.swap(failed, Ordering::AcqRel) {
                match written {
                    Ok(()) => info!("the audit trail is written again"),
                    Err(error) => error!(%error, "the audit trail cannot be written: denying"),
                }
            }
        }
    }
}

/// Puts records into the batch until it is full or there are no more; returns the one that found it
/// full.
fn collect(first: Record, queue: &Receiver<Record>, batch: &mut Vec<u8>) -> Option<Record> {
    let mut next = Some(first);
    while let Some(record) = next.take_if(|_| batch.len() < BATCH) {
        // Into memory: only serialisation could fail, and these types cannot.
        let _ = record.write_to(&mut *batch);
        next = queue.try_recv().ok();
    }
    next
}

/// Serialised as it is displayed, without a string in between.
struct Displayed<'a>(&'a EndpointName);

impl Serialize for Displayed<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self.0)
    }
}

/// Bytes of a stranger as text: escaped, so that no line break, escape sequence or broken UTF-8 gets
/// into a record, and cut.
fn foreign<const N: usize>(bytes: Option<&[u8]>) -> ArrayString<N> {
    let bytes = bytes.unwrap_or_default();
    let plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'\\' | b'"' | b'\'');
    // Nearly always there is nothing to escape, and formatting byte by byte costs more than the rest
    // of the record.
    if bytes.iter().all(plain)
        && let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(text) = ArrayString::from(text)
    {
        return text;
    }
    let mut text = ArrayString::new();
    for byte in bytes {
        if write!(text, "{}", byte.escape_ascii()).is_err() {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_what_strangers_send_is_escaped_and_cut() {
        let text = |bytes: &[u8]| foreign::<16>(Some(bytes)).to_string();
        assert_eq!(text(b"plain text"), "plain text");
        assert_eq!(text(b"a\r\nb"), "a\\r\\nb");
        assert_eq!(text(b"\x1b[31m"), "\\x1b[31m");
        assert_eq!(text(b"\xff\"\\"), "\\xff\\\"\\\\");
        assert_eq!(text(&[b'a'; 40]).len(), 16);
        assert_eq!(text("é".repeat(9).as_bytes()), "\\xc3\\xa9\\xc3\\xa9");
        assert_eq!(foreign::<16>(None).len(), 0);
    }
}
