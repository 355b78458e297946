//! Lets a request for an unknown workspace wait for one read of it.
//!
//! A workspace that started a moment ago may be requested before the platform's event arrives. The
//! agent then reads that workspace from the platform. Several requests share one read, a token
//! bucket limits the reads, and a negative result is not asked for again for two seconds. So nobody
//! can make the agent send more than [`PER_SECOND`] reads a second on average. Anonymous requests
//! never start one: only requests with a valid identity come this far.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::super::WorkspaceId;
use crate::{lock::Mutex, time::MonotonicTime};

/// The average number of reads per second.
const PER_SECOND: u32 = 20;
/// The size of the token bucket.
const SAVED: u32 = 40;
/// How long a workspace that was just read is not read again.
const NEGATIVE: Duration = Duration::from_secs(2);

/// The side of requests. Clones share one state.
#[derive(Clone)]
pub struct Lookup {
    questions: mpsc::Sender<WorkspaceId>,
    state: Arc<Mutex<State>>,
}

struct State {
    running: HashMap<WorkspaceId, watch::Sender<u64>>,
    asked: HashMap<WorkspaceId, MonotonicTime>,
    saved: f64,
    at: MonotonicTime,
}

impl Lookup {
    /// Returns the side of requests, and the queue of workspaces to read for the driver.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<WorkspaceId>) {
        let (questions, receiver) = mpsc::channel(SAVED as usize);
        let state = State {
            running: HashMap::new(),
            asked: HashMap::new(),
            saved: f64::from(SAVED),
            at: MonotonicTime::default(),
        };
        (Self { questions, state: Arc::new(Mutex::new(state)) }, receiver)
    }

    /// Starts a read of the workspace, or joins a running one.
    ///
    /// Returns a receiver that is closed when the read ends, or `None` if no read may start now.
    #[must_use]
    pub fn ask(&self, id: &str, now: MonotonicTime) -> Option<watch::Receiver<u64>> {
        let id: WorkspaceId = id.parse().ok()?;
        let mut state = self.state.lock();
        if let Some(running) = state.running.get(&id) {
            return Some(running.subscribe());
        }
        let refill = now.since(state.at).as_secs_f64() * f64::from(PER_SECOND);
        state.saved = (state.saved + refill).min(f64::from(SAVED));
        state.at = now;
        state.asked.retain(|_, at| now.since(*at) < NEGATIVE);
        // The bucket holds back attackers with an identity who try random workspace names.
        if state.saved < 1.0 || state.asked.contains_key(&id) {
            return None;
        }
        self.questions.try_send(id.clone()).ok()?;
        state.saved -= 1.0;
        let (sender, receiver) = watch::channel(0);
        state.running.insert(id, sender);
        Some(receiver)
    }

    /// Ends the read of a workspace and wakes all requests that wait for it.
    pub fn ended(&self, id: &WorkspaceId, now: MonotonicTime) {
        let mut state = self.state.lock();
        if state.running.remove(id).is_some() {
            state.asked.insert(id.clone(), now);
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
    fn one_question_serves_everybody_who_asks_meanwhile() {
        let (lookup, mut questions) = Lookup::new();
        let first = lookup.ask("w", at(0)).unwrap();
        let second = lookup.ask("w", at(1)).unwrap();
        assert_eq!(questions.try_recv().unwrap().as_str(), "w");
        assert!(questions.try_recv().is_err());
        lookup.ended(&"w".parse().unwrap(), at(5));
        // The sender is dropped, which wakes all receivers.
        assert!(first.has_changed().is_err() && second.has_changed().is_err());
        assert!(lookup.ask("w", at(6)).is_none(), "not again so soon");
        assert!(lookup.ask("w", at(2006)).is_some());
    }

    #[test]
    fn made_up_names_cause_a_bounded_number_of_questions() {
        let (lookup, mut questions) = Lookup::new();
        let mut asked = 0;
        for n in 0..10_000_u64 {
            let id = format!("w{n}");
            // Ten thousand requests in one second.
            if lookup.ask(&id, at(n / 10)).is_some() {
                asked += 1;
                assert!(questions.try_recv().is_ok());
                lookup.ended(&id.parse().unwrap(), at(n / 10));
            }
        }
        assert!((50..=60).contains(&asked), "{asked}");
        assert!(lookup.ask("not/an/id", at(60_000)).is_none());
    }
}
