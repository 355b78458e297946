//! One agent at the size of a very large company: a million workspaces, half a million people with tokens, as many sessions
//! as an agent holds, half a million revocations.
//!
//! `cargo bench -p benches --bench scale` measures everything; `-- sessions tokens` measures only these parts. `docs/scaling.md`
//! explains the figures. Events at that size: `cargo bench -p benches --bench workspaces -- 1000000`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark prints figures, and stops at a surprise"
)]

use std::{
    alloc::System,
    collections::BTreeMap,
    fmt::Write as _,
    hint::black_box,
    io::Write as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Query, response::Response, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::{
    identity::{
        Identity, TokenIds,
        cache::{TokenCache, Verified},
        evidence::Evidence,
        groups::JoinedGroups,
        profile::{Authority, MatchBy},
        revocation::{Revocation, Revocations},
    },
    sessions::{Lifetime, Sessions, Tokens, keyring::Keyring},
    time::{MonotonicTime, Timestamp},
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, EndpointOrigins, IssuerNames, Organization,
        Person, Phase, Protocol, Revision, Workspace,
        destination::{Server, resolver::Resolver},
        registry::{ListExtent, LookupResult, Publisher, Registry, SourceRules},
        source::SourceId,
    },
};
use secrecy::SecretString;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WORKSPACES: u32 = 1_000_000;
const PEOPLE: usize = 500_000;
/// The limit of an agent; one more cannot begin.
const SESSIONS: usize = 100_000;
const DAY: Duration = Duration::from_hours(24);

fn main() {
    println!("{WORKSPACES} workspaces of 3 ports, {PEOPLE} people, {SESSIONS} sessions\n");
    let parts: [(&str, fn()); 5] = [
        ("workspaces", workspaces),
        ("tokens", tokens),
        ("sessions", sessions),
        ("revocations", revocations),
        ("start", start),
    ];
    // Cargo adds an option of its own.
    let wanted: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            measure();
        }
    }
}

/// What was allocated since and is still there, in MiB.
fn mib(region: &Region<'_, System>) -> f64 {
    let change = region.change();
    (change.bytes_allocated as f64 - change.bytes_deallocated as f64) / f64::from(1 << 20)
}

fn each(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e9 / count as f64
}

/// The middle, and what one of a hundred is beyond.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    format!("p50 {:.1?}, p99 {:.1?}", at(50), at(99))
}

// --- Workspaces -----------------------------------------------------------------------------------

fn id(number: u32) -> String {
    format!("019a0000-0000-7000-8000-{number:012x}")
}

fn workspace(number: u32, revision: u64, phase: Phase) -> Workspace {
    let [_, b, c, d] = number.to_be_bytes();
    let endpoint = |port: u16| Endpoint {
        name: EndpointName::Port(port),
        protocol: Protocol::Http,
        admission: Admission::Organization,
        destination: Destination::Address(Server::new([10, b, c, d].into(), port).unwrap()),
        origins: EndpointOrigins::default(),
    };
    let owner = format!("00u{:017}", number / 2);
    Workspace {
        id: id(number).parse().unwrap(),
        instance: Some("2026-11-24T08:00:00Z".into()),
        revision: Revision { spec: Some(1), status: Some(revision) },
        organization: Some(Organization { issuers: IssuerNames::one("corp"), name: "acme".into() }),
        owner: Person {
            issuers: IssuerNames::one("corp"),
            subject: Some(owner.as_str().into()),
            ..Person::default()
        },
        owner_label: owner.into(),
        grants: vec![],
        phase,
        address: None,
        template: None,
        endpoints: [3000, 5173, 8080].map(endpoint).into(),
        paths: vec![],
    }
}

