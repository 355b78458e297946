//! One connection from HAProxy: read what has arrived, respond, write once, wait.
//!
//! Frames are taken apart by [`AgentSide`], which does no I/O. Reading, writing and time limits are
//! here. All responses to what was read are written together. Requests that must wait do so in
//! tasks, whose ACKs are written as they become ready; SPOP allows them in any order.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ServerContext, Stream};
use crate::{
    agent::ack::Batch,
    authz::reason::Reason,
    identity::pending::{Pending, Waiting},
    spop::{
        AgentSide, Event, Notify, Status,
        frame::{self, MAX_SIZE},
    },
    time::{MonotonicTime, Timestamp},
    workspaces::pattern::Scratch,
};

/// The longest time to the HELLO of HAProxy.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time from the first to the last byte of a frame.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without frames is closed after this time. HAProxy closes idle connections earlier.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
/// A connection is closed if HAProxy accepts no response for this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for keys, whatever the limit for responses.
const KEY_WAIT_TIMEOUT: Duration = Duration::from_millis(200);
/// Bytes that are read at once: about twenty requests, which is what HAProxy has open on a
/// connection.
const READ_SIZE: usize = 32 * 1024;
/// Responses are written when they have this many bytes, at the latest.
const WRITE_SIZE: usize = 64 * 1024;
/// The most reads at the end of the agent, for requests that had arrived by then.
const MAX_DRAIN_READS: usize = 16;
/// The most waiting requests of one connection. HAProxy has at most 20 open.
const MAX_PENDING: usize = 64;

#[cfg(test)]
mod tests;

struct Connection<'s, S> {
    stream: S,
    shared: &'s Arc<ServerContext>,
    side: AgentSide,
    input: BytesMut,
    out: Vec<u8>,
    scratch: Scratch,
    pending: JoinSet<Vec<u8>>,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: impl Stream,
    shared: &Arc<ServerContext>,
    stop: CancellationToken,
) {
    let mut connection = Connection {
        stream,
        shared,
        side: AgentSide::new(MAX_SIZE),
        input: BytesMut::new(),
        out: Vec::new(),
        scratch: Scratch::default(),
        pending: JoinSet::new(),
    };
    if let Err(error) = connection.run(stop).await {
        debug!(%error, "a connection ended");
    }
}

