//! The HTTP client for the APIs of platforms.
//!
//! The credential is read from its file or variable for each request, so it can be replaced while
//! the agent runs. The size and the time of responses are limited. Redirects are not followed,
//! since they would send the credential to another server.

use std::{path::PathBuf, time::Duration};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use url::Url;

use crate::{outbound::HttpClient, workspaces::source::SourceError};

/// The largest response body in bytes. A page of a hundred workspaces has some hundred KiB.
const MAX_BODY: usize = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit of one response. It does not hold for streams of events.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of keep-alive probes on a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The longest pause that a platform can ask for.
const MAX_PAUSE: Duration = Duration::from_mins(5);

/// Where a credential is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiCredential {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

/// The API of a platform.
pub struct PlatformApi {
    client: HttpClient,
    base: Url,
    credential: Option<ApiCredential>,
    /// The text before the credential in the Authorization header, such as "Bearer ". If it ends in
    /// a colon, it is the name of another header that carries the credential.
    scheme: &'static str,
}

impl ApiCredential {
    /// Reads the credential.
    ///
    /// # Errors
    /// It is missing or empty.
    pub fn read(&self) -> Result<SecretString, SourceError> {
        let (text, place) = match self {
            Self::File(path) => (std::fs::read_to_string(path).ok(), path.display().to_string()),
            Self::Env(name) => (std::env::var(name).ok(), format!("the variable {name}")),
        };
        // Editors end a file with a line break.
        let text = text.map(|text| SecretString::from(text.trim_end_matches(['\r', '\n'])));
        text.filter(|text| !text.expose_secret().is_empty()).ok_or_else(|| {
            SourceError::Unauthorized(format!("cannot read the credential in {place}"))
        })
    }
}

impl PlatformApi {
    /// A client for the API at `base`. `scheme` is "Bearer ", "token " or the like, or the name of
    /// a header with a colon.
    ///
    /// # Errors
    /// TLS cannot be set up, or the certificates of the private authority cannot be read.
    pub fn new(
        base: Url,
        credential: Option<ApiCredential>,
        scheme: &'static str,
        authority: Option<&[u8]>,
    ) -> Result<Self, reqwest::Error> {
        let certificates = authority.map(reqwest::Certificate::from_pem_bundle).transpose()?;
        let certificates = certificates.unwrap_or_default();
        let client = HttpClient::build(|| {
            Client::builder()
                // A redirect would send the credential to another server.
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_keepalive(KEEPALIVE)
                .http2_keep_alive_interval(KEEPALIVE)
                .http2_keep_alive_timeout(KEEPALIVE)
                .user_agent(concat!("identity-spoa/", env!("CARGO_PKG_VERSION")))
                .tls_certs_merge(certificates.clone())
        })?;
        Ok(Self { client, base, credential, scheme })
    }

    /// A GET request for a path below the base.
    ///
    /// # Errors
    /// The credential cannot be read.
    pub fn get(&self, path: &str) -> Result<RequestBuilder, SourceError> {
        let url = self.url(path)?;
        self.with_credential(self.client.of(&url).get(url))
    }

    /// A POST request for a path below the base.
    ///
    /// # Errors
    /// The credential cannot be read.
    pub fn post(&self, path: &str) -> Result<RequestBuilder, SourceError> {
        let url = self.url(path)?;
        self.with_credential(self.client.of(&url).post(url))
    }

    fn url(&self, path: &str) -> Result<Url, SourceError> {
        let base = self.base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{path}"))
            .map_err(|error| SourceError::Protocol(format!("no address for {path:?}: {error}")))
    }

