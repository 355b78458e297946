//! Faults under a constant load, alone and in pairs.
//!
//! Each cell begins when every answer is right, lasts for some seconds, and ends when every answer is right
//! again. It measures whether a person is let in who must not be; how many who must be let in were not; and how
//! long after its end a fault was still felt.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    browser::Browser,
    chance::Chance,
    load,
    stage::Resident,
    tally::{Counts, Tally},
    truth::{self, Fact, Port, Session, Source},
    tunnels,
};
use test_stage::Version;

mod fault;
mod loss;
mod memory;
mod platform;
mod proxy;
mod scene;
mod upstream;

use fault::Fault;
use loss::Loss;
use scene::{Layout, Scene};

#[derive(Args)]
pub struct Options {
    /// A handful of cells only
    #[arg(long)]
    quick: bool,
    /// Pairs of faults, drawn at random
    #[arg(long, default_value_t = 30)]
    pairs: usize,
    /// Requests a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seed of all choices; default: the time of day
    #[arg(long)]
    seed: Option<u64>,
    /// Only cells with these words in a fault's name
    #[arg(long)]
    only: Option<String>,
    /// A Markdown file with the marks `<!-- chaos -->` and `<!-- /chaos -->`, between which the table goes
    #[arg(long)]
    write: Option<PathBuf>,
    /// Where surprises and the agent's log go
    #[arg(long, default_value = "target/prove")]
    to: PathBuf,
}

/// The cells of the short form.
const QUICK: [Fault; 6] = [
    Fault::AgentKilled,
    Fault::AgentStopped,
    Fault::ProviderDown,
    Fault::StorePartitioned,
    Fault::SourceHalfOpen,
    Fault::HaproxyReloaded,
];

/// How many people are signed in.
const SESSIONS: usize = 8;
/// The cells of the short form in the scene of two.
const QUICK_OF_TWO: [Fault; 3] =
    [Fault::BothKilled, Fault::OneCutFromStore, Fault::BothHaproxiesReloaded];

/// What came of a cell.
struct Row {
    faults: Vec<Fault>,
    counts: Counts,
    /// How long each lasted.
    lasted: Duration,
    /// From its end to the last answer that was lost, from its beginning where it is over at once; none if it
    /// did not recover.
    recovered: Option<Duration>,
    starts: u32,
}

/// Runs all cells. Returns whether no person was wrongly let in, none wrongly refused, and everything recovered.
pub async fn run(options: Options) -> bool {
    truth::self_check();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = options.seed.unwrap_or(now.as_secs());
    println!("seed {seed}, {} requests/s", options.rate);
    let one = scene_of(&options, seed, Layout::One).await;
    let two = scene_of(&options, seed, Layout::Two).await;
    finish(&options, seed, &[one, two])
}

/// What came of one scene.
struct Part {
    layout: Layout,
    rows: Vec<Row>,
    tunnels: Arc<tunnels::Counts>,
    surprises: usize,
    /// Answers for which HAProxy reused an allow.
    reused: usize,
    /// Whether the audit logs are whole.
    chained: bool,
}

