//! `completions` and `man`: prints completions for shells, and writes manual pages; both are made from the command line.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{Cli, CompletionsArgs, ManArgs};

const NAME: &str = "identity-spoa";

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // The generator panics if writing fails, so it writes to memory: a closed pipe must be an error.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    let what = || format!("cannot write to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(what)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(what)?;
    Ok(ExitCode::SUCCESS)
}
