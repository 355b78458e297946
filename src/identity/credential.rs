//! Finds the tokens of a request: in the Authorization header, and where the configuration allows tokens as well.
//!
//! Session cookies and client certificates are not read here; `gate::authenticate` takes them where there is no token.
//! What stands at a place of `[credentials]` is for the gate. A token in Authorization may be the app's, which only
//! [`Issuers::judge`](super::issuers::Issuers::judge) can tell. The invariant: a request with two tokens for the gate is
//! refused, since another client could have added one of them.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::request::{
    Request,
    token_location::{self, TokenLookup},
};

/// Where a token may be, in addition to the Authorization header (RFC 6750 section 2 advises against the other places).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenLocations {
    /// A header of this name, so that Authorization is the app's.
    pub header: Option<TokenHeader>,
    /// A cookie of this name.
    pub cookie: Option<Box<str>>,
    /// A parameter of the query of this name.
    pub query: Option<Box<str>>,
    /// A WebSocket subprotocol.
    pub subprotocol: bool,
}

/// The name of a header in which programs send tokens for the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHeader(Box<str>);

/// The header of RFC 9110 section 11.7.2, which Google's Identity-Aware Proxy reads too.
const PROXY_AUTHORIZATION: &str = "Proxy-Authorization";

/// How names begin of headers that the gate, HAProxy or a proxy in front writes or reads.
const TAKEN: [&str; 13] = [
    "x-forwarded",
    "x-identity",
    "x-auth-request",
    "x-remote",
    "x-real-ip",
    "x-client-ip",
    "x-wsproxy",
    "x-unique-id",
    "x-requested-with",
    "x-http-method",
    "x-method-override",
    "x-original-",
    "x-rewrite-",
];

impl TokenHeader {
    /// Reads a name: `Proxy-Authorization`, or one that begins with `X-` and has no other use.
    ///
    /// # Errors
    /// It is another name. Of the headers that HTTP defines, each is needed by HAProxy, the gate or the app, or ends at the
    /// next proxy.
    pub fn parse(name: &str) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        if lower == PROXY_AUTHORIZATION.to_ascii_lowercase() {
            return Ok(Self(PROXY_AUTHORIZATION.into()));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let own = lower.strip_prefix("x-").is_some_and(|rest| {
            !rest.is_empty() && !rest.starts_with('-') && !rest.ends_with('-') && name.len() <= 64
        });
        if !own || !name.bytes().all(plain) {
            return Err(format!(
                "expected \"Proxy-Authorization\", or a name of your own such as \"X-Workspace-Token\", of letters, digits and '-', found {name:?}"
            ));
        }
        if TAKEN.iter().any(|taken| lower.starts_with(taken)) {
            return Err(format!("the gate, or a proxy in front of it, uses headers like {name:?}"));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The token in a header of this name. A header of one's own may have it without the scheme.
    fn read<'a>(&self, value: &'a [u8]) -> Credential<'a> {
        match Credential::from_authorization(value) {
            // Another scheme is for another proxy. HAProxy deletes the header in any case.
            Credential::Absent if *self.0 == *PROXY_AUTHORIZATION => Credential::Absent,
            Credential::Absent => Credential::Bearer(value.trim_ascii().into()),
            token => token,
        }
    }
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

/// The tokens of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented<'a> {
    /// What stands where only tokens for the gate are.
    pub own: Credential<'a>,
    /// What the Authorization header has, which may be the app's.
    pub authorization: Credential<'a>,
}

impl<'a> Presented<'a> {
    /// No token.
    pub const NOTHING: Self = Self { own: Credential::Absent, authorization: Credential::Absent };

