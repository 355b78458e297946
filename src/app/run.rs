//! `run`: the agent from its start to its end.
//!
//! [`serve`] starts the parts in an order that keeps one promise: what is allowed is on record and can be taken back. So
//! revocations and the audit log are open before the first request is decided, and the socket of HAProxy is served last;
//! at the end it stops first, and the audit log closes last. The threads that decide about requests do nothing else; see
//! [`runtimes`]. [`reload`] follows the configuration meanwhile.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::setup;
use crate::{
    admin::{AdminServer, AdminState, metrics},
    agent::{Listen, Server},
    app::record::{AgentEvent, KeySetEvent},
    audit::{AuditEvent, AuditLog},
    config::{Config, MetricsSettings},
    fingerprint::Fingerprint,
    gate::{Gate, live::Live, revalidator::Revalidator},
    haproxy::SocketId,
    identity::provider::Provider,
    sessions::replay::ReplayGuard,
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

/// How long the start waits for the shared session store; the agent then starts without it.
const STORE_START_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the agent with the configuration in a file until a signal ends it.
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

/// Starts everything, serves HAProxy until a signal arrives, and ends everything.
#[expect(clippy::too_many_lines, reason = "the order in which things start is one thing to read")]
async fn serve(path: &Path, config: Config, requests: &Handle) -> anyhow::Result<()> {
    if let Some(settings) = &config.sign_in {
        settings.sessions.make_keys()?;
    }
    // All that cannot be read is reported together, with the lines that name it, before anything is opened.
    let unread = config.inputs().mistakes;
    if !unread.as_slice().is_empty() {
        return Err(unread.into());
    }
    let setup::Built { gate, mut feeds, parts, sign_in } = setup::start(&config)?;
    gate.revocations.own()?;
    // The first request must find the workspaces of files. A broken file does not keep the agent from starting: requests
    // for its workspaces are refused until it is corrected.
    if let Some(feeds) = &mut feeds {
        feeds.load_files();
    }
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
        // Tunnels of the agent before this one belong to sessions in that store: without them they would be closed.
        redis.wait_until_answered(STORE_START_TIMEOUT).await;
    }
    let tracking = config.tunnels.as_ref();
    if tracking.is_none() {
        warn!(
            "the configuration has no [haproxy]: WebSockets, streams and downloads that were allowed continue after access has ended"
        );
    }
    let tunnels = tracking.map(|settings| settings.build(&gate, &audit_log, config.agent.reuse));
    let sockets = tracking.map_or(&[][..], |settings| &settings.sockets);
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
        // Connections of HAProxy are served by the threads that decide, so the listeners belong to that runtime.
        let _entered = requests.enter();
        Server::bind(&config.agent, asked, kept, tunnels.clone(), verdict_cache.clone())?
    };
    let mut end = Signals::listen()?;
    let hangup = Reloader::signal()?;

    #[cfg(feature = "otel")]
    if let Some(settings) = &config.traces {
        tasks.spawn(crate::traces::start(settings, stop.clone())?);
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
    if let (Some(settings), Some(tunnels)) = (tracking, &tunnels) {
        settings.spawn(tunnels, &live, &mut tasks, &stop);
        revalidator.register(TunnelRevalidation::new(Arc::clone(tunnels)));
    }
    tasks.spawn(revalidator.run(stop.clone()));
    if let Some(admin) = admin {
        tasks.spawn(admin.serve(stop.clone()));
    }
    if let Some(MetricsSettings { listen: address }) = config.metrics {
        let listener = metrics::bind(address)
            .with_context(|| format!("[metrics] cannot listen at {address}"))?;
        info!(address = %listener.local_addr()?, "metrics");
        tasks.spawn(metrics::serve(listener, state, stop.clone()));
    }
    let sign_in = gate.browser.clone().zip(sign_in);
    let sign_in = sign_in.map(|(browser, configured)| Arc::new(SignIn::new(browser, configured)));
    if let (Some(settings), Some(sign_in)) = (&config.sign_in, &sign_in) {
        let address = settings.listen;
        let listener =
            web::bind(address).with_context(|| format!("[sign_in] cannot listen at {address}"))?;
        let (sign_in, live) = (Arc::clone(sign_in), Arc::clone(&live));
        let store = Arc::clone(sign_in.browser.sessions.store());
        let (replay, audit_log) = (ReplayGuard::new(store), Arc::clone(&audit_log));
        if settings.refresh.is_some() {
            let (sign_in, live) = (Arc::clone(&sign_in), Arc::clone(&live));
            let audit_log = Arc::clone(&audit_log);
            tasks.spawn(Refresher { sign_in, live, audit_log }.run(stop.clone()));
        }
        let web = Web { sign_in, live, replay, audit_log };
        let host = &settings.sessions.urls.login;
        info!(address = %listener.local_addr()?, host = %host, "sign-in pages");
        tasks.spawn(web.serve(listener, stop.clone()));
    }
    record(&audit_log, &gate, AuditEvent::Start, None);
    drop(gate);
    let follow_file = config.agent.follow_file;
    // The reloader owns the configuration from here on.
    let at_the_end = config.tunnels.clone().zip(tunnels);
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
    if let Some((settings, tunnels)) = at_the_end {
        settings.hand_over(&tunnels);
    }
    record(&audit_log, &live.load(), AuditEvent::Stop, Some(signal));
    // A task that still runs can record nothing from here on, and so it allows nothing.
    audit_log.close();
    writer.finish();
    Ok(())
}

/// Records what the agent itself does: its start, its end and its reloads.
fn record(audit_log: &AuditLog, gate: &Gate, event: AuditEvent, note: Option<&str>) {
    let record = AgentEvent { time: Timestamp::now(), event, versions: gate.versions, note };
    audit_log.record_event(event, "the agent", &record);
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
        audit_log.record_event(AuditEvent::KeySet, event.issuer, &event);
    });
}

/// The signals that end the agent.
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

    /// Waits for the first signal, and returns its name.
    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
