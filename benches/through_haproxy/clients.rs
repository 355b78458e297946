//! The load: clients that keep their connections, and repeat nine of ten requests.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Mutex,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token};

use super::{RATE, RUN, cpu, gates::Gate};

/// How many connections clients keep: `CONNECTIONS`, or 48.
pub fn connections() -> u32 {
    std::env::var("CONNECTIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(48)
}

/// Before anything counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// So many requests of a connection are the same, then there is another cookie.
const SAME: u64 = 10;

/// What a gate did.
#[derive(Default)]
pub struct Sample {
    pub rate: f64,
    pub haproxy: f64,
    pub agent: f64,
    pub p50: f64,
    pub p99: f64,
}

/// Two requests that differ in a cookie.
pub struct Requests([Vec<u8>; 2]);

impl Requests {
    pub fn new(host: &str, token: &str) -> Self {
        let of = |theme: u8| {
            let cookies = "theme=dark; ".repeat(9);
            format!(
                "GET /some/where/in/the/workspace.html HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\n\
                 Cookie: {cookies}theme={theme}\r\nAuthorization: Bearer {token}\r\n\r\n"
            )
            .into_bytes()
        };
        Self([of(0), of(1)])
    }

    fn nth(&self, number: u64) -> &[u8] {
        &self.0[usize::from(number / SAME % 2 == 1)]
    }
}

/// The status of an answer, once it is there.
fn status(read: &[u8]) -> Option<[u8; 3]> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")?;
    // Every answer here has a body of two or three bytes, most of them in the same write.
    let whole = !read.starts_with(b"HTTP/1.1 200") || read.len() >= end + 6;
    whole.then(|| read[9..12].try_into().unwrap())
}

/// A keep-alive connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 4096] }
    }

    /// One request; returns its status.
    fn get(&mut self, request: &[u8]) -> [u8; 3] {
        self.stream.write_all(request).unwrap();
        let mut read = 0;
        loop {
            let n = self.stream.read(&mut self.buffer[read..]).unwrap();
            assert_ne!(n, 0, "HAProxy closed");
            read += n;
            if let Some(status) = status(&self.buffer[..read]) {
                return status;
            }
        }
    }
}

pub fn measure(gate: &Gate, requests: &Requests) -> Sample {
    let mut sample = full_load(gate, requests);
    let mut latencies = fixed_rate(gate, requests);
    latencies.sort_unstable();
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_secs_f64() * 1e6;
    (sample.p50, sample.p99) = (at(50), at(99));
    sample
}

/// A connection of many in one thread.
struct Busy {
    stream: mio::net::TcpStream,
    read: usize,
    number: u64,
}

/// As much as HAProxy answers: one thread of clients that costs little compared with it.
fn full_load(gate: &Gate, requests: &Requests) -> Sample {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(64);
    let mut clients = Vec::new();
    for index in 0..connections() as usize {
        let stream = TcpStream::connect(gate.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE).unwrap();
        stream.write_all(requests.nth(0)).unwrap();
        clients.push(Busy { stream, read: 0, number: 0 });
    }
    let spent = || (cpu(gate.pid), gate.agent.map(cpu).unwrap_or_default());
    let (start, mut answered, mut buffer) = (Instant::now(), 0_u64, vec![0; 4096]);
    let mut began: Option<(_, u64, Instant)> = None;
    loop {
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert!(!events.is_empty(), "{} does not answer", gate.variant);
        for event in &events {
            answered += u64::from(clients[event.token().0].goes_on(requests, &mut buffer));
        }
        match began {
            None if start.elapsed() > WARM_UP => began = Some((spent(), answered, Instant::now())),
            Some((before, first, began)) if began.elapsed() > RUN => {
                let (after, wall, count) = (spent(), began.elapsed(), (answered - first) as f64);
                return Sample {
                    rate: count / wall.as_secs_f64(),
                    haproxy: after.0.saturating_sub(before.0).as_secs_f64() * 1e6 / count,
                    agent: after.1.saturating_sub(before.1).as_secs_f64() * 1e6 / count,
                    ..Sample::default()
                };
            }
            _ => {}
        }
    }
}

impl Busy {
    /// Reads what is there; after a whole answer sends the next request. Returns whether there was one.
    fn goes_on(&mut self, requests: &Requests, buffer: &mut [u8]) -> bool {
        // Answers fit one read, unless HAProxy writes head and body by themselves.
        let read = match self.stream.read(buffer) {
            Ok(0) => panic!("HAProxy closed"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        };
        let text = &buffer[..read];
        if self.read == 0 {
            assert!(text.starts_with(b"HTTP/1.1 200"), "{}", text.escape_ascii());
        }
        self.read += read;
        // The body is "ok", in the one case with a line break.
        if !(text.ends_with(b"ok") || text.ends_with(b"ok\n")) {
            return false;
        }
        (self.read, self.number) = (0, self.number + 1);
        self.stream.write_all(requests.nth(self.number)).unwrap();
        true
    }
}

/// Requests on a schedule. A request that its connection could not send when it was due counts from
/// when it was due.
fn fixed_rate(gate: &Gate, requests: &Requests) -> Vec<Duration> {
    let all = Mutex::new(Vec::new());
    let connections = connections();
    let interval = Duration::from_secs(1) * connections / RATE;
    let start = Instant::now() + Duration::from_millis(50);
    std::thread::scope(|scope| {
        for index in 0..connections {
            let all = &all;
            scope.spawn(move || {
                let mut client = Client::connect(gate.address);
                let mut latencies = Vec::new();
                let mut due = start + interval * index / connections;
                let mut number = 0;
                while due < start + RUN {
                    let late = due.checked_duration_since(Instant::now());
                    if let Some(early) = late {
                        std::thread::sleep(early);
                    }
                    let since = if late.is_some() { Instant::now() } else { due };
                    assert_eq!(client.get(requests.nth(number)), *b"200");
                    latencies.push(since.elapsed());
                    due += interval;
                    number += 1;
                }
                all.lock().unwrap().extend(latencies);
            });
        }
    });
    all.into_inner().unwrap()
}

/// The keys may still be on their way: only an allow is worth measuring.
pub fn wait_until_allowed(gate: &Gate, requests: &Requests) {
    let start = Instant::now();
    while Client::connect(gate.address).get(requests.nth(0)) != *b"200" {
        assert!(start.elapsed() < Duration::from_secs(20), "{} does not allow", gate.variant);
        std::thread::sleep(Duration::from_millis(20));
    }
}
