//! How the agent proves to an issuer which client it is: at the token endpoint of sign-in, at the introspection endpoint,
//! and where refresh tokens are revoked (RFC 6749 section 2.3, OIDC Core section 9).
//!
//! An issuer lists the methods that it offers in its discovery document, and a secret is sent by the first of
//! `client_secret_basic` and `client_secret_post` that is in the list. The operator can name a method where the document is
//! wrong. No error has a secret in it.

use std::time::Duration;

use aws_lc_rs::rand;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{RequestBuilder, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use thiserror::Error;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::profile::{Profile, TENANT};
use crate::time::Timestamp;

/// How long a signed client assertion is valid.
const ASSERTION_LIFETIME: Duration = Duration::from_mins(1);

/// A way to authenticate a client, by its name in discovery documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ClientMethod {
    /// The secret in the header Authorization (RFC 6749 section 2.3.1).
    ClientSecretBasic,
    /// The secret in the form.
    ClientSecretPost,
    /// A signed assertion (RFC 7523).
    PrivateKeyJwt,
    /// No proof: a public client, whose codes are protected by PKCE alone (RFC 7636).
    None,
}

/// The party that a signed assertion is for: issuers differ in what they accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AssertionAudience {
    /// The issuer.
    #[default]
    Issuer,
    /// The endpoint that is called.
    Endpoint,
}

/// What proves that the agent is a client.
pub enum ClientAuthentication {
    /// A secret.
    Secret {
        /// The secret.
        secret: SecretString,
        /// How it is sent; by what the issuer offers, if there is no value.
        method: Option<SecretMethod>,
    },
    /// A private key.
    PrivateKey {
        /// The key.
        key: EncodingKey,
        /// RS256 or ES256.
        algorithm: Algorithm,
        /// The key id that the issuer knows it by.
        key_id: Option<String>,
        /// SHA-256 of its certificate in base64url, by which some issuers know it (Entra).
        thumbprint: Option<String>,
        /// The party that assertions are for.
        audience: AssertionAudience,
    },
    /// Nothing.
    Public,
}

/// How a secret is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretMethod {
    /// In the header Authorization.
    Basic,
    /// In the form.
    Post,
}

/// The methods that an issuer offers at an endpoint; `None` if it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferedMethods(pub Option<Vec<String>>);

/// Why a request could not be authenticated.
#[derive(Debug, Error)]
pub enum ClientAuthError {
    /// The issuer offers no method that a secret can be used with.
    #[error(
        "the issuer offers {0} and no method for a client secret: set 'private_key_file', or 'auth_method' if its \
         discovery document is wrong"
    )]
    NotOffered(String),
    /// The assertion could not be signed.
    #[error("cannot sign with the private key: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random,
}

impl OfferedMethods {
    /// These methods, or `other` if the issuer does not say.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self(self.0.or_else(|| other.0.clone()))
    }

    /// Whether a method may be tried.
    #[must_use]
    pub fn has(&self, method: ClientMethod) -> bool {
        let name: &str = method.into();
        match &self.0 {
            Some(all) => all.iter().any(|offered| offered == name),
            // The default of RFC 8414 section 2.
            None => method == ClientMethod::ClientSecretBasic,
        }
    }

    /// Their names in one line: texts of the issuer, shortened and quoted.
    #[must_use]
    pub fn listed(&self) -> String {
        let all = self.0.iter().flatten().take(8);
        let all: Vec<_> =
            all.map(|name| format!("{:?}", name.chars().take(40).collect::<String>())).collect();
        if all.is_empty() { "no methods".into() } else { all.join(", ") }
    }
}

/// The method by which a secret is sent: the named one, or else the first that the issuer offers.
///
/// # Errors
/// The issuer offers no method for a secret.
pub fn secret_method(
    named: Option<SecretMethod>,
    offered: &OfferedMethods,
) -> Result<ClientMethod, ClientAuthError> {
    let (basic, post) = (ClientMethod::ClientSecretBasic, ClientMethod::ClientSecretPost);
    match named {
        Some(SecretMethod::Basic) => Ok(basic),
        Some(SecretMethod::Post) => Ok(post),
        None => [basic, post]
            .into_iter()
            .find(|method| offered.has(*method))
            .ok_or_else(|| ClientAuthError::NotOffered(offered.listed())),
    }
}

