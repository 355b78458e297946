//! Finds and terminates tunnels in the HAProxy behind one socket of the runtime API.
//!
//! A scan lists all streams of a process and compares them with the table: it locates the streams
//! of tunnels, removes tunnels whose streams are gone, adds plain requests that last, and
//! terminates what must end. [`schedule`] says when to scan.
//!
//! Right before a stream is terminated, its number, frontend and start are compared once more. Only
//! one exchange with HAProxy lies between that and the termination: within this millisecond, a
//! stream could end and another one take its address.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
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
    lock::Mutex,
    time::MonotonicTime,
    tunnels::table::Found,
};

mod schedule;

pub use schedule::TunnelTerminator;
use schedule::{Outcome, Sight, Task};

/// How wrong an age may be that HAProxy lists: it rounds down to seconds, by a clock of its own.
pub(super) const ROUNDING: Duration = Duration::from_secs(2);
/// HAProxy sends the authorization request of a stream that becomes a tunnel before this age.
const ASKED_WITHIN: Duration = Duration::from_secs(4);
/// How long a tunnel that must be terminated is searched for at full rate.
const HURRY: Duration = Duration::from_secs(3);
/// How long after HAProxy was told to end a stream it is told again, if the stream is still there.
const AGAIN: Duration = Duration::from_secs(1);

/// What all work at one socket shares.
pub(super) struct Site {
    socket: Socket,
    /// The number of the socket.
    pub(super) number: SocketId,
    pub(super) tunnels: Arc<Tunnels>,
    /// The gate that decides about plain requests that last; without one, they are not followed.
    pub(super) live: Option<Arc<Live>>,
    /// Streams that passed by a reused allow and must end, with the time when that was found.
    pub(super) waiting: Mutex<HashMap<(u32, Pointer), MonotonicTime>>,
    /// Streams that this agent did not allow, and that were examined already.
    strangers: Mutex<HashSet<(u32, Pointer)>>,
}

