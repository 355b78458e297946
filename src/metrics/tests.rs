//! Counters, gauges and the text format.

use std::collections::BTreeSet;

use super::*;

fn text(metrics: &Metrics) -> String {
    let mut exposition = Exposition::default();
    metrics.expose(&mut exposition);
    exposition.into_text()
}

#[test]
fn every_decision_is_counted_once_with_its_reason_and_time() {
    let metrics = Metrics::default();
    let hit = Evidence {
        credential: CredentialKind::Bearer,
        cached: true,
        key_set: Some(crate::fingerprint::Fingerprint::of_bytes(b"")),
        token: None,
    };
    metrics.decided(Reason::Owner, &hit, Duration::from_micros(5));
    metrics.decided(Reason::Owner, &hit, Duration::from_micros(6));
    metrics.decided(Reason::Internal, &Evidence::default(), Duration::from_secs(7));
    let refused = Reason::Refused(TokenError::Bound);
    metrics.decided(refused, &Evidence::default(), Duration::from_millis(3));
    metrics.session_event(AuditEvent::SignIn);
    metrics.session_event(AuditEvent::Start);
    metrics.shadowed(Verdict::Deny, Verdict::Allow);
    metrics.shadowed(Verdict::Allow, Verdict::Unavailable);
    metrics.shadowed(Verdict::SignIn, Verdict::Deny);
    let text = text(&metrics);
    for line in [
        "identity_spoa_decisions_total{verdict=\"allow\",reason=\"owner\"} 2",
        "identity_spoa_decisions_total{verdict=\"deny\",reason=\"token_bound\"} 1",
        "identity_spoa_decisions_total{verdict=\"unavailable\",reason=\"internal\"} 1",
        "identity_spoa_decision_seconds_bucket{le=\"0.000005\"} 1",
        "identity_spoa_decision_seconds_bucket{le=\"0.00001\"} 2",
        "identity_spoa_decision_seconds_bucket{le=\"0.005\"} 3",
        "identity_spoa_decision_seconds_bucket{le=\"+Inf\"} 4",
        "identity_spoa_decision_seconds_sum 7.003011",
        "identity_spoa_decision_seconds_count 4",
        "identity_spoa_tokens_total{cache=\"hit\"} 2",
        "identity_spoa_session_events_total{event=\"sign_in\"} 1",
        "identity_spoa_policy_shadow_total{result=\"same\"} 1",
        "identity_spoa_policy_shadow_total{result=\"would_allow\"} 1",
        "identity_spoa_policy_shadow_total{result=\"would_refuse\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert_eq!(metrics.decisions(Verdict::Allow), 2);
    let reasons = text.lines().filter(|l| l.starts_with("identity_spoa_decisions_total")).count();
    assert_eq!(reasons, Reason::ALL.len() + TokenError::ALL.len());
}

#[test]
fn a_gauge_counts_guards_that_are_alive() {
    let gauge = Gauge::default();
    let one = gauge.hold();
    let two = gauge.hold();
    assert_eq!(gauge.get(), 2);
    drop((one, two));
    assert_eq!(gauge.get(), 0);
}

#[test]
fn names_are_unique_and_labels_cannot_break_out() {
    let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), ALL.len());
    let mut exposition = Exposition::default();
    exposition.sample(&SOURCE_LIVE, &["a\"b\\c\nd"], 1);
    let text = exposition.into_text();
    assert_eq!(text, "identity_spoa_source_live{source=\"a\\\"b\\\\c\\nd\"} 1\n");
}
