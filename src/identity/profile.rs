//! What an issuer is trusted to say, as configured.

use std::{str::FromStr, time::Duration};

use jsonwebtoken::Algorithm;
use thiserror::Error;
use url::Url;

/// The signature algorithms that can be accepted: asymmetric ones only, so that a published key can
/// never be used as a shared secret (RFC 8725 section 3.1).
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// A way to tell that an identity is the person a workspace record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The subject, byte for byte.
    Subject,
    /// The verified e-mail address, without regard to case.
    Email,
    /// The login name, byte for byte.
    Username,
}

/// Where a claim is: the name of a top-level claim, or a JSON Pointer (RFC 6901) when it starts with
/// a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<str>);

/// Which claims carry what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPaths {
    /// The e-mail address; it counts only beside `email_verified: true`.
    pub email: ClaimPath,
    /// The login name.
    pub username: ClaimPath,
    /// The groups: text, or a list of texts.
    pub groups: ClaimPath,
    /// The organization.
    pub organization: Option<ClaimPath>,
}

/// An issuer as configured.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The operator's name for it, in workspace records and logs.
    pub name: Box<str>,
    /// The issuer identifier, compared byte for byte with the `iss` claim.
    pub issuer: IssuerUrl,
    /// A token must be meant for one of these.
    pub audience: Vec<String>,
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How identities are joined to people; the first rule that a record has a field for decides.
    pub matching: Vec<MatchBy>,
    /// Which claims carry what.
    pub claims: ClaimPaths,
    /// The organization of everybody at this issuer, if no claim carries it.
    pub organization: Option<Box<str>>,
}

/// An issuer identifier: an https URL without query and fragment (OIDC Discovery section 2), or an
/// http URL on loopback for development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl {
    text: Box<str>,
    url: Url,
}

/// Why a text is not the address of an issuer or its keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Not a URL.
    #[error("expected a URL such as \"https://idp.example.com\": {0}")]
    Syntax(#[from] url::ParseError),
    /// Keys that came in the clear could be anybody's.
    #[error("expected an https URL (http is accepted for loopback addresses only)")]
    Insecure,
    /// Credentials, a query or a fragment.
    #[error("expected a URL without user, query and fragment")]
    Parts,
}

impl IssuerUrl {
    /// The identifier as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is an http URL on loopback, so that its keys may be fetched by http too.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }
}

impl FromStr for IssuerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = secure_url(text, true)?;
        if url.query().is_some() {
            return Err(UrlError::Parts);
        }
        Ok(Self { text: text.into(), url })
    }
}

/// A URL from which keys may be fetched; http only where `plain` allows it, and then on loopback.
///
/// # Errors
/// Not a URL, not secure, or with user or fragment.
pub fn secure_url(text: &str, plain: bool) -> Result<Url, UrlError> {
    let url = Url::parse(text)?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if plain && loopback => {}
        _ => return Err(UrlError::Insecure),
    }
    if url.host().is_none()
        || !url.username().is_empty()
        || url.password().is_some()
        || url.fragment().is_some()
    {
        return Err(UrlError::Parts);
    }
    Ok(url)
}

impl ClaimPath {
    /// The top-level claim of that name.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self(name.into())
    }

    /// A claim's name or JSON Pointer; the empty text is neither.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The claim, if it is there.
    #[must_use]
    pub fn find<'c>(
        &self,
        claims: &'c serde_json::Map<String, serde_json::Value>,
    ) -> Option<&'c serde_json::Value> {
        let Some(pointer) = self.0.strip_prefix('/') else { return claims.get(&*self.0) };
        let (first, rest) = match pointer.find('/') {
            Some(slash) => pointer.split_at(slash),
            None => (pointer, ""),
        };
        claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn k1_issuers_are_https_or_on_loopback() {
        for good in [
            "https://idp.example.com",
            "https://idp.example.com/realms/a",
            "http://127.0.0.1:80/x",
            "http://[::1]:1",
            "http://localhost:1",
        ] {
            assert_eq!(good.parse::<IssuerUrl>().unwrap().as_str(), good);
        }
        for bad in [
            "idp.example.com",
            "http://idp.example.com",
            "http://127.0.0.1.evil.com",
            "https://u@idp.example.com",
            "https://idp.example.com?x",
            "https://idp.example.com#x",
            "ftp://127.0.0.1",
            "file:///etc/passwd",
        ] {
            assert!(bad.parse::<IssuerUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claim_is_found_by_name_or_pointer() {
        let claims = json!({"groups": 1, "https://x.example/groups": 2, "realm_access": {"roles": 3}, "a/b": {"~": 4}});
        let claims = claims.as_object().unwrap();
        let find = |path: &str| {
            ClaimPath::new(path).unwrap().find(claims).and_then(serde_json::Value::as_u64)
        };
        assert_eq!(find("groups"), Some(1));
        assert_eq!(find("https://x.example/groups"), Some(2));
        assert_eq!(find("/realm_access/roles"), Some(3));
        assert_eq!(find("/a~1b/~0"), Some(4));
        assert_eq!(find("/groups"), Some(1));
        assert_eq!(find("/groups/0"), None);
        assert_eq!(find("realm_access/roles"), None);
    }
}
