//! The record of each decision: who, which workspace, what verdict and why.
//!
//! Records are one JSON object a line. They go into a bounded buffer that one thread writes out; when
//! the buffer is full or the last write failed, [`Trail::keep`] says so, and the caller refuses the
//! request: nothing is allowed that is not on record. No token, cookie or header value but the host is
//! ever part of one.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tracing::{error, info};

use crate::{
    clock::Timestamp,
    decision::{Decision, variables::DecisionId},
    identity::{Identity, revocation::Revocation},
    request::Request,
    workspace::EndpointName,
};

mod object;
pub mod tunnel;

use object::Object;

/// How long records may wait for others before they are written together.
const COLLECT: Duration = Duration::from_millis(2);
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_millis(50);

/// One decision, borrowed from what it was made of.
pub struct Record<'a> {
    time_ms: u64,
    decision_id: &'a str,
    unique_id: &'a [u8],
    verdict: &'static str,
    reason: &'static str,
    user: Option<&'a str>,
    subject: Option<&'a str>,
    issuer: Option<&'a str>,
    workspace: Option<&'a str>,
    owner: Option<&'a str>,
    endpoint: Option<&'a EndpointName>,
    host: &'a [u8],
    method: &'a [u8],
    client: Option<IpAddr>,
}

/// What an administrator did.
pub struct AdminAct<'a> {
    /// When.
    pub time: Timestamp,
    /// `revoke` or `lift`.
    pub act: &'static str,
    /// The user id at the other end of the socket.
    pub uid: Option<u32>,
    /// What was revoked, or is no longer.
    pub revocation: &'a Revocation,
}

/// What a writer of the administrator's API did to a workspace.
pub struct WorkspaceAct<'a> {
    /// When.
    pub time: Timestamp,
    /// `put_workspace` or `delete_workspace`.
    pub act: &'static str,
    /// The user id at the other end of the socket.
    pub uid: Option<u32>,
    /// The name of the source.
    pub source: &'a str,
    /// The workspace.
    pub workspace: &'a str,
    /// The number of this version; zero where the writer gave none.
    pub revision: u64,
}

/// What happened to a person's session.
#[derive(Default)]
pub struct SessionAct<'a> {
    /// When.
    pub time: Timestamp,
    /// `sign_in`, `sign_in_denied`, `session_host`, `sign_out` or `back_channel_logout`.
    pub act: &'static str,
    /// Who, if it is about one person.
    pub identity: Option<&'a Identity>,
    /// The workspace's host, if it is about one.
    pub host: Option<&'a str>,
    /// Why it was denied.
    pub reason: Option<&'a str>,
    /// The id of the decision that denied it, which the person was told.
    pub decision_id: Option<&'a str>,
    /// How many sessions ended.
    pub sessions: Option<usize>,
    /// The user id at the other end of the admin socket, if an administrator did it.
    pub uid: Option<u32>,
}

/// One line of the trail.
pub trait Entry {
    /// Appends the line, its end included.
    fn write(&self, out: &mut Vec<u8>);
}

/// Where records go.
pub struct Trail(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    broken: AtomicBool,
    lost: AtomicU64,
    capacity: usize,
}

struct Waiting {
    lines: Vec<u8>,
    /// No more records will come.
    closed: bool,
}

/// The writing thread; ends when the [`Trail`] is gone and everything is written.
pub struct Writer(JoinHandle<()>);

/// A record could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept;

impl<'a> Record<'a> {
    /// The record of a decision.
    #[must_use]
    pub fn new(
        decision: &'a Decision,
        request: &Request<'a>,
        id: &'a DecisionId,
        time: Timestamp,
    ) -> Self {
        let identity = decision.identity.as_deref();
        let workspace = decision.workspace.as_deref();
        Self {
            time_ms: time.as_millis(),
            decision_id: id,
            unique_id: request.unique_id.unwrap_or_default(),
            verdict: decision.verdict().id(),
            reason: decision.reason.id(),
            user: identity.map(Identity::label),
            subject: identity.map(|i| &*i.subject),
            issuer: identity.map(|i| &*i.issuer),
            workspace: workspace.map(|w| w.id.as_str()),
            owner: decision.owner.as_deref(),
            endpoint: decision.endpoint.as_ref(),
            host: request.host.unwrap_or_default(),
            method: request.method.unwrap_or_default(),
            client: request.client,
        }
    }
}

impl Entry for Record<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time_ms);
        line.text("decision_id", self.decision_id);
        line.foreign("unique_id", self.unique_id);
        line.text("verdict", self.verdict);
        line.text("reason", self.reason);
        line.optional("user", self.user);
        line.optional("subject", self.subject);
        line.optional("issuer", self.issuer);
        line.optional("workspace", self.workspace);
        line.optional("owner", self.owner);
        line.displayed("endpoint", self.endpoint);
        line.foreign("host", self.host);
        line.foreign("method", self.method);
        line.displayed("client", self.client);
        line.end();
    }
}

impl Entry for AdminAct<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.text("act", self.act);
        line.displayed("uid", self.uid);
        line.text("issuer", &self.revocation.issuer);
        line.optional("subject", self.revocation.subject.as_deref());
        line.displayed("before_ms", self.revocation.before_ms);
        line.optional("session", self.revocation.session.as_deref());
        line.optional("token_id", self.revocation.token.as_deref());
        line.optional("note", self.revocation.note.as_deref());
        line.end();
    }
}

impl Entry for WorkspaceAct<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.text("act", self.act);
        line.displayed("uid", self.uid);
        line.text("source", self.source);
        line.text("workspace", self.workspace);
        line.number("revision", self.revision);
        line.end();
    }
}