fn workspaces() {
    let sources = [("scale", SourceRules::default())];
    let registry = Arc::new(Registry::new(&sources, Arc::new(Resolver::default())));
    let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(0));
    let list = |changed: u32| {
        let revision = |n: u32| if n.is_multiple_of(100) { u64::from(changed) } else { 1 };
        (0..WORKSPACES).map(|n| workspace(n, revision(n), Phase::Running)).collect::<Vec<_>>()
    };
    let all = list(1);
    let region = Region::new(ALLOCATOR);
    let started = Instant::now();
    let now = MonotonicTime::now();
    publisher.complete(all, now, now, ListExtent::Pages);
    publisher.confirm(now);
    println!(
        "registry      {:.0} MiB in addition to the list; the first list read {:.2} s",
        mib(&region),
        started.elapsed().as_secs_f64()
    );
    for (what, list) in [("the same list again", list(1)), ("one of a hundred changed", list(2))] {
        let started = Instant::now();
        let now = MonotonicTime::now();
        let done = publisher.complete(list, now, now, ListExtent::Pages);
        println!(
            "              {what}: {:.2} s, {} changed",
            started.elapsed().as_secs_f64(),
            done.changed
        );
    }
    // A change is visible when the call that tells it returns; a request looks at the snapshot.
    let (mut changes, mut ends) = (Vec::new(), Vec::new());
    for n in 0..10_000 {
        let number = n * 97;
        let next = workspace(number, 10, Phase::Running);
        let started = Instant::now();
        publisher.set(next, MonotonicTime::now());
        changes.push(started.elapsed());
        let key = id(number + 1);
        let parsed = key.parse().unwrap();
        let started = Instant::now();
        publisher.end(&parsed, MonotonicTime::now());
        assert!(!matches!(registry.snapshot().find(None, &key), LookupResult::Workspace(_)));
        ends.push(started.elapsed());
    }
    println!("              a change until it is visible: {}", spread(changes));
    println!("              an end until it is refused: {}", spread(ends));
    let ids: Vec<String> = (0..WORKSPACES).map(id).collect();
    let rounds = 1_000_000;
    let started = Instant::now();
    for n in 0..rounds {
        let id = &ids[n * 7919 % ids.len()];
        black_box(registry.snapshot().find(None, black_box(id)));
    }
    println!("              a look-up: {:.0} ns", each(started.elapsed(), rounds));
}

// --- People ---------------------------------------------------------------------------------------

fn identity(authority: &Arc<Authority>, number: usize, expires: Timestamp) -> Identity {
    let groups: Vec<Box<str>> = (0..5).map(|group| format!("group-{group}").into()).collect();
    Identity {
        authority: Arc::clone(authority),
        issuer: "https://idp.example.com/realms/corp".into(),
        subject: format!("00u{number:017}").into(),
        email: Some(format!("person{number}@example.com").into()),
        username: Some(format!("person{number}").into()),
        groups_joined: JoinedGroups::new(&groups),
        groups,
        groups_overage: false,
        organization: Some("acme".into()),
        token: TokenIds::default(),
        bound_to: None,
        expires,
    }
}

fn authority() -> Arc<Authority> {
    Arc::new(Authority::new("corp", "https://idp.example.com/realms/corp", vec![MatchBy::Subject]))
}

fn tokens() {
    let (authority, now) = (authority(), Timestamp::now());
    let region = Region::new(ALLOCATOR);
    let cache = TokenCache::new(PEOPLE as u64 * 2).unwrap();
    // As long as a usual token.
    let token = |number: usize| format!("{number:0>900}");
    for number in 0..PEOPLE {
        let identity = Arc::new(identity(&authority, number, now.plus(DAY)));
        let evidence = Evidence::default();
        let verified = Verified { identity, issuer: 0, key_set: 1, evidence };
        cache.remember(cache.digest(token(number).as_bytes()), verified);
    }
    println!("tokens        {:.0} MiB for {PEOPLE} that are remembered", mib(&region));
    let rounds = 200_000;
    let known: Vec<_> = (0..rounds).map(|n| cache.digest(token(n * 2).as_bytes())).collect();
    let started = Instant::now();
    let found = known.iter().filter(|digest| cache.find(digest, now).is_some()).count();
    println!("              a look-up: {:.0} ns", each(started.elapsed(), rounds));
    assert!(found > rounds * 9 / 10, "{found}");
}

