//! Agents that have much of everything: sessions, revocations, a platform that is listed every few seconds, allows
//! that may be reused, live tunnels.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{Json, Router, extract::Query, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::{
    identity::{
        Identity, TokenIds,
        groups::JoinedGroups,
        profile::{Authority, MatchBy},
    },
    sessions::{Lifetime, Sessions, Tokens, keyring::Keyring, store::file::FileStore},
    spop::{Value, client},
    time::Timestamp,
};
use secrecy::SecretString;

use crate::{
    Setting, Stage, WORKSPACES,
    load::{self, Load, Shape, ask},
    number,
    report::Report,
    until,
};
use dev_idp::DevIdp;

pub const ROWS: [&str; 4] = [
    "sessions: 10,000 expire, 10,000 are written to their file",
    "100,000 allows for reuse are decided about again each second",
    "the admin API lists 1,000,000 revocations, twice",
    "a platform's list of 100,000 workspaces, every other second",
];
pub const OF_TUNNELS: [&str; 2] = [
    "30,000 tunnels, decided about again, nothing changes",
    "30,000 tunnels are written to disk, twice a second",
];
const SESSIONS: usize = 20_000;
/// Half of them end after this time.
const SESSIONS_LAST: Duration = Duration::from_mins(2);
const TUNNELS: usize = 30_000;
/// One address may have an eighth of the table; addresses together, half of it.
const MOST_TUNNELS: usize = 80_000;
/// Longer than the pause between two rounds in which sessions are tidied.
const TIDY: Duration = Duration::from_secs(35);
/// A public port of every workspace, at its address.
const PORT: &str = ", ports: [{ port: 3000, admission: public, destination: \"ADDRESS:3000\" }]";

/// What the shipped configuration says of each request, where it reuses allows.
fn args(now: i64) -> [client::Arg<'static>; 6] {
    [
        (b"cookie", Value::Null),
        (b"origin", Value::Null),
        (b"fetch_site", Value::Null),
        (b"reuse_id", Value::Str(b"7c1d5d0e-1b6f-4a63-9f5e-0c3c8f6b7c11")),
        (b"reuse_now", Value::Int64(now)),
        (b"reused", Value::Int64(0)),
    ]
}

fn host(number: usize) -> String {
    format!("3000-panda{number}-demo-ns35kd21abc.ws.bench.test")
}

/// Everything but tunnels.
pub fn rows(report: &mut Report, idp: DevIdp, runtime: &tokio::runtime::Handle, rate: u32) {
    let platform = runtime.block_on(platform());
    let sealed = URL_SAFE_NO_PAD.encode([7; 32]);
    let cookies = std::cell::RefCell::new(Vec::new());
    let [sessions, reuse, revocations, platform_list] = ROWS;
    let wants_sessions = report.wants(&[sessions]);
    let wants_revocations = report.wants(&[revocations]);
    let issuer = idp.issuer().to_owned();
    let prepare = |directory: &Path| {
        fs::write(directory.join("keys"), &sealed).unwrap();
        fs::write(directory.join("secret"), "secret").unwrap();
        fs::write(directory.join("token"), "token").unwrap();
        if wants_sessions {
            *cookies.borrow_mut() = fill_sessions(directory, &sealed, &issuer);
        }
        if wants_revocations {
            fill_revocations(&directory.join("revocations.jsonl"), &issuer);
        }
    };
    let source = format!(
        "[[source]]\nname = 'coder'\nkind = 'coder'\nurl = 'http://{platform}'\ntoken_file = 'token'\n\
         destination = 'backend:bench'\nissuer = 'dev'\nresync_seconds = 2\n"
    );
    let sign_in = "[issuer.sign_in]\nclient_id = 'gate'\nclient_secret_file = 'secret'\n\
         [sign_in]\nhost = 'login.bench.test'\nlisten = '127.0.0.1:0'\nencryption_keys_file = 'keys'\nsessions_file = 'sessions.redb'\n";
    let source = if report.wants(&[platform_list]) { source } else { String::new() };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let args = args(i64::try_from(now).unwrap());
    let stage = Stage::start(
        idp,
        Setting {
            agent: "verdict_cache_ms = 60000\n",
            issuer: format!("{sign_in}{source}"),
            ports: PORT,
            prepare: Some(&prepare),
            args: args.to_vec(),
        },
    );
    let load = Load::start(&stage.socket(), &stage.notify(), Shape::at_rate(rate));
    if wants_sessions {
        use_sessions(&stage, &cookies.borrow(), &args);
        report.row_for(&load, sessions, SESSIONS_LAST + TIDY);
    }
    if report.wants(&[reuse]) {
        fill_reuse(&stage, &args);
        report.row_for(&load, reuse, Duration::from_secs(10));
    }
    report.row(&load, revocations, || {
        for _ in 0..2 {
            load::call(&stage.at("admin.sock"), "GET /v1/revocations", "");
        }
    });
    if report.wants(&[platform_list]) {
        until("the platform's list", || {
            stage.metric("identity_spoa_source_workspaces{source=\"coder\"}") > 0
        });
        report.row_for(&load, platform_list, Duration::from_secs(20));
    }
    load.stop();
}

