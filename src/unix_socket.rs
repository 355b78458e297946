//! Unix sockets that this program listens on: their files, with owner and mode.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// User and group of a file; `None` leaves it as it is.
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
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it; there is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds a unix socket with its owner and mode. Must be called within the runtime.
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

/// Removes the socket that an agent left behind when it was killed. A socket that somebody answers,
/// or a file of another kind, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("there is a file of that name that is no socket"));
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