impl<S: Stream> Connection<'_, S> {
    async fn run(&mut self, stop: CancellationToken) -> std::io::Result<()> {
        let mut deadline = Instant::now() + HELLO_TIMEOUT;
        // Both live as long as the connection: creating a timer costs as much as a decision.
        let mut timer = pin!(sleep_until(deadline));
        let mut stopped = pin!(stop.cancelled());
        loop {
            let progress = self.handle_input().await?;
            self.flush().await?;
            if self.side.is_closed() {
                return self.stream.shutdown().await;
            }
            let whole = self.input.is_empty();
            if progress {
                deadline = Instant::now() + if whole { IDLE_TIMEOUT } else { FRAME_TIMEOUT };
            }
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            self.input.reserve(READ_SIZE);
            tokio::select! {
                biased;
                Some(answer) = self.pending.join_next() => {
                    // If the task panicked, HAProxy gets no response and denies after its own
                    // timeout.
                    self.out.extend(answer.unwrap_or_default());
                }
                read = self.stream.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    if whole {
                        deadline = deadline.min(Instant::now() + FRAME_TIMEOUT);
                    }
                }
                () = &mut stopped => return self.drain().await,
                () = &mut timer => {
                    if Instant::now() >= deadline {
                        self.side.close(Status::Timeout, "no whole frame in time", &mut self.out);
                    } else {
                        timer.as_mut().reset(deadline);
                    }
                }
            }
        }
    }

    /// Handles all complete frames of the input. Returns whether there was one.
    async fn handle_input(&mut self) -> std::io::Result<bool> {
        let mut progress = false;
        loop {
            let full = self.handle_some(&mut progress);
            if !full {
                return Ok(progress);
            }
            self.flush().await?;
        }
    }

    /// Handles frames until there are no more, or the output is full. Returns whether it is full.
    fn handle_some(&mut self, progress: &mut bool) -> bool {
        let gate = self.shared.handler.gate();
        let workspaces = gate.registry.snapshot();
        let batch = Batch {
            gate: &gate,
            workspaces: &workspaces,
            now: Timestamp::now(),
            started: MonotonicTime::now(),
            // One byte less than agreed: from 3.1 on, HAProxy stalls on a frame that fills its
            // buffer to the last byte.
            max_frame_size: self.side.frame_limit().saturating_sub(1),
        };
        while self.out.len() < WRITE_SIZE {
            let Some((event, used)) = self.side.next(&self.input, &mut self.out) else {
                return false;
            };
            *progress = true;
            match event {
                Event::Notify(notify) => {
                    let handler = &self.shared.handler;
                    let pending = handler.handle(
                        &notify,
                        &batch,
                        &mut self.scratch,
                        Waiting::Allowed,
                        &mut self.out,
                    );
                    if let Some(pending) = pending {
                        let whole = self.input.get(..used).unwrap_or_default().to_vec();
                        if !wait(
                            &mut self.pending,
                            self.shared,
                            pending,
                            whole,
                            batch.started,
                            batch.max_frame_size,
                        ) {
                            handler.refuse(&notify, Reason::Overloaded, &batch, &mut self.out);
                        }
                    }
                }
                Event::Closed(disconnect) if disconnect.status != Status::Normal as u32 => {
                    let message = disconnect.message.escape_ascii().to_string();
                    warn!(
                        status = disconnect.status,
                        message, "HAProxy closed a connection with an error"
                    );
                }
                Event::Refused(error) => {
                    warn!(%error, "a connection was closed because of an invalid SPOP frame");
                }
                Event::Opened(_) | Event::HealthCheck | Event::Closed(_) | Event::Skipped => {}
            }
            self.input.advance(used);
        }
        true
    }

    /// Writes everything at once: HAProxy 3.2 resets a connection whose HELLO arrives in pieces.
    async fn flush(&mut self) -> std::io::Result<()> {
        if !self.out.is_empty() {
            timeout(WRITE_TIMEOUT, self.stream.write_all(&self.out)).await??;
            self.out.clear();
        }
        Ok(())
    }

    /// Ends the connection: responds to what was received, then tells HAProxy to use other
    /// connections.
    async fn drain(&mut self) -> std::io::Result<()> {
        // HAProxy resends elsewhere what it sends after this.
        for _ in 0..MAX_DRAIN_READS {
            self.input.reserve(READ_SIZE);
            match timeout(Duration::ZERO, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(1..)) => self.handle_input().await?,
                _ => break,
            };
        }
        while let Some(answer) = self.pending.join_next().await {
            self.out.extend(answer.unwrap_or_default());
        }
        self.side.close(Status::Normal, "the agent ends", &mut self.out);
        self.flush().await?;
        self.stream.shutdown().await
    }
}

/// Lets a request wait in a task of its own. Returns false if too many wait already.
fn wait(
    tasks: &mut JoinSet<Vec<u8>>,
    shared: &Arc<ServerContext>,
    pending: Pending,
    whole: Vec<u8>,
    started: MonotonicTime,
    max_frame_size: u32,
) -> bool {
    if tasks.len() >= MAX_PENDING {
        return false;
    }
    let Ok(permit) = Arc::clone(&shared.pending).try_acquire_owned() else { return false };
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        let waits = shared.handler.metrics().pending.hold();
        let ended = pending.ended(KEY_WAIT_TIMEOUT.min(shared.response_timeout)).await;
        let gate = shared.handler.gate();
        let workspaces = gate.registry.snapshot();
        let now = Timestamp::now();
        let batch = Batch { gate: &gate, workspaces: &workspaces, now, started, max_frame_size };
        let mut out = Vec::new();
        // It was a valid NOTIFY when it was read.
        if let Ok(Some((frame, _))) = frame::split(&whole, MAX_SIZE)
            && let Ok(notify) = Notify::parse(&frame)
        {
            if ended {
                let mut scratch = Scratch::default();
                shared.handler.handle(&notify, &batch, &mut scratch, Waiting::Never, &mut out);
            } else {
                shared.handler.refuse(&notify, Reason::Deadline, &batch, &mut out);
            }
        }
        drop(waits);
        drop(permit);
        out
    });
    true
}
