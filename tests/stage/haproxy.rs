//! A real HAProxy with the shipped configuration: in a container for each version there is an image
//! of, else the binary of this machine.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{certificates::Authority, until};

/// The repository.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
    });
    &ROOT
}

/// A HAProxy to test with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// An image, by its tag.
    Container(String),
    /// The binary of this machine.
    Local,
}

impl Version {
    /// All there are, or those that `GATE_VERSIONS` names; found out once.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Version>> = OnceLock::new();
        ALL.get_or_init(|| {
            let script = root().join("tests/containers/images.sh");
            let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
            let tags = String::from_utf8(output.stdout).unwrap();
            let only = std::env::var("GATE_VERSIONS").unwrap_or_default();
            let is_wanted =
                |tag: &&str| only.is_empty() || only.split(' ').any(|name| name == *tag);
            let images: Vec<_> =
                tags.lines().filter(is_wanted).map(|tag| Self::Container(tag.into())).collect();
            if images.is_empty() {
                eprintln!("no container images: testing with the haproxy of this machine only");
                return vec![Self::Local];
            }
            eprintln!(
                "testing with haproxy {}",
                tags.split_whitespace().collect::<Vec<_>>().join(", ")
            );
            images
        })
    }

    /// The newest.
    pub fn newest() -> &'static Self {
        Self::all().last().unwrap()
    }

    fn command(&self, name: &str, mounts: &[(&Path, &str)], env: &[(&str, String)]) -> Command {
        match self {
            Self::Local => {
                let mut command = Command::new("haproxy");
                command.envs(env.iter().map(|(key, value)| (key, value)));
                command
            }
            Self::Container(tag) => {
                let mut command = Command::new("docker");
                command.args(["run", "--rm", "--network", "host", "--user", "0", "--name", name]);
                for (path, mode) in mounts {
                    let path = path.display();
                    command.arg("-v").arg(format!("{path}:{path}:{mode}"));
                }
                for (key, value) in env {
                    command.arg("-e").arg(format!("{key}={value}"));
                }
                command.arg(format!("identity-spoa/haproxy:{tag}")).arg("haproxy");
                command
            }
        }
    }

    /// Runs `haproxy -c` on the shipped configuration; its output.
    pub fn check(&self, env: &[(&str, String)]) -> (bool, String) {
        self.check_in(&root().join("haproxy"), env)
    }

    /// Runs `haproxy -c` on the configuration in a directory; its output.
    pub fn check_in(&self, directory: &Path, env: &[(&str, String)]) -> (bool, String) {
        let name = unique_name();
        let output = self
            .command(&name, &[(directory, "ro")], env)
            .args(["-c", "-C"])
            .arg(directory)
            .args(["-f", "haproxy.cfg", "-f", "tcp.cfg"])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("identity-spoa-test-{}-{count}", std::process::id())
}

/// An address of loopback that no other test uses, with a free port: HAProxy cannot report which port
/// the system chose, so the test chooses, on an address of its own.
pub fn own_address() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [_, _, c, d] = (std::process::id() << 8 | count & 0xff).to_be_bytes();
    let e = u8::try_from(32 + (std::process::id() >> 8) % 200).unwrap();
    let ip = IpAddr::from([127, e, c, d.clamp(1, 254)]);
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// A port that is free at this moment, for programs that cannot choose one.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A running HAProxy; killed when dropped.
pub struct Haproxy {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub tcp: SocketAddr,
    child: Child,
    container: Option<String>,
    log: PathBuf,
    directory: PathBuf,
    configuration: PathBuf,
    env: Vec<(String, String)>,
}

