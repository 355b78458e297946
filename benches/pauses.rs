//! What the agent does by itself, under a constant load: the worst pause and the refusals while it happens.
//!
//! `cargo bench -p benches --bench pauses`, a part of `make bench`. `RATE=20000` decisions a second are asked for whether
//! they are answered or not, over four connections, in batches of 20. A latency begins when its request was due,
//! so that a pause shows in every request that waited for it. `AGENT=PATH` measures another build of the agent;
//! `ROTATE_MIB=512` the rotation of larger files, `ONLY=TEXT` the rows whose names contain it.

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
#[path = "pauses/full.rs"]
mod full;
#[path = "pauses/load.rs"]
mod load;
#[path = "pauses/report.rs"]
mod report;

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant, SystemTime},
};

use dev_idp::{DevIdp, TokenRequest};
use identity_spoa::spop::client;
use load::{Load, Shape, ask};
use report::Report;

const WORKSPACES: usize = 100_000;
const TOKENS: usize = 20_000;
/// All of them end after this time.
const TOKENS_LAST: Duration = Duration::from_secs(15);
/// No row is shorter.
const WINDOW: Duration = Duration::from_secs(5);
/// What comes late because of a row still belongs to it.
const AFTER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(2);

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rate = u32::try_from(number("RATE", 20_000)).unwrap();
    println!(
        "{rate} decisions/s of {WORKSPACES} workspaces, one worker, an audit file with checkpoints; load average {}",
        fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap()
    );
    let mut report = Report::start();
    let idp = || runtime.block_on(DevIdp::start());
    if report.wants(&USUAL) {
        usual(&mut report, idp(), rate);
    }
    if report.wants(&full::ROWS) {
        full::rows(&mut report, idp(), runtime.handle(), rate);
    }
    if report.wants(&full::OF_TUNNELS) {
        full::rows_of_tunnels(&mut report, idp(), rate);
    }
    println!("{} refusals in all", report.refused);
}

const USUAL: [&str; 9] = [
    "nothing but requests and checkpoints",
    "nothing, once more",
    "rotation, and two old files of 256 MiB removed",
    "the configuration is reloaded, three times",
    "the issuer's keys are replaced and fetched",
    "another list of 100,000 workspaces",
    "100 revocations, each synced to disk",
    "the admin API lists 100,000 workspaces, /metrics 20 times",
    "20,000 cached tokens expire",
];

/// The agent with a file of workspaces.
fn usual(report: &mut Report, idp: DevIdp, rate: u32) {
    let mut stage = Stage::start(idp, Setting::default());
    let load = Load::start(&stage.socket(), &stage.notify(), Shape::at_rate(rate));
    let mut row = |name: &str, stage: &mut Stage, work: &mut dyn FnMut(&mut Stage)| {
        report.row(&load, name, || work(stage));
    };
    let [nothing, again, rotation, reload, keys, list, revocations, look, cache] = USUAL;
    row(nothing, &mut stage, &mut |_| {});
    let counted = stage.switches();
    let before = load.answered();
    row(again, &mut stage, &mut |_| {});
    let decisions = load.answered() - before;
    let changes = stage.switches().since(&counted);
    row(rotation, &mut stage, &mut Stage::rotate);
    row(reload, &mut stage, &mut Stage::reload);
    row(keys, &mut stage, &mut Stage::replace_keys);
    row(list, &mut stage, &mut Stage::relist);
    row(revocations, &mut stage, &mut Stage::revoke);
    row(look, &mut stage, &mut Stage::look);
    if report.wants(&[cache]) {
        let end = stage.fill_cache();
        report.row(&load, cache, || {
            std::thread::sleep(end.duration_since(SystemTime::now()).unwrap_or_default());
        });
    }
    load.stop();
    println!("context switches a decision at {rate}/s: {}", changes.per(decisions));
    let slow = Load::start(&stage.socket(), &stage.notify(), Shape::at_rate(350));
    let switches = stage.switches();
    slow.begin();
    std::thread::sleep(WINDOW);
    let decisions = slow.end().count();
    println!(
        "context switches a decision at 350/s: {}",
        stage.switches().since(&switches).per(decisions)
    );
    slow.stop();
    std::thread::sleep(AFTER);
    let switches = stage.switches();
    std::thread::sleep(WINDOW);
    println!(
        "context switches of the idle agent, a second: {}",
        stage.switches().since(&switches).per(WINDOW.as_secs())
    );
    stage.prove();
}

