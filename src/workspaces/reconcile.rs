//! Keeps what the registry says of a platform's workspaces true.
//!
//! [`core`] decides what to ask and what to believe, without I/O and clock, so that every order of
//! answers can be tested; [`driver`] asks. [`lookup`] lets a request for an unknown workspace wait for
//! one question. What is asked is a [`Source`](crate::workspaces::source::Source).

pub mod core;
pub mod driver;
pub mod lookup;
pub mod status;

#[cfg(test)]
mod tests;

/// A random number from 0 to 1, so that many agents do not ask in step.
#[must_use]
pub fn jitter() -> f64 {
    let mut byte = [0_u8];
    // Without random numbers there is no jitter, which is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    f64::from(byte) / 255.0
}
