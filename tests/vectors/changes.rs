//! Tokens of our own that are right but for one thing.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use identity_spoa::identity::{jwt::Unverified, keys::KeySet};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::judge::{self, VERIFIED, whole};
use dev_idp::keys::Keys;

const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An issuer with one key of each type.
struct Issuer {
    keys: Keys,
    set: KeySet,
}

impl Issuer {
    fn new() -> Self {
        let keys = Keys::generate(1);
        let set = judge::key_set(&keys.jwks()).unwrap();
        Self { keys, set }
    }

    fn header(&self, algorithm: &str) -> Value {
        json!({"alg": algorithm, "kid": self.keys.id(algorithm)})
    }

    /// A signed token of segments as they are spelled.
    fn sign(&self, algorithm: &str, header: &str, payload: &str) -> String {
        let message = format!("{header}.{payload}");
        let signature = self.keys.sign(algorithm, message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    fn token(&self, algorithm: &str) -> String {
        let header = self.header(algorithm).to_string();
        self.sign(algorithm, &b64(header), &b64(claims("").to_string()))
    }

    fn judge(&self, token: impl AsRef<[u8]>) -> &'static str {
        whole(token.as_ref(), Some(&self.set))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Claims that give access; `pad` makes them longer.
fn claims(pad: &str) -> Value {
    json!({"iss": judge::ISSUER, "aud": judge::AUDIENCE, "sub": "alice", "exp": judge::NOW + 60, "pad": pad})
}

#[test]
fn j21_no_token_with_a_flipped_bit_verifies() {
    let issuer = Issuer::new();
    let mut judged = 0;
    for algorithm in ALGORITHMS {
        let good = issuer.token(algorithm).into_bytes();
        assert_eq!(issuer.judge(&good), VERIFIED, "{algorithm}");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_ne!(issuer.judge(&bad), VERIFIED, "{algorithm}: bit {bit} of byte {at}");
                judged += 1;
            }
        }
    }
    eprintln!("{judged} tokens with a flipped bit judged");
    assert!(judged > 0);
}

#[test]
fn j21_no_token_that_was_cut_or_extended_verifies() {
    let issuer = Issuer::new();
    let mut judged = 0;
    for algorithm in ALGORITHMS {
        let good = issuer.token(algorithm).into_bytes();
        let mut refuse = |bad: &[u8]| {
            assert_ne!(issuer.judge(bad), VERIFIED, "{algorithm}: {}", bad.escape_ascii());
            judged += 1;
        };
        for length in 0..good.len() {
            refuse(&good[..length]);
            refuse(&good[good.len() - length..]);
        }
        for byte in 0..=u8::MAX {
            refuse(&[&good[..], &[byte]].concat());
            refuse(&[&[byte], &good[..]].concat());
        }
        for at in (0..good.len()).filter(|at| good[*at] == b'.') {
            for byte in 0..=u8::MAX {
                refuse(&[&good[..at], &[byte], &good[at..]].concat());
                refuse(&[&good[..=at], &[byte], &good[at + 1..]].concat());
            }
        }
    }
    eprintln!("{judged} cut or extended tokens judged");
    assert!(judged > 0);
}

proptest! {
    #[test]
    fn j21_no_token_with_a_replaced_part_verifies(
        algorithm in proptest::sample::select(&ALGORITHMS[..]),
        start in any::<proptest::sample::Index>(),
        length in 0..40_usize,
        part in prop_oneof!["[A-Za-z0-9_.-]{0,40}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..40)],
    ) {
        let issuer = issuer();
        let good = issuer.token(algorithm).into_bytes();
        let start = start.index(good.len());
        let end = good.len().min(start + length);
        let bad = [&good[..start], &part, &good[end..]].concat();
        prop_assume!(bad != good);
        prop_assert_ne!(issuer.judge(&bad), VERIFIED);
    }
}

/// One issuer for all the cases of a property: its RSA key takes a while.
fn issuer() -> &'static Issuer {
    static ISSUER: std::sync::LazyLock<Issuer> = std::sync::LazyLock::new(Issuer::new);
    &ISSUER
}

/// Other spellings of a segment that a lax decoder takes for the same bytes: its last character
/// with bits that stand for nothing.
fn with_trailing_bits(segment: &str) -> Vec<String> {
    let spare = match segment.len() % 4 {
        2 => 4,
        3 => 2,
        _ => return Vec::new(),
    };
    let (rest, last) = segment.split_at(segment.len() - 1);
    let value = ALPHABET.iter().position(|c| *c == last.as_bytes()[0]).unwrap();
    (1..1 << spare).map(|bits| format!("{rest}{}", char::from(ALPHABET[value | bits]))).collect()
}

#[test]
fn j7_a_segment_with_non_zero_trailing_bits_is_refused_even_if_it_was_signed_so() {
    let issuer = Issuer::new();
    let mut judged = 0;
    for algorithm in ALGORITHMS {
        for pad in ["", "x", "xx"] {
            let mut header = issuer.header(algorithm);
            header["pad"] = json!(pad);
            let (header, payload) = (b64(header.to_string()), b64(claims(pad).to_string()));
            let good = issuer.sign(algorithm, &header, &payload);
            assert_eq!(issuer.judge(&good), VERIFIED, "{algorithm}");
            let (message, signature) = good.rsplit_once('.').unwrap();
            let bad_headers = with_trailing_bits(&header);
            let bad_headers = bad_headers.iter().map(|h| issuer.sign(algorithm, h, &payload));
            let bad_payloads = with_trailing_bits(&payload);
            let bad_payloads = bad_payloads.iter().map(|p| issuer.sign(algorithm, &header, p));
            let bad_signatures = with_trailing_bits(signature);
            let bad_signatures = bad_signatures.iter().map(|s| format!("{message}.{s}"));
            for bad in bad_headers.chain(bad_payloads).chain(bad_signatures) {
                assert_eq!(issuer.judge(&bad), "token_malformed", "{algorithm}: {bad}");
                judged += 1;
            }
        }
    }
    eprintln!("{judged} tokens with trailing bits judged");
    assert!(judged > 0);
}

#[test]
fn j7_a_segment_in_another_base64_is_refused_even_if_it_was_signed_so() {
    let issuer = Issuer::new();
    let header = issuer.header("ES256").to_string();
    // Its payload has both of the characters in which the alphabets differ, wherever the claim stands in it.
    let claims = ["", "x", "xx"].map(|before| {
        claims(&format!("{before}\u{ff}\u{ff}\u{ff}\u{3f}\u{3e}\u{fb}??>>~~xx")).to_string()
    });
    let differs = |claims: &&String| b64(claims).contains('-') && b64(claims).contains('_');
    let claims = claims.iter().find(differs).unwrap();
    let good = b64(claims);
    assert_eq!(issuer.judge(issuer.sign("ES256", &b64(&header), &good)), VERIFIED);
    let wrapped = format!("{}\r\n{}", &good[..40], &good[40..]);
    for other in [STANDARD.encode(claims), URL_SAFE.encode(claims) + "=", wrapped, good + " "] {
        let bad = issuer.sign("ES256", &b64(&header), &other);
        assert_eq!(issuer.judge(&bad), "token_malformed", "{bad}");
    }
}

#[test]
fn j7_a_key_with_non_zero_trailing_bits_is_left_out() {
    let mut judged = 0;
    for key in Keys::generate(1).jwks() {
        for member in ["n", "e", "x", "y"] {
            let Some(text) = key[member].as_str() else { continue };
            for bad in with_trailing_bits(text) {
                let mut key = key.clone();
                key[member] = json!(bad);
                assert!(judge::key_set(&[key]).is_err(), "{member}: {bad}");
                judged += 1;
            }
        }
    }
    eprintln!("{judged} keys with trailing bits judged");
    assert!(judged > 0);
}

#[test]
fn j9_a_point_that_is_not_on_its_curve_is_no_key() {
    let keys = Keys::generate(1).jwks();
    let curves: Vec<_> = keys.iter().filter(|key| key["kty"] == "EC").collect();
    assert_eq!(curves.len(), 2);
    for key in curves {
        assert!(judge::key_set(std::slice::from_ref(key)).is_ok());
        let size = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap().len();
        let mut off = URL_SAFE_NO_PAD.decode(key["y"].as_str().unwrap()).unwrap();
        off[size - 1] ^= 1;
        for (x, y) in [
            (key["x"].clone(), json!(b64(&off))),
            (key["y"].clone(), key["x"].clone()),
            // The point at infinity as some write it, and coordinates beyond the field.
            (json!(b64(vec![0; size])), json!(b64(vec![0; size]))),
            (json!(b64(vec![0xff; size])), json!(b64(vec![0xff; size]))),
            (key["x"].clone(), json!(b64(vec![0xff; size]))),
            // Right numbers of wrong lengths.
            (json!(b64([&[0], &off[..]].concat())), key["y"].clone()),
            (json!(b64(&off[1..])), key["y"].clone()),
        ] {
            let mut bad = key.clone();
            (bad["x"], bad["y"]) = (x, y);
            assert!(judge::key_set(std::slice::from_ref(&bad)).is_err(), "{bad}");
            // The rest of the set is kept, and the bad key cannot be meant.
            bad["kid"] = json!("bad");
            let set = judge::key_set(&[bad, key.clone()]).unwrap();
            assert_eq!(set.len(), 1);
        }
    }
}

#[test]
fn j9_r_and_s_of_other_lengths_or_out_of_range_are_refused() {
    let issuer = Issuer::new();
    let mut judged = 0;
    for (algorithm, size) in [("ES256", 32), ("ES384", 48)] {
        let good = issuer.token(algorithm);
        assert_eq!(issuer.judge(&good), VERIFIED, "{algorithm}");
        let (message, signature) = good.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let (r, s) = signature.split_at(size);
        let zero = &vec![0; size][..];
        let most = &vec![0xff; size][..];
        let mut bad: Vec<Vec<u8>> = vec![
            [&[0], r, &[0], s].concat(),
            [&[0], r, s].concat(),
            [r, &[0], s].concat(),
            [r, s, &[0]].concat(),
            [&r[1..], s].concat(),
            [r, &s[1..]].concat(),
            [&r[1..], &s[1..]].concat(),
            [r, s, r, s].concat(),
            r.to_vec(),
            [s, r].concat(),
            [zero, s].concat(),
            [r, zero].concat(),
            [zero, zero].concat(),
            [most, s].concat(),
            [r, most].concat(),
            der(r, s),
        ];
        bad.extend((1..signature.len()).map(|length| signature[..length].to_vec()));
        bad.extend((1..3 * size).map(|length| vec![0; length]));
        for bad in bad {
            let token = format!("{message}.{}", b64(&bad));
            assert_eq!(issuer.judge(&token), "token_signature", "{algorithm}: {bad:?}");
            judged += 1;
        }
    }
    eprintln!("{judged} signatures of other lengths or out of range judged");
    assert!(judged > 0);
}

/// A signature as X.509 has it: a SEQUENCE of two INTEGERs.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let element =
        |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let integer = |number: &[u8]| {
        let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
        element(2, &[sign, &digits].concat())
    };
    element(0x30, &[integer(r), integer(s)].concat())
}