/// What an agent has in addition to a file of workspaces.
#[derive(Default)]
struct Setting<'s> {
    /// Lines of the table `[agent]`.
    agent: &'s str,
    /// Lines that follow those of the issuer.
    issuer: String,
    /// What each workspace of the file has in addition to its owner and address.
    ports: &'static str,
    /// Makes files.
    prepare: Option<&'s dyn Fn(&Path)>,
    /// Further arguments that HAProxy sends with each request.
    args: Vec<client::Arg<'static>>,
}

/// The agent with everything around it.
struct Stage {
    args: Vec<client::Arg<'static>>,
    directory: tempfile::TempDir,
    agent: Child,
    idp: DevIdp,
    round: u32,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn program() -> PathBuf {
    std::env::var("AGENT").map_or_else(|_| test_stage::program().into(), Into::into)
}

impl Stage {
    fn start(idp: DevIdp, setting: Setting<'_>) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("agent.toml"), config(idp.issuer(), &setting)).unwrap();
        if let Some(prepare) = setting.prepare {
            prepare(directory.path());
        }
        fs::write(at("workspaces.yaml"), workspaces(0, setting.ports)).unwrap();
        let agent = Command::new(program())
            .args(["run", "--config"])
            .arg(at("agent.toml"))
            .current_dir(directory.path())
            .stderr(File::create(at("agent.log")).unwrap())
            .spawn()
            .unwrap();
        let mut stage = Self { args: setting.args, directory, agent, idp, round: 0 };
        until("the agent listens", || {
            // An agent that does not start says why in its log.
            let ended = stage.agent.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(stage.at("agent.log")).unwrap());
            UnixStream::connect(stage.socket()).is_ok()
        });
        let notify = stage.notify();
        until("an allow", || ask(&stage.socket(), std::slice::from_ref(&notify))[0] == "owner");
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.at("agent.sock")
    }

    fn notify(&self) -> Vec<u8> {
        let request = TokenRequest { alg: "RS256".into(), expires_in: 3600, ..Default::default() };
        load::notify(load::HOST, Some(&self.idp.token(&request)), &self.args)
    }

    /// How often the agent has logged something.
    fn logged(&self, what: &str) -> usize {
        fs::read_to_string(self.at("agent.log")).unwrap().matches(what).count()
    }

    fn rotate(&mut self) {
        let block = vec![b'x'; 1 << 20];
        for number in 0..2 {
            let name = format!("audit.jsonl.20200101T000000Z.{number}");
            let mut old = File::create(self.at(&name)).unwrap();
            for _ in 0..256 {
                old.write_all(&block).unwrap();
            }
            old.sync_all().unwrap();
            old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        until("the old files are removed", || {
            !self.at("audit.jsonl.20200101T000000Z.0").exists()
                && !self.at("audit.jsonl.20200101T000000Z.1").exists()
        });
    }

    fn reload(&mut self) {
        for _ in 0..3 {
            let before = self.logged("the configuration is reloaded");
            self.round += 1;
            let text = fs::read_to_string(self.at("agent.toml")).unwrap();
            fs::write(self.at("agent.toml"), format!("{text}# {}\n", self.round)).unwrap();
            until("the reload", || self.logged("the configuration is reloaded") > before);
        }
    }

    fn replace_keys(&mut self) {
        self.idp.rotate(true);
        let notify = self.notify();
        until("the new keys", || ask(&self.socket(), std::slice::from_ref(&notify))[0] == "owner");
    }

    fn relist(&mut self) {
        let before = self.logged("workspaces loaded");
        self.round += 1;
        fs::write(self.at("part"), workspaces(self.round, "")).unwrap();
        fs::rename(self.at("part"), self.at("workspaces.yaml")).unwrap();
        until("the list", || self.logged("workspaces loaded") > before);
    }

    fn revoke(&mut self) {
        for number in 0..100 {
            let body = format!("{{\"issuer\":\"dev\",\"subject\":\"stranger-{number}\"}}");
            load::call(&self.at("admin.sock"), "POST /v1/revocations", &body);
        }
    }

    fn look(&mut self) {
        load::call(&self.at("admin.sock"), "GET /v1/workspaces", "");
        for _ in 0..20 {
            load::call(&self.at("admin.sock"), "GET /metrics", "");
        }
    }

    /// Has so many tokens verified, all of which end at once; says when.
    fn fill_cache(&self) -> SystemTime {
        let end = SystemTime::now() + TOKENS_LAST;
        let since_1970 = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let request = |number: usize| {
            let sub = format!("sub-{number}");
            let claims = serde_json::json!({ "sub": sub, "exp": since_1970 });
            let claims = claims.as_object().unwrap().clone();
            TokenRequest { alg: "ES256".into(), claims, ..Default::default() }
        };
        for chunk in 0..TOKENS / 100 {
            let tokens = (0..100).map(|number| self.idp.token(&request(chunk * 100 + number)));
            let notifies: Vec<_> =
                tokens.map(|token| load::notify(load::HOST, Some(&token), &self.args)).collect();
            let answers = ask(&self.socket(), &notifies);
            assert_eq!(answers[0], "not_permitted", "{answers:?}");
        }
        end
    }

    /// A number of the agent's metrics, by the start of its line; zero where it is not told.
    fn metric(&self, start: &str) -> u64 {
        let text = load::call(&self.at("admin.sock"), "GET /metrics", "");
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_default()
    }

    fn switches(&self) -> Switches {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.agent.id())).unwrap();
        let mut all = Vec::new();
        for task in tasks.flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = read("status");
            let counts = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
            let count =
                counts.map(|l| l.split_whitespace().last().unwrap().parse::<u64>().unwrap());
            all.push((
                task.file_name().into_string().unwrap(),
                read("comm").trim().to_owned(),
                count.sum(),
            ));
        }
        Switches(all)
    }

    /// Ends the agent; its audit log must be whole.
    fn prove(&mut self) {
        let pid = self.agent.id();
        assert!(
            Command::new("sh").args(["-c", &format!("kill {pid}")]).status().unwrap().success()
        );
        self.agent.wait().unwrap();
        let verified = Command::new(program())
            .args(["audit", "verify", "--config"])
            .arg(self.at("agent.toml"))
            .output()
            .unwrap();
        print!("{}", String::from_utf8_lossy(&verified.stdout));
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
}

