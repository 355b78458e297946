//! Sends the current epoch to the processes behind one socket of HAProxy.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Edge;
use crate::haproxy::{AskError, Socket, SocketId};

/// Time between two checks whether HAProxy answers.
const EVERY: Duration = Duration::from_secs(1);
/// The first and the longest pause after a failure.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Runs until stopped. The first epoch is sent at once, since an earlier agent may have offered
/// allows.
pub async fn run(edge: Arc<Edge>, number: SocketId, socket: Socket, stop: CancellationToken) {
    let mut epochs = edge.epoch.subscribe();
    let mut failures = 0_u32;
    let mut told = 0;
    loop {
        let epoch = *epochs.borrow_and_update();
        let result = tell(&socket, (told != epoch).then(|| edge.name())).await;
        let (state, pause) = match result {
            Ok(()) => {
                if failures > 0 {
                    info!(%socket, "HAProxy takes the end of reused allows again: allows are given for reuse");
                }
                (failures, told) = (0, epoch);
                (epoch, EVERY)
            }
            Err(error) => {
                if failures == 0 {
                    error!(%socket, %error, "telling HAProxy to drop reused allows failed: no allow is given for reuse until it works, and those given end at their deadline");
                }
                // Another process may answer next, which knows no epoch.
                (failures, told) = (failures.saturating_add(1), 0);
                (0, RETRY.saturating_mul(1 << failures.min(5)).min(RETRY_MOST))
            }
        };
        if let Some(place) = edge.told.get(number.index()) {
            place.store(state, Ordering::Release);
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
async fn tell(socket: &Socket, epoch: Option<String>) -> Result<(), AskError> {
    for process in socket.processes().await? {
        process.end_reuse(epoch.as_deref()).await?;
    }
    Ok(())
}
