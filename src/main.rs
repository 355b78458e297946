//! The program: it reads the command line, sets up logs and cryptography, and ends with the exit status of the command.
//! Everything else is in the library.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    process::ExitCode,
};

use clap::Parser as _;
use identity_spoa::cli::Cli;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(cli.log_level());
    // An error means that a provider is installed already, which cannot be the case here.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(stderr(), "identity-spoa: {error:#}");
            Cli::failure()
        }
    }
}

/// Writes logs to standard error, at the level of `RUST_LOG`: as text on a terminal, otherwise as JSON. Standard output is
/// for results and for the audit log.
fn start_logs(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.json().init();
    }
}
