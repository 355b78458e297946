//! One call of an introspection endpoint, authenticated with the agent's own credentials (RFC 7662 section 2.1).
//!
//! No error has the token or the credentials in it.

use reqwest::StatusCode;
use thiserror::Error;
use url::Url;

use crate::{
    identity::{
        Profile,
        client_auth::{Client, ClientAuthError, ClientAuthentication, OfferedMethods},
        provider::{FetchError, Fetcher},
    },
    lock::Mutex,
};

/// The largest response that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// A client of an introspection endpoint.
pub struct IntrospectionClient {
    fetcher: Fetcher,
    /// The agent's `client_id` at the issuer.
    id: String,
    authentication: ClientAuthentication,
    /// The address, configured or discovered, and the methods that are offered there.
    endpoint: Mutex<Option<(Url, OfferedMethods)>>,
}

/// Why there is no response.
#[derive(Debug, Error)]
pub enum IntrospectionError {
    /// The endpoint could not be discovered or called.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The issuer has no introspection endpoint.
    #[error("the discovery document names no introspection_endpoint: set 'introspection.endpoint'")]
    NoEndpoint,
    /// The issuer refuses the agent's credentials.
    #[error(
        "POST {url}: status {status}: the issuer refuses the agent's credentials, see [issuer.introspection]"
    )]
    Credentials {
        /// The address.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// The request could not be authenticated.
    #[error(transparent)]
    Client(#[from] ClientAuthError),
}

impl IntrospectionClient {
    /// A client that calls through `fetcher`. Without `endpoint` the address is discovered.
    #[must_use]
    pub fn new(
        fetcher: Fetcher,
        id: String,
        authentication: ClientAuthentication,
        endpoint: Option<Url>,
    ) -> Self {
        let endpoint = endpoint.map(|url| (url, OfferedMethods::default()));
        Self { fetcher, id, authentication, endpoint: Mutex::new(endpoint) }
    }

    /// The response about a token, not yet parsed.
    pub(super) async fn introspect(
        &self,
        profile: &Profile,
        token: &[u8],
    ) -> Result<Vec<u8>, IntrospectionError> {
        let (url, offered) = self.endpoint(profile).await?;
        // Nothing is lost: `Introspector::is_opaque` accepts ASCII only.
        let token = String::from_utf8_lossy(token);
        let form = [("token", &*token), ("token_type_hint", "access_token")];
        let client = Client { id: &self.id, profile, offered: &offered };
        let request = self.authentication.sign(self.fetcher.post(&url), &url, &client, &form)?;
        let (status, body) = self.fetcher.answer(&url, request, MAX_BODY).await?;
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                Err(IntrospectionError::Credentials { url: url.into(), status })
            }
            status => Err(FetchError::Status { url: url.into(), status }.into()),
        }
    }

    async fn endpoint(
        &self,
        profile: &Profile,
    ) -> Result<(Url, OfferedMethods), IntrospectionError> {
        let known = self.endpoint.lock().clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.fetcher.introspection_endpoint(profile).await?;
        let found = found.ok_or(IntrospectionError::NoEndpoint)?;
        // Two calls may both discover it; they find the same address.
        *self.endpoint.lock() = Some(found.clone());
        Ok(found)
    }
}
