//! SPOP 2.0, HAProxy's stream processing offload protocol, over borrowed bytes.
//!
//! Source: HAProxy's `doc/SPOE.txt`, section 3. A frame is a length, a type, flags, two ids and a
//! payload; [`frame`] splits them off a buffer, the other modules read and write the payloads, and
//! [`connection`] is the agent's end of a conversation as a state machine without sockets or clocks.
//! [`client`] speaks HAProxy's side, for tests and load.
//!
//! Nothing here knows what a message means. Nothing is copied, and text stays bytes. A payload is
//! checked as a whole before any of it is handed out, so a frame is either acted on or refused.

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
