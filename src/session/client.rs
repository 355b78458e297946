//! We as a client of a provider: where it lets people sign in, and the exchange of a code for an ID token
//! (OIDC Core section 3.1).

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use super::{
    flow::{Attempt, Places, same},
    logout::{self, Ended, LogoutError},
};
use crate::{
    clock::Timestamp,
    identity::{
        Identity, Refusal,
        introspection::ClientAuthentication,
        jwt::{Unverified, VerifyError},
        profile::{Profile, TokenKinds},
        provider::{Endpoints, FetchError, Fetcher, Keys, Provider},
    },
};

/// How long a logout token with an unknown key waits for the provider's keys.
const REFETCH: Duration = Duration::from_secs(5);
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
}

/// Somebody who signed in.
pub struct SignedIn {
    /// Who.
    pub identity: Identity,
    /// The proof.
    pub id_token: SecretString,
}

/// Why a sign-in failed. Says nothing of codes and tokens.
#[derive(Debug, Error)]
pub enum SignInError {
    /// The provider cannot be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
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
    Token(Refusal),
    /// The ID token is of another attempt.
    #[error("the ID token is of another attempt to sign in")]
    Nonce,
    /// We could not say who we are.
    #[error("cannot say who we are to the provider")]
    Client,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id_token: Option<String>,
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
    ) -> Self {
        let profile = Profile {
            // An ID token is for its client, whatever access tokens are for.
            audience: vec![id.clone()],
            tokens: TokenKinds { typed_access: false, access: false, id: true },
            ..Profile::clone(provider.profile())
        };
        Self { provider, fetcher, profile, id, authentication, scopes }
    }

    /// The configured name of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.profile.authority.name
    }

    /// Reads a logout token of the issuer for us.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub async fn logout(&self, token: &str) -> Result<Ended, LogoutError> {
        let now = Timestamp::now();
        let read = |keys: &Keys| logout::read(token, &self.profile, &keys.set, now);
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
        Ok(self.fetcher.endpoints(&self.profile).await?)
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
        let endpoints = self.endpoints().await?;
        let expected = self.profile.issuer.as_str();
        let wrong = issuer.map_or(endpoints.issuer_in_answers, |issuer| issuer != expected);
        if wrong {
            return Err(SignInError::Refused(
                "the answer is not of the issuer that was asked".into(),
            ));
        }
        let url = endpoints.token.ok_or(SignInError::NoEndpoint("token_endpoint"))?;
        let callback = self.callback(places);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &callback),
            ("code_verifier", &attempt.verifier),
        ];
        let request = self
            .authentication
            .sign(self.fetcher.post(&url), &self.id, expected, &form)
            .map_err(|_| SignInError::Client)?;
        let (status, body) = self.fetcher.answer(&url, request, MAX_BODY).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| SignInError::Answer)?;
        if !status.is_success() {
            let error: String = answer.error.unwrap_or_default().chars().take(64).collect();
            return Err(SignInError::Refused(format!("status {status} {}", error.escape_debug())));
        }
        let id_token = answer.id_token.ok_or(SignInError::Answer)?;
        let identity = self.verify(&id_token, attempt).await?;
        Ok(SignedIn { identity, id_token: SecretString::from(id_token) })
    }

    async fn verify(&self, id_token: &str, attempt: &Attempt) -> Result<Identity, SignInError> {
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
                    return Err(SignInError::Token(Refusal::Key));
                }
                Err(VerifyError::UnknownKey) => {
                    self.provider.fetch().await?;
                    fetched = true;
                }
            }
        };
        let nonce = unverified.claims().get("nonce").and_then(|nonce| nonce.as_str());
        if nonce.is_some_and(|nonce| same(nonce, &attempt.nonce)) {
            Ok(identity)
        } else {
            Err(SignInError::Nonce)
        }
    }
}
