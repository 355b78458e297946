//! Typed values (SPOE.txt section 3.1).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    FrameError,
    parse::{array, bytes, one},
    varint,
};
use crate::spop::error::{Parsed, fail};

/// A value, borrowed from its frame. Integers keep their width. Text is bytes, because HAProxy
/// passes the bytes of headers unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// No value: the expression had no result.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer of 32 bits.
    Int32(i32),
    /// An unsigned integer of 32 bits.
    Uint32(u32),
    /// A signed integer of 64 bits.
    Int64(i64),
    /// An unsigned integer of 64 bits.
    Uint64(u64),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// Text in any encoding.
    Str(&'a [u8]),
    /// Bytes.
    Bin(&'a [u8]),
}

const NULL: u8 = 0;
const BOOL: u8 = 1;
const INT32: u8 = 2;
const UINT32: u8 = 3;
const INT64: u8 = 4;
const UINT64: u8 = 5;
const IPV4: u8 = 6;
const IPV6: u8 = 7;
const STRING: u8 = 8;
const BINARY: u8 = 9;
const TRUE: u8 = 0x10;

impl<'a> Value<'a> {
    pub(super) fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, tag) = one(input)?;
        match tag & 0x0f {
            NULL => Ok((input, Self::Null)),
            // The value of a boolean is a bit of the type byte.
            BOOL => Ok((input, Self::Bool(tag & TRUE != 0))),
            // HAProxy sends the two's complement in 64 bits, whatever the width.
            INT32 => integer(input, |n| i32::try_from(n.cast_signed()).ok().map(Self::Int32)),
            UINT32 => integer(input, |n| u32::try_from(n).ok().map(Self::Uint32)),
            INT64 => integer(input, |n| Some(Self::Int64(n.cast_signed()))),
            UINT64 => integer(input, |n| Some(Self::Uint64(n))),
            IPV4 => array::<4>(input).map(|(rest, ip)| (rest, Self::Ipv4(ip.into()))),
            IPV6 => array::<16>(input).map(|(rest, ip)| (rest, Self::Ipv6(ip.into()))),
            STRING => bytes(input).map(|(rest, text)| (rest, Self::Str(text))),
            BINARY => bytes(input).map(|(rest, data)| (rest, Self::Bin(data))),
            // The length of an unknown type is unknown too, so nothing after it can be read.
            _ => fail(FrameError::Type),
        }
    }

    /// Appends the value.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(NULL),
            Self::Bool(value) => out.push(if value { BOOL | TRUE } else { BOOL }),
            Self::Int32(n) => write_integer(out, INT32, i64::from(n).cast_unsigned()),
            Self::Uint32(n) => write_integer(out, UINT32, u64::from(n)),
            Self::Int64(n) => write_integer(out, INT64, n.cast_unsigned()),
            Self::Uint64(n) => write_integer(out, UINT64, n),
            Self::Ipv4(ip) => {
                out.push(IPV4);
                out.extend_from_slice(&ip.octets());
            }
            Self::Ipv6(ip) => {
                out.push(IPV6);
                out.extend_from_slice(&ip.octets());
            }
            Self::Str(text) => {
                out.push(STRING);
                write_bytes(out, text);
            }
            Self::Bin(data) => {
                out.push(BINARY);
                write_bytes(out, data);
            }
        }
    }
}

/// Appends `<LENGTH:varint><BYTES>`.
pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::write(out, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(bytes);
}

/// Reads a list of names and values to the end of the input.
pub(super) fn key_values(
    input: &[u8],
) -> impl Iterator<Item = Result<(&[u8], Value<'_>), FrameError>> {
    let mut rest = Some(input);
    std::iter::from_fn(move || {
        // After an error `rest` stays empty, so the iterator ends.
        let input = rest.take().filter(|input| !input.is_empty())?;
        let pair = bytes(input).and_then(|(input, name)| {
            Value::parse(input).map(|(input, value)| (input, (name, value)))
        });
        match pair {
            Ok((input, pair)) => {
                rest = Some(input);
                Some(Ok(pair))
            }
            Err(error) => Some(super::parse::finish(Err(error))),
        }
    })
}

/// Appends a name and a value.
pub(super) fn write_key_value(out: &mut Vec<u8>, name: &[u8], value: Value<'_>) {
    write_bytes(out, name);
    value.write(out);
}

fn integer<'a>(
    input: &'a [u8],
    fit: impl FnOnce(u64) -> Option<Value<'a>>,
) -> Parsed<'a, Value<'a>> {
    let (rest, number) = varint::parse(input)?;
    match fit(number) {
        Some(value) => Ok((rest, value)),
        None => fail(FrameError::Integer),
    }
}

fn write_integer(out: &mut Vec<u8>, tag: u8, number: u64) {
    out.push(tag);
    varint::write(out, number);
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spop::parse::finish;

    /// Any value. Text and bytes are slices of `data`.
    pub(in crate::spop) fn any_value() -> impl Strategy<Value = Value<'static>> {
        let data = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(|v| &*v.leak());
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::Int32),
            any::<u32>().prop_map(Value::Uint32),
            any::<i64>().prop_map(Value::Int64),
            any::<u64>().prop_map(Value::Uint64),
            any::<[u8; 4]>().prop_map(|ip| Value::Ipv4(ip.into())),
            any::<[u8; 16]>().prop_map(|ip| Value::Ipv6(ip.into())),
            data().prop_map(Value::Str),
            data().prop_map(Value::Bin),
        ]
    }

    proptest! {
        #[test]
        fn every_value_survives_a_round_trip(value in any_value()) {
            let mut out = Vec::new();
            value.write(&mut out);
            let (rest, read) = Value::parse(&out).unwrap();
            prop_assert_eq!((rest, read), (&[][..], value));
            for end in 0..out.len() {
                prop_assert!(Value::parse(&out[..end]).is_err(), "cut at {}", end);
            }
        }
    }

    #[test]
    fn an_integer_that_does_not_fit_its_type_is_refused() {
        for (tag, number) in [
            (UINT32, (1 << 32) + 256),
            (UINT32, u64::MAX),
            (INT32, 1 << 31),
            (INT32, u64::from(u32::MAX)),
            (INT32, (1 << 63) | 1),
        ] {
            let mut out = Vec::new();
            write_integer(&mut out, tag, number);
            assert_eq!(finish(Value::parse(&out)), Err(FrameError::Integer), "{tag} {number}");
        }
    }

    #[test]
    fn unknown_types_are_refused() {
        for tag in 10..16 {
            assert_eq!(finish(Value::parse(&[tag, 0, 0])), Err(FrameError::Type));
        }
    }

    #[test]
    fn different_bytes_that_are_not_utf8_stay_different() {
        let read = |byte| {
            let input = [STRING, 1, byte];
            assert_eq!(finish(Value::parse(&input)), Ok(Value::Str(&[byte])));
        };
        read(0xff);
        read(0xfe);
    }
}
