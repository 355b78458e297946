//! Any bytes as an answer of HAProxy's runtime API.
#![no_main]

use identity_spoa::haproxy::runtime;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = runtime::processes(bytes);
    for count in 0..4 {
        if let Ok(shut) = runtime::shut(bytes, count) {
            assert_eq!(shut.len(), count);
        }
    }
    let _ = runtime::details(bytes);
    if let Ok(list) = runtime::list(bytes) {
        let lines = bytes.split(|b| *b == b'\n').filter(|line| line.starts_with(b"0x")).count();
        assert!(list.streams.len() <= lines);
        for stream in list.streams {
            assert!(stream.age.0 <= stream.age.1);
        }
    }
});
