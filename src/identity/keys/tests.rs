use aws_lc_rs::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dev_idp::keys::Keys;
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
            matches!(set(std::slice::from_ref(&bad)), Err(KeySetError::NoneUsable(refused)) if refused.len() == 1),
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
    assert!(matches!(set(&[]), Err(KeySetError::NoneUsable(refused)) if refused.is_empty()));
    assert!(matches!(KeySet::parse(b"<html>"), Err(KeySetError::Json(_))));
}

#[test]
fn the_digest_tells_sets_apart_and_ignores_their_order() {
    let ab = set(&[ed("a", 1), ed("b", 2)]).unwrap();
    assert_eq!(ab.digest(), set(&[ed("b", 2), ed("a", 1)]).unwrap().digest());
    assert_ne!(ab.digest(), set(&[ed("a", 1), ed("b", 3)]).unwrap().digest());
    assert_ne!(ab.digest(), set(&[ed("a", 1)]).unwrap().digest());
}

/// Whether the key of this id in a document verifies a signature of `keys` with each algorithm.
fn verifies(document: &[u8], id: &str, keys: &Keys, algorithms: &[&str]) -> bool {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let Ok(set) = KeySet::parse(document) else { return false };
    algorithms.iter().all(|name| {
        let algorithm = crate::identity::profile::algorithm(name).unwrap();
        let Ok(key) = set.select(Some(id), algorithm) else { return false };
        let signature = URL_SAFE_NO_PAD.encode(keys.sign(name, b"message"));
        jsonwebtoken::crypto::verify(&signature, b"message", &key.decoding, algorithm).unwrap()
    })
}

/// The same number in other spellings: with zero bytes in front, with padding, in the other alphabet of base64.
fn spellings(text: &str) -> Vec<String> {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    let zeros = |count: usize| [vec![0; count], bytes.clone()].concat();
    vec![
        URL_SAFE_NO_PAD.encode(zeros(1)),
        URL_SAFE_NO_PAD.encode(zeros(2)),
        URL_SAFE_NO_PAD.encode(zeros(5)),
        URL_SAFE.encode(&bytes),
        STANDARD.encode(&bytes),
        STANDARD_NO_PAD.encode(&bytes),
        STANDARD.encode(zeros(1)),
    ]
}

fn document(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

#[test]
fn q11_a_key_verifies_however_its_numbers_are_spelt() {
    let keys = Keys::generate(1);
    let published = keys.jwks();
    let digest = *KeySet::parse(&document(&published)).unwrap().digest();
    for (index, members, algorithms) in [
        (0, &["n", "e"][..], &["RS256", "PS512"][..]),
        (1, &["x", "y"], &["ES256"]),
        (2, &["x", "y"], &["ES384"]),
    ] {
        let id = published[index]["kid"].as_str().unwrap();
        assert!(verifies(&document(&published), id, &keys, algorithms), "{id}");
        for member in members {
            for spelling in spellings(published[index][member].as_str().unwrap()) {
                let mut all = published.clone();
                all[index][member] = json!(spelling);
                let all = document(&all);
                assert!(verifies(&all, id, &keys, algorithms), "{id} {member} {spelling}");
                let set = KeySet::parse(&all).unwrap();
                assert_eq!(*set.digest(), digest, "one canonical form: {member} {spelling}");
            }
        }
    }
    // The bytes of Ed25519 are not a number.
    let mut all = published;
    let bytes = URL_SAFE_NO_PAD.decode(all[3]["x"].as_str().unwrap()).unwrap();
    all[3]["x"] = json!(URL_SAFE_NO_PAD.encode([&[0], &bytes[..]].concat()));
    let set = KeySet::parse(&document(&all)).unwrap();
    assert_eq!(set.refused().iter().map(|key| &key.why).collect::<Vec<_>>(), [&KeyRefusal::Point]);
}

#[test]
fn q11_a_coordinate_without_its_leading_zeros_is_the_same_point() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    // One key in 256 has such a coordinate; Go's big.Int.Bytes leaves its zeros out.
    let (pair, x, y) = std::iter::repeat_with(|| EcdsaKeyPair::generate(algorithm).unwrap())
        .find_map(|pair| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
            let (x, y) = (x.strip_prefix(&[0])?.to_vec(), y.to_vec());
            Some((pair, x, y))
        })
        .unwrap();
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let set = set(&[json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})]).unwrap();
    let key = set.select(None, Algorithm::ES256).unwrap();
    let signed = pair.sign(&SystemRandom::new(), b"message").unwrap();
    let signed = URL_SAFE_NO_PAD.encode(signed);
    let verified =
        jsonwebtoken::crypto::verify(&signed, b"message", &key.decoding, Algorithm::ES256);
    assert!(verified.unwrap());
}

