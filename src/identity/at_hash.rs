//! The claim `at_hash`, by which an ID token names the access token that was issued with it (OIDC Core sections 3.1.3.6
//! and 3.1.3.8).
//!
//! Sign-in refuses a response of a token endpoint whose two tokens do not belong together.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::Value;

/// Whether `claim` is the left half of the hash of `access_token`, with the hash of the ID token's own algorithm.
///
/// False where it cannot be compared: the claim is not text, or there is no access token.
#[must_use]
pub fn fits(claim: &Value, algorithm: Algorithm, access_token: Option<&str>) -> bool {
    let (Some(claim), Some(access_token)) = (claim.as_str(), access_token) else { return false };
    let hash = match algorithm {
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 | Algorithm::HS256 => &SHA256,
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 | Algorithm::HS384 => &SHA384,
        // Ed25519 hashes with SHA-512 (RFC 8032 section 5.1).
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::HS512 | Algorithm::EdDSA => &SHA512,
        _ => return false,
    };
    let hash = digest::digest(hash, access_token.as_bytes());
    let half = hash.as_ref().get(..hash.as_ref().len() / 2).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(half) == claim
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn j15_the_hash_of_the_access_token_is_that_of_the_algorithm() {
        // OIDC Core appendix A.3: the access token and the at_hash of its ID token, signed with RS256.
        let access = Some("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y");
        let right = json!("77QmUPtjPfzWtF2AnpK9RQ");
        assert!(fits(&right, Algorithm::RS256, access) && fits(&right, Algorithm::ES256, access));
        for algorithm in [Algorithm::RS384, Algorithm::PS512, Algorithm::EdDSA] {
            assert!(!fits(&right, algorithm, access), "{algorithm:?}");
        }
        for wrong in
            [json!(""), json!("77QmUPtjPfzWtF2AnpK9RQ="), json!(7), json!(null), json!([right])]
        {
            assert!(!fits(&wrong, Algorithm::RS256, access), "{wrong}");
        }
        assert!(!fits(&right, Algorithm::RS256, Some("other")));
        assert!(!fits(&right, Algorithm::RS256, None), "there is nothing to compare with");
    }
}
