//! Why a sign-in or a refresh failed.

use reqwest::StatusCode;
use thiserror::Error;
use url::Url;

use crate::identity::{
    TokenError, audience::AudienceError, client_auth::ClientAuthError, provider::FetchError,
    userinfo::UserinfoError,
};

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
    /// The ID token is not for this client, or not for it alone.
    #[error("the ID token is not valid: {0}")]
    Audience(AudienceError),
    /// What the provider says at userinfo is not used.
    #[error("{0}; userinfo = \"never\" in [issuer.sign_in] goes without it")]
    Userinfo(UserinfoError),
    /// The provider refuses to say more about the person at userinfo.
    #[error(
        "the ID token lacks {lacking}, and asking the userinfo endpoint {url} failed with status {status}; \
         userinfo = \"never\" in [issuer.sign_in] goes without it"
    )]
    UserinfoStatus {
        /// The claims that the ID token lacks.
        lacking: String,
        /// The endpoint.
        url: Url,
        /// The status.
        status: StatusCode,
    },
    /// Userinfo takes an access token, and there is none that can be sent.
    #[error("the provider's response has no access token that can be sent to userinfo")]
    NoAccessToken,
    /// The ID token belongs to another attempt.
    #[error("the ID token is of another attempt to sign in")]
    Nonce,
    /// The ID token was issued with another access token.
    #[error("the ID token was issued with another access token (at_hash)")]
    AccessToken,
    /// The client could not authenticate itself.
    #[error(transparent)]
    Client(#[from] ClientAuthError),
}