#[test]
fn q11_a_set_of_three_hundred_keys_is_read_and_every_key_selected() {
    let mut all: Vec<_> = (0..299).map(|n| rsa(&format!("tenant-{n}"), 256, 1)).collect();
    let keys = Keys::generate(7);
    all.extend(keys.jwks());
    let all = document(&all);
    assert!(verifies(&all, &keys.id("RS256"), &keys, &["RS256"]));
    assert_eq!(KeySet::parse(&all).unwrap().len(), 303);
}

#[test]
fn q11_a_key_that_is_published_as_a_certificate_alone_verifies() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let document = include_bytes!("../../../tests/data/keys/x5c-only.json");
    let signature = include_str!("../../../tests/data/keys/x5c-only.signature").trim();
    let set = KeySet::parse(document).unwrap();
    let key = set.select(Some("certificate-only"), Algorithm::RS256).unwrap();
    let verify = |message: &[u8]| {
        jsonwebtoken::crypto::verify(signature, message, &key.decoding, Algorithm::RS256).unwrap()
    };
    assert!(verify(b"header.payload") && !verify(b"header.payloae"));

    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
    let der = base64::engine::general_purpose::STANDARD.encode(certificate.der());
    let point = |x5c: Value| set_of_one(json!({"kty": "EC", "crv": "P-256", "x5c": x5c}));
    assert_eq!(point(json!([der])).unwrap().keys[0].material, pair.public_key_raw());
    for (x5c, why) in [
        (json!(["AAAA"]), KeyRefusal::Certificate),
        (json!([format!("{der}!")]), KeyRefusal::Certificate),
        (json!([7]), KeyRefusal::Missing("x")),
        (json!([]), KeyRefusal::Missing("x")),
        (json!("AAAA"), KeyRefusal::Missing("x")),
    ] {
        assert_eq!(point(x5c.clone()).err(), Some(why), "{x5c}");
    }
    // A certificate of another type than the key says.
    let mixed = set_of_one(json!({"kty": "RSA", "x5c": [der]}));
    assert_eq!(mixed.err(), Some(KeyRefusal::Certificate));
    // The numbers decide where a key has both, as for every other reader of key sets.
    let keys = Keys::generate(3);
    let mut both = keys.jwks();
    both[1]["x5c"] = json!([der]);
    assert!(verifies(&self::document(&both), &keys.id("ES256"), &keys, &["ES256"]));
}

/// The set of one key, or why that key is not used.
fn set_of_one(key: Value) -> Result<KeySet, KeyRefusal> {
    set(&[key]).map_err(|error| match error {
        KeySetError::NoneUsable(refused) => refused.iter().next().unwrap().why.clone(),
        other => panic!("{other}"),
    })
}

