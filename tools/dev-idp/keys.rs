//! Signing keys, made at start and never written anywhere.

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

/// One key of each type.
pub struct Keys {
    /// Tells this set from others in key ids.
    pub generation: u32,
    rsa: rsa::KeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Keys {
    pub fn generate(generation: u32) -> Self {
        Self {
            generation,
            rsa: rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed25519: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// The key id that goes with an algorithm.
    pub fn id(&self, algorithm: &str) -> String {
        let kind = match algorithm {
            "ES256" => "p256",
            "ES384" => "p384",
            "EdDSA" => "ed25519",
            _ => "rsa",
        };
        format!("{kind}-{}", self.generation)
    }

    /// The public keys as JWKs.
    pub fn jwks(&self) -> Vec<Value> {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let public = self.rsa.public_key();
        let point = |key: &EcdsaKeyPair, size: usize| {
            let bytes = key.public_key().as_ref();
            (b64(&bytes[1..=size]), b64(&bytes[1 + size..]))
        };
        let (x256, y256) = point(&self.p256, 32);
        let (x384, y384) = point(&self.p384, 48);
        vec![
            json!({"kty": "RSA", "use": "sig", "kid": self.id("RS256"),
                   "n": b64(public.modulus().big_endian_without_leading_zero()),
                   "e": b64(public.exponent().big_endian_without_leading_zero())}),
            json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id("ES256"), "x": x256, "y": y256}),
            json!({"kty": "EC", "crv": "P-384", "use": "sig", "alg": "ES384", "kid": self.id("ES384"), "x": x384, "y": y384}),
            json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id("EdDSA"),
                   "x": b64(self.ed25519.public_key().as_ref())}),
        ]
    }

    /// The modulus of the RSA key: what a forger would use as an HMAC secret.
    pub fn rsa_public(&self) -> Vec<u8> {
        self.rsa.public_key().modulus().big_endian_without_leading_zero().to_vec()
    }

    /// The public RSA key as PEM (`SubjectPublicKeyInfo`).
    pub fn rsa_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.rsa.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// Signs a message; the signature is in the form of JWS (RFC 7518 section 3).
    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        let rsa = |padding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &rng, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => self.p256.sign(&rng, message).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&rng, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed25519.sign(message).as_ref().to_vec(),
            "none" => Vec::new(),
            "HS256" => {
                let key =
                    aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.rsa_public());
                aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
            }
            other => panic!("no key for the algorithm {other}"),
        }
    }
}
