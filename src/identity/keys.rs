//! A JSON Web Key Set (RFC 7517), reduced to the keys that may verify a token.
//!
//! One key that cannot be used never takes the others along: it is left out and named, and the set is refused only if no
//! key is left. A key is used for its own type of algorithm alone, so that a public key cannot serve as a shared secret.
//! [`key`] reads one key, in the forms in which providers really publish them.
//!
//! The invariant: a [`Key`] that exists is public, for signatures, strong enough, and on its curve.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use thiserror::Error;

mod certificate;
mod key;
mod refused;
mod rsa;

#[cfg(test)]
mod tests;

pub use key::Key;
pub use refused::{KeyRefusal, RefusedKey, RefusedKeys};

/// The most keys that are read from one set. Some providers publish a key for each of their applications or tenants.
pub const MAX_KEYS: usize = 1000;

/// The keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
    refused: RefusedKeys,
    digest: [u8; 32],
}

/// Why a document is not a key set.
#[derive(Debug, Error)]
pub enum KeySetError {
    /// Not the JSON of a key set.
    #[error("not a JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    /// More keys than any issuer needs.
    #[error("the set has more than {MAX_KEYS} keys")]
    TooMany,
    /// None of the keys can verify a token.
    #[error("none of the {} keys in the set is a usable public signature key{}", .0.len(), .0.in_detail())]
    NoneUsable(RefusedKeys),
}

/// Why no key was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMiss {
    /// No key has that id. The set may be out of date.
    Unknown,
    /// The key cannot be used for that algorithm.
    Algorithm,
    /// Several keys match.
    Ambiguous,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}

impl RawSet {
    fn read(document: &[u8]) -> Result<Self, serde_json::Error> {
        // Some servers of static files put a byte order mark before the text.
        serde_json::from_slice(document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document))
    }
}

impl KeySet {
    /// Reads a key set. Keys that cannot be used are left out, see [`KeyRefusal`].
    ///
    /// # Errors
    /// Not a key set, too many keys, or no usable one.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let raw = RawSet::read(document)?;
        if raw.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut refused) = (Vec::new(), RefusedKeys::default());
        for (index, value) in raw.keys.iter().enumerate() {
            match Key::read(value) {
                Ok(key) => keys.push(key),
                // One new type of key must not make an issuer unusable.
                Err(why) => refused.add(index, value, why),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable(refused));
        }
        mark_ambiguous(&mut keys);
        let digest = fingerprint(&keys);
        Ok(Self { keys, refused, digest })
    }

    /// How many keys a document has, usable or not; zero if it is not a key set.
    #[must_use]
    pub fn listed(document: &[u8]) -> usize {
        RawSet::read(document).map_or(0, |raw| raw.keys.len())
    }

    /// The keys of the document that are not used, and why.
    #[must_use]
    pub fn refused(&self) -> &RefusedKeys {
        &self.refused
    }

    /// How many keys are ambiguous: another key has the same id and algorithm.
    #[must_use]
    pub fn ambiguous(&self) -> usize {
        self.keys.iter().filter(|key| key.ambiguous).count()
    }

    /// How many keys have no id.
    #[must_use]
    pub fn nameless(&self) -> usize {
        self.keys.iter().filter(|key| key.id.is_none()).count()
    }

    /// The key for a token's header.
    ///
    /// A header without a key id selects the only key that has the algorithm (RFC 7515 section 4.1.4).
    ///
    /// # Errors
    /// No key matches, or several do.
    pub fn select(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, KeyMiss> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        // Another key of the same algorithm may be the right one, and trying them in turn would cost a check each.
        let Some(id) = id else {
            let mut fitting = self.keys.iter().filter(fits);
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                (Some(_), Some(_)) => Err(KeyMiss::Ambiguous),
                (None, _) => Err(KeyMiss::Algorithm),
            };
        };
        let named = || self.keys.iter().filter(|key| key.id.as_deref() == Some(id));
        match named().find(fits) {
            Some(key) if key.ambiguous => Err(KeyMiss::Ambiguous),
            Some(key) => Ok(key),
            // The id is known, so a newer set would not help: only an unknown id is worth a fetch.
            None if named().next().is_some() => Err(KeyMiss::Algorithm),
            None => Err(KeyMiss::Unknown),
        }
    }

    /// SHA-256 of the keys. Two sets with the same digest verify the same tokens.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// How many usable keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never true: a set without usable keys is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Marks different keys with the same id and algorithm. The agent cannot choose between them, so it uses neither.
fn mark_ambiguous(keys: &mut [Key]) {
    let clashes: Vec<bool> = keys
        .iter()
        .map(|key| {
            key.id.is_some()
                && keys.iter().any(|other| {
                    // The same key listed twice is not ambiguous.
                    other.id == key.id
                        && other.material != key.material
                        && other.algorithms.iter().any(|a| key.algorithms.contains(a))
                })
        })
        .collect();
    for (key, clash) in keys.iter_mut().zip(clashes) {
        key.ambiguous = clash;
    }
}

/// SHA-256 of the keys in a fixed order.
fn fingerprint(keys: &[Key]) -> [u8; 32] {
    let mut parts: Vec<_> = keys
        .iter()
        .map(|key| {
            let material = URL_SAFE_NO_PAD.encode(&key.material);
            format!("{:?} {:?} {:?} {material}", key.id, key.algorithms, key.issuer)
        })
        .collect();
    // The order of keys in the document does not matter, and providers change it.
    parts.sort_unstable();
    let digest = digest::digest(&digest::SHA256, parts.join("\n").as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
