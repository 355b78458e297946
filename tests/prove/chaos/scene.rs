//! The stage for faults: everything the agent depends on stands behind something that can fail.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::Method;
use tempfile::TempDir;

use super::{
    platform::Platform,
    proxy::{Proxy, Target},
    upstream::Pods,
};
use crate::{
    chance::Chance,
    dev_idp::DevIdp,
    stage::{self, Admin, LOGIN, World},
    support::{Haproxy, Version, agent::PROGRAM, haproxy::free_port, redis::Redis, until},
    truth::{Place, Source},
};

/// How many people there are.
pub const PEOPLE: usize = 30;
/// How long workspaces go on without their platform: owners, and everybody else.
pub const STALE: Duration = Duration::from_secs(15);
/// What the file system for audit trail and journal holds, in MiB.
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
    pub gate: std::net::SocketAddr,
    pub https: u16,
    pub agent: Mutex<Agent>,
    pub admin: Admin,
    pub directory: TempDir,
    /// A small file system, where one can be mounted.
    pub disk: Option<PathBuf>,
    pub faketime: Option<PathBuf>,
    /// When the agent was last kept from hearing what changed; in the future while it is.
    pub disturbed: Mutex<Instant>,
    /// Changes that the agent may not know yet.
    pub pending: Mutex<Vec<Pending>>,
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
    /// Whether it began a moment ago, and may not have asked everybody yet.
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
        let mut command = Command::new(PROGRAM);
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
    pub async fn start(seed: u64, version: &Version) -> Arc<Self> {
        let idp = DevIdp::start().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let pods = Pods::start(PEOPLE).await;
        let platform = Platform::start().await;
        let store = Redis::start(path).await;
        let to_store = Proxy::start(Target::Unix(path.join("redis.sock"))).await;
        let to_platform = Proxy::start(Target::Tcp(platform.address)).await;
        let disk = mount(path);
        let pages = free_port();
        let env = format!("GATE_LOGIN_HOST={LOGIN}\nGATE_LOGIN_PAGES={pages}\n");
        std::fs::write(path.join("haproxy.env"), env).unwrap();
        std::fs::write(path.join("secret"), "s3cret&+\n").unwrap();
        std::fs::write(path.join("redis-password"), "p4ss&+\n").unwrap();
        std::fs::write(path.join("clock"), "+0\n").unwrap();
        std::fs::write(path.join("kubeconfig"), kubeconfig(&to_platform)).unwrap();
        let files = stage::haproxy_files(path);
        let named = (pods.address(0), pods.main_port).into();
        let socket = path.join("spop.sock");
        let haproxy = Haproxy::start_from(&files, version, path, &socket, named).await;
        let (gate, https) = (haproxy.http, haproxy.https.port());
        let config =
            config(idp.issuer(), https, &pages.to_string(), &to_store, &pods, disk.as_deref());
        std::fs::write(path.join("agent.toml"), config).unwrap();
        let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
        let scene = Self {
            world: Arc::new(World::new(&idp)),
            admin: Admin::new(&path.join("agent-admin.sock")),
            agent: Mutex::new(Agent {
                child: None,
                directory: path.into(),
                wanted: true,
                starts: 0,
                faked: None,
                ended: None,
                started: None,
            }),
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
        scene.agent.lock().unwrap().look();
        let scene = Arc::new(scene);
        until("the agent to be ready", async || {
            scene.admin.ask(Method::GET, "/readyz", None).await.ok()
        })
        .await;
        scene
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
            // Heard at once; after a disturbance when the platform was asked anew.
            let heard = change.at.max(disturbed) + Duration::from_secs(3);
            // Whatever happens, a workspace that nobody confirms is closed.
            let closed = change.at + STALE + Duration::from_secs(4);
            let due = now >= heard || change.ends && now >= closed;
            if due {
                change.place.phase.settle_one(change.number, Duration::ZERO);
            }
            !due
        });
    }

    /// Ends sessions of which nobody knows whether they still count.
    pub fn doubt_sessions(&self) {
        for resident in self.world.residents().iter() {
            if let Some(session) = resident.person.session().filter(|s| s.alive.latest()) {
                session.alive.begin(false);
            }
        }
    }

    /// Nobody is signed in any more, as far as the oracle asks.
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
        self.agent.lock().unwrap().wanted = false;
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

fn config(
    issuer: &str,
    https: u16,
    pages: &str,
    store: &Proxy,
    pods: &Pods,
    disk: Option<&Path>,
) -> String {
    let at = |file: &str| match disk {
        Some(disk) => disk.join(file).display().to_string(),
        None => file.to_owned(),
    };
    format!(
        r#"
[agent]
listen = ["unix:spop.sock", "127.0.0.1:0"]
socket_mode = "0666"

[[issuer]]
name = "dev"
issuer = "{issuer}"
audience = "workspaces"
match = ["subject"]
unknown_key_seconds = 1
refresh_seconds = 60
leeway_seconds = 0
keys_file = "{keys}"

[issuer.sign_in]
client_id = "gate"
client_secret_file = "secret"

[sign_in]
host = "{LOGIN}"
port = {https}
listen = "{pages}"
keys_file = "keys"

[shared]
url = "redis://{store}"
password_file = "redis-password"
keep_seconds = 5

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
sockets = ["unix:master.sock", "unix:next-master.sock"]

[tunnels]
file = "tunnels.json"

[audit]
file = "{audit}"

[admin]
socket = "agent-admin.sock"
revocations = "{revocations}"
"#,
        keys = at("dev-keys.json"),
        store = store.address,
        ide_port = pods.main_port,
        stale = STALE.as_secs(),
        audit = at("audit.jsonl"),
        revocations = at("revocations.jsonl"),
    )
}
