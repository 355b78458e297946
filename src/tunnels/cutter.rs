//! One socket of HAProxy: finding there what the table has, cutting what is due, letting go of what ended.
//!
//! Before each cut the stream is looked at once more, by its number, frontend and beginning. Between that and
//! the cut lies one question to HAProxy; a stream that ends just then and leaves its place to another could
//! be mistaken, within a millisecond.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::warn;

use super::{Cause, Tunnels, table::State};
use crate::{
    authz::decision::DecisionId,
    gate::live::Live,
    haproxy::{
        AskError, BATCH, Process, Socket, SocketId,
        runtime::{Detail, List, Listed, Malformed, Pointer},
    },
    time::MonotonicTime,
    tunnels::table::Found,
};

mod pace;

pub use pace::Cutter;
use pace::{Outcome, Sight, Task};

/// HAProxy rounds ages down, and its clock ticks by itself.
pub(super) const ROUNDING: Duration = Duration::from_secs(2);
/// A stream that is older was asked about, or never will be.
const ASKED_WITHIN: Duration = Duration::from_secs(4);
/// How long something that is to be cut is looked for without rest.
const HURRY: Duration = Duration::from_secs(3);
/// What HAProxy was told to end and still has is told again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What all work at one socket shares: finding, comparing and ending.
pub(super) struct Site {
    socket: Socket,
    /// Its number.
    pub(super) number: SocketId,
    pub(super) tunnels: Arc<Tunnels>,
    /// What decides; without it, nothing enters the table that is not a tunnel from the beginning.
    pub(super) live: Option<Arc<Live>>,
    /// Streams that are due by an allow that was reused, and since when that is known.
    pub(super) waiting: Mutex<HashMap<(u32, Pointer), MonotonicTime>>,
    /// Streams that nobody knows, and that were looked at.
    strangers: Mutex<HashSet<(u32, Pointer)>>,
}

/// Streams by where they came in and from whom.
type Places<'l> = HashMap<(&'l [u8], Option<SocketAddr>), Vec<&'l Listed>>;

