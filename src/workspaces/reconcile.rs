//! Keeps the registry in step with what a platform reports.
//!
//! [`core`] decides what to request and which responses to believe. It is a state machine without
//! I/O and without a clock, so tests can try every order of responses. [`driver`] sends the
//! requests, with time limits. [`lookup`] lets a request for an unknown workspace wait for one read
//! of it. [`status`] is how a source is doing, for people and metrics. The platform is a
//! [`Source`](crate::workspaces::source::Source).

pub mod core;
pub mod driver;
pub mod lookup;
mod requests;
pub mod status;

#[cfg(test)]
mod tests;
