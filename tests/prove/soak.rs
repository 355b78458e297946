//! The long run.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    churn::{self, Churn},
    flat, load,
    plot::{self, Run},
    probe::Probe,
    stage::{Plan, Stage},
    tally::{self, Counts, Tally},
    truth, tunnels,
};
use test_stage::until;

#[derive(Args)]
pub struct Options {
    /// How long: "90s", "60m", "2h"
    #[arg(long, default_value = "60m", value_parser = time)]
    time: Duration,
    /// Requests a second
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Seed of all choices; default: the time of day
    #[arg(long)]
    seed: Option<u64>,
    /// The version of HAProxy; default: the newest there is
    #[arg(long)]
    haproxy: Option<String>,
    /// People with a workspace each
    #[arg(long, default_value_t = 150)]
    people: usize,
    /// Where samples and picture go
    #[arg(long, default_value = "target/prove")]
    to: PathBuf,
}

fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().map_err(|_| "expected a number with s, m or h")?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err("expected a number with s, m or h".into()),
    }
}

/// Between two looks at the agent.
const LOOK: Duration = Duration::from_secs(5);

/// The steady load, and the WebSockets during it.
fn load_and_tunnels(
    options: &Options,
    stage: &Arc<Stage>,
    tally: &Arc<Tally>,
    of_tunnels: &Arc<tunnels::Counts>,
    (seed, stop): (u64, &CancellationToken),
) -> [JoinHandle<()>; 2] {
    let (gates, begun) = (vec![stage.haproxy.http], Instant::now());
    let plan = load::Plan { gates: gates.clone(), rate: options.rate, repeats: 0 };
    let world = Arc::clone(&stage.world);
    let loading = load::run(plan, world, Arc::clone(tally), seed, stop.clone());
    let plan = tunnels::Plan {
        gates,
        world: Arc::clone(&stage.world),
        every: Duration::from_secs(2),
        kept: Duration::from_mins(1),
        undisturbed: Box::new(move || begun),
        losses: tunnels::Losses::Surprise,
    };
    let opening = tunnels::run(plan, Arc::clone(tally), Arc::clone(of_tunnels), seed, stop.clone());
    [tokio::spawn(loading), tokio::spawn(opening)]
}

/// Runs; whether everything was right and flat.
pub async fn run(options: Options) -> bool {
    truth::self_check();
    flat::self_check();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = options.seed.unwrap_or(now.as_secs());
    println!("seed {seed}: {} requests/s for {:?}", options.rate, options.time);
    let plan = Plan { slots: options.people, seed, haproxy: options.haproxy.clone() };
    let stage = Arc::new(Stage::start(&plan).await);
    // Keys, and the list's file.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
    let counts = Arc::new(churn::Counts::default());
    let of_tunnels = Arc::new(tunnels::Counts::default());
    // Short runs must see each change too.
    let often = |usual: u64| (options.time / 12).min(Duration::from_secs(usual));
    let churn = Churn {
        stage: Arc::clone(&stage),
        tally: Arc::clone(&tally),
        seed,
        stop: stop.clone(),
        counts: Arc::clone(&counts),
        rotation: often(150),
        reload: often(330),
        sessions: 40,
    };
    let mut tasks = churn.start();
    tasks.extend(load_and_tunnels(&options, &stage, &tally, &of_tunnels, (seed, &stop)));
    let start = Instant::now();
    let mut probe = Probe::new(stage.agent.pid());
    let mut all = Counts::default();
    let mut micros_of_all = Vec::new();
    let mut samples = Vec::new();
    let mut told = Instant::now();
    std::fs::create_dir_all(&options.to).unwrap();
    while start.elapsed() < options.time {
        tokio::time::sleep(LOOK).await;
        let mut counts_now = tally.take();
        match probe.look(&stage.admin, &mut counts_now.micros).await {
            Ok(sample) => samples.push(sample),
            Err(error) => tally.surprise(format!("the agent does not say how it is: {error}")),
        }
        all.add(&counts_now);
        micros_of_all.append(&mut counts_now.micros);
        if told.elapsed() > Duration::from_mins(1) {
            told = Instant::now();
            let last = samples.last().cloned().unwrap_or_default();
            println!(
                "{:5.0} s: {} answers, {} wrong allows, {} wrong denies, {} lost; {:.1} MiB, {} descriptors, p50 {:.0} us, p99 {:.0} us",
                last.at,
                all.asked(),
                all.wrong_allows,
                all.wrong_denies,
                all.lost,
                last.rss,
                last.descriptors,
                last.p50,
                last.p99
            );
            // So that something is there if the run is cut off.
            write_down(&options, seed, &samples, &counts, start);
        }
    }
    stop.cancel();
    for task in tasks {
        let _ = task.await;
    }
    all.add(&tally.take());
    report(&options, &all, &mut micros_of_all, &counts, &of_tunnels);
    let warm_up = write_down(&options, seed, &samples, &counts, start);
    let good = is_flat(&samples, warm_up);
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let chained = verify(&stage).await;
    let right = chained
        && all.wrong_allows == 0
        && all.wrong_denies == 0
        && of(&of_tunnels.outlived) == 0
        && of(&of_tunnels.lost) == 0
        && of(&counts.failures) == 0;
    println!("\n{}", if right && good { "all right and flat" } else { "NOT as it must be" });
    let surprises = tally.surprises.lock().unwrap();
    if !surprises.is_empty() {
        std::fs::write(options.to.join("surprises.txt"), surprises.join("\n")).unwrap();
        std::fs::copy(stage.directory.path().join("agent.log"), options.to.join("agent.log"))
            .unwrap();
        println!("{} surprises: {}", surprises.len(), options.to.join("surprises.txt").display());
    }
    right && good
}

