//! `haproxy selftest`: a running gate, tried from outside.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::Context as _;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    cli::HaproxySelftestArgs,
    haproxy_config::selftest::{
        self, Check, Target,
        client::{Client, Trust},
    },
};

pub(super) fn selftest(args: &HaproxySelftestArgs) -> anyhow::Result<ExitCode> {
    let trust = match (&args.ca, args.insecure) {
        (Some(path), _) => Trust::File(path),
        (None, true) => Trust::Anybody,
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
    let tell = |check: &Check| {
        // Who no longer reads the output learns the result from the status.
        let _ = writeln!(stdout(), "{check}");
    };
    let checks = runtime.block_on(selftest::run(&target, tell));
    let failed = checks.iter().filter(|check| check.failed()).count();
    writeln!(stdout(), "{failed} of {} checks failed", checks.len())?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
