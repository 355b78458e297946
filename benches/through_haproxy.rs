//! `make bench`: what the gate costs at HAProxy. One thread of HAProxy on the first core, the agent and
//! the clients on the second. CPU of HAProxy and of the agent a request at full load, and latency at a
//! fixed rate below it (a saturated server's latency is the length of its queue), against no SPOE at
//! all, HAProxy's own `jwt_verify`, an agent that answers a constant, and a naive one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    unreachable_pub,
    dead_code,
    reason = "a benchmark prints, and stops at the first surprise"
)]

#[path = "../tests/support/dev_idp/server.rs"]
mod dev_idp;

#[path = "throughput/rivals.rs"]
mod rivals;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const CONNECTIONS: u32 = 48;
const REPEATS: usize = 5;
const RUN: Duration = Duration::from_secs(1);
/// Requests a second at which latency is measured; all variants can do more.
const RATE: u32 = 4000;
const VERSIONS: [&str; 2] = ["2.6", "3.2"];
const VARIANTS: [&str; 5] = ["no SPOE", "jwt_verify", "floor", "naive", "ours"];
const HOST: &str = "pinkpanda-demo-ns35kd21abc.ws.bench.test";
const WORKSPACES: &str = "workspaces:\n  - { id: pinkpanda-demo-ns35kd21abc, owner: { subject: sub-alice }, phase: running, destination: 10.0.0.1:80 }\n";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--floor") => rivals::floor(Path::new(&args[2])),
        Some("--naive") => rivals::naive(Path::new(&args[2])),
        Some("--drive") => drive(Path::new(&args[2])),
        // cargo passes --bench.
        _ => stage(),
    }
}

/// Starts the provider and the agents, then the driver on the second core.
fn stage() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let idp = runtime.block_on(dev_idp::DevIdp::start());
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(
        at("agent.toml"),
        format!(
            "[agent]\nlisten = ['unix:ours.sock']\nsocket_mode = '0666'\nworkers = 1\n\
             [destinations]\nallow = ['127.0.0.0/8']\n[workspaces]\nfile = 'workspaces.yaml'\n[audit]\nfile = '/dev/null'\nbuffer_kib = 65536\n\
             [[host]]\npreset = 'gitpod'\ndomain = 'bench.test'\n\
             [[issuer]]\nname = 'dev'\nissuer = '{}'\naudience = 'workspaces'\n",
            idp.issuer()
        ),
    )
    .unwrap();
    fs::write(at("workspaces.yaml"), WORKSPACES).unwrap();
    fs::write(at("key.pem"), idp.rsa_pem()).unwrap();
    let request =
        dev_idp::TokenRequest { alg: "RS256".into(), expires_in: 3600, ..Default::default() };
    fs::write(at("token"), idp.token(&request)).unwrap();
    let this = std::env::current_exe().unwrap();
    let log = fs::File::create(at("agent.log")).unwrap();
    let mut ours = pinned(Path::new(env!("CARGO_BIN_EXE_identity-spoa")));
    ours.args(["run", "--config"]).arg(at("agent.toml")).stderr(log);
    let mut floor = pinned(&this);
    floor.arg("--floor").arg(directory.path());
    let mut naive = pinned(&this);
    naive.arg("--naive").arg(directory.path());
    let agents = [("ours", ours), ("floor", floor), ("naive", naive)].map(|(name, mut command)| {
        let child = Process(command.spawn().unwrap());
        fs::write(at(&format!("{name}.pid")), child.0.id().to_string()).unwrap();
        while UnixStream::connect(at(&format!("{name}.sock"))).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    });
    let driven = pinned(&this).arg("--drive").arg(directory.path()).status().unwrap();
    drop(agents);
    assert!(driven.success());
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command on the second core, where the machine can do that.
fn pinned(program: &Path) -> Command {
    if Command::new("taskset").args(["-c", "1", "true"]).status().is_ok_and(|s| s.success()) {
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// CPU of all threads of a process so far.
fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let spent = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(|task| spent(task.unwrap())).sum())
}

