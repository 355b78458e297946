//! The OpenID Connect client: redirects to a provider, exchanges codes for ID tokens, and refreshes sessions (OIDC Core
//! sections 3.1 and 12).
//!
//! There is one [`Client`] for each provider at which people sign in. [`super::web`] uses it during a sign-in,
//! [`super::refresh`] later. It verifies every ID token and logout token with the keys that the agent has of the
//! provider anyway, and asks the provider for its keys at most as often as for access tokens.
//!
//! Strangers can cause its requests, so their number is limited: the provider's metadata is cached, and a limited number
//! of codes is exchanged at the same time. Errors never contain codes or tokens.
//!
//! An ID token is checked as a whole before its access token is sent to userinfo, and the identity is read afterwards.

use std::{sync::Arc, time::Duration};

use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
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
        audience::AudienceError,
        client_auth::{self, ClientAuthentication, OfferedMethods},
        jwt::{Unverified, VerifyError},
        profile::{Profile, secure_url},
        provider::{CurrentKeys, Endpoints, FetchError, Fetcher, Provider},
        settings::ClientSettings,
        userinfo::{self, UserinfoError, UserinfoUse},
    },
    sessions::{
        Tokens,
        flow::{Attempt, PublicUrls, same_secret},
    },
    time::{MonotonicTime, Timestamp},
};

mod address;
mod error;
#[cfg(test)]
mod tests;

