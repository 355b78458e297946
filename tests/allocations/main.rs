//! A decision about a remembered token allocates nothing: not in the codec, not in the stages, not in
//! the record. Counted over the whole process, the thread that writes the trail included.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

#[path = "../support/dev_idp/server.rs"]
mod dev_idp;

use std::{alloc::System, io::sink, net::SocketAddr, sync::Arc};

use identity_spoa::{
    agent::{Answerer, Batch},
    audit::Trail,
    clock::Timestamp,
    config::Config,
    decision::Policy,
    gate::Gate,
    identity::{
        cache::TokenCache,
        issuers::Issuers,
        provider::{Fetcher, Provider},
    },
    spop::{AgentSide, Event, Value, client, frame::DEFAULT_SIZE},
    workspace::{
        Admission, Destination, Endpoint, EndpointName, Person, Phase, Workspace,
        pattern::{HostPatterns, Scratch},
        registry::Registry,
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const QUESTIONS: usize = 10_000;

fn workspace() -> Workspace {
    let owner =
        Person { issuer: None, subject: Some("sub-alice".into()), email: None, username: None };
    let at = |address: &str| Destination::Address(address.parse::<SocketAddr>().unwrap());
    let endpoint = |name, destination| Endpoint { name, admission: Admission::Owner, destination };
    Workspace {
        id: "pinkpanda-demo-ns35kd21abc".parse().unwrap(),
        organization: None,
        owner_label: "alice".into(),
        owner,
        grants: vec![],
        phase: Phase::Running,
        address: None,
        endpoints: vec![
            endpoint(EndpointName::Main, at("10.0.0.1:80")),
            endpoint(EndpointName::Port(3000), Destination::Backend("shared".into())),
        ],
    }
}

async fn gate(idp: &dev_idp::DevIdp) -> Gate {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let text = format!(
        "[agent]\nlisten = ['127.0.0.1:0']\n[workspaces]\nfile = 'w.yaml'\n\
         [[host]]\npreset = 'gitpod'\ndomain = 'x.test'\n\
         [[issuer]]\nname = 'dev'\nissuer = '{}'\naudience = 'workspaces'\n",
        idp.issuer()
    );
    std::fs::write(&path, text).unwrap();
    let config = Config::load(&path).unwrap();
    let issuer = config.issuers.first().unwrap();
    let fetcher = Fetcher::new(None, None).unwrap();
    let provider = Provider::new(Arc::clone(&issuer.profile), issuer.schedule, fetcher);
    provider.fetch().await.unwrap();
    let registry = Arc::new(Registry::default());
    registry.replace([workspace()]);
    Gate {
        patterns: HostPatterns::new(&config.hosts).unwrap(),
        issuers: Issuers::new(vec![Arc::new(provider)], TokenCache::new(1000).unwrap()),
        registry,
        policy: Policy::default(),
    }
}

/// The bytes of a NOTIFY as the shipped configuration makes it.
fn question(host: &str, bearer: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let args: &[client::Arg<'_>] = &[
        (b"unique_id", Value::Str(b"6dab2f21-b361-4d8a-bf7f-c4169c36d182")),
        (b"method", Value::Str(b"GET")),
        (b"host", Value::Str(host.as_bytes())),
        (b"hosts", Value::Int64(1)),
        (b"path", Value::Str(b"/some/where")),
        (b"authorization", Value::Str(bearer.as_bytes())),
        (b"authorizations", Value::Int64(1)),
        (b"cookie", Value::Str(b"theme=dark; session=0123456789")),
        (b"cookies", Value::Int64(1)),
        (b"client", Value::Ipv4([127, 0, 0, 1].into())),
    ];
    client::notify(&mut bytes, (1, 1), DEFAULT_SIZE, &[(b"authorize", args)]).unwrap();
    bytes
}

#[test]
fn a_hit_allocates_nothing() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (gate, token) = runtime.block_on(async {
        let idp = dev_idp::DevIdp::start().await;
        (gate(&idp).await, idp.token_of("alice"))
    });
    // Nothing of the stage may run and be counted.
    drop(runtime);
    let gate = Arc::new(gate);
    let (trail, writer) = Trail::to(Box::new(sink()), 1 << 16).unwrap();
    let answerer = Answerer::new(Arc::clone(&gate), Arc::new(trail));
    let bearer = format!("Bearer {token}");
    let stream: Vec<u8> = ["", "3000-"]
        .map(|port| question(&format!("{port}pinkpanda-demo-ns35kd21abc.ws.x.test"), &bearer))
        .concat();
    let mut side = AgentSide::new(DEFAULT_SIZE);
    let mut out = Vec::with_capacity(1 << 16);
    let mut scratch = Scratch::default();
    let mut hello = Vec::new();
    client::hello(&mut hello, DEFAULT_SIZE, "pipelining", false);
    side.next(&hello, &mut out).unwrap();

    let mut round = || {
        let snapshot = gate.registry.snapshot();
        let batch =
            Batch { workspaces: &snapshot, now: Timestamp::now(), max_frame_size: DEFAULT_SIZE };
        let mut rest = &stream[..];
        out.clear();
        while let Some((event, used)) = side.next(rest, &mut out) {
            let Event::Notify(notify) = event else { panic!("{event:?}") };
            assert!(answerer.answer(&notify, &batch, &mut scratch, true, &mut out).is_none());
            rest = rest.get(used..).unwrap();
        }
        // Two answers that allow: two frames with a user in them.
        assert_eq!(out.windows(5).filter(|w| w == b"owner").count(), 4);
    };
    for _ in 0..QUESTIONS {
        round();
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..QUESTIONS / 2 {
        round();
    }
    let change = region.change();
    eprintln!(
        "{QUESTIONS} hits: {} allocations, {} reallocations",
        change.allocations, change.reallocations
    );
    assert_eq!((change.allocations, change.reallocations), (0, 0));
    drop(answerer);
    writer.finish();
}
