//! Lets a request for an unknown workspace wait for one read of it.
//!
//! A workspace that started a moment ago may be requested before the platform's event arrives. The
//! agent then reads that workspace from the platform. Several requests share one read, a token
//! bucket limits the reads, and a negative result is not requested again for two seconds. So no client
//! can make the agent send more than [`READS_PER_SECOND`] reads a second on average. Anonymous requests
//! never start one: only requests with a valid identity come this far.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::super::WorkspaceId;
use crate::{lock::Mutex, time::MonotonicTime};

/// The average number of reads per second.
const READS_PER_SECOND: u32 = 20;
/// The size of the token bucket.
const BURST: u32 = 40;
/// How long a workspace that was just read is not read again.
const REPEAT_DELAY: Duration = Duration::from_secs(2);

/// The side of requests. Clones share one state.
#[derive(Clone)]
pub struct Lookup {
    lookups: mpsc::Sender<WorkspaceId>,
    state: Arc<Mutex<LookupState>>,
}

struct LookupState {
    running: HashMap<WorkspaceId, watch::Sender<u64>>,
    recent: HashMap<WorkspaceId, MonotonicTime>,
    tokens: f64,
    at: MonotonicTime,
}

impl Lookup {
    /// Returns the side of requests, and the queue of workspaces to read for the driver.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<WorkspaceId>) {
        let (lookups, receiver) = mpsc::channel(BURST as usize);
        let state = LookupState {
            running: HashMap::new(),
            recent: HashMap::new(),
            tokens: f64::from(BURST),
            at: MonotonicTime::default(),
        };
        (Self { lookups, state: Arc::new(Mutex::new(state)) }, receiver)
    }

    /// Starts a read of the workspace, or joins a running one.
    ///
    /// Returns a receiver that is closed when the read ends, or `None` if no read may start now.
    #[must_use]
    pub fn request_read(&self, id: &str, now: MonotonicTime) -> Option<watch::Receiver<u64>> {
        let id: WorkspaceId = id.parse().ok()?;
        let mut state = self.state.lock();
        // Several requests share the running read.
        if let Some(running) = state.running.get(&id) {
            return Some(running.subscribe());
        }
        let refill = now.since(state.at).as_secs_f64() * f64::from(READS_PER_SECOND);
        state.tokens = (state.tokens + refill).min(f64::from(BURST));
        state.at = now;
        state.recent.retain(|_, at| now.since(*at) < REPEAT_DELAY);
        // The bucket holds back attackers with an identity who try random workspace names.
        if state.tokens < 1.0 || state.recent.contains_key(&id) {
            return None;
        }
        self.lookups.try_send(id.clone()).ok()?;
        state.tokens -= 1.0;
        let (sender, receiver) = watch::channel(0);
        state.running.insert(id, sender);
        Some(receiver)
    }

    /// Ends the read of a workspace and wakes all requests that wait for it.
    pub fn finish(&self, id: &WorkspaceId, now: MonotonicTime) {
        let mut state = self.state.lock();
        if state.running.remove(id).is_some() {
            state.recent.insert(id.clone(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::at(Duration::from_millis(millis))
    }

    #[test]
    fn requests_for_one_workspace_share_a_read() {
        let (lookup, mut lookups) = Lookup::new();
        let first = lookup.request_read("w", at(0)).unwrap();
        let second = lookup.request_read("w", at(1)).unwrap();
        assert_eq!(lookups.try_recv().unwrap().as_str(), "w");
        assert!(lookups.try_recv().is_err());
        lookup.finish(&"w".parse().unwrap(), at(5));
        // The sender is dropped, which wakes all receivers.
        assert!(first.has_changed().is_err() && second.has_changed().is_err());
        assert!(lookup.request_read("w", at(6)).is_none(), "not again so soon");
        assert!(lookup.request_read("w", at(2006)).is_some());
    }

    #[test]
    fn random_names_cause_a_bounded_number_of_reads() {
        let (lookup, mut lookups) = Lookup::new();
        let mut recent = 0;
        for n in 0..10_000_u64 {
            let id = format!("w{n}");
            // Ten thousand requests in one second.
            if lookup.request_read(&id, at(n / 10)).is_some() {
                recent += 1;
                assert!(lookups.try_recv().is_ok());
                lookup.finish(&id.parse().unwrap(), at(n / 10));
            }
        }
        assert!((50..=60).contains(&recent), "{recent}");
        assert!(lookup.request_read("not/an/id", at(60_000)).is_none());
    }
}