impl ClientAuthentication {
    /// The method that is used with an issuer that offers these.
    ///
    /// # Errors
    /// The issuer offers no method for a secret.
    pub fn method(&self, offered: &OfferedMethods) -> Result<ClientMethod, ClientAuthError> {
        match self {
            Self::Secret { method, .. } => secret_method(*method, offered),
            Self::PrivateKey { .. } => Ok(ClientMethod::PrivateKeyJwt),
            Self::Public => Ok(ClientMethod::None),
        }
    }

    /// Completes a POST of a form to an endpoint of the issuer with the proof of the client `id`.
    ///
    /// # Errors
    /// See [`ClientAuthError`].
    pub fn sign(
        &self,
        request: RequestBuilder,
        url: &Url,
        client: &Client<'_>,
        pairs: &[(&str, &str)],
    ) -> Result<RequestBuilder, ClientAuthError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        let mut request = request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        match (self, self.method(client.offered)?) {
            (Self::Secret { secret, .. }, ClientMethod::ClientSecretPost) => {
                form.append_pair("client_id", client.id);
                form.append_pair("client_secret", secret.expose_secret());
            }
            (Self::Secret { secret, .. }, _) => {
                if let Some(value) = basic(client.id, secret) {
                    request = request.header(header::AUTHORIZATION, value);
                }
            }
            (Self::PrivateKey { key, algorithm, key_id, thumbprint, audience }, _) => {
                // A fresh id for each assertion, since servers refuse one that they have seen.
                let mut number = [0; 16];
                rand::fill(&mut number).map_err(|_| ClientAuthError::Random)?;
                let now = Timestamp::now();
                let claims = json!({
                    "iss": client.id, "sub": client.id, "aud": audience.of(client.profile, url),
                    "jti": URL_SAFE_NO_PAD.encode(number), "iat": now.as_millis() / 1000,
                    "exp": now.plus(ASSERTION_LIFETIME).as_millis() / 1000,
                });
                let header = Header {
                    kid: key_id.clone(),
                    x5t_s256: thumbprint.clone(),
                    ..Header::new(*algorithm)
                };
                let assertion = jsonwebtoken::encode(&header, &claims, key)?;
                form.append_pair("client_id", client.id);
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                form.append_pair("client_assertion_type", kind);
                form.append_pair("client_assertion", &assertion);
            }
            (Self::Public, _) => {
                form.append_pair("client_id", client.id);
            }
        }
        Ok(request.body(form.finish().into_bytes()))
    }
}

/// The client that a request is made for.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// Its id at the issuer.
    pub id: &'a str,
    /// The issuer.
    pub profile: &'a Profile,
    /// What the issuer offers at the endpoint.
    pub offered: &'a OfferedMethods,
}

impl AssertionAudience {
    fn of<'a>(self, profile: &'a Profile, url: &'a Url) -> &'a str {
        match self {
            // A template is the issuer of no tenant in particular.
            Self::Issuer if !profile.issuer.as_str().contains(TENANT) => profile.issuer.as_str(),
            Self::Issuer | Self::Endpoint => url.as_str(),
        }
    }
}

