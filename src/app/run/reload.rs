//! Reloads the configuration while the agent runs: on SIGHUP, and when its file changes.
//!
//! A reload replaces the old configuration completely or not at all. The next gate is built while the old one decides;
//! its new issuers must have keys and its new sources must have delivered all their workspaces before it takes over,
//! between two batches of requests. If anything fails before that, the tasks that were started for it end, and nothing
//! has changed. Keys that need a restart are refused; what outlives a configuration is listed in `setup`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{record, record_keys};
use crate::{
    app::setup::{self, Before, Built, Parts},
    audit::{AuditEvent, AuditLog},
    config::{Config, difference},
    file_watch,
    gate::{Gate, live::Live},
    identity::provider::Provider,
    sign_in::SignIn,
    sources::feeds::Feeds,
    time::Timestamp,
    workspaces::{destination::resolver::Resolver, source::SourceId},
};

/// How long new issuers and sources may take until they are ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of that time is given to resolving the names of new destinations. A name that cannot be resolved does not
/// hold a reload up for longer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two checks whether they are ready.
const READY_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How often the file is read without an event, in case one was lost.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// A changed file is taken once it has stayed the same for this time: editors and copies write in several steps.
const SETTLE_TIME: Duration = Duration::from_millis(200);
/// After this many checks a file that still changes is taken as it is.
const MAX_SETTLE_CHECKS: usize = 25;

/// The tasks that feed a gate with keys and workspaces.
pub(super) struct Tasks {
    all: JoinSet<()>,
    /// Each provider, with what ends its task.
    providers: Vec<(Arc<Provider>, CancellationToken)>,
    /// Ends the tasks of the sources.
    feeds: CancellationToken,
    /// Ends all of them, with the agent.
    stop: CancellationToken,
}

/// Follows the file of the configuration and reloads it.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    pub(super) config: Config,
    pub(super) parts: Arc<Parts>,
    pub(super) live: Arc<Live>,
    pub(super) sign_in: Option<Arc<SignIn>>,
    pub(super) audit_log: Arc<AuditLog>,
    pub(super) tasks: Tasks,
}

/// Why a reload is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// SIGHUP: files that the configuration names are read again, even if it did not change.
    Signal,
    /// The file changed.
    File,
}

/// A gate that is ready to be started.
struct Next {
    config: Config,
    built: Built,
    changes: Vec<String>,
}

impl Tasks {
    /// Starts the tasks of the first gate.
    pub(super) fn start(
        parts: &Parts,
        feeds: Option<Feeds>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (all, ending) = (JoinSet::new(), stop.child_token());
        let mut tasks = Self { all, providers: vec![], feeds: ending, stop: stop.clone() };
        if let Some(feeds) = feeds {
            feeds.spawn(&mut tasks.all, &tasks.feeds)?;
        }
        for provider in parts.providers() {
            tasks.fetch_keys(provider);
        }
        Ok(tasks)
    }

    /// Starts the task that fetches the keys of an issuer.
    fn fetch_keys(&mut self, provider: &Arc<Provider>) {
        let stop = self.stop.child_token();
        self.providers.push((Arc::clone(provider), stop.clone()));
        let provider = Arc::clone(provider);
        self.all.spawn(async move { provider.run(stop).await });
    }

    /// Ends the tasks of all providers but those that are wanted.
    fn retain(&mut self, wanted: &Parts) {
        self.providers.retain(|(provider, stop)| {
            let stays = wanted.has(provider);
            if !stays {
                stop.cancel();
            }
            stays
        });
    }

    /// Waits until all tasks have ended.
    pub(super) async fn ended(mut self) {
        while self.all.join_next().await.is_some() {}
    }
}

impl Reloader {
    /// Listens for SIGHUP. Without a listener the signal would end the process.
    pub(super) fn signal() -> anyhow::Result<Signal> {
        signal(SignalKind::hangup()).context("cannot listen for SIGHUP")
    }

