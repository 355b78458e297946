//! The file of revocations: one change a line, added at the end and synced before it counts.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use super::Revocation;

/// Longer than any line of ours, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// A change of what is revoked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalEntry {
    Revoke(Revocation),
    Lift(Revocation),
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Where the last whole line ends.
    whole: u64,
}

/// Why the file is of no use.
#[derive(Debug, Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("the file of revocations {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// A line in it is not one of ours.
    #[error(
        "the file of revocations {path}, line {line}: {error}; mend or remove the line: what it revoked would count again"
    )]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

impl Journal {
    /// Opens or makes the file, and gives each change in it to `each`. Changes nothing in it: a running
    /// agent may be writing to it.
    pub(super) fn open(
        path: PathBuf,
        mut each: impl FnMut(JournalEntry),
    ) -> Result<Self, JournalError> {
        let name = path.display().to_string();
        let failed = |error| JournalError::Io { path: name.clone(), error };
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(failed)?;
        let mut reader = BufReader::new(&mut file);
        let (mut line, mut number, mut whole) = (String::new(), 0, 0);
        while reader.by_ref().take(MAX_LINE).read_line(&mut line).map_err(failed)? > 0 {
            number += 1;
            if !line.ends_with('\n') && (line.len() as u64) < MAX_LINE {
                // The agent ended while it wrote: whoever asked was not told that it was done.
                warn!(
                    path = name,
                    line = number,
                    "the last line of the journal of revocations is incomplete: it is ignored"
                );
                break;
            }
            match serde_json::from_str(&line) {
                Ok(change) => each(change),
                Err(error) => return Err(JournalError::Line { path: name, line: number, error }),
            }
            whole += line.len() as u64;
            line.clear();
        }
        Ok(Self { file, path, whole })
    }

    /// Takes the file for this process, and cuts off what was not finished.
    pub(super) fn own(&mut self) -> Result<(), JournalError> {
        let owned = self.file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another agent writes to it"),
            TryLockError::Error(error) => error,
        });
        owned.and_then(|()| self.file.set_len(self.whole)).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> JournalError {
        JournalError::Io { path: self.path.display().to_string(), error }
    }

    /// Adds a change; it is on disk when this returns without an error.
    pub(super) fn append(&mut self, change: &JournalEntry) -> Result<(), JournalError> {
        match self.write(change) {
            Ok(length) => {
                self.whole += length;
                Ok(())
            }
            Err(error) => {
                // Half a line must not be in the way of the next one.
                let _ = self.file.set_len(self.whole);
                Err(self.failed(error))
            }
        }
    }

    fn write(&mut self, change: &JournalEntry) -> io::Result<u64> {
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        Ok(line.len() as u64)
    }
}
