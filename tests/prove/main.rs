//! Proof over time and under faults: the program as it is run, behind a real HAProxy, under a constant
//! load, while everything around it changes. An oracle knows the truth and judges each answer.
//!
//! `prove soak --time 60m` runs for long and says whether memory, descriptors and latency stay flat (`make soak`).
//! `prove chaos` lets everything that the gate depends on fail, alone and in pairs (`make chaos`). Choices are made by
//! a seed that is printed and can be given; the moments at which they meet depend on the machine. The program under
//! test is the one that stands next to this one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::format_push_string,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a broken stage must stop the run, and figures are printed"
)]

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

mod browser;
mod chance;
mod chaos;
mod churn;
mod client;
mod flat;
mod load;
mod plot;
mod probe;
mod soak;
mod stage;
mod tally;
mod truth;
mod tunnels;
mod upstream;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs for long; exit status 1 if an answer was wrong or something is not flat
    Soak(soak::Options),
    /// Faults, alone and in pairs; exit status 1 if a person was let in or refused who must not be
    Chaos(chaos::Options),
    /// Draws a run of `soak` again
    Plot {
        /// What `soak` wrote
        samples: PathBuf,
        /// The picture
        svg: PathBuf,
    },
}

fn main() {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let good = match args.what {
        What::Soak(options) => runtime.block_on(soak::run(options)),
        What::Chaos(options) => runtime.block_on(chaos::run(options)),
        What::Plot { samples, svg } => {
            plot::again(&samples, &svg);
            true
        }
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    std::process::exit(i32::from(!good));
}
