//! We as a client of a provider: where it lets people sign in, and the exchange of a code for an ID token
//! (OIDC Core section 3.1).

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
        flow::{Attempt, Places, same},
    },
    time::{MonotonicTime, Timestamp},
};

/// How long a logout token with an unknown key waits for the provider's keys.
const REFETCH: Duration = Duration::from_secs(5);
/// How long it counts what a provider's discovery document says of its pages: anybody can begin to sign in, and
/// must not make us ask the provider each time.
const ENDPOINTS_FOR: Duration = Duration::from_mins(1);
/// For how long a provider that does not answer is left alone.
const AWAY_FOR: Duration = Duration::from_secs(1);
/// The most codes that are exchanged at once, and how long one waits for its turn: anybody can make codes up.
const EXCHANGES: usize = 64;
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// The largest answer to a code, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// A client of one provider.
pub struct Client {
    provider: Arc<Provider>,
    fetcher: Fetcher,
    /// What ID tokens for us must say.
    profile: Profile,
    id: String,
    authentication: ClientAuthentication,
    scopes: String,
    /// How often it is asked whether a session still counts; never unless said.
    refresh: Option<Duration>,
    /// Its pages, and when it was asked for them; none while it does not answer.
    known: Mutex<Option<(MonotonicTime, Option<Endpoints>)>>,
    exchanges: Semaphore,
}

/// Somebody who signed in.
pub struct SignedIn {
    /// Who.
    pub identity: Identity,
    /// The proofs.
    pub tokens: Tokens,
}

/// Why a session was not confirmed by its provider.
#[derive(Debug, Error)]
pub enum RenewError {
    /// The provider says that it counts no more, or names somebody else.
    #[error("the provider no longer vouches for it: {0}")]
    Over(&'static str),
    /// Nobody can tell.
    #[error(transparent)]
    Failed(#[from] SignInError),
}

/// Why a sign-in failed. Says nothing of codes and tokens.
#[derive(Debug, Error)]
pub enum SignInError {
    /// The provider cannot be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The provider did not answer a moment ago.
    #[error("the provider did not answer a moment ago")]
    Away,
    /// Too many sign in at this moment, or make codes up.
    #[error("too many codes are being exchanged")]
    Busy,
    /// The provider has no page to sign in at.
    #[error("the discovery document names no {0}")]
    NoEndpoint(&'static str),
    /// The provider refuses the code, or us.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The answer is none.
    #[error("the provider's answer has no ID token")]
    Answer,
    /// The ID token does not count.
    #[error("the ID token does not count: {0}")]
    Token(TokenError),
    /// The ID token is of another attempt.
    #[error("the ID token is of another attempt to sign in")]
    Nonce,
    /// The ID token was issued with another access token.
    #[error("the ID token was issued with another access token (at_hash)")]
    AccessToken,
    /// We could not say who we are.
    #[error("cannot say who we are to the provider")]
    Client,
}

#[derive(Deserialize)]
struct Answer {
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
            // An ID token is for its client, whatever access tokens are for.
            audience: vec![id.clone()],
            tokens: TokenKinds { typed_access: false, access: false, id: true },
            ..Profile::clone(provider.profile())
        };
        let (known, exchanges) = (Mutex::default(), Semaphore::new(EXCHANGES));
        Self { provider, fetcher, profile, id, authentication, scopes, refresh, known, exchanges }
    }

    /// The configured name of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.profile.authority.name
    }

    /// Whether this is an `iss` of the issuer.
    #[must_use]
    pub fn accepts(&self, iss: &str) -> bool {
        self.profile.accepts(iss).is_some()
    }

