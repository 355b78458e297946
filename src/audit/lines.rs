//! Reads the lines of audit files one by one, for verification and search.
//!
//! No more of a line than [`MAX_READ`] is held in memory, so that a file that is not an audit log does no harm.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use super::chain::MAX_LINE;

/// The most bytes of a line that are read at once, and the size from which bytes without records are no longer compared.
pub(super) const MAX_READ: usize = 1 << 20;

/// The lines of a file.
pub(super) struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
}

/// A line as it is in the file, without its end.
pub(super) struct RawLine<'l> {
    pub(super) bytes: &'l [u8],
    /// Whether the line has its end and is no longer than a record may be.
    pub(super) whole: bool,
    /// How many bytes of the file the line takes.
    pub(super) length: u64,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened; the message names it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
        })?;
        Ok(Self { reader: BufReader::with_capacity(1 << 18, file), line: Vec::new() })
    }

    /// The next line, or `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        self.line.clear();
        let most = u64::try_from(MAX_READ).unwrap_or(u64::MAX);
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        let ends = self.line.pop_if(|last| *last == b'\n').is_some();
        let whole = ends && self.line.len() < MAX_LINE;
        let length = u64::try_from(read).unwrap_or(u64::MAX);
        Ok(Some(RawLine { bytes: &self.line, whole, length }))
    }
}
