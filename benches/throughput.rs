//! `make bench`: the agent alone, driven over real sockets. One table: microseconds of CPU a decision
//! and decisions a second, ours against a constant answer (the floor: no parsing, no decision) and
//! against a naive agent on the `spop` crate, interleaved in one run. Every process counts its own CPU
//! in the kernel's books, so a noisy machine widens the spread but does not move the middle much.

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

mod frames;

#[path = "throughput/rivals.rs"]
mod rivals;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use frames::Frames;
use identity_spoa::spop::{Value, client, frame::DEFAULT_SIZE};

const CONNECTIONS: usize = 8;
const DEPTHS: [usize; 3] = [1, 16, 64];
const REPEATS: usize = 7;
const RUN: Duration = Duration::from_millis(400);
const IDLE_CONNECTIONS: usize = 2000;

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

/// Starts everything, each agent on the first core and the driver on the second.
fn stage() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let idp = runtime.block_on(dev_idp::DevIdp::start());
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("agent.toml"), config(idp.issuer())).unwrap();
    fs::write(at("workspaces.yaml"), WORKSPACES).unwrap();
    let request =
        dev_idp::TokenRequest { alg: "RS256".into(), expires_in: 3600, ..Default::default() };
    fs::write(at("token"), idp.token(&request)).unwrap();
    let this = std::env::current_exe().unwrap();
    let log = || Stdio::from(fs::File::create(at("agent.log")).unwrap());
    let mut ours = pinned("0", test_stage::program());
    ours.args(["run", "--config"]).arg(at("agent.toml")).stderr(log());
    let mut floor = pinned("0", &this);
    floor.arg("--floor").arg(directory.path());
    let mut naive = pinned("0", &this);
    naive.arg("--naive").arg(directory.path());
    // The same with an audit log on disk, one record a decision, chained and signed.
    let recorded = directory.path().join("recorded");
    fs::create_dir(&recorded).unwrap();
    let text = config(idp.issuer())
        .replace("unix:ours.sock", "unix:../recorded.sock")
        .replace("'workspaces.yaml'", "'../workspaces.yaml'")
        .replace("'/dev/null'", "'audit.jsonl'\nkey_file = 'audit.key'");
    fs::write(recorded.join("agent.toml"), text).unwrap();
    let mut audited = pinned("0", test_stage::program());
    audited.args(["run", "--config"]).arg(recorded.join("agent.toml")).stderr(Stdio::null());
    let rivals = [("ours", ours), ("floor", floor), ("naive", naive), ("recorded", audited)];
    let agents = rivals.map(|(name, mut command)| {
        let child = Agent(command.spawn().unwrap());
        fs::write(at(&format!("{name}.pid")), child.0.id().to_string()).unwrap();
        child
    });
    for name in ["ours", "floor", "naive", "recorded"] {
        while UnixStream::connect(at(&format!("{name}.sock"))).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let driven = pinned("1", &this).arg("--drive").arg(directory.path()).status().unwrap();
    let [_, _, _, mut audited] = agents;
    // It writes what it holds before it ends; then the whole audit log is checked.
    let pid = audited.0.id();
    assert!(Command::new("sh").args(["-c", &format!("kill {pid}")]).status().unwrap().success());
    audited.0.wait().unwrap();
    let verified = Command::new(test_stage::program())
        .args(["audit", "verify", "--config"])
        .arg(recorded.join("agent.toml"))
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&verified.stdout));
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let count: usize = fs::read_to_string(at("recorded.count")).unwrap().parse().unwrap();
    let audit_log = fs::read_to_string(recorded.join("audit.jsonl")).unwrap();
    let allowed = audit_log.lines().filter(|line| line.contains("\"verdict\":\"allow\"")).count();
    println!("{allowed} allows are on record, of {count} and those before them");
    assert!(driven.success() && allowed >= count);
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command on one core, where the machine can do that.
fn pinned(core: &str, program: &Path) -> Command {
    if Command::new("taskset").args(["-c", core, "true"]).status().is_ok_and(|s| s.success()) {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn config(issuer: &str) -> String {
    format!(
        "[agent]\nlisten = ['unix:ours.sock', '127.0.0.1:0']\nworkers = 1\nmax_connections = 5000\n\
         [destinations]\nallow = ['127.0.0.0/8']\n[workspaces]\nfile = 'workspaces.yaml'\n[audit]\nfile = '/dev/null'\nbuffer_kib = 65536\n\
         [[host]]\npreset = 'gitpod'\ndomain = 'bench.test'\n\
         [[issuer]]\nname = 'dev'\nissuer = '{issuer}'\naudience = 'workspaces'\n"
    )
}

const HOST: &str = "pinkpanda-demo-ns35kd21abc.ws.bench.test";
const WORKSPACES: &str = "workspaces:\n  - { id: pinkpanda-demo-ns35kd21abc, owner: { subject: sub-alice }, phase: running, destination: 10.0.0.1:80 }\n";

/// A NOTIFY frame of a usual size.
fn notify(token: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let bearer = format!("Bearer {token}");
    let cookie = "theme=dark; ".repeat(10);
    let args: &[client::Arg<'_>] = &[
        (b"unique_id", Value::Str(b"6dab2f21-b361-4d8a-bf7f-c4169c36d182")),
        (b"method", Value::Str(b"GET")),
        (b"host", Value::Str(HOST.as_bytes())),
        (b"hosts", Value::Int64(1)),
        (b"path", Value::Str(b"/some/where/in/the/workspace.html")),
        (b"authorization", Value::Str(bearer.as_bytes())),
        (b"authorizations", Value::Int64(1)),
        (b"cookie", Value::Str(cookie.as_bytes())),
        (b"cookies", Value::Int64(1)),
        (b"client", Value::Ipv4([127, 0, 0, 1].into())),
        (b"certificate", Value::Null),
        (b"certificate_result", Value::Null),
    ];
    client::notify(&mut bytes, (1, 1), DEFAULT_SIZE, &[(b"authorize", args)]).unwrap();
    bytes
}

trait Pipe: Read + Write + Send {}
impl<T: Read + Write + Send> Pipe for T {}

/// One agent as the driver sees it.
struct Rival {
    name: &'static str,
    pid: u32,
    unix: PathBuf,
    tcp: String,
}

impl Rival {
    fn find(name: &'static str, directory: &Path) -> Self {
        let read = |file: String| fs::read_to_string(directory.join(file)).unwrap();
        let tcp = if name == "ours" {
            let log = read("agent.log".into());
            let start = log.find("\"127.0.0.1:").or_else(|| log.find("127.0.0.1:")).unwrap();
            let text = log[start..].trim_start_matches(['"', '\\']);
            text.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect()
        } else {
            read(format!("{name}.tcp"))
        };
        let pid = read(format!("{name}.pid")).parse().unwrap();
        Self { name, pid, unix: directory.join(format!("{name}.sock")), tcp }
    }

    fn connect(&self, unix: bool) -> Box<dyn Pipe> {
        let mut stream: Box<dyn Pipe> = if unix {
            Box::new(UnixStream::connect(&self.unix).unwrap())
        } else {
            let stream = TcpStream::connect(&self.tcp).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        };
        let mut hello = Vec::new();
        client::hello(&mut hello, DEFAULT_SIZE, "pipelining", false);
        stream.write_all(&hello).unwrap();
        let mut frames = Frames::default();
        frames.read(&mut stream, 1, |_| {});
        stream
    }

    /// CPU of all threads so far.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let spent = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        Duration::from_nanos(tasks.map(|task| spent(task.unwrap())).sum())
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

struct Sample {
    micros: f64,
    rate: f64,
}

/// Eight connections, `depth` NOTIFY frames in flight on each.
fn measure(rival: &Rival, unix: bool, depth: usize, notify: &[u8]) -> Sample {
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let batch = notify.repeat(depth);
    let (cpu, wall) = std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut stream = rival.connect(unix);
                let mut frames = Frames::default();
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&batch).unwrap();
                    frames.read(&mut stream, depth, |_| {});
                    answered.fetch_add(depth as u64, Ordering::Relaxed);
                }
            });
        }
        // Connections open and the token is verified before the count begins.
        std::thread::sleep(Duration::from_millis(50));
        let (cpu, start) = (rival.cpu(), Instant::now());
        answered.store(0, Ordering::Relaxed);
        std::thread::sleep(RUN);
        let count = answered.load(Ordering::Relaxed);
        let spent = rival.cpu().saturating_sub(cpu);
        let wall = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        (spent.as_secs_f64() / count as f64, count as f64 / wall.as_secs_f64())
    });
    Sample { micros: cpu * 1e6, rate: wall }
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// With a record on disk for each decision: how many a second. How many there were is written next to the audit log.
fn with_an_audit_log(directory: &Path, notify: &[u8]) {
    const DEPTH: usize = 16;
    const ROUNDS: usize = 4000;
    let pid = fs::read_to_string(directory.join("recorded.pid")).unwrap().parse().unwrap();
    let unix = directory.join("recorded.sock");
    let rival = Rival { name: "recorded", pid, unix, tcp: String::new() };
    wait_for_an_allow(&rival, notify);
    let batch = notify.repeat(DEPTH);
    let (cpu, start) = (rival.cpu(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut stream = rival.connect(true);
                let mut frames = Frames::default();
                for _ in 0..ROUNDS {
                    stream.write_all(&batch).unwrap();
                    frames.read(&mut stream, DEPTH, |_| {});
                }
            });
        }
    });
    let count = CONNECTIONS * DEPTH * ROUNDS;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let micros = rival.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / count as f64;
    println!(
        "with an audit log on disk, depth {DEPTH}: {count} decisions, {rate:.0} a second, {micros:.2} us of CPU each with its record"
    );
    fs::write(directory.join("recorded.count"), count.to_string()).unwrap();
}

