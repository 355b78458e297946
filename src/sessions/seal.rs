//! What travels through a browser and must come back as it was: encrypted, authenticated, and good for
//! one purpose at one host only.
//!
//! Each message is sealed by AES-256-GCM under a key of its own, derived from one of the operator's keys
//! and 24 random bytes (HKDF-SHA256, RFC 5869). The ring of keys is a file: the first key seals, all of
//! them open, so that keys are replaced without signing anybody out.

use std::{fmt::Write as _, io, os::unix::fs::OpenOptionsExt as _, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hkdf, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use zeroize::Zeroizing;

/// The length of a key in bytes.
const KEY: usize = 32;
const SALT: usize = 24;
/// Tells keys apart without telling anything of them.
const KEY_ID: usize = 4;
/// The most keys in a ring.
const MAX_KEYS: usize = 16;

/// What a sealed message is for. One for another purpose does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The way from a workspace to the login host.
    Start,
    /// An attempt to sign in, while the person is at the provider.
    Attempt,
    /// The way from the login host back to a workspace.
    Ticket,
    /// A session, in the file of sessions.
    Session,
    /// A cookie of a session.
    Cookie,
    /// What several agents share.
    Shared,
}

/// A ring of keys.
pub struct Sealer {
    keys: Vec<Key>,
}

struct Key {
    id: [u8; KEY_ID],
    secret: Zeroizing<[u8; KEY]>,
}

/// Why there are no keys.
#[derive(Debug, Error)]
pub enum RingError {
    /// The file cannot be read or made.
    #[error("{0}")]
    File(#[from] io::Error),
    /// A line is no key.
    #[error("line {0}: expected a key: 32 random bytes in base64url without padding")]
    Line(usize),
    /// Nothing but comments.
    #[error("there is no key in it")]
    Empty,
    /// More than anybody needs.
    #[error("there are more than {MAX_KEYS} keys in it: take the oldest out")]
    Many,
    /// No random numbers.
    #[error("no random numbers to be had for a new key")]
    Random,
}

/// Nothing could be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nothing can be sealed")]
pub struct SealError;

impl Sealer {
    /// Reads a ring, one key a line, the newest first. Without a file there is one of this process alone.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn read_ring(path: &Path) -> Result<Self, RingError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::ring(&Zeroizing::new(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::ring(&Self::new_ring()?),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a ring with one key if there is no file yet.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn make_ring(path: &Path) -> Result<(), RingError> {
        if path.exists() {
            return Ok(());
        }
        let text = Self::new_ring()?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        Ok(io::Write::write_all(&mut file, text.as_bytes())?)
    }

    fn new_ring() -> Result<Zeroizing<String>, RingError> {
        let mut secret = Zeroizing::new([0; KEY]);
        rand::fill(secret.as_mut()).map_err(|_| RingError::Random)?;
        let mut text = Zeroizing::new(String::from("# The first key seals, all of them open.\n"));
        let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", *key);
        Ok(text)
    }

    /// Reads the text of a ring.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn ring(text: &str) -> Result<Self, RingError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = Zeroizing::new(
                URL_SAFE_NO_PAD.decode(line).map_err(|_| RingError::Line(number + 1))?,
            );
            let secret: [u8; KEY] =
                bytes.as_slice().try_into().map_err(|_| RingError::Line(number + 1))?;
            keys.push(Key { id: id(&secret), secret: Zeroizing::new(secret) });
        }
        match keys.len() {
            0 => Err(RingError::Empty),
            1..=MAX_KEYS => Ok(Self { keys }),
            _ => Err(RingError::Many),
        }
    }

    /// Seals a value for a purpose at a host.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn seal(
        &self,
        purpose: Purpose,
        host: &str,
        value: &impl Serialize,
    ) -> Result<String, SealError> {
        let key = self.keys.first().ok_or(SealError)?;
        let mut salt = [0; SALT];
        rand::fill(&mut salt).map_err(|_| SealError)?;
        let mut message = serde_json::to_vec(value).map_err(|_| SealError)?;
        let cipher = key.derive(&salt, purpose, host).ok_or(SealError)?;
        cipher
            .seal_in_place_append_tag(nonce(), Aad::empty(), &mut message)
            .map_err(|_| SealError)?;
        Ok(URL_SAFE_NO_PAD.encode([&key.id[..], &salt, &message].concat()))
    }

    /// Opens what was sealed for that purpose at that host; `None` for everything else.
    #[must_use]
    pub fn open<T: DeserializeOwned>(&self, purpose: Purpose, host: &str, text: &str) -> Option<T> {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, rest) = bytes.split_first_chunk_mut::<KEY_ID>()?;
        let (salt, message) = rest.split_first_chunk_mut::<SALT>()?;
        let key = self.keys.iter().find(|key| key.id == *id)?;
        let cipher = key.derive(salt, purpose, host)?;
        let plain = cipher.open_in_place(nonce(), Aad::empty(), message).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

