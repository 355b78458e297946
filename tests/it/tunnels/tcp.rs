//! TCP streams over TLS, decided by the server name and the client's certificate, as `ssh` through
//! `openssl s_client` makes them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;

use super::{
    Authority,
    scene::{Figures, Scene, at},
};
use crate::support::{PATIENCE, Version};

/// A server of another protocol than HTTP.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

struct Line {
    child: Child,
    input: ChildStdin,
    heard: mpsc::Receiver<String>,
}

impl Line {
    fn open(gate: SocketAddr, name: &str, certificate: &std::path::Path) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_quiet", "-connect", &gate.to_string()])
            .args(["-servername", name, "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, heard }
    }

    fn echoes(&mut self) {
        self.input.write_all(b"hello\n").unwrap();
        assert_eq!(self.heard.recv_timeout(PATIENCE).as_deref(), Ok("hello"));
    }

    fn ended(&mut self) -> Instant {
        assert_eq!(self.heard.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
        Instant::now()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_stream_is_allowed_routed_and_terminated_by_the_same_rules() {
    let authority = Authority::new("corp");
    for version in Version::all() {
        let rule =
            "[[certificate]]\nname = 'machines'\nidentity = 'uri'\nprefix = 'spiffe://corp/'\n";
        let mut scene = Scene::with(version, 3, 1, rule, |own| {
            std::fs::write(own.join("client-ca.pem"), authority.pem()).unwrap();
        })
        .await;
        for number in 0..2 {
            let destination = echo().await;
            let listed = scene.listed(number);
            listed.destination = destination;
            listed.machine = Some(["ci", "cd"][number]);
        }
        let _ = scene.write();
        let mut lines = Vec::new();
        for (number, name) in ["ci", "cd"].into_iter().enumerate() {
            let file = scene.directory.path().join(format!("{name}.pem"));
            let certificate = authority.of_uri(&format!("spiffe://corp/{name}"));
            std::fs::write(&file, &certificate.pem).unwrap();
            // Until the list is taken in, it is refused.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let mut line = Line::open(scene.haproxies[0].0.tcp, &at(number, 2222), &file);
                line.input.write_all(b"hello\n").unwrap();
                if line.heard.recv_timeout(Duration::from_secs(2)).is_ok() {
                    lines.push(line);
                    break;
                }
                assert!(Instant::now() < deadline, "{}", scene.haproxies[0].0.log());
            }
        }
        let tunnels = scene.tunnels();
        let one = tunnels.iter().find(|tunnel| tunnel["user"] == "ci").unwrap();
        assert_eq!((&one["kind"], &one["credential"]), (&"tcp".into(), &"certificate".into()));
        scene.listed(0).machine = None;
        let since = scene.write();
        let took = lines[0].ended().saturating_duration_since(since);
        lines[1].echoes();
        let mut figures = Figures::default();
        figures.add("grant removed", vec![took]);
        let since = Instant::now();
        scene.done(&["revoke", "--issuer", "machines", "--subject", "cd"]);
        figures.add("revoked", vec![lines[1].ended().saturating_duration_since(since)]);
        figures.judge(&format!("haproxy {version:?}, TCP"));
    }
}
