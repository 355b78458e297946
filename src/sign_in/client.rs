//! The OpenID Connect client: redirects to a provider, exchanges codes for ID tokens, and refreshes sessions (OIDC Core
//! sections 3.1 and 12).
//!
//! There is one [`Client`] for each provider at which people sign in. [`super::web`] uses it during a sign-in,
//! [`super::refresh`] later. It verifies every ID token and logout token with the keys that the agent has of the
//! provider anyway, and asks the provider for its keys at most as often as for access tokens.
//!
//! Strangers can cause its requests, so their number is limited: the provider's metadata is cached, and a limited number
//! of codes is exchanged at the same time. Errors never contain codes or tokens.

use std::{sync::Arc, time::Duration};

use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use thiserror::Error;
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tracing::debug;
use url::Url;

use super::logout::{self, Ended, LogoutError};
use crate::{
    identity::{
        Identity, TokenError,
        introspection::ClientAuthentication,
        jwt::{Unverified, VerifyError},
        profile::{Profile, TokenKinds},
        provider::{CurrentKeys, Endpoints, FetchError, Fetcher, Provider},
    },
    sessions::{
        Tokens,
        flow::{Attempt, PublicUrls, same_secret},
    },
    time::{MonotonicTime, Timestamp},
};

/// How long a logout token with an unknown key waits for the provider's keys.
const REFETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the endpoints in a provider's discovery document are cached. Anyone can begin to sign in, and must not cause
/// a request to the provider each time.
const ENDPOINTS_CACHE_TIME: Duration = Duration::from_mins(1);
/// How long a provider that did not answer is not asked again.
const AWAY_BACKOFF: Duration = Duration::from_secs(1);
/// The most codes that are exchanged at the same time. Anyone can invent codes.
const MAX_EXCHANGES: usize = 64;
/// How long a code waits until it may be exchanged.
const EXCHANGE_QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest response of a token endpoint, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// A client of one provider.
pub struct Client {
    provider: Arc<Provider>,
    fetcher: Fetcher,
    /// How the ID tokens for this client are verified.
    profile: Profile,
    id: String,
    authentication: ClientAuthentication,
    scopes: String,
    /// How often a session in use is refreshed; never if there is no value.
    refresh: Option<Duration>,
    /// When the provider was last asked for its endpoints, and what they are; none if it did not answer.
    endpoints: Mutex<Option<(MonotonicTime, Option<Endpoints>)>>,
    exchanges: Semaphore,
}

/// A person whom the provider signed in.
pub struct SignedIn {
    /// The person.
    pub identity: Identity,
    /// The tokens.
    pub tokens: Tokens,
}

