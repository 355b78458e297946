//! x
#![forbid(unsafe_code)]
pub mod audit;
pub mod clock;
pub mod config;
pub mod decision;
pub mod gate;
pub mod identity;
pub mod request;
pub mod spop;
pub mod workspace;
