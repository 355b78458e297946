//! Our NOTIFY parser against that of the `spop` crate 0.13: what we accept it accepts too, with the
//! same messages, names and values.
//!
//! Known differences, all of them things we refuse or keep that it lets pass or changes:
//! - text that is not UTF-8: it replaces bytes, we keep them; such frames are not compared;
//! - an integer that does not fit its type: it cuts, we refuse;
//! - a varint of more than 64 bits: it cuts, we refuse;
//! - a NOTIFY with a frame id of zero, without FIN or with ABORT: we refuse;
//! - reserved flag bits: it refuses, we pass over them, as a later HAProxy may use them; such frames
//!   are not compared.
//!
//! So only the direction "we accept, therefore it accepts the same" is asserted.
#![no_main]

use identity_spoa::spop::{FrameType, Notify, Value, frame};
use libfuzzer_sys::fuzz_target;
use spop::{FramePayload, TypedData, parser::parse_frame_with_limit};

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(String::from)
}

fn typed(value: Value<'_>) -> Option<TypedData> {
    Some(match value {
        Value::Null => TypedData::Null,
        Value::Bool(value) => TypedData::Bool(value),
        Value::Int32(n) => TypedData::Int32(n),
        Value::Uint32(n) => TypedData::UInt32(n),
        Value::Int64(n) => TypedData::Int64(n),
        Value::Uint64(n) => TypedData::UInt64(n),
        Value::Ipv4(ip) => TypedData::IPv4(ip),
        Value::Ipv6(ip) => TypedData::IPv6(ip),
        Value::Str(bytes) => TypedData::String(text(bytes)?),
        Value::Bin(bytes) => TypedData::Binary(bytes.to_vec()),
    })
}

fuzz_target!(|data: &[u8]| {
    let Ok(Some((frame, used))) = frame::split(data, frame::DEFAULT_SIZE) else { return };
    if frame.kind != Some(FrameType::Notify) || data[5..9] != [0, 0, 0, 1] {
        return;
    }
    let Ok(notify) = Notify::parse(&frame) else { return };
    let ours: Option<Vec<(String, Vec<(String, TypedData)>)>> = notify
        .messages()
        .map(|message| {
            let args = message.args().map(|(name, value)| Some((text(name)?, typed(value)?)));
            Some((text(message.name)?, args.collect::<Option<Vec<_>>>()?))
        })
        .collect();
    let Some(ours) = ours else { return };
    let (rest, theirs) = parse_frame_with_limit(&data[..used], frame::DEFAULT_SIZE)
        .unwrap_or_else(|error| panic!("we accept what spop refuses: {error:?}"));
    assert!(rest.is_empty());
    assert_eq!(theirs.metadata().stream_id, notify.stream_id);
    assert_eq!(theirs.metadata().frame_id, notify.frame_id);
    let FramePayload::ListOfMessages(messages) = theirs.payload() else { panic!("no messages") };
    let theirs: Vec<_> = messages.iter().map(|m| (m.name.clone(), m.args.clone())).collect();
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
});