/// Copies the shipped files into a directory. The message gets the arguments about the browser's request, as the
/// SPOE file itself says it: sign-in and tokens in cookies need them.
pub fn copy_with_browser_args(files: &Path) {
    let shipped = root().join("haproxy");
    std::fs::create_dir_all(files.join("pages")).unwrap();
    let pages = ["pages/style.css", "pages/too-large.html", "pages/unavailable.html"];
    for file in pages.into_iter().chain(["haproxy.cfg", "tcp.cfg"]) {
        std::fs::copy(shipped.join(file), files.join(file)).unwrap();
    }
    let text = std::fs::read_to_string(shipped.join("identity.spoe.cfg")).unwrap();
    let args = "certificate_result=ssl_c_verify\n\nspoe-group authorize\n";
    assert!(text.contains(args));
    let more = text.lines().find_map(|line| line.strip_prefix("#     query=query fetch_mode"));
    let with = format!(
        "certificate_result=ssl_c_verify query=query fetch_mode{}\n\nspoe-group authorize\n",
        more.unwrap()
    );
    std::fs::write(files.join("identity.spoe.cfg"), text.replace(args, &with)).unwrap();
}

/// Changes a copy of the shipped files so that programs may send tokens in this header, as the files themselves say it.
pub fn add_token_header(files: &Path, header: &str) {
    let (gate, spoe) = (files.join("haproxy.cfg"), files.join("identity.spoe.cfg"));
    let lower = format!("({})", header.to_ascii_lowercase());
    let text = std::fs::read_to_string(&spoe).unwrap();
    let args = text.lines().find_map(|line| line.strip_prefix("#     token="));
    let args =
        format!("    args token={}\n", args.unwrap()).replace("(proxy-authorization)", &lower);
    let place = "spoe-group authorize\n";
    assert_eq!(text.matches(place).count(), 1);
    std::fs::write(&spoe, text.replace(place, &format!("{args}\n{place}"))).unwrap();
    let text = std::fs::read_to_string(&gate).unwrap();
    let line = "    http-request del-header Proxy-Authorization\n";
    assert_eq!(text.matches(line).count(), 2, "part 4, and the backend 'reused'");
    let mut text = text.replace("(proxy-authorization)", &lower);
    if header != "Proxy-Authorization" {
        text = text.replace(line, &format!("{line}    http-request del-header {header}\n"));
    }
    std::fs::write(&gate, text).unwrap();
}

/// A configuration without what is there for reuse.
pub fn without_reuse(text: &str) -> String {
    let mut kept = String::new();
    let mut depth = 0;
    for line in text.lines() {
        let ours = line == ".if defined(GATE_REUSE)";
        match line.split_whitespace().next() {
            Some(".if") if ours || depth > 0 => depth += 1,
            Some(".endif") if depth > 0 => depth -= 1,
            _ if depth == 0 => kept += &format!("{line}\n"),
            _ => {}
        }
    }
    kept
}

impl Haproxy {
    /// Starts the shipped configuration. Certificates are made for it; `named` is the server of the
    /// backend `named`.
    pub async fn start(
        version: &Version,
        directory: &Path,
        agent: &Path,
        named: SocketAddr,
    ) -> Self {
        Self::start_from(&root().join("haproxy"), version, directory, agent, named).await
    }

