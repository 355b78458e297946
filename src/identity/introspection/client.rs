//! One call of an introspection endpoint, authenticated with the agent's own credentials (RFC 7662 section 2.1).
//!
//! [`ClientAuthentication`] is used for the token endpoint of sign-in as well. No error has the token or the credentials
//! in it.

use std::time::Duration;

use aws_lc_rs::rand;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{RequestBuilder, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use thiserror::Error;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::{
    identity::{
        Profile,
        provider::{FetchError, Fetcher},
    },
    lock::Mutex,
    time::Timestamp,
};

/// The largest response that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a signed client assertion is valid.
const ASSERTION_LIFETIME: Duration = Duration::from_mins(1);

/// How the agent authenticates at the issuer.
pub enum ClientAuthentication {
    /// `client_secret_basic` (RFC 6749 section 2.3.1).
    Secret(SecretString),
    /// `private_key_jwt` (OIDC Core section 9).
    PrivateKey {
        /// The key.
        key: EncodingKey,
        /// RS256 or ES256.
        algorithm: Algorithm,
        /// The key id that the issuer knows it by.
        key_id: Option<String>,
    },
}

/// A client of an introspection endpoint.
pub struct IntrospectionClient {
    fetcher: Fetcher,
    /// The agent's `client_id` at the issuer.
    id: String,
    authentication: ClientAuthentication,
    /// The address, configured or discovered.
    endpoint: Mutex<Option<Url>>,
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
    /// The client assertion could not be signed.
    #[error("cannot sign with the private key: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random,
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
        Self { fetcher, id, authentication, endpoint: Mutex::new(endpoint) }
    }

    /// The response about a token, not yet parsed.
    pub(super) async fn introspect(
        &self,
        profile: &Profile,
        token: &[u8],
    ) -> Result<Vec<u8>, IntrospectionError> {
        let url = self.endpoint(profile).await?;
        // Nothing is lost: `Introspector::is_opaque` accepts ASCII only.
        let token = String::from_utf8_lossy(token);
        let form = [("token", &*token), ("token_type_hint", "access_token")];
        let issuer = profile.issuer.as_str();
        let request = self.authentication.sign(self.fetcher.post(&url), &self.id, issuer, &form)?;
        let (status, body) = self.fetcher.answer(&url, request, MAX_BODY).await?;
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                Err(IntrospectionError::Credentials { url: url.into(), status })
            }
            status => Err(FetchError::Status { url: url.into(), status }.into()),
        }
    }

    async fn endpoint(&self, profile: &Profile) -> Result<Url, IntrospectionError> {
        let known = self.endpoint.lock().clone();
        if let Some(url) = known {
            return Ok(url);
        }
        let found = self.fetcher.introspection_endpoint(profile).await?;
        let url = found.ok_or(IntrospectionError::NoEndpoint)?;
        // Two calls may both discover it; they find the same address.
        *self.endpoint.lock() = Some(url.clone());
        Ok(url)
    }
}

impl ClientAuthentication {
    /// Completes a POST of a form to an endpoint of the issuer with the agent's credentials.
    ///
    /// # Errors
    /// There are no random numbers, or the key cannot sign.
    pub fn sign(
        &self,
        request: RequestBuilder,
        id: &str,
        issuer: &str,
        pairs: &[(&str, &str)],
    ) -> Result<RequestBuilder, IntrospectionError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        let mut request = request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        match self {
            Self::Secret(secret) => {
                // Id and secret are form-encoded before they are joined (RFC 6749 section 2.3.1).
                let encode = |text: &str| -> String {
                    form_urlencoded::byte_serialize(text.as_bytes()).collect()
                };
                let secret = Zeroizing::new(encode(secret.expose_secret()));
                let pair = Zeroizing::new(format!("{}:{}", encode(id), *secret));
                let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
                if let Ok(mut value) = header::HeaderValue::from_str(&value) {
                    value.set_sensitive(true);
                    request = request.header(header::AUTHORIZATION, value);
                }
            }
            Self::PrivateKey { key, algorithm, key_id } => {
                // A fresh id for each assertion, since servers refuse one that they have seen.
                let mut number = [0; 16];
                rand::fill(&mut number).map_err(|_| IntrospectionError::Random)?;
                let now = Timestamp::now();
                let claims = json!({
                    "iss": id, "sub": id, "aud": issuer,
                    "jti": URL_SAFE_NO_PAD.encode(number), "iat": now.as_millis() / 1000,
                    "exp": now.plus(ASSERTION_LIFETIME).as_millis() / 1000,
                });
                let header = Header { kid: key_id.clone(), ..Header::new(*algorithm) };
                let assertion = jsonwebtoken::encode(&header, &claims, key)?;
                form.append_pair("client_id", id);
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                form.append_pair("client_assertion_type", kind);
                form.append_pair("client_assertion", &assertion);
            }
        }
        Ok(request.body(form.finish().into_bytes()))
    }
}
