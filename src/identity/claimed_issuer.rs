//! Finds out whether a text could be taken for a token of a configured issuer, before anything of it is verified.
//!
//! An Authorization header that holds no token of the gate's issuers belongs to the app behind the gate, and travels on. The
//! app may read it in another way than the verifier does: it may skip characters, use the other alphabet of base64, or choose
//! the other one of two members. So a text is read here as any of them could read it.
//!
//! The invariant: a text that some usual parser reads as a JWT with an accepted `iss` is found. The opposite does not
//! hold: of a text that is not well-formed, more is found than there may be.

use arrayvec::ArrayVec;
use serde::de::IgnoredAny;

use super::jwt::MAX_TOKEN;

/// The longest header that is looked into, in bytes: a token with its scheme. A longer one counts as found.
const MAX_HEADER: usize = MAX_TOKEN + 64;
/// The longest issuer that is compared, in bytes.
const MAX_ISSUER: usize = 2048;
/// The most values of `iss` that are compared. A token with more counts as found.
const MAX_VALUES: usize = 64;

/// The decoded bytes of a segment. They are on the stack, so that a request with an app's token allocates nothing.
type Decoded = ArrayVec<u8, { MAX_HEADER / 4 * 3 + 3 }>;

/// Whether the value of an Authorization header, of any scheme, could have a token in it whose `iss` is one of these.
pub fn is_in_header(value: &[u8], is_ours: impl Fn(&[u8]) -> bool) -> bool {
    if is_in_text(value, &is_ours) {
        return true;
    }
    // Programs such as Git send a token as the password of a pair in base64 (RFC 7617).
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, pair) = value.split_at_checked(end).unwrap_or((value, b""));
    scheme.eq_ignore_ascii_case(b"Basic") && is_in_text(&decoded(pair), &is_ours)
}

/// Whether a text could have a token in it whose `iss` is one of these.
fn is_in_text(text: &[u8], is_ours: &impl Fn(&[u8]) -> bool) -> bool {
    if text.len() > MAX_HEADER {
        return true;
    }
    // The payload of a signed token is its second segment. An encrypted one may repeat the claim in its header (RFC 7519
    // section 5.3). Which of the segments a reader takes is not known.
    text.split(|byte| *byte == b'.').any(|segment| {
        let other = |byte: &u8| sextet(*byte).is_none();
        // Some decoders skip what is not of the alphabet, others stop there or begin again.
        names(segment, is_ours)
            || (segment.iter().any(other) && segment.split(other).any(|word| names(word, is_ours)))
    })
}

/// Whether two issuers are one to some reader: in the other case, between spaces, with or without a slash at the end.
#[must_use]
pub fn is_alike(one: &[u8], other: &[u8]) -> bool {
    bare(one).eq_ignore_ascii_case(bare(other))
}

fn bare(issuer: &[u8]) -> &[u8] {
    let mut issuer = issuer.trim_ascii();
    while let [rest @ .., b'/'] = issuer {
        issuer = rest;
    }
    issuer
}

/// Whether a segment is JSON in base64 that names an issuer.
fn names(segment: &[u8], is_ours: &impl Fn(&[u8]) -> bool) -> bool {
    let json = decoded(segment);
    match find_issuer(&json, is_ours) {
        Found::Nowhere => false,
        Found::Member => true,
        // A member of an inner object is not a claim of the token, unless braces are not what they seem.
        Found::Inside => serde_json::from_slice::<IgnoredAny>(&json).is_err(),
    }
}

/// The bytes of a text in base64 of either alphabet. Other characters are skipped, and NUL is left out, which stands between
/// the letters of UTF-16. No library decodes so leniently.
fn decoded(text: &[u8]) -> Decoded {
    let mut bytes = Decoded::new();
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for sextet in text.iter().filter_map(|byte| sextet(*byte)) {
        buffer = (buffer << 6 | sextet) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            // INVARIANT: the text is at most MAX_HEADER long, so its bytes have room.
            match u8::try_from(buffer >> bits & 0xff) {
                Ok(byte) if byte != 0 => {
                    let _ = bytes.try_push(byte);
                }
                _ => {}
            }
        }
    }
    bytes
}

/// The value of a character of base64 or base64url.
fn sextet(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// Where one of the issuers is named as `iss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nowhere,
    /// In the outermost object.
    Member,
    /// In an object inside it.
    Inside,
}

