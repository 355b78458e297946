//! One hit, stage by stage, in nanoseconds of one thread: where the time goes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark prints, and stops at the first surprise"
)]

#[path = "../tests/support/dev_idp/server.rs"]
mod dev_idp;
#[path = "../tests/support/hot_path.rs"]
mod hot_path;

use std::{hint::black_box, io::sink, sync::Arc, time::Instant};

use identity_spoa::{
    agent::Batch,
    audit::{Record, Trail},
    clock::{Moment, Timestamp},
    decision::{self, Policy, variables::DecisionId},
    gate::Step,
    identity::{
        Authentication,
        cache::{TokenCache, Verified},
        evidence::Evidence,
        issuers::Outcome,
    },
    request::Request,
    spop::{Event, Notify, frame::DEFAULT_SIZE},
    workspace::{host::Host, pattern::Scratch},
};

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
    let bytes = hot.question("");
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
        black_box(gate.place(black_box(&request), &mut scratch));
    });
    let cache = TokenCache::new(10).unwrap();
    time("digest of the token", || {
        black_box(cache.digest(black_box(hot.token.as_bytes())));
    });
    time("token to identity (digest, cache, key set)", || {
        black_box(gate.issuers.authenticate(hot.token.as_bytes(), None, now, true));
    });
    let Outcome::Settled(known) = gate.issuers.authenticate(hot.token.as_bytes(), None, now, true)
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
    let place = gate.place(&request, &mut scratch);
    time("decide", || {
        black_box(decision::decide(&place, None, known.clone(), &workspaces, &Policy::default()));
    });
    let Step::Done(decided) = gate.decide(&request, &workspaces, now, &mut scratch, true) else {
        panic!()
    };
    let id = DecisionId::new();
    time("make a record", || {
        black_box(Record::new(&decided, &request, &id, now));
    });
    let record = Record::new(&decided, &request, &id, now);
    let (trail, writer) = Trail::to(Box::new(sink()), 1 << 28).unwrap();
    time("keep a record: JSON into the buffer", || {
        trail.keep(&record).unwrap();
    });
    drop(trail);
    writer.finish();
    let started = Moment::now();
    let batch = Batch { workspaces: &workspaces, now, started, max_frame_size: DEFAULT_SIZE };
    time("all of it: one question answered", || {
        out.clear();
        hot.answerer.answer(&notify, &batch, &mut scratch, true, &mut out);
    });
}
