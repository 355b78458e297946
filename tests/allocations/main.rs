//! A decision about a remembered token allocates nothing: not in the codec, not in the stages, not in
//! the record. Counted over the whole process, the thread that writes the audit log included.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod hot_path;

use std::alloc::System;

use identity_spoa::{
    agent::Batch,
    identity::pending::Waiting,
    spop::{Event, frame::DEFAULT_SIZE},
    time::{MonotonicTime, Timestamp},
    workspaces::pattern::Scratch,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUESTS: usize = 10_000;

#[test]
fn a_hit_allocates_nothing() {
    let mut hot = hot_path::HotPath::start();
    let stream = [hot.notify(""), hot.notify("3000-")].concat();
    let mut out = Vec::with_capacity(1 << 16);
    let mut scratch = Scratch::default();
    let mut round = || {
        let workspaces = hot.gate.registry.snapshot();
        let now = Timestamp::now();
        let started = MonotonicTime::now();
        let gate = &hot.gate;
        let workspaces = &workspaces;
        let batch = Batch { gate, workspaces, now, started, max_frame_size: DEFAULT_SIZE };
        let mut rest = &stream[..];
        out.clear();
        while let Some((event, used)) = hot.side.next(rest, &mut out) {
            let Event::Notify(notify) = event else { panic!("{event:?}") };
            assert!(
                hot.handler
                    .handle(&notify, &batch, &mut scratch, Waiting::Allowed, &mut out)
                    .is_none()
            );
            rest = rest.get(used..).unwrap();
        }
        // Two answers that allow, each with the reason and the name of a variable in it.
        assert_eq!(out.windows(5).filter(|w| w == b"owner").count(), 4);
    };
    for _ in 0..REQUESTS {
        round();
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..REQUESTS / 2 {
        round();
    }
    let change = region.change();
    let (new, grown) = (change.allocations, change.reallocations);
    eprintln!("{REQUESTS} hits: {new} allocations, {grown} reallocations");
    assert_eq!((new, grown), (0, 0));
    drop(hot.handler);
    hot.writer.finish();
}
