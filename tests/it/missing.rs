//! What HAProxy does where a variable of the answer is missing: no credential travels on, nothing opens, and nothing
//! goes elsewhere.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::spop::{
    FrameType, Value,
    ack::{self, Action, Scope},
    frame::{self, DEFAULT_SIZE},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use crate::{
    credentials::{ARGS, CREDENTIALS},
    destinations::{add_port, by_https},
    sign_in,
    support::{
        ALICES, AgentProcess, BOBS, Client, Haproxy, Reply, Stage, Version,
        certificates::Authority,
        haproxy::{copy_with_browser_args, root},
        host, port_host, until,
    },
};
use dev_idp::DevIdp;

/// What happens to each answer of the agent.
#[derive(Clone, Default)]
struct Change {
    /// The variable that is missing.
    without: Option<&'static str>,
    /// The place has a name of its own.
    renamed: bool,
}

type Changes = Arc<Mutex<Change>>;

/// Passes frames on between HAProxy and the agent, and changes the agent's answers.
fn between(at: &Path, agent: std::path::PathBuf, changes: &Changes) {
    let listener = UnixListener::bind(at).unwrap();
    std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let changes = Arc::clone(changes);
    tokio::spawn(async move {
        while let Ok((haproxy, _)) = listener.accept().await {
            let Ok(stream) = UnixStream::connect(&agent).await else { continue };
            let (mut answers, mut requests) = stream.into_split();
            let (mut from, mut to) = haproxy.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from, &mut requests).await });
            let changes = Arc::clone(&changes);
            tokio::spawn(async move {
                let mut input = Vec::new();
                loop {
                    let mut out = Vec::new();
                    while let Ok(Some((frame, used))) = frame::split(&input, DEFAULT_SIZE) {
                        if frame.kind == Some(FrameType::Ack) {
                            let change = changes.lock().unwrap().clone();
                            let ids = (frame.stream_id, frame.frame_id);
                            ack::write(&mut out, ids, DEFAULT_SIZE, |actions| {
                                for action in ack::parse(frame.payload).unwrap() {
                                    pass(actions, action, &change);
                                }
                            })
                            .unwrap();
                        } else {
                            out.extend_from_slice(&input[..used]);
                        }
                        input.drain(..used);
                    }
                    if to.write_all(&out).await.is_err() {
                        return;
                    }
                    if !matches!(answers.read_buf(&mut input).await, Ok(1..)) {
                        return;
                    }
                }
            });
        }
    });
}

fn pass(actions: &mut ack::Actions<'_>, action: Action<'_>, change: &Change) {
    let mut set = |scope: Scope, name: &str, value: Value<'_>| {
        if change.without == Some(name) {
            actions.unset(scope, name);
        } else {
            actions.set(scope, name, value);
        }
    };
    match action {
        Action::Set(scope, b"dst_port", value) if change.renamed => {
            set(scope, "host_port", value);
            set(scope, "dst_host", Value::Str(b"renamed.test"));
        }
        Action::Set(scope, name, value) => set(scope, std::str::from_utf8(name).unwrap(), value),
        Action::Unset(scope, name) => actions.unset(scope, std::str::from_utf8(name).unwrap()),
    }
}

/// Every variable of an answer without sign-in.
const VARIABLES: [&str; 26] = [
    "allow",
    "reason",
    "decision_id",
    "status",
    "www_authenticate",
    "metadata",
    "user",
    "subject",
    "issuer",
    "email",
    "groups",
    "groups_incomplete",
    "workspace",
    "owner",
    "endpoint",
    "dst_ip",
    "dst_port",
    "host_port",
    "tls_port",
    "dst_host",
    "sni",
    "backend",
    "cookie",
    "query",
    "protocols",
    "keep",
];

/// A stage whose agent looks for tokens everywhere, with `extra` in the section `global`.
struct World {
    stage: Stage,
    changes: Changes,
    files: TempDir,
    _server: (TempDir, crate::keys::TlsFiles),
}

