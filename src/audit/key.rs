//! The key that signs checkpoints, and the public key that verifies them: Ed25519 (RFC 8032).
//!
//! The agent creates the private key at its first start, readable by its owner alone. Verification needs only the public key,
//! which `identity-spoa audit public-key` prints. Both files are PEM (RFC 5958, RFC 8410), as OpenSSL reads and writes them.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;

const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
/// The bytes before the 32 bytes of a public key in its `SubjectPublicKeyInfo` (RFC 8410 section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A private key that signs checkpoints.
pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    id: Fingerprint,
}

/// A public key that verifies checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; 32],
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

impl SigningKey {
    /// Reads the key of a file. A missing file is created with mode 0600 and a new key.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::existing(path)?.map_or_else(|| Self::make(path), Ok)
    }

    /// Reads the key of a file; `None` if there is no file.
    fn existing(path: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mode = std::fs::metadata(path)?.mode();
        // A key that others may read may have been copied: it would prove nothing.
        if mode & 0o077 != 0 {
            let mode = mode & 0o777;
            return Err(invalid(format!("others may read it (mode {mode:04o}): chmod 600 it")));
        }
        Self::read(&text).map(Some)
    }

    fn read(text: &str) -> io::Result<Self> {
        let der = Zeroizing::new(decode_pem(PRIVATE, text)?);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|error| invalid(format!("not an Ed25519 private key: {error}")))?;
        Self::from_pair(pair)
    }

    fn make(path: &Path) -> io::Result<Self> {
        let pair =
            Ed25519KeyPair::generate().map_err(|_| invalid("no random numbers to be had"))?;
        let der = pair.to_pkcs8v1().map_err(|_| invalid("the new key cannot be written down"))?;
        let text = Zeroizing::new(encode_pem(PRIVATE, der.as_ref()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Self::from_pair(pair)
    }

    #[cfg(test)]
    pub(super) fn random() -> Self {
        Self::from_pair(Ed25519KeyPair::generate().unwrap()).unwrap()
    }

    fn from_pair(pair: Ed25519KeyPair) -> io::Result<Self> {
        let id = public(&pair)?.id();
        Ok(Self { pair, id })
    }

    /// The public key.
    pub(super) fn public(&self) -> io::Result<PublicKey> {
        public(&self.pair)
    }

    /// The id of the key: the fingerprint of the public key.
    pub(super) const fn id(&self) -> Fingerprint {
        self.id
    }

    /// Signs a statement. The signature is base64url.
    pub(super) fn sign(&self, statement: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(statement).as_ref())
    }
}

/// Whether an agent can sign with the key of a file, or makes one because there is no file.
///
/// # Errors
/// The file cannot be read, others may read it, or it does not hold a private key.
pub fn check_signing_key(path: &Path) -> io::Result<()> {
    SigningKey::existing(path).map(|_| ())
}

fn public(pair: &Ed25519KeyPair) -> io::Result<PublicKey> {
    let bytes = pair.public_key().as_ref().try_into();
    Ok(PublicKey { bytes: bytes.map_err(|_| invalid("not an Ed25519 key"))? })
}

impl PublicKey {
    /// Reads a public key from a file that has it, or from one with the private key.
    ///
    /// # Errors
    /// The file cannot be read, or does not hold an Ed25519 key.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        if text.contains(PRIVATE) {
            return SigningKey::read(&text)?.public();
        }
        let der = decode_pem(PUBLIC, &text)?;
        let bytes = der.strip_prefix(&SPKI[..]).and_then(|bytes| bytes.try_into().ok());
        Ok(Self { bytes: bytes.ok_or_else(|| invalid("not an Ed25519 public key"))? })
    }

    /// The key as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        encode_pem(PUBLIC, &[&SPKI[..], &self.bytes].concat())
    }

    /// The id of the key, as checkpoints name it.
    #[must_use]
    pub fn id(&self) -> Fingerprint {
        Fingerprint::of_bytes(&self.bytes)
    }

    /// Whether the key made this signature, given in base64url, over the statement.
    pub(super) fn verifies(&self, statement: &[u8], signature: &str) -> bool {
        URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| {
            UnparsedPublicKey::new(&ED25519, self.bytes).verify(statement, &signature).is_ok()
        })
    }
}

fn encode_pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn decode_pem(label: &str, text: &str) -> io::Result<Vec<u8>> {
    let body = text
        .split_once(&format!("-----BEGIN {label}-----"))
        .and_then(|(_, rest)| rest.split_once(&format!("-----END {label}-----")))
        .map(|(body, _)| body.split_ascii_whitespace().collect::<String>());
    let body = body.map(Zeroizing::new).ok_or_else(|| {
        invalid(format!("expected PEM with '-----BEGIN {label}-----', of an Ed25519 key"))
    })?;
    STANDARD.decode(&*body).map_err(|_| invalid("the PEM is not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_the_key_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.key");
        let made = SigningKey::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = SigningKey::open(&path).unwrap();
        assert_eq!(made.id(), again.id());
        let signature = made.sign(b"statement");
        let public = again.public().unwrap();
        assert!(public.verifies(b"statement", &signature));
        assert!(!public.verifies(b"statemenT", &signature));
        assert!(!public.verifies(b"statement", "AAAA"));
        let pem = directory.path().join("audit.pub");
        std::fs::write(&pem, public.pem()).unwrap();
        assert_eq!(PublicKey::read(&pem).unwrap(), public);
        assert_eq!(PublicKey::read(&path).unwrap(), public);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(&path, open).unwrap();
        assert!(SigningKey::open(&path).err().unwrap().to_string().contains("chmod 600"));
    }
}