/// Starts everything, goes through the cells, and ends everything.
async fn scene_of(options: &Options, seed: u64, layout: Layout) -> Part {
    let newest = Version::newest().clone();
    let mut chance = Chance::new(seed, 6);
    let scene = Scene::start(seed, &newest, layout).await;
    let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
    let counts = Arc::new(tunnels::Counts::default());
    let mut tasks =
        vec![tokio::spawn(supervise(Arc::clone(&scene), Arc::clone(&tally), stop.clone()))];
    tasks.push(tokio::spawn(tokens(Arc::clone(&scene), seed, stop.clone())));
    tasks.push(tokio::spawn(people(Arc::clone(&scene), seed, stop.clone())));
    let plan = load::Plan {
        gates: scene.gates(),
        rate: options.rate,
        repeats: if layout == Layout::Two { 70 } else { 0 },
    };
    let world = Arc::clone(&scene.world);
    tasks.push(tokio::spawn(load::run(plan, world, Arc::clone(&tally), seed, stop.clone())));
    let watched = Arc::clone(&scene);
    let plan = tunnels::Plan {
        gates: scene.gates(),
        world: Arc::clone(&scene.world),
        every: Duration::from_millis(500),
        kept: Duration::from_secs(30),
        undisturbed: Box::new(move || *watched.undisturbed.lock().unwrap()),
        losses: tunnels::Losses::Count,
    };
    let of_tunnels = (Arc::clone(&tally), Arc::clone(&counts));
    tasks.push(tokio::spawn(tunnels::run(plan, of_tunnels.0, of_tunnels.1, seed, stop.clone())));
    let mut rows = Vec::new();
    for faults in cells(options, &scene, layout, &mut chance) {
        let row = cell(&scene, &tally, faults, options.quick, &mut chance).await;
        println!("{}", line(&row));
        rows.push(row);
    }
    // What ends with the last cell has its time to.
    tokio::time::sleep(Duration::from_secs(6)).await;
    stop.cancel();
    for task in tasks {
        let _ = task.await;
    }
    let chained = verify(&scene).await;
    write_down(options, &scene, &tally, layout);
    let surprises = tally.surprises.lock().unwrap().len();
    let reused = scene.reused();
    Part { layout, rows, tunnels: counts, surprises, reused, chained }
}

/// Which faults meet.
fn cells(options: &Options, scene: &Scene, layout: Layout, chance: &mut Chance) -> Vec<Vec<Fault>> {
    let tags: BTreeSet<_> = Version::all().iter().cloned().collect();
    let possible = |fault: &Fault| match fault {
        Fault::DiskFull => scene.disk.is_some(),
        Fault::ClockAhead | Fault::ClockBehind => scene.faketime.is_some(),
        Fault::HaproxyUpgraded => tags.contains(&Version::Container(fault::OLD.into())),
        Fault::HaproxyKilled | Fault::OneHaproxyKilled | Fault::OneHaproxyPaused => {
            *Version::newest() != Version::Local
        }
        Fault::AgentMemoryLimit => memory::is_possible(),
        Fault::PacketLoss => Loss::is_possible(),
        _ => true,
    };
    let (all, quick): (&[Fault], &[Fault]) = match layout {
        Layout::One => (&Fault::ALL, &QUICK),
        Layout::Two => (&Fault::OF_TWO, &QUICK_OF_TWO),
    };
    for missing in all.iter().filter(|fault| !possible(fault)) {
        println!("not possible here: {}", missing.name());
    }
    let wanted = |fault: &Fault| {
        possible(fault) && options.only.as_ref().is_none_or(|words| fault.name().contains(&**words))
    };
    let alone = if options.quick { quick } else { all };
    let mut cells: Vec<Vec<Fault>> =
        alone.iter().filter(|fault| wanted(fault)).map(|fault| vec![*fault]).collect();
    // Pairs are drawn where there is one of each.
    let pairs = match (layout, options.quick) {
        // None that is asked for is in this scene.
        _ if !all.iter().any(wanted) => 0,
        (Layout::Two, _) => 0,
        (Layout::One, true) => 2,
        (Layout::One, false) => options.pairs,
    };
    let mut drawn = BTreeSet::new();
    let several: Vec<Fault> = all.iter().copied().filter(|fault| possible(fault)).collect();
    while drawn.len() < pairs {
        let (one, other) = (chance.below(several.len()), chance.below(several.len()));
        let (a, b) = (several[one.min(other)], several[one.max(other)]);
        if a.victim() != b.victim()
            && (wanted(&a) || wanted(&b))
            && drawn.insert((a.name(), b.name()))
        {
            cells.push(vec![a, b]);
        }
    }
    cells
}