#[test]
fn q11_members_that_no_standard_names_change_nothing() {
    let keys = Keys::generate(1);
    let mut all = keys.jwks();
    for key in &mut all {
        for (name, value) in [
            ("ext", json!(true)),
            ("x5t", json!(7)),
            ("x5c", json!({"a": []})),
            ("key_size", json!(null)),
            ("nbf", json!(1)),
            ("status", json!(["active"])),
            ("use", json!(null)),
            ("alg", json!(null)),
        ] {
            key[name] = value;
        }
    }
    let with_mark = [b"\xef\xbb\xbf", &document(&all)[..]].concat();
    for all in [document(&all), with_mark] {
        for name in ["RS256", "ES256", "ES384", "EdDSA"] {
            assert!(verifies(&all, &keys.id(name), &keys, &[name]), "{name}");
        }
    }
    let text = r#"{"keys": [], "next": null, "keys2": 1}"#;
    assert!(matches!(KeySet::parse(text.as_bytes()), Err(KeySetError::NoneUsable(_))));
}

#[test]
fn q11_each_key_that_is_not_used_is_named_with_its_reason() {
    let good = ed("good", 1);
    let point = URL_SAFE_NO_PAD.encode([1_u8; 32]);
    for (key, want, defect) in [
        (with(rsa("k", 256, 1), "use", json!("enc")), "not for verifying", false),
        (with(rsa("k", 256, 1), "alg", json!("RSA-OAEP")), "\"RSA-OAEP\" is not supported", false),
        (json!({"kid": "k", "kty": "oct", "k": "c2VjcmV0"}), "type \"oct\"", false),
        (json!({"kid": "k", "kty": "EC", "crv": "P-521", "x": point, "y": point}), "P-521", false),
        (with(rsa("k", 256, 1), "d", json!("AQAB")), "private part is published", true),
        (with(rsa("k", 256, 1), "e", json!("Aw")), "exponent", true),
        (with(rsa("k", 256, 1), "n", json!("a b")), "'n' is not base64url", true),
        (json!({"kid": "k", "kty": "RSA", "e": "AQAB"}), "'n' is missing", true),
        (rsa("k", 128, 1), "modulus has 1024 bits", true),
        (json!({"kid": "k", "kty": "EC", "crv": "P-256", "x": point, "y": point}), "point", true),
        (with(rsa("k", 256, 1), "key_ops", json!("verify")), "not a JSON Web Key", true),
        (with(rsa("k", 256, 1), "kty", json!(null)), "not a JSON Web Key", true),
    ] {
        let set = set(&[good.clone(), key.clone()]).unwrap();
        let named: Vec<_> = set.refused().iter().map(ToString::to_string).collect();
        assert_eq!(named.len(), 1, "{key}");
        assert!(named[0].starts_with("key \"k\": ") && named[0].contains(want), "{named:?}");
        assert_eq!(set.refused().defects().is_some(), defect, "{key}");
        // The same in the error where no key is left.
        let error = self::set(&[key]).err().unwrap().to_string();
        assert!(error.contains(want), "{error}");
    }
    let nameless = set(&[good.clone(), json!({"kty": "RSA"})]).unwrap();
    assert_eq!(nameless.refused().defects().unwrap(), "key number 2: 'n' is missing");
    let numeric = set(&[good.clone(), with(rsa("k", 256, 1), "kid", json!(7))]).unwrap();
    assert!(numeric.refused().defects().unwrap().starts_with("key number 2: "));
    assert_eq!(set(&[good]).unwrap().refused().defects(), None);
}

#[test]
fn q11_the_names_of_refused_keys_are_quoted_and_bounded() {
    let name = format!("a\u{1b}[31m\n{}", "x".repeat(10_000));
    let bad: Vec<_> = (0..500).map(|n| rsa(&format!("{n}{name}"), 128, 1)).collect();
    let text = set(&bad).err().unwrap().to_string();
    assert!(text.len() < 2000 && text.ends_with("and 492 more"), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\n'), "{text}");
    let typed = set(&[json!({"kty": "\u{1b}[31m".repeat(1000)})]).err().unwrap().to_string();
    assert!(typed.len() < 1000 && !typed.contains('\u{1b}'), "{typed}");
}
