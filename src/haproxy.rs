//! HAProxy's runtime API: which streams there are, and ending them.
//!
//! [`socket`] asks a process or a master, `exchange` carries one command and its answer, [`runtime`] reads what the
//! answers say. HAProxy's configuration is the matter of [`crate::haproxy_config`].

mod exchange;
pub mod runtime;
pub mod socket;

/// A socket of `[haproxy]`: its place in the configuration, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(usize);

impl SocketId {
    /// The socket at that place.
    #[must_use]
    pub const fn new(place: usize) -> Self {
        Self(place)
    }

    /// Its place.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

pub(crate) use socket::BATCH;
pub use socket::{AskError, Process, Socket, SocketError};