async fn cell(
    scene: &Arc<Scene>,
    tally: &Arc<Tally>,
    faults: Vec<Fault>,
    quick: bool,
    chance: &mut Chance,
) -> Row {
    // Whatever was doubtful is over.
    scene.forget_sessions();
    for fault in &faults {
        fault.prepare(scene).await;
    }
    calm(tally, Duration::from_secs(40)).await;
    sign_in(scene, tally, chance).await;
    calm(tally, Duration::from_secs(20)).await;
    let starts = |scene: &Scene| -> u32 {
        scene.agents().iter().map(|(agent, _)| agent.lock().unwrap().starts).sum()
    };
    let starts_before = starts(scene);
    let before = tally.take();
    // What is wrong between cells is wrong as well.
    let mut counts = Counts {
        wrong_allows: before.wrong_allows,
        wrong_denies: before.wrong_denies,
        ..Counts::default()
    };
    let start = Instant::now();
    let alone = faults.len() == 1;
    let lasts = faults.iter().map(|fault| fault.lasts()).max().unwrap_or_default();
    let lasts = match (alone, quick) {
        (_, true) => Duration::from_secs(4),
        (true, false) => lasts,
        (false, false) => lasts.min(Duration::from_secs(9)),
    };
    futures_util::future::join_all(faults.iter().map(|fault| fault.begin(scene))).await;
    tokio::time::sleep(lasts.saturating_sub(start.elapsed())).await;
    for fault in &faults {
        fault.end(scene).await;
    }
    let end = Instant::now();
    let recovered = calm(tally, Duration::from_mins(1)).await.then(|| {
        let last = *tally.last_lost.lock().unwrap();
        let at_once = faults.iter().all(|fault| fault.is_over_at_once());
        let from = if at_once { start } else { end };
        last.map_or(Duration::ZERO, |last| last.saturating_duration_since(from))
    });
    counts.add(&tally.take());
    let starts = starts(scene) - starts_before;
    Row { faults, counts, lasted: end - start, recovered, starts }
}

/// Waits until nothing was lost for two seconds; whether that came.
async fn calm(tally: &Tally, patience: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let last = *tally.last_lost.lock().unwrap();
        let calm = last.is_none_or(|last| last.elapsed() > Duration::from_secs(2));
        if calm && start.elapsed() > Duration::from_secs(2) {
            return true;
        }
    }
    false
}

/// Starts the agent again when it ended, as a supervisor does, and settles what must be known.
async fn supervise(scene: Arc<Scene>, tally: Arc<Tally>, stop: CancellationToken) {
    let mut loading = false;
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (agent, _) in scene.agents() {
            let mut agent = agent.lock().unwrap();
            if agent.look() || agent.is_new() {
                scene.disturb(Instant::now());
                loading = true;
            }
        }
        // An agent that started has no workspaces until it reached the platform.
        loading &= Instant::now() < *scene.disturbed.lock().unwrap() + Duration::from_secs(2);
        if loading {
            *tally.loading.lock().unwrap() = Some(Instant::now() + Duration::from_millis(100));
        }
        scene.settle();
    }
}

/// Each person gets a token.
async fn tokens(scene: Arc<Scene>, seed: u64, stop: CancellationToken) {
    let mut chance = Chance::new(seed, 3);
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let residents = scene.world.residents().clone();
        let current = scene.world.keys().number;
        let now = SystemTime::now();
        for resident in &residents {
            let due = resident
                .person
                .token()
                .is_none_or(|token| token.ends < now || token.keys.number != current);
            if due {
                let idp = scene.idp.lock().await;
                let seconds = 20 + chance.below(100);
                let name = &resident.person.name;
                let token = scene.world.mint(&idp, name, seconds, &mut chance);
                *resident.person.token.lock().unwrap() = Some(token);
            }
        }
    }
}

