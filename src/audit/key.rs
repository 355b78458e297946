//! The key that signs checkpoints (Ed25519, RFC 8032), and the public half that proves them.
//!
//! The files are PEM (RFC 5958 and RFC 8410), as OpenSSL reads and writes them.

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
/// What precedes the 32 bytes of a public key in its SubjectPublicKeyInfo (RFC 8410 section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Signs checkpoints.
pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    id: Fingerprint,
}

/// Proves checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; 32],
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

impl SigningKey {
    /// The key of a file, which is made with mode 0600 if there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let mode = std::fs::metadata(path)?.mode();
                if mode & 0o077 != 0 {
                    return Err(invalid(format!(
                        "others may read it (mode {:04o}): chmod 600 it",
                        mode & 0o777
                    )));
                }
                Self::read(&Zeroizing::new(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error),
        }
    }

    fn read(text: &str) -> io::Result<Self> {
        let der = Zeroizing::new(unpem(PRIVATE, text)?);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|error| invalid(format!("not an Ed25519 private key: {error}")))?;
        Self::of(pair)
    }

    fn make(path: &Path) -> io::Result<Self> {
        let pair =
            Ed25519KeyPair::generate().map_err(|_| invalid("no random numbers to be had"))?;
        let der = pair.to_pkcs8v1().map_err(|_| invalid("the new key cannot be written down"))?;
        let text = Zeroizing::new(pem(PRIVATE, der.as_ref()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Self::of(pair)
    }

    #[cfg(test)]
    pub(super) fn random() -> Self {
        Self::of(Ed25519KeyPair::generate().unwrap()).unwrap()
    }

    fn of(pair: Ed25519KeyPair) -> io::Result<Self> {
        let id = public(&pair)?.id();
        Ok(Self { pair, id })
    }

    /// The public half.
    pub(super) fn public(&self) -> io::Result<PublicKey> {
        public(&self.pair)
    }

    /// The name of the key: what its public half's fingerprint is.
    pub(super) const fn id(&self) -> Fingerprint {
        self.id
    }

    /// The signature in base64url.
    pub(super) fn sign(&self, statement: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(statement).as_ref())
    }
}

fn public(pair: &Ed25519KeyPair) -> io::Result<PublicKey> {
    let bytes = pair.public_key().as_ref().try_into();
    Ok(PublicKey { bytes: bytes.map_err(|_| invalid("not an Ed25519 key"))? })
}

impl PublicKey {
    /// The public key of a file with either half.
    ///
    /// # Errors
    /// It cannot be read, or is no Ed25519 key.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        if text.contains(PRIVATE) {
            return SigningKey::read(&text)?.public();
        }
        let der = unpem(PUBLIC, &text)?;
        let bytes = der.strip_prefix(&SPKI[..]).and_then(|bytes| bytes.try_into().ok());
        Ok(Self { bytes: bytes.ok_or_else(|| invalid("not an Ed25519 public key"))? })
    }

    /// As PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(PUBLIC, &[&SPKI[..], &self.bytes].concat())
    }

    /// The name of the key in checkpoints.
    #[must_use]
    pub fn id(&self) -> Fingerprint {
        Fingerprint::of(&self.bytes)
    }

    /// Whether the signature, in base64url, is one of this key.
    pub(super) fn proves(&self, statement: &[u8], signature: &str) -> bool {
        URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| {
            UnparsedPublicKey::new(&ED25519, self.bytes).verify(statement, &signature).is_ok()
        })
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn unpem(label: &str, text: &str) -> io::Result<Vec<u8>> {
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
        assert!(public.proves(b"statement", &signature));
        assert!(!public.proves(b"statemenT", &signature));
        assert!(!public.proves(b"statement", "AAAA"));
        let pem = directory.path().join("audit.pub");
        std::fs::write(&pem, public.pem()).unwrap();
        assert_eq!(PublicKey::read(&pem).unwrap(), public);
        assert_eq!(PublicKey::read(&path).unwrap(), public);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(&path, open).unwrap();
        assert!(SigningKey::open(&path).err().unwrap().to_string().contains("chmod 600"));
    }
}
