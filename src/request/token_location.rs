//! Tokens outside the Authorization header: in a cookie, the query or a WebSocket subprotocol.
//!
//! The gate looks for a token where the operator's `[credentials]` allows it; the agent removes it before the request
//! reaches the workspace. The invariant: whatever is found by a function here is removed by its counterpart, for
//! any bytes. Nothing is decoded, so that the value cannot differ from what the client sent.

use super::cookie;

/// The beginning of a WebSocket subprotocol that carries a token; the token in base64url follows. Kubernetes defined it
/// for browsers, which cannot set headers for a WebSocket.
pub const SUBPROTOCOL: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// What was found at one location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenLookup<'a> {
    /// No token.
    Nothing,
    /// One token.
    One(&'a [u8]),
    /// Several tokens; it is not known which of them the workspace would use.
    Several,
}

impl<'a> TokenLookup<'a> {
    fn from_values(mut values: impl Iterator<Item = &'a [u8]>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

/// The value of the cookie with this exact name.
#[must_use]
pub fn cookie<'a>(header: &'a [u8], name: &[u8]) -> TokenLookup<'a> {
    TokenLookup::from_values(cookie::values(header, name))
}

/// The value of a parameter of a query string.
#[must_use]
pub fn parameter<'a>(query: &'a [u8], name: &[u8]) -> TokenLookup<'a> {
    TokenLookup::from_values(query.split(|b| *b == b'&').filter_map(|pair| value_of(pair, name)))
}

/// The query string without the parameter; `None` if it has no parameter of that name.
#[must_use]
pub fn without_parameter(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let is_it = |pair: &&[u8]| value_of(pair, name).is_some();
    without(query, b'&', is_it)
}

/// The token among WebSocket subprotocols (RFC 6455 section 11.3.4), still in base64url.
#[must_use]
pub fn subprotocol(header: &[u8]) -> TokenLookup<'_> {
    let tokens = header.split(|b| *b == b',');
    // More whitespace than RFC 9110 allows is ignored here, as in `without_subprotocol`, so that both agree about every
    // header.
    TokenLookup::from_values(
        tokens.filter_map(|protocol| protocol.trim_ascii().strip_prefix(SUBPROTOCOL)),
    )
}

/// The subprotocols without tokens; `None` if none of them carries one.
#[must_use]
pub fn without_subprotocol(header: &[u8]) -> Option<Vec<u8>> {
    let rest = without(header, b',', |one| one.trim_ascii().starts_with(SUBPROTOCOL))?;
    Some(rest.trim_ascii().to_vec())
}

/// The value of a pair with this exact name.
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    pair.strip_prefix(name)?.strip_prefix(b"=")
}

/// A list without the matching parts; `None` if no part matches.
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
    fn a_cookie_is_found_by_its_exact_name() {
        for (header, want) in [
            (&b"a=1; t=x; b=2"[..], TokenLookup::One(&b"x"[..])),
            (b"t=", TokenLookup::One(b"")),
            (b"t=a=b", TokenLookup::One(b"a=b")),
            (b"T=x; tt=x; xt=x; t", TokenLookup::Nothing),
            (b"t=x; t=x", TokenLookup::Several),
            (b"", TokenLookup::Nothing),
        ] {
            assert_eq!(cookie(header, b"t"), want, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn a_parameter_is_found_and_removed() {
        for (query, found, rest) in [
            (&b"a=1&t=x&b=%20"[..], TokenLookup::One(&b"x"[..]), Some(&b"a=1&b=%20"[..])),
            (b"t=x", TokenLookup::One(b"x"), Some(b"")),
            (b"t=x&t=y", TokenLookup::Several, Some(b"")),
            (b"a=1&&tt=2", TokenLookup::Nothing, None),
            (b"T=x", TokenLookup::Nothing, None),
        ] {
            assert_eq!(parameter(query, b"t"), found);
            assert_eq!(without_parameter(query, b"t").as_deref(), rest);
        }
    }

    #[test]
    fn a_subprotocol_is_found_and_removed() {
        let token = |text: &str| [SUBPROTOCOL, text.as_bytes()].concat();
        let list = |parts: &[&[u8]]| parts.join(&b", "[..]);
        let both = list(&[b"chat", &token("YQ"), b"v2"]);
        assert_eq!(subprotocol(&both), TokenLookup::One(b"YQ"));
        assert_eq!(without_subprotocol(&both).as_deref(), Some(&b"chat, v2"[..]));
        assert_eq!(without_subprotocol(&token("YQ")).as_deref(), Some(&b""[..]));
        assert_eq!(without_subprotocol(&list(&[&token("YQ"), b"v2"])).as_deref(), Some(&b"v2"[..]));
        assert_eq!(subprotocol(&list(&[&token("a"), &token("b")])), TokenLookup::Several);
        assert_eq!(
            (subprotocol(b"chat"), without_subprotocol(b"chat")),
            (TokenLookup::Nothing, None)
        );
        let odd = [&b"\x0c"[..], &token("YQ")].concat();
        assert_eq!(subprotocol(&odd), TokenLookup::One(b"YQ"));
        assert_eq!(without_subprotocol(&odd).as_deref(), Some(&b""[..]));
    }

    proptest! {
        #[test]
        fn the_rest_of_a_query_has_no_such_parameter(list in "[ta=&;, x]{0,40}") {
            let list = list.as_bytes();
            let rest = without_parameter(list, b"t").unwrap_or_else(|| list.to_vec());
            prop_assert_eq!(parameter(&rest, b"t"), TokenLookup::Nothing);
        }
    }
}
