//! Frames: splitting them off a buffer, and writing them (SPOE.txt section 3.2).

use super::{
    FrameError,
    parse::{array, finish, one},
    varint,
};
use crate::spop::error::Parsed;

/// The number of bytes of the length before a frame.
pub const LENGTH: usize = 4;
/// The smallest max-frame-size that a peer may ask for.
pub const MIN_SIZE: u32 = 256;
/// The largest frame that HAProxy sends by default, without its length (tune.bufsize - 4).
pub const DEFAULT_SIZE: u32 = 16_380;
/// The largest frame that this program takes where HAProxy has larger buffers, in bytes. Each connection may hold one such frame.
pub const MAX_SIZE: u32 = 64 * 1024;
/// The smallest header: a type, flags, and two ids of one byte each.
const SHORTEST: u32 = 7;

const FIN: u32 = 1;
const ABORT: u32 = 2;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// HAProxy opens the connection.
    HaproxyHello = 1,
    /// HAProxy closes the connection.
    HaproxyDisconnect = 2,
    /// HAProxy sends messages, for us authorization requests.
    Notify = 3,
    /// The agent accepts the connection.
    AgentHello = 101,
    /// The agent closes the connection.
    AgentDisconnect = 102,
    /// The agent responds to a NOTIFY.
    Ack = 103,
}

/// A complete frame, whose payload was not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The type; `None` if the protocol does not define it, so that the frame must be ignored.
    pub kind: Option<FrameType>,
    /// Whether this is the last fragment.
    pub fin: bool,
    /// Whether the exchange is aborted.
    pub abort: bool,
    /// The id of the stream.
    pub stream_id: u64,
    /// The id of the frame in the stream.
    pub frame_id: u64,
    /// The payload.
    pub payload: &'b [u8],
}

/// Splits the first frame off a buffer. Returns it with the number of bytes that it used, or `None`
/// if it is not complete. A frame that is too long is refused as soon as its length is there.
///
/// # Errors
/// The length is larger than `max_size` or too small for a frame, or the header ends too early.
pub fn split(buffer: &[u8], max_size: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((length, rest)) = buffer.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    // Before anything is read, so that a peer cannot make the agent reserve memory.
    if length > max_size {
        return Err(FrameError::TooBig);
    }
    if length < SHORTEST {
        return Err(FrameError::Truncated);
    }
    // A u32 fits a usize on every platform that HAProxy runs on. Otherwise no buffer is as long.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match rest.get(..length) {
        None => Ok(None),
        Some(body) => Ok(Some((finish(parse(body))?, LENGTH + length))),
    }
}

fn parse(input: &[u8]) -> Parsed<'_, Frame<'_>> {
    let (input, kind) = one(input)?;
    let (input, flags) = array::<4>(input)?;
    let flags = u32::from_be_bytes(flags);
    let (input, stream_id) = varint::parse(input)?;
    let (payload, frame_id) = varint::parse(input)?;
    let frame = Frame {
        kind: FrameType::from_byte(kind),
        // Other flags have no meaning in version 2 and are ignored.
        fin: flags & FIN != 0,
        abort: flags & ABORT != 0,
        stream_id,
        frame_id,
        payload,
    };
    Ok((&[], frame))
}

/// A frame would be longer than the peer accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame would be longer than the negotiated max-frame-size")]
pub struct TooLong;

/// Appends a frame whose payload `payload` writes. If it would be longer than `max_size`, nothing
/// is appended.
///
/// # Errors
/// The frame would be too long.
pub fn write(
    out: &mut Vec<u8>,
    kind: FrameType,
    (stream_id, frame_id): (u64, u64),
    max_size: u32,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    out.push(kind as u8);
    out.extend_from_slice(&FIN.to_be_bytes());
    varint::write(out, stream_id);
    varint::write(out, frame_id);
    payload(out);
    let length =
        u32::try_from(out.len() - start - LENGTH).ok().filter(|length| *length <= max_size);
    let place = out.get_mut(start..).and_then(|frame| frame.first_chunk_mut::<LENGTH>());
    if let (Some(length), Some(place)) = (length, place) {
        *place = length.to_be_bytes();
        Ok(())
    } else {
        out.truncate(start);
        Err(TooLong)
    }
}

impl FrameType {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::HaproxyHello,
            2 => Self::HaproxyDisconnect,
            3 => Self::Notify,
            101 => Self::AgentHello,
            102 => Self::AgentDisconnect,
            103 => Self::Ack,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, FrameType::Notify, (7, 300), 1000, |o| o.extend_from_slice(payload))
            .unwrap();
        out
    }

    #[test]
    fn a_frame_is_split_off_once_it_is_whole() {
        let mut bytes = frame(b"abc");
        let length = bytes.len();
        bytes.extend_from_slice(b"next");
        for end in 0..length {
            assert_eq!(split(&bytes[..end], 1000), Ok(None), "{end}");
        }
        let (frame, used) = split(&bytes, 1000).unwrap().unwrap();
        assert_eq!(used, length);
        assert_eq!(
            frame,
            Frame {
                kind: Some(FrameType::Notify),
                fin: true,
                abort: false,
                stream_id: 7,
                frame_id: 300,
                payload: b"abc"
            }
        );
    }

    #[test]
    fn a_gigabyte_in_five_bytes_is_refused_at_once() {
        assert_eq!(split(&[0x40, 0, 0, 0, 3], DEFAULT_SIZE), Err(FrameError::TooBig));
    }

    #[test]
    fn a_frame_shorter_than_its_header_is_refused() {
        for length in 0..7 {
            assert_eq!(split(&[0, 0, 0, length], DEFAULT_SIZE), Err(FrameError::Truncated));
        }
        let cut = [&[0, 0, 0, 7, 3, 0, 0, 0, 1][..], &[0xff, 0xff]].concat();
        assert_eq!(split(&cut, DEFAULT_SIZE), Err(FrameError::Truncated));
    }

    #[test]
    fn a_frame_that_grows_too_long_is_taken_back() {
        let mut out = b"before".to_vec();
        let result = write(&mut out, FrameType::Ack, (1, 1), 20, |o| o.extend_from_slice(&[0; 14]));
        assert_eq!((result, &out[..]), (Err(TooLong), &b"before"[..]));
        assert!(
            write(&mut out, FrameType::Ack, (1, 1), 20, |o| o.extend_from_slice(&[0; 13])).is_ok()
        );
    }
}
