//! The image: what is in it, and a gate that containers make as the compose file says. `make image` makes the
//! image and runs these tests.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

use crate::support::{
    ALICES, BOBS, Client, Version,
    agent::program,
    config,
    haproxy::{certificate, own_address, root, unique_name},
    host, until, workspaces,
};
use dev_idp::DevIdp;
use dev_workspace::DevWorkspace;

/// The name of the image.
const IMAGE: &str = concat!("identity-spoa:", env!("CARGO_PKG_VERSION"));

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Containers and volumes that go with the test.
#[derive(Default)]
struct Stage {
    containers: Vec<String>,
    volumes: Vec<String>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (what, names) in [("container", &self.containers), ("volume", &self.volumes)] {
            for name in names {
                let _ = Command::new("docker").args([what, "rm", "-f", name]).output();
            }
        }
    }
}

/// A file of paths, modes and owners of the image.
fn contents() -> BTreeMap<String, (u32, u64, u64)> {
    let name = unique_name();
    docker(&["create", "--name", &name, IMAGE]);
    let directory = tempfile::tempdir().unwrap();
    let tar = directory.path().join("image.tar");
    docker(&["export", "-o", tar.to_str().unwrap(), &name]);
    docker(&["rm", &name]);
    let list = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar).output().unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let mode = words.next().unwrap().chars().skip(1).collect::<Vec<_>>();
        let bits = mode.iter().fold(0, |bits, c| bits << 1 | u32::from(*c != '-'));
        let special = mode.iter().any(|c| "sS".contains(*c));
        assert!(!special, "setuid or setgid: {line}");
        let (user, group) = words.next().unwrap().split_once('/').unwrap();
        let path = line.rsplit(' ').next().unwrap().trim_end_matches('/').to_owned();
        (path, (bits, user.parse().unwrap(), group.parse().unwrap()))
    };
    text.lines().filter(|line| !line.contains(" -> ")).map(entry).collect()
}