fn configuration(into: &Path, extra: &str, args: &str) {
    std::fs::create_dir_all(into.join("pages")).unwrap();
    for file in [
        "pages/style.css",
        "pages/too-large.html",
        "pages/unavailable.html",
        "haproxy.cfg",
        "tcp.cfg",
        "identity.spoe.cfg",
    ] {
        let text = std::fs::read_to_string(root().join("haproxy").join(file)).unwrap();
        let places = "cookies=req.fhdr_cnt(cookie)";
        let text = text.replace(places, &format!("{places}{}", args.trim_end()));
        let text = text.replacen("\nglobal\n", &format!("\nglobal\n{extra}"), 1);
        std::fs::write(into.join(file), text).unwrap();
    }
}

impl World {
    async fn start(version: &Version, config: &'static str, args: &str, env: &'static str) -> Self {
        let authority = Authority::new("ours");
        let server = by_https(&authority, "localhost");
        let port = server.1.port;
        let mut stage = Stage::changed(version, DevIdp::start().await, |directory, text, list| {
            std::fs::write(directory.join("upstream-ca.pem"), authority.pem()).unwrap();
            std::fs::write(directory.join("haproxy.env"), env).unwrap();
            if !env.is_empty() {
                *text = text.replace("[agent]\n", &format!("[agent]\n{config}"));
            }
            *list = add_port(list, 9443, &format!("https://localhost:{port}"));
        })
        .await;
        if env.is_empty() {
            // Only now: with the shipped arguments alone, this agent refuses everything.
            let path = stage.directory.path().join("agent.toml");
            let text = std::fs::read_to_string(&path).unwrap() + config;
            std::fs::write(&path, text).unwrap();
            assert!(stage.agent.end().await);
            stage.agent = AgentProcess::start(stage.directory.path()).await;
        }
        let (changes, files) = (Changes::default(), tempfile::tempdir().unwrap());
        let at = stage.directory.path().join("between.sock");
        between(&at, stage.agent.socket(), &changes);
        configuration(files.path(), "", args);
        let (directory, named) = (stage.directory.path(), stage.bob.address());
        stage.haproxy = Haproxy::start_from(files.path(), version, directory, &at, named).await;
        let world = Self { stage, changes, files, _server: server };
        world.opens().await;
        world
    }

    async fn opens(&self) {
        until("the gate to open", async || {
            let bearer = format!("Authorization: Bearer {}\r\n", self.stage.idp.token_of("alice"));
            let replies = self.ask(&port_host(9443, ALICES), "/hello", &bearer).await;
            replies.iter().all(|reply| reply.status == 200).then_some(())
        })
        .await;
    }

    fn change(&self, without: Option<&'static str>, renamed: bool) {
        *self.changes.lock().unwrap() = Change { without, renamed };
    }

