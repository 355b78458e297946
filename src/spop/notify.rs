//! NOTIFY frames: messages with arguments (SPOE.txt section 3.2.6).

use super::{
    Frame, FrameError, Value,
    parse::{bytes, finish, one},
};
use crate::spop::error::Parsed;

/// A NOTIFY frame. Exists only for a payload that was checked to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'b> {
    /// The id of the stream, which the ACK repeats.
    pub stream_id: u64,
    /// The id of the frame in the stream, which the ACK repeats.
    pub frame_id: u64,
    /// The first message. There is nearly always just one, so its position is stored.
    first: Option<Message<'b>>,
    /// The messages after the first.
    others: &'b [u8],
}

/// One message of a NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'b> {
    /// The name of the spoe-message section.
    pub name: &'b [u8],
    count: u8,
    args: &'b [u8],
}

impl<'b> Notify<'b> {
    /// Reads a NOTIFY frame with any number of messages.
    ///
    /// # Errors
    /// The payload ends too early, has bytes left over or an invalid value, or the frame id is
    /// zero.
    pub fn parse(frame: &Frame<'b>) -> Result<Self, FrameError> {
        // A stream id of zero is valid: each HAProxy process counts its streams from there.
        if frame.frame_id == 0 {
            return Err(FrameError::Ids);
        }
        let mut first = None;
        let mut others = frame.payload;
        let mut rest = frame.payload;
        while !rest.is_empty() {
            rest = match message(rest) {
                Ok((rest, message)) => {
                    if first.is_none() {
                        first = Some(message);
                        others = rest;
                    }
                    rest
                }
                Err(error) => return finish(Err(error)),
            };
        }
        Ok(Self { stream_id: frame.stream_id, frame_id: frame.frame_id, first, others })
    }

    /// The messages, in the order of the configuration.
    pub fn messages(&self) -> impl Iterator<Item = Message<'b>> + use<'b> {
        let mut rest = self.others;
        // INVARIANT: the payload was parsed once, so this ends at its end and not before.
        let others = std::iter::from_fn(move || {
            let (input, message) = message(rest).ok()?;
            rest = input;
            Some(message)
        });
        self.first.into_iter().chain(others)
    }
}

impl<'b> Message<'b> {
    /// The arguments in their order: names, which may be empty or repeated, and values.
    pub fn args(&self) -> impl Iterator<Item = (&'b [u8], Value<'b>)> + use<'b> {
        let mut rest = self.args;
        let mut left = self.count;
        // INVARIANT: as for messages.
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (input, arg) = argument(rest).ok()?;
            rest = input;
            Some(arg)
        })
    }
}

fn message(input: &[u8]) -> Parsed<'_, Message<'_>> {
    let (input, name) = bytes(input)?;
    let (args, count) = one(input)?;
    let mut rest = args;
    for _ in 0..count {
        (rest, _) = argument(rest)?;
    }
    let used = args.get(..args.len() - rest.len()).unwrap_or_default();
    Ok((rest, Message { name, count, args: used }))
}

fn argument(input: &[u8]) -> Parsed<'_, (&[u8], Value<'_>)> {
    let (input, name) = bytes(input)?;
    let (input, value) = Value::parse(input)?;
    Ok((input, (name, value)))
}