/// Sessions in a file of the agent's. Returns cookies of those that go on.
fn fill_sessions(directory: &Path, ring: &str, issuer: &str) -> Vec<String> {
    let path = directory.join("sessions.redb");
    // Each is synced to disk, which would take minutes on one.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let made = memory.path().join("sessions.redb");
    let keyring = Arc::new(Keyring::parse(ring).unwrap());
    let authority = Arc::new(Authority::new("dev", issuer, vec![MatchBy::Subject]));
    let now = Timestamp::now();
    let mut cookies = Vec::new();
    for (count, last) in [(SESSIONS / 2, SESSIONS_LAST), (SESSIONS / 2, Duration::from_hours(1))] {
        let lifetime = Lifetime { idle: Duration::from_hours(1), absolute: last };
        let store = Arc::new(FileStore::open(&made, Arc::clone(&keyring)).unwrap());
        let all = vec![Arc::clone(&authority)];
        let sessions = Sessions::load(lifetime, store, Arc::clone(&keyring), all, now).unwrap();
        cookies.clear();
        for number in 0..count {
            let identity = identity(&authority, issuer, number, now.plus(last));
            let (_, session) =
                sessions.begin(identity, tokens(now), "login.bench.test", now).unwrap();
            cookies.push(sessions.add_cookie(&session, load::HOST, now).unwrap());
        }
    }
    fs::copy(&made, &path).unwrap();
    cookies
}

fn identity(
    authority: &Arc<Authority>,
    issuer: &str,
    number: usize,
    expires: Timestamp,
) -> Identity {
    Identity {
        authority: Arc::clone(authority),
        issuer: issuer.into(),
        subject: format!("person-{number}").into(),
        email: Some(format!("person{number}@example.com").into()),
        username: Some(format!("person{number}").into()),
        groups: vec!["group".into()],
        groups_joined: JoinedGroups::new(&["group".into()]),
        groups_overage: false,
        organization: None,
        token: TokenIds::default(),
        bound_to: None,
        expires,
    }
}

fn tokens(now: Timestamp) -> Tokens {
    Tokens {
        id_token: SecretString::from("i".repeat(300)),
        refresh_token: None,
        nonce: "n".repeat(43).into(),
        refreshed: now,
        // Not asked about again.
        refresh_due: now.plus(Duration::from_hours(24)),
    }
}

/// So that when they were used last is to be written.
fn use_sessions(stage: &Stage, cookies: &[String], args: &[client::Arg<'_>]) {
    for chunk in cookies.chunks(100) {
        let notifies = chunk.iter().map(|cookie| {
            let cookie = format!("__Host-identity={cookie}");
            let own = [
                (&b"cookie"[..], Value::Str(cookie.as_bytes())),
                (&b"cookies"[..], Value::Int64(1)),
            ];
            let rest = args.iter().filter(|(name, _)| *name != b"cookie");
            let all: Vec<_> = rest.copied().chain(own).collect();
            load::notify(load::HOST, None, &all)
        });
        let reasons = ask(&stage.socket(), &notifies.collect::<Vec<_>>());
        assert_eq!(reasons[0], "not_permitted", "{reasons:?}");
    }
}

fn fill_revocations(path: &Path, issuer: &str) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    for number in 0..number("REVOCATIONS", 1_000_000) {
        writeln!(
            file,
            "{{\"revoke\":{{\"issuer\":\"{issuer}\",\"subject\":\"gone-{number}\",\"at_ms\":{},\"note\":\"left the company\"}}}}",
            1_795_465_380_123 + number
        )
        .unwrap();
    }
    file.flush().unwrap();
}