    /// Sends a request to a host three times on one connection.
    async fn ask(&self, to: &str, target: &str, lines: &str) -> Vec<Reply> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {to}\r\n{lines}\r\n");
        let mut replies = Vec::new();
        let mut client = self.stage.client().await;
        for _ in 0..3 {
            let reply = client.raw(request.as_bytes()).await;
            // Some answers end the connection.
            if reply.header("connection").is_some() || reply.header("content-length").is_none() {
                client = self.stage.client().await;
            }
            replies.push(reply);
        }
        replies
    }

    /// Every kind of request. Returns how many passed.
    async fn judge(&self, about: &str, secrets_everywhere: bool) -> usize {
        let stage = &self.stage;
        let token = stage.idp.token_of("alice");
        let encoded = URL_SAFE_NO_PAD.encode(&token);
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let ours = "Cookie: a=1; __Host-identity=canary; b=2\r\n";
        let secrets = [&*token, &encoded, "canary"];
        let (alices, public) = (host(ALICES), port_host(3000, ALICES));
        let (tls, named) = (port_host(9443, ALICES), port_host(8000, BOBS));
        let mut cases = vec![
            (&alices, "/x".to_owned(), format!("{bearer}{ours}"), "workspace alices"),
            (&alices, "/x?q=1".to_owned(), bearer.clone(), "workspace alices"),
            (&public, "/x".to_owned(), format!("{bearer}{ours}"), "workspace alices"),
            (
                &public,
                "/x".to_owned(),
                "Cookie: a=1\r\nAuthorization: Basic x\r\n".into(),
                "workspace alices",
            ),
            (&tls, "/hello".to_owned(), format!("{bearer}{ours}"), ""),
            (
                &named,
                "/x".to_owned(),
                format!("Authorization: Bearer {}\r\n{ours}", stage.idp.token_of("bob")),
                "workspace bobs",
            ),
        ];
        if secrets_everywhere {
            cases.extend([
                (&alices, "/x".to_owned(), format!("Cookie: a=1; token={token}\r\n"), "workspace alices"),
                (&alices, format!("/x?a=1&access_token={token}&b=2"), String::new(), "workspace alices"),
                (&alices, format!("/x?access_token={token}"), String::new(), "workspace alices"),
                (&alices, "/x".to_owned(), format!("Sec-WebSocket-Protocol: v1, base64url.bearer.authorization.k8s.io.{encoded}\r\n"), "workspace alices"),
                (&alices, "/x".to_owned(), format!("Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{encoded}\r\n"), "workspace alices"),
            ]);
        }
        let mut passed = 0;
        for (to, target, lines, from) in cases {
            for reply in self.ask(to, &target, &lines).await {
                let what = format!("{about}: {to} {} {}", reply.status, reply.body);
                for secret in secrets {
                    assert!(!reply.body.contains(secret), "{what}");
                }
                assert!(!reply.body.contains(&stage.idp.token_of("bob")), "{what}");
                if reply.status == 200 {
                    passed += 1;
                    assert!(reply.body.starts_with(from), "{what}");
                    let arrived = reply.arrived("host");
                    if !from.is_empty() {
                        let renamed =
                            self.changes.lock().unwrap().renamed && !to.contains("redfox");
                        let want = if renamed { "renamed.test" } else { to.as_str() };
                        assert_eq!(arrived, [want], "{what}");
                    }
                    let pair =
                        ["x-identity-subject", "x-identity-issuer"].map(|n| reply.arrived(n).len());
                    assert_eq!(pair[0], pair[1], "{what}");
                    let who = if to.contains("redfox") { "sub-bob" } else { "sub-alice" };
                    assert!(
                        reply.arrived("x-identity-subject").iter().all(|one| *one == who),
                        "{what}"
                    );
                } else {
                    assert!([401, 502, 503].contains(&reply.status), "{what}");
                }
            }
        }
        // Who may not pass does not.
        let bobs = format!("Authorization: Bearer {}\r\n", stage.idp.token_of("bob"));
        let mut client = stage.client().await;
        for (lines, statuses) in
            [(&*bearer, &[200, 401, 502, 503][..]), (&*bobs, &[401, 403, 503]), ("", &[401, 503])]
                .into_iter()
                .cycle()
                .take(9)
        {
            let request = format!("GET /x HTTP/1.1\r\nHost: {alices}\r\n{lines}\r\n");
            let reply = client.raw(request.as_bytes()).await;
            let what = format!("{about}, in turns: {} {}", reply.status, reply.body);
            assert!(statuses.contains(&reply.status), "{what}");
            if reply.header("connection").is_some() || reply.header("content-length").is_none() {
                client = stage.client().await;
            }
        }
        for (lines, statuses) in [("", [401, 503]), (&bobs, [403, 503])] {
            for reply in self.ask(&alices, "/x", lines).await {
                assert!(
                    statuses.contains(&reply.status),
                    "{about}: {} {}",
                    reply.status,
                    reply.body
                );
            }
        }
        passed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_without_any_one_variable_no_secret_travels_and_nothing_opens() {
    for version in Version::all() {
        let world = World::start(version, CREDENTIALS, ARGS, "").await;
        let all = world.judge("nothing is missing", true).await;
        assert_eq!(all, 11 * 3, "{version:?}");
        for name in VARIABLES {
            world.change(Some(name), false);
            let passed = world.judge(&format!("{version:?} without {name}"), true).await;
            match name {
                "allow" => assert_eq!(passed, 0, "{version:?}"),
                "dst_ip" => assert_eq!(passed, 3, "{version:?}"),
                "dst_port" => assert_eq!(passed, 6, "{version:?}"),
                "tls_port" | "sni" | "dst_host" | "backend" => {
                    assert_eq!(passed, all - 3, "{version:?} {name}");
                }
                _ => assert_eq!(passed, all, "{version:?} {name}"),
            }
        }
        // A place that is reached under a name of its own.
        world.change(None, true);
        assert_eq!(world.judge("renamed", true).await, all);
        for name in ["host_port", "dst_host", "dst_ip"] {
            world.change(Some(name), true);
            let passed = world.judge(&format!("{version:?} renamed without {name}"), true).await;
            assert!(passed <= 6, "{version:?} {name}: {passed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_the_same_where_allows_are_reused() {
    const REUSE: [&str; 5] =
        ["reuse_of", "reuse_until", "reuse_client", "reuse_epoch", "reuse_host"];
    for version in Version::all() {
        let world =
            World::start(version, "verdict_cache_ms = 60000\n", "", "GATE_REUSE=60000\n").await;
        let all = world.judge("nothing is missing", false).await;
        assert_eq!(all, 6 * 3, "{version:?}");
        until("a line that says so", async || {
            world.stage.haproxy.log().contains(" reused=1 ").then_some(())
        })
        .await;
        for name in VARIABLES.into_iter().chain(REUSE) {
            world.change(Some(name), false);
            // Without 'allow' the request that was asked about is refused; the agent allowed it, and it is reused.
            let passed = world.judge(&format!("{version:?} without {name}"), false).await;
            assert!(passed <= all, "{version:?} {name}");
        }
        for name in ["host_port", "dst_host", "dst_ip", "keep"] {
            world.change(Some(name), true);
            world.judge(&format!("{version:?} renamed without {name}"), false).await;
        }
    }
}

/// Of a connection, HAProxy keeps what was asked and what the agent said to it, and any of it may find no room.
#[tokio::test(flavor = "multi_thread")]
async fn s11_a_limit_on_memory_for_what_a_connection_keeps_gives_nothing_away() {
    for version in Version::all() {
        let mut world =
            World::start(version, "verdict_cache_ms = 60000\n", "", "GATE_REUSE=60000\n").await;
        let at = world.stage.directory.path().join("between.sock");
        let mut reused = Vec::new();
        for bytes in [100, 300, 600, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 8000] {
            let extra = format!("    tune.vars.sess-max-size {bytes}\n");
            configuration(world.files.path(), &extra, "");
            let (directory, named) = (world.stage.directory.path(), world.stage.bob.address());
            let haproxy =
                Haproxy::start_from(world.files.path(), version, directory, &at, named).await;
            world.stage.haproxy = haproxy;
            let passed = world.judge(&format!("{version:?} with {bytes} bytes"), false).await;
            let log = world.stage.haproxy.log();
            reused.push((bytes, passed, log.matches(" reused=1 ").count()));
        }
        eprintln!(
            "{version:?}: bytes, how many of 18 passed, how many of all were reused: {reused:?}"
        );
        assert_eq!(reused[0].2, 0, "without memory each request is asked about: {reused:?}");
        assert!(reused[11].2 > 0, "with enough of it allows are reused: {reused:?}");
    }
}

/// The variables that an answer has where people sign in.
const OF_SIGN_IN: [&str; 2] = ["location", "set_cookie"];

#[tokio::test(flavor = "multi_thread")]
async fn s11_without_a_variable_nothing_of_sign_in_or_of_a_session_is_given_away() {
    for version in Version::all() {
        for verdict_cache_ms in [None, Some(60_000)] {
            let different = sign_in::Changes { verdict_cache_ms, ..sign_in::Changes::default() };
            let stage = sign_in::Stage::changed(version, &different).await;
            let mut alice = stage.browser();
            let alices = host(ALICES);
            assert_eq!(alice.browse(&alices, "/").await.status, 200);
            let session = alice.cookies[&alices]["__Host-identity"].clone();
            // The same gate once more, whose answers are changed.
            let (files, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            copy_with_browser_args(files.path());
            let env = std::fs::read_to_string(stage.directory.path().join("haproxy.env")).unwrap();
            std::fs::write(second.path().join("haproxy.env"), env).unwrap();
            let (at, changes) = (second.path().join("between.sock"), Changes::default());
            between(&at, stage.agent.socket(), &changes);
            let named = ([127, 0, 0, 1], 1).into();
            let haproxy =
                Haproxy::start_from(files.path(), version, second.path(), &at, named).await;
            let page = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: none\r\n";
            let stranger = format!("GET / HTTP/1.1\r\nHost: {alices}\r\n{page}\r\n");
            let hers = format!(
                "GET / HTTP/1.1\r\nHost: {alices}\r\n{page}Cookie: a=1; __Host-identity={session}\r\n\r\n"
            );
            until("the gate to open", async || {
                let reply = Client::connect(haproxy.http).await.raw(stranger.as_bytes()).await;
                (reply.status == 302).then_some(())
            })
            .await;
            for name in [None].into_iter().chain(VARIABLES.into_iter().chain(OF_SIGN_IN).map(Some))
            {
                changes.lock().unwrap().without = name;
                let mut client = Client::connect(haproxy.http).await;
                let mut passed = 0;
                for request in [&stranger, &hers, &hers, &stranger, &hers] {
                    let reply = client.raw(request.as_bytes()).await;
                    let what =
                        format!("{version:?} without {name:?}: {} {}", reply.status, reply.body);
                    assert!(!reply.body.contains(&session), "{what}");
                    if request == &stranger {
                        let is_led = reply.status == 302 && reply.header("location").is_some();
                        let mut says_where = ["status", "location"].into_iter().map(Some);
                        if says_where.any(|one| one == name) {
                            assert!([401, 503].contains(&reply.status), "{what}");
                            assert!(reply.header("set-cookie").is_none(), "{what}");
                        } else {
                            assert!(is_led, "{what}");
                        }
                        let cookie = reply.header("set-cookie").unwrap_or_default();
                        assert!(name != Some("set_cookie") || cookie.is_empty(), "{what} {cookie}");
                    } else if reply.status == 200 {
                        passed += 1;
                        assert!(reply.body.starts_with("workspace alices"), "{what}");
                    } else {
                        assert!([401, 502, 503].contains(&reply.status), "{what}");
                    }
                    if reply.header("connection").is_some()
                        || reply.header("content-length").is_none()
                    {
                        client = Client::connect(haproxy.http).await;
                    }
                }
                assert!(passed == 3 || name.is_some(), "{version:?} without {name:?}: {passed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_a_limit_on_memory_for_variables_gives_no_credential_away() {
    for version in Version::all() {
        let mut world = World::start(version, CREDENTIALS, ARGS, "").await;
        let at = world.stage.directory.path().join("between.sock");
        for bytes in [300, 700, 1000, 1150, 1300, 1450, 1600] {
            let extra = format!("    tune.vars.txn-max-size {bytes}\n");
            configuration(world.files.path(), &extra, ARGS);
            let (directory, named) = (world.stage.directory.path(), world.stage.bob.address());
            let haproxy =
                Haproxy::start_from(world.files.path(), version, directory, &at, named).await;
            world.stage.haproxy = haproxy;
            let passed = world.judge(&format!("{version:?} with {bytes} bytes"), true).await;
            eprintln!("{version:?} with {bytes} bytes for variables: {passed} of 33 passed");
        }
    }
}
