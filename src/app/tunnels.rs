//! The table of tunnels and the tasks that keep it.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    audit::AuditLog,
    config::Config,
    gate::{Gate, live::Live},
    haproxy::SocketId,
    tunnels::{TunnelSettings, Tunnels, store, terminator::TunnelTerminator},
};
use std::path::Path;

/// The table of tunnels with what the agent before this one left, where HAProxy can be reached.
pub(super) fn build(
    config: &Config,
    gate: &Gate,
    audit_log: &Arc<AuditLog>,
) -> Option<Arc<Tunnels>> {
    let Some(haproxy) = &config.haproxy else {
        warn!(
            "the configuration has no [haproxy]: WebSockets, streams and downloads that were allowed continue after access has ended"
        );
        return None;
    };
    let frontends = haproxy.frontends.clone();
    let settings = TunnelSettings { frontends, ..config.tunnels.settings.clone() };
    let tunnels = Tunnels::new(settings, haproxy.sockets.len(), Arc::clone(audit_log));
    let tunnels = tunnels.reusing(config.agent.reuse);
    let tunnels = Arc::new(match &config.tunnels.file {
        Some(path) => tunnels.with_journal(path),
        None => tunnels,
    });
    if let Some(path) = &config.tunnels.file
        && let Err(error) = store::load(&tunnels, gate, path)
    {
        error!(%error, path = %path.display(), "reading the file of tunnels failed: tunnels opened before this start are not known to this agent");
    }
    Some(tunnels)
}

/// Starts the tasks that terminate tunnels and store them.
pub(super) fn spawn(
    config: &Config,
    live: &Arc<Live>,
    tunnels: &Arc<Tunnels>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let sockets = config.haproxy.iter().flat_map(|haproxy| &haproxy.sockets);
    for (number, socket) in sockets.enumerate() {
        let live = Some(Arc::clone(live));
        let terminator =
            TunnelTerminator::new(socket.clone(), SocketId::new(number), Arc::clone(tunnels), live);
        tasks.spawn(terminator.run(stop.clone()));
    }
    if let Some(path) = &config.tunnels.file {
        tasks.spawn(store::run(Arc::clone(tunnels), path.clone(), stop.clone()));
    }
}

/// Writes the requests of the last seconds for the agent after this one.
pub(super) fn store_recent(tunnels: &Tunnels, path: &Path) {
    if let Err(error) = store::store_recent(tunnels, path) {
        error!(%error, path = %path.display(), "storing the requests of the last seconds failed at the end of the agent: the next agent does not know those that last");
    }
}