/// Finds a member `iss` with one of the issuers as its value, or in it. Of several members with this name each is
/// looked at, and the case of its letters does not matter, as to some readers.
fn find_issuer(json: &[u8], is_ours: &impl Fn(&[u8]) -> bool) -> Found {
    let mut found = Found::Nowhere;
    let (mut depth, mut values) = (0_usize, 0_usize);
    // How deep the member is whose value is read.
    let mut member: Option<usize> = None;
    let mut rest = json;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                member = member.filter(|member| *member <= depth);
            }
            b'"' => {
                let (text, after) = string(rest);
                rest = after;
                if rest.trim_ascii_start().starts_with(b":") {
                    if unescaped(text).eq_ignore_ascii_case(b"iss") {
                        member = Some(depth);
                    } else {
                        member = member.filter(|member| *member < depth);
                    }
                } else if let Some(member) = member {
                    values += 1;
                    if values > MAX_VALUES || is_ours(&unescaped(text)) {
                        if member <= 1 {
                            return Found::Member;
                        }
                        found = Found::Inside;
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// A string up to its closing quote, and what follows that.
fn string(rest: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let end = rest.iter().position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    });
    let end = end.unwrap_or(rest.len());
    let (text, after) = rest.split_at_checked(end).unwrap_or((rest, b""));
    (text, after.get(1..).unwrap_or_default())
}

/// A string without its escapes (RFC 8259 section 7), cut at [`MAX_ISSUER`]. A character beyond ASCII is a byte that no
/// issuer has.
fn unescaped(text: &[u8]) -> ArrayVec<u8, MAX_ISSUER> {
    let mut plain = ArrayVec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let (byte, left) = match (first, after) {
            (b'\\', [b'u', digits @ ..]) => match code_point(digits) {
                Some((code, left)) => (u8::try_from(code).unwrap_or(0xff), left),
                None => (b'u', digits),
            },
            (b'\\', [b'b' | b'f' | b'n' | b'r' | b't', left @ ..]) => (b' ', left),
            (b'\\', [escaped, left @ ..]) => (*escaped, left),
            _ => (*first, after),
        };
        if plain.try_push(byte).is_err() {
            break;
        }
        rest = left;
    }
    plain
}

