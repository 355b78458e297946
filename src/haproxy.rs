//! HAProxy's runtime API: which streams there are, and ending them.
//!
//! [`socket`] asks a process or a master, `exchange` carries one command and its answer, [`runtime`] reads what the
//! answers say. HAProxy's configuration is the matter of [`crate::haproxy_config`].

mod exchange;
pub mod runtime;
pub mod socket;

pub(crate) use socket::BATCH;
pub use socket::{AskError, Process, Socket, SocketError};
