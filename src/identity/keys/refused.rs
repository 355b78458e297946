//! The keys of a set that are not used, by name and reason, for the log and for `doctor`.
//!
//! Names and types are texts of the issuer: they are shortened and quoted.

use std::fmt::{self, Write as _};

use serde_json::Value;
use thiserror::Error;

/// The most keys that one text names.
const MAX_NAMED: usize = 8;
/// The longest text of the issuer that is shown, in characters.
const MAX_SHOWN: usize = 80;

/// Why a published key is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyRefusal {
    /// `use` or `key_ops` say that it verifies nothing: most sets have keys for encryption, too.
    #[error("it is not for verifying signatures")]
    Purpose,
    /// A type or curve that is not supported, or a symmetric key.
    #[error("keys of the type {0} are not supported")]
    Kind(String),
    /// An algorithm that is not supported, or is not of the key's type.
    #[error("the algorithm {0} is not supported for keys of its type")]
    Algorithm(String),
    /// A key that was published with its private part is no longer secret.
    #[error("its private part is published")]
    Private,
    /// It is not a JSON object with members of the right types.
    #[error("it is not a JSON Web Key: {0}")]
    Form(String),
    /// A member that its type needs.
    #[error("'{0}' is missing")]
    Missing(&'static str),
    /// A number that cannot be decoded.
    #[error("'{0}' is not base64url")]
    Encoding(&'static str),
    /// RFC 7518 section 3.3 asks for 2048 bits; much longer keys cost too much time.
    #[error("its RSA modulus has {0} bits, and 2048 to 8192 are accepted")]
    Size(usize),
    /// An exponent that is weak, or slow to use.
    #[error("its RSA exponent is not an odd number from 65537 to 4294967295")]
    Exponent,
    /// CVE-2017-15361.
    #[error("its RSA modulus is of the form of a broken generator (ROCA)")]
    Roca,
    /// RFC 8725 section 3.4.
    #[error("it is not a point of its curve")]
    Point,
    /// The certificate of a key that consists of nothing else.
    #[error("it has only a certificate ('x5c'), which cannot be read")]
    Certificate,
}

impl KeyRefusal {
    /// Whether the issuer probably meant the key to verify tokens, which are refused now.
    #[must_use]
    pub fn is_defect(&self) -> bool {
        !matches!(self, Self::Purpose | Self::Kind(_) | Self::Algorithm(_))
    }
}

/// A key that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedKey {
    /// Its id, if it has one.
    pub id: Option<Box<str>>,
    /// Its place in the document, from 1 on.
    pub place: usize,
    /// Why it is not used.
    pub why: KeyRefusal,
}

impl fmt::Display for RefusedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "key {}: {}", shown(id), self.why),
            None => write!(f, "key number {}: {}", self.place, self.why),
        }
    }
}

/// The keys of a document that are not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedKeys(Vec<RefusedKey>);

impl RefusedKeys {
    pub(super) fn add(&mut self, index: usize, key: &Value, why: KeyRefusal) {
        let id = key.get("kid").and_then(Value::as_str).map(Into::into);
        self.0.push(RefusedKey { id, place: index + 1, why });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every key of the document is used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &RefusedKey> {
        self.0.iter()
    }

    /// Those that the issuer probably meant to verify tokens, in one line; `None` if there are none.
    #[must_use]
    pub fn defects(&self) -> Option<String> {
        listed(self.0.iter().filter(|key| key.why.is_defect()))
    }

    /// All of them, to follow another text.
    pub(super) fn in_detail(&self) -> String {
        listed(self.0.iter()).map_or_else(String::new, |list| format!(": {list}"))
    }
}

/// Some keys in one line, the first ones by name.
fn listed<'k>(keys: impl Iterator<Item = &'k RefusedKey>) -> Option<String> {
    let (mut text, mut count) = (String::new(), 0_usize);
    for key in keys {
        count += 1;
        if count <= MAX_NAMED {
            let separator = if count > 1 { "; " } else { "" };
            let _ = write!(text, "{separator}{key}");
        }
    }
    let more = count.saturating_sub(MAX_NAMED);
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    (count > 0).then_some(text)
}

/// A text of the issuer, shortened and quoted.
pub(super) fn shown(text: &str) -> String {
    let text: String = text.chars().take(MAX_SHOWN).collect();
    format!("\"{}\"", text.escape_debug())
}
