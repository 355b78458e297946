//! Any bytes as a bearer token: read strictly or refused, never a panic, never accepted unproved.
#![no_main]

use identity_spoa::identity::{
    claimed_issuer::is_in_header, credential::Credential, jwt::Unverified,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Credential::from_authorization(data);
    if let Ok(unverified) = Unverified::inspect(data) {
        assert_eq!(data.iter().filter(|b| **b == b'.').count(), 2);
        // Whatever the strict reader takes for an issuer, the lenient one finds.
        let plain =
            |issuer: &&str| issuer.len() <= 512 && issuer.bytes().all(|b| matches!(b, b' '..=b'~'));
        if let Some(issuer) = unverified.issuer().filter(plain) {
            assert!(is_in_header(data, |found| found == issuer.as_bytes()));
        }
    }
    let _ = is_in_header(data, |issuer| issuer.len() > 5);
});
