//! A HELLO's payload: what is agreed on is never more than either end accepts.
#![no_main]

use identity_spoa::spop::{
    frame::{self, MIN_SIZE},
    hello::{Agreed, HaproxyHello},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(hello) = HaproxyHello::parse(data) else { return };
    let agreed = hello.agree(frame::DEFAULT_SIZE);
    assert!((MIN_SIZE..=frame::DEFAULT_SIZE).contains(&agreed.max_frame_size));
    assert!(agreed.max_frame_size <= hello.max_frame_size);
    let mut out = Vec::new();
    agreed.write(&mut out);
    let (frame, _) = frame::split(&out, MIN_SIZE).unwrap().unwrap();
    assert_eq!(Agreed::parse(frame.payload), Ok(agreed));
});
