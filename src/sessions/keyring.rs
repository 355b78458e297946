//! The key ring: encrypts what leaves the agent and must come back unchanged, for sign-in and for session stores.
//!
//! A message is encrypted and authenticated for one [`Purpose`] and one name, such as a host or a row of a store. It
//! cannot be decrypted for another purpose or name, so a value cannot be moved to a place where it would mean something
//! else. Each message has a key of its own for AES-256-GCM, derived from one of the operator's keys and 24 random
//! bytes (HKDF-SHA256, RFC 5869), so that no nonce is ever used twice with one key.
//!
//! The keys are the lines of a file that all agents have. The first key encrypts and every key decrypts, so that a key
//! can be replaced without ending sessions. How long a message is valid is up to its content, not to the ring.

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
/// The length of a key's id, which says nothing about the key.
const KEY_ID: usize = 4;
/// The most keys in one ring.
const MAX_KEYS: usize = 16;

/// What an encrypted message is for. It cannot be decrypted for another purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A redirect from a workspace's host to the login host.
    Start,
    /// An attempt to sign in, while the person is at the provider.
    Attempt,
    /// A hand-over from the login host back to a workspace's host.
    Ticket,
    /// The same for the host of another endpoint, which was not opened.
    SiblingTicket,
    /// A session or cookie in a store.
    Session,
    /// A session cookie.
    Cookie,
    /// A change or revocation that agents share.
    Shared,
}

/// The keys, newest first.
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    id: [u8; KEY_ID],
    secret: Zeroizing<[u8; KEY]>,
}

/// Why a key ring cannot be read or created.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The file cannot be read or created.
    #[error("{0}")]
    File(#[from] io::Error),
    /// A line is not a key.
    #[error("line {0}: expected a key: 32 random bytes in base64url without padding")]
    Line(usize),
    /// The file has no key.
    #[error("expected at least one key, found none")]
    Empty,
    /// The file has too many keys.
    #[error("expected at most {MAX_KEYS} keys: remove the oldest")]
    TooMany,
    /// The system has no random numbers.
    #[error("the system has no random numbers for a new key")]
    Random,
}

/// A value could not be encrypted, since the system has no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("encryption failed: the system has no random numbers")]
pub struct SealError;

impl Keyring {
    /// Reads a key ring from a file. If there is no file, returns a new ring that this process alone has.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub fn read(path: &Path) -> Result<Self, KeyringError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&Zeroizing::new(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::parse(&Self::new_text()?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a file with one new key, unless the file exists.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub fn create_if_absent(path: &Path) -> Result<(), KeyringError> {
        if path.exists() {
            return Ok(());
        }
        let text = Self::new_text()?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        Ok(io::Write::write_all(&mut file, text.as_bytes())?)
    }

    /// The text of a file with one new key.
    fn new_text() -> Result<Zeroizing<String>, KeyringError> {
        let mut secret = Zeroizing::new([0; KEY]);
        rand::fill(secret.as_mut()).map_err(|_| KeyringError::Random)?;
        let mut text =
            Zeroizing::new(String::from("# The first key encrypts, every key decrypts.\n"));
        let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", *key);
        Ok(text)
    }

    /// Reads a key ring: one key a line, newest first. Empty lines and lines with `#` are ignored.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = Zeroizing::new(
                URL_SAFE_NO_PAD.decode(line).map_err(|_| KeyringError::Line(number + 1))?,
            );
            let secret: [u8; KEY] =
                bytes.as_slice().try_into().map_err(|_| KeyringError::Line(number + 1))?;
            keys.push(Key { id: key_id(&secret), secret: Zeroizing::new(secret) });
        }
        match keys.len() {
            0 => Err(KeyringError::Empty),
            1..=MAX_KEYS => Ok(Self { keys }),
            _ => Err(KeyringError::TooMany),
        }
    }

    /// Encrypts a value for a purpose and a name, such as a host.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(
        &self,
        purpose: Purpose,
        name: &str,
        value: &impl Serialize,
    ) -> Result<String, SealError> {
        let key = self.keys.first().ok_or(SealError)?;
        let mut salt = [0; SALT];
        rand::fill(&mut salt).map_err(|_| SealError)?;
        let mut message = serde_json::to_vec(value).map_err(|_| SealError)?;
        let cipher = key.derive(&salt, purpose, name).ok_or(SealError)?;
        cipher
            .seal_in_place_append_tag(nonce(), Aad::empty(), &mut message)
            .map_err(|_| SealError)?;
        Ok(URL_SAFE_NO_PAD.encode([&key.id[..], &salt, &message].concat()))
    }

    /// Decrypts a value that was encrypted for this purpose and name; `None` for everything else.
    #[must_use]
    pub fn open<T: DeserializeOwned>(&self, purpose: Purpose, name: &str, text: &str) -> Option<T> {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, rest) = bytes.split_first_chunk_mut::<KEY_ID>()?;
        let (salt, message) = rest.split_first_chunk_mut::<SALT>()?;
        let key = self.keys.iter().find(|key| key.id == *id)?;
        let cipher = key.derive(salt, purpose, name)?;
        let plain = cipher.open_in_place(nonce(), Aad::empty(), message).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

