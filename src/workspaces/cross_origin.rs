//! Which pages of other origins may use an endpoint with the credentials of their visitor, and who answers CORS there.
//!
//! A source has both settings for all its workspaces, and an endpoint can have its own. The gate compares the origin that a
//! browser names with them; the browser applies what the responses say (the Fetch standard, "CORS protocol").
//!
//! Invariant: an [`Origin`] is written as browsers write it, so that it can be compared byte for byte.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;
use url::Url;

use super::host::Host;

/// The word for the pages of the workspace's other endpoints.
pub const SAME_WORKSPACE: &str = "same-workspace";
/// The word for no pages of other origins.
pub const NONE: &str = "none";

/// An origin as browsers send it: scheme, host, and the port unless it is the scheme's default (RFC 6454 section 6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(Box<str>);

/// The error of parsing an [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected an origin as browsers write it, such as \"https://app.example.com\": scheme, host in lower case, the port if it is not the usual one, and no path"
)]
pub struct OriginError;

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let url = Url::parse(text).map_err(|_| OriginError)?;
        // "null", "*" and every other spelling are refused here: their canonical form is another text.
        let has_host = match url.host() {
            Some(url::Host::Domain(name)) => Host::parse(name.as_bytes()).is_ok(),
            Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => true,
            None => false,
        };
        let is_canonical = url.origin().ascii_serialization() == text;
        if !matches!(url.scheme(), "http" | "https") || !has_host || !is_canonical {
            return Err(OriginError);
        }
        Ok(Self(text.into()))
    }
}

/// Which pages of other origins may use an endpoint with the credentials of their visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrossOrigin {
    siblings: Siblings,
    origins: Arc<[Origin]>,
}

/// Whether the pages of the workspace's other endpoints may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Siblings {
    Allowed,
    Refused,
}

impl Default for CrossOrigin {
    fn default() -> Self {
        Self { siblings: Siblings::Allowed, origins: Arc::default() }
    }
}

impl CrossOrigin {
    /// No page of another origin.
    #[must_use]
    pub fn none() -> Self {
        Self { siblings: Siblings::Refused, origins: Arc::default() }
    }

    /// What the texts of a list name: origins, and [`SAME_WORKSPACE`].
    ///
    /// # Errors
    /// The place of a text that is neither, with what is wrong.
    pub fn listed<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, (usize, OriginError)> {
        let (mut siblings, mut origins) = (Siblings::Refused, Vec::new());
        for (index, text) in texts.into_iter().enumerate() {
            if text == SAME_WORKSPACE {
                siblings = Siblings::Allowed;
            } else {
                origins.push(text.parse().map_err(|error| (index, error))?);
            }
        }
        Ok(Self { siblings, origins: origins.into() })
    }

    /// Whether the pages of the workspace's other endpoints may.
    #[must_use]
    pub const fn admits_siblings(&self) -> bool {
        matches!(self.siblings, Siblings::Allowed)
    }

    /// Whether an origin is in the list.
    #[must_use]
    pub fn lists(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|listed| listed.0.as_bytes() == origin)
    }
}

impl fmt::Display for CrossOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origins.is_empty() {
            return f.write_str(if self.admits_siblings() { SAME_WORKSPACE } else { NONE });
        }
        f.write_str(if self.admits_siblings() { SAME_WORKSPACE } else { "" })?;
        for (number, origin) in self.origins.iter().enumerate() {
            let separator = if number > 0 || self.admits_siblings() { " " } else { "" };
            write!(f, "{separator}{}", origin.0)?;
        }
        Ok(())
    }
}

/// Who answers CORS at an endpoint: preflights, and the headers of other responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum CorsAnswers {
    /// The gate, for the origins that may use the endpoint. What the workspace says to them is replaced.
    #[default]
    Gate,
    /// The workspace. Preflights of these origins reach it without a credential and an identity.
    Workspace,
}

/// What an endpoint has instead of the settings of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointOrigins {
    /// Which pages of other origins may use it.
    pub cross_origin: Option<CrossOrigin>,
    /// Who answers CORS.
    pub cors_answers: Option<CorsAnswers>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q3_an_origin_is_written_as_browsers_write_it() {
        for text in ["https://app.example.com", "http://localhost:3000", "https://a.test:8443"] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in [
            "",
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com:443",
            "https://APP.example.com",
            "https://*.example.com",
            "https://a@app.example.com",
            "https://app.example.com/path",
            "https://app.example.com?x",
            "file:///etc/passwd",
            "vscode-webview://x",
            " https://app.example.com",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError), "{text}");
        }
    }

    #[test]
    fn q3_a_list_names_exactly_whom_it_admits() {
        let one = CrossOrigin::listed(["https://a.test"]).unwrap();
        assert!(one.lists(b"https://a.test") && !one.admits_siblings());
        for other in ["https://a.test.evil.test", "https://a.tes", "http://a.test", "null", ""] {
            assert!(!one.lists(other.as_bytes()), "{other}");
        }
        let both = CrossOrigin::listed(["https://a.test", SAME_WORKSPACE]).unwrap();
        assert!(both.lists(b"https://a.test") && both.admits_siblings());
        assert_eq!(CrossOrigin::listed(["https://a.test", NONE]), Err((1, OriginError)));
        assert_eq!(CrossOrigin::listed([]), Ok(CrossOrigin::none()));
        assert_eq!(both.to_string(), "same-workspace https://a.test");
        assert_eq!(one.to_string(), "https://a.test");
        assert_eq!(CrossOrigin::none().to_string(), "none");
        assert!(CrossOrigin::default().admits_siblings() && !CrossOrigin::none().admits_siblings());
    }
}
