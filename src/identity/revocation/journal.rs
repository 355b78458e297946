//! The journal of revocations: a file with one change a line.
//!
//! A change is appended and synced to disk before it is confirmed. A line that was not finished is ignored at the next
//! start, since nothing confirmed it; any other line that cannot be read stops the start, since what it revoked would be
//! accepted again.

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

/// The longest line, in bytes: more than any revocation takes.
const MAX_LINE: u64 = 64 * 1024;

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalEntry {
    Revoke(Revocation),
    Lift(Revocation),
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Where the last complete line ends.
    whole: u64,
}

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("the file of revocations {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// A line cannot be read.
    #[error(
        "the file of revocations {path}, line {line}: {error}; repair the line: without it, what it revoked would be accepted again"
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
    /// Opens the file, or creates it, and gives each change in it to `each`. It does not change the file, to which a running
    /// agent may be writing.
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
                // The agent ended while it wrote the line, so the change was never confirmed.
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

    /// Locks the file for this process, and cuts off a line that was not finished.
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

    /// Adds a change. It is on disk when this returns without an error.
    pub(super) fn append(&mut self, change: &JournalEntry) -> Result<(), JournalError> {
        match self.write(change) {
            Ok(length) => {
                self.whole += length;
                Ok(())
            }
            Err(error) => {
                // The next change must not be appended to half a line.
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
