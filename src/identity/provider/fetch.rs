//! One fetch of an issuer's discovery document and key set over https.
//!
//! Every size and time is bounded, and redirects are not followed: keys come from the issuer's own address. The
//! discovery document must name the configured issuer exactly, or nothing of it is used.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode, header, redirect::Policy};
use url::Url;
use zeroize::Zeroizing;

use super::{
    discovery::{Discovery, Endpoints},
    error::FetchError,
};
use crate::{
    identity::{Profile, client_auth::OfferedMethods, keys::KeySet, profile::secure_url},
    lock::Mutex,
    outbound::HttpClient,
    time::MonotonicTime,
    traces,
};

/// The largest document that is read, in bytes: several hundred keys with their certificates.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a whole fetch may take.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP client for the documents of one issuer.
pub struct Fetcher {
    client: HttpClient,
    /// The address of the key set: configured, or as last discovered.
    jwks_uri: Mutex<Option<Url>>,
    discovers: bool,
}

/// A key set as it was fetched.
pub struct Fetched {
    /// The keys.
    pub set: KeySet,
    /// The document they were read from.
    pub document: String,
    /// How long it may be cached, if the response says so.
    pub max_age: Option<Duration>,
}

/// What an examination of an issuer found, for `doctor`.
pub struct IssuerExamination {
    /// The discovery document, even if it names another issuer.
    pub discovery: Result<Discovery, FetchError>,
    /// The time of the server, from the header `Date`.
    pub date: Option<std::time::SystemTime>,
    /// The document of the key set, unchecked.
    pub keys: Option<Result<KeysDocument, FetchError>>,
}

/// The address of a key set, its text, and how long it may be cached.
pub type KeysDocument = (Url, Vec<u8>, Option<Duration>);

impl Fetcher {
    /// A fetcher. `jwks_uri` replaces discovery. `authority` has PEM certificates of a private authority, which is trusted
    /// in addition to the system's.
    ///
    /// # Errors
    /// The certificates cannot be read, or TLS cannot be set up.
    pub fn new(jwks_uri: Option<Url>, authority: Option<&[u8]>) -> Result<Self, FetchError> {
        let certificates = authority.map(reqwest::Certificate::from_pem_bundle).transpose();
        let certificates = certificates.map_err(FetchError::Authority)?.unwrap_or_default();
        let builder = || {
            // What is not asked for in these words, some servers compress.
            let identity = header::HeaderValue::from_static("identity");
            Client::builder()
                .default_headers([(header::ACCEPT_ENCODING, identity)].into_iter().collect())
                // A redirect could lead to keys of another party.
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(TOTAL_TIMEOUT)
                .user_agent(concat!("identity-spoa/", env!("CARGO_PKG_VERSION")))
                .tls_certs_merge(certificates.clone())
        };
        let client = HttpClient::build(builder).map_err(FetchError::Client)?;
        Ok(Self { client, discovers: jwks_uri.is_none(), jwks_uri: Mutex::new(jwks_uri) })
    }