/// One HAProxy with one of the variants.
struct Gate {
    variant: &'static str,
    address: SocketAddr,
    pid: u32,
    agent: Option<u32>,
    name: String,
    child: Child,
}

impl Gate {
    fn start(version: &str, variant: &'static str, directory: &Path) -> Self {
        // HAProxy cannot tell which port the system chose.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let short = variant.replace(' ', "-");
        let rules = match variant {
            "no SPOE" => "http-request return status 200 content-type text/plain string ok".into(),
            "jwt_verify" => format!(
                "http-request set-var(txn.bearer) http_auth_bearer\n    \
                 http-request return status 200 content-type text/plain string ok if {{ var(txn.bearer),jwt_verify(\"RS256\",\"{}\") -m int 1 }}\n    \
                 http-request deny",
                directory.join("key.pem").display()
            ),
            _ => "filter spoe engine identity config identity.spoe.cfg\n    \
                  http-request send-spoe-group identity authorize\n    \
                  http-request return status 200 content-type text/plain string ok if { var(txn.identity.allow) -m bool }\n    \
                  http-request deny"
                .into(),
        };
        let socket = directory.join(format!("{variant}.sock"));
        let agent = fs::read_to_string(directory.join(format!("{variant}.pid"))).ok();
        let backend = if agent.is_some() {
            format!(
                "backend identity-agent\n    mode tcp\n    timeout connect 1s\n    timeout server 1m\n    server agent unix@{}\n",
                socket.display()
            )
        } else {
            String::new()
        };
        let config = directory.join(format!("{short}.cfg"));
        let text = format!(
            "global\n    nbthread 1\n    cpu-map 1/1 0\ndefaults\n    mode http\n    timeout client 1m\n    timeout server 1m\n    timeout connect 1s\n\
             frontend gate\n    bind {address}\n    unique-id-format %[uuid()]\n    {rules}\n{backend}"
        );
        fs::write(&config, text).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("haproxy");
        let name = format!("identity-spoa-bench-{}-{short}", std::process::id());
        let child = Command::new("docker")
            .args(["run", "--rm", "--network", "host", "--user", "0", "--name", &name, "-v"])
            .arg(format!("{0}:{0}:rw", directory.display()))
            .arg("-v")
            .arg(format!("{0}:{0}:ro", shipped.display()))
            .arg(format!("identity-spoa/haproxy:{version}"))
            .args(["haproxy", "-db", "-C"])
            .arg(&shipped)
            .arg("-f")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join(format!("{short}.log"))).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let log = || fs::read_to_string(directory.join(format!("{short}.log"))).unwrap();
            assert!(start.elapsed() < Duration::from_secs(20), "{}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = Command::new("docker")
            .args(["inspect", "-f", "{{.State.Pid}}", &name])
            .output()
            .unwrap()
            .stdout;
        let pid = String::from_utf8(pid).unwrap().trim().parse().unwrap();
        let agent = agent.map(|pid| pid.parse().unwrap());
        Self { variant, address, pid, agent, name, child }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
        let _ = self.child.wait();
    }
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
            let text = &self.buffer[..read];
            let end = text.windows(4).position(|window| window == b"\r\n\r\n");
            // Every answer here has a short body in the same write.
            if let Some(end) = end {
                if text.starts_with(b"HTTP/1.1 200") && read < end + 6 {
                    continue;
                }
                return text[9..12].try_into().unwrap();
            }
        }
    }
}

#[derive(Default)]
struct Sample {
    rate: f64,
    haproxy: f64,
    agent: f64,
    p50: f64,
    p99: f64,
}

fn measure(gate: &Gate, request: &[u8]) -> Sample {
    let mut sample = full_load(gate, request);
    let mut latencies = fixed_rate(gate, request);
    latencies.sort_unstable();
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_secs_f64() * 1e6;
    (sample.p50, sample.p99) = (at(50), at(99));
    sample
}

