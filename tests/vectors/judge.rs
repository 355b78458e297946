//! How a vector is judged.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity_spoa::{
    identity::{
        Profile, TokenError,
        jwt::{Unverified, VerifyError},
        keys::{KeyMiss, KeySet, KeySetError},
        profile::algorithm,
    },
    time::Timestamp,
};
use serde_json::{Value, json};

pub const ISSUER: &str = "https://idp.example.com";
pub const AUDIENCE: &str = "workspaces";
/// When tokens are judged.
pub const NOW: u64 = 1_800_000_000;

/// What became of a token: a refusal's id, or one of these.
pub const VERIFIED: &str = "verified";
const UNKNOWN_KEY: &str = "unknown_key";
const NO_KEYS: &str = "no_keys";

/// An issuer that may use every algorithm there is.
pub fn profile() -> Arc<Profile> {
    static PROVIDER: Once = Once::new();
    // The program does it in main.
    PROVIDER.call_once(|| {
        jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().unwrap();
    });
    let issuer = ISSUER.parse().unwrap();
    let profile = Profile::new("vectors", issuer, vec![AUDIENCE.to_owned()]);
    Arc::new(Profile { leeway: Duration::ZERO, ..profile })
}

/// The key set with these keys.
pub fn key_set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

/// A key as its owner would publish it: without the private members.
pub fn public(key: &Value) -> Value {
    let mut key = key.clone();
    for private in ["d", "p", "q", "dp", "dq", "qi", "oth"] {
        key.as_object_mut().unwrap().remove(private);
    }
    key
}

/// What the verifier says of a token.
pub fn whole(token: &[u8], keys: Option<&KeySet>) -> &'static str {
    let profile = profile();
    let verdict = Unverified::inspect(token).map_err(VerifyError::from).map(|token| {
        let Some(keys) = keys else { return NO_KEYS };
        match token.verify(&profile, keys, Timestamp::from_secs(NOW)) {
            Ok(_) => VERIFIED,
            Err(error) => name(error),
        }
    });
    verdict.unwrap_or_else(name)
}

/// What the verifier would say of a token's form, key and signature if its payload were claims: the
/// payloads of most vectors are not, so the whole verifier refuses them before it looks at the
/// signature. The steps are its own: the header and the signature's form are read by it beside
/// empty claims, the key is chosen by the key set, and the signature is checked by the same
/// function.
pub fn signature(token: &str, keys: Option<&KeySet>) -> Result<(), &'static str> {
    let _installed = profile();
    let segments: Vec<_> = token.split('.').collect();
    let [header, payload, signature] = segments[..] else { return Err(TokenError::Malformed.id()) };
    let beside_no_claims = format!("{header}.e30.{signature}");
    Unverified::inspect(beside_no_claims.as_bytes()).map_err(TokenError::id)?;
    URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed.id())?;
    let fields: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let algorithm = algorithm(fields["alg"].as_str().unwrap()).unwrap();
    let key =
        keys.ok_or(NO_KEYS)?.select(fields["kid"].as_str(), algorithm).map_err(
            |miss| match miss {
                KeyMiss::Unknown => UNKNOWN_KEY,
                KeyMiss::Algorithm => TokenError::Algorithm.id(),
                KeyMiss::Ambiguous => TokenError::Key.id(),
            },
        )?;
    let message = format!("{header}.{payload}");
    let fits =
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, algorithm);
    if matches!(fits, Ok(true)) { Ok(()) } else { Err(TokenError::Signature.id()) }
}

/// Whether a verdict says that the token got no further than its form, key and signature.
pub fn stopped_before_claims(verdict: &str) -> bool {
    let stops = [
        TokenError::Malformed,
        TokenError::Oversized,
        TokenError::Algorithm,
        TokenError::Key,
        TokenError::Signature,
        TokenError::Type,
        TokenError::Encrypted,
    ];
    verdict == UNKNOWN_KEY || verdict == NO_KEYS || stops.iter().any(|stop| stop.id() == verdict)
}

/// A token with its first signature character replaced.
pub fn with_another_signature(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{message}.{first}{}", &signature[1..])
}

fn name(error: VerifyError) -> &'static str {
    match error {
        VerifyError::UnknownKey => UNKNOWN_KEY,
        VerifyError::Refused(refusal) => refusal.id(),
    }
}
