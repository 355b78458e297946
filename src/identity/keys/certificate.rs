//! The public key of a certificate, for keys that are published as a certificate and nothing else (`x5c`, RFC 7517
//! section 4.7).
//!
//! The certificate is only the container of the key. It needs no trust of its own and does not expire here: the key set
//! came from the issuer's own address, as the keys that have no certificate do.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::{parse_x509_certificate, public_key::PublicKey};

/// The numbers of a public key.
pub(super) enum Numbers {
    /// Modulus and exponent.
    Rsa(Vec<u8>, Vec<u8>),
    /// The coordinates of a point.
    Point(Vec<u8>, Vec<u8>),
}

/// The public key of a certificate in base64, with or without line breaks; `None` if it cannot be read.
pub(super) fn numbers(text: &str) -> Option<Numbers> {
    let text: String = text.split_ascii_whitespace().collect();
    let der = STANDARD.decode(text).ok()?;
    let (_, certificate) = parse_x509_certificate(&der).ok()?;
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some(Numbers::Rsa(key.modulus.to_vec(), key.exponent.to_vec())),
        // Uncompressed (SEC 1 section 2.3.3): both coordinates, of the same size.
        PublicKey::EC(point) => {
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            Some(Numbers::Point(x.to_vec(), y.to_vec()))
        }
        _ => None,
    }
}
