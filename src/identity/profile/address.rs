//! The addresses of issuers and of what they publish: https only, or http on loopback for development.
//!
//! The invariant: keys are never fetched over a connection that another party could have answered.

use std::str::FromStr;

use thiserror::Error;
use url::Url;

/// The path of the discovery document below the issuer identifier.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// An issuer identifier: an https URL without query and fragment (OIDC Discovery section 2), or an
/// http URL on loopback for development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl {
    text: Box<str>,
    url: Url,
}

/// Why a text is not a usable address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Not a URL.
    #[error("expected a URL such as \"https://idp.example.com\": {0}")]
    Syntax(#[from] url::ParseError),
    /// Not https: keys that are fetched without TLS may come from any party.
    #[error("expected an https URL (http is accepted for loopback addresses only)")]
    Insecure,
    /// It has a user, a password, a query or a fragment.
    #[error("expected a URL without user, query and fragment")]
    Parts,
}

impl IssuerUrl {
    /// The identifier as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address of its discovery document (OIDC Discovery section 4.1).
    #[must_use]
    pub fn discovery(&self) -> Url {
        let mut url = self.url.clone();
        let path = format!("{}{WELL_KNOWN}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// Whether it is an http URL on loopback. Its keys may be fetched over http then.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }
}

impl FromStr for IssuerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        // The text is kept as it is: issuers are compared byte for byte, and a parsed URL may gain a slash.
        let url = secure_url(text, true)?;
        if url.query().is_some() {
            return Err(UrlError::Parts);
        }
        Ok(Self { text: text.into(), url })
    }
}

/// A URL from which keys may be fetched: https, or http on loopback where `plain` allows it.
///
/// # Errors
/// Not a URL, not secure, or with user or fragment.
pub fn secure_url(text: &str, plain: bool) -> Result<Url, UrlError> {
    let url = Url::parse(text)?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        // Another name may resolve to loopback today and elsewhere tomorrow.
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

#[cfg(test)]
mod tests {
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
}
