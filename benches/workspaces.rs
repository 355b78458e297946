//! The registry of workspaces and the way of an event into it: memory, look-up, lag.
//!
//! `cargo bench -p benches --bench workspaces`, for another number of workspaces `cargo bench -p benches --bench workspaces -- 1000000`.
//! Everything runs in this process, on one thread where that is the
//! claim; a platform that answers each read after a millisecond stands for the real ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark prints figures, and stops at a surprise"
)]

use std::{
    alloc::System,
    collections::HashMap,
    hint::black_box,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use identity_spoa::{
    backoff::jitter,
    time::MonotonicTime,
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, EndpointOrigins, IssuerNames, Organization,
        Person, Phase, Protocol, Revision, Workspace, WorkspaceId,
        destination::{Server, resolver::Resolver},
        directory::Member,
        reconcile::{
            core::{ReconcileTiming, Reconciler},
            driver::Driver,
            lookup::Lookup,
        },
        registry::{ListExtent, LookupResult, Publisher, Registry, SourceRules},
        source::{Capabilities, Source, SourceError, SourceEvent, SourceId},
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How many there are: the number among the arguments.
fn count() -> u32 {
    std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(USUAL)
}

const USUAL: u32 = 100_000;

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
    Workspace {
        id: id(number).parse().unwrap(),
        instance: Some("2026-11-24T08:00:00Z".into()),
        revision: Revision { spec: Some(1), status: Some(revision) },
        organization: Some(Organization { issuers: IssuerNames::one("corp"), name: "acme".into() }),
        owner: Person { account: Some(id(number % 5000).into()), ..Person::default() },
        owner_label: id(number % 5000).into(),
        grants: vec![],
        phase,
        address: None,
        template: None,
        endpoints: [3000, 5173, 8080].map(endpoint).into(),
        paths: vec![],
    }
}

fn registry() -> (Arc<Registry>, Publisher) {
    let sources = [("bench", SourceRules::default())];
    let registry = Arc::new(Registry::new(&sources, Arc::new(Resolver::default())));
    (Arc::clone(&registry), Publisher::new(registry, SourceId::new(0)))
}

fn is_up(registry: &Registry, id: &str) -> bool {
    match registry.snapshot().find(None, id) {
        LookupResult::Workspace(record) => record.workspace.phase.is_routable(),
        _ => false,
    }
}

/// Returns the bytes that a hundred thousand workspaces take.
fn memory(publisher: &Publisher) -> usize {
    let region = Region::new(ALLOCATOR);
    let list = (0..count()).map(|n| workspace(n, 1, Phase::Running)).collect();
    let now = MonotonicTime::now();
    publisher.complete(list, now, now, ListExtent::Pages);
    publisher.confirm(now);
    let change = region.change();
    // Memory that was freed again is left out.
    change.bytes_allocated - change.bytes_deallocated
}

/// Nanoseconds for one look-up, the snapshot included as the agent takes it once for a batch of 16.
fn look_up(registry: &Registry) -> f64 {
    let ids: Vec<String> = (0..count()).map(id).collect();
    let rounds = 2_000_000_usize;
    let start = Instant::now();
    for batch in 0..rounds / 16 {
        let snapshot = registry.snapshot();
        for n in 0..16 {
            let id = ids.get((batch * 16 + n).wrapping_mul(7919) % ids.len()).unwrap();
            black_box(snapshot.find(None, black_box(id)));
        }
    }
    start.elapsed().as_nanos() as f64 / rounds as f64
}

/// A platform whose workspaces have a revision and a phase.
struct Platform {
    state: Mutex<HashMap<WorkspaceId, (u32, u64, Phase)>>,
    events: Mutex<Option<mpsc::Sender<SourceEvent>>>,
}

impl Platform {
    fn change(&self, number: u32, phase: Phase) -> WorkspaceId {
        let mut state = self.state.lock().unwrap();
        let id: WorkspaceId = id(number).parse().unwrap();
        let entry = state.get_mut(&id).unwrap();
        *entry = (number, entry.1 + 1, phase);
        id
    }
}

impl Source for Platform {
    fn capabilities(&self) -> Capabilities {
        Capabilities { watches: true, reads: true, ..Capabilities::default() }
    }

    async fn list(&self) -> Result<Vec<Workspace>, SourceError> {
        let state = self.state.lock().unwrap();
        Ok(state
            .values()
            .map(|(number, revision, phase)| workspace(*number, *revision, *phase))
            .collect())
    }

    async fn read(&self, id: &WorkspaceId) -> Result<Option<Workspace>, SourceError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let state = self.state.lock().unwrap();
        Ok(state.get(id).map(|(number, revision, phase)| workspace(*number, *revision, *phase)))
    }

    async fn watch(&self, events: mpsc::Sender<SourceEvent>) -> SourceError {
        events.send(SourceEvent::Connected).await.unwrap();
        *self.events.lock().unwrap() = Some(events.clone());
        events.closed().await;
        SourceError::Timeout
    }

    async fn accounts(&self) -> Result<Vec<Member>, SourceError> {
        Ok(vec![])
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

struct Lag {
    half: Duration,
    most: Duration,
    behind: Duration,
    cpu: Duration,
}

/// Tells `per_second` changes a second for some seconds, among a hundred thousand workspaces; a tenth of
/// them are ends whose way to the registry is timed from another thread.
fn events(per_second: u32, seconds: u32) -> Lag {
    let workspaces = count();
    let (registry, publisher) = registry();
    let state = (0..count()).map(|n| (id(n).parse().unwrap(), (n, 1, Phase::Running))).collect();
    let platform = Arc::new(Platform { state: Mutex::new(state), events: Mutex::default() });
    let stop = CancellationToken::new();
    let cpu_of_driver = Arc::new(Mutex::new(Duration::ZERO));
    let counting = Arc::new(AtomicBool::new(false));
    let thread = {
        let (platform, stop) = (Arc::clone(&platform), stop.clone());
        let (total, counting) = (Arc::clone(&cpu_of_driver), Arc::clone(&counting));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (lookup, lookups) = Lookup::new();
            let timing = ReconcileTiming {
                list_interval: Duration::from_mins(10),
                ..ReconcileTiming::default()
            };
            let core = Reconciler::new(publisher, platform.capabilities(), timing, jitter);
            let driver = Driver { source: platform, core, lookup, lookups, status: Arc::default() };
            runtime.block_on(async {
                let running = tokio::spawn(driver.run(stop.clone()));
                while !counting.load(Ordering::Acquire) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let start = cpu();
                stop.cancelled().await;
                *total.lock().unwrap() = cpu().saturating_sub(start);
                running.await.unwrap();
            });
        })
    };
    while !is_up(&registry, &id(workspaces - 1)) || platform.events.lock().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let sender = platform.events.lock().unwrap().clone().unwrap();
    // The list that follows the connection for events comes first: until an end is known at once.
    for number in (0..workspaces).rev() {
        let start = Instant::now();
        let id = platform.change(number, Phase::Stopped);
        sender.blocking_send(SourceEvent::Changed(id.clone())).unwrap();
        while is_up(&registry, id.as_str()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if number < workspaces - 3 && start.elapsed() < Duration::from_millis(20) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    counting.store(true, Ordering::Release);
    let (mut times, mut waiting) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for n in 0..per_second * seconds {
        let due = start + Duration::from_secs(1) * n / per_second;
        while Instant::now() < due {
            waiting.retain(|(number, at): &(u32, Instant)| {
                let up = is_up(&registry, &id(*number));
                if !up {
                    times.push(at.elapsed());
                }
                up
            });
            std::hint::spin_loop();
        }
        let number = n.wrapping_mul(7919) % workspaces;
        let ends = n % 10 == 0;
        let phase = if ends { Phase::Stopped } else { Phase::Running };
        let id = platform.change(number, phase);
        if ends {
            waiting.push((number, Instant::now()));
        }
        sender.blocking_send(SourceEvent::Changed(id)).unwrap();
    }
    let told = Instant::now();
    while !waiting.is_empty() {
        waiting.retain(|(number, at)| {
            let up = is_up(&registry, &id(*number));
            if !up {
                times.push(at.elapsed());
            }
            up
        });
    }
    let behind = told.elapsed();
    stop.cancel();
    thread.join().unwrap();
    times.sort();
    let at = |share: usize| *times.get(times.len() * share / 100).unwrap();
    let cpu = *cpu_of_driver.lock().unwrap();
    Lag { half: at(50), most: at(99), behind, cpu }
}

fn main() {
    let (registry, publisher) = registry();
    let bytes = memory(&publisher);
    let mib = bytes as f64 / f64::from(1 << 20);
    println!("{} workspaces of 3 ports  {mib:.1} MiB", count());
    assert!(mib < 100.0 * f64::from(count()) / f64::from(USUAL), "more than 1 KiB each");
    let nanos = look_up(&registry);
    println!("look-up by id                {nanos:.0} ns");
    // Ten times as many are in no cache of the processor.
    assert!(nanos < 1000.0 || count() > USUAL, "more than a microsecond");
    for per_second in [500, 5000] {
        let seconds = 10;
        let Lag { half, most, behind, cpu } = events(per_second, seconds);
        let share = cpu.as_secs_f64() / f64::from(seconds) * 100.0;
        println!(
            "{per_second:>5} events a second: event to refusal p50 {half:.1?}, p99 {most:.1?}; behind at the end {behind:.1?}; {share:.0} % of one core"
        );
        assert!(most < Duration::from_millis(50), "an end took too long to be known");
    }
}