/// Workspaces start and stop, people leave and are revoked, sessions end.
async fn people(scene: Arc<Scene>, seed: u64, stop: CancellationToken) {
    let mut chance = Chance::new(seed, 2);
    let mut ghosts: VecDeque<Resident> = VecDeque::new();
    // What was revoked, and the agent did not confirm yet.
    let mut unconfirmed: Vec<Resident> = Vec::new();
    let mut round = 0_u64;
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if scene.hold.load(Ordering::Relaxed) {
            continue;
        }
        round += 1;
        let residents = scene.world.residents().clone();
        let place = &chance.pick(&residents).unwrap().place;
        let next = match place.phase.latest() {
            "running" if chance.percent(50) => Some("stopped"),
            "running" => None,
            _ => Some("running"),
        };
        if let Some(next) = next {
            scene.change(place, next);
        }
        if round.is_multiple_of(10) {
            let slot = chance.below(residents.len());
            let old = residents[slot].clone();
            old.person.revoked.begin(true);
            if let Some(session) = old.person.session() {
                session.alive.begin(false);
            }
            unconfirmed.push(old.clone());
            let next = {
                let idp = scene.idp.lock().await;
                let source = Source::Cluster(scene.pods.public_port);
                scene.world.newcomer(&idp, slot, source, &mut chance)
            };
            scene.platform.remove(&old.place);
            scene.absent(&old.place);
            scene.world.residents()[slot] = next.clone();
            scene.change(&next.place, "running");
            scene.world.ghosts.lock().unwrap().push(old.clone());
            ghosts.push_back(old);
            if ghosts.len() > 40 {
                let over = ghosts.pop_front().unwrap();
                let mut all = scene.world.ghosts.lock().unwrap();
                all.retain(|ghost| !Arc::ptr_eq(&ghost.person, &over.person));
            }
        }
        if round.is_multiple_of(7) {
            end_one_session(&scene, &residents, &mut chance).await;
        }
        // As an operator would: again until it is confirmed.
        let mut still = Vec::new();
        for resident in unconfirmed {
            let body =
                json!({ "issuer": "dev", "subject": format!("sub-{}", resident.person.name) });
            if scene.confirm(Method::POST, "/v1/revocations", &body).await {
                resident.person.revoked.settle(scene.late());
            } else {
                still.push(resident);
            }
        }
        unconfirmed = still;
    }
}

async fn end_one_session(scene: &Arc<Scene>, residents: &[Resident], chance: &mut Chance) {
    let of_them = |r: &&Resident| r.person.session().is_some_and(|s| s.alive.latest());
    let signed_in: Vec<_> = residents.iter().filter(of_them).collect();
    let Some(resident) = chance.pick(&signed_in) else { return };
    let Some(session) = resident.person.session() else { return };
    session.alive.begin(false);
    let body = json!({ "issuer": "dev", "subject": format!("sub-{}", resident.person.name) });
    if scene.confirm(Method::DELETE, "/v1/sessions", &body).await {
        session.alive.settle(scene.late());
    }
}

/// Some people sign in.
async fn sign_in(scene: &Arc<Scene>, tally: &Tally, chance: &mut Chance) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let residents = scene.world.residents().clone();
        let of_them = |r: &&Resident| r.person.session().is_some_and(|s| s.alive.latest());
        if residents.iter().filter(of_them).count() >= SESSIONS {
            return;
        }
        let resident = chance.pick(&residents).unwrap();
        if resident.place.phase.latest() != "running" || resident.person.session().is_some() {
            continue;
        }
        scene.idp.lock().await.set_user(&resident.person.name);
        let host = resident.place.host(Port::Main);
        let mut browser = Browser::new(scene.gate, scene.https);
        match browser.sign_in(&host).await {
            Ok(cookie) => {
                let session = Session { cookie, host, alive: Fact::new(true) };
                *resident.person.session.lock().unwrap() = Some(Arc::new(session));
            }
            // It stopped on the way, or its owner left.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    tally.surprise("sign-in fails between two cells");
}

/// Ends the agents and has their audit logs verified.
async fn verify(scene: &Arc<Scene>) -> bool {
    let mut whole = true;
    let second = scene.directory.path().join("second");
    for ((agent, _), directory) in scene.agents().into_iter().zip([scene.directory.path(), &second])
    {
        agent.lock().unwrap().wanted = false;
        agent.lock().unwrap().signal("TERM");
        while !agent.lock().unwrap().look() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        whole &= crate::stage::audit_log_is_whole(directory);
    }
    whole
}

