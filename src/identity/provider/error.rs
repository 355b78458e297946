//! Why a request to an issuer failed. Each error has the address, so that the operator can try it.

use reqwest::StatusCode;
use thiserror::Error;

use crate::identity::{keys::KeySetError, profile::UrlError};

/// Why a document could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The HTTP client cannot be made: TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Client(#[source] reqwest::Error),
    /// The file of authority certificates cannot be read.
    #[error("cannot read the authority certificates: {0}")]
    Authority(#[source] reqwest::Error),
    /// There is no response.
    #[error("{url}: {}", causes(error))]
    Request {
        /// The address.
        url: String,
        /// What went wrong.
        error: reqwest::Error,
    },
    /// The status is not 200. Redirects are not followed.
    #[error("{url}: expected status 200, got {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// The document is too large.
    #[error("{url}: the document is larger than {limit} bytes")]
    TooLarge {
        /// The address.
        url: String,
        /// The largest size that is read.
        limit: usize,
    },
    /// The body is compressed, which the request did not ask for (RFC 9110 section 12.5.3).
    #[error(
        "{url}: the response is encoded as {encoding}, which was not asked for: let the server, or the proxy in front \
         of it, honour 'Accept-Encoding: identity'"
    )]
    Encoded {
        /// The address.
        url: String,
        /// The encoding, quoted.
        encoding: String,
    },
    /// Not a discovery document.
    #[error("GET {url}: not a discovery document: {error}")]
    Discovery {
        /// The address.
        url: String,
        /// What was missing.
        error: serde_json::Error,
    },
    /// The document is of another issuer (OIDC Discovery section 4.3).
    #[error(
        "GET {url}: the document is of issuer {found:?}, but {expected:?} is configured; they must be exactly equal"
    )]
    WrongIssuer {
        /// The address.
        url: String,
        /// The issuer it names.
        found: String,
        /// The issuer as configured.
        expected: String,
    },
    /// An address in the discovery document is not secure.
    #[error("the discovery document names {found:?}: {error}")]
    Address {
        /// The address as found.
        found: String,
        /// Why not.
        error: UrlError,
    },
    /// Not a key set.
    #[error("GET {url}: {error}")]
    Keys {
        /// The address.
        url: String,
        /// Why not.
        error: KeySetError,
    },
}

/// The text of an error with all its sources: reqwest's own text is only "error sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
