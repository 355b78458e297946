//! Places of a request that may carry a token beside the Authorization header, and what is left of them
//! without it. Bytes stay bytes; nothing is decoded.

use super::cookie;

/// What browsers, which cannot set headers for a WebSocket, send a token as (as Kubernetes defined it);
/// the token in base64url follows.
pub const SUBPROTOCOL: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Nothing.
    Nothing,
    /// One value.
    One(&'a [u8]),
    /// Several: which is meant is anybody's guess.
    Several,
}

impl<'a> Found<'a> {
    fn of(mut values: impl Iterator<Item = &'a [u8]>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

/// The value of a cookie, by its name to the letter.
#[must_use]
pub fn cookie<'a>(header: &'a [u8], name: &[u8]) -> Found<'a> {
    Found::of(cookie::values(header, name))
}

/// The value of a parameter of a query string.
#[must_use]
pub fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Found<'a> {
    Found::of(query.split(|b| *b == b'&').filter_map(|pair| value_of(pair, name)))
}

/// The query string without the parameter; `None` if it has none of that name.
#[must_use]
pub fn without_parameter(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let is_it = |pair: &&[u8]| value_of(pair, name).is_some();
    without(query, b'&', is_it)
}

/// The token among WebSocket subprotocols (RFC 6455 section 11.3.4), still in base64url.
#[must_use]
pub fn subprotocol(header: &[u8]) -> Found<'_> {
    let tokens = header.split(|b| *b == b',');
    // More than the whitespace of RFC 9110 is passed over, so that what is taken out below is found here, and the
    // other way round.
    Found::of(tokens.filter_map(|protocol| protocol.trim_ascii().strip_prefix(SUBPROTOCOL)))
}

/// The subprotocols without tokens; `None` if there are none.
#[must_use]
pub fn without_subprotocol(header: &[u8]) -> Option<Vec<u8>> {
    let rest = without(header, b',', |one| one.trim_ascii().starts_with(SUBPROTOCOL))?;
    Some(rest.trim_ascii().to_vec())
}

fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    pair.strip_prefix(name)?.strip_prefix(b"=")
}

fn without(list: &[u8], separator: u8, is_it: impl Fn(&&[u8]) -> bool) -> Option<Vec<u8>> {
    let parts = || list.split(|b| *b == separator);
    if !parts().any(|part| is_it(&part)) {
        return None;
    }
    let rest: Vec<_> = parts().filter(|part| !is_it(part)).collect();
    Some(rest.join(&separator))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_name_to_the_letter() {
        for (header, want) in [
            (&b"a=1; t=x; b=2"[..], Found::One(&b"x"[..])),
            (b"t=", Found::One(b"")),
            (b"t=a=b", Found::One(b"a=b")),
            (b"T=x; tt=x; xt=x; t", Found::Nothing),
            (b"t=x; t=x", Found::Several),
            (b"", Found::Nothing),
        ] {
            assert_eq!(cookie(header, b"t"), want, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn a_parameter_is_found_and_taken_out() {
        for (query, found, rest) in [
            (&b"a=1&t=x&b=%20"[..], Found::One(&b"x"[..]), Some(&b"a=1&b=%20"[..])),
            (b"t=x", Found::One(b"x"), Some(b"")),
            (b"t=x&t=y", Found::Several, Some(b"")),
            (b"a=1&&tt=2", Found::Nothing, None),
            (b"T=x", Found::Nothing, None),
        ] {
            assert_eq!(parameter(query, b"t"), found);
            assert_eq!(without_parameter(query, b"t").as_deref(), rest);
        }
    }

    #[test]
    fn a_subprotocol_is_found_and_taken_out() {
        let token = |text: &str| [SUBPROTOCOL, text.as_bytes()].concat();
        let list = |parts: &[&[u8]]| parts.join(&b", "[..]);
        let both = list(&[b"chat", &token("YQ"), b"v2"]);
        assert_eq!(subprotocol(&both), Found::One(b"YQ"));
        assert_eq!(without_subprotocol(&both).as_deref(), Some(&b"chat, v2"[..]));
        assert_eq!(without_subprotocol(&token("YQ")).as_deref(), Some(&b""[..]));
        assert_eq!(without_subprotocol(&list(&[&token("YQ"), b"v2"])).as_deref(), Some(&b"v2"[..]));
        assert_eq!(subprotocol(&list(&[&token("a"), &token("b")])), Found::Several);
        assert_eq!((subprotocol(b"chat"), without_subprotocol(b"chat")), (Found::Nothing, None));
        let odd = [&b"\x0c"[..], &token("YQ")].concat();
        assert_eq!(subprotocol(&odd), Found::One(b"YQ"));
        assert_eq!(without_subprotocol(&odd).as_deref(), Some(&b""[..]));
    }

    proptest! {
        #[test]
        fn what_is_left_holds_nothing_of_the_kind(list in "[ta=&;, x]{0,40}") {
            let list = list.as_bytes();
            let rest = without_parameter(list, b"t").unwrap_or_else(|| list.to_vec());
            prop_assert_eq!(parameter(&rest, b"t"), Found::Nothing);
        }
    }
}
