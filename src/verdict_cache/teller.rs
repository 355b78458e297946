//! Telling the processes behind one socket of HAProxy that what was given for reuse has ended.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Edge;
use crate::haproxy::{AskError, Socket, SocketId};

/// Between two looks at whether HAProxy still answers.
const EVERY: Duration = Duration::from_secs(1);
/// The pause after a failure, at first and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Tells until stopped: of the first epoch at once, since an agent before this one may have given something.
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
                // Whoever answers next may be another process.
                (failures, told) = (failures.saturating_add(1), 0);
                (0, RETRY.saturating_mul(1 << failures.min(5)).min(RETRY_MOST))
            }
        };
        if let Some(place) = edge.told.get(number.index()) {
            place.store(state, Ordering::Release);
        }
        select! {
            () = stop.cancelled() => return,
            // While it fails, its own pace.
            _ = epochs.changed(), if failures == 0 => {}
            () = sleep(pause) => {}
        }
    }
}

/// Tells every process of an epoch; without one, only makes sure that they answer.
async fn tell(socket: &Socket, epoch: Option<String>) -> Result<(), AskError> {
    for process in socket.processes().await? {
        process.end_reuse(epoch.as_deref()).await?;
    }
    Ok(())
}
