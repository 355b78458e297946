//! One question to the platform for a request whose workspace is not known here.
//!
//! A workspace that started a moment ago may be asked for before the news of it came. The question is
//! single-flight, bounded by a bucket, and not repeated for a while when the answer was "no": nobody
//! can make the agent ask more than [`PER_SECOND`] times a second, and strangers cannot at all, since
//! only requests with an identity come this far.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::super::WorkspaceId;
use crate::time::MonotonicTime;

/// How often the platform is asked, on average.
const PER_SECOND: u32 = 20;
/// How many questions can be saved up.
const SAVED: u32 = 40;
/// How long an answer is not asked for again.
const NEGATIVE: Duration = Duration::from_secs(2);

/// What requests ask through.
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
    /// A way to ask, and where the questions come out.
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

    /// Asks for a workspace. Returns what tells of the end of the question, or `None` when it is not
    /// to be asked now.
    #[must_use]
    pub fn ask(&self, id: &str, now: MonotonicTime) -> Option<watch::Receiver<u64>> {
        let id: WorkspaceId = id.parse().ok()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = state.running.get(&id) {
            return Some(running.subscribe());
        }
        let refill = now.since(state.at).as_secs_f64() * f64::from(PER_SECOND);
        state.saved = (state.saved + refill).min(f64::from(SAVED));
        state.at = now;
        state.asked.retain(|_, at| now.since(*at) < NEGATIVE);
        if state.saved < 1.0 || state.asked.contains_key(&id) {
            return None;
        }
        self.questions.try_send(id.clone()).ok()?;
        state.saved -= 1.0;
        let (sender, receiver) = watch::channel(0);
        state.running.insert(id, sender);
        Some(receiver)
    }

    /// The question has its answer, or will have none.
    pub fn ended(&self, id: &WorkspaceId, now: MonotonicTime) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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
        // The sender is gone: whoever waits goes on.
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
            // Ten thousand in one second.
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