/// Has an allow for a public port of every workspace, which HAProxy may reuse for a minute.
fn fill_reuse(stage: &Stage, args: &[client::Arg<'_>]) {
    let all: Vec<_> = (1..WORKSPACES).collect();
    for chunk in all.chunks(500) {
        let notifies = chunk.iter().map(|number| load::notify(&host(*number), None, args));
        let reasons = ask(&stage.socket(), &notifies.collect::<Vec<_>>());
        assert_eq!(reasons[0], "public", "{reasons:?}");
    }
}

#[derive(serde::Deserialize)]
struct Range {
    limit: usize,
    offset: usize,
}

/// A Coder deployment of 100,000 workspaces: its address.
async fn platform() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = async |Query(Range { limit, offset }): Query<Range>| {
        let all = offset..(offset + limit).min(WORKSPACES);
        let workspace = |number: usize| {
            serde_json::json!({
                "id": format!("id-{number}"), "name": format!("w{number}"), "owner_id": format!("owner-{}", number % 5000),
                "owner_name": format!("o{}", number % 5000), "organization_id": "",
                "latest_build": {
                    "id": format!("build-{number}"), "build_number": 1, "status": "running",
                    "resources": [{ "agents": [{ "name": "main", "apps": [] }] }]
                }
            })
        };
        Json(serde_json::json!({ "workspaces": all.map(workspace).collect::<Vec<_>>() }))
    };
    let users = async || Json(serde_json::json!({ "users": [] }));
    let router =
        Router::new().route("/api/v2/workspaces", get(page)).route("/api/v2/users", get(users));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Tunnels of visitors of public ports, in a HAProxy that does not answer, so that they stay in the table.
pub fn rows_of_tunnels(report: &mut Report, idp: DevIdp, rate: u32) {
    let [idle, written] = OF_TUNNELS;
    let plain = of_stream(1, 0, 0);
    let stage = Stage::start(
        idp,
        Setting {
            issuer: format!(
                "[haproxy]\nsockets = ['unix:no-haproxy.sock']\n[tunnels]\nfile = 'tunnels.json'\nmax = {MOST_TUNNELS}\n"
            ),
            ports: PORT,
            args: plain.to_vec(),
            ..Setting::default()
        },
    );
    let load = Load::start(&stage.socket(), &stage.notify(), Shape::at_rate(rate));
    let open = |numbers: std::ops::Range<usize>| {
        let notifies = numbers.map(|number| {
            let args = of_stream(number, 1, u8::try_from(number % 16).unwrap());
            load::notify(&host(number % (WORKSPACES - 1) + 1), None, &args)
        });
        let reasons = ask(&stage.socket(), &notifies.collect::<Vec<_>>());
        assert_eq!(reasons[0], "public", "{reasons:?}");
    };
    for chunk in 0..TUNNELS / 100 {
        open(chunk * 100..(chunk + 1) * 100);
    }
    let has = |count: usize| {
        // To read it costs more than to write it.
        std::thread::sleep(Duration::from_millis(500));
        let text = fs::read(stage.at("tunnels.json")).unwrap_or_default();
        memchr::memmem::find_iter(&text, b"\"since_ms\"").count() >= count
    };
    until("the file of tunnels", || has(TUNNELS));
    report.row_for(&load, idle, Duration::from_secs(6));
    report.row(&load, written, || {
        // Each comes with a writing of all.
        for number in 0..20 {
            open(TUNNELS + number..TUNNELS + number + 1);
            std::thread::sleep(Duration::from_millis(500));
        }
        until("the file of tunnels", || has(TUNNELS + 20));
    });
    load.stop();
}

/// What the shipped configuration says of each request, where tunnels are tracked.
fn of_stream(number: usize, upgrades: i64, client: u8) -> [client::Arg<'static>; 11] {
    [
        (b"cookie", Value::Null),
        (b"origin", Value::Null),
        (b"fetch_site", Value::Null),
        (b"client", Value::Ipv4([10, 9, 8, client].into())),
        (b"stream", Value::Int64(i64::try_from(number).unwrap())),
        (b"started", Value::Int64(1_795_548_036_812_610)),
        (b"process", Value::Int64(8)),
        (b"frontend", Value::Str(b"gate")),
        (b"source", Value::Ipv4([10, 9, 8, client].into())),
        (b"source_port", Value::Int64(4000)),
        (b"upgrades", Value::Int64(upgrades)),
    ]
}