/// Streams by frontend and client address.
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

    /// Whether any tunnel must be terminated.
    fn has_due(&self) -> bool {
        let state = self.tunnels.lock();
        state.entries.values().any(|entry| entry.due.is_some())
    }

    /// The processes that have a tunnel to terminate, and whether a scan is needed to find another
    /// one.
    fn wanted(&self) -> (Vec<Process>, bool) {
        let mut processes: Vec<Process> = Vec::new();
        let mut is_sought = false;
        let (state, now) = (self.tunnels.lock(), MonotonicTime::now());
        for entry in state.entries.values() {
            let Some(due) = &entry.due else { continue };
            // What is not found at full rate is found by the usual scans, or not at all.
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

    /// Performs a task in a process.
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
        // Streams that are located already are terminated first: a scan can take long.
        let terminated = self.terminate(process).await;
        let done = match task {
            Task::Terminate => terminated.map(|()| Outcome::Terminated),
            Task::Seek => match self.seek_in(process).await {
                Ok(id) => terminated.map(|()| Outcome::Sought(Sight { asked, id: Some(id) })),
                Err(error) => Err(error),
            },
        };
        match done {
            // It is starting or ending, and has no streams.
            Err(AskError::Malformed(Malformed::NoProcess)) => {
                Ok(Outcome::Sought(Sight { asked, id: None }))
            }
            done => done,
        }
    }

    /// Whether the last scan was so long ago that HAProxy may have been stopped, its clock with it.
    pub(super) fn is_late(&self, asked: MonotonicTime) -> bool {
        let state = self.tunnels.lock();
        let round = state.rounds.get(self.number.index()).and_then(Option::as_ref);
        round.is_none_or(|round| asked.since(round.started) > schedule::EVERY + ROUNDING)
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
        self.terminate_connections(process, &list).await?;
        self.terminate(process).await?;
        Ok(list.process)
    }

    /// Compares the table with the streams of a process. Returns the streams whose details are
    /// needed, and the tunnels that have ended.
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
                // Some tunnels have no client address: for them, all streams of the frontend are
                // candidates.
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
                // Another process owns the socket now. The old process may still run, with its
                // streams.
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
                    // The stream may have ended, and its address may belong to a tunnel that is
                    // searched for.
                    if is_contested { &mut wanted } else { &mut taken }.insert(found.pointer);
                }
                // The stream is younger than the tunnel, so it is another one: the tunnel is
                // searched for again.
                Some(_) => entry.found = None,
            }
        }
        for entry in state.entries.values().filter(|entry| entry.found.is_none()) {
            let place = &entry.tunnel.place;
            if place.process.is_some_and(|id| id != list.process) {
                continue;
            }
            let near = places.get(&(&*place.frontend, place.source)).into_iter().flatten();
            // The number identifies a stream at any age. Without one, a younger stream is another
            // one.
            let near = near.filter(|stream| {
                place.stream.is_some() || is_old_enough(stream, entry.tunnel.opened, asked)
            });
            wanted.extend(near.map(|stream| stream.pointer).filter(|p| !taken.contains(p)));
        }
        (wanted, gone)
    }

    /// Finds which stream each tunnel is, by the details of the streams.
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
        // Without stream numbers, the only stream of a connection belongs to its last request. So
        // the newest tunnel is matched first.
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
                // Without stream numbers, any stream of the connection may be this tunnel.
                (None, _) if place.stream.is_none() && near.clone().next().is_some() => {
                    entry.doubt = Some(now);
                }
                (None, _) => {}
            }
        }
    }

    /// Unlinks tunnels from streams that are other ones by now, or may be.
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

    /// Removes the tunnels of processes that a master does not list any more.
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

    /// Terminates the streams in this process that are located and must end.
    async fn terminate(&self, process: &Process) -> Result<(), AskError> {
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
                    // If the reply of HAProxy is lost, the record of the tunnel's end still has its
                    // cause.
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
            let (terminated, gone): (Vec<_>, Vec<_>) = done.partition(|(_, was_there)| *was_there);
            self.tunnels.was_terminated(terminated.into_iter().map(|(id, _)| id));
            self.tunnels.ended(&gone.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Streams of watched frontends that are not in the table and were not examined before. What
    /// this agent allowed is in the table before it can become a tunnel.
    fn strangers(&self, list: &List) -> Vec<Pointer> {
        let state = self.tunnels.lock();
        let known: HashSet<_> = {
            let found = state.entries.values().filter_map(|entry| entry.found.as_ref());
            found.filter(|f| f.process_id == list.process).map(|found| found.pointer).collect()
        };
        let recent = self.tunnels.recent.lock();
        let asks = |frontend: &[u8]| recent.asks(frontend);
        let strange = list.streams.iter().filter(|stream| {
            // A TCP stream is a tunnel for HAProxy even before the agent decides about it.
            stream.age.0 >= ASKED_WITHIN
                && (state.frontends.contains(&stream.frontend) || asks(&stream.frontend))
                && !known.contains(&stream.pointer)
        });
        let strange: HashSet<_> = strange.map(|stream| (list.process, stream.pointer)).collect();
        let mut known = self.strangers.lock();
        known.retain(|stranger| stranger.0 != list.process || strange.contains(stranger));
        let new = strange.into_iter().filter(|stranger| known.insert(*stranger));
        new.map(|(_, pointer)| pointer).collect()
    }

    /// Reports tunnels that this agent did not allow, and terminates them if configured.
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
        let terminate = self.tunnels.settings.terminate_unknown;
        warn!(%process, count, terminate, "HAProxy has tunnels that this agent did not allow: with terminate_unknown they are terminated, otherwise they continue");
        self.tunnels.lock().unknown += count;
        if terminate {
            let pointers: Vec<_> = unknown.iter().map(|detail| detail.pointer).collect();
            process.shut(&pointers).await?;
            for detail in unknown {
                self.tunnels.record_stranger(detail, process_id, Cause::Unknown);
            }
        }
        Ok(())
    }
}

/// The frontends and client addresses of tunnels that were not located yet.
fn contested(state: &State) -> HashSet<(Box<[u8]>, Option<SocketAddr>)> {
    let sought = state.entries.values().filter(|entry| entry.found.is_none());
    sought.map(|entry| (entry.tunnel.place.frontend.clone(), entry.tunnel.place.source)).collect()
}

/// Whether a stream may be as old as the tunnel, by the age that HAProxy lists. HAProxy's clock
/// stops while its process is stopped, so the age alone never shows that a numbered tunnel has
/// ended.
fn is_old_enough(stream: &Listed, opened: MonotonicTime, asked: MonotonicTime) -> bool {
    stream.age.1.saturating_add(ROUNDING) >= asked.since(opened)
}

#[cfg(test)]
mod tests;