impl Entry for SessionAct<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.text("act", self.act);
        line.optional("user", self.identity.map(Identity::label));
        line.optional("subject", self.identity.map(|identity| &*identity.subject));
        line.optional("issuer", self.identity.map(|identity| &*identity.issuer));
        line.optional("host", self.host);
        line.optional("reason", self.reason);
        line.optional("decision_id", self.decision_id);
        line.displayed("sessions", self.sessions);
        line.displayed("uid", self.uid);
        line.end();
    }
}

impl Trail {
    /// Opens the trail: a file that is appended to, or standard output. `capacity` is how many bytes
    /// of records may wait to be written.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not started.
    pub fn open(file: Option<&Path>, capacity: usize) -> io::Result<(Self, Writer)> {
        let sink: Box<dyn Write + Send> = match file {
            Some(path) => Box::new(OpenOptions::new().append(true).create(true).open(path)?),
            None => Box::new(io::stdout()),
        };
        Self::to(sink, capacity)
    }

    /// A trail into any sink.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to(sink: Box<dyn Write + Send>, capacity: usize) -> io::Result<(Self, Writer)> {
        let waiting = Waiting { lines: Vec::with_capacity(capacity), closed: false };
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            wake: Condvar::new(),
            broken: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            capacity,
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || of_thread.write(sink))?;
        Ok((Self(shared), Writer(thread)))
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// There is no room, the last write failed, or the trail is closed: what the record would allow must be refused. The
    /// record waits to be written all the same where there is room and the trail is open.
    pub fn keep(&self, record: &impl Entry) -> Result<(), NotKept> {
        let shared = &*self.0;
        let mut waiting = shared.lock();
        if waiting.closed {
            return Err(NotKept);
        }
        let start = waiting.lines.len();
        record.write(&mut waiting.lines);
        if waiting.lines.len() > shared.capacity {
            waiting.lines.truncate(start);
            drop(waiting);
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return Err(NotKept);
        }
        drop(waiting);
        if start == 0 {
            // The writer waits only for an empty buffer to fill: one wake-up serves many records.
            shared.wake.notify_one();
        }
        if shared.broken.load(Ordering::Acquire) { Err(NotKept) } else { Ok(()) }
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
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.close();
    }
}

impl Writer {
    /// Waits until everything is written. Call it after [`Trail::close`], or after the trail is dropped.
    pub fn finish(self) {
        if self.0.join().is_err() {
            error!("the audit thread ended in a panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while a record was written leaves half a line, which the next newline ends.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut sink: Box<dyn Write + Send>) {
        let mut batch = Vec::with_capacity(self.capacity);
        loop {
            let mut waiting = self.lock();
            while waiting.lines.is_empty() {
                if waiting.closed {
                    return;
                }
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if !waiting.closed {
                drop(waiting);
                std::thread::sleep(COLLECT);
                waiting = self.lock();
            }
            std::mem::swap(&mut waiting.lines, &mut batch);
            drop(waiting);
            self.write_out(&mut sink, &batch);
            batch.clear();
        }
    }

    /// Writes all of it, trying again while the sink fails: what was allowed stays provable. Gives up
    /// only when the agent ends meanwhile.
    fn write_out(&self, sink: &mut dyn Write, mut rest: &[u8]) {
        while !rest.is_empty() {
            let written = match sink.write(rest) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other.and_then(|n| sink.flush().map(|()| n)),
            };
            match written {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    if self.broken.swap(false, Ordering::AcqRel) {
                        info!("the audit trail is written again");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !self.broken.swap(true, Ordering::AcqRel) {
                        error!(%error, "the audit trail cannot be written: denying until it can");
                    }
                    if self.lock().closed {
                        error!(bytes = rest.len(), %error, "the end of the audit trail is lost");
                        return;
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::decision::Reason;

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
        let (trail, writer) = Trail::to(Box::new(Slow(gate, sink)), 2000).unwrap();
        let decision = Decision::refuse(Reason::HostMissing);
        let host = [0xff; 5000];
        let request = Request { host: Some(&host), ..Request::default() };
        let (mut kept, mut refused) = (0, 0);
        while refused < 3 {
            let id = DecisionId::from("0-0-0").unwrap();
            let record = Record::new(&decision, &request, &id, Timestamp::default());
            match trail.keep(&record) {
                Ok(()) => kept += 1,
                Err(NotKept) => refused += 1,
            }
        }
        assert_eq!(trail.lost(), 3);
        drop(trail);
        drop((0..100).map(|_| go.send(())).collect::<Vec<_>>());
        writer.finish();
        let all: Vec<u8> = written.iter().flatten().collect();
        let lines: Vec<_> = all.split_inclusive(|b| *b == b'\n').collect();
        assert_eq!(lines.len(), kept);
        for line in lines {
            assert!(line.len() < 8192);
            let record: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(record["reason"], "host_missing");
        }
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
        let (trail, writer) = Trail::to(Box::new(Flaky(Arc::clone(&fails))), 1 << 20).unwrap();
        let decision = Decision::refuse(Reason::Public);
        let keep = || {
            std::thread::sleep(Duration::from_millis(1));
            let id = DecisionId::new();
            trail.keep(&Record::new(&decision, &Request::default(), &id, Timestamp::default()))
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while keep().is_ok() {
            assert!(std::time::Instant::now() < deadline, "the failure is not told");
        }
        fails.store(false, Ordering::Release);
        while keep().is_err() {
            assert!(std::time::Instant::now() < deadline, "the recovery is not told");
        }
        drop(trail);
        writer.finish();
    }
}
