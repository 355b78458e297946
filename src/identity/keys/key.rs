//! One JSON Web Key: what it may verify, or why it is not used.
//!
//! Providers do not all write numbers as RFC 7518 asks for. Leading zero bytes (Java writes them), missing ones,
//! base64 with padding and a certificate in place of the numbers are read, and each key gets one canonical form, so
//! that the same key in two spellings is one key.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    certificate::{self, Numbers},
    refused::{KeyRefusal, shown},
    rsa,
};
use crate::identity::profile::algorithm;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The size of an Ed25519 key in bytes (RFC 8037 section 2).
const ED25519_SIZE: usize = 32;

/// A public key with the algorithms it may be used for.
pub struct Key {
    pub(super) id: Option<Box<str>>,
    pub(super) algorithms: Vec<Algorithm>,
    /// The numbers in their canonical form, by which equal keys are recognised.
    pub(super) material: Vec<u8>,
    pub(super) ambiguous: bool,
    /// The issuer of the key, where one set serves several issuers (Entra).
    pub issuer: Option<Box<str>>,
    /// The key in the form that jsonwebtoken takes.
    pub decoding: DecodingKey,
}

/// A key as it is published. Members that are not listed are ignored, whatever they are.
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
    x5c: Option<Value>,
    d: Option<IgnoredAny>,
}

/// The key itself, with every algorithm of its type.
struct Material {
    family: &'static [Algorithm],
    bytes: Vec<u8>,
    decoding: DecodingKey,
}

/// A curve with keys for ECDSA.
struct Curve {
    family: &'static [Algorithm],
    /// The size of a coordinate in bytes.
    size: usize,
    verification: &'static EcdsaVerificationAlgorithm,
}

impl Key {
    /// Reads a key of a set.
    pub(super) fn read(value: &Value) -> Result<Self, KeyRefusal> {
        let raw = RawKey::deserialize(value).map_err(|error| {
            let error: String = error.to_string().chars().take(120).collect();
            KeyRefusal::Form(error.escape_debug().to_string())
        })?;
        let for_signatures = raw.usage.as_deref().is_none_or(|usage| usage == "sig")
            && raw.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !for_signatures {
            return Err(KeyRefusal::Purpose);
        }
        // `d` is the private part: a key that was published with it is no longer secret.
        if raw.d.is_some() {
            return Err(KeyRefusal::Private);
        }
        let Material { family, bytes, decoding } = raw.material()?;
        let algorithms: Vec<_> = match raw.alg.as_deref() {
            // Without `alg` a key may be used for every algorithm of its type.
            None => family.to_vec(),
            Some(name) => family.iter().copied().filter(|a| algorithm(name) == Some(*a)).collect(),
        };
        if algorithms.is_empty() {
            return Err(KeyRefusal::Algorithm(shown(raw.alg.as_deref().unwrap_or_default())));
        }
        Ok(Self {
            id: raw.kid.map(Into::into),
            algorithms,
            material: bytes,
            ambiguous: false,
            issuer: raw.issuer.map(Into::into),
            decoding,
        })
    }
}

impl RawKey {
    fn material(&self) -> Result<Material, KeyRefusal> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => match (&self.n, &self.e, self.certificate()) {
                (None, None, Some(text)) => match certificate::numbers(text) {
                    Some(Numbers::Rsa(n, e)) => rsa_key(&n, &e),
                    _ => Err(KeyRefusal::Certificate),
                },
                (n, e, _) => rsa_key(&number(n.as_ref(), "n")?, &number(e.as_ref(), "e")?),
            },
            ("EC", Some(name)) => {
                let curve = curve(name).ok_or_else(|| KeyRefusal::Kind(shown(name)))?;
                match (&self.x, &self.y, self.certificate()) {
                    (None, None, Some(text)) => match certificate::numbers(text) {
                        Some(Numbers::Point(x, y)) => curve.key(&x, &y),
                        _ => Err(KeyRefusal::Certificate),
                    },
                    (x, y, _) => curve.key(&number(x.as_ref(), "x")?, &number(y.as_ref(), "y")?),
                }
            }
            ("OKP", Some("Ed25519")) => {
                let x = number(self.x.as_ref(), "x")?;
                // Its bytes are not a number, so no zero in front can be missing or too many.
                if x.len() != ED25519_SIZE {
                    return Err(KeyRefusal::Point);
                }
                let decoding = DecodingKey::from_ed_der(&x);
                Ok(Material { family: &[Algorithm::EdDSA], bytes: x, decoding })
            }
            ("OKP", Some(name)) => Err(KeyRefusal::Kind(shown(name))),
            ("EC" | "OKP", None) => Err(KeyRefusal::Missing("crv")),
            (kind, _) => Err(KeyRefusal::Kind(shown(kind))),
        }
    }

    /// The certificate of the key: the first one of the chain.
    fn certificate(&self) -> Option<&str> {
        self.x5c.as_ref()?.get(0)?.as_str()
    }
}

fn curve(name: &str) -> Option<Curve> {
    match name {
        "P-256" => Some(Curve {
            family: &[Algorithm::ES256],
            size: 32,
            verification: &ECDSA_P256_SHA256_FIXED,
        }),
        "P-384" => Some(Curve {
            family: &[Algorithm::ES384],
            size: 48,
            verification: &ECDSA_P384_SHA384_FIXED,
        }),
        _ => None,
    }
}

impl Curve {
    /// The key with this point.
    fn key(&self, x: &[u8], y: &[u8]) -> Result<Material, KeyRefusal> {
        let point = [&[4], &*self.coordinate(x)?, &*self.coordinate(y)?].concat();
        // jsonwebtoken does not check that the point is on the curve (RFC 8725 section 3.4).
        if ParsedPublicKey::new(self.verification, &point).is_err() {
            return Err(KeyRefusal::Point);
        }
        let decoding = DecodingKey::from_ec_der(&point);
        Ok(Material { family: self.family, bytes: point, decoding })
    }

    /// A coordinate in its full size (RFC 7518 section 6.2.1.2), where some leave zeros out or add one.
    fn coordinate(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyRefusal> {
        let bytes = without_zeros(bytes);
        let missing = self.size.checked_sub(bytes.len()).ok_or(KeyRefusal::Point)?;
        Ok([&vec![0; missing], bytes].concat())
    }
}

fn rsa_key(n: &[u8], e: &[u8]) -> Result<Material, KeyRefusal> {
    // With a leading zero byte the crypto library verifies nothing (RFC 7518 section 6.3.1.1 forbids it).
    let (n, e) = (without_zeros(n), without_zeros(e));
    rsa::check(n, e)?;
    let decoding = DecodingKey::from_rsa_raw_components(n, e);
    Ok(Material { family: RSA, bytes: [n, e].concat(), decoding })
}

/// A big-endian number without leading zero bytes.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// The bytes of a member: base64url (RFC 7518 section 2), also with padding or in the other alphabet of base64.
fn number(text: Option<&String>, member: &'static str) -> Result<Vec<u8>, KeyRefusal> {
    let text = text.ok_or(KeyRefusal::Missing(member))?;
    let url_safe = |byte| match byte {
        b'+' => b'-',
        b'/' => b'_',
        other => other,
    };
    let text: Vec<u8> = text.trim_end_matches('=').bytes().map(url_safe).collect();
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyRefusal::Encoding(member))
}
