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

use super::{TerminationCause, Tunnels, table::TableState};
use crate::{
    authz::decision::DecisionId,
    gate::live::Live,
    haproxy::{
        AskError, BATCH, Process, Socket, SocketId,
        runtime::{Detail, List, Listed, Malformed, Pointer},
    },
    lock::Mutex,
    time::MonotonicTime,
    tunnels::table::LocatedStream,
};

mod schedule;

pub use schedule::TunnelTerminator;
use schedule::{ProcessScan, ProcessTask, TaskOutcome};

/// How wrong an age may be that HAProxy lists: it rounds down to seconds, by a clock of its own.
pub(super) const AGE_ROUNDING: Duration = Duration::from_secs(2);
/// HAProxy sends the authorization request of a stream that becomes a tunnel before this age.
const MAX_UNDECIDED_AGE: Duration = Duration::from_secs(4);
/// How long a tunnel that must be terminated is searched for at full rate.
const FAST_SEARCH_WINDOW: Duration = Duration::from_secs(3);
/// How long after HAProxy was told to end a stream it is told again, if the stream is still there.
const TERMINATE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What all work at one socket shares.
pub(super) struct SocketWorker {
    socket: Socket,
    /// The number of the socket.
    pub(super) number: SocketId,
    pub(super) tunnels: Arc<Tunnels>,
    /// The gate that decides about plain requests that last; without one, they are not followed.
    pub(super) live: Option<Arc<Live>>,
    /// Streams that passed by a reused allow and must end, with the time when that was found.
    pub(super) first_seen: Mutex<HashMap<(u32, Pointer), MonotonicTime>>,
    /// Streams that this agent did not allow, and that were examined already.
    examined: Mutex<HashSet<(u32, Pointer)>>,
}

/// Streams by frontend and client address.
type Places<'l> = HashMap<(&'l [u8], Option<SocketAddr>), Vec<&'l Listed>>;