fn sessions() {
    let keyring = Arc::new(Keyring::parse(&URL_SAFE_NO_PAD.encode([7; 32])).unwrap());
    let (authority, now) = (authority(), Timestamp::now());
    let region = Region::new(ALLOCATOR);
    let sessions = Sessions::in_memory(Lifetime { idle: DAY, absolute: DAY }, keyring);
    let mut cookies = Vec::new();
    let started = Instant::now();
    for number in 0..SESSIONS {
        let tokens = Tokens {
            id_token: SecretString::from("i".repeat(1000)),
            refresh_token: Some(SecretString::from("r".repeat(200))),
            nonce: "n".repeat(43).into(),
            refreshed: now,
            refresh_due: now.plus(DAY),
        };
        let identity = identity(&authority, number, now.plus(DAY));
        let (_, session) = sessions.begin(identity, tokens, "login.example.com", now).unwrap();
        let host = format!("workspace-{number}.ws.example.com");
        let cookie = sessions.add_cookie(&session, &host, now).unwrap();
        if number % 100 == 0 {
            cookies.push((cookie, host));
        }
    }
    println!(
        "sessions      {:.0} MiB for {SESSIONS} of two cookies; {:.1} us to begin one",
        mib(&region),
        each(started.elapsed(), SESSIONS) / 1e3
    );
    let rounds = 20;
    let started = Instant::now();
    for _ in 0..rounds {
        for (cookie, host) in &cookies {
            assert!(black_box(sessions.find(cookie.as_bytes(), host, now)).is_some());
        }
    }
    println!("              a look-up: {:.0} ns", each(started.elapsed(), rounds * cookies.len()));
    let mut ends = Vec::new();
    for number in 0..20 {
        let subject = format!("00u{:017}", number * 1000);
        let (cookie, host) = &cookies[number * 10];
        let started = Instant::now();
        let ended = sessions.end_where(|session| *session.identity().subject == *subject).unwrap();
        assert!(sessions.find(cookie.as_bytes(), host, now).is_none());
        ends.push(started.elapsed());
        assert_eq!(ended, 1);
    }
    println!("              everything of one person ended, until refused: {}", spread(ends));
    let started = Instant::now();
    sessions.remove_expired(now).unwrap();
    println!("              a round of tidying: {:.1?}", started.elapsed());
}

fn revocations() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("revocations.jsonl");
    let mut text = String::new();
    for number in 0..PEOPLE {
        writeln!(
            text,
            "{{\"revoke\":{{\"issuer\":\"corp\",\"subject\":\"00u{number:017}\",\"before_ms\":1795465380123,\"at_ms\":1795465380123,\"note\":\"left the company\"}}}}"
        )
        .unwrap();
    }
    std::fs::write(&journal, &text).unwrap();
    let region = Region::new(ALLOCATOR);
    let started = Instant::now();
    let revocations = Revocations::open(vec![authority()], Some(journal)).unwrap();
    let took = started.elapsed();
    println!(
        "revocations   {:.0} MiB for {}; read from a journal of {:.0} MiB in {:.2} s",
        mib(&region),
        revocations.len(),
        text.len() as f64 / f64::from(1 << 20),
        took.as_secs_f64()
    );
    assert_eq!(revocations.len(), PEOPLE);
    revocations.own().unwrap();
    let (authority, now) = (authority(), Timestamp::now());
    let person = identity(&authority, 77, now.plus(DAY));
    let rounds = 1_000_000;
    let started = Instant::now();
    for _ in 0..rounds {
        assert!(black_box(revocations.cover(black_box(&person))));
    }
    println!("              asked for each request: {:.0} ns", each(started.elapsed(), rounds));
    let mut times = Vec::new();
    for number in PEOPLE..PEOPLE + 200 {
        let person = identity(&authority, number, now.plus(DAY));
        let subject = Some(person.subject.clone());
        let started = Instant::now();
        let revocation = Revocation { issuer: "corp".into(), subject, ..Revocation::default() };
        revocations.revoke(revocation, now).unwrap();
        assert!(revocations.cover(&person));
        times.push(started.elapsed());
    }
    println!("              one more, synced to disk, until it counts: {}", spread(times));
}

// --- The program, from its start ------------------------------------------------------------------

