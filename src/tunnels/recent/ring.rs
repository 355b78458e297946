//! The memory of recent requests: chunks of records, used as a ring.
//!
//! Its size is fixed when it is made, so that a flood of requests takes no more of it. What the ring
//! forgets before it was scanned for is noted as a span of time ([`ForgottenSpan`]).

use std::collections::VecDeque;

use super::{
    CHUNK_RECORDS, CHUNK_TEXT, LONG_REQUEST_AGE, MAX_FRONTENDS, RecentRequest, RequestRecord,
};
use crate::{time::MonotonicTime, tunnels::CannotTrack};

/// The chunks of records, oldest first.
pub(in crate::tunnels) struct RecordRing {
    /// The last chunk is the one that is being filled.
    pub(super) chunks: VecDeque<Chunk>,
    /// The number of the first chunk. Numbers only grow, so that a reader can go on after a change.
    first: u64,
    /// Empty chunks. The one that was used last is used next, so that memory that was never needed
    /// stays untouched.
    pub(super) free: Vec<Chunk>,
    /// Records that are older than this do not matter any more.
    since: MonotonicTime,
    frontends: Vec<Box<[u8]>>,
    lost: Option<ForgottenSpan>,
}

/// Some records, and the text of their hosts, methods and paths, one after the other.
pub(super) struct Chunk {
    pub(super) records: Vec<RequestRecord>,
    pub(super) text: Vec<u8>,
}

/// The time in which requests were allowed that were forgotten before they were scanned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tunnels) struct ForgottenSpan {
    pub(in crate::tunnels) from: MonotonicTime,
    pub(in crate::tunnels) to: MonotonicTime,
}

/// The number of a chunk and the index of a record in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tunnels) struct RecordNumber(u64, usize);

impl RecordRing {
    /// An empty ring of this many chunks, two at least. The system provides their pages when they are
    /// first used.
    pub(super) fn new(chunks: usize) -> Self {
        let chunk = || Chunk {
            records: Vec::with_capacity(CHUNK_RECORDS),
            text: Vec::with_capacity(CHUNK_TEXT),
        };
        let mut all: VecDeque<_> = (0..chunks.max(2)).map(|_| chunk()).collect();
        // Reserved here, so that no request ever has to allocate.
        let mut used = VecDeque::with_capacity(all.len());
        used.extend(all.pop_front());
        Self {
            chunks: used,
            first: 0,
            free: all.into(),
            since: MonotonicTime::default(),
            frontends: Vec::with_capacity(MAX_FRONTENDS),
            lost: None,
        }
    }

    /// Adds a record and its text. Allocates nothing but the name of a new frontend.
    ///
    /// # Errors
    /// There are too many frontends.
    pub(super) fn push(
        &mut self,
        record: RequestRecord,
        frontend: &[u8],
        parts: [&[u8]; 3],
    ) -> Result<(), CannotTrack> {
        let known = self.frontends.iter().position(|known| **known == *frontend);
        let frontend = match known {
            Some(known) => known,
            None if self.frontends.len() < MAX_FRONTENDS => {
                self.frontends.push(frontend.into());
                self.frontends.len() - 1
            }
            None => return Err(CannotTrack),
        };
        // Neither vector of a chunk may grow: the memory has a fixed size.
        let fits = |chunk: &Chunk| {
            chunk.records.len() < CHUNK_RECORDS && chunk.text.len() + record.bytes() <= CHUNK_TEXT
        };
        if !self.chunks.back().is_some_and(fits) {
            self.begin();
        }
        let chunk = self.chunks.back_mut().ok_or(CannotTrack)?;
        let text = chunk.text.len();
        for part in parts {
            chunk.text.extend_from_slice(part);
        }
        chunk.records.push(RequestRecord { frontend, text, ..record });
        Ok(())
    }

