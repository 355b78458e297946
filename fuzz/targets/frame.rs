//! Any bytes: a frame is split off, or more are needed, or they are refused; what is split off is no
//! longer than what was there, and reading its payload as anything never panics.
#![no_main]

use identity_spoa::spop::{ack, disconnect::Disconnect, frame, hello::Agreed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(Some((frame, used))) = frame::split(data, frame::DEFAULT_SIZE) else { return };
    assert!(used <= data.len() && used > frame.payload.len());
    // The same bytes and no others make the same frame.
    assert_eq!(frame::split(&data[..used], frame::DEFAULT_SIZE), Ok(Some((frame, used))));
    assert_eq!(frame::split(&data[..used - 1], frame::DEFAULT_SIZE), Ok(None));
    let _ = ack::parse(frame.payload);
    let _ = Disconnect::parse(frame.payload);
    let _ = Agreed::parse(frame.payload);
});
