//! A JSON Web Key Set (RFC 7517), reduced to the keys that may verify a token.
//!
//! One key that cannot be used never takes the others along: it is left out, and the set is refused only if no key is
//! left. A key is used for its own type of algorithm alone, so that a public key cannot serve as a shared secret.
//!
//! The invariant: a [`Key`] that exists is public, for signatures, strong enough, and on its curve.

use aws_lc_rs::{
    digest,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm,
        ParsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use thiserror::Error;

/// The most keys that are read from one set.
pub const MAX_KEYS: usize = 100;
/// The sizes of RSA keys that are accepted: at least RFC 7518 section 3.3 asks for, at most what costs little time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
    digest: [u8; 32],
}

/// A public key with the algorithms it may be used for.
pub struct Key {
    id: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    material: Vec<u8>,
    ambiguous: bool,
    /// The issuer of the key, where one set serves several issuers (Entra).
    pub issuer: Option<Box<str>>,
    /// The key in the form that jsonwebtoken takes.
    pub decoding: DecodingKey,
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
    #[error("none of the {0} keys in the set is a usable public signature key")]
    NoneUsable(usize),
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

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    issuer: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl KeySet {
    /// Reads a key set. Keys that cannot be used are left out: unknown types and curves, symmetric
    /// and private keys, keys for encryption, weak RSA keys (RFC 7518 section 3.3), points that are
    /// not on their curve.
    ///
    /// # Errors
    /// Not a key set, too many keys, or no usable one.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let raw: RawSet = serde_json::from_slice(document)?;
        if raw.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let count = raw.keys.len();
        let mut keys: Vec<Key> = Vec::new();
        // A key that cannot be read is skipped: one new type of key must not make an issuer unusable.
        for key in raw.keys.into_iter().filter_map(|key| Key::read(&key)) {
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable(count));
        }
        mark_ambiguous(&mut keys);
        let digest = fingerprint(&keys);
        Ok(Self { keys, digest })
    }

    /// How many keys a document has, usable or not; zero if it is not a key set.
    #[must_use]
    pub fn listed(document: &[u8]) -> usize {
        serde_json::from_slice::<RawSet>(document).map_or(0, |raw| raw.keys.len())
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

impl Key {
    fn read(value: &serde_json::Value) -> Option<Self> {
        let raw = RawKey::deserialize(value).ok()?;
        let for_signatures = raw.usage.as_deref().is_none_or(|usage| usage == "sig")
            && raw.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        // `d` is the private part: a key that was published with it is no longer secret.
        if raw.d.is_some() || !for_signatures {
            return None;
        }
        let (family, material, decoding) = raw.material()?;
        let algorithms: Vec<_> = match raw.alg.as_deref() {
            // Without `alg` a key may be used for every algorithm of its type.
            None => family.to_vec(),
            Some(name) => family
                .iter()
                .copied()
                .filter(|a| crate::identity::profile::algorithm(name) == Some(*a))
                .collect(),
        };
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            id: raw.kid.map(Into::into),
            algorithms,
            material,
            ambiguous: false,
            issuer: raw.issuer.map(Into::into),
            decoding,
        })
    }
}

impl RawKey {
    fn material(&self) -> Option<(&'static [Algorithm], Vec<u8>, DecodingKey)> {
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(&self.n)?, bytes(&self.e)?);
                if !RSA_BITS.contains(&bits(&n)) || !good_exponent(&e) || is_roca(&n) {
                    return None;
                }
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                Some((RSA, [n, e].concat(), key))
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (family, size, verification): (&[_], _, _) = if curve == "P-256" {
                    (&[Algorithm::ES256], 32, &ECDSA_P256_SHA256_FIXED)
                } else {
                    (&[Algorithm::ES384], 48, &ECDSA_P384_SHA384_FIXED)
                };
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                // jsonwebtoken does not check that the point is on the curve.
                if x.len() != size || y.len() != size || !on_curve(verification, &x, &y) {
                    return None;
                }
                let key =
                    DecodingKey::from_ec_components(self.x.as_ref()?, self.y.as_ref()?).ok()?;
                Some((family, [x, y].concat(), key))
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes(&self.x)?;
                if x.len() != 32 {
                    return None;
                }
                let key = DecodingKey::from_ed_components(self.x.as_ref()?).ok()?;
                Some((&[Algorithm::EdDSA], x, key))
            }
            _ => None,
        }
    }
}

