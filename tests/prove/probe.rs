//! What the agent uses: looked at from outside, and as it says itself.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{stage::Admin, tally};

/// One look.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// Resident memory, and the part of it that is not of files, in MiB.
    pub rss: f64,
    pub anonymous: f64,
    pub descriptors: f64,
    pub threads: f64,
    /// Of one core, in percent.
    pub cpu: f64,
    /// Microseconds of CPU a decision.
    pub cpu_each: f64,
    /// Answers a second.
    pub rate: f64,
    /// Microseconds through HAProxy to the workspace and back.
    pub p50: f64,
    pub p99: f64,
    /// Microseconds of a decision within the agent, as its histogram has them (upper bounds).
    pub decision_p50: f64,
    pub decision_p99: f64,
    pub cookies: f64,
    pub revocations: f64,
    pub tunnels: f64,
    pub workspaces: f64,
    pub connections: f64,
    pub waiting: f64,
    pub audit_waiting: f64,
    pub keys: f64,
}

/// Looks at one process again and again.
pub struct Probe {
    pid: u32,
    start: Instant,
    last: Option<(Instant, Duration, f64)>,
    buckets: BTreeMap<String, f64>,
}

impl Probe {
    pub fn new(pid: u32) -> Self {
        Self { pid, start: Instant::now(), last: None, buckets: BTreeMap::new() }
    }

    /// The agent now, with the latencies of the time since the last look.
    ///
    /// # Errors
    /// The agent does not answer.
    pub async fn look(&mut self, admin: &Admin, micros: &mut [u32]) -> Result<Sample, String> {
        let text = admin.ask(reqwest::Method::GET, "/metrics", None).await?;
        let metrics = Metrics(&text);
        let now = Instant::now();
        let at = now.duration_since(self.start).as_secs_f64();
        let status = self.read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
        };
        let cpu = self.cpu();
        let decisions = metrics.sum("identity_spoa_decisions_total");
        let [p50, p99] = tally::percentiles(micros, [50.0, 99.0]);
        let mut sample = Sample {
            at,
            rss: field("VmRSS:") / 1024.0,
            anonymous: field("RssAnon:") / 1024.0,
            threads: field("Threads:"),
            descriptors: fs::read_dir(format!("/proc/{}/fd", self.pid))
                .map_or(0.0, |all| all.count() as f64),
            p50,
            p99,
            cookies: metrics.sum("identity_spoa_session_cookies"),
            revocations: metrics.sum("identity_spoa_revocations"),
            tunnels: metrics.sum("identity_spoa_tunnels"),
            workspaces: metrics.sum("identity_spoa_source_workspaces"),
            connections: metrics.sum("identity_spoa_connections"),
            waiting: metrics.sum("identity_spoa_authorization_requests_pending"),
            audit_waiting: metrics.sum("identity_spoa_audit_waiting_bytes"),
            keys: metrics.sum("identity_spoa_key_set_keys"),
            ..Sample::default()
        };
        if let Some((then, cpu_then, decisions_then)) = self.last {
            let wall = now.duration_since(then).as_secs_f64();
            let spent = cpu.saturating_sub(cpu_then).as_secs_f64();
            sample.cpu = spent / wall * 100.0;
            sample.cpu_each = spent * 1e6 / (decisions - decisions_then).max(1.0);
            sample.rate = micros.len() as f64 / wall;
        }
        self.last = Some((now, cpu, decisions));
        let buckets = metrics.buckets("identity_spoa_decision_seconds_bucket");
        [sample.decision_p50, sample.decision_p99] =
            [0.5, 0.99].map(|share| quantile(&self.buckets, &buckets, share));
        self.buckets = buckets.into_iter().collect();
        Ok(sample)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default()
    }

    /// CPU of all threads so far, of those that ended too.
    fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
        // Linux counts a hundredth of a second here, whatever its own tick is.
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }
}

/// Text for Prometheus.
struct Metrics<'t>(&'t str);

impl Metrics<'_> {
    /// The sum over all labels.
    fn sum(&self, name: &str) -> f64 {
        let of_it = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        self.0.lines().filter_map(of_it).sum()
    }

    fn buckets(&self, name: &str) -> Vec<(String, f64)> {
        let of_it = |line: &str| {
            let rest = line.strip_prefix(name)?.strip_prefix("{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.to_owned(), count.parse().ok()?))
        };
        self.0.lines().filter_map(of_it).collect()
    }
}

/// The upper bound, in microseconds, of the bucket that holds a share of what came between two looks.
fn quantile(before: &BTreeMap<String, f64>, after: &[(String, f64)], share: f64) -> f64 {
    let grown = |(bound, count): &(String, f64)| {
        (bound.parse::<f64>().unwrap_or(f64::INFINITY), count - before.get(bound).unwrap_or(&0.0))
    };
    let grown: Vec<_> = after.iter().map(grown).collect();
    let all = grown.last().map_or(0.0, |(_, count)| *count);
    let bound = grown.iter().find(|(_, count)| *count >= all * share).map_or(0.0, |(b, _)| *b);
    if bound.is_finite() { bound * 1e6 } else { 1e6 }
}
