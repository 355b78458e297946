//! Whether something stayed as it was: the first third of a run after its warm-up against the last third.
//!
//! Thirds are compared by a quantile, which bursts of a busy machine do not move. Growth counts, decline
//! does not. The slope next to it is Theil and Sen's: the median of the slopes between all pairs.

use serde::Serialize;

use crate::{chance::Chance, probe::Sample};

/// What must not grow, by how much it may.
pub struct Rule {
    pub name: &'static str,
    pub unit: &'static str,
    pub value: fn(&Sample) -> f64,
    /// Of each third, this share of the values is below what is compared.
    pub quantile: f64,
    /// What growth is none: the larger of a share of the first third, and this much.
    pub share: f64,
    pub much: f64,
}

/// All rules. Latency and CPU are compared by their quiet quarter: other work on the machine makes them
/// worse for minutes, a leak makes them worse permanently.
pub const RULES: [Rule; 8] = [
    Rule {
        name: "resident memory",
        unit: "MiB",
        value: |s| s.rss,
        quantile: 0.5,
        share: 0.05,
        much: 2.0,
    },
    Rule {
        name: "anonymous memory",
        unit: "MiB",
        value: |s| s.anonymous,
        quantile: 0.5,
        share: 0.05,
        much: 2.0,
    },
    Rule {
        name: "descriptors",
        unit: "",
        value: |s| s.descriptors,
        quantile: 0.5,
        share: 0.05,
        much: 3.0,
    },
    Rule { name: "threads", unit: "", value: |s| s.threads, quantile: 0.5, share: 0.0, much: 2.0 },
    Rule {
        name: "CPU a decision",
        unit: "us",
        value: |s| s.cpu_each,
        quantile: 0.25,
        share: 0.15,
        much: 5.0,
    },
    Rule {
        name: "p50 through HAProxy",
        unit: "us",
        value: |s| s.p50,
        quantile: 0.25,
        share: 0.25,
        much: 100.0,
    },
    Rule {
        name: "p99 through HAProxy",
        unit: "us",
        value: |s| s.p99,
        quantile: 0.25,
        share: 0.5,
        much: 1000.0,
    },
    Rule {
        name: "decision p99",
        unit: "us",
        value: |s| s.decision_p99,
        quantile: 0.25,
        share: 0.5,
        much: 100.0,
    },
];

/// What became of a rule.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub name: &'static str,
    pub unit: &'static str,
    pub first: f64,
    pub last: f64,
    /// By which it may have grown.
    pub allowed: f64,
    pub slope_per_hour: f64,
    pub flat: bool,
}

/// Judges what came after `warm_up` seconds.
pub fn judge(samples: &[Sample], warm_up: f64) -> Vec<Verdict> {
    let after: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= warm_up).collect();
    RULES.iter().map(|rule| judge_one(rule, &after)).collect()
}

fn judge_one(rule: &Rule, samples: &[&Sample]) -> Verdict {
    let third = samples.len() / 3;
    let values: Vec<f64> = samples.iter().map(|sample| (rule.value)(sample)).collect();
    let first = quantile(&values[..third], rule.quantile);
    let last = quantile(&values[values.len() - third..], rule.quantile);
    let allowed = (first * rule.share).max(rule.much);
    // Every fifth is enough, and half a million pairs are not too many.
    let points: Vec<_> =
        samples.iter().step_by(5).map(|sample| (sample.at, (rule.value)(sample))).collect();
    let slope_per_hour = slope(&points) * 3600.0;
    Verdict {
        name: rule.name,
        unit: rule.unit,
        first,
        last,
        allowed,
        slope_per_hour,
        flat: third > 0 && last - first <= allowed,
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn slope(points: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (index, (x, y)) in points.iter().enumerate() {
        for (later_x, later_y) in &points[index + 1..] {
            slopes.push((later_y - y) / (later_x - x));
        }
    }
    quantile(&slopes, 0.5)
}

/// The test is tried on made-up runs before it is believed.
pub fn self_check() {
    let mut chance = Chance::new(1, 1);
    let mut run = |leak: f64, burst: bool| -> Vec<Sample> {
        let noise = |chance: &mut Chance, size: f64| chance.below(1000) as f64 / 1000.0 * size;
        (0..600_u32)
            .map(|number| {
                let at = f64::from(number) * 5.0;
                let grown = 1.0 + leak * at / 3600.0;
                let busy = if burst && number > 450 && !number.is_multiple_of(3) {
                    noise(&mut chance, 20_000.0)
                } else {
                    0.0
                };
                Sample {
                    at,
                    rss: 40.0 * grown + noise(&mut chance, 1.0),
                    anonymous: 30.0 * grown + noise(&mut chance, 1.0),
                    descriptors: 60.0 * grown + noise(&mut chance, 2.0),
                    threads: 12.0 * grown,
                    cpu_each: 50.0 * grown + noise(&mut chance, 5.0),
                    p50: 700.0 * grown + noise(&mut chance, 100.0),
                    p99: 3000.0 * grown + noise(&mut chance, 2000.0) + busy,
                    decision_p99: 250.0 * grown,
                    ..Sample::default()
                }
            })
            .collect()
    };
    let flat = |samples: &[Sample]| judge(samples, 300.0).iter().filter(|v| v.flat).count();
    assert_eq!(flat(&run(0.0, false)), RULES.len(), "the test itself: a flat run");
    assert_eq!(flat(&run(0.0, true)), RULES.len(), "the test itself: a flat run on a busy machine");
    assert_eq!(flat(&run(3.0, false)), 0, "the test itself: everything grows");
    assert!(flat(&run(0.2, false)) < RULES.len() - 2, "the test itself: memory grows slowly");
}
