//! `haproxy selftest`: tests from outside that a running gate refuses what it must refuse.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::Context as _;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    cli::{
        HaproxySelftestArgs,
        terminal::{Progress, Tone, paint},
    },
    haproxy_config::selftest::{
        self, Check, Outcome, Target,
        client::{Client, Trust},
    },
};

pub(super) fn selftest(args: &HaproxySelftestArgs) -> anyhow::Result<ExitCode> {
    let trust = match (&args.ca, args.insecure) {
        (Some(path), _) => Trust::File(path),
        (None, true) => Trust::Unverified,
        (None, false) => Trust::System,
    };
    let token = match &args.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            Some(SecretString::from(text.trim().to_owned()))
        }
        None => None,
    };
    let client = Client::new(&args.url, &args.host, trust)?;
    let target = Target { client, host: args.host.clone(), token, echo: args.echo };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let gate = &args.url;
    runtime.block_on(target.client.connect()).with_context(|| format!("cannot reach {gate}"))?;
    let progress = Progress::of_steps("testing the gate");
    let mut done = 0;
    let tell = |check: &Check| {
        done += 1;
        progress.step(format!("testing the gate, {done} checks done"));
        // A reader who closed the output learns the result from the exit status.
        let _ = progress.print(|| writeln!(stdout(), "{}", line(check)));
    };
    let checks = runtime.block_on(selftest::run(&target, tell));
    drop(progress);
    let failed = checks.iter().filter(|check| check.failed()).count();
    writeln!(stdout(), "{failed} of {} checks failed", checks.len())?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A check with its outcome in colour, where colours are used.
fn line(check: &Check) -> String {
    let tone = match check.outcome {
        Outcome::Pass(_) => Tone::Good,
        Outcome::Fail(_) => Tone::Bad,
        Outcome::Skip(_) => Tone::Warning,
    };
    let text = check.to_string();
    match text.split_once(' ') {
        Some((outcome, rest)) => format!("{} {rest}", paint(tone, outcome)),
        None => text,
    }
}
