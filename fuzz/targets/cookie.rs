//! Any bytes as a Cookie header: what travels on has no cookie of ours and is part of what came.
#![no_main]

use identity_spoa::request::cookie::{only, pairs, without_ours};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for pair in pairs(data) {
        assert!(!pair.starts_with(b" ") && !pair.ends_with(b"\t") && !pair.contains(&b';'));
    }
    // What is read as ours never travels on.
    if only(data, b"__Host-identity").is_some() {
        assert!(without_ours(data, None).is_some());
    }
    if let Some(rest) = without_ours(data, Some(b"token")) {
        assert!(rest.len() < data.len());
        assert_eq!(without_ours(&rest, Some(b"token")), None);
    }
});