use address::Address;
pub use error::{RefreshError, SignInError};

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
    settings: ClientSettings,
    authentication: ClientAuthentication,
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
        settings: ClientSettings,
        authentication: ClientAuthentication,
        refresh: Option<Duration>,
    ) -> Self {
        let profile = settings.profile(provider.profile());
        let (endpoints, exchanges) = (Mutex::default(), Semaphore::new(MAX_EXCHANGES));
        Self { provider, fetcher, profile, settings, authentication, refresh, endpoints, exchanges }
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
    /// in even if it knows them (`prompt`, OIDC Core section 3.1.2.1).
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
        let mut address = Address::new(endpoints.authorization.ok_or(missing)?);
        address.set("response_type", "code");
        address.set("client_id", &self.settings.id);
        address.set("redirect_uri", &self.callback(urls));
        address.set("scope", &self.settings.scopes);
        address.set("state", &attempt.state);
        address.set("nonce", &attempt.nonce);
        address.set("code_challenge", &attempt.challenge());
        address.set("code_challenge_method", "S256");
        if ask {
            address.set("prompt", self.settings.ask_prompt.unwrap_or("login"));
        }
        for (name, value) in &self.settings.authorize.0 {
            address.add(name, value);
        }
        Ok(address.url())
    }

    /// The address at which a person also signs out at the provider, if it has one (OIDC RP-Initiated Logout
    /// section 2).
    pub async fn sign_out(&self, id_token: &str, urls: &PublicUrls) -> Option<Url> {
        let mut url = self.endpoints().await.ok()?.end_session?;
        url.query_pairs_mut()
            .append_pair("id_token_hint", id_token)
            .append_pair("client_id", &self.settings.id)
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
        let answer = match self.grant(&endpoints, &form).await? {
            Granted::Yes(answer) => answer,
            Granted::No { status, error } => {
                return Err(SignInError::Refused(format!("status {status} {error}")));
            }
        };
        let access_token = answer.access_token.as_deref();
        let id_token = answer.id_token.ok_or(SignInError::Response)?;
        let verified = self.verify(&id_token, access_token).await?;
        if !verified.nonce().is_some_and(|nonce| same_secret(nonce, &attempt.nonce)) {
            return Err(SignInError::Nonce);
        }
        let identity = self.identity(&verified, &endpoints, access_token).await?;
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
        let endpoints = self.endpoints().await?;
        let answer = match self.grant(&endpoints, &form).await? {
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
        let access_token = answer.access_token.as_deref();
        let verified = self.verify(&id_token, access_token).await?;
        let found = match self.identity(&verified, &endpoints, access_token).await {
            Err(SignInError::Userinfo(UserinfoError::Person)) => {
                return Err(RefreshError::Over("the userinfo response is about another person"));
            }
            found => found?,
        };
        if (&found.issuer, &found.subject) != (&identity.issuer, &identity.subject) {
            return Err(RefreshError::Over("the new ID token is about another person"));
        }
        // OIDC Core section 12.2: `sub` must stay the same, even if another claim is configured as the subject.
        if identity.token.sub.is_some() && found.token.sub != identity.token.sub {
            return Err(RefreshError::Over("the new ID token has another 'sub'"));
        }
        if verified.nonce().is_some_and(|nonce| !same_secret(nonce, &tokens.nonce)) {
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
            let Endpoints { revocation, revocation_methods, .. } = self.endpoints().await?;
            let Some(url) = revocation else { return Ok(()) };
            let form = [("token", token.expose_secret()), ("token_type_hint", "refresh_token")];
            let request = self.sign(&url, &revocation_methods, &form)?;
            self.fetcher.answer(&url, request, MAX_BODY).await?;
            Ok::<_, SignInError>(())
        };
        if let Err(error) = given.await {
            debug!(issuer = self.issuer(), %error, "revoking a refresh token failed");
        }
    }

    /// A request to the provider with this client's authentication.
    fn sign(
        &self,
        url: &Url,
        offered: &OfferedMethods,
        form: &[(&str, &str)],
    ) -> Result<RequestBuilder, SignInError> {
        let client = client_auth::Client { id: &self.settings.id, profile: &self.profile, offered };
        Ok(self.authentication.sign(self.fetcher.post(url), url, &client, form)?)
    }

    /// Sends a form to the token endpoint (RFC 6749 section 3.2).
    async fn grant(
        &self,
        endpoints: &Endpoints,
        form: &[(&str, &str)],
    ) -> Result<Granted, SignInError> {
        let url = endpoints.token.as_ref().ok_or(SignInError::NoEndpoint("token_endpoint"))?;
        let request = self.sign(url, &endpoints.token_methods, form)?;
        let (status, body) = self.fetcher.answer(url, request, MAX_BODY).await?;
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

    /// Verifies an ID token for this client, which came with an access token. Whose it is, is not looked at yet.
    async fn verify<'t>(
        &self,
        id_token: &'t str,
        access_token: Option<&str>,
    ) -> Result<VerifiedIdToken<'t>, SignInError> {
        let token = Unverified::inspect(id_token.as_bytes()).map_err(SignInError::Token)?;
        let mut fetched = false;
        loop {
            let verified = match self.provider.keys(Timestamp::now()) {
                Some(keys) => token.verify_signature(&self.profile, &keys.set),
                None => Err(VerifyError::UnknownKey),
            };
            match verified {
                Ok(()) => break,
                Err(VerifyError::Refused(refusal)) => return Err(SignInError::Token(refusal)),
                Err(VerifyError::UnknownKey) if fetched => {
                    return Err(SignInError::Token(TokenError::Key));
                }
                Err(VerifyError::UnknownKey) => {
                    self.provider.fetch().await?;
                    fetched = true;
                }
            }
        }
        token.check_claims(&self.profile, Timestamp::now()).map_err(|refusal| {
            // The operator needs the names, which the error of a token does not have.
            let audience = token.audience_error(&self.profile);
            let is_it = |error: &AudienceError| TokenError::from(error.clone()) == refusal;
            audience.filter(is_it).map_or(SignInError::Token(refusal), SignInError::Audience)
        })?;
        if !token.fits_access_token(access_token) {
            return Err(SignInError::AccessToken);
        }
        Ok(VerifiedIdToken(token))
    }

    /// The person of an ID token, with what the provider says at userinfo where the token lacks it.
    async fn identity(
        &self,
        token: &VerifiedIdToken<'_>,
        endpoints: &Endpoints,
        access_token: Option<&str>,
    ) -> Result<Identity, SignInError> {
        let mut claims = token.0.claims().clone();
        let lacking = userinfo::lacks(&self.profile, &claims);
        let is_asked = self.settings.userinfo.unwrap_or_default() == UserinfoUse::WhenNeeded;
        if let Some(found) = endpoints.userinfo.as_ref().filter(|_| is_asked && !lacking.is_empty())
        {
            let url = &secure_url(found, self.profile.issuer.is_plain())
                .map_err(|error| FetchError::Address { found: found.clone(), error })?;
            let request = access_token.and_then(|token| self.fetcher.get_with(url, token));
            let request = request.ok_or(SignInError::NoAccessToken)?;
            let (status, body) = self.fetcher.answer(url, request, MAX_BODY).await?;
            if status != StatusCode::OK {
                let (lacking, url) = (lacking.join(", "), url.clone());
                return Err(SignInError::UserinfoStatus { lacking, url, status });
            }
            userinfo::complete(&self.profile, &mut claims, &body).map_err(SignInError::Userinfo)?;
        }
        let identity = token.0.identity(&self.profile, &claims, Timestamp::now());
        identity.map_err(SignInError::Token)
    }
}

/// An ID token for this client whose signature, audience and time were checked.
struct VerifiedIdToken<'t>(Unverified<'t>);

impl VerifiedIdToken<'_> {
    fn nonce(&self) -> Option<&str> {
        self.0.claims().get("nonce")?.as_str()
    }
}

/// Whether a token endpoint granted tokens.
enum Granted {
    Yes(TokenResponse),
    No { status: StatusCode, error: String },
}