    /// The tokens in the Authorization header and at `locations`.
    #[must_use]
    pub fn find(request: &Request<'a>, locations: &TokenLocations) -> Self {
        let header = locations
            .header
            .as_ref()
            .zip(request.token)
            .map_or(Credential::Absent, |(header, value)| header.read(value));
        let others =
            [
                locations.cookie.as_deref().zip(request.cookie).map_or(
                    Credential::Absent,
                    |(name, header)| {
                        Credential::from(token_location::cookie(header, name.as_bytes()))
                    },
                ),
                locations.query.as_deref().zip(request.query).map_or(
                    Credential::Absent,
                    |(name, query)| {
                        Credential::from(token_location::parameter(query, name.as_bytes()))
                    },
                ),
                request
                    .protocols
                    .filter(|_| locations.subprotocol)
                    .map_or(Credential::Absent, |header| {
                        Credential::from(token_location::subprotocol(header)).decoded()
                    }),
            ];
        let own = others.into_iter().fold(header, |one, other| match (one, other) {
            (one, Credential::Absent) => one,
            (Credential::Absent, other) => other,
            _ => Credential::Several,
        });
        let authorization =
            request.authorization.map_or(Credential::Absent, Credential::from_authorization);
        Self { own, authorization }
    }
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
            header: Some(TokenHeader::parse("X-Token").unwrap()),
            cookie: Some("token".into()),
            query: Some("access_token".into()),
            subprotocol: true,
        };
        let none = TokenLocations::default();
        let subprotocol = [token_location::SUBPROTOCOL, b"YWJj"].concat();
        let empty = Request::default();
        let places = [
            Request { token: Some(b"abc"), ..empty },
            Request { cookie: Some(b"a=b; token=abc"), ..empty },
            Request { query: Some(b"a=b&access_token=abc"), ..empty },
            Request { protocols: Some(&subprotocol), ..empty },
        ];
        let own = |request: &Request<'_>| {
            let Presented { own, authorization } = Presented::find(request, &all);
            assert_eq!(authorization, Credential::Absent);
            format!("{own:?}")
        };
        let abc = format!("{:?}", bearer(b"abc"));
        for (n, request) in places.iter().enumerate() {
            assert_eq!(own(request), abc);
            assert_eq!(Presented::find(request, &none), Presented::NOTHING);
            for other in &places[n + 1..] {
                let both = Request {
                    token: request.token.or(other.token),
                    cookie: request.cookie.or(other.cookie),
                    query: request.query.or(other.query),
                    protocols: request.protocols.or(other.protocols),
                    ..empty
                };
                assert_eq!(own(&both), "Several", "{both:?}");
            }
            // The Authorization header is read in any case, and may be the app's.
            let both = Request { authorization: Some(b"Bearer xyz"), ..*request };
            let want = Presented { own: bearer(b"abc"), authorization: bearer(b"xyz") };
            assert_eq!(Presented::find(&both, &all), want);
            let basic = Request { authorization: Some(b"Basic YTpi"), ..*request };
            assert_eq!(own(&basic), abc, "Basic is the workspace's own");
        }
        let twice = Request { cookie: Some(b"token=abc; token=abc"), ..empty };
        assert_eq!(own(&twice), "Several");
        let broken = [token_location::SUBPROTOCOL, b"!"].concat();
        let broken = Request { protocols: Some(&broken), ..empty };
        assert_eq!(own(&broken), format!("{:?}", bearer(b"")));
    }

    #[test]
    fn q1_a_header_of_ones_own_has_the_token_with_the_scheme_or_without() {
        let read = |name: &str, value: &'static [u8]| TokenHeader::parse(name).unwrap().read(value);
        for (value, proxy, own) in [
            (&b"Bearer abc"[..], bearer(b"abc"), bearer(b"abc")),
            (b"bearer  abc ", bearer(b"abc"), bearer(b"abc")),
            (b"DPoP abc", Credential::Dpop(b"abc"), Credential::Dpop(b"abc")),
            (b"Bearer", bearer(b""), bearer(b"")),
            (b" abc ", Credential::Absent, bearer(b"abc")),
            (b"Basic YTpi", Credential::Absent, bearer(b"Basic YTpi")),
            (b"", Credential::Absent, bearer(b"")),
        ] {
            assert_eq!(read("Proxy-Authorization", value), proxy, "{}", value.escape_ascii());
            assert_eq!(read("proxy-authorization", value), proxy);
            assert_eq!(read("X-Workspace-Token", value), own, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn q1_no_header_with_another_use_can_be_that_for_tokens() {
        for name in
            ["Proxy-Authorization", "PROXY-AUTHORIZATION", "X-Workspace-Token", "x-a", "X-1-b"]
        {
            assert!(TokenHeader::parse(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "X",
            "X-",
            "x--a",
            "X-a-",
            "Token",
            "Authorization",
            "Cookie",
            "Host",
            "Origin",
            "Referer",
            "Accept",
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authenticate",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
            "Content-Length",
            "Expect",
            "Sec-Fetch-Site",
            "Sec-WebSocket-Protocol",
            "X_Token",
            "X-To ken",
            "X-Tok\n",
            "X-Tök",
            "X-Token:",
            "X-Forwarded-User",
            "x-forwarded",
            "X-Identity-Subject",
            "X-Auth-Request-User",
            "X-Remote-User",
            "X-Real-IP",
            "X-Client-IP",
            "X-WSProxy-Host",
            "X-Unique-ID",
            "X-Requested-With",
            "X-HTTP-Method-Override",
            "X-Original-URL",
        ] {
            assert!(TokenHeader::parse(name).is_err(), "{name}");
        }
        assert!(TokenHeader::parse(&format!("X-{}", "a".repeat(63))).is_err());
    }
}
