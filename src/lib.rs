//! x
#![forbid(unsafe_code)]
pub mod clock;
pub mod config;
pub mod workspace;
