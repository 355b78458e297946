//! Any bytes as a bearer token: read strictly or refused, never a panic, never accepted unproved.
#![no_main]

use identity_spoa::identity::{credential::Credential, jwt::Unverified};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Credential::from_authorization(data);
    if let Ok(unverified) = Unverified::inspect(data) {
        assert_eq!(data.iter().filter(|b| **b == b'.').count(), 2);
        let _ = unverified.issuer();
    }
});