    fn with_credential(&self, request: RequestBuilder) -> Result<RequestBuilder, SourceError> {
        let Some(credential) = &self.credential else { return Ok(request) };
        let secret = credential.read()?;
        let own = self.scheme.strip_suffix(':');
        let text = match own {
            Some(_) => secret.expose_secret().to_owned(),
            None => format!("{}{}", self.scheme, secret.expose_secret()),
        };
        let text = zeroize::Zeroizing::new(text);
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            SourceError::Unauthorized("the credential has bytes that no header can carry".into())
        })?;
        // Keeps the credential out of debug output.
        value.set_sensitive(true);
        Ok(match own {
            Some(name) => request.header(name, value),
            None => request.header(AUTHORIZATION, value),
        })
    }
}

/// Sends a request and parses the JSON response. `None` means that the object does not exist (404).
///
/// # Errors
/// There is no response, an error status, or a body that is not the expected JSON.
pub async fn fetch_optional<T: DeserializeOwned>(
    request: RequestBuilder,
) -> Result<Option<T>, SourceError> {
    fetch_unless(request, |_| true).await
}

/// Like [`fetch_optional`], but `gone` decides by the body of a 404 whether the object does not exist.
///
/// # Errors
/// As [`fetch_optional`].
pub async fn fetch_unless<T: DeserializeOwned>(
    request: RequestBuilder,
    gone: impl FnOnce(&[u8]) -> bool,
) -> Result<Option<T>, SourceError> {
    let exchange = async {
        let response = send(request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let body = body(response).await?;
            if gone(&body) {
                return Ok(None);
            }
            let text = format!("status 404 Not Found {}", error_message(&body));
            return Err(SourceError::Unavailable(text));
        }
        let response = check_status(response).await?;
        let body = body(response).await?;
        serde_json::from_slice(&body).map(Some).map_err(|e| SourceError::Protocol(e.to_string()))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(SourceError::Timeout))
}

/// Like [`fetch_optional`], but a 404 is an error.
///
/// # Errors
/// As [`fetch_optional`].
pub async fn fetch<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, SourceError> {
    fetch_optional(request)
        .await?
        .ok_or_else(|| SourceError::Unavailable("status 404 Not Found".into()))
}

/// Sends a request and returns the response with its body unread.
///
/// # Errors
/// There is no response.
pub async fn send(request: RequestBuilder) -> Result<Response, SourceError> {
    request.send().await.map_err(|error| unavailable(&error))
}

/// Returns the response if its status is a success.
///
/// # Errors
/// The error that the status stands for.
pub async fn check_status(response: Response) -> Result<Response, SourceError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let pause = retry_after(&response);
    let text = match body(response).await {
        Ok(text) => error_message(&text),
        Err(_) => String::new(),
    };
    Err(match status {
        StatusCode::UNAUTHORIZED => SourceError::Unauthorized(text),
        StatusCode::FORBIDDEN => SourceError::Forbidden(text),
        StatusCode::TOO_MANY_REQUESTS => {
            SourceError::RateLimited(pause.unwrap_or(Duration::from_secs(1)))
        }
        status => SourceError::Unavailable(format!("status {status} {text}")),
    })
}

/// The error of reqwest with all its causes: the outermost message never names the real one.
pub(super) fn unavailable(error: &reqwest::Error) -> SourceError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    SourceError::Unavailable(text)
}

async fn body(mut response: Response) -> Result<Vec<u8>, SourceError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unavailable(&error))? {
        // Checked for each chunk, since Content-Length can be absent or wrong.
        if body.len() + chunk.len() > MAX_BODY {
            return Err(SourceError::Protocol(format!("an answer of more than {MAX_BODY} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The message in an error body, shortened and with control characters escaped for logs.
fn error_message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json.get("message")).and_then(|m| m.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// The pause in `Retry-After` (RFC 9110 section 10.2.3). Some platforms send fractions of a second.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = if let Ok(seconds) = text.parse::<f64>() {
        seconds
    } else {
        let at = httpdate::parse_http_date(text).ok()?;
        at.duration_since(std::time::SystemTime::now()).unwrap_or_default().as_secs_f64()
    };
    // A pause that is negative or not a number is ignored.
    Duration::try_from_secs_f64(seconds).ok().map(|pause| pause.min(MAX_PAUSE))
}
