//! `run`: the agent.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{setup, tunnels};
use crate::{
    admin::{AdminServer, AdminState, metrics},
    agent::{Listen, Server},
    app::record::{AgentEvent, KeySetEvent},
    audit::{AuditEvent, AuditLog},
    config::{self, Config},
    fingerprint::Fingerprint,
    gate::{Gate, live::Live, revalidator::Revalidator},
    haproxy::SocketId,
    identity::provider::Provider,
    sessions::{keyring::Keyring, replay::ReplayGuard},
    sign_in::{
        SignIn,
        refresh::Refresher,
        web::{self, Web},
    },
    time::Timestamp,
    tunnels::revalidation::TunnelRevalidation,
    verdict_cache::{VerdictCache, broadcaster, revalidation::CacheRevalidation},
};

mod reload;
mod runtimes;

use reload::{Reloader, Tasks};
use runtimes::Requests;

/// How long the start waits for the store of sessions; without it the agent starts all the same.
const STORE_AT_START: Duration = Duration::from_secs(3);

pub(crate) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(path)?;
    for address in &config.agent.listen {
        if let Listen::Tcp(tcp) = address
            && !tcp.ip().is_loopback()
        {
            warn!(%address, "the agent listens for SPOP at an address other machines may reach, and SPOP has no authentication: let only HAProxy reach it");
        }
    }
    for warning in config.warnings() {
        let warning = warning.message;
        warn!("{warning}");
    }
    let background = runtimes::background().context("cannot start the runtime")?;
    let requests = Requests::start(config.agent.workers).context("cannot start the runtime")?;
    let result = background.block_on(serve(path, config, requests.handle()));
    requests.end();
    result.map(|()| ExitCode::SUCCESS)
}

