//! Variable-length integers, in the encoding of HAProxy's peers protocol (SPOE.txt section 3.1).

use super::FrameError;
use crate::spop::error::{Parsed, fail};

/// The first value that needs a second byte.
const ONE_BYTE: u64 = 240;
/// The most bytes that a 64-bit integer needs.
pub const MAX_LEN: usize = 10;

/// Reads one integer.
pub(super) fn parse(input: &[u8]) -> Parsed<'_, u64> {
    match input.split_first() {
        Some((&first, rest)) if u64::from(first) < ONE_BYTE => Ok((rest, u64::from(first))),
        Some((&first, rest)) => parse_long(u64::from(first), rest),
        None => fail(FrameError::Truncated),
    }
}

#[cold]
fn parse_long(first: u64, input: &[u8]) -> Parsed<'_, u64> {
    let mut value = first;
    let mut shift = 4_u32;
    for (index, &byte) in input.iter().enumerate() {
        let part = u64::from(byte);
        // If bits were lost, two encodings would be the same number.
        let shifted = part.checked_shl(shift).filter(|shifted| shifted >> shift == part);
        let Some(sum) = shifted.and_then(|shifted| value.checked_add(shifted)) else {
            return fail(FrameError::Integer);
        };
        value = sum;
        if byte < 128 {
            return Ok((input.get(index + 1..).unwrap_or_default(), value));
        }
        shift += 7;
    }
    fail(FrameError::Truncated)
}

/// Appends one integer.
pub fn write(out: &mut Vec<u8>, value: u64) {
    // `low` is masked, so the conversions cannot fail.
    let low = |n: u64, mask: u64| u8::try_from(n & mask).unwrap_or(u8::MAX);
    if value < ONE_BYTE {
        out.push(low(value, 0xff));
        return;
    }
    out.push(low(value, 0x0f) | 0xf0);
    let mut rest = (value - ONE_BYTE) >> 4;
    while rest >= 128 {
        out.push(low(rest, 0x7f) | 0x80);
        rest = (rest - 128) >> 7;
    }
    out.push(low(rest, 0x7f));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spop::parse::finish;

    #[test]
    fn the_boundaries_of_the_specification_have_their_lengths() {
        for (value, length) in [
            (0, 1),
            (239, 1),
            (240, 2),
            (2287, 2),
            (2288, 3),
            (264_431, 3),
            (264_432, 4),
            (33_818_863, 4),
            (33_818_864, 5),
            (4_328_786_159, 5),
            (4_328_786_160, 6),
            (u64::MAX, MAX_LEN),
        ] {
            let mut out = Vec::new();
            write(&mut out, value);
            assert_eq!(out.len(), length, "{value}");
            assert_eq!(finish(parse(&out)), Ok(value));
        }
    }

    #[test]
    fn an_integer_of_more_than_64_bits_is_refused() {
        let mut out = vec![0xff; 12];
        out.push(0);
        assert_eq!(finish(parse(&out)), Err(FrameError::Integer));
        let mut over = Vec::new();
        write(&mut over, u64::MAX);
        *over.last_mut().unwrap() += 1;
        assert_eq!(finish(parse(&over)), Err(FrameError::Integer));
    }

    #[test]
    fn a_truncated_integer_is_refused() {
        for bytes in [&[][..], &[0xf0], &[0xf0, 0x80], &[0xff; 9]] {
            assert_eq!(finish(parse(bytes)), Err(FrameError::Truncated));
        }
    }

    proptest! {
        #[test]
        fn every_integer_survives_a_round_trip(value: u64, tail: Vec<u8>) {
            let mut out = Vec::new();
            write(&mut out, value);
            out.extend_from_slice(&tail);
            let (rest, read) = parse(&out).unwrap();
            prop_assert_eq!((rest, read), (&tail[..], value));
        }

        #[test]
        fn what_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok((rest, value)) = parse(&bytes) {
                let mut out = Vec::new();
                write(&mut out, value);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }
}
