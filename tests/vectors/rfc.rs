//! The examples of the RFCs (`data/rfc`): which keys of theirs are kept, and what becomes of their
//! tokens.

use identity_spoa::identity::{keys::KeySetError, profile::ALGORITHMS};
use serde::Deserialize;
use serde_json::Value;

use crate::judge;

/// The examples of one RFC.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    source: String,
    key_sets: Vec<ExampleKeys>,
    tokens: Vec<ExampleToken>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleKeys {
    name: String,
    keys: Vec<Value>,
    /// The ids of the keys that may verify tokens; null is a key without id.
    usable: Vec<Option<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleToken {
    name: String,
    token: String,
    /// The signer's key as the RFC prints it, often with its private members.
    keys: Vec<Value>,
    signature: Signature,
    /// The id of the refusal; none of these tokens gives access.
    refusal: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
enum Signature {
    /// It fits, and the token is refused only for what it carries.
    #[serde(rename = "fits")]
    Fits,
    /// The token is refused before its signature is looked at.
    #[serde(rename = "not judged")]
    NotJudged,
}

/// Judges the examples and says how many there are.
fn judge(text: &str, key_sets: usize, tokens: usize) {
    let examples: Examples = serde_json::from_str(text).unwrap();
    let source = &examples.source;
    assert!(key_sets + tokens > 0, "{source}: nothing to judge");
    assert_eq!((examples.key_sets.len(), examples.tokens.len()), (key_sets, tokens), "{source}");
    for example in &examples.key_sets {
        judge_keys(example);
    }
    for example in &examples.tokens {
        judge_token(example);
    }
    eprintln!("{source}: {key_sets} key sets and {tokens} tokens judged");
}

fn judge_keys(ExampleKeys { name, keys, usable }: &ExampleKeys) {
    let set = match judge::key_set(keys) {
        Ok(set) => set,
        Err(KeySetError::NoneUsable(refused)) => {
            assert_eq!((refused.len(), usable.len()), (keys.len(), 0), "{name}");
            return;
        }
        Err(error) => panic!("{name}: {error}"),
    };
    assert_eq!(set.len(), usable.len(), "{name}");
    for id in usable {
        let serves = |(_, algorithm): &_| set.select(id.as_deref(), *algorithm).is_ok();
        assert!(ALGORITHMS.iter().any(serves), "{name}: {id:?}");
    }
}

fn judge_token(example: &ExampleToken) {
    let ExampleToken { name, token, keys, signature, refusal } = example;
    if keys.iter().any(|key| key.get("d").is_some()) {
        let printed = judge::key_set(keys);
        assert!(
            matches!(printed, Err(KeySetError::NoneUsable(_))),
            "{name}: a private key is kept"
        );
    }
    let published: Vec<_> = keys.iter().map(judge::public).collect();
    let set = judge::key_set(&published).ok();
    let set = set.as_ref();
    assert_eq!(judge::whole(token.as_bytes(), set), refusal, "{name}");
    if *signature == Signature::NotJudged {
        assert!(judge::stopped_before_claims(refusal), "{name}");
        assert!(judge::signature(token, set).is_err(), "{name}");
        return;
    }
    assert_eq!(judge::signature(token, set), Ok(()), "{name}");
    let forged = judge::with_another_signature(token);
    assert_eq!(judge::signature(&forged, set), Err("token_signature"), "{name}");
    // What is refused for its claims was proved first.
    if !judge::stopped_before_claims(refusal) {
        assert_eq!(judge::whole(forged.as_bytes(), set), "token_signature", "{name}");
    }
}

#[test]
fn j1_j2_j5_j7_of_the_tokens_of_rfc_7515_those_of_accepted_algorithms_in_compact_form_are_proved() {
    judge(include_str!("data/rfc/rfc7515.json"), 0, 8);
}

#[test]
fn j16_no_jwe_of_rfc_7516_is_read() {
    judge(include_str!("data/rfc/rfc7516.json"), 0, 5);
}

#[test]
fn j3_k10_of_the_keys_of_rfc_7517_only_public_signature_keys_are_kept() {
    judge(include_str!("data/rfc/rfc7517.json"), 5, 0);
}

#[test]
fn j1_j2_j16_the_tokens_of_rfc_7519_are_refused() {
    judge(include_str!("data/rfc/rfc7519.json"), 0, 4);
}

#[test]
fn j3_j7_the_keys_and_tokens_of_the_cookbook_of_rfc_7520_are_told_apart() {
    judge(include_str!("data/rfc/rfc7520.json"), 7, 12);
}

#[test]
fn the_key_of_rfc_7638_is_kept() {
    judge(include_str!("data/rfc/rfc7638.json"), 1, 0);
}

#[test]
fn j5_the_unencoded_payload_of_rfc_7797_is_refused() {
    judge(include_str!("data/rfc/rfc7797.json"), 0, 1);
}

#[test]
fn j3_the_ed25519_signature_of_rfc_8037_fits_and_keys_for_agreement_are_left_out() {
    judge(include_str!("data/rfc/rfc8037.json"), 3, 1);
}

#[test]
fn j13_the_dpop_proofs_of_rfc_9449_are_no_access_tokens() {
    judge(include_str!("data/rfc/rfc9449.json"), 1, 2);
}
