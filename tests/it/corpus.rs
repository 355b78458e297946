//! The seeds of the fuzz targets, frames of each real HAProxy among them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use identity_spoa::spop::{
    AgentSide, Event, FrameType, Status, Value, ack, client,
    frame::{self, DEFAULT_SIZE},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use crate::support::{
    ALICES, Haproxy, Stage, Version, certificates::Authority, haproxy::root, host,
};
use dev_idp::DevIdp;

fn corpus() -> PathBuf {
    root().join("fuzz/corpus")
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let directory = corpus().join(target);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), bytes).unwrap();
}

/// Passes bytes on between HAProxy and the agent, and keeps what HAProxy says.
pub(crate) fn record(at: &Path, agent: PathBuf) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let said: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let listener = UnixListener::bind(at).unwrap();
    std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let keep = Arc::clone(&said);
    tokio::spawn(async move {
        while let Ok((haproxy, _)) = listener.accept().await {
            let (mut from, mut to) = haproxy.into_split();
            let (mut answers, mut notifies) =
                UnixStream::connect(&agent).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to).await });
            let connection = {
                let mut said = keep.lock().unwrap();
                said.push(Vec::new());
                said.len() - 1
            };
            let keep = Arc::clone(&keep);
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    keep.lock().unwrap()[connection].extend_from_slice(&buffer[..n]);
                    notifies.write_all(&buffer[..n]).await.unwrap();
                }
            });
        }
    });
    said
}