    /// Reads a logout token of the issuer for us.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub async fn logout(&self, token: &str) -> Result<Ended, LogoutError> {
        let now = Timestamp::now();
        let read = |keys: &CurrentKeys| logout::read(token, &self.profile, &keys.set, now);
        let known = self.provider.keys(now);
        match known.as_deref().map_or(Err(LogoutError::UnknownKey), read) {
            // The provider's keys may have changed a moment ago; anybody can ask for a look at them, so
            // it is bounded as for tokens.
            Err(LogoutError::UnknownKey) => {
                let Some(mut ended) = self.provider.refetch() else {
                    return Err(LogoutError::UnknownKey);
                };
                let _ = tokio::time::timeout(REFETCH, ended.changed()).await;
                let keys = self.provider.keys(now);
                keys.as_deref().map_or(Err(LogoutError::UnknownKey), read)
            }
            read => read,
        }
    }

    /// The path of its callback, of its own for each issuer (RFC 9207 section 1).
    fn callback(&self, places: &Places) -> String {
        places.page(&format!("callback/{}", self.issuer()))
    }

    async fn endpoints(&self) -> Result<Endpoints, SignInError> {
        // One asks, the others wait for what comes of it.
        let mut known = self.known.lock().await;
        match &*known {
            Some((at, Some(found))) if MonotonicTime::now().since(*at) < ENDPOINTS_FOR => {
                return Ok(found.clone());
            }
            Some((at, None)) if MonotonicTime::now().since(*at) < AWAY_FOR => {
                return Err(SignInError::Away);
            }
            _ => {}
        }
        let found = self.fetcher.endpoints(&self.profile).await;
        *known = Some((MonotonicTime::now(), found.as_ref().ok().cloned()));
        Ok(found?)
    }

    /// Where to send the browser. With `ask`, the provider is to ask who it is even if it knows
    /// (`prompt=login`, OIDC Core section 3.1.2.1).
    ///
    /// # Errors
    /// The provider cannot be asked, or has no such page.
    pub async fn authorize(
        &self,
        attempt: &Attempt,
        places: &Places,
        ask: bool,
    ) -> Result<Url, SignInError> {
        let endpoints = self.endpoints().await?;
        let missing = SignInError::NoEndpoint("authorization_endpoint");
        let mut url = endpoints.authorization.ok_or(missing)?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.id)
            .append_pair("redirect_uri", &self.callback(places))
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

    /// Where to send a browser to sign out at the provider too, if it has such a page
    /// (OIDC RP-Initiated Logout section 2).
    pub async fn sign_out(&self, id_token: &str, places: &Places) -> Option<Url> {
        let mut url = self.endpoints().await.ok()?.end_session?;
        url.query_pairs_mut()
            .append_pair("id_token_hint", id_token)
            .append_pair("client_id", &self.id)
            .append_pair("post_logout_redirect_uri", &places.page("signed-out"));
        Some(url)
    }

    /// Exchanges a code for the identity of who signed in. `issuer` is the `iss` parameter that came with
    /// the code (RFC 9207).
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn exchange(
        &self,
        attempt: &Attempt,
        places: &Places,
        code: &str,
        issuer: Option<&str>,
    ) -> Result<SignedIn, SignInError> {
        let turn = timeout(TURN_WITHIN, self.exchanges.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(SignInError::Busy) };
        let endpoints = self.endpoints().await?;
        let expected = self.profile.issuer.as_str();
        let wrong = issuer.map_or(endpoints.issuer_in_answers, |issuer| issuer != expected);
        if wrong {
            return Err(SignInError::Refused(
                "the answer is not of the issuer that was asked".into(),
            ));
        }
        let callback = self.callback(places);
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
        let id_token = answer.id_token.ok_or(SignInError::Answer)?;
        let (identity, nonce) = self.verify(&id_token, answer.access_token.as_deref()).await?;
        if !nonce.is_some_and(|nonce| same(&nonce, &attempt.nonce)) {
            return Err(SignInError::Nonce);
        }
        let now = Timestamp::now();
        let tokens = Tokens {
            id: SecretString::from(id_token),
            refresh: answer.refresh_token.filter(|_| self.refresh.is_some()).map(Into::into),
            nonce: attempt.nonce.as_str().into(),
            asked: now,
            due: self.due(now),
        };
        Ok(SignedIn { identity, tokens })
    }

    fn due(&self, now: Timestamp) -> Timestamp {
        self.refresh.map_or(Timestamp::from_millis(u64::MAX), |every| now.plus(every))
    }

    /// Asks whether a session still counts and what there is to say of its person now (RFC 6749 section 6,
    /// OIDC Core section 12). What the session is known by stays: a revocation of what was issued before
    /// some moment must not be outlived by asking again.
    ///
    /// # Errors
    /// See [`RenewError`].
    pub async fn renew(
        &self,
        identity: &Identity,
        tokens: &Tokens,
    ) -> Result<SignedIn, RenewError> {
        let Some(token) = &tokens.refresh else { return Err(SignInError::Answer.into()) };
        let form = [("grant_type", "refresh_token"), ("refresh_token", token.expose_secret())];
        let answer = match self.grant(self.endpoints().await?, &form).await? {
            Granted::Yes(answer) => answer,
            Granted::No { error, .. } if error == "invalid_grant" => {
                return Err(RenewError::Over("invalid_grant"));
            }
            Granted::No { status, error } => {
                return Err(SignInError::Refused(format!("status {status} {error}")).into());
            }
        };
        let now = Timestamp::now();
        let mut renewed = Tokens { asked: now, due: self.due(now), ..tokens.clone() };
        // A provider that rotates takes the old one back (RFC 9700 section 4.14).
        if let Some(token) = answer.refresh_token {
            renewed.refresh = Some(token.into());
        }
        let Some(id_token) = answer.id_token else {
            return Ok(SignedIn { identity: identity.clone(), tokens: renewed });
        };
        let (found, nonce) = self.verify(&id_token, answer.access_token.as_deref()).await?;
        if (&found.issuer, &found.subject) != (&identity.issuer, &identity.subject) {
            return Err(RenewError::Over("the new ID token is somebody else's"));
        }
        // OIDC Core section 12.2, whatever claim is our subject. Sessions that began before it was kept have none.
        if identity.token.sub.is_some() && found.token.sub != identity.token.sub {
            return Err(RenewError::Over("the new ID token has another 'sub'"));
        }
        if nonce.is_some_and(|nonce| !same(&nonce, &tokens.nonce)) {
            return Err(RenewError::Over("the new ID token is of another sign-in"));
        }
        renewed.id = SecretString::from(id_token);
        let identity = Identity { token: identity.token.clone(), ..found };
        Ok(SignedIn { identity, tokens: renewed })
    }

    /// Gives a refresh token back, so that nobody can use it (RFC 7009); as good as can be.
    pub async fn give_back(&self, tokens: &Tokens) {
        let Some(token) = &tokens.refresh else { return };
        let given = async {
            let Some(url) = self.endpoints().await?.revocation else { return Ok(()) };
            let form = [("token", token.expose_secret()), ("token_type_hint", "refresh_token")];
            let request = self.sign(&url, &form)?;
            self.fetcher.answer(&url, request, MAX_BODY).await?;
            Ok::<_, SignInError>(())
        };
        if let Err(error) = given.await {
            debug!(issuer = self.issuer(), %error, "a refresh token was not given back");
        }
    }

    fn sign(&self, url: &Url, form: &[(&str, &str)]) -> Result<RequestBuilder, SignInError> {
        let issuer = self.profile.issuer.as_str();
        self.authentication
            .sign(self.fetcher.post(url), &self.id, issuer, form)
            .map_err(|_| SignInError::Client)
    }

    /// Asks the token endpoint (RFC 6749 section 3.2).
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
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| SignInError::Answer)?;
        if !status.is_success() {
            let error: String = answer.error.unwrap_or_default().chars().take(64).collect();
            let error = error.escape_debug().to_string();
            return Ok(Granted::No { status, error });
        }
        Ok(Granted::Yes(answer))
    }

    /// Reads an ID token for us, which came with an access token. Returns its nonce too.
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
                Err(VerifyError::Refused(error)) => return Err(SignInError::Token(error)),
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

/// What a token endpoint says.
enum Granted {
    Yes(Answer),
    No { status: StatusCode, error: String },
}
