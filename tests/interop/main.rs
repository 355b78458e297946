//! The agent against OpenID providers of other projects. They come from package registries, so
//! plain `cargo test` leaves these tests out; `make interop` gets the providers and runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise must stop the test, and figures are printed"
)]

use std::path::PathBuf;

use test_stage::{PATIENCE, haproxy::root, until};

mod canaille;
mod gate;
mod oidc_provider;
mod provider;

/// Where `tests/interop/run.sh` has put the providers.
fn state() -> PathBuf {
    root().join("target/interop")
}
