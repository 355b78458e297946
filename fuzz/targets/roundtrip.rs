//! Actions read from any bytes are written again as an ACK, and read again the same.
#![no_main]

use identity_spoa::spop::{
    ack::{self, Action},
    frame,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(actions) = ack::parse(data) else { return };
    // Our own writer names variables by text.
    let Some(named) = actions
        .iter()
        .map(|action| match action {
            Action::Set(scope, name, value) => Some((*scope, std::str::from_utf8(name).ok()?, Some(*value))),
            Action::Unset(scope, name) => Some((*scope, std::str::from_utf8(name).ok()?, None)),
        })
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let mut out = Vec::new();
    ack::write(&mut out, (1, 1), u32::MAX, |writer| {
        for (scope, name, value) in &named {
            match value {
                Some(value) => writer.set(*scope, name, *value),
                None => writer.unset(*scope, name),
            }
        }
    })
    .unwrap();
    let (frame, used) = frame::split(&out, u32::MAX).unwrap().unwrap();
    assert_eq!(used, out.len());
    assert_eq!(ack::parse(frame.payload).unwrap(), actions);
});