#[test]
#[ignore = "needs the image: make image"]
fn the_image_holds_the_program_and_nothing_that_helps_an_intruder() {
    let about: Value = serde_json::from_str(&docker(&["image", "inspect", IMAGE])).unwrap();
    let (about, config) = (&about[0], &about[0]["Config"]);
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/identity-spoa"]));
    let size = about["Size"].as_u64().unwrap();
    eprintln!("image: {:.1} MB", f64::from(u32::try_from(size / 1000).unwrap()) / 1000.0);
    let contents = contents();
    // Files that the engine puts into each container do not belong to the image.
    let engine = |path: &str| {
        ["dev", "proc", "sys", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf"]
            .iter()
            .any(|theirs| path == *theirs || path.starts_with("dev/"))
    };
    let files: Vec<_> = contents
        .keys()
        .filter(|path| !engine(path) && !path.starts_with("usr/share/identity-spoa"))
        .map(String::as_str)
        .collect();
    let expected = [
        "etc",
        "etc/group",
        "etc/identity-spoa",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl",
        "etc/ssl/certs",
        "etc/ssl/certs/ca-certificates.crt",
        "run",
        "run/identity-spoa",
        "tmp",
        "usr",
        "usr/bin",
        "usr/bin/identity-spoa",
        "usr/share",
        "usr/share/doc",
        "usr/share/doc/identity-spoa",
        "usr/share/doc/identity-spoa/LICENSE",
        "var",
        "var/lib",
        "var/lib/identity-spoa",
        "var/log",
        "var/log/identity-spoa",
    ];
    assert_eq!(files, expected);
    let ours = ["run/identity-spoa", "var/lib/identity-spoa", "var/log/identity-spoa"];
    for (path, (mode, user, group)) in contents.iter().filter(|(path, _)| !engine(path)) {
        let owner = if ours.contains(&path.as_str()) { 65532 } else { 0 };
        assert_eq!((*user, *group), (owner, owner), "{path}");
        assert!(mode & 0o002 == 0 || path == "tmp", "every user may write {path}");
    }
}

#[test]
#[ignore = "needs the image: make image"]
fn the_program_of_the_image_is_this_version() {
    let version = docker(&["run", "--rm", "--network", "none", IMAGE, "--version"]);
    assert_eq!(version, concat!("identity-spoa ", env!("CARGO_PKG_VERSION")));
}

/// A service of the compose file as arguments of `docker run`. Its files are in the directory, its volumes
/// have names of this test's.
fn arguments(service: &Value, directory: &Path, volumes: &BTreeMap<String, String>) -> Vec<String> {
    let mut arguments = vec!["--network".to_owned(), "host".to_owned()];
    let mut push = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
    for (key, value) in service.as_object().unwrap() {
        let list = || value.as_array().unwrap().iter().map(|item| item.as_str().unwrap());
        match key.as_str() {
            "read_only" => assert_eq!(value, true),
            "cap_drop" => list().for_each(|name| push("--cap-drop", name)),
            "security_opt" => list().for_each(|name| push("--security-opt", name)),
            "working_dir" => push("--workdir", value.as_str().unwrap()),
            "volumes" => {
                for volume in list() {
                    let (from, to) = volume.split_once(':').unwrap();
                    let from = match volumes.get(from) {
                        Some(volume) => volume.clone(),
                        None => directory.join(from).canonicalize().unwrap().display().to_string(),
                    };
                    push("-v", &format!("{from}:{to}"));
                }
            }
            // Ports are the host's here; the image, what starts again and the environment are the test's.
            "image" | "restart" | "depends_on" | "ports" | "environment" => {}
            other => panic!("not known to the test: {other}"),
        }
    }
    if service["read_only"] == true {
        arguments.push("--read-only".into());
    }
    arguments
}

/// A server of names that knows one of them, at 127.0.0.1. Needs the right to use port 53.
fn names(known: &'static str) -> SocketAddr {
    let address = SocketAddr::new(own_address().ip(), 53);
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[12..length];
            let labels = query.iter().position(|byte| *byte == 0).unwrap();
            let mut name = String::new();
            let mut at = 0;
            while at < labels {
                let end = at + 1 + usize::from(query[at]);
                name += &format!("{}.", std::str::from_utf8(&query[at + 1..end]).unwrap());
                at = end;
            }
            let query = &query[..labels + 5];
            let is_known = name.trim_end_matches('.').eq_ignore_ascii_case(known);
            let answers = is_known && query[labels + 1..labels + 3] == [0, 1];
            let mut reply = buffer[..2].to_vec();
            reply.extend([0x81, if is_known { 0x80 } else { 0x83 }]);
            reply.extend([0, 1, 0, u8::from(answers), 0, 0, 0, 0]);
            reply.extend(query);
            if answers {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image: make image"]
#[expect(clippy::too_many_lines, reason = "one gate, looked at from all sides")]
async fn the_gate_of_the_compose_file_is_closed_and_finds_names_in_hosts_and_dns() {
    let idp = DevIdp::start().await;
    let (alice, bob) = (DevWorkspace::start("alices").await, DevWorkspace::start("bobs").await);
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let write = |name: &str, text: &str| std::fs::write(gate.join(name), text).unwrap();

    // As the head of the compose file says.
    let settings = config(idp.issuer())
        .replace(r#""unix:spop.sock", "127.0.0.1:0""#, r#""unix:/run/identity-spoa/spop.sock""#)
        .replace("[audit]\nfile = \"audit.jsonl\"\n", "")
        .replace(
            "audience =",
            "key_cache_file = \"/var/lib/identity-spoa/dev-keys.json\"\naudience =",
        );
    assert!(settings.contains("/run/identity-spoa") && !settings.contains("audit.jsonl"));
    write("agent.toml", &settings);
    // One workspace is known by a name of the hosts file, the other by one of DNS.
    let place = |name: &str, address: SocketAddr| format!("http://{name}:{}", address.port());
    let list = workspaces(&alice, &bob, "running")
        .replace(&alice.address().to_string(), &place("alices.hosts.test", alice.address()))
        .replace(&bob.address().to_string(), &place("bobs.dns.test", bob.address()));
    write("workspaces.yaml", &list);
    let resolver = names("bobs.dns.test");
    std::fs::write(
        directory.path().join("resolv.conf"),
        format!("nameserver {}\noptions timeout:1\n", resolver.ip()),
    )
    .unwrap();
    std::fs::write(
        directory.path().join("hosts"),
        "127.0.0.1 localhost\n127.0.0.1 alices.hosts.test\n",
    )
    .unwrap();
    let generated = Command::new(program())
        .args(["haproxy", "generate", "--haproxy-version", "3.0", "--config"])
        .arg(gate.join("agent.toml"))
        .arg("--out")
        .arg(gate.join("haproxy"))
        .output()
        .unwrap();
    assert!(generated.status.success(), "{generated:?}");
    std::fs::copy(certificate(directory.path()), gate.join("gate.pem")).unwrap();
    let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(directory.path()).status();
    assert!(readable.unwrap().success());

    let compose = std::fs::read_to_string(root().join("packaging/compose.yaml")).unwrap();
    let compose: Value = serde_saphyr::from_str(&compose).unwrap();
    let mut stage = Stage::default();
    let mut volumes = BTreeMap::new();
    for (name, volume) in compose["volumes"].as_object().unwrap() {
        let own = unique_name();
        let mut create = Command::new("docker");
        create.args(["volume", "create"]);
        for (key, value) in volume["driver_opts"].as_object().into_iter().flatten() {
            create.arg("--opt").arg(format!("{key}={}", value.as_str().unwrap()));
        }
        assert!(create.arg(&own).stdout(Stdio::null()).status().unwrap().success(), "{name}");
        stage.volumes.push(own.clone());
        volumes.insert(name.clone(), own);
    }

    let agent = unique_name();
    let mut start = Command::new("docker");
    start.args(["run", "-d", "--name", &agent]);
    start.args(arguments(&compose["services"]["agent"], directory.path(), &volumes));
    for file in ["hosts", "resolv.conf"] {
        let path = directory.path().join(file);
        start.arg("-v").arg(format!("{}:/etc/{file}:ro", path.display()));
    }
    stage.containers.push(agent.clone());
    let started = run({
        start.arg(IMAGE);
        start
    })
    .await;
    assert!(started.status.success(), "{started:?}");

    // HAProxy's own image has the user 99 and finds its file by itself; the images here do not.
    let (http, https) = (own_address(), own_address());
    let haproxy = unique_name();
    let service = &compose["services"]["haproxy"];
    let mut start = Command::new("docker");
    start.args(["run", "-d", "--name", &haproxy, "--user", "99:99"]);
    start.args(arguments(service, directory.path(), &volumes));
    for (name, value) in service["environment"].as_object().unwrap() {
        let value = match name.as_str() {
            "GATE_HTTP" => http.to_string(),
            "GATE_HTTPS" => https.to_string(),
            _ => value.as_str().unwrap().to_owned(),
        };
        start.arg("-e").arg(format!("{name}={value}"));
    }
    let version = Version::Container("3.0".into());
    let version = Version::all().iter().find(|v| **v == version).unwrap_or(Version::newest());
    let Version::Container(tag) = version else { panic!("no image of HAProxy") };
    start.arg(format!("identity-spoa/haproxy:{tag}"));
    start.args(["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]);
    stage.containers.push(haproxy.clone());
    let started = run(start).await;
    assert!(started.status.success(), "{started:?}");
    let logs = |name: &str| {
        let output = Command::new("docker").args(["logs", name]).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    until("HAProxy to listen", async || std::net::TcpStream::connect(http).ok().map(drop)).await;
    let mut client = Client::connect(http).await;
    let reply = client.get(&host(ALICES), Some(&idp.token_of("alice"))).await;
    assert_eq!(reply.status, 301, "s13: {}", reply.body);
    for (workspace, user, body) in [(ALICES, "alice", "alices"), (BOBS, "bob", "bobs")] {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .resolve(&host(workspace), https)
            .build()
            .unwrap();
        let url = format!("https://{}:{}/", host(workspace), https.port());
        until(&format!("{user} to come in"), async || {
            let reply = client.get(&url).bearer_auth(idp.token_of(user)).send().await.unwrap();
            let (status, text) = (reply.status(), reply.text().await.unwrap());
            if status != 200 {
                eprintln!("{status} {text}");
            }
            (status == 200 && text.contains(body)).then_some(())
        })
        .await;
    }

    let token = directory.path().join("token");
    std::fs::write(&token, idp.token_of("alice")).unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644)).unwrap();
    {
        let url = format!("https://{https}");
        let mut selftest = Command::new("docker");
        selftest.args(["run", "--rm", "--network", "host", "--read-only", "--cap-drop", "ALL"]);
        selftest.arg("-v").arg(format!("{}:/token:ro", token.display())).arg(IMAGE);
        selftest.args(["haproxy", "selftest", "--url", &url, "--host", &host(ALICES)]);
        selftest.args(["--token-file", "/token", "--echo", "--insecure"]);
        let output = run(selftest).await;
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && text.contains("\n0 of "), "{text}");
        eprintln!("{url}: {}", text.lines().last().unwrap());
    }

    // The audit log is on standard output, and what is kept is kept by the image's user.
    let records = logs(&agent);
    assert!(records.lines().any(|line| line.contains(r#""decision_id""#)), "{records}");
    let kept = docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &volumes["state"]]);
    let keys = Path::new(&kept).join("dev-keys.json");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&keys.metadata().unwrap()), 65532);
    docker(&["stop", "-t", "15", &agent]);
    assert_eq!(docker(&["inspect", "-f", "{{.State.ExitCode}}", &agent]), "0", "{}", logs(&agent));
}