    /// Follows the file until the agent stops. Returns the tasks that still run then.
    pub(super) async fn run(mut self, mut hangup: Signal, follow_file: bool) -> Tasks {
        let (sender, mut events) = mpsc::channel(1);
        // Without a second sender the channel would be closed when the watcher fails, and be ready all the time.
        let _sender = sender.clone();
        let _watcher = follow_file.then(|| {
            file_watch::watch(&self.path, sender).inspect_err(|error| {
                warn!(%error, every = ?FILE_CHECK_INTERVAL, "watching the directory of the configuration failed: the file is read every few seconds instead");
            })
        });
        let stop = self.tasks.stop.clone();
        let mut seen = self.config.text.0.clone().into_bytes();
        loop {
            let cause = tokio::select! {
                () = stop.cancelled() => return self.tasks,
                // Tasks that ended are taken out, so that the set does not grow with each reload.
                Some(_) = self.tasks.all.join_next() => continue,
                _ = hangup.recv() => Cause::Signal,
                _ = events.recv() => Cause::File,
                () = sleep(FILE_CHECK_INTERVAL), if follow_file => Cause::File,
            };
            let text = match cause {
                Cause::Signal => std::fs::read(&self.path).unwrap_or_default(),
                Cause::File => match self.settled(&seen).await {
                    Some(text) => text,
                    None => continue,
                },
            };
            seen = text;
            self.reload(cause).await;
        }
    }

    /// The text of the file once it stays the same, if that differs from `seen`. A file that is missing is not read: an
    /// editor may be replacing it.
    async fn settled(&self, seen: &[u8]) -> Option<Vec<u8>> {
        let mut last = std::fs::read(&self.path).ok()?;
        for _ in 0..MAX_SETTLE_CHECKS {
            if last == seen {
                return None;
            }
            sleep(SETTLE_TIME).await;
            let text = std::fs::read(&self.path).ok()?;
            if text == last {
                break;
            }
            last = text;
        }
        Some(last)
    }

    /// Reloads once, and logs and records how that went.
    async fn reload(&mut self, cause: Cause) {
        let gate = self.live.gate();
        let outcome = match self.next(cause, &gate).await {
            Ok(Some(next)) => self.take_over(next, &gate).await,
            Ok(None) => {
                info!("the configuration file is the running configuration again");
                gate.metrics.config_is_current(true);
                return;
            }
            Err(error) => Err(error),
        };
        gate.metrics.reloaded(outcome.is_ok());
        match outcome {
            Ok(changes) => {
                for change in &changes {
                    info!(change, "a setting of the configuration has changed");
                }
                info!(changes = changes.len(), "the configuration is reloaded");
                self.record(AuditEvent::Reload, &changes.join("; "));
            }
            Err(refusal) => {
                let refusal = format!("{refusal:#}");
                error!(
                    "reloading the configuration failed, the running configuration stays and nothing has changed:\n{refusal}"
                );
                self.record(AuditEvent::ReloadRefused, &refusal.replace('\n', "; "));
            }
        }
    }

    /// Reads the configuration and builds its gate, or returns nothing if it is the running configuration.
    async fn next(&self, cause: Cause, gate: &Arc<Gate>) -> anyhow::Result<Option<Next>> {
        let (path, gate, parts) = (self.path.clone(), Arc::clone(gate), Arc::clone(&self.parts));
        // Reading files and setting up TLS blocks for a moment, in which the other tasks must go on.
        let loaded = tokio::task::spawn_blocking(move || Config::load(&path)).await;
        let config = loaded.context("reading the configuration ended in a panic")??;
        if cause == Cause::File && config.fingerprint == self.config.fingerprint {
            return Ok(None);
        }
        let restart = config.changes_that_need_restart(&self.config);
        if !restart.is_empty() {
            bail!("this can only change with a restart: {}", restart.join(", "));
        }
        let (before, format) = &self.config.text;
        let mut changes = difference::between(before, &config.text.0, *format);
        if changes.is_empty() {
            changes.push("no key differs; the files that it names were read again".into());
        }
        let make = move || {
            let mut built = setup::reload(&config, Before { gate: &gate, parts: &parts })?;
            if let Some(feeds) = &mut built.feeds {
                feeds.check_files()?;
            }
            anyhow::Ok(Next { config, built, changes })
        };
        let next = tokio::task::spawn_blocking(make).await;
        next.context("building the gate ended in a panic")?.map(Some)
    }

