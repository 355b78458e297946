//! Any bytes as a client certificate: an identity with a plain subject, or none, never a panic.
#![no_main]

use std::sync::Arc;

use identity_spoa::{identity::{Authority, certificate::{CertificateRule, CertificateField}}, time::Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for field in [CertificateField::CommonName, CertificateField::DnsName, CertificateField::Email, CertificateField::Uri] {
        let authority = Authority { accepted: [].into(), ..Authority::new("machines", "certificate", vec![]) };
        let rule =
            CertificateRule { authority: Arc::new(authority), field, prefix: "".into(), issuer: None };
        if let Some(identity) = rule.identify(data, Timestamp::from_secs(0)) {
            assert!(identity.subject.bytes().all(|b| (b' '..=b'~').contains(&b)));
            assert!(!identity.subject.is_empty());
            assert!(!identity.issuer.chars().any(char::is_control));
        }
    }
});
