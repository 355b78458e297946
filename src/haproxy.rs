//! A client of HAProxy's runtime API: lists the streams of a process and closes them, for [`crate::tunnels`], and ends
//! the reuse of allows, for [`crate::verdict_cache`].
//!
//! [`socket`] has what can be done with a process or through its master, `exchange` carries one line of commands and
//! its answer, and [`runtime`] parses answers. Every request has a time limit and every answer a size limit. An answer
//! that cannot be parsed is an error and never an empty list: a stream that is overlooked would be taken for one that
//! has ended.
//!
//! HAProxy's configuration is in [`crate::haproxy_config`].

mod exchange;
pub mod runtime;
pub mod socket;

/// A socket of `[haproxy]`, by its index in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(usize);

impl SocketId {
    /// The socket at this index.
    #[must_use]
    pub const fn new(place: usize) -> Self {
        Self(place)
    }

    /// The index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

pub(crate) use socket::BATCH;
pub use socket::{AskError, Process, Socket, SocketError};
