//! A journal of opened tunnels, so that an agent that is killed loses none.
//!
//! [`super::store`] writes all tunnels as a whole, twice a second at most. Between two of these,
//! each opening is appended here as one line, before HAProxy gets the response. A line that was
//! written outlives the process. Only a crash of the whole machine can lose one, and that ends
//! HAProxy and its streams too.
//!
//! There are two files, used in turns: while the whole is being written, lines go to the other
//! file. A tunnel can be in both files and in the whole; the reader takes it once.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use tracing::error;

use crate::lock::Mutex;

/// The endings of the two files, appended to the path of the file of tunnels.
const ENDINGS: [&str; 2] = [".opened-0", ".opened-1"];

/// A journal of opened tunnels.
pub struct Journal {
    paths: [PathBuf; 2],
    state: Mutex<JournalState>,
}

#[derive(Default)]
struct JournalState {
    /// The index of the file that is written.
    current: usize,
    file: Option<File>,
    /// Whether the last write failed, which was logged.
    failed: bool,
}

/// The right to delete the lines that were written before a whole file was begun.
#[must_use = "the lines from before stay until they are dropped"]
pub struct Turn<'j> {
    journal: &'j Journal,
    before: usize,
}

impl Journal {
    /// The journal of the file of tunnels at `path`. No file is opened before the first line.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        Self { paths: ENDINGS.map(|ending| with(path, ending)), state: Mutex::default() }
    }

    /// The complete lines of both files. A line without its end is left out.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        for path in &self.paths {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // HAProxy never got a response for a line that is not complete.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let whole = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
            lines.extend(whole.filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        }
        Ok(lines)
    }

    /// Appends a line, which must have no line break in it. A failure is logged once, and is not
    /// fatal: the running agent has the tunnel in its table.
    pub fn append(&self, line: &[u8]) {
        // A panic can leave no file open, or an incomplete line. Both are handled below.
        let mut state = self.state.lock();
        let JournalState { current, file, failed } = &mut *state;
        let path = self.paths.get(*current);
        // The failed write may have left an incomplete line: end it, so that it spoils no other.
        let start: &[u8] = if *failed { b"\n" } else { b"" };
        let line = [start, line, b"\n"].concat();
        let written = match (&mut *file, path) {
            (Some(file), _) => file.write_all(&line),
            (None, None) => Ok(()),
            (none, Some(path)) => {
                open(path).and_then(|opened| none.insert(opened).write_all(&line))
            }
        };
        match (written, *failed) {
            (Ok(()), _) => *failed = false,
            (Err(error), false) => {
                *failed = true;
                error!(
                    %error,
                    path = %path.unwrap_or(&PathBuf::new()).display(),
                    "writing the journal of tunnels failed: an agent that starts after a crash would not know the newest tunnels"
                );
            }
            (Err(_), true) => {}
        }
    }

    /// Directs further lines to the other file.
    pub fn turn(&self) -> Turn<'_> {
        let mut state = self.state.lock();
        let before = state.current;
        state.current = 1 - before;
        state.file = None;
        Turn { journal: self, before }
    }
}

impl Turn<'_> {
    /// Deletes the lines from before: the whole file has them.
    pub fn done(self) {
        if let Some(path) = self.journal.paths.get(self.before) {
            // If it fails, the lines stay. Their tunnels are in the table anyway, or have ended,
            // which the next scan shows.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The mode is 0600 because the lines have names and groups of people.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::of_file(&directory.path().join("tunnels.json"));
        (directory, journal)
    }

    #[test]
    fn a_line_is_in_the_file_as_soon_as_it_is_appended() {
        let (directory, journal) = journal();
        assert!(journal.read().unwrap().is_empty());
        journal.append(b"one");
        journal.append(b"two");
        let after_a_kill = Journal::of_file(&directory.path().join("tunnels.json"));
        assert_eq!(after_a_kill.read().unwrap(), [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn lines_from_before_a_whole_file_go_and_those_during_it_stay() {
        let (_directory, journal) = journal();
        journal.append(b"before");
        let turn = journal.turn();
        journal.append(b"during");
        assert_eq!(journal.read().unwrap(), [b"before".to_vec(), b"during".to_vec()]);
        turn.done();
        journal.append(b"after");
        assert_eq!(journal.read().unwrap(), [b"during".to_vec(), b"after".to_vec()]);
    }

    #[test]
    fn a_whole_file_that_fails_loses_no_line() {
        let (_directory, journal) = journal();
        journal.append(b"one");
        drop(journal.turn());
        journal.append(b"two");
        drop(journal.turn());
        journal.append(b"three");
        let mut lines = journal.read().unwrap();
        lines.sort();
        assert_eq!(lines, [b"one".to_vec(), b"three".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn half_a_line_at_the_end_is_ignored() {
        let (directory, journal) = journal();
        journal.append(b"one");
        let path = directory.path().join("tunnels.json.opened-0");
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"id\":").unwrap();
        assert_eq!(journal.read().unwrap(), [b"one".to_vec()]);
    }
}
