//! The stage for faults: everything the agent depends on stands behind something that can fail.

use std::{
    fmt::Write as _,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    loss::Loss,
    platform::Platform,
    proxy::{Proxy, Target, Way},
    upstream::Pods,
};
use crate::{
    chance::Chance,
    stage::{Admin, World},
    truth::{self, Place, Source},
};
use dev_idp::DevIdp;
use test_stage::{
    Haproxy, LOGIN, Version,
    agent::program,
    haproxy::{copy_with_browser_args, free_port},
    redis::Redis,
    until,
};

/// How many people there are.
pub const PEOPLE: usize = 30;
/// How long access to workspaces goes on without their platform: for owners, and for all others.
pub const STALE: Duration = Duration::from_secs(15);
/// What the file system for audit log and journal holds, in MiB.
const DISK: &str = "400";

/// Everything.
pub struct Scene {
    pub idp: tokio::sync::Mutex<DevIdp>,
    pub world: Arc<World>,
    pub platform: Platform,
    pub pods: Pods,
    pub to_platform: Proxy,
    pub to_store: Proxy,
    pub store: tokio::sync::Mutex<Redis>,
    pub haproxy: tokio::sync::Mutex<Haproxy>,
    pub gate: SocketAddr,
    pub https: u16,
    pub agent: Mutex<Agent>,
    pub admin: Admin,
    /// What there is twice in the scene of two.
    pub second: Option<Second>,
    /// Where the agents of the scene of two listen.
    spop: Vec<SocketAddr>,
    pub directory: TempDir,
    /// A small file system, where one can be mounted.
    pub disk: Option<PathBuf>,
    pub faketime: Option<PathBuf>,
    /// When the agent was last kept from hearing what changed; in the future while it is.
    pub disturbed: Mutex<Instant>,
    /// Changes that the agent may not know yet.
    pub pending: Mutex<Vec<Pending>>,
    /// Since when nothing keeps an agent from ending tunnels; in the future while something does.
    pub undisturbed: Mutex<Instant>,
    /// Until when one agent may not hear what ended at the other.
    pub isolated: Mutex<Instant>,
    /// While set, nothing is revoked and no session ended.
    pub hold: AtomicBool,
    /// Rules of the packet filter that are to be taken away.
    pub loss: Mutex<Option<Loss>>,
}

/// How many agents and HAProxies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One of each.
    One,
    /// Two HAProxies, each of which asks two agents in turn, at one store, with reuse.
    Two,
}

/// The second agent and the second HAProxy. What they depend on stands behind proxies of their own.
pub struct Second {
    pub agent: Mutex<Agent>,
    pub admin: Admin,
    pub to_platform: Proxy,
    pub to_store: Proxy,
    pub haproxy: tokio::sync::Mutex<Haproxy>,
    pub gate: SocketAddr,
}

impl Second {
    /// Starts the second HAProxy next to the first one's directory, and writes the second agent's configuration.
    async fn start(
        root: &Path,
        version: &Version,
        env: &str,
        (idp, pods, https): (&DevIdp, &Pods, u16),
        [spop, pages]: [SocketAddr; 2],
        platform: &Platform,
    ) -> Self {
        let directory = root.join("second");
        std::fs::create_dir(&directory).unwrap();
        write_secrets(&directory);
        std::fs::write(directory.join("haproxy.env"), env).unwrap();
        let named = (pods.address(0), pods.main_port).into();
        let files = root.join("haproxy");
        let socket = root.join("spop.sock");
        let haproxy = Haproxy::start_from(&files, version, &directory, &socket, named).await;
        let to_store = Proxy::start(Target::Unix(root.join("redis.sock"))).await;
        let to_platform = Proxy::start(Target::Tcp(platform.address)).await;
        let site = Site {
            directory: &directory,
            spop: Some(spop),
            pages,
            to_store: &to_store,
            to_platform: &to_platform,
            disk: None,
        };
        site.write(root, idp, https, pods);
        Self {
            agent: Mutex::new(Agent::new(&directory)),
            admin: Admin::new(&directory.join("agent-admin.sock")),
            gate: haproxy.http,
            haproxy: tokio::sync::Mutex::new(haproxy),
            to_platform,
            to_store,
        }
    }
}

/// How long HAProxy may reuse an allow in the scene of two.
const REUSE: Duration = Duration::from_secs(1);

/// Where one agent listens and what it depends on.
struct Site<'p> {
    directory: &'p Path,
    spop: Option<SocketAddr>,
    pages: SocketAddr,
    to_store: &'p Proxy,
    to_platform: &'p Proxy,
    disk: Option<&'p Path>,
}

