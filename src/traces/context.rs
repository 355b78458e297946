//! The trace of a request: the one that the header `traceparent` names, or else the one that the unique id names.
//!
//! Both values come from clients. They choose the trace that a span belongs to and nothing else: whether a span is recorded
//! does not depend on them.

use opentelemetry::{SpanId, TraceId};

/// A trace, and the parent span in it if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) parent: SpanId,
}

/// The trace of a request, or `None` if nothing names one.
pub(super) fn of_request(
    traceparent: Option<&[u8]>,
    unique_id: Option<&[u8]>,
) -> Option<TraceContext> {
    let by_unique_id = || Some(TraceContext { trace: uuid(unique_id?)?, parent: SpanId::INVALID });
    traceparent.and_then(self::traceparent).or_else(by_unique_id)
}

/// Parses the header `traceparent` (W3C Trace Context section 3.2). Only version 00 in its exact form is accepted. The flags are
/// parsed and ignored: a client does not choose what is sampled.
fn traceparent(text: &[u8]) -> Option<TraceContext> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 55)?;
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    if version != "00" || flags.len() != 2 || parts.next().is_some() {
        return None;
    }
    parse_hex(flags)?;
    let trace = TraceId::from(parse_hex(trace).filter(|trace| *trace != 0 && text.len() == 55)?);
    let parent = u64::try_from(parse_hex(parent)?).ok().filter(|parent| *parent != 0)?;
    // The whole has 55 bytes in four parts, so both ids have their length if the hyphens stand right.
    (text.find('-') == Some(2) && text.get(35..36) == Some("-"))
        .then_some(TraceContext { trace, parent: SpanId::from(parent) })
}

/// Parses a UUID (RFC 9562 section 4). Its 128 bits are the id of the trace.
fn uuid(text: &[u8]) -> Option<TraceId> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
        return None;
    }
    parse_hex(&text.replace('-', "")).filter(|bits| *bits != 0).map(TraceId::from)
}

/// Parses at most 32 lower-case hexadecimal digits.
fn parse_hex(text: &str) -> Option<u128> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (!text.is_empty() && text.bytes().all(digit)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNIQUE: &[u8] = b"6b0f4e0c-6a47-4d5e-9d86-2d1f6a1f9b51";

    #[test]
    fn a_traceparent_names_the_parent_with_any_flags() {
        for flags in [&b"00"[..], b"01", b"ff"] {
            let text = [&PARENT[..53], flags].concat();
            let context = of_request(Some(&text), Some(UNIQUE)).unwrap();
            assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(context.parent.to_string(), "00f067aa0ba902b7");
        }
    }

    #[test]
    fn a_unique_id_that_is_a_uuid_is_the_trace() {
        let context = of_request(None, Some(UNIQUE)).unwrap();
        assert_eq!(context.trace.to_string(), "6b0f4e0c6a474d5e9d862d1f6a1f9b51");
        assert_eq!(context.parent, SpanId::INVALID);
        for other in ["", "0A0B:1234_5678", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(of_request(None, Some(other.as_bytes())), None, "{other}");
        }
        assert_eq!(of_request(None, None), None);
    }

    #[test]
    fn a_traceparent_of_another_form_is_ignored() {
        let good = std::str::from_utf8(PARENT).unwrap();
        for bad in [
            String::new(),
            good.replace("00-4", "01-4"),
            good.replace("4bf9", "4BF9"),
            good.replace("4bf9", "4bg9"),
            good.replace("4bf9", "+bf9"),
            format!("{good}-x"),
            format!("{good} "),
            format!(" {good}"),
            good.replace("-01", "-1"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            // A digit moved from one id to the other.
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01".into(),
            good.replace("-01", "\u{e9}1"),
        ] {
            assert_eq!(of_request(Some(bad.as_bytes()), None), None, "{bad}");
            assert!(of_request(Some(bad.as_bytes()), Some(UNIQUE)).is_some(), "{bad}");
        }
        assert_eq!(of_request(Some(b"\xff"), None), None);
    }
}