/// The header of `client_secret_basic`. Id and secret are form-encoded before they are joined (RFC 6749 section 2.3.1).
fn basic(id: &str, secret: &SecretString) -> Option<header::HeaderValue> {
    let encode =
        |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let secret = Zeroizing::new(encode(secret.expose_secret()));
    let pair = Zeroizing::new(format!("{}:{}", encode(id), *secret));
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = header::HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn offered(methods: &[&str]) -> OfferedMethods {
        OfferedMethods(Some(methods.iter().map(|name| (*name).to_owned()).collect()))
    }

    fn secret(method: Option<SecretMethod>) -> ClientAuthentication {
        ClientAuthentication::Secret { secret: "s3cret&+ä".to_owned().into(), method }
    }

    fn key(audience: AssertionAudience) -> ClientAuthentication {
        let pair = rcgen::KeyPair::generate().unwrap();
        ClientAuthentication::PrivateKey {
            key: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap(),
            algorithm: Algorithm::ES256,
            key_id: Some("key-1".into()),
            thumbprint: Some("thumb".into()),
            audience,
        }
    }

    /// What is sent: the header Authorization, and the form.
    fn sent(
        authentication: &ClientAuthentication,
        issuer: &str,
        offered: &OfferedMethods,
    ) -> Result<(Option<String>, BTreeMap<String, String>), ClientAuthError> {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let profile = Profile::new("corp", issuer.parse().unwrap(), vec![]);
        let url: Url = "https://idp.example.com/token?x=1".parse().unwrap();
        let request = reqwest::Client::new().post(url.clone());
        let client = Client { id: "ga te", profile: &profile, offered };
        let request = authentication.sign(request, &url, &client, &[("grant_type", "x")])?;
        let request = request.build().unwrap();
        let header = request.headers().get("authorization");
        assert!(header.is_none_or(header::HeaderValue::is_sensitive));
        let header = header.map(|value| value.to_str().unwrap().to_owned());
        let body = request.body().unwrap().as_bytes().unwrap();
        Ok((header, form_urlencoded::parse(body).into_owned().collect()))
    }

    const ISSUER: &str = "https://idp.example.com";

    #[test]
    fn q16_a_secret_is_sent_by_the_first_method_that_the_issuer_offers() {
        let basic = format!("Basic {}", STANDARD.encode("ga+te:s3cret%26%2B%C3%A4"));
        for (methods, is_basic) in [
            (OfferedMethods(None), true),
            (offered(&["client_secret_basic", "client_secret_post"]), true),
            (offered(&["client_secret_post", "private_key_jwt", "client_secret_basic"]), true),
            (offered(&["client_secret_post"]), false),
            (offered(&["tls_client_auth", "client_secret_post", "none"]), false),
        ] {
            let (header, form) = sent(&secret(None), ISSUER, &methods).unwrap();
            if is_basic {
                assert_eq!(header.as_deref(), Some(&*basic), "{methods:?}");
                assert!(!form.contains_key("client_secret") && !form.contains_key("client_id"));
            } else {
                assert_eq!(header, None, "{methods:?}");
                assert_eq!(form["client_secret"], "s3cret&+ä");
                assert_eq!(form["client_id"], "ga te");
            }
            assert_eq!(form["grant_type"], "x");
        }
        for methods in
            [&[][..], &["private_key_jwt"], &["none"], &["CLIENT_SECRET_BASIC", "x\u{1b}"]]
        {
            let error = sent(&secret(None), ISSUER, &offered(methods)).unwrap_err().to_string();
            assert!(error.contains("auth_method") && !error.contains("s3cret"), "{error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn q16_the_operator_may_name_the_method_of_a_secret() {
        let post = sent(&secret(Some(SecretMethod::Post)), ISSUER, &OfferedMethods(None)).unwrap();
        assert_eq!((post.0, post.1["client_secret"].as_str()), (None, "s3cret&+ä"));
        let methods = offered(&["client_secret_post"]);
        let basic = sent(&secret(Some(SecretMethod::Basic)), ISSUER, &methods).unwrap();
        assert!(basic.0.is_some() && !basic.1.contains_key("client_secret"));
    }

    #[test]
    fn q16_a_public_client_sends_its_id_and_no_proof() {
        for methods in [OfferedMethods(None), offered(&["none"]), offered(&["client_secret_post"])]
        {
            let (header, form) = sent(&ClientAuthentication::Public, ISSUER, &methods).unwrap();
            assert_eq!(header, None);
            assert_eq!(form.keys().collect::<Vec<_>>(), ["client_id", "grant_type"]);
        }
    }

    #[test]
    fn q16_an_assertion_is_for_the_issuer_or_the_endpoint_and_names_its_key() {
        let template = "https://login.microsoftonline.com/{tenantid}/v2.0";
        for (audience, issuer, want) in [
            (AssertionAudience::Issuer, ISSUER, ISSUER),
            (AssertionAudience::Endpoint, ISSUER, "https://idp.example.com/token?x=1"),
            (AssertionAudience::Issuer, template, "https://idp.example.com/token?x=1"),
        ] {
            let (header, form) = sent(&key(audience), issuer, &OfferedMethods(None)).unwrap();
            assert_eq!(header, None);
            assert!(!form.contains_key("client_secret"));
            let part = |n: usize| -> Value {
                let part = form["client_assertion"].split('.').nth(n).unwrap();
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
            };
            let (header, claims) = (part(0), part(1));
            assert_eq!((&header["kid"], &header["x5t#S256"]), (&json!("key-1"), &json!("thumb")));
            assert_eq!((&claims["aud"], &claims["sub"]), (&json!(want), &json!("ga te")));
            let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
            assert_eq!(life, 60);
        }
    }
}
