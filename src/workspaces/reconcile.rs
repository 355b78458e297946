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
