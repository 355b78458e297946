//! Any bytes as a stream of a platform's events, in pieces.
#![no_main]

use bytes::BytesMut;
use identity_spoa::sources::connect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (step, data) = data.split_first().map_or((1, data), |(n, rest)| (usize::from(*n) + 1, rest));
    let mut input = BytesMut::new();
    let mut taken = 0;
    for piece in data.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            match connect::split(&mut input) {
                Ok(Some((_, message))) => taken += message.len() + 5,
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(taken + input.len() == data.len());
});