impl Key {
    /// The cipher for one message.
    fn derive(&self, salt: &[u8; SALT], purpose: Purpose, name: &str) -> Option<LessSafeKey> {
        let purpose = match purpose {
            Purpose::Start => "start",
            Purpose::Attempt => "attempt",
            Purpose::Ticket => "ticket",
            Purpose::SiblingTicket => "sibling-ticket",
            Purpose::Session => "session",
            Purpose::Cookie => "cookie",
            Purpose::Shared => "shared",
        };
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.secret.as_ref());
        // No purpose contains the separator, so that two different pairs never give the same bytes.
        let info = [b"identity-spoa ", purpose.as_bytes(), b" ", name.as_bytes()];
        let key = secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// The nonce of every message. It may be constant because each message has a key of its own.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// The id of a key, by which a message finds its key in the ring.
fn key_id(secret: &[u8; KEY]) -> [u8; KEY_ID] {
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

    fn keyring(bytes: &[u8]) -> Keyring {
        let text: Vec<_> = bytes.iter().map(|byte| line(*byte)).collect();
        Keyring::parse(&text.join("\n")).unwrap()
    }

    #[test]
    fn c2_a_message_is_decrypted_only_for_its_purpose_and_name() {
        let keyring = keyring(&[1]);
        let text = keyring.seal(Purpose::Ticket, "a.test", &"secret").unwrap();
        let open = |purpose, host| keyring.open::<String>(purpose, host, &text);
        assert_eq!(open(Purpose::Ticket, "a.test").as_deref(), Some("secret"));
        assert_eq!(open(Purpose::Start, "a.test"), None);
        assert_eq!(open(Purpose::Attempt, "a.test"), None);
        assert_eq!(open(Purpose::Ticket, "b.test"), None);
        assert!(!text.contains("secret"));
        assert_ne!(text, keyring.seal(Purpose::Ticket, "a.test", &"secret").unwrap());
    }

    #[test]
    fn c3_keys_are_replaced_without_losing_messages_under_way() {
        let (old, both, new) = (keyring(&[1]), keyring(&[2, 1]), keyring(&[2]));
        let before = old.seal(Purpose::Start, "h", &7).unwrap();
        assert_eq!(both.open::<u8>(Purpose::Start, "h", &before), Some(7));
        let after = both.seal(Purpose::Start, "h", &8).unwrap();
        assert_eq!(new.open::<u8>(Purpose::Start, "h", &after), Some(8));
        assert_eq!(new.open::<u8>(Purpose::Start, "h", &before), None, "the old key is gone");
    }

    #[test]
    fn a_key_ring_is_created_once_and_only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        Keyring::create_if_absent(&path).unwrap();
        let text = Keyring::read(&path).unwrap().seal(Purpose::Start, "h", &1).unwrap();
        Keyring::create_if_absent(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Keyring::read(&path).unwrap().open(Purpose::Start, "h", &text), Some(1));
    }

    #[test]
    fn a_mistake_in_a_key_ring_is_told_with_its_line() {
        assert!(matches!(Keyring::parse("# nothing\n"), Err(KeyringError::Empty)));
        let short = format!("{}\nAAAA\n", line(1));
        assert!(matches!(Keyring::parse(&short), Err(KeyringError::Line(2))));
        let many: Vec<_> = (0..17).map(line).collect();
        assert!(matches!(Keyring::parse(&many.join("\n")), Err(KeyringError::TooMany)));
    }

    proptest! {
        #[test]
        fn c6_a_changed_or_shortened_message_is_not_decrypted(at in 0..100_usize, bit in 0..6_u8, cut in 0..100_usize) {
            let keyring = keyring(&[1]);
            let text = keyring.seal(Purpose::Start, "h", &"some value").unwrap();
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_eq!(keyring.open::<String>(Purpose::Start, "h", &changed), None);
            }
            let cut = &text[..cut % text.len()];
            prop_assert_eq!(keyring.open::<String>(Purpose::Start, "h", cut), None);
        }
    }
}
