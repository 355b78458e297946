//! One hit, stage by stage, in nanoseconds of one thread: where the time goes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark prints, and stops at the first surprise"
)]

#[path = "../tests/allocations/hot_path.rs"]
mod hot_path;

use std::{
    fmt::Write as _,
    hint::black_box,
    io::sink,
    sync::Arc,
    time::{Duration, Instant},
};

use identity_spoa::{
    agent::{Batch, record::DecisionRecord},
    audit::AuditLog,
    authz::{
        decision::{self, DecisionId},
        limits::Limits,
        permission::Permission,
        policy::{PolicyMode, PolicyRequest, PolicySet, PolicySets, Principal, RequestContext},
        reason::Reason,
    },
    gate::{Gate, Response, Step, live::Live, revalidator::Revalidator},
    haproxy::runtime,
    identity::{
        Authentication,
        cache::{TokenCache, Verified},
        evidence::Evidence,
        issuers::Outcome,
        pending::Waiting,
    },
    request::Request,
    spop::{Event, Notify, frame::DEFAULT_SIZE},
    time::{MonotonicTime, Timestamp},
    tunnels::{AllowedRequest, Tunnel, TunnelSettings, Tunnels, revalidation::TunnelRevalidation},
    workspaces::{EndpointName, host::Host, pattern::Scratch},
};
use jiff::tz::TimeZone;

const ROUNDS: u32 = 200_000;

/// The least of five runs: what is more is the machine's.
fn time(what: &str, mut run: impl FnMut()) {
    let mut least = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..ROUNDS / 5 {
            run();
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS / 5));
    }
    println!("{what:<52} {least:>8.0} ns");
}

fn main() {
    let mut hot = hot_path::HotPath::start();
    let bytes = hot.notify("");
    let now = Timestamp::now();
    let mut scratch = Scratch::default();
    let mut out = Vec::new();
    let gate = Arc::clone(&hot.gate);
    let workspaces = gate.registry.snapshot();
    println!("one hit, a NOTIFY of {} bytes", bytes.len());

    let mut side = hot.side;
    time("split and check the frame", || {
        black_box(side.next(black_box(&bytes), &mut out));
    });
    let Some((Event::Notify(notify), _)) = hot.side.next(&bytes, &mut out) else { panic!() };
    let read = |notify: &Notify<'_>| {
        let message = notify.messages().next().unwrap();
        message.args().for_each(|arg| {
            black_box(arg);
        });
    };
    time("walk the arguments", || read(black_box(&notify)));
    let message = notify.messages().next().unwrap();
    time("arguments to request", || {
        black_box(Request::read(message.name, message.args()).unwrap());
    });
    let request = Request::read(message.name, message.args()).unwrap();
    time("parse the host", || {
        black_box(Host::parse(black_box(request.host.unwrap())).unwrap());
    });
    time("host to workspace (parse and match the pattern)", || {
        black_box(gate.match_host(black_box(&request), &mut scratch));
    });
    let cache = TokenCache::new(10).unwrap();
    time("digest of the token", || {
        black_box(cache.digest(black_box(hot.token.as_bytes())));
    });
    time("token to identity (digest, cache, key set)", || {
        black_box(gate.issuers.authenticate(hot.token.as_bytes(), None, now, Waiting::Allowed));
    });
    let Outcome::Settled(known) =
        gate.issuers.authenticate(hot.token.as_bytes(), None, now, Waiting::Allowed)
    else {
        panic!()
    };
    assert!(matches!(known, Authentication::Known(_)));
    let Authentication::Known(identity) = &known else { panic!() };
    let evidence = Evidence::default();
    let verified = Verified { identity: Arc::clone(identity), issuer: 0, key_set: 0, evidence };
    let moka = TokenCache::new(100_000).unwrap();
    let quick = quick_cache::sync::Cache::new(100_000);
    let digests: Vec<_> = (0..10_000_u32).map(|n| moka.digest(&n.to_be_bytes())).collect();
    for digest in &digests {
        moka.remember(*digest, verified.clone());
        quick.insert(*digest, verified.clone());
    }
    let mut next = digests.iter().cycle();
    time("find one of 10,000 tokens by its digest", || {
        black_box(moka.find(next.next().unwrap(), now)).unwrap();
    });
    time("the same in quick_cache", || {
        let found = quick.get(next.next().unwrap()).filter(|v| now < v.identity.expires);
        black_box(found).unwrap();
    });
    let place = gate.match_host(&request, &mut scratch);
    time("decide", || {
        let (about, limits) = (RequestContext::default(), Limits::default());
        let policies = PolicySets::default();
        black_box(decision::decide(&place, &about, known.clone(), &workspaces, &limits, policies));
    });
    let Step::Done(decided) =
        gate.decide(&request, &workspaces, now, &mut scratch, Waiting::Allowed)
    else {
        panic!()
    };
    let id = DecisionId::new();
    time("make a record", || {
        black_box(DecisionRecord::new(&decided, &request, &id, now));
    });
    let record = DecisionRecord::new(&decided, &request, &id, now);
    let (audit_log, writer) = AuditLog::to_sink(Box::new(sink()), 1 << 28).unwrap();
    time("keep a record: JSON into the buffer", || {
        audit_log.record(&record).unwrap();
    });
    drop(audit_log);
    writer.finish();
    policies(&known, now);
    tunnels(&gate, &request, &decided, now);
    let started = MonotonicTime::now();
    let workspaces = &workspaces;
    let batch = Batch { gate: &gate, workspaces, now, started, max_frame_size: DEFAULT_SIZE };
    time("all of it: one response", || {
        out.clear();
        hot.handler.handle(&notify, &batch, &mut scratch, Waiting::Allowed, &mut out);
    });
}

