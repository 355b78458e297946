//! Fingerprints: the first 8 bytes of a SHA-256, as 16 hexadecimal digits.
//!
//! Logs and audit records name tokens, key sets and configurations by their fingerprint. It tells two of them apart and does
//! not reveal them. It is too short to prove anything: nothing is decided by comparing fingerprints.

use std::fmt;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

/// The first 8 bytes of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of these bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// The fingerprint of content whose SHA-256 is known already.
    #[must_use]
    pub fn of_digest(digest: &[u8; 32]) -> Self {
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    /// The sixteen hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> [u8; 16] {
        let mut text = [0; 16];
        HEXLOWER.encode_mut(&self.0, &mut text);
        text
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_what_sha256sum_shows_first() {
        let fingerprint = Fingerprint::of_bytes(b"abc");
        assert_eq!(fingerprint.to_string(), "ba7816bf8f01cfea");
        assert_eq!(&fingerprint.hex(), b"ba7816bf8f01cfea");
    }
}
