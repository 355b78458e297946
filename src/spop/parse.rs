//! Parsers that the modules share. They work on complete input only.

use nom::{Parser, bytes::complete::take, number::complete::u8 as byte};

use super::{FrameError, varint};
use crate::spop::error::{Parsed, fail};

/// Parses one byte.
pub(super) fn one(input: &[u8]) -> Parsed<'_, u8> {
    byte(input)
}

/// Parses `<LENGTH:varint><BYTES>`.
pub(super) fn bytes(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (input, length) = varint::parse(input)?;
    // A length that does not fit a usize is beyond the frame, too.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    take(length).parse(input)
}

/// Parses a fixed number of bytes.
pub(super) fn array<const N: usize>(input: &[u8]) -> Parsed<'_, [u8; N]> {
    let (rest, bytes) = take(N).parse(input)?;
    match bytes.try_into() {
        Ok(array) => Ok((rest, array)),
        Err(_) => fail(FrameError::Truncated),
    }
}

/// The value or the error of a parser, without the remaining input.
pub(super) fn finish<T>(result: Parsed<'_, T>) -> Result<T, FrameError> {
    match result {
        Ok((_, value)) => Ok(value),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error),
        Err(nom::Err::Incomplete(_)) => Err(FrameError::Truncated),
    }
}
