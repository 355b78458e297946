//! Frees large values by a thread of its own, so that no request waits for it.
//!
//! The last reader of a replaced snapshot frees it. For a request, freeing a hundred thousand
//! workspaces would be a pause of many milliseconds. So the one who replaces a value hands the old
//! one to a [`Reaper`], which holds it until no reader is left.

use std::{
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// The most values that may wait for the thread. A value beyond that is freed by its last reader.
const MAX_QUEUED: usize = 256;
/// Time between two checks whether a value still has readers.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A value with readers for longer than this is left to them.
const LONGEST: Duration = Duration::from_secs(10);

/// Holds replaced values until they have no readers. Its thread starts with the first value.
pub struct Reaper<T>(OnceLock<Option<SyncSender<Arc<T>>>>);

impl<T> Default for Reaper<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Send + Sync + 'static> Reaper<T> {
    /// Drops a value: here if it has no other reader, else later on the thread.
    pub fn free(&self, old: Arc<T>) {
        if Arc::strong_count(&old) == 1 {
            return;
        }
        if let Some(sender) = self.0.get_or_init(start) {
            // If the queue is full, the last reader frees the value: a pause, but no growing
            // memory.
            let _ = sender.try_send(old);
        }
    }
}

fn start<T: Send + Sync + 'static>() -> Option<SyncSender<Arc<T>>> {
    let (sender, receiver) = sync_channel(MAX_QUEUED);
    let thread = std::thread::Builder::new().name("reaper".into());
    thread.spawn(move || run(&receiver)).ok().map(|_| sender)
}

/// Runs until the reaper is dropped.
fn run<T>(queue: &Receiver<Arc<T>>) {
    let mut shared: Vec<(Arc<T>, Instant)> = Vec::new();
    loop {
        let received = if shared.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(LOOK_INTERVAL)
        };
        match received {
            Ok(old) => shared.push((old, Instant::now())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        shared.retain(|(old, since)| Arc::strong_count(old) > 1 && since.elapsed() < LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::ThreadId};

    use super::*;

    /// Reports the thread that dropped it.
    struct Told(mpsc::Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[test]
    fn r3_what_a_request_reads_last_is_freed_by_another_thread() {
        let (sender, dropped) = mpsc::channel();
        let (reaper, old) = (Reaper::default(), Arc::new(Told(sender)));
        let read = Arc::clone(&old);
        reaper.free(old);
        assert!(dropped.try_recv().is_err());
        drop(read);
        let thread = dropped.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_ne!(thread, std::thread::current().id());
    }

    #[test]
    fn what_nothing_else_has_is_freed_at_once() {
        let (sender, dropped) = mpsc::channel();
        Reaper::default().free(Arc::new(Told(sender)));
        assert_eq!(dropped.try_recv().unwrap(), std::thread::current().id());
    }
}
