//! Any bytes as a key set of a provider.
#![no_main]

use identity_spoa::identity::keys::{KeySet, MAX_KEYS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(set) = KeySet::parse(data) {
        assert!((1..=MAX_KEYS).contains(&set.len()));
    }
});
