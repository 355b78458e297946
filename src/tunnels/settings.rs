//! What an operator configures of tunnels and of the way to HAProxy, and how the table and its tasks are built from it.
//!
//! [`TrackingSettings::build`] makes the table with the tunnels of the agent before this one;
//! [`TrackingSettings::spawn`] starts what finds them in HAProxy and terminates them; [`TrackingSettings::hand_over`] writes the
//! latest requests for the agent after this one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{TunnelSettings, Tunnels, store, terminator::TunnelTerminator};
use crate::{
    audit::AuditLog,
    gate::{Gate, live::Live},
    haproxy::{Socket, SocketId},
};

/// How tunnels are tracked and terminated; without a socket of HAProxy none is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackingSettings {
    /// The runtime API of each HAProxy process or master; at least one.
    pub sockets: Vec<Socket>,
    /// What the operator allows tunnels.
    pub limits: TunnelSettings,
    /// The file in which tunnels outlive the agent; a restart forgets them by default.
    pub file: Option<PathBuf>,
}

impl TrackingSettings {
    /// The table. `reuse` is how long HAProxy may repeat an allow: so much later an unknown tunnel may still appear.
    #[must_use]
    pub fn build(&self, gate: &Gate, log: &Arc<AuditLog>, reuse: Option<Duration>) -> Arc<Tunnels> {
        let tunnels = Tunnels::new(self.limits.clone(), self.sockets.len(), Arc::clone(log));
        let tunnels = tunnels.reusing(reuse);
        let Some(path) = &self.file else { return Arc::new(tunnels) };
        let tunnels = Arc::new(tunnels.with_journal(path));
        // Tunnels that cannot be read do not keep the agent from starting: they are then unknown, as without a file.
        if let Err(error) = store::load(&tunnels, gate, path) {
            error!(%error, path = %path.display(), "reading the file of tunnels failed: tunnels opened before this start are not known to this agent");
        }
        tunnels
    }

    /// Starts the tasks that find tunnels in HAProxy, terminate and store them. The gate's revalidator decides about them
    /// again.
    pub fn spawn(
        &self,
        tunnels: &Arc<Tunnels>,
        live: &Arc<Live>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        for (number, socket) in self.sockets.iter().enumerate() {
            let (tunnels, live) = (Arc::clone(tunnels), Some(Arc::clone(live)));
            let id = SocketId::new(number);
            let terminator = TunnelTerminator::new(socket.clone(), id, tunnels, live);
            tasks.spawn(terminator.run(stop.clone()));
        }
        if let Some(path) = &self.file {
            tasks.spawn(store::run(Arc::clone(tunnels), path.clone(), stop.clone()));
        }
    }

    /// Writes the requests of the last seconds, some of which may become tunnels, for the agent after this one.
    pub fn hand_over(&self, tunnels: &Tunnels) {
        if let Some(path) = &self.file
            && let Err(error) = store::store_recent(tunnels, path)
        {
            error!(%error, path = %path.display(), "storing the requests of the last seconds failed at the end of the agent: the next agent does not know those that last");
        }
    }
}