/// The number in four hexadecimal digits, and what follows them.
fn code_point(digits: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, left) = digits.split_at_checked(4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u16::from_str_radix(digits, 16).ok()?, left))
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "https://corp.example.com/realms/a";

    fn found(value: &[u8]) -> bool {
        is_in_header(value, |iss| is_alike(iss, OURS.as_bytes()))
    }

    /// A token with this payload, as headers have it.
    fn bearer(payload: &str) -> String {
        let [header, payload] = [r#"{"alg":"HS256"}"#, payload].map(|t| URL_SAFE_NO_PAD.encode(t));
        format!("Bearer {header}.{payload}.c2ln")
    }

    #[test]
    fn q1_a_token_of_a_configured_issuer_is_found_however_it_is_read() {
        let utf16 =
            |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for payload in [
            format!(r#"{{"iss":"{OURS}"}}"#),
            format!("{{ \"sub\" : \"a\" ,\n \"iss\"\t:\r\n \"{OURS}\" }}"),
            format!(r#"{{"iss":"https://app.test","iss":"{OURS}"}}"#),
            format!(r#"{{"iss":"{OURS}","iss":"https://app.test"}}"#),
            format!(r#"{{"ISS":"{OURS}"}}"#),
            format!(r#"{{"\u0069\u0073s":"{OURS}"}}"#),
            r#"{"iss":"https:\/\/corp.example.com\/realms\/a"}"#.to_owned(),
            r#"{"iss":"https://corp.example.com/realms\u002fa"}"#.to_owned(),
            format!(r#"{{"iss":"{OURS}/"}}"#),
            format!(r#"{{"iss":" {} "}}"#, OURS.to_uppercase()),
            format!(r#"{{"iss":["https://app.test","{OURS}"]}}"#),
            format!(r#"{{"iss":{{"id":"{OURS}"}}}}"#),
            format!(r#"{{"a":{{"b":[1,"}}"]}},"iss":"{OURS}"}}"#),
            format!(r#"{{"a":"\"iss\":","b":"\\","iss":"{OURS}"}}"#),
            // Not JSON to a strict reader.
            format!("\u{feff}{{\"iss\":\"{OURS}\"}}"),
            format!(r#"{{"iss":"{OURS}",}}"#),
            format!(r#"{{"iss":"{OURS}""#),
            format!(r#"{{{{"iss":"{OURS}"}}"#),
            format!(r#"{{"iss":"{OURS}"}} {{}}"#),
        ] {
            assert!(found(bearer(&payload).as_bytes()), "{payload}");
        }
        let payload = format!(r#"{{"sub":"??>>~~","iss":"{OURS}"}}"#);
        let padded = URL_SAFE.encode(format!("{payload} "));
        assert!(padded.ends_with('='));
        let (standard, plain) = (STANDARD.encode(&payload), URL_SAFE_NO_PAD.encode(&payload));
        assert!(standard.contains(['+', '/']));
        let (start, end) = plain.split_at(21);
        for value in [
            format!("Bearer e30.{padded}.x"),
            format!("Bearer e30.{standard}.x"),
            format!("Bearer e30.{start} {end}.x"),
            format!("Bearer e30.{start}\t\"{end}.x"),
            format!("Bearer e30.{plain}"),
            format!("Bearer e30.{plain}."),
            format!("Bearer a.e30.{plain}.x"),
            format!("Bearer {plain}.a.b.c.d"),
            format!("Bearer opaque, Bearer e30.{plain}.x"),
            format!("Bearer opaque, Bearer {plain}.a.b.c.d"),
            format!("e30.{plain}.x"),
            format!("token e30.{plain}.x"),
            format!("Token token=\"e30.{plain}.x\", nonce=\"a\""),
            format!("Bearer e30.{}.x", URL_SAFE_NO_PAD.encode(utf16(&payload))),
            format!("Basic {}", STANDARD.encode(format!("oauth2:e30.{plain}.x"))),
            format!("basic  {}", STANDARD.encode(format!("e30.{plain}.x:"))),
            format!("Bearer {}", "x".repeat(MAX_HEADER)),
        ] {
            assert!(found(value.as_bytes()), "{value}");
        }
        let many = format!(r#"{{"iss":[{}""]}}"#, r#""a","#.repeat(MAX_VALUES));
        assert!(found(bearer(&many).as_bytes()));
    }

    #[test]
    fn q1_an_apps_token_is_not_taken_for_one_of_the_gate() {
        for payload in [
            "{}".to_owned(),
            r#"{"sub":"a"}"#.to_owned(),
            r#"{"iss":"https://app.test"}"#.to_owned(),
            r#"{"iss":"https://corp.example.com"}"#.to_owned(),
            format!(r#"{{"iss":"{OURS}.evil.test"}}"#),
            format!(r#"{{"iss":"https://app.test","sub":"{OURS}"}}"#),
            format!(r#"{{"iss":["https://app.test"],"aud":["{OURS}"]}}"#),
            format!(r#"{{"iss":{{"a":1}},"idp":"{OURS}"}}"#),
            format!(r#"{{"sub":"iss","x":"{OURS}"}}"#),
            // Who acted before (RFC 8693 section 4.1), in a token of the app's own.
            format!(r#"{{"iss":"https://app.test","act":{{"iss":"{OURS}","sub":"a"}}}}"#),
            "not JSON".to_owned(),
        ] {
            assert!(!found(bearer(&payload).as_bytes()), "{payload}");
        }
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer opaque123",
            "Bearer a.b.c",
            "Bearer a.b.c.d.e",
            "Basic dTpw",
            "Basic !",
            "Digest username=\"a\", realm=\"b\"",
            "AWS4-HMAC-SHA256 Credential=a/b/c",
            "....",
        ] {
            assert!(!found(value.as_bytes()), "{value}");
        }
        assert!(!found(b"Bearer \xff\xfe.\x80.\x00"));
    }

    proptest! {
        /// An independent reader, which takes the last of several members, finds nothing that was not found here.
        #[test]
        fn q1_what_another_parser_reads_is_found(
            names in proptest::collection::vec(proptest::sample::select(vec!["iss", "sub", "aud", "x"]), 0..5),
            values in proptest::collection::vec(
                proptest::sample::select(vec![OURS, "https://app.test", "", "\"iss\":", "{", "}"]), 5..6),
            spaces in "[ \n\t]{0,3}",
        ) {
            let members: Vec<_> = names.iter().zip(&values).map(|(name, value)| {
                format!("{spaces}{:?}{spaces}:{}{spaces}", name, serde_json::Value::from(*value))
            }).collect();
            let payload = format!("{{{}}}", members.join(","));
            let read: serde_json::Value = serde_json::from_str(&payload).unwrap();
            let is_ours = read.get("iss").is_some_and(|iss| iss == OURS);
            let any = names.iter().zip(&values).any(|(name, value)| *name == "iss" && *value == OURS);
            prop_assert!(any || !is_ours);
            prop_assert_eq!(found(bearer(&payload).as_bytes()), any);
        }

        #[test]
        fn q1_any_bytes_are_looked_at_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = found(&value);
            let _ = found(format!("Bearer e30.{}.x", URL_SAFE_NO_PAD.encode(&value)).as_bytes());
        }
    }
}
