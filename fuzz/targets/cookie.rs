//! Any bytes as a Cookie header: what travels on has no cookie of ours and is part of what came.
#![no_main]

use identity_spoa::request::cookie::without_ours;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(rest) = without_ours(data, Some(b"token")) {
        assert!(rest.len() < data.len());
        assert_eq!(without_ours(&rest, Some(b"token")), None);
    }
});
