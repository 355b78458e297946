//! Pauses between attempts that fail: each is twice the one before, up to a limit.
//!
//! Every part of the program that repeats a failed attempt (fetching keys, following a source, reaching Redis) uses
//! [`Backoff`], with its own two limits. [`jitter`] spreads the attempts of several agents.

use std::time::Duration;

/// The limits of the pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after a failure that follows `failures_before` others in a row.
    #[must_use]
    pub fn pause(&self, failures_before: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures_before);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// A random number from 0 to 1. It keeps agents that failed together from retrying together.
#[must_use]
pub fn jitter() -> f64 {
    let mut byte = [0_u8];
    // Without random numbers the byte stays 0: attempts are not spread, which is harmless.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    f64::from(byte) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_whatever_the_number_of_failures() {
        let backoff =
            Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };
        let pauses = [0, 1, 2, 4, 5, 31, 32, u32::MAX].map(|n| backoff.pause(n).as_millis());
        assert_eq!(pauses, [100, 200, 400, 1600, 2000, 2000, 2000, 2000]);
        assert!((0.0..=1.0).contains(&jitter()));
    }
}
