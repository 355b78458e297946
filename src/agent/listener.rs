//! TCP and unix listeners behind one type.

use std::{
    fmt, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::config::{Agent, Listen, Owner};

/// A listener; a unix socket's file is removed when it is dropped.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, with its file if the agent made it.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a unix socket.
pub struct SocketFile(PathBuf);

/// A connection of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    address: Listen,
    error: io::Error,
}

impl Listener {
    /// Binds an address, or takes what systemd passes. Must be called within the runtime.
    ///
    /// # Errors
    /// The address is taken, not ours, or not permitted.
    pub fn bind(address: &Listen, config: &Agent) -> Result<Vec<Self>, BindError> {
        let bound = match address {
            Listen::Tcp(address) => bind_tcp(*address).map(|listener| vec![listener]),
            Listen::Unix(path) => bind_unix(path, config.socket_owner, config.socket_mode)
                .map(|(listener, file)| vec![Self::Unix(listener, Some(file))]),
            Listen::Systemd => from_systemd(),
        };
        bound.map_err(|error| BindError { address: address.clone(), error })
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's.
    pub async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is one write: there is nothing to collect.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("tcp"),
            },
            Self::Unix(_, Some(file)) => write!(f, "unix:{}", file.0.display()),
            Self::Unix(_, None) => f.write_str("unix socket of systemd"),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it; there is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<Listener> {
    adopt_tcp(std::net::TcpListener::bind(address)?)
}

fn adopt_tcp(listener: std::net::TcpListener) -> io::Result<Listener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Listener::Tcp)
}

/// Binds a unix socket with its owner and mode. Must be called within the runtime.
pub(crate) fn bind_unix(
    path: &Path,
    owner: Owner,
    mode: u32,
) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    if owner != Owner::default() {
        std::os::unix::fs::chown(path, owner.user, owner.group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok((listener, file))
}

fn from_systemd() -> io::Result<Vec<Listener>> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        // Which of the two it is, only trying tells.
        if let Ok(Some(listener)) = passed.take_unix_listener(index) {
            listener.set_nonblocking(true)?;
            listeners.push(Listener::Unix(UnixListener::from_std(listener)?, None));
        } else if let Some(listener) = passed.take_tcp_listener(index)? {
            listeners.push(adopt_tcp(listener)?);
        }
    }
    if listeners.is_empty() {
        return Err(io::Error::other(
            "systemd passed no sockets: is there a socket unit for this service?",
        ));
    }
    Ok(listeners)
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