#[test]
fn j9_signatures_of_other_lengths_are_refused_for_every_algorithm() {
    let issuer = Issuer::new();
    let mut judged = 0;
    for algorithm in ALGORITHMS {
        let good = issuer.token(algorithm);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for bad in [
            [&[0], &signature[..]].concat(),
            [&signature[..], &[0]].concat(),
            signature[1..].to_vec(),
            signature[..signature.len() - 1].to_vec(),
            vec![0; signature.len()],
            vec![0xff; signature.len()],
        ] {
            let token = format!("{message}.{}", b64(&bad));
            assert_eq!(issuer.judge(&token), "token_signature", "{algorithm}: {bad:?}");
            judged += 1;
        }
        assert_eq!(issuer.judge(format!("{message}.")), "token_malformed", "{algorithm}");
    }
    eprintln!("{judged} signatures judged");
    assert!(judged > 0);
}

#[test]
fn j16_a_jwe_is_refused() {
    let issuer = Issuer::new();
    let nested = issuer.token("ES256");
    let mut judged = 0;
    for header in [
        json!({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": issuer.keys.id("RS256")}),
        json!({"alg": "RSA1_5", "enc": "A128CBC-HS256", "cty": "JWT"}),
        json!({"alg": "ECDH-ES", "enc": "A128GCM", "epk": issuer.keys.jwks()[1]}),
        json!({"alg": "dir", "enc": "A128GCM", "zip": "DEF"}),
        json!({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2s": "c2FsdA", "p2c": 2_147_483_647}),
        // An algorithm for signatures makes no JWS of it.
        issuer.header("ES256"),
    ] {
        let header = b64(header.to_string());
        for rest in [
            format!("a2V5.aXY.{}.dGFn", b64(&nested)),
            format!(".aXY.{}.dGFn", b64(&nested)),
            "...".to_owned(),
        ] {
            let jwe = format!("{header}.{rest}");
            assert_eq!(jwe.split('.').count(), 5);
            assert_eq!(issuer.judge(&jwe), "token_encrypted", "{jwe}");
            judged += 1;
        }
        // As signed segments too, and around a signed token.
        let signed = issuer.sign("ES256", &header, &format!("a2V5.aXY.{}", b64(&nested)));
        assert_eq!(issuer.judge(&signed), "token_encrypted", "{signed}");
        judged += 1;
    }
    // The algorithms of encryption are none of signatures.
    for algorithm in ["RSA-OAEP", "RSA1_5", "ECDH-ES", "dir", "A128KW", "PBES2-HS256+A128KW"] {
        let header = json!({"alg": algorithm, "enc": "A256GCM"}).to_string();
        let token = issuer.sign("ES256", &b64(header), &b64(claims("").to_string()));
        assert_eq!(issuer.judge(&token), "token_algorithm", "{token}");
        judged += 1;
    }
    // A signed token in a signed token is no claims.
    let mut header = issuer.header("ES256");
    header["cty"] = json!("JWT");
    let token = issuer.sign("ES256", &b64(header.to_string()), &b64(&nested));
    assert_eq!(issuer.judge(&token), "token_malformed");
    eprintln!("{} tokens judged", judged + 1);
}

#[test]
fn the_signature_check_of_the_vectors_is_the_verifiers() {
    // What `judge::signature` says of a vector is what the verifier says of a token with claims.
    let issuer = Issuer::new();
    for algorithm in ALGORITHMS {
        let good = issuer.token(algorithm);
        assert!(Unverified::inspect(good.as_bytes()).is_ok());
        assert_eq!(judge::signature(&good, Some(&issuer.set)), Ok(()), "{algorithm}");
        let forged = judge::with_another_signature(&good);
        assert_eq!(issuer.judge(&forged), "token_signature", "{algorithm}");
        assert_eq!(judge::signature(&forged, Some(&issuer.set)), Err("token_signature"));
    }
}