    /// Fetches the key set.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, profile: &Profile) -> Result<Fetched, FetchError> {
        let started = MonotonicTime::now();
        let fetched = self.fetch_as_discovered(profile).await;
        let error = fetched.as_ref().err().map(ToString::to_string);
        let took = MonotonicTime::now().since(started);
        traces::asked("jwks", &profile.authority.name, took, error.as_deref());
        fetched
    }

    async fn fetch_as_discovered(&self, profile: &Profile) -> Result<Fetched, FetchError> {
        let known = self.lock().clone();
        let url = match known {
            Some(url) => url,
            None => self.discover(profile).await?,
        };
        let fetched = self.fetch_keys(url.clone()).await;
        if self.discovers {
            // The address is used as long as it works, and discovered again after a failure.
            *self.lock() = fetched.is_ok().then_some(url);
        }
        fetched
    }

    async fn fetch_keys(&self, url: Url) -> Result<Fetched, FetchError> {
        let (body, max_age) = self.get(&url).await?;
        let set = KeySet::parse(&body)
            .map_err(|error| FetchError::Keys { url: url.to_string(), error })?;
        // Nothing is lost: what was parsed as JSON is UTF-8.
        let document = String::from_utf8(body).unwrap_or_default();
        Ok(Fetched { set, document, max_age })
    }

    async fn discover(&self, profile: &Profile) -> Result<Url, FetchError> {
        let document = self.document(profile).await?;
        secure_url(&document.jwks_uri, profile.issuer.is_plain())
            .map_err(|error| FetchError::Address { found: document.jwks_uri, error })
    }

    /// The introspection endpoint of the discovery document, if it names one, and the methods that are offered there.
    pub(in crate::identity) async fn introspection_endpoint(
        &self,
        profile: &Profile,
    ) -> Result<Option<(Url, OfferedMethods)>, FetchError> {
        let document = self.document(profile).await?;
        let methods = document.introspection_methods();
        let Some(found) = document.introspection_endpoint else { return Ok(None) };
        secure_url(&found, profile.issuer.is_plain())
            .map(|url| Some((url, methods)))
            .map_err(|error| FetchError::Address { found, error })
    }

    /// Where people sign in and out.
    ///
    /// # Errors
    /// The discovery document cannot be had, or an address in it is not acceptable.
    pub async fn endpoints(&self, profile: &Profile) -> Result<Endpoints, FetchError> {
        let document = self.document(profile).await?;
        let url = |found: Option<String>| {
            let url = |found: String| {
                secure_url(&found, profile.issuer.is_plain())
                    .map_err(|error| FetchError::Address { found, error })
            };
            found.map(url).transpose()
        };
        Ok(Endpoints {
            token_methods: document.token_methods(),
            revocation_methods: document.revocation_methods(),
            userinfo: document.userinfo_endpoint,
            authorization: url(document.authorization_endpoint)?,
            token: url(document.token_endpoint)?,
            end_session: url(document.end_session_endpoint)?,
            revocation: url(document.revocation_endpoint)?,
            issuer_in_answers: document.authorization_response_iss_parameter_supported,
        })
    }

    async fn document(&self, profile: &Profile) -> Result<Discovery, FetchError> {
        let issuer = profile.issuer.as_str();
        let url = &profile.discovery;
        let (body, _) = self.get(url).await?;
        let document = Discovery::parse(url, &body)?;
        if document.issuer != issuer {
            let (found, expected) = (document.issuer, issuer.to_owned());
            return Err(FetchError::WrongIssuer { url: url.to_string(), found, expected });
        }
        Ok(document)
    }

    /// Fetches everything once without checking it, for `doctor`.
    pub async fn examine(&self, profile: &Profile) -> IssuerExamination {
        let url = &profile.discovery;
        let mut date = None;
        let discovery = async {
            let failed = |error| FetchError::Request { url: url.to_string(), error };
            let response = self.client.of(url).get(url.clone()).send().await.map_err(failed)?;
            // The date is kept even if the document is not usable: a wrong clock is often the cause.
            let stamp = response.headers().get(header::DATE).and_then(|v| v.to_str().ok());
            date = stamp.and_then(|text| httpdate::parse_http_date(text).ok());
            if response.status() != StatusCode::OK {
                let status = response.status();
                return Err(FetchError::Status { url: url.to_string(), status });
            }
            let document = body(url, response, MAX_BODY).await?;
            Discovery::parse(url, &document)
        }
        .await;
        let known = self.lock().clone();
        let address = match (known, &discovery) {
            (Some(url), _) => Some(Ok(url)),
            (None, Ok(document)) => {
                let found = document.jwks_uri.clone();
                Some(
                    secure_url(&found, profile.issuer.is_plain())
                        .map_err(|error| FetchError::Address { found, error }),
                )
            }
            (None, Err(_)) => None,
        };
        let keys = match address {
            None => None,
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(url)) => Some(self.get(&url).await.map(|(body, age)| (url, body, age))),
        };
        IssuerExamination { discovery, date, keys }
    }

    /// A POST request, to be sent by [`Self::answer`].
    pub(crate) fn post(&self, url: &Url) -> RequestBuilder {
        self.client.of(url).post(url.clone())
    }

    /// A GET request with an access token, to be sent by [`Self::answer`]; `None` if the token has characters that no
    /// header can have.
    pub(crate) fn get_with(&self, url: &Url, access_token: &str) -> Option<RequestBuilder> {
        let value = Zeroizing::new(format!("Bearer {access_token}"));
        let mut value = header::HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        let request = self.client.of(url).get(url.clone());
        Some(
            request.header(header::AUTHORIZATION, value).header(header::ACCEPT, "application/json"),
        )
    }

    /// Sends a request and reads at most `limit` bytes of the response.
    pub(crate) async fn answer(
        &self,
        url: &Url,
        request: RequestBuilder,
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), FetchError> {
        let failed = |error| FetchError::Request { url: url.to_string(), error };
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        Ok((status, body(url, response, limit).await?))
    }

    async fn get(&self, url: &Url) -> Result<(Vec<u8>, Option<Duration>), FetchError> {
        let failed = |error| FetchError::Request { url: url.to_string(), error };
        let response = self.client.of(url).get(url.clone()).send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { url: url.to_string(), status: response.status() });
        }
        let max_age = max_age(&response);
        Ok((body(url, response, MAX_BODY).await?, max_age))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Url>> {
        self.jwks_uri.lock()
    }
}

async fn body(url: &Url, mut response: Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    let failed = |error| FetchError::Request { url: url.to_string(), error };
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    if let Some(encoding) =
        encoding.filter(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let encoding: String =
            encoding.as_bytes().escape_ascii().take(40).map(char::from).collect();
        return Err(FetchError::Encoded {
            url: url.to_string(),
            encoding: format!("\"{encoding}\""),
        });
    }
    let mut body = Vec::new();
    // Content-Length is the server's word, so the bytes themselves are counted.
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > limit {
            return Err(FetchError::TooLarge { url: url.to_string(), limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `max-age` of the response's Cache-Control (RFC 9111 section 5.2.2.1).
fn max_age(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::CACHE_CONTROL)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| {
        let (name, seconds) = part.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse().ok())?
    })?;
    Some(Duration::from_secs(seconds))
}
