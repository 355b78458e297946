//! SPOP 2.0, HAProxy's stream processing offload protocol, over borrowed bytes.
//!
//! The source is section 3 of HAProxy's `doc/SPOE.txt`. A frame is a length, a type, flags, two ids
//! and a payload. [`frame`] splits frames off a buffer; the other modules read and write the
//! payloads. [`connection`] is the agent's end of a connection as a state machine without sockets
//! or clocks. [`client`] writes HAProxy's frames, for tests and load generators.
//!
//! This module does not know what a message means. Nothing is copied, and text stays bytes.
//!
//! Invariant: a payload is checked to its end before any of it is handed out, so a frame is either
//! handled as a whole or refused.

pub mod ack;
pub mod client;
pub mod connection;
pub mod disconnect;
pub mod error;
pub mod frame;
pub mod hello;
pub mod notify;
mod parse;
pub mod value;
pub mod varint;

pub use ack::Actions;
pub use connection::{AgentSide, Event};
pub use error::{FrameError, Status};
pub use frame::{Frame, FrameType};
pub use notify::{Message, Notify};
pub use value::Value;
