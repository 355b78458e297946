//! A gate with a cached token, and the authorization request that hits it: what the allocation test counts and
//! the benchmark of the stages times.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub, reason = "test support")]

use std::{io::sink, sync::Arc};

use identity_spoa::{
    agent::SpoeHandler,
    audit::{AuditLog, WriterThread},
    authz::limits::Limits,
    config::Config,
    gate::{Gate, Versions, live::Live},
    identity::{
        cache::TokenCache,
        issuers::Issuers,
        provider::{Fetcher, Provider},
        revocation::Revocations,
    },
    spop::{AgentSide, Value, client, frame::DEFAULT_SIZE},
    time::MonotonicTime,
    tunnels::{TunnelSettings, Tunnels},
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, EndpointOrigins, IssuerNames, Person,
        Phase, Protocol, Revision, Workspace,
        destination::{AllowedBackends, DestinationLimits, resolver::Resolver},
        pattern::HostPatterns,
        registry::{ListExtent, Publisher, Registry, SourceRules},
        source::SourceId,
    },
};

use dev_idp::DevIdp;

/// Everything a hit needs.
pub struct HotPath {
    pub gate: Arc<Gate>,
    pub handler: SpoeHandler,
    pub writer: WriterThread,
    /// An open connection.
    pub side: AgentSide,
    pub token: String,
}

impl HotPath {
    pub fn start() -> Self {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (gate, token) = runtime.block_on(async {
            let idp = DevIdp::start().await;
            let request = dev_idp::TokenRequest { alg: "RS256".into(), ..Default::default() };
            (gate(&idp).await, idp.token(&request))
        });
        let gate = Arc::new(gate);
        let (audit_log, writer) = AuditLog::to_sink(Box::new(sink()), 1 << 24).unwrap();
        let audit_log = Arc::new(audit_log);
        let tunnels = Tunnels::new(TunnelSettings::default(), 1, Arc::clone(&audit_log));
        let handler = SpoeHandler::new(Arc::new(Live::new(Arc::clone(&gate))), audit_log)
            .tracking(Some(Arc::new(tunnels)));
        let mut side = AgentSide::new(DEFAULT_SIZE);
        let mut hello = Vec::new();
        client::hello(&mut hello, DEFAULT_SIZE, "pipelining", false);
        side.next(&hello, &mut Vec::new()).unwrap();
        Self { gate, handler, writer, side, token }
    }

    /// The NOTIFY frame of the owner's request, to the editor (`""`) or a port (`"3000-"`).
    pub fn notify(&self, port: &str) -> Vec<u8> {
        let host = format!("{port}pinkpanda-demo-ns35kd21abc.ws.x.test");
        notify(&host, &format!("Bearer {}", self.token))
    }
}

fn workspace() -> Workspace {
    let owner = Person {
        issuers: IssuerNames::one("dev"),
        subject: Some("sub-alice".into()),
        ..Person::default()
    };
    let at = |address: &str| Destination::Address(address.parse().unwrap());
    let endpoint = |name, destination| Endpoint {
        name,
        protocol: Protocol::Http,
        admission: Admission::Owner,
        destination,
        origins: EndpointOrigins::default(),
    };
    Workspace {
        id: "pinkpanda-demo-ns35kd21abc".parse().unwrap(),
        instance: None,
        revision: Revision::default(),
        organization: None,
        owner_label: "alice".into(),
        owner,
        grants: vec![],
        phase: Phase::Running,
        address: None,
        template: None,
        endpoints: vec![
            endpoint(EndpointName::Main, at("10.0.0.1:80")),
            endpoint(EndpointName::Port(3000), Destination::Backend("shared".into())),
        ],
        paths: vec![],
    }
}

async fn gate(idp: &DevIdp) -> Gate {
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
    let rules = SourceRules::default().never_stale();
    let registry = Arc::new(Registry::new(&[("test", rules)], Arc::new(Resolver::default())));
    let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(0));
    let now = MonotonicTime::now();
    publisher.complete(vec![workspace()], now, now, ListExtent::Snapshot);
    publisher.confirm(now);
    Gate {
        patterns: HostPatterns::new(&config.hosts).unwrap(),
        issuers: Arc::new(Issuers::new(vec![Arc::new(provider)], TokenCache::new(1000).unwrap())),
        token_locations: None,
        metadata: None,
        certificates: vec![],
        browser: None,
        revocations: Arc::new(Revocations::open(vec![], None).unwrap()),
        registry,
        lookups: vec![],
        watched: vec![],
        limits: Limits {
            ranges: DestinationLimits::default()
                .with_backends(AllowedBackends::parse(["shared"]).unwrap()),
            ..Limits::default()
        },
        policies: None,
        versions: Versions { config: config.fingerprint, policy: None },
        metrics: Arc::default(),
    }
}

/// The bytes of a NOTIFY as the shipped configuration makes it.
fn notify(host: &str, bearer: &str) -> Vec<u8> {
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
        (b"certificate", Value::Null),
        (b"certificate_result", Value::Null),
        (b"stream", Value::Int64(4711)),
        (b"started", Value::Int64(1_795_548_036_812_610)),
        (b"process", Value::Int64(8)),
        (b"frontend", Value::Str(b"gate")),
        (b"source", Value::Ipv4([127, 0, 0, 1].into())),
        (b"source_port", Value::Int64(54321)),
        (b"upgrades", Value::Int64(0)),
    ];
    client::notify(&mut bytes, (1, 1), DEFAULT_SIZE, &[(b"authorize", args)]).unwrap();
    bytes
}
