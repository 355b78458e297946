//! Reads of single workspaces: which are due, how many run, and what a response leads to.
//!
//! A change that was reported must be read before [`ReconcileTiming::read_deadline`](super::ReconcileTiming),
//! or its workspace is closed until it can be read. A failed read is tried again with pauses only
//! while a change waits for it; otherwise the next list is soon enough.

use super::{Command, MAX_READS, Reconciler};
use crate::{
    time::MonotonicTime,
    workspaces::{
        Workspace, WorkspaceId, reconcile::requests::ReadStep, registry::ObserveOutcome,
        source::SourceError,
    },
};

impl Reconciler {
    /// Applies the response to a read: publishes what it says, or plans another read.
    pub(super) fn read(
        &mut self,
        id: WorkspaceId,
        started: MonotonicTime,
        result: Result<Option<Workspace>, SourceError>,
        out: &mut Vec<Command>,
    ) {
        self.reading = self.reading.saturating_sub(1);
        self.status.reads += 1;
        let ended = match result {
            Ok(Some(workspace)) if workspace.id == id => {
                self.look_up_owner(&workspace);
                let observed = self.publisher.observe(workspace, started, self.now);
                if observed == ObserveOutcome::Unordered
                    && let Some(pending) = self.reads.get_mut(&id)
                {
                    pending.again = true;
                }
                Ok(())
            }
            // Published under the requested id, it would give that id the owner of another
            // workspace.
            Ok(Some(other)) => {
                Err(SourceError::Protocol(format!("asked for '{id}', got '{}'", other.id)))
            }
            Ok(None) => {
                self.publisher.absent(&id, started, self.now);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match &ended {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed("a workspace", error),
        }
        let pause = ended.as_ref().err().map(|error| {
            let failures = self.reads.get(&id).map_or(0, |pending| pending.failures);
            // The owner of a closed workspace cannot work, so the read is repeated sooner than a
            // list, unless the platform asked for a pause.
            self.pause(failures, error)
                / if matches!(error, SourceError::RateLimited(_)) { 1 } else { 4 }
        });
        let Some(pending) = self.reads.get_mut(&id) else { return };
        pending.step = ReadStep::Due;
        if pending.wanted {
            pending.wanted = false;
            out.push(Command::Answered(id.clone()));
        }
        match pause {
            None if pending.again => {
                pending.again = false;
                pending.failures = 0;
                pending.changed = Some(self.now);
                pending.due = self.now;
                self.enqueue(id);
            }
            None => self.forget(&id, out),
            Some(pause) => {
                pending.again = false;
                pending.failures = pending.failures.saturating_add(1);
                pending.due = self.now.plus(pause);
                if pending.changed.is_none() {
                    // No change was reported, so the next list is soon enough.
                    self.forget(&id, out);
                }
            }
        }
    }

    /// Reads a workspace at once, because a request waits for it.
    pub(super) fn wanted(&mut self, id: WorkspaceId, out: &mut Vec<Command>) {
        if !self.capabilities.reads {
            out.push(Command::Answered(id));
            return;
        }
        let pending = self.reads.entry(id.clone()).or_default();
        pending.wanted = true;
        if pending.step != ReadStep::Running {
            pending.due = self.now;
            self.enqueue(id);
        }
    }

    /// Puts a workspace at the end of those that are read next, unless it is there or is being read.
    pub(super) fn enqueue(&mut self, id: WorkspaceId) {
        let pending = self.reads.entry(id.clone()).or_default();
        if pending.step == ReadStep::Due {
            pending.step = ReadStep::Queued;
            self.queue.push_back(id);
        }
    }

    /// Ends what is planned for a workspace. A request that waits for it is told so.
    pub(super) fn forget(&mut self, id: &WorkspaceId, out: &mut Vec<Command>) {
        if let Some(pending) = self.reads.remove(id)
            && pending.wanted
        {
            out.push(Command::Answered(id.clone()));
        }
    }

    /// Starts the reads that are due, as far as the limit of reads permits.
    pub(super) fn start_reads(&mut self, out: &mut Vec<Command>) {
        let due: Vec<WorkspaceId> = self
            .reads
            .iter()
            .filter(|(_, pending)| pending.step == ReadStep::Due && pending.due <= self.now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.enqueue(id);
        }
        while self.reading < MAX_READS
            && let Some(id) = self.queue.pop_front()
        {
            let Some(pending) = self.reads.get_mut(&id) else { continue };
            pending.step = ReadStep::Running;
            self.reading += 1;
            out.push(Command::Read(id));
        }
    }

    /// Closes every workspace whose change could not be read in time.
    pub(super) fn close_unread(&mut self) {
        let over = |at: MonotonicTime| self.now.since(at) >= self.timing.read_deadline;
        for (id, pending) in &mut self.reads {
            let late = pending.changed.is_some_and(over);
            if late && !pending.closed {
                self.publisher.doubt(id);
            }
            pending.closed = late;
        }
    }
}
