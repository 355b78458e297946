//! Which hosts a session's cookie was sent to lately, so that a browser is not sent in circles.
//!
//! A workspace's other endpoints get cookies of a session without being opened (docs/decisions/0018-cross-origin.md). Whether
//! a browser took one shows only when the cookie is made. Until then the host is left alone for a while.

use std::{collections::VecDeque, time::Duration};

use crate::time::Timestamp;

/// How long a host is left alone after a cookie was sent to it.
const RETRY_INTERVAL: Duration = Duration::from_mins(10);
/// How long a browser is not led through the login host again after it opened a host.
const ROUND_INTERVAL: Duration = Duration::from_mins(1);
/// The most hosts that are remembered of each kind.
const MAX_REMEMBERED: usize = 256;

/// What was sent where.
#[derive(Default)]
pub(super) struct Deliveries {
    /// The hosts that a cookie was sent to, oldest first.
    sent: VecDeque<(Box<str>, Timestamp)>,
    /// The hosts for which a browser was led through the login host, oldest first. Another agent may have the pages there, so
    /// this one does not learn what was sent.
    led_for: VecDeque<(Box<str>, Timestamp)>,
    /// The hosts from which a browser was led through the login host, oldest first.
    rounds: VecDeque<(Box<str>, Timestamp)>,
}

impl Deliveries {
    /// Whether a cookie may be sent to a host.
    pub(super) fn may_send(&self, host: &str, now: Timestamp) -> bool {
        !is_recent(&self.sent, host, RETRY_INTERVAL, now)
    }

    /// Notes that a cookie is sent to a host.
    pub(super) fn note_sent(&mut self, host: &str, now: Timestamp) {
        note(&mut self.sent, host, now);
    }

    /// Notes that a browser which opens a host is led through the login host, for cookies of others. Returns whether it may
    /// be: not again at once, and not again and again for hosts that take none.
    pub(super) fn begin_round(&mut self, host: &str, others: &[&str], now: Timestamp) -> bool {
        let is_new = |other: &&&str| !is_recent(&self.led_for, other, RETRY_INTERVAL, now);
        let others: Vec<_> = others.iter().filter(is_new).collect();
        if others.is_empty() || is_recent(&self.rounds, host, ROUND_INTERVAL, now) {
            return false;
        }
        note(&mut self.rounds, host, now);
        for other in others {
            note(&mut self.led_for, other, now);
        }
        true
    }
}

fn is_recent(
    all: &VecDeque<(Box<str>, Timestamp)>,
    host: &str,
    interval: Duration,
    now: Timestamp,
) -> bool {
    all.iter().any(|(known, at)| **known == *host && now.since(*at) < interval)
}

fn note(all: &mut VecDeque<(Box<str>, Timestamp)>, host: &str, now: Timestamp) {
    all.retain(|(known, _)| **known != *host);
    if all.len() >= MAX_REMEMBERED {
        all.pop_front();
    }
    all.push_back((host.into(), now));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    #[test]
    fn q3_a_host_is_sent_a_cookie_once_in_a_while_and_a_browser_is_led_round_once_in_a_moment() {
        let mut all = Deliveries::default();
        assert!(all.may_send("a", at(0)));
        all.note_sent("a", at(0));
        assert!(
            !all.may_send("a", at(599)) && all.may_send("a", at(600)) && all.may_send("b", at(0))
        );
        let (one, two) = (["x.test"], ["x.test", "y.test"]);
        assert!(!all.begin_round("a", &[], at(0)), "for nothing");
        assert!(all.begin_round("a", &one, at(0)));
        assert!(!all.begin_round("a", &two, at(59)), "not again at once");
        assert!(!all.begin_round("b", &one, at(59)), "not again for the same");
        assert!(all.begin_round("a", &two, at(60)));
        assert!(!all.begin_round("a", &one, at(599)) && all.begin_round("a", &one, at(600)));
    }

    #[test]
    fn q3_what_is_remembered_is_bounded() {
        let mut all = Deliveries::default();
        for number in 0..2 * MAX_REMEMBERED {
            all.note_sent(&number.to_string(), at(0));
            let name = number.to_string();
            assert!(all.begin_round(&name, &[&name], at(0)));
        }
        for all in [&all.sent, &all.led_for, &all.rounds] {
            assert_eq!(all.len(), MAX_REMEMBERED);
        }
    }
}