/// Frames as `version` sends them.
async fn capture(version: &Version) -> Vec<Vec<u8>> {
    let stage = Stage::with(version, DevIdp::start().await).await;
    let recorder = stage.directory.path().join("recorder.sock");
    let said = record(&recorder, stage.agent.socket());
    let haproxy =
        Haproxy::start(version, stage.directory.path(), &recorder, stage.bob.address()).await;
    let token = stage.idp.token_of("alice");
    let mut client = crate::support::Client::connect(haproxy.http).await;
    for lines in [
        String::new(),
        format!("Authorization: Bearer {token}\r\nCookie: a=1; b=2\r\n"),
        "Cookie: a=1\r\nCookie: b=2\r\nAuthorization: Basic dTpw\r\n".into(),
    ] {
        client.send(&host(ALICES), lines.as_bytes()).await;
    }
    client.send(&host(ALICES), b"Cookie: a=\xff\xfe\r\n").await;
    client.send("EXAMPLE.test:8080", b"").await;
    said.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes fuzz/corpus; run by `make corpus` when HAProxy or the SPOE configuration changes"]
async fn the_seeds_are_written() {
    for version in Version::all() {
        let Version::Container(tag) = version else { continue };
        let connections = capture(version).await;
        let mut notifies = 0;
        for stream in connections {
            let mut rest = &stream[..];
            while let Ok(Some((frame, used))) = frame::split(rest, DEFAULT_SIZE) {
                match frame.kind {
                    Some(FrameType::HaproxyHello) => {
                        let check = frame.payload.windows(11).any(|w| w == b"healthcheck");
                        let what = if check { "healthcheck" } else { "hello" };
                        write("hello", &format!("haproxy-{tag}-{what}"), frame.payload);
                        write("frame", &format!("haproxy-{tag}-{what}"), &rest[..used]);
                    }
                    Some(FrameType::Notify) => {
                        notifies += 1;
                        let name = format!("haproxy-{tag}-notify-{notifies}");
                        write("notify", &name, frame.payload);
                        write("differential", &name, &rest[..used]);
                        write("frame", &name, &rest[..used]);
                    }
                    _ => {}
                }
                rest = &rest[used..];
            }
            if stream.len() > 500 {
                // The first byte picks the size of the pieces; even: the HELLO is HAProxy's own.
                write(
                    "connection",
                    &format!("haproxy-{tag}-stream"),
                    &[&[64], &stream[..]].concat(),
                );
            }
        }
        assert!(notifies >= 5, "{notifies}");
    }
    made_up();
}

fn made_up() {
    let names = [
        rcgen::SanType::DnsName("ci.corp.test".try_into().unwrap()),
        rcgen::SanType::Rfc822Name("ci@corp.test".try_into().unwrap()),
        rcgen::SanType::URI("spiffe://corp/ci".try_into().unwrap()),
    ];
    let authority = Authority::new("corp");
    write("certificate", "all-names", &authority.certificate("runner 7", &names, |_| ()).der);
    write("certificate", "common-name", &authority.certificate("runner", &[], |_| ()).der);
    write("token_location", "cookies", b"a=1; token=x.y.z; b=2");
    write("token_location", "query", b"a=1&token=x.y.z&b=%20");
    write("token_location", "subprotocols", b"chat, base64url.bearer.authorization.k8s.io.YQ, v2");
    let mut bytes = Vec::new();
    client::disconnect(&mut bytes, Status::Timeout, "slow");
    write("frame", "disconnect", &bytes);
    write("connection", "hello-then-disconnect", &[&[1], &bytes[..]].concat());
    let args: &[client::Arg<'_>] = &[
        (b"", Value::Null),
        (b"", Value::Bool(true)),
        (b"i", Value::Int32(i32::MIN)),
        (b"u", Value::Uint32(u32::MAX)),
        (b"l", Value::Int64(i64::MIN)),
        (b"v", Value::Uint64(u64::MAX)),
        (b"4", Value::Ipv4([127, 0, 0, 1].into())),
        (b"6", Value::Ipv6([1; 16].into())),
        (b"s", Value::Str(b"\xff")),
        (b"b", Value::Bin(b"\0")),
    ];
    let mut bytes = Vec::new();
    client::notify(&mut bytes, (1, 1), DEFAULT_SIZE, &[(b"one", args), (b"two", &[])]).unwrap();
    write("differential", "every-type-in-two-messages", &bytes);
    write("frame", "every-type-in-two-messages", &bytes);
    write("connection", "every-type-in-two-messages", &[&[7], &bytes[..]].concat());
    let (frame, _) = frame::split(&bytes, DEFAULT_SIZE).unwrap().unwrap();
    write("notify", "every-type-in-two-messages", frame.payload);
    write("connection", "a-gigabyte-in-five-bytes", b"\x01\x40\0\0\0\x03");
    write("connection", "a-fragment", b"\x01\0\0\0\x07\x03\0\0\0\0\x01\x01");
    let mut bytes = Vec::new();
    ack::write(&mut bytes, (1, 1), DEFAULT_SIZE, |actions| {
        actions.set(ack::Scope::Transaction, "allow", Value::Bool(true));
        actions.unset(ack::Scope::Request, "reason");
    })
    .unwrap();
    write("frame", "ack", &bytes);
    let (frame, _) = frame::split(&bytes, DEFAULT_SIZE).unwrap().unwrap();
    write("roundtrip", "set-and-unset", frame.payload);
    for (name, header) in [("bearer", "Bearer a.b.c"), ("basic", "Basic dTpw")] {
        write("token", name, header.as_bytes());
    }
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL3gifQ.AAAA";
    write("token", "es256-without-signature", token.as_bytes());
    let rsa =
        format!(r#"{{"keys":[{{"kty":"RSA","kid":"r","n":"{}","e":"AQAB"}}]}}"#, "w".repeat(342));
    write("keys", "rsa-2048", rsa.as_bytes());
    let x = "A".repeat(43);
    let others = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{x}","y":"{x}"}},{{"kty":"OKP","crv":"Ed25519","x":"{x}"}},{{"kty":"oct","k":"AA"}}]}}"#
    );
    write("keys", "ec-okp-oct", others.as_bytes());
    for (name, text) in [
        ("gitpod-port", "3000-pinkpanda-demo-ns35kd21abc.ws-eu1.x.test:443"),
        ("ona-port", "3000--019a0000-aaaa-bbbb-cccc-0123456789ab.eu-1.x.test"),
        ("coder-app", "code--main--dev--alice.x.test"),
    ] {
        write("host", name, text.as_bytes());
    }
    write("cookie", "ours-among-others", b"a=1; __Host-identity=x; =__host-IDENTITY=y; b=\"2\"");
    let yaml = "workspaces:\n  - id: a\n    owner: { subject: s }\n    phase: running\n    destination: 10.0.0.1:80\n    grants: [{ group: g, endpoints: [main, 3000, 'app:x'] }]\n    ports: [{ port: 3000, admission: public }]\n";
    write("workspaces", "yaml", yaml.as_bytes());
    let toml = "[[workspaces]]\nid = 'a'\nowner = { email = 'a@b' }\nphase = 'stopped'\ndestination = 'backend:b'\n";
    write("workspaces", "toml", toml.as_bytes());
    write("envelope", "hint-and-end", b"\x03\0\0\0\0\x02{}\x02\0\0\0\x02{}");
    let routes = r#"/alice.hub.test/user/alice {"user":"alice","server_name":"","target":"http://127.0.0.1:1"}
/ {"hub":true,"target":"http://10.0.0.1:8081"}
/alice.hub.test/user/alice/gpu {"user":"alice","server_name":"gpu","target":"http://pod.svc:8888"}"#;
    write("routes", "user-hub-named", routes.as_bytes());
}

#[test]
fn frames_of_every_haproxy_are_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(corpus().join("frame")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("haproxy-") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let mut side = AgentSide::new(DEFAULT_SIZE);
        if name.contains("notify") {
            let mut hello = Vec::new();
            client::hello(&mut hello, DEFAULT_SIZE, "", false);
            side.next(&hello, &mut Vec::new()).unwrap();
        }
        let (event, used) = side.next(&bytes, &mut Vec::new()).unwrap();
        assert_eq!(used, bytes.len(), "{name}");
        match event {
            Event::Notify(notify) => {
                let message = notify.messages().next().unwrap();
                identity_spoa::request::Request::read(message.name, message.args()).unwrap();
            }
            Event::Opened(_) => assert!(name.ends_with("-hello")),
            Event::HealthCheck => assert!(name.ends_with("-healthcheck")),
            other => panic!("{name}: {other:?}"),
        }
        read += 1;
    }
    assert!(read >= 15, "{read} captured frames");
}
