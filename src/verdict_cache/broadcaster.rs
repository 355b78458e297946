//! Sends the current epoch to the processes behind one socket of HAProxy.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::VerdictCache;
use crate::{
    backoff::Backoff,
    haproxy::{AskError, Socket, SocketId},
};

/// Time between two checks whether HAProxy answers.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The pauses after failures.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// Runs until stopped. The first epoch is sent at once, since an earlier agent may have offered
/// allows.
pub async fn run(
    cache: Arc<VerdictCache>,
    number: SocketId,
    socket: Socket,
    stop: CancellationToken,
) {
    let mut epochs = cache.epoch.subscribe();
    let mut failures = 0_u32;
    let mut announced = 0;
    loop {
        let epoch = *epochs.borrow_and_update();
        let result = announce(&socket, (announced != epoch).then(|| cache.epoch_name())).await;
        let (state, pause) = match result {
            Ok(()) => {
                if failures > 0 {
                    info!(%socket, "HAProxy takes the end of reused allows again: allows are offered for reuse");
                }
                (failures, announced) = (0, epoch);
                (epoch, PROBE_INTERVAL)
            }
            Err(error) => {
                if failures == 0 {
                    error!(%socket, %error, "telling HAProxy to drop reused allows failed: no allow is offered for reuse until it works, and those offered before end at their deadline");
                }
                // Another process may answer next, which knows no epoch.
                (failures, announced) = (failures.saturating_add(1), 0);
                (0, BACKOFF.pause(failures))
            }
        };
        if let Some(slot) = cache.announced.get(number.index()) {
            slot.store(state, Ordering::Release);
        }
        select! {
            () = stop.cancelled() => return,
            // While the socket fails, the pauses set the pace.
            _ = epochs.changed(), if failures == 0 => {}
            () = sleep(pause) => {}
        }
    }
}

/// Sends an epoch to every process; without one, only checks that they answer.
async fn announce(socket: &Socket, epoch: Option<String>) -> Result<(), AskError> {
    for process in socket.processes().await? {
        process.end_reuse(epoch.as_deref()).await?;
    }
    Ok(())
}
