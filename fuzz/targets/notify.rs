//! A NOTIFY's payload: read as a whole or refused; what was read once is read the same again, and
//! written again it is the same bytes.
#![no_main]

use identity_spoa::{
    request::Request,
    spop::{Notify, client, frame, frame::Frame},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let frame =
        Frame { kind: None, fin: true, abort: false, stream_id: 1, frame_id: 1, payload: data };
    let Ok(notify) = Notify::parse(&frame) else { return };
    let messages: Vec<(&[u8], Vec<client::Arg<'_>>)> =
        notify.messages().map(|m| (m.name, m.args().collect())).collect();
    for (name, args) in &messages {
        let _ = Request::read(name, args.iter().copied());
    }
    let borrowed: Vec<_> = messages.iter().map(|(name, args)| (*name, &args[..])).collect();
    let mut out = Vec::new();
    client::notify(&mut out, (1, 1), u32::MAX, &borrowed).unwrap();
    let (again, _) = frame::split(&out, u32::MAX).unwrap().unwrap();
    let again = Notify::parse(&again).unwrap();
    let same: Vec<(&[u8], Vec<client::Arg<'_>>)> =
        again.messages().map(|m| (m.name, m.args().collect())).collect();
    assert_eq!(messages, same);
});