/// Keeps what surprises need to be understood.
fn write_down(options: &Options, scene: &Scene, tally: &Tally, layout: Layout) {
    let name = match layout {
        Layout::One => "chaos",
        Layout::Two => "chaos-two",
    };
    std::fs::create_dir_all(&options.to).unwrap();
    let to = |what: &str| options.to.join(format!("{name}-{what}"));
    let surprises = tally.surprises.lock().unwrap();
    std::fs::write(to("surprises.txt"), surprises.join("\n")).unwrap();
    let path = scene.directory.path();
    let disk = scene.disk.as_deref().unwrap_or(path);
    std::fs::copy(path.join("agent.log"), to("agent.log")).unwrap();
    std::fs::copy(disk.join("audit.jsonl"), to("audit.jsonl")).unwrap();
    if scene.second.is_some() {
        std::fs::copy(path.join("second/agent.log"), to("agent-2.log")).unwrap();
        std::fs::copy(path.join("second/audit.jsonl"), to("audit-2.jsonl")).unwrap();
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn line(row: &Row) -> String {
    let names: Vec<_> = row.faults.iter().map(|fault| fault.name()).collect();
    let Counts { allowed, refused, wrong_allows, wrong_denies, lost, silent, .. } = row.counts;
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} |",
        names.join(" + "),
        seconds(row.lasted),
        allowed + refused + silent + lost,
        wrong_allows,
        wrong_denies,
        lost,
        row.starts,
        row.recovered.map_or("NOT IN 60 s".into(), seconds),
    )
}

fn finish(options: &Options, seed: u64, parts: &[Part]) -> bool {
    let mut text = String::new();
    let mut good = true;
    for part in parts {
        let mut causes = Counts::default();
        for row in &part.rows {
            causes.add(&row.counts);
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let what = match part.layout {
            Layout::One => "One agent, one HAProxy",
            Layout::Two => "Two agents at one Redis, two HAProxies, reuse for a second",
        };
        let outlived = of(&part.tunnels.outlived);
        writeln!(
            text,
            "{what}: `make chaos`, seed {seed}, {} requests/s, {} cells: {} wrong allows, {} wrong denies, {} of {} requests lost. \
             {} WebSockets opened, {} closed when access ended, {outlived} that outlived it, {} lost with what carried them. {} allows reused.\n\n\
             | fault | lasted | requests | wrong allows | wrong denies | lost | agents started again | recovered after |\n\
             |---|---|---|---|---|---|---|---|",
            options.rate,
            part.rows.len(),
            causes.wrong_allows,
            causes.wrong_denies,
            causes.lost,
            causes.asked(),
            of(&part.tunnels.opened),
            of(&part.tunnels.terminated),
            of(&part.tunnels.lost),
            part.reused,
        )
        .unwrap();
        for row in &part.rows {
            writeln!(text, "{}", line(row)).unwrap();
        }
        text.push('\n');
        println!("\n{} of {} requests lost: {:#?}", causes.lost, causes.asked(), causes.causes);
        good &= part.chained
            && part.surprises == 0
            // Reuse that does not happen proves nothing.
            && (part.layout == Layout::One || part.rows.is_empty() || part.reused > 0)
            && outlived == 0
            && causes.wrong_allows == 0
            && causes.wrong_denies == 0
            && part.rows.iter().all(|row| row.recovered.is_some());
    }
    println!("\n{text}");
    if let Some(path) = &options.write {
        let page = std::fs::read_to_string(path).unwrap();
        let (start, end) = ("<!-- chaos -->", "<!-- /chaos -->");
        let (before, rest) = page.split_once(start).unwrap();
        let (_, after) = rest.split_once(end).unwrap();
        std::fs::write(path, format!("{before}{start}\n{text}{end}{after}")).unwrap();
    }
    println!("{}", if good { "all as it must be" } else { "NOT as it must be" });
    good
}