impl SocketWorker {
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
            first_seen: Mutex::default(),
            examined: Mutex::default(),
        }
    }

    fn set_error(&self, error: Option<String>) {
        if let Some(slot) = self.tunnels.lock().errors.get_mut(self.number.index()) {
            *slot = error;
        }
    }

    /// Whether any tunnel must be terminated.
    fn has_due(&self) -> bool {
        let state = self.tunnels.lock();
        state.entries.values().any(|entry| entry.due.is_some())
    }

    /// The processes that have a tunnel to terminate, and whether a scan is needed to find another
    /// one.
    fn pending(&self) -> (Vec<Process>, bool) {
        let mut processes: Vec<Process> = Vec::new();
        let mut needs_scan = false;
        let (state, now) = (self.tunnels.lock(), MonotonicTime::now());
        for entry in state.entries.values() {
            let Some(due) = &entry.due else { continue };
            // What is not found at full rate is found by the usual scans, or not at all.
            let is_new = now.since(due.since) < FAST_SEARCH_WINDOW;
            match &entry.located {
                Some(found) if found.socket == self.number => {
                    if !processes.contains(&found.process) {
                        processes.push(found.process.clone());
                    }
                    needs_scan |= entry.terminated_at.is_some() && is_new;
                }
                Some(_) => {}
                None => needs_scan |= is_new,
            }
        }
        (processes, needs_scan)
    }

    /// Performs a task in a process.
    async fn work(
        &self,
        process: &Process,
        task: ProcessTask,
        was_late: bool,
    ) -> Result<TaskOutcome, AskError> {
        if was_late {
            process.goes_on().await?;
        }
        let asked = MonotonicTime::now();
        // Streams that are located already are terminated first: a scan can take long.
        let terminated = self.terminate(process).await;
        let done = match task {
            ProcessTask::Terminate => terminated.map(|()| TaskOutcome::Terminated),
            ProcessTask::Scan => match self.scan_process(process).await {
                Ok(id) => {
                    terminated.map(|()| TaskOutcome::Scanned(ProcessScan { asked, id: Some(id) }))
                }
                Err(error) => Err(error),
            },
        };
        match done {
            // It is starting or ending, and has no streams.
            Err(AskError::Malformed(Malformed::NoProcess)) => {
                Ok(TaskOutcome::Scanned(ProcessScan { asked, id: None }))
            }
            done => done,
        }
    }

    /// Whether the last scan was so long ago that HAProxy may have been stopped, its clock with it.
    pub(super) fn is_late(&self, asked: MonotonicTime) -> bool {
        let state = self.tunnels.lock();
        let round = state.scans.get(self.number.index()).and_then(Option::as_ref);
        round
            .is_none_or(|round| asked.since(round.started) > schedule::SCAN_INTERVAL + AGE_ROUNDING)
    }

    async fn scan_process(&self, process: &Process) -> Result<u32, AskError> {
        let asked = MonotonicTime::now();
        let list = process.list().await?;
        let (mut wanted, gone) = self.compare(process, &list, asked);
        self.tunnels.ended(&gone);
        let strangers = self.unknown_streams(&list);
        let plain = self.unknown_requests(&list, &strangers, asked);
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
            self.handle_unknown(process, list.process, &strangers, &details).await?;
            self.handle_unknown_requests(process, list.process, &plain, &details).await?;
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
            let Some(found) = entry.located.as_ref().filter(|f| f.socket == self.number) else {
                continue;
            };
            if found.process != *process {
                continue;
            }
            if found.process_id != list.process {
                // Another process owns the socket now. The old process may still run, with its
                // streams.
                entry.located = None;
                continue;
            }
            let location = &entry.tunnel.location;
            let there = by_pointer.get(&found.pointer).filter(|stream| {
                *stream.frontend == *location.frontend
                    && (location.source.is_none() || stream.source == location.source)
            });
            match there {
                None => gone.push(*id),
                Some(stream) if is_old_enough(stream, entry.tunnel.opened, asked) => {
                    let is_contested = contested
                        .contains(&(location.frontend.clone(), location.source))
                        || contested.contains(&(location.frontend.clone(), None));
                    // The stream may have ended, and its address may belong to a tunnel that is
                    // searched for.
                    if is_contested { &mut wanted } else { &mut taken }.insert(found.pointer);
                }
                // The stream is younger than the tunnel, so it is another one: the tunnel is
                // searched for again.
                Some(_) => entry.located = None,
            }
        }
        for entry in state.entries.values().filter(|entry| entry.located.is_none()) {
            let location = &entry.tunnel.location;
            if location.process.is_some_and(|id| id != list.process) {
                continue;
            }
            let near = places.get(&(&*location.frontend, location.source)).into_iter().flatten();
            // The number identifies a stream at any age. Without one, a younger stream is another
            // one.
            let near = near.filter(|stream| {
                location.stream.is_some() || is_old_enough(stream, entry.tunnel.opened, asked)
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
        self.unlink_changed(&mut state, process, details);
        let mut taken = self.located_pointers(&state, process);
        let mut sought: Vec<_> =
            state.entries.values_mut().filter(|entry| entry.located.is_none()).collect();
        // Without stream numbers, the only stream of a connection belongs to its last request. So
        // the newest tunnel is matched first.
        sought.sort_by_key(|entry| std::cmp::Reverse(entry.tunnel.opened));
        for entry in sought {
            let location = &entry.tunnel.location;
            let Some(of) = places.get(&*location.frontend) else { continue };
            let near = of.get(&location.source).into_iter().flatten();
            let near = near.filter(|detail| !taken.contains(&detail.pointer));
            let mut fits = near.clone().filter(|detail| location.is(detail, process_id));
            match (fits.next(), fits.next()) {
                (Some(detail), None) => {
                    taken.insert(detail.pointer);
                    entry.ambiguous_since = None;
                    entry.located = Some(LocatedStream {
                        socket: self.number,
                        process: process.clone(),
                        process_id,
                        pointer: detail.pointer,
                    });
                }
                (Some(_), Some(_)) => entry.ambiguous_since = Some(now),
                // Without stream numbers, any stream of the connection may be this tunnel.
                (None, _) if location.stream.is_none() && near.clone().next().is_some() => {
                    entry.ambiguous_since = Some(now);
                }
                (None, _) => {}
            }
        }
    }

    /// Unlinks tunnels from streams that are other ones by now, or may be.
    fn unlink_changed(&self, state: &mut TableState, process: &Process, details: &[Detail]) {
        let by_pointer: HashMap<_, _> = details.iter().map(|d| (d.pointer, d)).collect();
        let contested = contested(state);
        for entry in state.entries.values_mut() {
            let location = &entry.tunnel.location;
            let Some(found) = &entry.located else { continue };
            if found.socket != self.number || found.process != *process {
                continue;
            }
            let Some(detail) = by_pointer.get(&found.pointer) else { continue };
            let may_be_another = location.stream.is_none()
                && contested.contains(&(location.frontend.clone(), location.source));
            if may_be_another || !location.is(detail, found.process_id) {
                entry.located = None;
            }
        }
    }

    pub(super) fn located_pointers(
        &self,
        state: &TableState,
        process: &Process,
    ) -> HashSet<Pointer> {
        let found = state.entries.values().filter_map(|entry| entry.located.as_ref());
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
            let is_gone = |found: &LocatedStream| {
                found.socket == self.number && !processes.contains(&found.process)
            };
            let all = state.entries.iter();
            all.filter(|(_, e)| e.located.as_ref().is_some_and(is_gone))
                .map(|(id, _)| *id)
                .collect()
        };
        self.tunnels.ended(&gone);
    }

    /// Terminates the streams in this process that are located and must end.
    async fn terminate(&self, process: &Process) -> Result<(), AskError> {
        let now = MonotonicTime::now();
        let mut due: Vec<(MonotonicTime, Pointer, DecisionId)> = {
            let state = self.tunnels.lock();
            let all = state.entries.iter().filter(|(_, entry)| {
                entry.due.is_some()
                    && entry
                        .terminated_at
                        .is_none_or(|at| now.since(at) >= TERMINATE_RETRY_INTERVAL)
            });
            let here = all.filter_map(|(id, entry)| {
                let found = entry.located.as_ref()?;
                let is_here = found.socket == self.number && found.process == *process;
                is_here.then_some((entry.due?.since, found.pointer, *id))
            });
            here.collect()
        };
        // Those that wait longest come first.
        due.sort_unstable_by_key(|(since, pointer, _)| (*since, *pointer));
        let due: Vec<_> = due.into_iter().map(|(_, pointer, id)| (pointer, id)).collect();
        // Batch by batch: the first tunnels end before the details of the last ones are read.
        for batch in due.chunks(BATCH) {
            self.terminate_batch(process, batch).await?;
        }
        Ok(())
    }

    /// Terminates tunnels after their streams were looked at once more.
    async fn terminate_batch(
        &self,
        process: &Process,
        due: &[(Pointer, DecisionId)],
    ) -> Result<(), AskError> {
        let pointers: Vec<_> = due.iter().map(|(pointer, _)| *pointer).collect();
        let details = process.details(&pointers).await?;
        let details: HashMap<_, _> = details.iter().map(|d| (d.pointer, d)).collect();
        let (mut sure, mut gone) = (Vec::new(), Vec::new());
        {
            let mut state = self.tunnels.lock();
            for (pointer, id) in due {
                let Some(entry) = state.entries.get_mut(id) else { continue };
                let Some(found) = &entry.located else { continue };
                let location = &entry.tunnel.location;
                if details.get(pointer).is_some_and(|d| location.is(d, found.process_id)) {
                    // If the reply of HAProxy is lost, the record of the tunnel's end still has its
                    // cause.
                    entry.attempted = true;
                    sure.push((*pointer, *id));
                } else {
                    gone.push(*id);
                }
            }
        }
        self.tunnels.ended(&gone);
        let pointers: Vec<_> = sure.iter().map(|(pointer, _)| *pointer).collect();
        let shut = process.shut(&pointers).await?;
        let done = sure.iter().zip(shut).map(|((_, id), was_there)| (*id, was_there));
        let (terminated, gone): (Vec<_>, Vec<_>) = done.partition(|(_, was_there)| *was_there);
        self.tunnels.note_terminated(terminated.into_iter().map(|(id, _)| id));
        self.tunnels.ended(&gone.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        Ok(())
    }

    /// Streams of watched frontends that are not in the table and were not examined before. What
    /// this agent allowed is in the table before it can become a tunnel.
    fn unknown_streams(&self, list: &List) -> Vec<Pointer> {
        let state = self.tunnels.lock();
        let known: HashSet<_> = {
            let found = state.entries.values().filter_map(|entry| entry.located.as_ref());
            found.filter(|f| f.process_id == list.process).map(|found| found.pointer).collect()
        };
        let recent = self.tunnels.recent.lock();
        let asks = |frontend: &[u8]| recent.asks(frontend);
        let strange = list.streams.iter().filter(|stream| {
            // A TCP stream is a tunnel for HAProxy even before the agent decides about it.
            stream.age.0 >= MAX_UNDECIDED_AGE
                && (state.frontends.contains(&stream.frontend) || asks(&stream.frontend))
                && !known.contains(&stream.pointer)
        });
        let strange: HashSet<_> = strange.map(|stream| (list.process, stream.pointer)).collect();
        let mut known = self.examined.lock();
        known.retain(|stranger| stranger.0 != list.process || strange.contains(stranger));
        let new = strange.into_iter().filter(|stranger| known.insert(*stranger));
        new.map(|(_, pointer)| pointer).collect()
    }

    /// Reports tunnels that this agent did not allow, and terminates them if configured.
    async fn handle_unknown(
        &self,
        process: &Process,
        process_id: u32,
        strangers: &[Pointer],
        details: &[Detail],
    ) -> Result<(), AskError> {
        let unknown: Vec<_> = {
            let state = self.tunnels.lock();
            let taken = self.located_pointers(&state, process);
            let sought = state.entries.values().filter(|entry| entry.located.is_none());
            let sought: HashSet<_> = sought.map(|entry| entry.tunnel.location.source).collect();
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
                self.tunnels.record_unknown(detail, process_id, TerminationCause::Unknown);
            }
        }
        Ok(())
    }
}

/// The frontends and client addresses of tunnels that were not located yet.
fn contested(state: &TableState) -> HashSet<(Box<[u8]>, Option<SocketAddr>)> {
    let sought = state.entries.values().filter(|entry| entry.located.is_none());
    sought
        .map(|entry| (entry.tunnel.location.frontend.clone(), entry.tunnel.location.source))
        .collect()
}

/// Whether a stream may be as old as the tunnel, by the age that HAProxy lists. HAProxy's clock
/// stops while its process is stopped, so the age alone never shows that a numbered tunnel has
/// ended.
fn is_old_enough(stream: &Listed, opened: MonotonicTime, asked: MonotonicTime) -> bool {
    stream.age.1.saturating_add(AGE_ROUNDING) >= asked.since(opened)
}

#[cfg(test)]
mod tests;
