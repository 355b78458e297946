//! The side of HAProxy: its configuration is read and judged here, and written, and its processes are
//! spoken to.
//!
//! [`document`] knows the language, [`condition`] its rules' conditions, [`spoe`] the SPOE file; [`lint`]
//! finds dangerous mistakes, [`generate`] writes it from the agent's configuration. [`selftest`]
//! tries a running gate from outside. [`socket`] asks the runtime API which streams there are, and ends
//! them; `exchange` carries questions and answers, [`runtime`] reads what it answers.

pub mod condition;
pub mod document;
mod exchange;
pub mod generate;
pub mod line;
pub mod lint;
pub mod runtime;
pub mod selftest;
pub mod socket;
pub mod spoe;

pub(crate) use socket::BATCH;
pub use socket::{AskError, Process, Socket, SocketError};
