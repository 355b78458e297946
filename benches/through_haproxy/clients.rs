//! The load: clients that keep their connections, and repeat nine of ten requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{RATE, RUN, cpu, gates::Gate};

pub const CONNECTIONS: u32 = 48;
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

/// As much as one thread of clients gets answered.
fn full_load(gate: &Gate, requests: &Requests) -> Sample {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    runtime.block_on(async {
        let client = || async {
            let mut stream = tokio::net::TcpStream::connect(gate.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buffer = vec![0; 4096];
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(requests.nth(number)).await.unwrap();
                let mut read = 0;
                let status = loop {
                    read += stream.read(&mut buffer[read..]).await.unwrap();
                    if let Some(status) = status(&buffer[..read]) {
                        break status;
                    }
                };
                assert_eq!(status, *b"200");
                answered.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
        };
        let clients = futures_util::future::join_all((0..CONNECTIONS).map(|_| client()));
        let watch = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let spent = || (cpu(gate.pid), gate.agent.map(cpu).unwrap_or_default());
            let (before, first, start) =
                (spent(), answered.load(Ordering::Relaxed), Instant::now());
            tokio::time::sleep(RUN).await;
            let (after, last, wall) = (spent(), answered.load(Ordering::Relaxed), start.elapsed());
            stop.store(true, Ordering::Relaxed);
            let count = (last - first) as f64;
            Sample {
                rate: count / wall.as_secs_f64(),
                haproxy: after.0.saturating_sub(before.0).as_secs_f64() * 1e6 / count,
                agent: after.1.saturating_sub(before.1).as_secs_f64() * 1e6 / count,
                ..Sample::default()
            }
        };
        tokio::join!(clients, watch).1
    })
}

/// Requests on a schedule. A request that its connection could not send when it was due counts from
/// when it was due.
fn fixed_rate(gate: &Gate, requests: &Requests) -> Vec<Duration> {
    let all = Mutex::new(Vec::new());
    let interval = Duration::from_secs(1) * CONNECTIONS / RATE;
    let start = Instant::now() + Duration::from_millis(50);
    std::thread::scope(|scope| {
        for index in 0..CONNECTIONS {
            let all = &all;
            scope.spawn(move || {
                let mut client = Client::connect(gate.address);
                let mut latencies = Vec::new();
                let mut due = start + interval * index / CONNECTIONS;
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