#[expect(clippy::too_many_lines, reason = "the order in which things start is one thing to read")]
async fn serve(path: &Path, config: Config, requests: &Handle) -> anyhow::Result<()> {
    if let Some(about) = &config.sign_in {
        let keys = about.keys.display();
        Keyring::create_if_absent(&about.keys)
            .with_context(|| format!("the encryption_keys_file of [sign_in], {keys}"))?;
    }
    let setup::Built { gate, mut feeds, parts, sign_in } =
        setup::build(&config, setup::Purpose::Run)?;
    gate.revocations.own()?;
    // Read before the first question comes; a broken file is no reason not to start, and is followed.
    feeds.load_files();
    let audit = config.audit.file.as_deref();
    let (audit_log, writer) = AuditLog::open(&config.audit)
        .with_context(|| format!("cannot open the audit log {audit:?}"))?;
    let gate = Arc::new(gate);
    let live = Arc::new(Live::new(Arc::clone(&gate)));
    let audit_log = Arc::new(audit_log);
    for provider in parts.providers() {
        record_keys(provider, &audit_log);
    }
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    if let Some(browser) = &gate.browser
        && let Some(redis) = &browser.redis
    {
        gate.revocations.share(Arc::clone(redis) as _);
        let (sessions, revocations) = (&browser.sessions, &gate.revocations);
        let (sessions, revocations) = (Arc::clone(sessions), Arc::clone(revocations));
        tasks.spawn(Arc::clone(redis).follow(sessions, revocations, stop.clone()));
        // Tunnels of the agent before this one belong to sessions that are in the store.
        redis.wait_until_answered(STORE_AT_START).await;
    }
    let tunnels = tunnels::build(&config, &gate, &audit_log);
    let sockets = config.haproxy.as_ref().map_or(&[][..], |haproxy| &haproxy.sockets);
    let verdict_cache =
        config.agent.reuse.map(|longest| Arc::new(VerdictCache::new(longest, sockets.len())));
    let state = Arc::new(AdminState {
        live: Arc::clone(&live),
        revocations: Arc::clone(&gate.revocations),
        audit_log: Arc::clone(&audit_log),
        browser: gate.browser.clone(),
        tunnels: tunnels.clone(),
        verdict_cache: verdict_cache.clone(),
    });
    let admin = match &config.admin {
        Some(admin) => Some(AdminServer::bind(admin, Arc::clone(&state)).with_context(|| {
            format!("cannot listen on the admin socket {}", admin.socket.display())
        })?),
        None => None,
    };
    let (asked, kept) = (Arc::clone(&live), Arc::clone(&audit_log));
    let server = {
        // Its sockets belong to the runtime that decides.
        let _entered = requests.enter();
        Server::bind(&config.agent, asked, kept, tunnels.clone(), verdict_cache.clone())?
    };
    let mut end = Signals::listen()?;
    let hangup = Reloader::signal()?;

    #[cfg(feature = "otel")]
    if let Some(about) = &config.traces {
        tasks.spawn(crate::traces::start(about, stop.clone())?);
    }
    let of_gate = Tasks::start(&parts, feeds, &stop)?;
    let mut revalidator = Revalidator::new(Arc::clone(&live));
    if let Some(verdict_cache) = verdict_cache {
        for (number, socket) in sockets.iter().enumerate() {
            tasks.spawn(broadcaster::run(
                Arc::clone(&verdict_cache),
                SocketId::new(number),
                socket.clone(),
                stop.clone(),
            ));
        }
        revalidator.register(CacheRevalidation::new(verdict_cache));
    }
    let handed_over = tunnels.clone().zip(config.tunnels.file.clone());
    if let Some(tunnels) = tunnels {
        tunnels::spawn(&config, &live, &tunnels, &mut tasks, &stop);
        revalidator.register(TunnelRevalidation::new(tunnels));
    }
    tasks.spawn(revalidator.run(stop.clone()));
    if let Some(admin) = admin {
        tasks.spawn(admin.serve(stop.clone()));
    }
    if let Some(config::Metrics { listen: address }) = config.metrics {
        let listener = metrics::bind(address)
            .with_context(|| format!("[metrics] cannot listen at {address}"))?;
        info!(address = %listener.local_addr()?, "metrics");
        tasks.spawn(metrics::serve(listener, state, stop.clone()));
    }
    let sign_in = gate.browser.clone().zip(sign_in);
    let sign_in = sign_in.map(|(browser, configured)| Arc::new(SignIn::new(browser, configured)));
    if let (Some(about), Some(sign_in)) = (&config.sign_in, &sign_in) {
        let address = about.listen;
        let listener =
            web::bind(address).with_context(|| format!("[sign_in] cannot listen at {address}"))?;
        let (sign_in, live) = (Arc::clone(sign_in), Arc::clone(&live));
        let store = Arc::clone(sign_in.browser.sessions.store());
        let (replay, audit_log) = (ReplayGuard::new(store), Arc::clone(&audit_log));
        if about.refresh.is_some() {
            let (sign_in, live) = (Arc::clone(&sign_in), Arc::clone(&live));
            let audit_log = Arc::clone(&audit_log);
            tasks.spawn(Refresher { sign_in, live, audit_log }.run(stop.clone()));
        }
        let web = Web { sign_in, live, replay, audit_log };
        info!(address = %listener.local_addr()?, host = %about.urls.login, "sign-in pages");
        tasks.spawn(web.serve(listener, stop.clone()));
    }
    record(&audit_log, &gate, AuditEvent::Start, None);
    drop(gate);
    let follow_file = config.agent.follow_file;
    let reloader = Reloader {
        path: path.to_owned(),
        config,
        parts: Arc::new(parts),
        live: Arc::clone(&live),
        sign_in,
        audit_log: Arc::clone(&audit_log),
        tasks: of_gate,
    };
    let reloading = tokio::spawn(reloader.run(hangup, follow_file));
    info!(version = env!("CARGO_PKG_VERSION"), listening = ?server.addresses(), "ready");

    let serving = requests.spawn(server.serve(stop.clone()));
    let signal = end.received().await;
    info!(signal, "ending");
    stop.cancel();
    serving.await.context("the server ended in a panic")?;
    while tasks.join_next().await.is_some() {}
    if let Ok(tasks) = reloading.await {
        tasks.ended().await;
    }
    if let Some((tunnels, path)) = handed_over {
        tunnels::store_recent(&tunnels, &path);
    }
    record(&audit_log, &live.load(), AuditEvent::Stop, Some(signal));
    // Whatever still runs gets nothing on record any more, and so allows nothing.
    audit_log.close();
    writer.finish();
    Ok(())
}

/// Records what the agent itself does.
fn record(audit_log: &AuditLog, gate: &Gate, event: AuditEvent, note: Option<&str>) {
    let record = AgentEvent { time: Timestamp::now(), event, versions: gate.versions, note };
    if audit_log.record(&record).is_err() {
        error!(
            event = event.id(),
            "recording an event failed: the audit log has no room or cannot be written"
        );
    }
}

/// Records the keys of an issuer, and each change of them.
fn record_keys(provider: &Provider, audit_log: &Arc<AuditLog>) {
    let audit_log = Arc::clone(audit_log);
    provider.on_change(move |profile, set, before| {
        let event = KeySetEvent {
            time: Timestamp::now(),
            issuer: &profile.authority.name,
            key_set: Fingerprint::of_digest(set.digest()),
            before: before.map(|before| Fingerprint::of_digest(before.digest())),
            keys: set.len(),
        };
        if audit_log.record(&event).is_err() {
            error!(issuer = event.issuer, "recording the new keys of an issuer failed: the audit log has no room or cannot be written");
        }
    });
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