/// Why a session was not refreshed by its provider.
#[derive(Debug, Error)]
pub enum RefreshError {
    /// The provider refuses the refresh token, or its response is about another person or sign-in.
    #[error("the provider no longer confirms the session: {0}")]
    Over(&'static str),
    /// The provider does not answer, or not as expected. The session may still be valid.
    #[error(transparent)]
    Failed(#[from] SignInError),
}

/// Why a sign-in failed. No error contains a code or token.
#[derive(Debug, Error)]
pub enum SignInError {
    /// The provider does not answer, or not as expected.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The provider did not answer a moment ago.
    #[error("the provider did not answer a moment ago")]
    Away,
    /// Too many people sign in at this moment, or strangers invent codes.
    #[error("too many codes are being exchanged")]
    Busy,
    /// The provider does not have this endpoint.
    #[error("the discovery document names no {0}")]
    NoEndpoint(&'static str),
    /// The provider refuses the code or this client.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The response has no ID token.
    #[error("the provider's response has no ID token")]
    Response,
    /// The ID token is not valid.
    #[error("the ID token is not valid: {0}")]
    Token(TokenError),
    /// The ID token belongs to another attempt.
    #[error("the ID token is of another attempt to sign in")]
    Nonce,
    /// The ID token was issued with another access token.
    #[error("the ID token was issued with another access token (at_hash)")]
    AccessToken,
    /// The client could not sign its request.
    #[error("the client's authentication to the provider failed")]
    Client,
}

/// The response of a token endpoint (RFC 6749 sections 5.1 and 5.2).
#[derive(Deserialize)]
struct TokenResponse {
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl Client {
    /// A client of a provider.
    #[must_use]
    pub fn new(
        provider: Arc<Provider>,
        fetcher: Fetcher,
        id: String,
        authentication: ClientAuthentication,
        scopes: String,
        refresh: Option<Duration>,
    ) -> Self {
        let profile = Profile {
            // The audience of an ID token is the client; the configured audience is that of access tokens.
            audience: vec![id.clone()],
            tokens: TokenKinds { typed_access: false, access: false, id: true },
            ..Profile::clone(provider.profile())
        };
        let (endpoints, exchanges) = (Mutex::default(), Semaphore::new(MAX_EXCHANGES));
        Self {
            provider,
            fetcher,
            profile,
            id,
            authentication,
            scopes,
            refresh,
            endpoints,
            exchanges,
        }
    }

    /// The configured name of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.profile.authority.name
    }

    /// Whether this is an issuer identifier (`iss`) of this provider.
    #[must_use]
    pub fn accepts(&self, iss: &str) -> bool {
        self.profile.accepts(iss).is_some()
    }

    /// Verifies a logout token of the provider for this client.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub async fn logout(&self, token: &str) -> Result<Ended, LogoutError> {
        let now = Timestamp::now();
        let read = |keys: &CurrentKeys| logout::read(token, &self.profile, &keys.set, now);
        let known = self.provider.keys(now);
        match known.as_deref().map_or(Err(LogoutError::UnknownKey), read) {
            // The provider's keys may have changed a moment ago. Anyone can cause this fetch, so it is limited as for
            // access tokens.
            Err(LogoutError::UnknownKey) => {
                let Some(mut ended) = self.provider.refetch() else {
                    return Err(LogoutError::UnknownKey);
                };
                let _ = tokio::time::timeout(REFETCH_TIMEOUT, ended.changed()).await;
                let keys = self.provider.keys(now);
                keys.as_deref().map_or(Err(LogoutError::UnknownKey), read)
            }
            read => read,
        }
    }

    /// The address of the callback. Each issuer has one of its own, against mix-up attacks (RFC 9700 section 4.4).
    fn callback(&self, urls: &PublicUrls) -> String {
        urls.page(&format!("callback/{}", self.issuer()))
    }

    /// The endpoints in the provider's discovery document.
    async fn endpoints(&self) -> Result<Endpoints, SignInError> {
        // One request asks the provider, and the others wait here for the result.
        let mut cached = self.endpoints.lock().await;
        match &*cached {
            Some((at, Some(found))) if MonotonicTime::now().since(*at) < ENDPOINTS_CACHE_TIME => {
                return Ok(found.clone());
            }
            Some((at, None)) if MonotonicTime::now().since(*at) < AWAY_BACKOFF => {
                return Err(SignInError::Away);
            }
            _ => {}
        }
        let found = self.fetcher.endpoints(&self.profile).await;
        *cached = Some((MonotonicTime::now(), found.as_ref().ok().cloned()));
        Ok(found?)
    }

    /// The address at the provider to which the browser is redirected. With `ask`, the provider asks the person to sign
    /// in even if it knows them (`prompt=login`, OIDC Core section 3.1.2.1).
    ///
    /// # Errors
    /// The provider does not answer, or has no authorization endpoint.
    pub async fn authorize(
        &self,
        attempt: &Attempt,
        urls: &PublicUrls,
        ask: bool,
    ) -> Result<Url, SignInError> {
        let endpoints = self.endpoints().await?;
        let missing = SignInError::NoEndpoint("authorization_endpoint");
        let mut url = endpoints.authorization.ok_or(missing)?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.id)
            .append_pair("redirect_uri", &self.callback(urls))
            .append_pair("scope", &self.scopes)
            .append_pair("state", &attempt.state)
            .append_pair("nonce", &attempt.nonce)
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256");
        if ask {
            url.query_pairs_mut().append_pair("prompt", "login");
        }
        Ok(url)
    }

    /// The address at which a person also signs out at the provider, if it has one (OIDC RP-Initiated Logout
    /// section 2).
    pub async fn sign_out(&self, id_token: &str, urls: &PublicUrls) -> Option<Url> {
        let mut url = self.endpoints().await.ok()?.end_session?;
        url.query_pairs_mut()
            .append_pair("id_token_hint", id_token)
            .append_pair("client_id", &self.id)
            .append_pair("post_logout_redirect_uri", &urls.page("signed-out"));
        Some(url)
    }

    /// Exchanges a code for the identity of the person who signed in. `issuer` is the parameter `iss` that came with the
    /// code (RFC 9207).
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn exchange(
        &self,
        attempt: &Attempt,
        urls: &PublicUrls,
        code: &str,
        issuer: Option<&str>,
    ) -> Result<SignedIn, SignInError> {
        let turn = timeout(EXCHANGE_QUEUE_TIMEOUT, self.exchanges.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(SignInError::Busy) };
        let endpoints = self.endpoints().await?;
        let expected = self.profile.issuer.as_str();
        let wrong = issuer.map_or(endpoints.issuer_in_answers, |issuer| issuer != expected);
        if wrong {
            return Err(SignInError::Refused(
                "the response is not of the issuer that was asked".into(),
            ));
        }
        let callback = self.callback(urls);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &callback),
            ("code_verifier", &attempt.verifier),
        ];
        let answer = match self.grant(endpoints, &form).await? {
            Granted::Yes(answer) => answer,
            Granted::No { status, error } => {
                return Err(SignInError::Refused(format!("status {status} {error}")));
            }
        };
        let id_token = answer.id_token.ok_or(SignInError::Response)?;
        let (identity, nonce) = self.verify(&id_token, answer.access_token.as_deref()).await?;
        if !nonce.is_some_and(|nonce| same_secret(&nonce, &attempt.nonce)) {
            return Err(SignInError::Nonce);
        }
        let now = Timestamp::now();
        let tokens = Tokens {
            id_token: SecretString::from(id_token),
            refresh_token: answer.refresh_token.filter(|_| self.refresh.is_some()).map(Into::into),
            nonce: attempt.nonce.as_str().into(),
            refreshed: now,
            refresh_due: self.refresh_due(now),
        };
        Ok(SignedIn { identity, tokens })
    }

    fn refresh_due(&self, now: Timestamp) -> Timestamp {
        self.refresh.map_or(Timestamp::from_millis(u64::MAX), |every| now.plus(every))
    }

    /// Refreshes a session: asks whether it is still valid, and what the provider says about the person now (RFC 6749
    /// section 6, OIDC Core section 12). The ids and the time of issue of the first token stay, so that a session does
    /// not escape a revocation by being refreshed.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn refresh(
        &self,
        identity: &Identity,
        tokens: &Tokens,
    ) -> Result<SignedIn, RefreshError> {
        let Some(token) = &tokens.refresh_token else { return Err(SignInError::Response.into()) };
        let form = [("grant_type", "refresh_token"), ("refresh_token", token.expose_secret())];
        let answer = match self.grant(self.endpoints().await?, &form).await? {
            Granted::Yes(answer) => answer,
            Granted::No { error, .. } if error == "invalid_grant" => {
                return Err(RefreshError::Over("invalid_grant"));
            }
            Granted::No { status, error } => {
                return Err(SignInError::Refused(format!("status {status} {error}")).into());
            }
        };
        let now = Timestamp::now();
        let mut renewed =
            Tokens { refreshed: now, refresh_due: self.refresh_due(now), ..tokens.clone() };
        // A provider that rotates refresh tokens makes the old one invalid (RFC 9700 section 4.14).
        if let Some(token) = answer.refresh_token {
            renewed.refresh_token = Some(token.into());
        }
        let Some(id_token) = answer.id_token else {
            return Ok(SignedIn { identity: identity.clone(), tokens: renewed });
        };
        let (found, nonce) = self.verify(&id_token, answer.access_token.as_deref()).await?;
        if (&found.issuer, &found.subject) != (&identity.issuer, &identity.subject) {
            return Err(RefreshError::Over("the new ID token is about another person"));
        }
        // OIDC Core section 12.2: `sub` must stay the same, even if another claim is configured as the subject.
        if identity.token.sub.is_some() && found.token.sub != identity.token.sub {
            return Err(RefreshError::Over("the new ID token has another 'sub'"));
        }
        if nonce.is_some_and(|nonce| !same_secret(&nonce, &tokens.nonce)) {
            return Err(RefreshError::Over("the new ID token belongs to another sign-in"));
        }
        renewed.id_token = SecretString::from(id_token);
        let identity = Identity { token: identity.token.clone(), ..found };
        Ok(SignedIn { identity, tokens: renewed })
    }

    /// Revokes a refresh token that is not needed any more (RFC 7009). A failure is only logged: the session has ended
    /// in any case.
    pub async fn revoke_refresh_token(&self, tokens: &Tokens) {
        let Some(token) = &tokens.refresh_token else { return };
        let given = async {
            let Some(url) = self.endpoints().await?.revocation else { return Ok(()) };
            let form = [("token", token.expose_secret()), ("token_type_hint", "refresh_token")];
            let request = self.sign(&url, &form)?;
            self.fetcher.answer(&url, request, MAX_BODY).await?;
            Ok::<_, SignInError>(())
        };
        if let Err(error) = given.await {
            debug!(issuer = self.issuer(), %error, "revoking a refresh token failed");
        }
    }

    /// A request to the provider with this client's authentication.
    fn sign(&self, url: &Url, form: &[(&str, &str)]) -> Result<RequestBuilder, SignInError> {
        let issuer = self.profile.issuer.as_str();
        self.authentication
            .sign(self.fetcher.post(url), &self.id, issuer, form)
            .map_err(|_| SignInError::Client)
    }

    /// Sends a form to the token endpoint (RFC 6749 section 3.2).
    async fn grant(
        &self,
        endpoints: Endpoints,
        form: &[(&str, &str)],
    ) -> Result<Granted, SignInError> {
        let url = endpoints.token.ok_or(SignInError::NoEndpoint("token_endpoint"))?;
        let request = self.sign(&url, form)?;
        let (status, body) = self.fetcher.answer(&url, request, MAX_BODY).await?;
        if status.is_server_error() {
            return Err(SignInError::Refused(format!("status {status}")));
        }
        let answer: TokenResponse =
            serde_json::from_slice(&body).map_err(|_| SignInError::Response)?;
        if !status.is_success() {
            let error: String = answer.error.unwrap_or_default().chars().take(64).collect();
            let error = error.escape_debug().to_string();
            return Ok(Granted::No { status, error });
        }
        Ok(Granted::Yes(answer))
    }

    /// Verifies an ID token for this client, which came with an access token. Returns the identity and the nonce.
    async fn verify(
        &self,
        id_token: &str,
        access_token: Option<&str>,
    ) -> Result<(Identity, Option<String>), SignInError> {
        let unverified = Unverified::inspect(id_token.as_bytes()).map_err(SignInError::Token)?;
        let mut fetched = false;
        let identity = loop {
            let now = Timestamp::now();
            let verified = match self.provider.keys(now) {
                Some(keys) => unverified.verify(&self.profile, &keys.set, now),
                None => Err(VerifyError::UnknownKey),
            };
            match verified {
                Ok(identity) => break identity,
                Err(VerifyError::Refused(refusal)) => return Err(SignInError::Token(refusal)),
                Err(VerifyError::UnknownKey) if fetched => {
                    return Err(SignInError::Token(TokenError::Key));
                }
                Err(VerifyError::UnknownKey) => {
                    self.provider.fetch().await?;
                    fetched = true;
                }
            }
        };
        if !unverified.fits_access_token(access_token) {
            return Err(SignInError::AccessToken);
        }
        let nonce = unverified.claims().get("nonce").and_then(|nonce| nonce.as_str());
        Ok((identity, nonce.map(str::to_owned)))
    }
}

/// Whether a token endpoint granted tokens.
enum Granted {
    Yes(TokenResponse),
    No { status: StatusCode, error: String },
}
