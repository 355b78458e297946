//! `make terminations`: the time from the cause to the closed socket, many times, with every
//! HAProxy. This is a benchmark: it compares the longest time with the promise, which only a quiet
//! machine can keep.

use std::collections::BTreeMap;

use super::*;

/// The longest time from the cause to the closed socket.
const PROMISE: Duration = Duration::from_secs(1);
/// The workspaces of a run, which are stopped one after the other.
const WORKSPACES: usize = 5;

/// One tunnel that was terminated.
struct Termination {
    run: usize,
    cause: &'static str,
    took: Duration,
}

/// One run with one HAProxy, or with two at one agent if its streams have numbers.
struct Run {
    number: usize,
    scene: Scene,
    lines: Vec<Line>,
    terminations: Vec<Termination>,
}

impl Run {
    async fn start(version: &Version, number: usize) -> Self {
        let haproxies = if versions().any(|named| named == version) { 2 } else { 1 };
        let scene = Scene::start(version, WORKSPACES, haproxies, "").await;
        Self { number, scene, lines: Vec::new(), terminations: Vec::new() }
    }

    async fn open(&mut self, user: &str, workspaces: std::ops::Range<usize>) {
        for haproxy in 0..self.scene.haproxies.len() {
            for workspace in workspaces.clone() {
                self.lines.push(self.scene.open_at(haproxy, user, workspace, 3000).await);
            }
        }
    }

    async fn terminate(
        &mut self,
        cause: &'static str,
        since: Instant,
        is_selected: impl Fn(&Line) -> bool,
    ) {
        let took = terminated(&mut self.lines, since, is_selected).await;
        let run = self.number;
        self.terminations.extend(took.into_iter().map(|took| Termination {
            run,
            cause,
            took: took.whole(),
        }));
    }

    async fn stop(&mut self, cause: &'static str, workspace: usize) {
        self.scene.listed(workspace).phase = "stopped";
        self.terminate(cause, self.scene.write(), |line| line.workspace == workspace).await;
    }

    /// Most causes come before HAProxy was scanned for the new tunnels, which takes longest.
    async fn play(mut self) -> Vec<Termination> {
        for user in ["u5", "u6", "u7"] {
            self.open(user, 0..WORKSPACES).await;
        }
        let since = Instant::now();
        self.scene.done(&["tunnels", "terminate", "--user", "u5"]);
        self.terminate("by user", since, |line| line.user == "u5").await;
        self.open("u5", 0..WORKSPACES).await;
        self.stop("workspace stopped", 0).await;
        for (haproxy, _) in &self.scene.haproxies {
            haproxy.reload();
        }
        self.stop("stopped while HAProxy reloads", 1).await;
        self.open("u8", 2..WORKSPACES).await;
        let since = Instant::now();
        self.scene.done(&["revoke", "--subject", "sub-u6"]);
        self.terminate("subject revoked", since, |line| line.user == "u6").await;
        let (token, since) = self.scene.token_for(2, "short");
        self.lines.push(self.scene.try_open(0, "short", &token, 3, 3000).await.unwrap());
        self.terminate("token expired", since, |line| line.user == "short").await;
        self.stop("stopped after a reload", 2).await;
        self.terminations
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make terminations"]
async fn every_termination_is_within_a_second() {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10);
    let mut all: BTreeMap<&Version, Vec<Termination>> = BTreeMap::new();
    for number in 1..=runs {
        for version in Version::all() {
            let terminations = Run::start(version, number).await.play().await;
            let most = terminations.iter().map(|one| one.took).max().unwrap_or_default();
            eprintln!("run {number} of {runs}, {version:?}: most {most:?}, load {}", load());
            all.entry(version).or_default().extend(terminations);
        }
    }
    println!("haproxy            terminations  p50 ms  p99 ms  most ms");
    let mut late = Vec::new();
    for (version, terminations) in &mut all {
        terminations.sort_by_key(|one| one.took);
        let at = |rank: usize| terminations[rank.clamp(1, terminations.len()) - 1].took.as_millis();
        let (count, version) = (terminations.len(), format!("{version:?}"));
        println!(
            "{version:<18} {count:>4} {:>7} {:>7} {:>8}",
            at(count.div_ceil(2)),
            at((count * 99).div_ceil(100)),
            at(count)
        );
        let beyond = terminations.iter().filter(|one| one.took > PROMISE);
        late.extend(beyond.map(|c| format!("{version} run {}, {}: {:?}", c.run, c.cause, c.took)));
    }
    assert!(late.is_empty(), "longer than {PROMISE:?}: {late:#?}");
}
