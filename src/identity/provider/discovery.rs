//! The discovery document of an issuer (OIDC Discovery section 3), and the endpoints that it names.

use serde::Deserialize;
use url::Url;

use super::error::FetchError;
use crate::identity::client_auth::OfferedMethods;

/// The members of a discovery document that are used.
#[derive(Debug, Deserialize)]
pub struct Discovery {
    /// The issuer.
    pub issuer: String,
    /// The address of the key set.
    pub jwks_uri: String,
    /// The introspection endpoint.
    pub introspection_endpoint: Option<String>,
    /// The authorization endpoint, where people sign in.
    pub authorization_endpoint: Option<String>,
    /// The token endpoint, where codes are exchanged.
    pub token_endpoint: Option<String>,
    /// The end session endpoint, where people sign out.
    pub end_session_endpoint: Option<String>,
    /// The revocation endpoint, where tokens are given back (RFC 7009).
    pub revocation_endpoint: Option<String>,
    /// The userinfo endpoint, which says more about a person than the ID token (OIDC Core section 5.3).
    pub userinfo_endpoint: Option<String>,
    /// How clients authenticate at the token endpoint.
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// The same at the introspection endpoint.
    pub introspection_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// The same at the revocation endpoint.
    pub revocation_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether the issuer names itself in each authorization response (RFC 9207 section 3).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
    /// The algorithms of its ID tokens. Access tokens nearly always have the same.
    #[serde(default)]
    pub id_token_signing_alg_values_supported: Vec<String>,
}

impl Discovery {
    /// Reads a document that was fetched from `url`.
    pub(super) fn parse(url: &Url, document: &[u8]) -> Result<Self, FetchError> {
        // Some servers of static files put a byte order mark before the text.
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        serde_json::from_slice(document)
            .map_err(|error| FetchError::Discovery { url: url.to_string(), error })
    }

    /// How clients authenticate at the token endpoint.
    #[must_use]
    pub fn token_methods(&self) -> OfferedMethods {
        OfferedMethods(self.token_endpoint_auth_methods_supported.clone())
    }

    /// How clients authenticate at the introspection endpoint: as at the token endpoint, if the document does not say.
    #[must_use]
    pub fn introspection_methods(&self) -> OfferedMethods {
        let own = OfferedMethods(self.introspection_endpoint_auth_methods_supported.clone());
        own.or(&self.token_methods())
    }

    /// How clients authenticate at the revocation endpoint.
    #[must_use]
    pub fn revocation_methods(&self) -> OfferedMethods {
        let own = OfferedMethods(self.revocation_endpoint_auth_methods_supported.clone());
        own.or(&self.token_methods())
    }
}

/// The endpoints for sign-in and sign-out at an issuer.
#[derive(Clone)]
pub struct Endpoints {
    /// The authorization endpoint, where people sign in.
    pub authorization: Option<Url>,
    /// The token endpoint, where codes are exchanged.
    pub token: Option<Url>,
    /// The end session endpoint, where people sign out.
    pub end_session: Option<Url>,
    /// The revocation endpoint, where tokens are given back (RFC 7009).
    pub revocation: Option<Url>,
    /// The userinfo endpoint, unchecked: a bad address must not prevent a sign-in that does not need it.
    pub userinfo: Option<String>,
    /// How clients authenticate at the token endpoint.
    pub token_methods: OfferedMethods,
    /// How clients authenticate at the revocation endpoint.
    pub revocation_methods: OfferedMethods,
    /// Whether the issuer names itself in each authorization response (RFC 9207 section 3).
    pub issuer_in_answers: bool,
}
