//! DISCONNECT frames (SPOE.txt sections 3.2.8 and 3.2.9).

use super::{
    FrameError, Status, Value,
    frame::{self, FrameType, MIN_SIZE},
    value::{key_values, write_key_value},
};

/// The reason for which the peer closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'b> {
    /// The status code. [`Status`] has those that the protocol defines.
    pub status: u32,
    /// The reason as text.
    pub message: &'b [u8],
}

impl<'b> Disconnect<'b> {
    /// Reads the payload.
    ///
    /// # Errors
    /// An item is missing or has the wrong type.
    pub fn parse(payload: &'b [u8]) -> Result<Self, FrameError> {
        let (mut status, mut message) = (None, None);
        for item in key_values(payload) {
            match item? {
                (b"status-code", Value::Uint32(code)) => status = Some(code),
                (b"message", Value::Str(text)) => message = Some(text),
                (b"status-code" | b"message", _) => return Err(FrameError::Type),
                _ => {}
            }
        }
        match (status, message) {
            (Some(status), Some(message)) => Ok(Self { status, message }),
            _ => Err(FrameError::NoStatus),
        }
    }
}

/// Appends a DISCONNECT of either end. `message` is truncated so that it fits the smallest frame.
pub(super) fn write(out: &mut Vec<u8>, kind: FrameType, status: Status, message: &str) {
    let message = message.as_bytes();
    let message = message.get(..128).unwrap_or(message);
    // At most 128 bytes and about 40 of frame, which fit the smallest frame of the protocol.
    let _ = frame::write(out, kind, (0, 0), MIN_SIZE, |out| {
        write_key_value(out, b"status-code", Value::Uint32(status as u32));
        write_key_value(out, b"message", Value::Str(message));
    });
}
