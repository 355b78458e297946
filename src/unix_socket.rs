//! Unix sockets that the program listens on, with owner and mode.
//!
//! The file of a socket is removed when the listener ends, and a file left by a killed agent is replaced at the next start. A
//! socket that another process answers is never taken over.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// The user and group of a socket. `None` leaves what the process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user's id.
    pub user: Option<u32>,
    /// The group's id.
    pub group: Option<u32>,
}

/// The file of a unix socket.
pub struct SocketFile(PathBuf);

impl SocketFile {
    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have removed it already, and this process is about to end: nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds a unix socket and sets its owner and mode. Must be called within the runtime.
///
/// # Errors
/// Another process answers at the path, another file is there, or owner or mode may not be set.
pub(crate) fn bind_unix(
    path: &Path,
    owner: SocketOwner,
    mode: u32,
) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    if owner != SocketOwner::default() {
        std::os::unix::fs::chown(path, owner.user, owner.group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok((listener, file))
}

/// Removes the socket of an agent that was killed. A socket that a process answers, or another file, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("there is a file of that name that is not a socket"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there")),
        Err(error) => Err(error),
    }
}