    /// Begins another chunk: a free one, or else the oldest.
    fn begin(&mut self) {
        let Some(chunk) = self.free.pop().or_else(|| {
            let mut oldest = self.chunks.pop_front()?;
            self.first += 1;
            self.lose(&oldest);
            oldest.clear();
            Some(oldest)
        }) else {
            return;
        };
        self.chunks.push_back(chunk);
    }

    /// Notes the time of records that are forgotten before they were scanned for.
    fn lose(&mut self, chunk: &Chunk) {
        // A request in the table is not lost with its record.
        let mut opened = chunk.records.iter().filter(|record| !record.is_taken);
        let Some(first) = opened.next().map(|record| record.opened) else { return };
        let last = opened.next_back().map_or(first, |record| record.opened);
        // All of them were scanned for, so nothing is lost.
        if last < self.since {
            return;
        }
        let from = self.lost.map_or(first, |lost| lost.from.min(first));
        self.lost = Some(ForgottenSpan { from, to: last });
    }

    /// Forgets the oldest chunk if it is old enough. Returns whether the next one may be, too.
    pub(super) fn tidy(&mut self, before: MonotonicTime) -> bool {
        self.since = self.since.max(before);
        let is_over =
            |chunk: &Chunk| chunk.records.last().is_some_and(|record| record.opened < before);
        if !self.chunks.front().is_some_and(is_over) {
            return false;
        }
        // The last chunk is being filled, so it stays, and only its records go.
        if let [only] = self.chunks.make_contiguous() {
            only.clear();
            return false;
        }
        if let Some(mut chunk) = self.chunks.pop_front() {
            self.first += 1;
            chunk.clear();
            self.free.push(chunk);
        }
        true
    }

    /// Notes that all streams that were long at this time were scanned.
    pub(super) fn found_lost(&mut self, until: MonotonicTime) {
        self.lost = self.lost.filter(|lost| lost.to.plus(LONG_REQUEST_AGE * 2) >= until);
    }

    /// Whether no record matters.
    pub(in crate::tunnels) fn is_empty(&self) -> bool {
        let last = self.chunks.back().and_then(|chunk| chunk.records.last());
        self.chunks.len() <= 1 && last.is_none_or(|record| record.opened < self.since)
    }

    /// Whether a free chunk is left.
    pub(in crate::tunnels) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether authorization requests came from this frontend.
    pub(in crate::tunnels) fn asks(&self, frontend: &[u8]) -> bool {
        self.frontends.iter().any(|known| **known == *frontend)
    }

    /// The time of requests that were forgotten too early.
    pub(in crate::tunnels) fn lost(&self) -> Option<ForgottenSpan> {
        self.lost
    }

    /// Calls `each` for the records of a chunk. Returns the number of the next chunk, `None` after
    /// the last.
    pub(in crate::tunnels) fn some(
        &self,
        from: u64,
        mut each: impl FnMut(&RecentRequest<'_>),
    ) -> Option<u64> {
        let from = from.max(self.first);
        let chunk = self.chunks.get(usize::try_from(from - self.first).ok()?)?;
        for (index, record) in chunk.records.iter().enumerate() {
            if record.opened < self.since {
                continue;
            }
            let frontend = self.frontends.get(record.frontend).map_or(&[][..], |name| name);
            let end = record.text.saturating_add(record.bytes());
            let text = chunk.text.get(record.text..end).unwrap_or_default();
            each(&RecentRequest { number: RecordNumber(from, index), record, frontend, text });
        }
        Some(from + 1)
    }

    /// Notes that a record is in the table of tunnels.
    pub(in crate::tunnels) fn take(&mut self, RecordNumber(chunk, index): RecordNumber) {
        // The chunk may have been forgotten since the record was read.
        let chunk = chunk.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let chunk = chunk.and_then(|at| self.chunks.get_mut(at));
        if let Some(record) = chunk.and_then(|chunk| chunk.records.get_mut(index)) {
            record.is_taken = true;
        }
    }
}

impl Chunk {
    fn clear(&mut self) {
        self.records.clear();
        self.text.clear();
    }
}
