//! `haproxy`: commands about the configuration of HAProxy. They need no running agent; `selftest` needs a running gate.

use std::process::ExitCode;

use super::{HaproxyArgs, HaproxyCommand};

mod generate;
mod lint;
mod selftest;

pub(super) fn haproxy(args: &HaproxyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        HaproxyCommand::Lint(args) => lint::lint(args),
        HaproxyCommand::Generate(args) => generate::generate(args),
        HaproxyCommand::Selftest(args) => selftest::selftest(args),
    }
}