/// What policies add to a decision.
fn policies(known: &Authentication, now: Timestamp) {
    let Authentication::Known(identity) = known else { panic!() };
    let ask = |set: &PolicySet, path: &[u8]| {
        let request = PolicyRequest {
            principal: Some(Principal::from(&**identity)),
            workspace: "pinkpanda-demo-ns35kd21abc",
            organization: None,
            endpoint: &EndpointName::Main,
            declared: true,
            relation: Permission::Granted(Reason::Owner),
            context: RequestContext {
                method: Some(b"GET"),
                path: Some(path),
                client: Some([127, 0, 0, 1].into()),
                now,
                is_stream: false,
            },
        };
        assert!(black_box(set.decide(&request)).permission.is_granted());
    };
    let set =
        |text: &str| PolicySet::parse("bench", text, PolicyMode::Narrow, TimeZone::UTC).unwrap();
    let plain = set(
        "@id(\"a\") forbid(principal, action, resource) when { context.relation == \"none\" };",
    );
    time_slow("one policy that looks at the relation", || ask(&plain, b"/some/where"));
    for count in [1, 20, 200] {
        let mut text = String::new();
        for number in 0..count {
            writeln!(
                text,
                "@id(\"p{number}\") forbid(principal is User, action == Action::\"request\", resource)
                 when {{ resource.id like \"prod{number}-*\" || context.path like \"/admin{number}/*\" || context.hour == 99 }}
                 unless {{ context.client.isInRange(ip(\"10.{number}.0.0/16\")) || principal in Group::\"dev/g{number}\" }};"
            )
            .unwrap();
        }
        let set = set(&text);
        time_slow(&format!("{count} policies over everything"), || ask(&set, b"/some/where"));
        time_slow(&format!("{count}, a path with 4 readings"), || ask(&set, b"/some//%77here"));
    }
}

/// As [`time`], of what takes long.
fn time_slow(what: &str, mut run: impl FnMut()) {
    const TIMES: u32 = 2_000;
    let mut least = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..TIMES / 5 {
            run();
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(TIMES / 5));
    }
    println!("{what:<52} {least:>8.0} ns");
}

/// What ten thousand live tunnels cost in addition to the requests.
fn tunnels(gate: &Arc<Gate>, request: &Request<'_>, decided: &Response, now: Timestamp) {
    const COUNT: u32 = 10_000;
    let (audit_log, writer) = AuditLog::to_sink(Box::new(sink()), 1 << 20).unwrap();
    let settings = TunnelSettings { max: 100_000, ..TunnelSettings::default() };
    let all = Arc::new(Tunnels::new(settings, 1, Arc::new(audit_log)));
    let mut request = *request;
    request.upgrades = 1;
    request.location.frontend = Some(b"gate");
    let mut list = String::new();
    for number in 0..COUNT {
        request.location.stream = Some(number);
        let id = DecisionId::from(&format!("{number}")).unwrap();
        let allowed = AllowedRequest {
            response: decided,
            request: &request,
            id: &id,
            certificates: &[],
            now,
        };
        all.open(Tunnel::from_allowed(&allowed).unwrap()).unwrap();
        let [_, _, c, d] = number.to_be_bytes();
        let pointer = 0x7fb5_fb24_1c00_u64 + u64::from(number) * 1024;
        writeln!(
            list,
            "{pointer:#x}: proto=tcpv4 src=10.0.{c}.{d}:54321 fe=gate be=workspace srv=direct ts=00 epoch=0 age=1h2m calls=3 rate=0 cpu=0 lat=0 rq[f=848000h,i=0,an=00h,ax=] rp[f=80048000h,i=0,an=00h,ax=] scf=[8,1400h,fd=15,rex=59m58s,wex=] scb=[8,1001h,fd=14,rex=59m58s,wex=] exp=3s rc=0 c_exp="
        )
        .unwrap();
    }
    request.upgrades = 0;
    let id = DecisionId::from("1").unwrap();
    let allowed =
        AllowedRequest { response: decided, request: &request, id: &id, certificates: &[], now };
    time("remember a request that may last", || all.note(black_box(&allowed)).unwrap());
    list += "\nName: HAProxy\nPid: 7\n\n";
    let live = Arc::new(Live::new(Arc::clone(gate)));
    let mut revalidator = Revalidator::new(live);
    revalidator.register(TunnelRevalidation::new(Arc::clone(&all)));
    let mut at = MonotonicTime::now();
    let mut least = |what: &str, step: Duration| {
        let mut least = Duration::MAX;
        for _ in 0..20 {
            at = at.plus(step);
            let start = Instant::now();
            revalidator.round(now, at);
            least = least.min(start.elapsed());
        }
        println!("{what:<52} {:>8} us", least.as_micros());
    };
    least("10,000 tunnels: deadlines, 20 times a second", Duration::ZERO);
    least("10,000 tunnels: all decided about again", Duration::from_secs(100));
    let mut least = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        black_box(runtime::list(black_box(list.as_bytes())).unwrap());
        least = least.min(start.elapsed());
    }
    println!("{:<52} {:>8} us", "10,000 streams: HAProxy's list read", least.as_micros());
    drop((all, revalidator));
    writer.finish();
}
