//! The agent against OpenID providers that nobody here wrote. They come from package registries, so
//! plain `cargo test` leaves these tests out; `make interop` gets the providers and runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise must stop the test, and figures are printed"
)]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[path = "../it/support/agent.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod agent;
mod canaille;
mod gate;
mod oidc_provider;
mod provider;

/// The longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `check` gives something.
async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/interop/run.sh` has put the providers.
fn state() -> PathBuf {
    root().join("target/interop")
}