fn full_load(gate: &Gate, request: &[u8]) -> Sample {
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut client = Client::connect(gate.address);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.get(request), *b"200");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        let spent = || (cpu(gate.pid), gate.agent.map(cpu).unwrap_or_default());
        let (before, first, start) = (spent(), answered.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(RUN);
        let (after, last, wall) = (spent(), answered.load(Ordering::Relaxed), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        let count = (last - first) as f64;
        Sample {
            rate: count / wall.as_secs_f64(),
            haproxy: after.0.saturating_sub(before.0).as_secs_f64() * 1e6 / count,
            agent: after.1.saturating_sub(before.1).as_secs_f64() * 1e6 / count,
            ..Sample::default()
        }
    })
}

/// Requests on a schedule. A request that its connection could not send when it was due counts from
/// when it was due.
fn fixed_rate(gate: &Gate, request: &[u8]) -> Vec<Duration> {
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
                while due < start + RUN {
                    let late = due.checked_duration_since(Instant::now());
                    if let Some(early) = late {
                        std::thread::sleep(early);
                    }
                    let since = if late.is_some() { Instant::now() } else { due };
                    assert_eq!(client.get(request), *b"200");
                    latencies.push(since.elapsed());
                    due += interval;
                }
                all.lock().unwrap().extend(latencies);
            });
        }
    });
    all.into_inner().unwrap()
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn drive(directory: &Path) {
    let token = fs::read_to_string(directory.join("token")).unwrap();
    let request = format!(
        "GET /some/where/in/the/workspace.html HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\n\
         Cookie: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
        "theme=dark; ".repeat(10).trim_end_matches("; ")
    )
    .into_bytes();
    println!(
        "\nThrough HAProxy: {CONNECTIONS} connections, {REPEATS} repeats of {RUN:?}: median (least to most); us\n\
         {:>4} {:>11} {:>9} {:>24} {:>22} {:>18} {:>18}",
        "",
        "",
        "req/s",
        "HAProxy CPU a request",
        "agent CPU a request",
        format!("p50 at {RATE}/s"),
        "p99"
    );
    for version in VERSIONS {
        let image = PathBuf::from(format!("identity-spoa/haproxy:{version}"));
        let there = Command::new("docker").arg("image").arg("inspect").arg(&image).output();
        if !there.is_ok_and(|output| output.status.success()) {
            println!("{version:>4} no image: run tests/containers/images.sh");
            continue;
        }
        let gates = VARIANTS.map(|variant| Gate::start(version, variant, directory));
        for gate in &gates {
            wait_until_allowed(gate, &request);
        }
        let mut samples: [Vec<Sample>; VARIANTS.len()] = Default::default();
        for _ in 0..REPEATS {
            for (gate, samples) in gates.iter().zip(&mut samples) {
                samples.push(measure(gate, &request));
            }
        }
        for (gate, samples) in gates.iter().zip(&samples) {
            let of = |pick: fn(&Sample) -> f64, digits: usize| {
                let (middle, least, most) = median(samples.iter().map(pick).collect());
                format!("{middle:.digits$} ({least:.digits$} to {most:.digits$})")
            };
            println!(
                "{version:>4} {:>11} {:>9.0} {:>24} {:>22} {:>18} {:>18}",
                gate.variant,
                median(samples.iter().map(|s| s.rate).collect()).0,
                of(|s| s.haproxy, 1),
                of(|s| s.agent, 1),
                of(|s| s.p50, 0),
                of(|s| s.p99, 0),
            );
        }
    }
}

/// The keys may still be on their way: only an allow is worth measuring.
fn wait_until_allowed(gate: &Gate, request: &[u8]) {
    let start = Instant::now();
    while Client::connect(gate.address).get(request) != *b"200" {
        assert!(start.elapsed() < Duration::from_secs(20), "{} does not allow", gate.variant);
        std::thread::sleep(Duration::from_millis(20));
    }
}