/// The length of a big-endian number in bits.
fn bits(number: &[u8]) -> usize {
    let significant = number.iter().skip_while(|b| **b == 0);
    let (mut length, mut first) = (0, 0_u8);
    for (index, byte) in significant.enumerate() {
        if index == 0 {
            first = *byte;
        }
        length += 8;
    }
    length - usize::try_from(first.leading_zeros()).unwrap_or_default().min(length)
}

/// Whether an RSA exponent is odd, at least 65537, and short enough that verification stays fast.
fn good_exponent(e: &[u8]) -> bool {
    let mut value = 0_u64;
    for byte in e {
        let next = value.checked_mul(256).and_then(|more| more.checked_add(u64::from(*byte)));
        let Some(next) = next else { return false };
        value = next;
    }
    value % 2 == 1 && (65_537..=u64::from(u32::MAX)).contains(&value)
}

/// Whether a point is on its curve (RFC 8725 section 3.4).
fn on_curve(curve: &'static EcdsaVerificationAlgorithm, x: &[u8], y: &[u8]) -> bool {
    ParsedPublicKey::new(curve, [&[4], x, y].concat()).is_ok()
}

/// Whether a modulus is of the form that some chips generated, from which the private key can be computed
/// (CVE-2017-15361, ROCA). One in 2^27 other moduli has the form by chance.
fn is_roca(n: &[u8]) -> bool {
    let remainder = |p: u32| n.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % p);
    let is_power_of_65537 = |residue: u32, p: u32| {
        std::iter::successors(Some(1), |power| Some(power * (65_537 % p) % p))
            .take(p as usize)
            .any(|power| power == residue)
    };
    (3..=167)
        .filter(|n| (2..*n).all(|divisor| n % divisor != 0))
        .all(|p| is_power_of_65537(remainder(p), p))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rsa(kid: &str, bytes: usize, fill: u8) -> Value {
        let mut n = vec![fill; bytes];
        n[0] |= 0x80;
        json!({"kty": "RSA", "kid": kid, "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB"})
    }

    fn ed(kid: &str, fill: u8) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": URL_SAFE_NO_PAD.encode([fill; 32])})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
    }

    #[test]
    fn j3_a_key_serves_the_algorithms_of_its_type_only() {
        let keys = set(&[rsa("r", 256, 1), ed("e", 1)]).unwrap();
        assert!(keys.select(Some("r"), Algorithm::PS256).is_ok());
        assert_eq!(keys.select(Some("r"), Algorithm::ES256).err(), Some(KeyMiss::Algorithm));
        assert_eq!(keys.select(Some("r"), Algorithm::HS256).err(), Some(KeyMiss::Algorithm));
        assert_eq!(keys.select(Some("e"), Algorithm::RS256).err(), Some(KeyMiss::Algorithm));
        assert_eq!(keys.select(Some("x"), Algorithm::RS256).err(), Some(KeyMiss::Unknown));
    }

    #[test]
    fn j3_a_key_with_an_algorithm_serves_that_one_only() {
        let keys = set(&[with(rsa("r", 256, 1), "alg", json!("RS256"))]).unwrap();
        assert!(keys.select(Some("r"), Algorithm::RS256).is_ok());
        assert_eq!(keys.select(Some("r"), Algorithm::PS256).err(), Some(KeyMiss::Algorithm));
    }

    #[test]
    fn j3_j9_k10_keys_that_must_not_verify_are_left_out() {
        let point = URL_SAFE_NO_PAD.encode([1_u8; 32]);
        for bad in [
            with(rsa("a", 256, 1), "use", json!("enc")),
            with(rsa("a", 256, 1), "key_ops", json!(["sign"])),
            with(rsa("a", 256, 1), "d", json!("AQAB")),
            with(rsa("a", 256, 1), "alg", json!("HS256")),
            with(rsa("a", 256, 1), "alg", json!("none")),
            with(rsa("a", 256, 1), "e", json!("Aw")),
            with(rsa("a", 256, 1), "e", json!("AQAA")),
            with(rsa("a", 256, 1), "n", json!("!")),
            with(rsa("a", 256, 1), "kty", json!(7)),
            rsa("a", 255, 1),
            rsa("a", 128, 1),
            rsa("a", 1025, 1),
            json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": point, "y": point}),
            json!({"kty": "EC", "crv": "P-384", "x": point, "y": point}),
            json!({"kty": "EC", "crv": "P-256", "x": point, "y": point}),
            with(rsa("a", 256, 1), "n", json!(roca_modulus())),
            json!({"kty": "OKP", "crv": "X25519", "x": point}),
            json!("not a key"),
        ] {
            assert!(
                matches!(set(std::slice::from_ref(&bad)), Err(KeySetError::NoneUsable(1))),
                "{bad}"
            );
            assert_eq!(set(&[bad, ed("good", 1)]).unwrap().len(), 1);
        }
    }

    /// 65537 plus a multiple of the odd primes up to 167: of 2048 bits and more, and of the form.
    fn roca_modulus() -> String {
        let mut product = vec![1_u8];
        for prime in (3..=167_u16).filter(|n| (2..*n).all(|divisor| n % divisor != 0)) {
            let mut carry = 0;
            for byte in product.iter_mut().rev() {
                carry += u16::from(*byte) * prime;
                [_, *byte] = carry.to_be_bytes();
                carry >>= 8;
            }
            product.insert(0, u8::try_from(carry).unwrap());
        }
        let product = product.into_iter().skip_while(|byte| *byte == 0);
        URL_SAFE_NO_PAD.encode(product.chain([0; 229]).chain([1, 0, 1]).collect::<Vec<_>>())
    }

    #[test]
    fn k8_without_a_key_id_the_single_matching_key_is_used() {
        let one = set(&[rsa("r", 256, 1), ed("e", 1)]).unwrap();
        assert!(one.select(None, Algorithm::EdDSA).is_ok());
        assert_eq!(one.select(None, Algorithm::ES256).err(), Some(KeyMiss::Algorithm));
        let two = set(&[ed("e", 1), ed("f", 2)]).unwrap();
        assert_eq!(two.select(None, Algorithm::EdDSA).err(), Some(KeyMiss::Ambiguous));
    }

    #[test]
    fn k9_two_keys_under_one_id_are_both_refused() {
        let keys = set(&[ed("same", 1), ed("same", 2), ed("other", 3)]).unwrap();
        assert_eq!(keys.select(Some("same"), Algorithm::EdDSA).err(), Some(KeyMiss::Ambiguous));
        assert!(keys.select(Some("other"), Algorithm::EdDSA).is_ok());
        let repeated = set(&[ed("same", 1), ed("same", 1)]).unwrap();
        assert!(repeated.select(Some("same"), Algorithm::EdDSA).is_ok());
    }

    #[test]
    fn k2_a_set_with_too_many_keys_or_none_is_refused() {
        let many: Vec<_> = (0..=MAX_KEYS).map(|i| ed(&i.to_string(), 1)).collect();
        assert!(matches!(set(&many), Err(KeySetError::TooMany)));
        assert!(matches!(set(&[]), Err(KeySetError::NoneUsable(0))));
        assert!(matches!(KeySet::parse(b"<html>"), Err(KeySetError::Json(_))));
    }

    #[test]
    fn the_digest_tells_sets_apart_and_ignores_their_order() {
        let ab = set(&[ed("a", 1), ed("b", 2)]).unwrap();
        assert_eq!(ab.digest(), set(&[ed("b", 2), ed("a", 1)]).unwrap().digest());
        assert_ne!(ab.digest(), set(&[ed("a", 1), ed("b", 3)]).unwrap().digest());
        assert_ne!(ab.digest(), set(&[ed("a", 1)]).unwrap().digest());
    }
}
