//! Rates and latencies between two samples of the status.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::admin::status::{LatencyBucket, StatusView};

/// What happened between two samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    /// The time between the samples, in seconds. Zero if the agent was restarted in between.
    pub(super) seconds: f64,
    /// Decisions a second.
    pub(super) decisions: f64,
    /// Decisions a second, by verdict.
    pub(super) by_verdict: BTreeMap<String, f64>,
    /// Decisions a second, by reason.
    pub(super) by_reason: BTreeMap<String, f64>,
    /// The bound in microseconds that half of the decisions did not exceed.
    pub(super) p50_us: Option<u64>,
    /// The bound in microseconds that 99 of 100 decisions did not exceed.
    pub(super) p99_us: Option<u64>,
}

impl Rates {
    /// The rates from one sample to a later one. Without decisions in between, latencies are those since the start.
    pub(super) fn between(before: &StatusView, now: &StatusView) -> Self {
        let elapsed_ms = now.uptime_ms.saturating_sub(before.uptime_ms);
        // A restarted agent counts from zero, so a difference would mean nothing.
        let is_same_run = now.run == before.run && elapsed_ms > 0;
        if !is_same_run {
            return Self {
                p50_us: quantile(&now.latency.buckets, 50),
                p99_us: quantile(&now.latency.buckets, 99),
                ..Self::default()
            };
        }
        let seconds = to_f64(elapsed_ms) / 1000.0;
        let mut rates = Self { seconds, ..Self::default() };
        for after in &now.decisions {
            let same = before.decisions.iter().find(|other| other.reason == after.reason);
            let count = after.count.saturating_sub(same.map_or(0, |same| same.count));
            let rate = to_f64(count) / seconds;
            rates.decisions += rate;
            *rates.by_verdict.entry(after.verdict.clone()).or_default() += rate;
            rates.by_reason.insert(after.reason.clone(), rate);
        }
        let pairs = now.latency.buckets.iter().zip(&before.latency.buckets);
        let recent: Vec<_> = pairs
            .map(|(now, before)| LatencyBucket {
                count: now.count.saturating_sub(before.count),
                ..*now
            })
            .collect();
        let has_recent = recent.iter().any(|bucket| bucket.count > 0);
        let buckets = if has_recent { &recent } else { &now.latency.buckets };
        rates.p50_us = quantile(buckets, 50);
        rates.p99_us = quantile(buckets, 99);
        rates
    }
}

/// The upper bound of the bucket that holds the given hundredth. `None` if it is the last bucket, or there are no decisions.
fn quantile(buckets: &[LatencyBucket], hundredth: u64) -> Option<u64> {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let rank = total.saturating_mul(hundredth).div_ceil(100);
    let mut sum = 0;
    let holding = buckets.iter().find(|bucket| {
        sum += bucket.count;
        total > 0 && sum >= rank
    });
    holding?.up_to_us
}

#[expect(clippy::cast_precision_loss, reason = "a rate is shown with one decimal")]
const fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{AuditView, LatencyView, ReasonCount};

    /// A sample at this time, with so many decisions of two reasons and in three buckets.
    pub(in super::super) fn sample(
        run: &str,
        uptime_ms: u64,
        reasons: [u64; 2],
        buckets: [u64; 3],
    ) -> StatusView {
        let reason = |(verdict, reason, count): (&str, &str, u64)| ReasonCount {
            verdict: verdict.into(),
            reason: reason.into(),
            count,
        };
        let [allow, deny] = reasons;
        let bounds = [Some(10), Some(100), None];
        let bucket = |(up_to_us, count)| LatencyBucket { up_to_us, count };
        StatusView {
            version: "0.0.0".into(),
            run: run.into(),
            time_ms: 1_700_000_000_000,
            uptime_ms,
            config: None,
            policy: None,
            ready: true,
            problems: vec![],
            connections: 1,
            pending: 0,
            decisions: [("allow", "owner", allow), ("deny", "not_permitted", deny)]
                .map(reason)
                .into(),
            latency: LatencyView {
                total_us: 0,
                buckets: bounds.into_iter().zip(buckets).map(bucket).collect(),
            },
            issuers: vec![],
            sources: vec![],
            sessions: None,
            tunnels: None,
            reuse: None,
            revocations: 0,
            audit: AuditView {
                broken: false,
                waiting_bytes: 0,
                capacity_bytes: 1024,
                written: 0,
                lost: 0,
            },
        }
    }

    #[test]
    fn rates_are_what_happened_between_two_samples() {
        let before = sample("a", 1000, [100, 1], [101, 0, 0]);
        let rates = Rates::between(&before, &sample("a", 3000, [110, 5], [105, 9, 1]));
        assert!((rates.decisions - 7.0).abs() < 1e-9 && (rates.seconds - 2.0).abs() < 1e-9);
        assert!((rates.by_verdict["allow"] - 5.0).abs() < 1e-9);
        assert!((rates.by_reason["not_permitted"] - 2.0).abs() < 1e-9);
        // Of the 14 decisions in between 4 took up to 10 us, 9 up to 100 us and 1 longer.
        assert_eq!((rates.p50_us, rates.p99_us), (Some(100), None));
    }

    #[test]
    fn without_decisions_in_between_the_latency_is_that_since_the_start() {
        let before = sample("a", 1000, [100, 0], [99, 1, 0]);
        let rates = Rates::between(&before, &sample("a", 2000, [100, 0], [99, 1, 0]));
        assert!(rates.decisions.abs() < 1e-9);
        assert_eq!((rates.p50_us, rates.p99_us), (Some(10), Some(10)));
    }

    #[test]
    fn after_a_restart_there_are_no_rates() {
        let before = sample("a", 9000, [100, 1], [101, 0, 0]);
        let rates = Rates::between(&before, &sample("b", 9500, [3, 0], [3, 0, 0]));
        assert_eq!((rates.seconds.to_bits(), rates.by_reason.len()), (0, 0));
        assert_eq!(rates.p99_us, Some(10));
        let rates =
            Rates::between(&sample("a", 0, [0, 0], [0, 0, 0]), &sample("a", 1, [0, 0], [0, 0, 0]));
        assert_eq!(rates.p50_us, None);
    }
}
