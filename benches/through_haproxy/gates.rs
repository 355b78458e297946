//! What HAProxy is told, and the processes of it.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A front end that answers by itself, or the shipped file with a workspace behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Minimal,
    Whole,
}

impl Shape {
    pub const ALL: [Self; 2] = [Self::Minimal, Self::Whole];

    pub fn variants(self) -> &'static [&'static str] {
        match self {
            Self::Minimal => {
                &["no SPOE", "jwt_verify", "floor", "floor-reuse", "naive", "ours", "ours-reuse"]
            }
            Self::Whole => &["no SPOE", "ours", "ours-reuse"],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => "a front end that answers by itself",
            Self::Whole => "haproxy/haproxy.cfg, and a workspace behind it",
        }
    }
}

/// How long an allow may be reused.
const VERDICT_CACHE_MS: &str = "5000";
const SHIPPED: &str = include_str!("../../haproxy/haproxy.cfg");
/// What the agent answers, without asking it.
const CONSTANTS: [(&str, &str); 11] = [
    ("allow", "bool(true)"),
    ("reason", "str(owner)"),
    ("decision_id", "str(019a0123456-deadbeef-12345678)"),
    ("user", "str(alice)"),
    ("subject", "str(sub-alice)"),
    ("issuer", "str(http://127.0.0.1:12345/issuer)"),
    ("workspace", "str(pinkpanda-demo-ns35kd21abc)"),
    ("owner", "str(alice)"),
    ("endpoint", "str(main)"),
    ("dst_ip", "str(127.0.0.1)"),
    ("keep", "str(query)"),
];
const ASK: &str = "    http-request send-spoe-group identity authorize\n";
const FILTER: &str = "    filter spoe engine identity config identity.spoe.cfg\n";

/// One HAProxy with one of the variants.
pub struct Gate {
    pub variant: &'static str,
    pub address: SocketAddr,
    pub pid: u32,
    pub agent: Option<u32>,
    name: String,
    child: Child,
}

impl Gate {
    pub fn start(
        version: &str,
        shape: Shape,
        variant: &'static str,
        upstream: Option<SocketAddr>,
        directory: &Path,
    ) -> Self {
        // HAProxy cannot tell which port the system chose.
        let address = free();
        let agent = fs::read_to_string(directory.join(format!("{variant}.pid"))).ok();
        let socket = format!("unix@{}", directory.join(format!("{variant}.sock")).display());
        let text = match shape {
            Shape::Minimal => minimal(variant, address, &socket, directory),
            Shape::Whole => whole(variant, upstream.unwrap()),
        };
        let mut gate = Self::run(version, variant, 0, address, &socket, &text, directory);
        gate.agent = agent.map(|pid| pid.parse().unwrap());
        gate
    }

    /// A workspace: another HAProxy, on the clients' core.
    pub fn upstream(version: &str, address: SocketAddr, directory: &Path) -> Self {
        let text = format!(
            "global\ndefaults\n    mode http\n    timeout client 1m\n    timeout server 1m\n    timeout connect 1s\n\
             frontend workspace\n    bind {address}\n    http-request return status 200 content-type text/plain string ok\n"
        );
        Self::run(version, "workspace", 1, address, "", &text, directory)
    }

    fn run(
        version: &str,
        variant: &'static str,
        core: u8,
        address: SocketAddr,
        socket: &str,
        text: &str,
        directory: &Path,
    ) -> Self {
        let short = variant.replace(' ', "-");
        let thread = format!("global\n    nbthread 1\n    cpu-map 1/1 {core}\n");
        let text = text.replacen("global\n", &thread, 1);
        let config = directory.join(format!("{short}.cfg"));
        fs::write(&config, text).unwrap();
        let shipped = test_stage::haproxy::root().join("haproxy");
        let name = format!("identity-spoa-bench-{}-{short}", std::process::id());
        let mut run = Command::new("docker");
        run.args(["run", "--rm", "--network", "host", "--user", "0", "--name", &name]);
        run.args(["-e", &format!("GATE_HTTP={address}")]);
        run.args(["-e", &format!("IDENTITY_AGENT={socket}")]);
        if variant.ends_with("-reuse") {
            run.args(["-e", &format!("GATE_REUSE={VERDICT_CACHE_MS}")]);
        }
        let child = run
            .arg("-v")
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
        Self { variant, address, pid, agent: None, name, child }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
        let _ = self.child.wait();
    }
}

/// A port that no program listens at, as far as that can be known.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn minimal(variant: &str, address: SocketAddr, socket: &str, directory: &Path) -> String {
    let ok = "http-request return status 200 content-type text/plain string ok";
    let asked =
        format!("{ASK}    {ok} if {{ var(txn.identity.allow) -m bool }}\n    http-request deny\n");
    let rules = match variant {
        "no SPOE" => format!("    {ok}\n"),
        "jwt_verify" => format!(
            "    http-request set-var(txn.bearer) http_auth_bearer\n    \
             {ok} if {{ var(txn.bearer),jwt_verify(\"RS256\",\"{}\") -m int 1 }}\n    http-request deny\n",
            directory.join("key.pem").display()
        ),
        _ if variant.ends_with("-reuse") => {
            // The shipped rules; what is reused ends here as well.
            let (_, rest) = SHIPPED.split_once(".if defined(GATE_REUSE)\n").unwrap();
            let (rules, _) = rest.split_once(".endif\n").unwrap();
            let pass = "    http-request allow if reuse_hit\n";
            assert!(rules.contains(pass));
            let rules = rules.replace(pass, &format!("    {ok} if reuse_hit\n"));
            format!("{FILTER}{rules}{asked}")
        }
        _ => format!("{FILTER}{asked}"),
    };
    let agent = if socket.is_empty() || matches!(variant, "no SPOE" | "jwt_verify") {
        String::new()
    } else {
        format!(
            "backend identity-agent\n    mode tcp\n    timeout connect 1s\n    timeout server 1m\n    server agent {socket}\n"
        )
    };
    format!(
        "global\ndefaults\n    mode http\n    timeout client 1m\n    timeout server 1m\n    timeout connect 1s\n\
         frontend gate\n    bind {address}\n    unique-id-format %[uuid()]\n{rules}{agent}"
    )
}

/// The shipped file, without its log.
fn whole(variant: &str, upstream: SocketAddr) -> String {
    let text = SHIPPED.replace("log stdout format raw local0 info", "log /dev/null local0 emerg");
    if variant != "no SPOE" {
        return text;
    }
    let set = |(name, value): (&str, &str)| {
        format!("    http-request set-var(txn.identity.{name}) {value}\n")
    };
    let mut constants: String = CONSTANTS.into_iter().map(set).collect();
    constants += &set(("dst_port", &format!("int({})", upstream.port())));
    assert!(text.contains(ASK) && text.contains(FILTER));
    text.replace(FILTER, "").replace(ASK, &constants)
}