/// A page of a cluster's list of all workspaces.
async fn page(Query(query): Query<BTreeMap<String, String>>) -> Response {
    if query.contains_key("watch") {
        let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        return Response::new(Body::from_stream(never));
    }
    let number = |key: &str, usual: u32| query.get(key).map_or(usual, |text| text.parse().unwrap());
    let (from, limit) = (number("continue", 0), number("limit", 500));
    let to = (from + limit).min(WORKSPACES);
    let next = if to < WORKSPACES { to.to_string() } else { String::new() };
    let mut text = format!(
        "{{\"apiVersion\":\"workspace.gitpod.io/v1\",\"kind\":\"WorkspaceList\",\"metadata\":{{\"resourceVersion\":\"9\",\"continue\":\"{next}\"}},\"items\":["
    );
    for n in from..to {
        let [_, b, c, d] = n.to_be_bytes();
        let comma = if n == from { "" } else { "," };
        write!(
            text,
            "{comma}{{\"apiVersion\":\"workspace.gitpod.io/v1\",\"kind\":\"Workspace\",\"metadata\":{{\"name\":\"w{n}\",\"namespace\":\"ws\",\"uid\":\"{}\",\"resourceVersion\":\"7\",\"creationTimestamp\":\"2026-11-24T00:00:00Z\"}},\
             \"spec\":{{\"ownership\":{{\"owner\":\"00u{:017}\",\"workspaceID\":\"{}\"}},\"admission\":{{\"level\":\"Owner\"}},\"ports\":[{{\"port\":3000}},{{\"port\":5173}}]}},\
             \"status\":{{\"phase\":\"Running\",\"runtime\":{{\"podIP\":\"10.{b}.{c}.{d}\"}}}}}}",
            id(n),
            n / 2,
            id(n)
        )
        .unwrap();
    }
    text.push_str("]}");
    Response::builder().header("content-type", "application/json").body(Body::from(text)).unwrap()
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent at a cluster of a million workspaces: from its start until it has them all, and what it takes.
fn start() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let path = "/apis/workspace.gitpod.io/v1/workspaces";
        let router = Router::new().route(path, get(page));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    });
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{ name: c, cluster: {{ server: 'http://{address}' }} }}]\n\
         users: [{{ name: u, user: {{}} }}]\ncontexts: [{{ name: c, context: {{ cluster: c, user: u }} }}]\n"
    );
    std::fs::write(at("kubeconfig"), kubeconfig).unwrap();
    std::fs::write(
        at("agent.toml"),
        "[agent]\nlisten = ['unix:spop.sock']\n[[issuer]]\nname = 'corp'\nissuer = 'https://127.0.0.1:1'\naudience = 'workspaces'\n\
         [[host]]\npattern = '(?<workspace>[a-z0-9-]+)\\.ws\\.test'\n[[source]]\nname = 'cluster'\nkind = 'kubernetes'\nresource = 'gitpod'\nkubeconfig = 'kubeconfig'\nresync_seconds = 600\n\
         [admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n[audit]\nfile = 'audit.jsonl'\n",
    )
    .unwrap();
    let started = Instant::now();
    let child = Command::new(test_stage::program())
        .args(["run", "--config"])
        .arg(at("agent.toml"))
        .env("RUST_LOG", "warn")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(at("agent.log")).unwrap())
        .spawn()
        .unwrap();
    let agent = Process(child);
    let client = reqwest::Client::builder().unix_socket(at("admin.sock")).build().unwrap();
    let line = format!("identity_spoa_source_workspaces{{source=\"cluster\"}} {WORKSPACES}");
    loop {
        let metrics = runtime.block_on(async {
            client.get("http://agent/metrics").send().await.ok()?.text().await.ok()
        });
        if metrics.is_some_and(|text| text.lines().any(|l| l == line)) {
            break;
        }
        let log = || std::fs::read_to_string(at("agent.log")).unwrap();
        assert!(started.elapsed() < Duration::from_mins(10), "{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed();
    let memory = |name: &str| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    };
    println!(
        "the program   has {WORKSPACES} workspaces of a cluster {:.1} s after its start; {:.0} MiB resident, {:.0} MiB at most",
        took.as_secs_f64(),
        memory("VmRSS:"),
        memory("VmHWM:")
    );
    // The list that follows, and what it leaves behind.
    std::thread::sleep(Duration::from_secs(30));
    println!(
        "              30 s later {:.0} MiB resident, {:.0} MiB at most",
        memory("VmRSS:"),
        memory("VmHWM:")
    );
    std::io::stdout().flush().unwrap();
}