    /// Starts what is new, waits until it is ready, and lets the next gate decide.
    async fn take_over(&mut self, next: Next, before: &Arc<Gate>) -> anyhow::Result<Vec<String>> {
        let Next { config, built: Built { gate, feeds, parts, sign_in }, changes } = next;
        let gate = Arc::new(gate);
        let new = parts.providers().filter(|provider| !self.parts.has(provider));
        let new: Vec<_> = new.cloned().collect();
        for provider in &new {
            record_keys(provider, &self.audit_log);
            self.tasks.fetch_keys(provider);
        }
        let ending = self.tasks.stop.child_token();
        let resolver = feeds.as_ref().map(Feeds::resolver);
        let has_feeds = feeds.is_some();
        let spawned = feeds.map_or(Ok(()), |feeds| feeds.spawn(&mut self.tasks.all, &ending));
        let ready = match spawned {
            Ok(()) => ready(&gate, &new, resolver.as_deref()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ready {
            ending.cancel();
            self.tasks.retain(&self.parts);
            return Err(error);
        }
        // Workspaces that were written through the admin API live in the source itself, so they move on with it.
        for source in &gate.watched {
            let same = before.watched.iter().find(|known| known.name == source.name);
            if let (Some(next), Some(leases)) =
                (&source.leases, same.and_then(|known| known.leases.as_ref()))
                && !Arc::ptr_eq(next, leases)
            {
                leases.move_to(next);
            }
        }
        gate.revocations.set_authorities(setup::authorities(&config));
        if let Some(browser) = &gate.browser {
            let all = gate.issuers.profiles().map(|profile| Arc::clone(&profile.authority));
            browser.sessions.set_authorities(all.collect());
        }
        self.live.replace(gate);
        if let (Some(running), Some(configured)) = (&self.sign_in, sign_in) {
            running.replace(configured);
        }
        self.tasks.retain(&parts);
        if has_feeds {
            std::mem::replace(&mut self.tasks.feeds, ending).cancel();
        }
        (self.config, self.parts) = (config, Arc::new(parts));
        Ok(changes)
    }

    fn record(&self, event: AuditEvent, note: &str) {
        record(&self.audit_log, &self.live.load(), event, Some(note));
    }
}

/// Waits until new issuers have keys and new sources have delivered all their workspaces.
async fn ready(
    gate: &Gate,
    providers: &[Arc<Provider>],
    resolver: Option<&Resolver>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let missing = missing(gate, providers);
        let unresolved = resolver.is_some_and(|names| names.unresolved() > 0);
        if missing.is_empty() && (!unresolved || start.elapsed() >= RESOLVE_TIMEOUT) {
            return Ok(());
        }
        if start.elapsed() >= READY_TIMEOUT {
            bail!("within {READY_TIMEOUT:?}, {}", missing.join(", "));
        }
        sleep(READY_CHECK_INTERVAL).await;
    }
}

/// What is not ready yet, in words.
fn missing(gate: &Gate, providers: &[Arc<Provider>]) -> Vec<String> {
    let now = Timestamp::now();
    let keyless = providers.iter().filter(|provider| provider.keys(now).is_none());
    let keyless = keyless.map(|provider| {
        let name = &provider.profile().authority.name;
        format!("the issuer '{name}' gave no keys (see the log for why)")
    });
    let snapshot = gate.registry.snapshot();
    let silent = gate.watched.iter().enumerate().filter(|(number, _)| {
        snapshot.state(SourceId::new(*number)).is_none_or(|state| state.age.is_none())
    });
    let silent = silent.map(|(_, source)| {
        let status = source.status.lock();
        let why = status.last_error.as_deref().unwrap_or("it has not answered");
        format!("the source '{}' did not deliver its workspaces: {why}", source.name)
    });
    keyless.chain(silent).collect()
}
