//! Ids that are valid once: the states of sign-ins, the ids of tickets and of logout tokens.
//!
//! [`ReplayGuard`] remembers the ids that were used until they become invalid by themselves, here and, if several
//! agents share a store, in the store. The invariant: an id is never taken twice. When that cannot be known, because
//! the store does not answer or too many ids are remembered, the id is not taken at all, and [`Taken`] says why.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use super::store::{SessionStore, memory::MemoryStore};
use crate::{lock::Mutex, time::Timestamp};

/// The most ids that are remembered.
const MAX_IDS: usize = 100_000;
/// The most ids of one person.
const MAX_IDS_OF_PERSON: usize = 1_000;

/// What came of taking an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was taken now, for the first time.
    First,
    /// It was taken before.
    Repeated,
    /// It is not taken: too many ids are remembered, of this person or of all.
    Full,
    /// It is not taken: the store does not answer, so it is not known whether another agent took it.
    StoreUnreachable,
}

/// The ids that were used.
pub struct ReplayGuard {
    local: Mutex<LocalIds>,
    store: Arc<dyn SessionStore>,
}

/// The ids that this agent took.
#[derive(Default)]
struct LocalIds {
    /// Until when each is valid.
    until: HashMap<String, Timestamp>,
    /// Until when the ids of each person are valid, so that one person cannot use up the room of all.
    of_person: HashMap<String, Vec<Timestamp>>,
}

impl LocalIds {
    fn take(&mut self, person: Option<&str>, id: &str, until: Timestamp, now: Timestamp) -> Taken {
        if self.until.contains_key(id) {
            return Taken::Repeated;
        }
        if !self.has_room(now) || !person.is_none_or(|person| self.charge(person, until, now)) {
            return Taken::Full;
        }
        self.until.insert(id.into(), until);
        Taken::First
    }

    fn has_room(&mut self, now: Timestamp) -> bool {
        if self.until.len() >= MAX_IDS {
            self.until.retain(|_, until| now < *until);
            self.of_person.retain(|_, all| {
                all.retain(|until| now < *until);
                !all.is_empty()
            });
        }
        self.until.len() < MAX_IDS
    }

    fn charge(&mut self, person: &str, until: Timestamp, now: Timestamp) -> bool {
        let all = self.of_person.entry(person.into()).or_default();
        if all.len() >= MAX_IDS_OF_PERSON {
            all.retain(|until| now < *until);
        }
        let has_room = all.len() < MAX_IDS_OF_PERSON;
        if has_room {
            all.push(until);
        }
        has_room
    }
}

impl ReplayGuard {
    /// No ids yet. Ids that other agents take in the same store are taken here too.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { local: Mutex::default(), store }
    }

    fn lock(&self) -> MutexGuard<'_, LocalIds> {
        self.local.lock()
    }

    /// Takes an id, which becomes invalid at `until` by itself.
    pub async fn take(&self, id: &str, until: Timestamp, now: Timestamp) -> Taken {
        self.take_with(None, id, until, now).await
    }

    /// Takes an id of a person ([`super::flow::person`]), who cannot have too many of them.
    pub async fn take_for(
        &self,
        person: &str,
        id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Taken {
        self.take_with(Some(person), id, until, now).await
    }

    async fn take_with(
        &self,
        person: Option<&str>,
        id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Taken {
        let local = self.lock().take(person, id, until, now);
        if local != Taken::First {
            return local;
        }
        match self.store.take_id(id, until).await {
            Ok(true) => Taken::First,
            Ok(false) => Taken::Repeated,
            Err(_) => Taken::StoreUnreachable,
        }
    }

    /// Counts an id that was taken before its person was known. False if the person has too many; the id must be
    /// given back then.
    #[must_use]
    pub fn charge(&self, person: &str, until: Timestamp, now: Timestamp) -> bool {
        self.lock().charge(person, until, now)
    }

    /// Gives back an id that led to nothing, so that strangers cannot use up the room for ids.
    pub async fn give_back(&self, id: &str) {
        self.lock().until.remove(id);
        self.store.return_id(id).await;
    }
}

impl Default for ReplayGuard {
    fn default() -> Self {
        Self::new(Arc::new(MemoryStore))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    #[tokio::test]
    async fn an_id_that_was_given_back_takes_no_room() {
        let replay = ReplayGuard::default();
        for id in 0..2 * MAX_IDS {
            let id = id.to_string();
            assert_eq!(replay.take(&id, at(600), at(0)).await, Taken::First, "{id}");
            replay.give_back(&id).await;
        }
        assert_eq!(replay.take("once", at(600), at(0)).await, Taken::First);
        assert_eq!(replay.take("once", at(600), at(0)).await, Taken::Repeated);
    }

    #[tokio::test]
    async fn s15_one_person_does_not_keep_others_from_signing_in() {
        let replay = ReplayGuard::default();
        for id in 0..2 * MAX_IDS_OF_PERSON {
            let taken = replay.take_for("alice", &id.to_string(), at(30), at(0)).await;
            let want = if id < MAX_IDS_OF_PERSON { Taken::First } else { Taken::Full };
            assert_eq!(taken, want, "{id}");
        }
        assert!(!replay.charge("alice", at(30), at(0)));
        // Others can sign in, and she can when her ids are not valid any more.
        assert!(replay.charge("bob", at(30), at(0)));
        assert_eq!(replay.take_for("bob", "bobs", at(30), at(0)).await, Taken::First);
        assert_eq!(replay.take("a logout token", at(30), at(0)).await, Taken::First);
        assert_eq!(replay.take_for("alice", "later", at(60), at(29)).await, Taken::Full);
        assert_eq!(replay.take_for("alice", "later", at(60), at(30)).await, Taken::First);
        assert_eq!(replay.take_for("alice", "later", at(60), at(30)).await, Taken::Repeated);
        // What is remembered of people ends with what is remembered of ids.
        for one in 0..2 * MAX_IDS {
            let now = at(100 + u64::try_from(one / 1_000).unwrap());
            let until = now.plus(Duration::from_secs(30));
            let (person, id) = (format!("p{one}"), format!("i{one}"));
            let taken = replay.take_for(&person, &id, until, now).await;
            assert_eq!(taken, Taken::First, "{one}");
        }
        let local = replay.lock();
        assert!(local.until.len() <= MAX_IDS && local.of_person.len() <= MAX_IDS);
    }
}
