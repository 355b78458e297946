//! `make bench`: what the gate costs at HAProxy. One thread of HAProxy on the first core, the agent and
//! the clients on the second. CPU of HAProxy and of the agent a request at full load, and latency at a
//! fixed rate below it (a saturated server's latency is the length of its queue).
//!
//! Twice: in a front end that answers by itself, so that SPOE is most of the cost, against no SPOE at all,
//! HAProxy's own `jwt_verify`, an agent that answers a constant, and a naive one; and in the shipped
//! `haproxy.cfg` with a workspace behind it, compared with the same file with constants in place of the authorization request.
//! Nine of ten requests of a connection are like the one before.

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

#[path = "../throughput/rivals.rs"]
mod rivals;

mod clients;
mod gates;

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use clients::{Requests, Sample};
use gates::{Gate, Shape};

const REPEATS: usize = 5;
const RUN: Duration = Duration::from_secs(1);
/// Requests a second at which latency is measured; all variants can do more.
const RATE: u32 = 4000;
const VERSIONS: [&str; 3] = ["2.6", "3.2", "3.4"];
const HOST: &str = "pinkpanda-demo-ns35kd21abc.ws.bench.test";
fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--floor") => rivals::floor(Path::new(&args[2])),
        Some("--reusable") => rivals::reusable(Path::new(&args[2])),
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
    let upstream = gates::free();
    let config = |name: &str, more: &str| {
        format!(
            "[agent]\nlisten = ['unix:{name}.sock']\nsocket_mode = '0666'\nworkers = 1\n{more}\
             [destinations]\nallow = ['127.0.0.0/8']\n[workspaces]\nfile = 'workspaces.yaml'\n[audit]\nfile = '/dev/null'\nbuffer_kib = 65536\n\
             [[host]]\npreset = 'gitpod'\ndomain = 'bench.test'\n\
             [[issuer]]\nname = 'dev'\nissuer = '{}'\naudience = 'workspaces'\n",
            idp.issuer()
        )
    };
    fs::write(at("ours.toml"), config("ours", "")).unwrap();
    fs::write(at("ours-reuse.toml"), config("ours-reuse", "verdict_cache_ms = 5000\n")).unwrap();
    let workspaces = format!(
        "workspaces:\n  - {{ id: pinkpanda-demo-ns35kd21abc, owner: {{ subject: sub-alice }}, phase: running, destination: '{upstream}' }}\n"
    );
    fs::write(at("workspaces.yaml"), workspaces).unwrap();
    fs::write(at("upstream"), upstream.to_string()).unwrap();
    fs::write(at("key.pem"), idp.rsa_pem()).unwrap();
    let request =
        dev_idp::TokenRequest { alg: "RS256".into(), expires_in: 3600, ..Default::default() };
    fs::write(at("token"), idp.token(&request)).unwrap();
    let this = std::env::current_exe().unwrap();
    let agent = |name: &str| {
        let mut agent = pinned(test_stage::program());
        let log = fs::File::create(at(&format!("{name}.log"))).unwrap();
        agent.args(["run", "--config"]).arg(at(&format!("{name}.toml"))).stderr(log);
        agent
    };
    let rival = |name: &str| {
        let mut rival = pinned(&this);
        rival.arg(format!("--{name}")).arg(directory.path());
        rival
    };
    let agents = [
        ("ours", agent("ours")),
        ("ours-reuse", agent("ours-reuse")),
        ("floor", rival("floor")),
        ("floor-reuse", rival("reusable")),
        ("naive", rival("naive")),
    ];
    let agents = agents.map(|(name, mut command)| {
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

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn drive(directory: &Path) {
    let token = fs::read_to_string(directory.join("token")).unwrap();
    let requests = Requests::new(HOST, &token);
    let upstream = fs::read_to_string(directory.join("upstream")).unwrap().parse().unwrap();
    println!(
        "\nThrough HAProxy: {} connections, {REPEATS} repeats of {RUN:?}: median (least to most); us",
        clients::connections()
    );
    for version in VERSIONS {
        let image = PathBuf::from(format!("identity-spoa/haproxy:{version}"));
        let there = Command::new("docker").arg("image").arg("inspect").arg(&image).output();
        if !there.is_ok_and(|output| output.status.success()) {
            println!("{version:>4} no image: run tests/containers/images.sh");
            continue;
        }
        for shape in Shape::ALL {
            compare(version, shape, upstream, &requests, directory);
        }
    }
}

/// All variants of a shape, in turns.
fn compare(
    version: &str,
    shape: Shape,
    upstream: SocketAddr,
    requests: &Requests,
    directory: &Path,
) {
    let workspace = (shape == Shape::Whole).then(|| Gate::upstream(version, upstream, directory));
    let there = workspace.as_ref().map(|_| upstream);
    let start = |variant: &&'static str| Gate::start(version, shape, variant, there, directory);
    let gates: Vec<_> = shape.variants().iter().map(start).collect();
    for gate in &gates {
        clients::wait_until_allowed(gate, requests);
    }
    let mut samples: Vec<Vec<Sample>> = gates.iter().map(|_| Vec::new()).collect();
    for _ in 0..REPEATS {
        for (gate, samples) in gates.iter().zip(&mut samples) {
            samples.push(clients::measure(gate, requests));
        }
    }
    println!(
        "\nHAProxy {version}, {}\n{:>11} {:>9} {:>24} {:>22} {:>18} {:>18}",
        shape.name(),
        "",
        "req/s",
        "HAProxy CPU a request",
        "agent CPU a request",
        format!("p50 at {RATE}/s"),
        "p99"
    );
    let middle =
        |samples: &[Sample], pick: fn(&Sample) -> f64| median(samples.iter().map(pick).collect());
    for (gate, samples) in gates.iter().zip(&samples) {
        let of = |pick: fn(&Sample) -> f64, digits: usize| {
            let (middle, least, most) = middle(samples, pick);
            format!("{middle:.digits$} ({least:.digits$} to {most:.digits$})")
        };
        println!(
            "{:>11} {:>9.0} {:>24} {:>22} {:>18} {:>18}",
            gate.variant,
            middle(samples, |s| s.rate).0,
            of(|s| s.haproxy, 1),
            of(|s| s.agent, 1),
            of(|s| s.p50, 0),
            of(|s| s.p99, 0),
        );
    }
    let of = |variant: &str, pick: fn(&Sample) -> f64| {
        let place = gates.iter().position(|gate| gate.variant == variant)?;
        Some(middle(&samples[place], pick).0)
    };
    for (one, other) in [
        ("floor-reuse", "floor"),
        ("floor-reuse", "no SPOE"),
        ("ours-reuse", "floor"),
        ("ours-reuse", "ours"),
        ("ours-reuse", "no SPOE"),
    ] {
        let ratio = |pick: fn(&Sample) -> f64| Some(of(one, pick)? / of(other, pick)?);
        if let (Some(rate), Some(haproxy)) = (ratio(|s| s.rate), ratio(|s| s.haproxy)) {
            println!(
                "{one} / {other}: {rate:.2} times the requests a second, {haproxy:.2} times HAProxy's CPU a request"
            );
        }
    }
}