/// Says of each rule whether it holds.
fn is_flat(samples: &[crate::probe::Sample], warm_up: f64) -> bool {
    let mut good = true;
    println!(
        "\n{:<22} {:>12} {:>12} {:>12} {:>14}",
        "", "first third", "last third", "may grow by", "slope an hour"
    );
    for verdict in flat::judge(samples, warm_up) {
        good &= verdict.flat;
        println!(
            "{:<22} {:>12.1} {:>12.1} {:>12.1} {:>14.2} {} {}",
            verdict.name,
            verdict.first,
            verdict.last,
            verdict.allowed,
            verdict.slope_per_hour,
            verdict.unit,
            if verdict.flat { "flat" } else { "NOT FLAT" }
        );
    }
    good
}

/// Ends the agent and has its audit log verified.
async fn verify(stage: &Stage) -> bool {
    let pid = stage.agent.pid();
    stage.agent.signal("-TERM");
    until("the agent to end", async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z')).then_some(())
    })
    .await;
    crate::stage::audit_log_is_whole(stage.directory.path())
}

fn write_down(
    options: &Options,
    seed: u64,
    samples: &[crate::probe::Sample],
    counts: &churn::Counts,
    start: Instant,
) -> f64 {
    // A twelfth of the run, five minutes at most.
    let warm_up = (options.time.as_secs_f64() / 12.0).min(300.0);
    let events = counts.events.lock().unwrap();
    let events = events
        .iter()
        .map(|(at, what)| (at.duration_since(start).as_secs_f64(), (*what).to_owned()));
    let run = Run {
        title: format!(
            "identity-spoa under churn: {} requests/s for {:.0} minutes, seed {seed}",
            options.rate,
            options.time.as_secs_f64() / 60.0
        ),
        warm_up,
        samples: samples.to_vec(),
        events: events.collect(),
    };
    std::fs::write(options.to.join("soak.json"), serde_json::to_vec(&run).unwrap()).unwrap();
    std::fs::write(options.to.join("soak.svg"), plot::draw(&run)).unwrap();
    warm_up
}

fn report(
    options: &Options,
    all: &Counts,
    micros: &mut [u32],
    counts: &churn::Counts,
    of_tunnels: &tunnels::Counts,
) {
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let [p50, p99, most] = tally::percentiles(micros, [50.0, 99.0, 100.0]);
    println!("\n{} requests/s for {:?}", options.rate, options.time);
    println!("answers             {}", all.asked());
    println!("  let in            {}", all.allowed);
    println!("  refused           {}", all.refused);
    println!("  wrongly let in    {}", all.wrong_allows);
    println!("  wrongly refused   {}", all.wrong_denies);
    println!("  lost (503, none)  {} {:?}", all.lost, all.causes);
    println!("  none              {}", all.silent);
    println!("latency             p50 {p50:.0} us, p99 {p99:.0} us, most {most:.0} us");
    println!("people replaced     {}", of(&counts.people));
    println!("tokens minted       {}, revoked {}", of(&counts.tokens), of(&counts.tokens_revoked));
    println!("key rotations       {}", of(&counts.rotations));
    println!(
        "phases changed      {}, grants {}, leases renewed {}",
        of(&counts.phases),
        of(&counts.grants),
        of(&counts.renewals)
    );
    println!("sign-ins            {}, sign-outs {}", of(&counts.sign_ins), of(&counts.sign_outs));
    println!(
        "tunnels opened      {}, closed {}, terminated {}, lost {}, outlived {}",
        of(&of_tunnels.opened),
        of(&of_tunnels.closed),
        of(&of_tunnels.terminated),
        of(&of_tunnels.lost),
        of(&of_tunnels.outlived)
    );
    println!("reloads of HAProxy  {}", of(&counts.reloads));
    println!("failures of changes {}", of(&counts.failures));
    for (name, times) in [("API", &counts.api_micros), ("file", &counts.file_micros)] {
        let mut times = times.lock().unwrap();
        let [p50, p99, most] = tally::percentiles(&mut times, [50.0, 99.0, 100.0]);
        println!(
            "stopped by the {name:<4} {} times: refused after p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            times.len(),
            p50 / 1e3,
            p99 / 1e3,
            most / 1e3
        );
    }
    println!("answers by status and reason:");
    for (answer, count) in &all.answers {
        println!("  {count:>9} {answer}");
    }
}
