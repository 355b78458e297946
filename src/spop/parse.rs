//! What the parsers share: complete input only, one-byte errors.

use nom::{Parser, bytes::complete::take, number::complete::u8 as byte};

use super::{FrameError, varint};
use crate::spop::error::{Parsed, fail};

/// One byte.
pub(super) fn one(input: &[u8]) -> Parsed<'_, u8> {
    byte(input)
}

/// `<LENGTH:varint><BYTES>`.
pub(super) fn bytes(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (input, length) = varint::parse(input)?;
    // A length beyond the address space is beyond the frame too.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    take(length).parse(input)
}

/// A fixed number of bytes.
pub(super) fn array<const N: usize>(input: &[u8]) -> Parsed<'_, [u8; N]> {
    let (rest, bytes) = take(N).parse(input)?;
    match bytes.try_into() {
        Ok(array) => Ok((rest, array)),
        Err(_) => fail(FrameError::Truncated),
    }
}

/// What a parser found or why not, once nobody asks for the rest.
pub(super) fn finish<T>(result: Parsed<'_, T>) -> Result<T, FrameError> {
    match result {
        Ok((_, value)) => Ok(value),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error),
        Err(nom::Err::Incomplete(_)) => Err(FrameError::Truncated),
    }
}