impl Site {
    fn new(
        socket: Socket,
        number: SocketId,
        tunnels: Arc<Tunnels>,
        live: Option<Arc<Live>>,
    ) -> Self {
        Self {
            socket,
            number,
            tunnels,
            live,
            waiting: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    fn tell(&self, error: Option<String>) {
        if let Some(place) = self.tunnels.lock().errors.get_mut(self.number.index()) {
            *place = error;
        }
    }

    /// Whether something is to be cut that is or may be here.
    fn has_due(&self) -> bool {
        let state = self.tunnels.lock();
        state.entries.values().any(|entry| entry.due.is_some())
    }

    /// The processes where something is due, and whether something due is to be looked for.
    fn wanted(&self) -> (Vec<Process>, bool) {
        let mut processes: Vec<Process> = Vec::new();
        let mut is_sought = false;
        let (state, now) = (self.tunnels.lock(), MonotonicTime::now());
        for entry in state.entries.values() {
            let Some(due) = &entry.due else { continue };
            // What does not show up soon is looked for at the usual pace.
            let is_new = now.since(due.since) < HURRY;
            match &entry.found {
                Some(found) if found.socket == self.number => {
                    if !processes.contains(&found.process) {
                        processes.push(found.process.clone());
                    }
                    is_sought |= entry.shut.is_some() && is_new;
                }
                Some(_) => {}
                None => is_sought |= is_new,
            }
        }
        (processes, is_sought)
    }

    /// Does what is to be done in a process.
    async fn work(
        &self,
        process: &Process,
        task: Task,
        was_late: bool,
    ) -> Result<Outcome, AskError> {
        if was_late {
            process.goes_on().await?;
        }
        let asked = MonotonicTime::now();
        // What is found already does not wait until all streams are read.
        let cut = self.cut(process).await;
        let done = match task {
            Task::Cut => cut.map(|()| Outcome::Cut),
            Task::Seek => match self.seek_in(process).await {
                Ok(id) => cut.map(|()| Outcome::Sought(Sight { asked, id: Some(id) })),
                Err(error) => Err(error),
            },
        };
        match done {
            // It has no streams yet, or none any more.
            Err(AskError::Malformed(Malformed::NoProcess)) => {
                Ok(Outcome::Sought(Sight { asked, id: None }))
            }
            done => done,
        }
    }

    /// Whether the look before this one was so long ago that HAProxy may have stood still, its clock with it.
    pub(super) fn is_late(&self, asked: MonotonicTime) -> bool {
        let state = self.tunnels.lock();
        let round = state.rounds.get(self.number.index()).and_then(Option::as_ref);
        round.is_none_or(|round| asked.since(round.started) > pace::EVERY + ROUNDING)
    }

    async fn seek_in(&self, process: &Process) -> Result<u32, AskError> {
        let asked = MonotonicTime::now();
        let list = process.list().await?;
        let (mut wanted, gone) = self.compare(process, &list, asked);
        self.tunnels.ended(&gone);
        let strangers = self.strangers(&list);
        let plain = self.plain_strangers(&list, &strangers, asked);
        wanted.extend(&strangers);
        let wanted: Vec<_> = wanted.into_iter().collect();
        let mut details = Vec::new();
        if !wanted.is_empty() {
            details = process.details(&wanted).await?;
            self.locate(process, list.process, &details);
        }
        self.promote(process, &list, asked).await?;
        self.promote_reused(process, &list, asked).await?;
        if !strangers.is_empty() {
            self.meet(process, list.process, &strangers, &details).await?;
            self.meet_plain(process, list.process, &plain, &details).await?;
        }
        self.cut_connections(process, &list).await?;
        self.cut(process).await?;
        Ok(list.process)
    }

    /// What of the table is in this process: streams to look at more closely, and tunnels that have ended.
    fn compare(
        &self,
        process: &Process,
        list: &List,
        asked: MonotonicTime,
    ) -> (HashSet<Pointer>, Vec<DecisionId>) {
        let by_pointer: HashMap<Pointer, &Listed> =
            list.streams.iter().map(|stream| (stream.pointer, stream)).collect();
        let mut places = Places::new();
        for stream in &list.streams {
            places.entry((&stream.frontend, stream.source)).or_default().push(stream);
            if stream.source.is_some() {
                // For those whose source HAProxy does not tell.
                places.entry((&stream.frontend, None)).or_default().push(stream);
            }
        }
        let mut state = self.tunnels.lock();
        let contested = contested(&state);
        let mut taken = HashSet::new();
        let mut wanted = HashSet::new();
        let mut gone = Vec::new();
        for (id, entry) in &mut state.entries {
            let Some(found) = entry.found.as_ref().filter(|f| f.socket == self.number) else {
                continue;
            };
            if found.process != *process {
                continue;
            }
            if found.process_id != list.process {
                // Another process has taken over the socket. The old one may go on somewhere.
                entry.found = None;
                continue;
            }
            let place = &entry.tunnel.place;
            let there = by_pointer.get(&found.pointer).filter(|stream| {
                *stream.frontend == *place.frontend
                    && (place.source.is_none() || stream.source == place.source)
            });
            match there {
                None => gone.push(*id),
                Some(stream) if is_old_enough(stream, entry.tunnel.opened, asked) => {
                    let is_contested = contested.contains(&(place.frontend.clone(), place.source))
                        || contested.contains(&(place.frontend.clone(), None));
                    // The stream may have ended and have left its place to one that is sought.
                    if is_contested { &mut wanted } else { &mut taken }.insert(found.pointer);
                }
                // Another stream of the connection may have come to its place: it is looked at anew.
                Some(_) => entry.found = None,
            }
        }
        for entry in state.entries.values().filter(|entry| entry.found.is_none()) {
            let place = &entry.tunnel.place;
            if place.process.is_some_and(|id| id != list.process) {
                continue;
            }
            let near = places.get(&(&*place.frontend, place.source)).into_iter().flatten();
            // A number is sure. Without one, a stream that is younger is another one.
            let near = near.filter(|stream| {
                place.stream.is_some() || is_old_enough(stream, entry.tunnel.opened, asked)
            });
            wanted.extend(near.map(|stream| stream.pointer).filter(|p| !taken.contains(p)));
        }
        (wanted, gone)
    }

    /// Notes which streams the tunnels are.
    fn locate(&self, process: &Process, process_id: u32, details: &[Detail]) {
        let mut places: HashMap<&[u8], HashMap<Option<SocketAddr>, Vec<&Detail>>> = HashMap::new();
        for detail in details {
            let of = places.entry(&detail.frontend).or_default();
            of.entry(detail.source).or_default().push(detail);
            if detail.source.is_some() {
                of.entry(None).or_default().push(detail);
            }
        }
        let now = MonotonicTime::now();
        let mut state = self.tunnels.lock();
        self.let_go(&mut state, process, details);
        let mut taken = self.taken(&state, process);
        let mut sought: Vec<_> =
            state.entries.values_mut().filter(|entry| entry.found.is_none()).collect();
        // Without a number, a connection's only stream is that of its last request.
        sought.sort_by_key(|entry| std::cmp::Reverse(entry.tunnel.opened));
        for entry in sought {
            let place = &entry.tunnel.place;
            let Some(of) = places.get(&*place.frontend) else { continue };
            let near = of.get(&place.source).into_iter().flatten();
            let near = near.filter(|detail| !taken.contains(&detail.pointer));
            let mut fits = near.clone().filter(|detail| place.is(detail, process_id));
            match (fits.next(), fits.next()) {
                (Some(detail), None) => {
                    taken.insert(detail.pointer);
                    entry.doubt = None;
                    entry.found = Some(Found {
                        socket: self.number,
                        process: process.clone(),
                        process_id,
                        pointer: detail.pointer,
                    });
                }
                (Some(_), Some(_)) => entry.doubt = Some(now),
                // Without a number, any of a connection's streams could be it.
                (None, _) if place.stream.is_none() && near.clone().next().is_some() => {
                    entry.doubt = Some(now);
                }
                (None, _) => {}
            }
        }
    }

    /// Lets go of streams that are other ones by now, or without a number may be.
    fn let_go(&self, state: &mut State, process: &Process, details: &[Detail]) {
        let by_pointer: HashMap<_, _> = details.iter().map(|d| (d.pointer, d)).collect();
        let contested = contested(state);
        for entry in state.entries.values_mut() {
            let place = &entry.tunnel.place;
            let Some(found) = &entry.found else { continue };
            if found.socket != self.number || found.process != *process {
                continue;
            }
            let Some(detail) = by_pointer.get(&found.pointer) else { continue };
            let may_be_another = place.stream.is_none()
                && contested.contains(&(place.frontend.clone(), place.source));
            if may_be_another || !place.is(detail, found.process_id) {
                entry.found = None;
            }
        }
    }

    pub(super) fn taken(&self, state: &State, process: &Process) -> HashSet<Pointer> {
        let found = state.entries.values().filter_map(|entry| entry.found.as_ref());
        let here = found.filter(|found| found.socket == self.number && found.process == *process);
        here.map(|found| found.pointer).collect()
    }

    /// Lets go of tunnels of processes that have ended, as their master says.
    fn gone_with_their_process(&self, processes: &[Process], is_master: bool) {
        if !is_master {
            return;
        }
        let gone: Vec<_> = {
            let state = self.tunnels.lock();
            let is_gone =
                |found: &Found| found.socket == self.number && !processes.contains(&found.process);
            let all = state.entries.iter();
            all.filter(|(_, e)| e.found.as_ref().is_some_and(is_gone)).map(|(id, _)| *id).collect()
        };
        self.tunnels.ended(&gone);
    }

    /// Cuts what is due and found in this process.
    async fn cut(&self, process: &Process) -> Result<(), AskError> {
        let now = MonotonicTime::now();
        let due: Vec<(Pointer, DecisionId)> = {
            let state = self.tunnels.lock();
            let all = state.entries.iter().filter(|(_, entry)| {
                entry.due.is_some() && entry.shut.is_none_or(|at| now.since(at) >= AGAIN)
            });
            let found = all.filter_map(|(id, entry)| Some((entry.found.as_ref()?, *id)));
            let here = found.filter(|(f, _)| f.socket == self.number && f.process == *process);
            here.map(|(found, id)| (found.pointer, id)).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let pointers: Vec<_> = due.iter().map(|(pointer, _)| *pointer).collect();
        let details = process.details(&pointers).await?;
        let details: HashMap<_, _> = details.iter().map(|d| (d.pointer, d)).collect();
        let (mut sure, mut gone) = (Vec::new(), Vec::new());
        {
            let mut state = self.tunnels.lock();
            for (pointer, id) in due {
                let Some(entry) = state.entries.get_mut(&id) else { continue };
                let Some(found) = &entry.found else { continue };
                let place = &entry.tunnel.place;
                if details.get(&pointer).is_some_and(|d| place.is(d, found.process_id)) {
                    // Should the answer be lost, the record of its end says why all the same.
                    entry.tried = true;
                    sure.push((pointer, id));
                } else {
                    gone.push(id);
                }
            }
        }
        self.tunnels.ended(&gone);
        for batch in sure.chunks(BATCH) {
            let pointers: Vec<_> = batch.iter().map(|(pointer, _)| *pointer).collect();
            let shut = process.shut(&pointers).await?;
            let done = batch.iter().zip(shut).map(|((_, id), was_there)| (*id, was_there));
            let (cut, gone): (Vec<_>, Vec<_>) = done.partition(|(_, was_there)| *was_there);
            self.tunnels.was_cut(cut.into_iter().map(|(id, _)| id));
            self.tunnels.ended(&gone.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Streams of our frontends that the table has not, and that were not looked at before. Whatever this agent
    /// allowed is in the table before it can be a tunnel.
    fn strangers(&self, list: &List) -> Vec<Pointer> {
        let state = self.tunnels.lock();
        let known: HashSet<_> = {
            let found = state.entries.values().filter_map(|entry| entry.found.as_ref());
            found.filter(|f| f.process_id == list.process).map(|found| found.pointer).collect()
        };
        let recent = self.tunnels.recent.lock();
        let asks = |frontend: &[u8]| recent.asks(frontend);
        let strange = list.streams.iter().filter(|stream| {
            // A TCP stream is one before the agent is asked.
            stream.age.0 >= ASKED_WITHIN
                && (state.frontends.contains(&stream.frontend) || asks(&stream.frontend))
                && !known.contains(&stream.pointer)
        });
        let strange: HashSet<_> = strange.map(|stream| (list.process, stream.pointer)).collect();
        let mut known = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|stranger| stranger.0 != list.process || strange.contains(stranger));
        let new = strange.into_iter().filter(|stranger| known.insert(*stranger));
        new.map(|(_, pointer)| pointer).collect()
    }

    /// What strangers are: a tunnel that nobody knows is told, and cut if that is wanted.
    async fn meet(
        &self,
        process: &Process,
        process_id: u32,
        strangers: &[Pointer],
        details: &[Detail],
    ) -> Result<(), AskError> {
        let unknown: Vec<_> = {
            let state = self.tunnels.lock();
            let taken = self.taken(&state, process);
            let sought = state.entries.values().filter(|entry| entry.found.is_none());
            let sought: HashSet<_> = sought.map(|entry| entry.tunnel.place.source).collect();
            let is_stranger = |detail: &&Detail| {
                detail.is_tunnel
                    && strangers.contains(&detail.pointer)
                    && !taken.contains(&detail.pointer)
                    && !sought.contains(&detail.source)
            };
            details.iter().filter(is_stranger).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let count = unknown.len();
        let cut = self.tunnels.settings.cut_unknown;
        warn!(%process, count, cut, "HAProxy has tunnels that this agent did not allow: with cut_unknown they are terminated, otherwise they continue");
        self.tunnels.lock().unknown += count;
        if cut {
            let pointers: Vec<_> = unknown.iter().map(|detail| detail.pointer).collect();
            process.shut(&pointers).await?;
            for detail in unknown {
                self.tunnels.record_stranger(detail, process_id, Cause::Unknown);
            }
        }
        Ok(())
    }
}

/// Where streams are sought.
fn contested(state: &State) -> HashSet<(Box<[u8]>, Option<SocketAddr>)> {
    let sought = state.entries.values().filter(|entry| entry.found.is_none());
    sought.map(|entry| (entry.tunnel.place.frontend.clone(), entry.tunnel.place.source)).collect()
}

/// Whether a stream is as old as the tunnel, as far as ages tell. They are HAProxy's, whose clock stands still
/// when HAProxy does, so that they never are enough to let go of a tunnel with a number.
fn is_old_enough(stream: &Listed, opened: MonotonicTime, asked: MonotonicTime) -> bool {
    stream.age.1.saturating_add(ROUNDING) >= asked.since(opened)
}

#[cfg(test)]
mod tests;