    /// Starts a changed copy of the shipped configuration.
    pub async fn start_from(
        configuration: &Path,
        version: &Version,
        directory: &Path,
        agent: &Path,
        named: SocketAddr,
    ) -> Self {
        let (http, https, tcp) = (own_address(), own_address(), own_address());
        let certificate = certificate(directory);
        let authority = directory.join("client-ca.pem");
        if !authority.exists() {
            std::fs::write(&authority, Authority::new("unused").pem()).unwrap();
        }
        let upstream = directory.join("upstream-ca.pem");
        let upstream =
            if upstream.exists() { upstream.display().to_string() } else { "@system-ca".into() };
        let mut env: Vec<(String, String)> = [
            ("GATE_UPSTREAM_CA", upstream),
            ("GATE_HTTP", http.to_string()),
            ("GATE_HTTPS", https.to_string()),
            ("GATE_TCP", tcp.to_string()),
            ("GATE_CERT", certificate.display().to_string()),
            // Most tests send bytes of their own in the clear.
            ("GATE_PLAIN", "1".to_owned()),
            ("GATE_CLIENT_CA", authority.display().to_string()),
            ("IDENTITY_AGENT", format!("unix@{}", agent.display())),
            ("GATE_NAMED_BACKEND", named.to_string()),
            ("GATE_ADMIN_SOCKET", directory.join("admin.sock").display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        // What a test adds, a variable a line; a name alone takes one away.
        let more = std::fs::read_to_string(directory.join("haproxy.env")).unwrap_or_default();
        for line in more.lines() {
            match line.split_once('=') {
                Some((name, value)) => env.push((name.to_owned(), value.to_owned())),
                None => env.retain(|(name, _)| name != line),
            }
        }
        Self::launch(version, configuration, directory, env, [http, https, tcp], "").await
    }

    /// Starts another one at the same addresses, during this one or after its end. `name` distinguishes its files
    /// (`master.sock`, `haproxy.log`) from those of others.
    pub async fn another(&self, version: &Version, name: &str) -> Self {
        let addresses = [self.http, self.https, self.tcp];
        let env = self.env.clone();
        Self::launch(version, &self.configuration, &self.directory, env, addresses, name).await
    }

    async fn launch(
        version: &Version,
        configuration: &Path,
        directory: &Path,
        env: Vec<(String, String)>,
        [http, https, tcp]: [SocketAddr; 3],
        prefix: &str,
    ) -> Self {
        let name = unique_name();
        let log = directory.join(format!("{prefix}haproxy.log"));
        let file = File::create(&log).unwrap();
        let variables: Vec<_> = env.iter().map(|(name, v)| (&**name, v.clone())).collect();
        let child = version
            .command(&name, &[(configuration, "ro"), (directory, "rw")], &variables)
            // A master process: it is what a reload is asked of.
            .args(["-W", "-db", "-S"])
            .arg(directory.join(format!("{prefix}master.sock")))
            .arg("-C")
            .arg(configuration)
            .args(["-f", "haproxy.cfg", "-f", "tcp.cfg"])
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let container = matches!(version, Version::Container(_)).then_some(name);
        let (directory, configuration) = (directory.to_owned(), configuration.to_owned());
        let mut haproxy =
            Self { http, https, tcp, child, container, log, directory, configuration, env };
        // No connection to find out: the first stream of the process is the test's.
        until("haproxy to listen", async || {
            assert!(haproxy.child.try_wait().unwrap().is_none(), "{}", haproxy.log());
            haproxy.log().contains("Loading success").then_some(())
        })
        .await;
        haproxy
    }

    /// Sends the master process a signal by its name, such as `USR1`.
    pub fn signal(&self, signal: &str) {
        let done = match &self.container {
            Some(name) => Command::new("docker").args(["kill", "-s", signal, name]).output(),
            None => Command::new("sh")
                .args(["-c", &format!("kill -{signal} {}", self.child.id())])
                .output(),
        };
        assert!(done.unwrap().status.success());
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Asks the master process for a reload.
    pub fn reload(&self) {
        self.signal("USR2");
    }

    /// Lets every process of it stand still, or go on. Returns whether that is possible here.
    pub fn pause(&self, pause: bool) -> bool {
        let Some(name) = &self.container else { return false };
        let what = if pause { "pause" } else { "unpause" };
        Command::new("docker").args([what, name]).output().unwrap().status.success()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        match &self.container {
            Some(name) => {
                let _ = Command::new("docker").args(["rm", "-f", name]).output();
            }
            None => {
                // The master takes its workers along only when it is asked to end.
                let _ =
                    Command::new("sh").args(["-c", &format!("kill {}", self.child.id())]).status();
            }
        }
        let _ = self.child.wait();
    }
}

/// A self-signed certificate for the hosts of the stage.
pub fn certificate(directory: &Path) -> PathBuf {
    let (key, certificate) = (directory.join("gate.key"), directory.join("gate.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=gate", "-addext", "subjectAltName=DNS:*.ws.gitpod.test"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = directory.join("gate.pem");
    let text = [std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap()].concat();
    std::fs::write(&both, text).unwrap();
    both
}
