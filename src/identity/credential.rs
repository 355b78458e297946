//! Finds the credential of a request: in the Authorization header, or where the configuration allows tokens as well.
//!
//! Session cookies and client certificates are not read here; `gate::authenticate` takes them where there is no token.
//! The invariant: a request with credentials in two places is refused, since another client could have added one of them.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::request::{
    Request,
    token_location::{self, TokenLookup},
};

/// Where a token may be, in addition to the Authorization header (RFC 6750 section 2 advises against the other places).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenLocations {
    /// A cookie of this name.
    pub cookie: Option<Box<str>>,
    /// A parameter of the query of this name.
    pub query: Option<Box<str>>,
    /// A WebSocket subprotocol.
    pub subprotocol: bool,
}

impl TokenLocations {
    /// Whether the token of a request is in a cookie, which a browser adds to the request of any page.
    #[must_use]
    pub fn is_in_cookie(&self, request: &Request<'_>) -> bool {
        self.cookie.as_deref().zip(request.cookie).is_some_and(|(name, header)| {
            token_location::cookie(header, name.as_bytes()) != TokenLookup::Nothing
        })
    }
}

/// The credential a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// None, or one of a scheme that belongs to the workspace (Basic, Digest …).
    Absent,
    /// A bearer token (RFC 6750 section 2).
    Bearer(Cow<'a, [u8]>),
    /// A token with the scheme DPoP (RFC 9449 section 7.1). The agent cannot check its proof, so it is refused; it must
    /// not be taken for a bearer token.
    Dpop(&'a [u8]),
    /// More than one. The request is refused: one of them may come from another person.
    Several,
}

impl<'a> Credential<'a> {
    /// Reads the value of the Authorization header. The case of the scheme does not matter
    /// (RFC 9110 section 11.1).
    #[must_use]
    pub fn from_authorization(value: &'a [u8]) -> Self {
        // A scheme without a token is a credential too: an empty one, which is refused as malformed.
        let end = value.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(value.len());
        let (scheme, rest) = value.split_at_checked(end).unwrap_or((value, b""));
        if scheme.eq_ignore_ascii_case(b"Bearer") {
            Self::Bearer(rest.trim_ascii().into())
        } else if scheme.eq_ignore_ascii_case(b"DPoP") {
            Self::Dpop(rest.trim_ascii())
        } else {
            Self::Absent
        }
    }

    /// The credential of a request, in the Authorization header or at one of `locations`.
    #[must_use]
    pub fn find(request: &Request<'a>, locations: &TokenLocations) -> Self {
        let header = request.authorization.map_or(Self::Absent, Self::from_authorization);
        let others = [
            locations
                .cookie
                .as_deref()
                .zip(request.cookie)
                .map_or(Self::Absent, |(name, header)| {
                    Self::from(token_location::cookie(header, name.as_bytes()))
                }),
            locations.query.as_deref().zip(request.query).map_or(Self::Absent, |(name, query)| {
                Self::from(token_location::parameter(query, name.as_bytes()))
            }),
            request.protocols.filter(|_| locations.subprotocol).map_or(Self::Absent, |header| {
                Self::from(token_location::subprotocol(header)).decoded()
            }),
        ];
        // A header of another scheme (Basic) is the workspace's, so it does not conflict with a token elsewhere.
        others.into_iter().fold(header, |one, other| match (one, other) {
            (one, Self::Absent) => one,
            (Self::Absent, other) => other,
            _ => Self::Several,
        })
    }

    fn decoded(self) -> Self {
        match self {
            // Not base64url: the empty token is refused as malformed, instead of a request without a credential.
            Self::Bearer(text) => {
                Self::Bearer(URL_SAFE_NO_PAD.decode(text).unwrap_or_default().into())
            }
            other => other,
        }
    }
}

impl<'a> From<TokenLookup<'a>> for Credential<'a> {
    fn from(found: TokenLookup<'a>) -> Self {
        match found {
            TokenLookup::Nothing => Self::Absent,
            TokenLookup::One(token) => Self::Bearer(token.into()),
            TokenLookup::Several => Self::Several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(token: &[u8]) -> Credential<'_> {
        Credential::Bearer(token.into())
    }

    #[test]
    fn only_a_bearer_token_is_a_credential() {
        for (value, want) in [
            (&b"Bearer abc"[..], bearer(b"abc")),
            (b"bEARER   abc ", bearer(b"abc")),
            (b"Bearer", bearer(b"")),
            (b"Bearer ", bearer(b"")),
            (b"Bearerabc", Credential::Absent),
            (b"Basic YTpi", Credential::Absent),
            (b"abc", Credential::Absent),
            (b"", Credential::Absent),
            (b"Bearer \xff", bearer(b"\xff")),
            (b"DPoP abc", Credential::Dpop(b"abc")),
            (b"dpop  abc", Credential::Dpop(b"abc")),
            (b"DPoPabc", Credential::Absent),
        ] {
            assert_eq!(Credential::from_authorization(value), want, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn j17_other_places_count_only_where_configured_and_two_credentials_never() {
        let all = TokenLocations {
            cookie: Some("token".into()),
            query: Some("access_token".into()),
            subprotocol: true,
        };
        let none = TokenLocations::default();
        let subprotocol = [token_location::SUBPROTOCOL, b"YWJj"].concat();
        let empty = Request::default();
        let places = [
            Request { authorization: Some(b"Bearer abc"), ..empty },
            Request { cookie: Some(b"a=b; token=abc"), ..empty },
            Request { query: Some(b"a=b&access_token=abc"), ..empty },
            Request { protocols: Some(&subprotocol), ..empty },
        ];
        for (n, request) in places.iter().enumerate() {
            assert_eq!(Credential::find(request, &all), bearer(b"abc"));
            let want = if n == 0 { bearer(b"abc") } else { Credential::Absent };
            assert_eq!(Credential::find(request, &none), want);
            for other in &places[n + 1..] {
                let both = Request {
                    authorization: request.authorization.or(other.authorization),
                    cookie: request.cookie.or(other.cookie),
                    query: request.query.or(other.query),
                    protocols: request.protocols.or(other.protocols),
                    ..empty
                };
                assert_eq!(Credential::find(&both, &all), Credential::Several, "{both:?}");
            }
        }
        let twice = Request { cookie: Some(b"token=abc; token=abc"), ..empty };
        assert_eq!(Credential::find(&twice, &all), Credential::Several);
        let basic = Request { authorization: Some(b"Basic YTpi"), ..places[1] };
        assert_eq!(Credential::find(&basic, &all), bearer(b"abc"), "Basic is the workspace's own");
        let broken = [token_location::SUBPROTOCOL, b"!"].concat();
        let broken = Request { protocols: Some(&broken), ..empty };
        assert_eq!(Credential::find(&broken, &all), bearer(b""));
    }
}