/// Context switches of each thread: its id, its name, and how many of either kind.
struct Switches(Vec<(String, String, u64)>);

impl Switches {
    fn since(&self, before: &Self) -> Self {
        let known =
            |id: &str| before.0.iter().find(|(other, ..)| other == id).map_or(0, |(.., n)| *n);
        let of = |(id, name, count): &(String, String, u64)| {
            (id.clone(), name.clone(), count - known(id))
        };
        Self(self.0.iter().map(of).collect())
    }

    fn per(&self, count: u64) -> String {
        let each = |switches: u64| switches as f64 / count as f64;
        let mut text = format!("{:.3}", each(self.0.iter().map(|(.., count)| count).sum()));
        let mut names: Vec<(&str, u64)> = Vec::new();
        for (_, name, count) in &self.0 {
            match names.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => names.push((name, *count)),
            }
        }
        names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (name, switches) in names.into_iter().filter(|(_, switches)| *switches > 0) {
            let _ = write!(text, ", {name} {:.3}", each(switches));
        }
        text
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn config(issuer: &str, setting: &Setting<'_>) -> String {
    let rotate = number("ROTATE_MIB", 256);
    let Setting { agent, issuer: more, .. } = setting;
    format!(
        "[agent]\nlisten = ['unix:agent.sock']\nworkers = 1\n{agent}[admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n\
         [destinations]\nallow = ['10.0.0.0/8']\nbackends = ['bench']\n[workspaces]\nfile = 'workspaces.yaml'\n\
         [audit]\nfile = 'audit.jsonl'\nrotate_mib = {rotate}\nretention_days = 400\n\
         [[host]]\npreset = 'gitpod'\ndomain = 'bench.test'\n\
         [[issuer]]\nname = 'dev'\nissuer = '{issuer}'\naudience = 'workspaces'\n{more}"
    )
}

/// All of them, each at another address than in the round before.
fn workspaces(round: u32, ports: &str) -> String {
    let mut text = "workspaces:\n  - { id: pinkpanda-demo-ns35kd21abc, owner: { subject: sub-alice }, phase: running, destination: 10.0.0.1:80 }\n".to_owned();
    for number in 1..WORKSPACES {
        let (high, low) = (number / 250, number % 250 + 1);
        let (a, b) = (high / 250 + 1 + 4 * (round as usize % 20), high % 250);
        let address = format!("10.{a}.{b}.{low}");
        let ports = ports.replace("ADDRESS", &address);
        let _ = writeln!(
            text,
            "  - {{ id: panda{number}-demo-ns35kd21abc, owner: {{ subject: sub-{number} }}, phase: running, destination: {address}:80{ports} }}"
        );
    }
    text
}