impl Key {
    fn derive(&self, salt: &[u8; SALT], purpose: Purpose, host: &str) -> Option<LessSafeKey> {
        let purpose = match purpose {
            Purpose::Start => "start",
            Purpose::Attempt => "attempt",
            Purpose::Ticket => "ticket",
            Purpose::Session => "session",
            Purpose::Cookie => "cookie",
            Purpose::Shared => "shared",
        };
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.secret.as_ref());
        // The purpose has no separator in it, so that no two pairs read the same.
        let info = [b"identity-spoa ", purpose.as_bytes(), b" ", host.as_bytes()];
        let key = secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// Each message has a key of its own, so that its nonce is never used again.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn id(secret: &[u8; KEY]) -> [u8; KEY_ID] {
    let digest = digest::digest(&digest::SHA256, &[b"identity-spoa key id ", &secret[..]].concat());
    let mut id = [0; KEY_ID];
    id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(byte: u8) -> String {
        URL_SAFE_NO_PAD.encode([byte; KEY])
    }

    fn sealer(bytes: &[u8]) -> Sealer {
        let text: Vec<_> = bytes.iter().map(|byte| line(*byte)).collect();
        Sealer::ring(&text.join("\n")).unwrap()
    }

    #[test]
    fn c2_what_is_sealed_opens_for_its_purpose_at_its_host_only() {
        let sealer = sealer(&[1]);
        let text = sealer.seal(Purpose::Ticket, "a.test", &"secret").unwrap();
        let open = |purpose, host| sealer.open::<String>(purpose, host, &text);
        assert_eq!(open(Purpose::Ticket, "a.test").as_deref(), Some("secret"));
        assert_eq!(open(Purpose::Start, "a.test"), None);
        assert_eq!(open(Purpose::Attempt, "a.test"), None);
        assert_eq!(open(Purpose::Ticket, "b.test"), None);
        assert!(!text.contains("secret"));
        assert_ne!(text, sealer.seal(Purpose::Ticket, "a.test", &"secret").unwrap());
    }

    #[test]
    fn c3_keys_are_replaced_without_losing_what_is_under_way() {
        let (old, both, new) = (sealer(&[1]), sealer(&[2, 1]), sealer(&[2]));
        let before = old.seal(Purpose::Start, "h", &7).unwrap();
        assert_eq!(both.open::<u8>(Purpose::Start, "h", &before), Some(7));
        let after = both.seal(Purpose::Start, "h", &8).unwrap();
        assert_eq!(new.open::<u8>(Purpose::Start, "h", &after), Some(8));
        assert_eq!(new.open::<u8>(Purpose::Start, "h", &before), None, "the old key is gone");
    }

    #[test]
    fn a_ring_is_made_once_and_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        Sealer::make_ring(&path).unwrap();
        let text = Sealer::read_ring(&path).unwrap().seal(Purpose::Start, "h", &1).unwrap();
        Sealer::make_ring(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Sealer::read_ring(&path).unwrap().open(Purpose::Start, "h", &text), Some(1));
    }

    #[test]
    fn a_ring_that_is_none_is_told_with_its_line() {
        assert!(matches!(Sealer::ring("# nothing\n"), Err(RingError::Empty)));
        let short = format!("{}\nAAAA\n", line(1));
        assert!(matches!(Sealer::ring(&short), Err(RingError::Line(2))));
        let many: Vec<_> = (0..17).map(line).collect();
        assert!(matches!(Sealer::ring(&many.join("\n")), Err(RingError::Many)));
    }

    proptest! {
        #[test]
        fn c6_a_changed_or_shortened_message_does_not_open(at in 0..100_usize, bit in 0..6_u8, cut in 0..100_usize) {
            let sealer = sealer(&[1]);
            let text = sealer.seal(Purpose::Start, "h", &"some value").unwrap();
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_eq!(sealer.open::<String>(Purpose::Start, "h", &changed), None);
            }
            let cut = &text[..cut % text.len()];
            prop_assert_eq!(sealer.open::<String>(Purpose::Start, "h", cut), None);
        }
    }
}
