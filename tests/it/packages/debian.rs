//! The Debian package: what is in it, that every Debian takes it, and that systemd runs the agent as the units
//! say. `make package` makes the package and runs these tests.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{
    ALICES, Client, Version,
    haproxy::{own_address, root, unique_name},
    host, until, workspaces,
};
use dev_idp::DevIdp;
use dev_workspace::DevWorkspace;

/// The package that was made last.
fn package() -> PathBuf {
    let directory = root().join("target/package");
    let entries = std::fs::read_dir(&directory).expect("no package: make package");
    let mut packages = entries.map(|entry| entry.unwrap().path());
    packages.find(|path| path.extension().is_some_and(|e| e == "deb")).expect("no package")
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs the package: make package"]
fn the_package_holds_the_program_its_units_pages_and_completions() {
    let package = package();
    let path = package.to_str().unwrap();
    let field = |name: &str| output("dpkg-deb", &["-f", path, name]);
    assert_eq!(field("Package"), "identity-spoa");
    assert_eq!(field("Version"), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    let depends = field("Depends");
    assert!(depends.contains("libc6 (>= ") && depends.contains("passwd"), "{depends}");
    let list = output("dpkg-deb", &["-c", path]);
    let mut files = Vec::new();
    for line in list.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (mode, owner, path) = (words[0], words[1], words[5].trim_start_matches('.'));
        assert!(["root/root", "0/0"].contains(&owner), "{line}");
        let expected = match (mode.starts_with('d'), path.starts_with("/usr/bin/")) {
            (true, _) => "drwxr-xr-x",
            (false, true) => "-rwxr-xr-x",
            (false, false) => "-rw-r--r--",
        };
        assert_eq!(mode, expected, "{line}");
        files.push(path);
    }
    let has = |path: &str| {
        let compressed = format!("{path}.gz");
        assert!(files.contains(&path) || files.contains(&compressed.as_str()), "{path}\n{list}");
    };
    for path in [
        "/usr/bin/identity-spoa",
        "/usr/share/man/man1/identity-spoa.1",
        "/usr/share/man/man1/identity-spoa-haproxy-selftest.1",
        "/usr/share/bash-completion/completions/identity-spoa",
        "/usr/share/zsh/vendor-completions/_identity-spoa",
        "/usr/share/fish/vendor_completions.d/identity-spoa.fish",
        "/usr/share/identity-spoa/haproxy/haproxy.cfg",
        "/usr/share/identity-spoa/haproxy/identity.spoe.cfg",
        "/usr/share/identity-spoa/haproxy/pages/too-large.html",
        "/usr/share/identity-spoa/haproxy/pages/unavailable.html",
        "/usr/share/doc/identity-spoa/examples/agent.toml",
        "/usr/share/doc/identity-spoa/README.md",
        "/usr/share/doc/identity-spoa/copyright",
        "/usr/share/doc/identity-spoa/docs/configuration.md",
        "/usr/share/doc/identity-spoa/docs/platforms/ona.md",
    ] {
        has(path);
    }
    for unit in ["identity-spoa.service", "identity-spoa.socket"] {
        let there = files.iter().any(|path| path.ends_with(&format!("lib/systemd/system/{unit}")));
        assert!(there, "{unit}\n{list}");
    }
    // Nothing is put where only an operator writes.
    assert!(!files.iter().any(|path| path.starts_with("/etc/")), "{list}");
    let size = std::fs::metadata(&package).unwrap().len() / 1000;
    eprintln!("package: {size} kB");
}

/// Which commands a container of a Debian runs; the package is /package.deb.
fn in_debian(image: &str, script: &str) -> Output {
    Command::new("docker")
        .args(["run", "--rm", "--network", "none", "-v"])
        .arg(format!("{}:/package.deb:ro", package().display()))
        .args([image, "sh", "-euc", script])
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs the package: make package"]
fn every_debian_takes_the_package_and_lets_it_go() {
    let script = r#"
dpkg -i /package.deb
dpkg -V identity-spoa
identity-spoa --version
[ "$(stat -c %a:%U /etc/identity-spoa/secrets)" = 700:root ]
# Names are looked up as the machine does it, also by modules of another libc than that of the build.
printf 'passwd: files hesiod\ngroup: files hesiod compat\nhosts: files hesiod dns\n' >/etc/nsswitch.conf
cd /tmp
cat >agent.toml <<END
[agent]
listen = ["unix:spop.sock"]
socket_owner = ":there-is-no-such-name"
[[issuer]]
name = "corp"
issuer = "https://idp.invalid"
audience = "workspaces"
[[host]]
preset = "gitpod"
domain = "gitpod.test"
[workspaces]
file = "workspaces.yaml"
END
echo 'workspaces: []' >workspaces.yaml
set +e
identity-spoa run --config agent.toml >/dev/null 2>error
code=$?
set -e
cat error
[ "$code" -gt 0 ] && [ "$code" -lt 128 ] && grep -q there-is-no-such-name error
identity-spoa doctor --config agent.toml && exit 1
dpkg --purge identity-spoa
! [ -e /usr/bin/identity-spoa ] && ! [ -e /etc/identity-spoa ] && echo "gone without a trace"
"#;
    let images = Version::all();
    for version in images {
        let Version::Container(tag) = version else { panic!("no container engine") };
        let output = in_debian(&format!("identity-spoa/haproxy:{tag}"), script);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && text.contains("gone without a trace"), "{tag}: {text}");
    }
    assert!(images.len() > 1);
}

/// A machine with systemd; gone when dropped.
struct Machine(String);

impl Machine {
    /// Starts it with the package and a directory, at their places.
    async fn start(directory: &Path) -> Self {
        let machine = Self(unique_name());
        let mut start = Command::new("docker");
        start.args(["run", "-d", "--name", &machine.0, "--network", "host"]);
        // Less than --privileged, and what systemd needs to set up the sandboxes of services.
        for capability in ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"] {
            start.args(["--cap-add", capability]);
        }
        start.args(["--security-opt", "seccomp=unconfined"]);
        start.args(["--security-opt", "apparmor=unconfined"]);
        start.args(["--tmpfs", "/run", "--tmpfs", "/tmp", "-e", "container=docker"]);
        let groups = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            start.args(["--cgroupns", "host"]);
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/systemd"
        };
        start.arg("-v").arg(format!("{groups}:{groups}:rw"));
        start.arg("-v").arg(format!("{}:/package.deb:ro", package().display()));
        start.arg("-v").arg(format!("{0}:{0}:ro", directory.display()));
        start.args(["identity-spoa/systemd:bookworm", "sh", "-c"]);
        // On a real machine mounts are shared; without that, credentials do not reach services.
        start.arg("mount --make-rshared / && exec /lib/systemd/systemd");
        let started = start.output().unwrap();
        assert!(started.status.success(), "{started:?}");
        until("systemd to be up", async || {
            let state = machine.exec("systemctl is-system-running || true");
            ["running", "degraded"].contains(&state.1.trim()).then_some(())
        })
        .await;
        machine
    }

    /// Whether a script ended well, and what it printed.
    fn exec(&self, script: &str) -> (bool, String) {
        let output =
            Command::new("docker").args(["exec", &self.0, "sh", "-euc", script]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// The same for one that must end well.
    fn must(&self, script: &str) -> String {
        let (well, text) = self.exec(script);
        assert!(well, "{script}\n{text}\n{}", self.exec("journalctl --no-pager -n 50").1);
        text.trim().to_owned()
    }

    /// A property of the agent's service.
    fn property(&self, name: &str) -> String {
        self.must(&format!("systemctl show identity-spoa.service --value -p {name}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.0]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the package: make package"]
async fn systemd_runs_the_package_sandboxed_and_haproxy_asks_it_through_the_socket() {
    let idp = DevIdp::start().await;
    let (alice, bob) = (DevWorkspace::start("alices").await, DevWorkspace::start("bobs").await);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    // The example of the package, with the places of this stage.
    let example = std::fs::read_to_string(root().join("packaging/agent.toml")).unwrap();
    let settings = example
        .replace("https://idp.example.com/realms/corp", idp.issuer())
        .replace("gitpod.example.com", "gitpod.test")
        + "\n[destinations]\nallow = ['127.0.0.0/8']\n";
    assert!(settings.contains(idp.issuer()) && settings.contains("gitpod.test"));
    write("agent.toml", &settings);
    write("workspaces.yaml", &workspaces(&alice, &bob, "running"));
    write("token", &idp.token_of("alice"));
    let http = own_address();
    write(
        "haproxy",
        &format!(
            "CONFIG=/usr/share/identity-spoa/haproxy/haproxy.cfg\n\
             EXTRAOPTS='-S /run/haproxy-master.sock -C /usr/share/identity-spoa/haproxy -f /etc/haproxy/user.cfg'\n\
             GATE_HTTP={http}\nIDENTITY_AGENT=unix@/run/identity-spoa.sock\n"
        ),
    );
    let machine = Machine::start(directory.path()).await;
    let directory = directory.path().display();

    // Installed: enabled, and waiting for its configuration.
    machine.must("dpkg -i /package.deb");
    for unit in ["identity-spoa.service", "identity-spoa.socket"] {
        assert_eq!(machine.must(&format!("systemctl is-enabled {unit}")), "enabled");
    }
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.must("systemctl --failed --no-legend --plain"), "");

    // Configured: HAProxy, in its group alone, asks through systemd's socket.
    machine.must(&format!(
        "cp {directory}/agent.toml {directory}/workspaces.yaml /etc/identity-spoa/
         cp {directory}/haproxy /etc/default/haproxy
         printf 'global\\n    user haproxy\\n    group haproxy\\n' >/etc/haproxy/user.cfg
         printf secret >/etc/identity-spoa/secrets/corp
         systemctl start identity-spoa.socket identity-spoa.service
         systemctl restart haproxy"
    ));
    assert_eq!(machine.must("stat -c %a:%U:%G /run/identity-spoa.sock"), "660:root:haproxy");
    let open = async |when: &str| {
        until(&format!("the gate to open {when}"), async || {
            let reply =
                Client::connect(http).await.get(&host(ALICES), Some(&idp.token_of("alice"))).await;
            (reply.status == 200 && reply.body.contains("alices")).then_some(())
        })
        .await;
    };
    open("at first").await;
    let selftest = machine.must(&format!(
        "identity-spoa haproxy selftest --url http://{http} --host {} --token-file {directory}/token --echo",
        host(ALICES)
    ));
    assert!(selftest.contains("\n0 of "), "{selftest}");
    eprintln!("{}", selftest.lines().last().unwrap());

    // In its sandbox: no root, no capability, its system calls filtered, its files its own.
    let pid = machine.property("MainPID");
    let status = machine.must(&format!("cat /proc/{pid}/status"));
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>()
    };
    assert!(line("Uid").iter().all(|uid| *uid != "0"), "{status}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((line("NoNewPrivs"), line("Seccomp")), (vec!["1"], vec!["2"]));
    let uid = line("Uid")[0];
    for kept in ["/var/lib/identity-spoa/corp-keys.json", "/var/log/identity-spoa/audit.jsonl"] {
        assert_eq!(machine.must(&format!("stat -L -c %a:%u {kept}")), format!("600:{uid}"));
    }
    // As the agent sees it.
    let secret = format!("/proc/{pid}/root/run/credentials/identity-spoa.service/secrets_corp");
    assert_eq!(machine.must(&format!("cat {secret}")), "secret");
    assert_eq!(machine.property("NRestarts"), "0");

    // Killed: it comes again, and systemd keeps the socket in the meantime.
    machine.must(&format!("kill -9 {pid}"));
    until("another process", async || {
        let now = machine.property("MainPID");
        (now != pid && now != "0").then_some(())
    })
    .await;
    open("after a kill").await;

    // A new version takes over at once.
    let pid = machine.property("MainPID");
    machine.must("dpkg -i /package.deb");
    assert_ne!(machine.property("MainPID"), pid);
    assert_eq!(machine.property("ActiveState"), "active");
    open("after an upgrade").await;

    // Removed: what the operator wrote and the audit log stay, also when it is purged.
    machine.must("dpkg --purge identity-spoa");
    let gone =
        "! systemctl cat identity-spoa.service 2>/dev/null && ! [ -e /run/identity-spoa.sock ]";
    machine.must(gone);
    machine.must("ls /etc/identity-spoa/agent.toml /var/log/private/identity-spoa/audit.jsonl");
    let reply = Client::connect(http).await.get(&host(ALICES), Some(&idp.token_of("alice"))).await;
    assert_eq!(reply.status, 503);
}