/// The keys may still be on their way: only an allow is worth measuring.
fn wait_for_an_allow(rival: &Rival, notify: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = rival.connect(true);
        let mut frames = Frames::default();
        stream.write_all(notify).unwrap();
        let mut last = Vec::new();
        frames.read(&mut stream, 1, |frame| last = frame.to_vec());
        if last.windows(5).any(|w| w == b"owner") {
            return;
        }
        assert!(Instant::now() < deadline, "no allow: {}", last.escape_ascii());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn drive(directory: &Path) {
    let notify = notify(&fs::read_to_string(directory.join("token")).unwrap());
    let rivals = ["ours", "floor", "naive"].map(|name| Rival::find(name, directory));
    wait_for_an_allow(&rivals[0], &notify);
    println!(
        "A NOTIFY of {} bytes, {CONNECTIONS} connections, {REPEATS} repeats of {RUN:?}: median (least to most)",
        notify.len()
    );
    println!(
        "{:>5} {:>6} {:>6} {:>30} {:>12}",
        "", "depth", "", "us of agent CPU a decision", "decisions/s"
    );
    for unix in [true, false] {
        for depth in DEPTHS {
            let mut samples: [Vec<Sample>; 3] = Default::default();
            for _ in 0..REPEATS {
                for (rival, samples) in rivals.iter().zip(&mut samples) {
                    samples.push(measure(rival, unix, depth, &notify));
                }
            }
            for (rival, samples) in rivals.iter().zip(&samples) {
                let (middle, least, most) = median(samples.iter().map(|s| s.micros).collect());
                let (rate, ..) = median(samples.iter().map(|s| s.rate).collect());
                println!(
                    "{:>5} {depth:>6} {:>6} {:>12.2} ({least:.2} to {most:.2}) {rate:>16.0}",
                    if unix { "unix" } else { "tcp" },
                    rival.name,
                    middle,
                );
            }
        }
    }
    with_an_audit_log(directory, &notify);
    let before = rivals[0].resident_kib();
    let idle: Vec<_> = (0..IDLE_CONNECTIONS).map(|_| rivals[0].connect(true)).collect();
    let after = rivals[0].resident_kib();
    println!(
        "{} idle connections: {} MiB resident ({} MiB before)",
        idle.len(),
        after / 1024,
        before / 1024
    );
}
