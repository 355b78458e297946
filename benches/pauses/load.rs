//! A constant load over a unix socket, and how long each answer took.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use identity_spoa::spop::{Value, client, frame::DEFAULT_SIZE};

use crate::frames::Frames;

const CONNECTIONS: usize = 4;
pub const HOST: &str = "pinkpanda-demo-ns35kd21abc.ws.bench.test";

/// How a rate is made of batches.
#[derive(Clone, Copy)]
pub struct Shape {
    batch: usize,
    period: Duration,
}

impl Shape {
    /// A batch of 20 at a time, or single requests where they are few.
    pub fn at_rate(rate: u32) -> Self {
        let batch: u32 = if rate >= 2000 { 20 } else { 1 };
        Self { batch: batch as usize, period: Duration::from_secs(1) * batch / rate }
    }
}

/// A NOTIFY of about the size that browsers make.
pub fn notify(host: &str, token: Option<&str>, more: &[client::Arg<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let bearer = token.map(|token| format!("Bearer {token}"));
    let authorization = bearer.as_ref().map_or(Value::Null, |text| Value::Str(text.as_bytes()));
    let mut args: Vec<client::Arg<'_>> = vec![
        (b"unique_id", Value::Str(b"6dab2f21-b361-4d8a-bf7f-c4169c36d182")),
        (b"method", Value::Str(b"GET")),
        (b"host", Value::Str(host.as_bytes())),
        (b"hosts", Value::Int64(1)),
        (b"path", Value::Str(b"/some/where/in/the/workspace.html")),
        (b"authorization", authorization),
        (b"authorizations", Value::Int64(i64::from(token.is_some()))),
        (b"certificate", Value::Null),
        (b"certificate_result", Value::Null),
    ];
    // These arguments replace the usual ones.
    for usual in
        [(&b"cookies"[..], Value::Int64(0)), (&b"client"[..], Value::Ipv4([127, 0, 0, 1].into()))]
    {
        if more.iter().all(|(name, _)| *name != usual.0) {
            args.push(usual);
        }
    }
    args.extend_from_slice(more);
    client::notify(&mut bytes, (1, 1), DEFAULT_SIZE, &[(b"authorize", &args)]).unwrap();
    bytes
}

/// A connection after its greeting.
fn connect(socket: &Path) -> (UnixStream, Frames) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut hello = Vec::new();
    client::hello(&mut hello, DEFAULT_SIZE, "pipelining", false);
    stream.write_all(&hello).unwrap();
    let mut frames = Frames::default();
    frames.read(&mut stream, 1, |_| {});
    (stream, frames)
}

/// Asks a few at once on a connection of their own; returns the reasons.
pub fn ask(socket: &Path, notifies: &[Vec<u8>]) -> Vec<String> {
    let (mut stream, mut frames) = connect(socket);
    stream.write_all(&notifies.concat()).unwrap();
    let mut reasons = Vec::new();
    frames.read(&mut stream, notifies.len(), |frame| reasons.push(reason(frame)));
    reasons
}

/// Asks the admin API; returns the whole response.
pub fn call(socket: &Path, what: &str, body: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    answer
}

/// The value of the variable `reason` of an ACK: a short string.
fn reason(frame: &[u8]) -> String {
    let name = b"\x06reason\x08";
    let at = memchr::memmem::find(frame, name).map_or(frame.len(), |at| at + name.len());
    let text = frame.get(at).and_then(|length| frame.get(at + 1..at + 1 + usize::from(*length)));
    String::from_utf8_lossy(text.unwrap_or(b"?")).into_owned()
}

/// What was seen in a window: how many answers took how many tenths of a millisecond, and refusals by reason.
#[derive(Default)]
pub struct Seen {
    tenths: BTreeMap<u64, u64>,
    refused: BTreeMap<String, u64>,
}

impl Seen {
    pub fn count(&self) -> u64 {
        self.tenths.values().sum()
    }

    /// In milliseconds.
    pub fn quantile(&self, part: f64) -> f64 {
        let most = self.count() as f64 * part;
        let mut sum = 0;
        for (tenths, count) in &self.tenths {
            sum += count;
            if sum as f64 >= most {
                return *tenths as f64 / 10.0;
            }
        }
        0.0
    }

    pub fn worst(&self) -> f64 {
        self.quantile(1.0)
    }

    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    pub fn refusals(&self) -> String {
        if self.refused.is_empty() {
            return "0".into();
        }
        let all = self.refused.iter().map(|(reason, count)| format!("{count} {reason}"));
        all.collect::<Vec<_>>().join(", ")
    }
}

pub struct Load {
    seen: Arc<Mutex<Seen>>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(socket: &Path, notify: &[u8], shape: Shape) -> Self {
        let (seen, answered, stop) = (Arc::default(), Arc::default(), Arc::default());
        let mut this = Self { seen, answered, stop, threads: Vec::new() };
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            let (stream, frames) = connect(socket);
            let (due, dues) = mpsc::channel();
            senders.push((stream.try_clone().unwrap(), due));
            let (seen, answered) = (Arc::clone(&this.seen), Arc::clone(&this.answered));
            let batch = shape.batch;
            this.threads.push(std::thread::spawn(move || {
                receive(stream, frames, &dues, batch, (&seen, &answered));
            }));
        }
        let (stop, batch) = (Arc::clone(&this.stop), notify.repeat(shape.batch));
        this.threads.push(std::thread::spawn(move || send(senders, &batch, shape.period, &stop)));
        this
    }

    /// Forgets what was seen before.
    pub fn begin(&self) {
        *self.seen.lock().unwrap() = Seen::default();
    }

    pub fn end(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Sends each batch when it is due, or as soon as the socket takes it.
fn send(
    mut connections: Vec<(UnixStream, mpsc::Sender<Instant>)>,
    batch: &[u8],
    period: Duration,
    stop: &AtomicBool,
) {
    let mut due = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        due += period;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (stream, dues) = &mut connections[number % CONNECTIONS];
        dues.send(due).unwrap();
        stream.write_all(batch).unwrap();
    }
}

fn receive(
    mut stream: UnixStream,
    mut frames: Frames,
    dues: &mpsc::Receiver<Instant>,
    batch: usize,
    (seen, answered): (&Mutex<Seen>, &AtomicU64),
) {
    // Responses come in the order of the NOTIFY frames.
    for due in dues {
        let mut refused = Vec::new();
        frames.read(&mut stream, batch, |frame| {
            if memchr::memmem::find(frame, b"\x06reason\x08\x05owner").is_none() {
                refused.push(reason(frame));
            }
        });
        let tenths = u64::try_from(due.elapsed().as_micros() / 100).unwrap();
        let mut seen = seen.lock().unwrap();
        *seen.tenths.entry(tenths).or_default() += batch as u64;
        for reason in refused {
            *seen.refused.entry(reason).or_default() += 1;
        }
        answered.fetch_add(batch as u64, Ordering::Relaxed);
    }
}