/// A change of a workspace.
pub struct Pending {
    pub place: Arc<Place>,
    /// Which version of its phase.
    pub number: u64,
    pub at: Instant,
    /// Whether it ends access.
    pub ends: bool,
}

/// The agent's process, as a supervisor has it: one that ended is started again.
pub struct Agent {
    child: Option<Child>,
    directory: PathBuf,
    /// Whether it should run.
    pub wanted: bool,
    pub starts: u32,
    /// Runs with a clock that can be changed.
    pub faked: Option<PathBuf>,
    ended: Option<Instant>,
    started: Option<Instant>,
}

impl Agent {
    fn new(directory: &Path) -> Self {
        Self {
            child: None,
            directory: directory.into(),
            wanted: true,
            starts: 0,
            faked: None,
            ended: None,
            started: None,
        }
    }

    /// Whether it started a moment ago, and may not have reached all services yet.
    pub fn is_new(&self) -> bool {
        self.started.is_some_and(|at| at.elapsed() < Duration::from_secs(1))
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn signal(&self, signal: &str) {
        if let Some(pid) = self.pid() {
            let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
        }
    }

    /// Whether it has ended; looks after it.
    pub fn look(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && child.try_wait().unwrap().is_some()
        {
            self.child = None;
            self.ended = Some(Instant::now());
        }
        let pause = Duration::from_millis(300);
        if self.child.is_none() && self.wanted && self.ended.is_none_or(|at| at.elapsed() > pause) {
            self.start();
        }
        self.child.is_none()
    }

    fn start(&mut self) {
        let log = self.directory.join("agent.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program());
        if let Some(library) = &self.faked {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.directory.join("clock"))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command
            .args(["run", "--config"])
            .arg(self.directory.join("agent.toml"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.starts += 1;
        self.started = Some(Instant::now());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Scene {
    pub async fn start(seed: u64, version: &Version, layout: Layout) -> Arc<Self> {
        let idp = DevIdp::start().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let pods = Pods::start(PEOPLE).await;
        let platform = Platform::start().await;
        let store = Redis::start(path).await;
        let to_store = Proxy::start(Target::Unix(path.join("redis.sock"))).await;
        let to_platform = Proxy::start(Target::Tcp(platform.address)).await;
        let disk = mount(path);
        let pages = [free_port(), free_port()];
        // Over TCP, so that packets can be lost.
        let spop = (layout == Layout::Two).then(|| [free_port(), free_port()]);
        write_secrets(path);
        let mut env = format!("GATE_LOGIN_HOST={LOGIN}\nGATE_LOGIN_PAGES={}\n", pages[0]);
        if let Some([one, two]) = spop {
            writeln!(env, "GATE_LOGIN_PAGES_2={}", pages[1]).unwrap();
            writeln!(env, "IDENTITY_AGENT={one}\nIDENTITY_AGENT_2={two}").unwrap();
            writeln!(env, "GATE_REUSE={}", REUSE.as_millis()).unwrap();
            truth::VERDICT_CACHE_MS.store(REUSE.as_millis().try_into().unwrap(), Ordering::Relaxed);
        }
        std::fs::write(path.join("haproxy.env"), &env).unwrap();
        let files = haproxy_files(path);
        let named = (pods.address(0), pods.main_port).into();
        let socket = path.join("spop.sock");
        let haproxy = Haproxy::start_from(&files, version, path, &socket, named).await;
        let (gate, https) = (haproxy.http, haproxy.https.port());
        let site = Site {
            directory: path,
            spop: spop.map(|all| all[0]),
            pages: pages[0],
            to_store: &to_store,
            to_platform: &to_platform,
            disk: disk.as_deref(),
        };
        site.write(path, &idp, https, &pods);
        let second = match spop {
            None => None,
            Some([_, spop]) => {
                let here = (&idp, &pods, https);
                Some(Second::start(path, version, &env, here, [spop, pages[1]], &platform).await)
            }
        };
        let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
        let scene = Self {
            world: Arc::new(World::new(&idp)),
            admin: Admin::new(&path.join("agent-admin.sock")),
            agent: Mutex::new(Agent::new(path)),
            second,
            spop: spop.into_iter().flatten().collect(),
            idp: tokio::sync::Mutex::new(idp),
            platform,
            pods,
            to_platform,
            to_store,
            store: tokio::sync::Mutex::new(store),
            haproxy: tokio::sync::Mutex::new(haproxy),
            gate,
            https,
            directory,
            disk,
            faketime: library.exists().then(|| library.into()),
            disturbed: Mutex::new(Instant::now()),
            pending: Mutex::default(),
            undisturbed: Mutex::new(Instant::now()),
            isolated: Mutex::new(Instant::now()),
            hold: AtomicBool::new(false),
            loss: Mutex::default(),
        };
        let mut chance = Chance::new(seed, 1);
        for slot in 0..PEOPLE {
            let idp = scene.idp.lock().await;
            let source = Source::Cluster(scene.pods.public_port);
            let resident = scene.world.newcomer(&idp, slot, source, &mut chance);
            resident.place.phase.begin("running");
            resident.place.phase.settle(Duration::ZERO);
            scene.platform.write(&resident.place, &scene.pods);
            scene.world.residents().push(resident);
        }
        let scene = Arc::new(scene);
        // One after the other: the first makes the keys that both read.
        for (agent, admin) in scene.agents() {
            agent.lock().unwrap().look();
            until("the agent to be ready", async || {
                admin.ask(Method::GET, "/readyz", None).await.ok()
            })
            .await;
        }
        scene
    }

    /// The agents, with their administrators' sockets.
    pub fn agents(&self) -> Vec<(&Mutex<Agent>, &Admin)> {
        let second = self.second.as_ref().map(|second| (&second.agent, &second.admin));
        [(&self.agent, &self.admin)].into_iter().chain(second).collect()
    }

    /// Where people come in.
    pub fn gates(&self) -> Vec<SocketAddr> {
        let second = self.second.as_ref().map(|second| second.gate);
        [self.gate].into_iter().chain(second).collect()
    }

    /// How many requests the HAProxies' present logs tell to have been answered by reuse.
    pub fn reused(&self) -> usize {
        let directories = [self.directory.path().to_owned(), self.directory.path().join("second")];
        let logs = directories.iter().map(|directory| directory.join("haproxy.log"));
        logs.map(|log| {
            let text = std::fs::read(log).unwrap_or_default();
            String::from_utf8_lossy(&text).matches(" reused=1 ").count()
        })
        .sum()
    }

    /// The ways of all agents to the store.
    pub fn set_to_store(&self, way: Way) {
        self.to_store.set(way);
        if let Some(second) = &self.second {
            second.to_store.set(way);
        }
    }

    /// The ports of agents, store and platform, on whose ways packets can be lost.
    pub fn ports(&self) -> Vec<u16> {
        let second = self.second.iter().flat_map(|s| [s.to_store.address, s.to_platform.address]);
        let ways = [self.to_store.address, self.to_platform.address].into_iter().chain(second);
        ways.chain(self.spop.clone()).map(|address| address.port()).collect()
    }

    /// How long after an agent confirmed an end the other may not know it.
    pub fn late(&self) -> Duration {
        if self.second.is_none() {
            return Duration::ZERO;
        }
        let isolated = self.isolated.lock().unwrap().saturating_duration_since(Instant::now());
        isolated.max(Duration::from_secs(1))
    }

    /// Asks the agents in turn until one confirms.
    pub async fn confirm(&self, method: Method, path: &str, body: &Value) -> bool {
        for (_, admin) in self.agents() {
            if admin.ask(method.clone(), path, Some(body.clone())).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Something keeps the agent from hearing of changes until then, and for a while after.
    pub fn disturb(&self, until: Instant) {
        let mut disturbed = self.disturbed.lock().unwrap();
        *disturbed = (*disturbed).max(until);
    }

    /// The platform tells of a change; the oracle must know when the agent does.
    pub fn change(&self, place: &Arc<Place>, phase: &'static str) {
        let ends = phase != "running";
        let number = place.phase.begin(phase);
        self.platform.write(place, &self.pods);
        let place = Arc::clone(place);
        self.pending.lock().unwrap().push(Pending { place, number, at: Instant::now(), ends });
    }

    /// The platform told that it is gone.
    pub fn absent(&self, place: &Arc<Place>) {
        let number = place.phase.begin("absent");
        let place = Arc::clone(place);
        self.pending.lock().unwrap().push(Pending {
            place,
            number,
            at: Instant::now(),
            ends: true,
        });
    }

    /// Settles what the agent must know by now.
    pub fn settle(&self) {
        let disturbed = *self.disturbed.lock().unwrap();
        let now = Instant::now();
        self.pending.lock().unwrap().retain(|change| {
            // Received immediately; after a disturbance when the platform was asked again.
            let heard = change.at.max(disturbed) + Duration::from_secs(3);
            // In every case a workspace that is not confirmed is closed.
            let closed = change.at + STALE + Duration::from_secs(4);
            let due = now >= heard || change.ends && now >= closed;
            if due {
                change.place.phase.settle_one(change.number, Duration::ZERO);
            }
            !due
        });
    }

    /// Ends sessions that may or may not be valid any more.
    pub fn doubt_sessions(&self) {
        for resident in self.world.residents().iter() {
            if let Some(session) = resident.person.session().filter(|s| s.alive.latest()) {
                session.alive.begin(false);
            }
        }
    }

    /// Takes all people for signed out, as far as the oracle asks.
    pub fn forget_sessions(&self) {
        for resident in self.world.residents().iter() {
            let mut session = resident.person.session.lock().unwrap();
            if session.as_ref().is_some_and(|session| !session.alive.latest()) {
                *session = None;
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        *self.loss.lock().unwrap() = None;
        for (agent, _) in self.agents() {
            agent.lock().unwrap().wanted = false;
        }
        if let Some(disk) = &self.disk {
            self.agent.lock().unwrap().signal("KILL");
            let _ = Command::new("umount").arg("-l").arg(disk).status();
        }
    }
}

/// A small file system, if that is permitted here.
fn mount(directory: &Path) -> Option<PathBuf> {
    let disk = directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let size = format!("size={DISK}m,mode=755");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk).output();
    mounted.is_ok_and(|output| output.status.success()).then_some(disk)
}

fn kubeconfig(to: &Proxy) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{ name: c, cluster: {{ server: 'http://{}' }} }}]\n\
         users: [{{ name: u, user: {{}} }}]\n\
         contexts: [{{ name: c, context: {{ cluster: c, user: u }} }}]\n",
        to.address
    )
}

/// The shipped files, with the arguments for sign-in.
fn haproxy_files(directory: &Path) -> PathBuf {
    let files = directory.join("haproxy");
    copy_with_browser_args(&files);
    files
}

/// What the agent reads of files.
fn write_secrets(directory: &Path) {
    for (name, text) in
        [("secret", "s3cret&+\n"), ("redis-password", "p4ss&+\n"), ("clock", "+0\n")]
    {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

impl Site<'_> {
    /// Writes the agent's configuration; `root` is the first agent's directory.
    fn write(&self, root: &Path, idp: &DevIdp, https: u16, pods: &Pods) {
        let own = |file: &str| self.directory.join(file).display().to_string();
        let at = |file: &str| match self.disk {
            Some(disk) => disk.join(file).display().to_string(),
            None => own(file),
        };
        let root = |file: &str| root.join(file).display().to_string();
        std::fs::write(self.directory.join("kubeconfig"), kubeconfig(self.to_platform)).unwrap();
        let mut sockets = vec![root("master.sock")];
        let mut listen = r#""unix:spop.sock", "127.0.0.1:0""#.to_owned();
        let mut reuse = String::new();
        if let Some(spop) = self.spop {
            listen = format!(r#""{spop}""#);
            reuse = format!("verdict_cache_ms = {}", REUSE.as_millis());
            // There is no reuse while one of these does not answer.
            sockets.push(root("second/master.sock"));
        } else {
            // Of the one that takes over in an upgrade.
            sockets.push(root("next-master.sock"));
        }
        let sockets: Vec<_> = sockets.iter().map(|socket| format!(r#""unix:{socket}""#)).collect();
        let text = format!(
            r#"
[agent]
listen = [{listen}]
socket_mode = "0666"
{reuse}

[[issuer]]
name = "dev"
issuer = "{issuer}"
audience = "workspaces"
match = ["subject"]
unknown_key_seconds = 1
refresh_seconds = 60
leeway_seconds = 0
key_cache_file = "{keys}"

[issuer.sign_in]
client_id = "gate"
client_secret_file = "secret"

[sign_in]
host = "{LOGIN}"
port = {https}
listen = "{pages}"
encryption_keys_file = "{ring}"

[redis]
url = "redis://{store}"
password_file = "redis-password"
max_staleness_seconds = 5

[[host]]
pattern = '(?:(?<port>[0-9]+)-)?(?<workspace>w[0-9]+)\.cluster\.gate\.test'

[destinations]
allow = ["127.0.0.0/8"]

[[source]]
name = "cluster"
kind = "kubernetes"
resource = "gitpod"
owner = "subject"
issuer = "dev"
kubeconfig = "kubeconfig"
ide_port = {ide_port}
resync_seconds = 2
stale_seconds = {stale}
stale_open_seconds = 10

[haproxy]
sockets = [{sockets}]

[tunnels]
file = "tunnels.json"

[audit]
file = "{audit}"

[admin]
socket = "agent-admin.sock"
revocations = "{revocations}"
"#,
            issuer = idp.issuer(),
            keys = at("dev-keys.json"),
            pages = self.pages,
            ring = root("keys"),
            store = self.to_store.address,
            ide_port = pods.main_port,
            stale = STALE.as_secs(),
            sockets = sockets.join(", "),
            audit = at("audit.jsonl"),
            revocations = at("revocations.jsonl"),
        );
        std::fs::write(self.directory.join("agent.toml"), text).unwrap();
    }
}
