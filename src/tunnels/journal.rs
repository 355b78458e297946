//! The openings since the file of tunnels was last written, a line each, so that an agent that is killed loses none.
//!
//! [`super::keep`] writes all tunnels as a whole, twice a second at most. Between two of these, each opening is
//! appended here before HAProxy is answered. A line that was written outlives the process; only a crash of the
//! whole machine, which ends HAProxy and its streams too, can lose one. There are two files that take turns:
//! while a whole file is being written, openings go to the other, and what is in both is one tunnel.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::error;

/// The endings of the two files beside the file of tunnels.
const ENDINGS: [&str; 2] = [".opened-0", ".opened-1"];

/// Where openings are appended.
pub struct Journal {
    paths: [PathBuf; 2],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that is written.
    current: usize,
    file: Option<File>,
    /// Whether the last line could not be written, and the log says so.
    failed: bool,
}

/// A whole file is being written; what the journal had before it is in there.
#[must_use = "the lines from before stay until they are dropped"]
pub struct Turn<'j> {
    journal: &'j Journal,
    before: usize,
}

impl Journal {
    /// For a file of tunnels. Nothing is opened before the first line.
    #[must_use]
    pub fn beside(path: &Path) -> Self {
        Self { paths: ENDINGS.map(|ending| with(path, ending)), state: Mutex::default() }
    }

    /// All lines of both files, the last of which may be half a line.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        for path in &self.paths {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // What follows the last end of a line was never answered to HAProxy.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let whole = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
            lines.extend(whole.filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        }
        Ok(lines)
    }

    /// Appends a line, which has no end of a line in it. A failure is logged once: the running agent knows the
    /// tunnel all the same.
    pub fn append(&self, line: &[u8]) {
        // What is half done is a file that is opened again, or a line that is not whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { current, file, failed } = &mut *state;
        let path = self.paths.get(*current);
        // A line before may be half written: it ends here.
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

    /// From now on lines go to the other file.
    pub fn turn(&self) -> Turn<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.current;
        state.current = 1 - before;
        state.file = None;
        Turn { journal: self, before }
    }
}

impl Turn<'_> {
    /// The whole file is there: the lines from before go.
    pub fn done(self) {
        if let Some(path) = self.journal.paths.get(self.before) {
            // Lines that stay are of tunnels that are known anyway, or have ended, which is found out.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// People's names and groups are in it.
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
        let journal = Journal::beside(&directory.path().join("tunnels.json"));
        (directory, journal)
    }

    #[test]
    fn a_line_is_in_the_file_as_soon_as_it_is_appended() {
        let (directory, journal) = journal();
        assert!(journal.read().unwrap().is_empty());
        journal.append(b"one");
        journal.append(b"two");
        let after_a_kill = Journal::beside(&directory.path().join("tunnels.json"));
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
    fn half_a_line_at_the_end_is_passed_over() {
        let (directory, journal) = journal();
        journal.append(b"one");
        let path = directory.path().join("tunnels.json.opened-0");
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"id\":").unwrap();
        assert_eq!(journal.read().unwrap(), [b"one".to_vec()]);
    }
}
