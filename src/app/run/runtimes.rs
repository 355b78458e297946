//! Two runtimes: requests are decided on threads of their own.
//!
//! Everything else runs on background threads: lists of workspaces, the admin API, fetching keys, revalidation of tunnels
//! and sessions. So no background work delays a request, however long it takes. What both sides use is shared without
//! waiting, or under locks that are held for moments.

use std::{io, thread::JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// The number of threads for everything but requests. With a single one, a long list of workspaces would delay the
/// closing of a tunnel.
const BACKGROUND_THREADS: usize = 2;

/// The runtime for everything but requests.
///
/// # Errors
/// A thread cannot be started.
pub(super) fn background() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(BACKGROUND_THREADS).thread_name("background").enable_all().build()
}

/// The runtime on which requests are decided.
pub(super) struct Requests {
    handle: Handle,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Requests {
    /// Starts it with this number of threads.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(workers: usize) -> io::Result<Self> {
        // A single thread has no other to share work with, and the simpler runtime takes less time for each request.
        let runtime = if workers == 1 {
            Builder::new_current_thread().enable_all().build()?
        } else {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(workers).thread_name("requests").enable_all().build()?
        };
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("requests".into())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self { handle, stop, thread })
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the runtime. A task that still runs there ends when it waits next.
    pub(super) fn end(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            error!("the thread that decides requests panicked: please report the lines above");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Barrier, mpsc},
        time::Duration,
    };

    use super::*;

    #[test]
    fn r3_work_that_blocks_every_background_thread_delays_no_request() {
        for workers in [1, 3] {
            let background = background().unwrap();
            let requests = Requests::start(workers).unwrap();
            let blocked = Arc::new(Barrier::new(BACKGROUND_THREADS + 1));
            let (release, released) = mpsc::channel::<()>();
            let released = Arc::new(std::sync::Mutex::new(released));
            for _ in 0..BACKGROUND_THREADS {
                let (blocked, released) = (Arc::clone(&blocked), Arc::clone(&released));
                background.spawn(async move {
                    blocked.wait();
                    // Blocks until the sender is dropped, and never yields.
                    let _ = released.lock().map(|released| released.recv());
                });
            }
            blocked.wait();
            let (sender, decided) = mpsc::channel();
            requests.handle().spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                sender.send(()).unwrap();
            });
            decided.recv_timeout(Duration::from_secs(30)).unwrap();
            drop(release);
            requests.end();
        }
    }
}
