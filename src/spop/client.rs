//! HAProxy's side of the protocol, for tests and load generators: writes what HAProxy writes. The
//! agent's frames are read by [`super::frame`], [`super::hello::Agreed`], [`super::ack`] and
//! [`super::disconnect`].

use super::{
    Status, Value, disconnect,
    frame::{self, FrameType, TooLong},
    value::{write_bytes, write_key_value},
};

/// Appends a HAPROXY-HELLO.
pub fn hello(out: &mut Vec<u8>, max_frame_size: u32, capabilities: &str, healthcheck: bool) {
    // About 130 bytes and the capabilities, which the caller chooses.
    let _ = frame::write(out, FrameType::HaproxyHello, (0, 0), u32::MAX, |out| {
        write_key_value(out, b"supported-versions", Value::Str(b"2.0"));
        write_key_value(out, b"max-frame-size", Value::Uint32(max_frame_size));
        write_key_value(out, b"capabilities", Value::Str(capabilities.as_bytes()));
        if healthcheck {
            write_key_value(out, b"healthcheck", Value::Bool(true));
        } else {
            write_key_value(out, b"engine-id", Value::Str(b"test"));
        }
    });
}

/// The name and the value of an argument.
pub type Arg<'a> = (&'a [u8], Value<'a>);

/// Appends a NOTIFY.
///
/// # Errors
/// It would be longer than `max_size`, or a message has more than 255 arguments.
pub fn notify(
    out: &mut Vec<u8>,
    ids: (u64, u64),
    max_size: u32,
    messages: &[(&[u8], &[Arg<'_>])],
) -> Result<(), TooLong> {
    if messages.iter().any(|(_, args)| args.len() > 255) {
        return Err(TooLong);
    }
    frame::write(out, FrameType::Notify, ids, max_size, |out| {
        for (name, args) in messages {
            write_bytes(out, name);
            out.push(u8::try_from(args.len()).unwrap_or(u8::MAX));
            for (name, value) in *args {
                write_key_value(out, name, *value);
            }
        }
    })
}

/// Appends a HAPROXY-DISCONNECT.
pub fn disconnect(out: &mut Vec<u8>, status: Status, message: &str) {
    disconnect::write(out, FrameType::HaproxyDisconnect, status, message);
}
