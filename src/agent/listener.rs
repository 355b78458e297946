//! Listeners for TCP and unix sockets behind one type, bound by the agent or passed by systemd.

use std::{fmt, io};

use listenfd::ListenFd;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::{
    agent::{AgentSettings, Listen},
    unix_socket::{SocketFile, bind_unix},
};

/// A listener. The file of a unix socket that the agent made is removed when it is dropped.
pub enum Listener {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A listener of a unix socket, with its file if the agent made it.
    Unix(UnixListener, Option<SocketFile>),
}

/// A connection over TCP or a unix socket.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An address could not be bound.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    address: Listen,
    error: io::Error,
}

impl Listener {
    /// Binds an address, or takes the sockets that systemd passes. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// The address is in use, not on this machine, or not permitted.
    pub fn bind(address: &Listen, config: &AgentSettings) -> Result<Vec<Self>, BindError> {
        let bound = match address {
            Listen::Tcp(address) => bind_tcp(*address).map(|listener| vec![listener]),
            Listen::Unix(path) => bind_unix(path, config.socket_owner, config.socket_mode)
                .map(|(listener, file)| vec![Self::Unix(listener, Some(file))]),
            Listen::Systemd => from_systemd(),
        };
        bound.map_err(|error| BindError { address: address.clone(), error })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system refused it, for example because too many files are open.
    pub async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Responses are collected into one write already.
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
            Self::Unix(_, Some(file)) => write!(f, "unix:{}", file.path().display()),
            Self::Unix(_, None) => f.write_str("unix socket of systemd"),
        }
    }
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<Listener> {
    adopt_tcp(std::net::TcpListener::bind(address)?)
}

fn adopt_tcp(listener: std::net::TcpListener) -> io::Result<Listener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Listener::Tcp)
}

fn from_systemd() -> io::Result<Vec<Listener>> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        // The only way to learn the kind of a passed socket is to try.
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
