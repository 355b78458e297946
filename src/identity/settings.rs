//! What an operator configures of an issuer, and how its parts are built from that.
//!
//! The configuration reads these settings; [`IssuerSettings::build`] makes the provider that fetches the issuer's keys,
//! [`IssuerSettings::build_introspector`] what asks it about opaque tokens. [`IssuerSettings::inputs`] tells whether a
//! later configuration describes the same issuer, so that a reload leaves one alone that did not change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use url::Url;
use x509_parser::pem::Pem;

use super::{
    Profile,
    client_auth::{
        AssertionAudience, ClientAuthError, ClientAuthentication, ClientMethod, OfferedMethods,
        SecretMethod, secret_method,
    },
    introspection::{IntrospectionClient, Introspector},
    profile::TokenKinds,
    provider::{FetchSchedule, Fetcher, Provider},
    userinfo::UserinfoUse,
};
use crate::{
    fingerprint::Fingerprint,
    secret::{SecretError, SecretLocation},
};

/// An issuer and how its keys are fetched.
#[derive(Debug)]
pub struct IssuerSettings {
    /// What it is trusted to say.
    pub profile: Arc<Profile>,
    /// The address of the key set; the discovery document names it by default.
    pub jwks_uri: Option<Url>,
    /// A file with certificates of a private authority, PEM.
    pub ca_file: Option<PathBuf>,
    /// How the issuer is asked about opaque tokens; they are refused by default.
    pub introspection: Option<IntrospectionSettings>,
    /// How people sign in at it with a browser; they cannot by default.
    pub client: Option<ClientSettings>,
    /// The file in which the last good key set outlives a restart.
    pub key_cache_file: Option<PathBuf>,
    /// When keys are fetched.
    pub schedule: FetchSchedule,
}

/// How an issuer is asked about opaque tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// The agent's client id at the issuer.
    pub client_id: Box<str>,
    /// How the agent proves that it is this client.
    pub key: ClientKey,
    /// The endpoint; the discovery document names it by default.
    pub endpoint: Option<String>,
    /// The longest time for which an answer is used again.
    pub cache_time: Duration,
}

/// The agent as a client of an issuer at which people sign in (OIDC Core section 3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The agent's client id at the issuer.
    pub id: Box<str>,
    /// How the agent proves that it is this client.
    pub key: ClientKey,
    /// The scopes that are asked for, separated by spaces.
    pub scopes: String,
    /// Whether userinfo is asked; when it is needed, by default.
    pub userinfo: Option<UserinfoUse>,
    /// Parameters of the provider's own in the address where people sign in.
    pub authorize: AuthorizeParameters,
    /// What the provider is told where it shall ask who the person is even if it knows; `login` by default.
    pub ask_prompt: Option<&'static str>,
    /// What people call the issuer; its configured name by default.
    pub label: Option<Box<str>>,
}

/// Names and values of parameters in the address where people sign in. None of the names is one that the agent sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizeParameters(pub Vec<(&'static str, Box<str>)>);

/// How the agent proves to an issuer which client it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKey {
    /// By a secret that both know; it is sent as the issuer offers, if no method is named.
    Secret(SecretLocation, Option<SecretMethod>),
    /// By signatures of a private key in a PEM file; with the key id that the issuer knows, if any, and the party that the
    /// assertions are for.
    PrivateKey(PathBuf, Option<String>, Option<AssertionAudience>),
    /// Not at all.
    Public,
}

/// What a well-known provider needs of its clients, where the configuration does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientDefaults {
    /// The party that signed assertions are for.
    pub assertion_audience: Option<AssertionAudience>,
    /// Whether userinfo is asked.
    pub userinfo: Option<UserinfoUse>,
    /// Parameters in the address where people sign in.
    pub authorize: AuthorizeParameters,
    /// See [`ClientSettings::ask_prompt`].
    pub ask_prompt: Option<&'static str>,
}

/// All that an issuer's provider and introspector are built from, with what is in the files that are named.
#[derive(PartialEq)]
pub struct IssuerInputs {
    profile: Arc<Profile>,
    jwks_uri: Option<Url>,
    authority: Option<Fingerprint>,
    introspection: Option<IntrospectionSettings>,
    secret: Option<Fingerprint>,
    key_cache_file: Option<PathBuf>,
    schedule: FetchSchedule,
}

impl IssuerInputs {
    /// What the issuer is trusted to say.
    #[must_use]
    pub const fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }
}

impl IssuerSettings {
    /// The provider, without keys yet. `profile` equals the one of these settings; a provider that is replaced hands
    /// its own on, by which sessions and tunnels know the issuer.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn build(&self, profile: Arc<Profile>) -> anyhow::Result<Provider> {
        let provider = Provider::new(profile, self.schedule, self.fetcher()?);
        Ok(match &self.key_cache_file {
            Some(path) => provider.with_file(path.clone()),
            None => provider,
        })
    }

    /// What asks the issuer about opaque tokens, and remembers `capacity` answers; none where it is not asked.
    ///
    /// # Errors
    /// The certificates or the secret cannot be read.
    pub fn build_introspector(
        &self,
        profile: &Arc<Profile>,
        capacity: u64,
    ) -> anyhow::Result<Option<Introspector>> {
        let Some(settings) = &self.introspection else { return Ok(None) };
        let authentication = settings
            .key
            .authentication()
            .with_context(|| format!("[issuer.introspection] of the issuer '{}'", self.name()))?;
        let endpoint = settings.endpoint.as_deref().map(str::parse).transpose()?;
        let id = settings.client_id.to_string();
        let client = IntrospectionClient::new(self.fetcher()?, id, authentication, endpoint);
        let time = settings.cache_time;
        Ok(Some(Introspector::new(Arc::clone(profile), client, time, capacity)))
    }

    /// What fetches from the issuer.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn fetcher(&self) -> anyhow::Result<Fetcher> {
        Fetcher::new(self.jwks_uri.clone(), self.authority()?.as_deref())
            .with_context(|| format!("the issuer '{}'", self.name()))
    }

    /// What a later configuration is compared by. A file that was replaced under its name differs too.
    ///
    /// # Errors
    /// A file or variable cannot be read.
    pub fn inputs(&self) -> anyhow::Result<IssuerInputs> {
        let secret = self.introspection.as_ref().map(|settings| settings.key.fingerprint());
        let secret = secret
            .transpose()
            .with_context(|| format!("[issuer.introspection] of the issuer '{}'", self.name()))?;
        Ok(IssuerInputs {
            profile: Arc::clone(&self.profile),
            jwks_uri: self.jwks_uri.clone(),
            authority: self.authority()?.as_deref().map(Fingerprint::of_bytes),
            introspection: self.introspection.clone(),
            secret,
            key_cache_file: self.key_cache_file.clone(),
            schedule: self.schedule,
        })
    }

    /// The configured name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.profile.authority.name
    }

    /// Certificates of a private authority, PEM.
    fn authority(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let pem = std::fs::read(path).with_context(|| {
            format!("cannot read the ca_file {} of the issuer '{}'", path.display(), self.name())
        })?;
        Ok(Some(pem))
    }
}

impl ClientSettings {
    /// How the ID tokens for this client are verified, at an issuer whose access tokens are verified by `profile`.
    #[must_use]
    pub fn profile(&self, profile: &Profile) -> Profile {
        Profile {
            // The audience of an ID token is the client; the configured audience is that of access tokens.
            audience: vec![self.id.to_string()],
            tokens: TokenKinds { typed_access: false, access: false, id: true },
            // It stands for `aud` in access tokens alone.
            audience_claim: None,
            ..profile.clone()
        }
    }

    /// The same with what is not set taken from `defaults`.
    #[must_use]
    pub fn or(mut self, defaults: &ClientDefaults) -> Self {
        self.key = self.key.or(defaults);
        self.userinfo = self.userinfo.or(defaults.userinfo);
        self.ask_prompt = self.ask_prompt.or(defaults.ask_prompt);
        for (name, value) in &defaults.authorize.0 {
            if !self.authorize.0.iter().any(|(set, _)| set == name) {
                self.authorize.0.push((name, value.clone()));
            }
        }
        self
    }
}

impl ClientKey {
    /// The same with what is not set taken from `defaults`.
    #[must_use]
    pub fn or(self, defaults: &ClientDefaults) -> Self {
        match self {
            Self::PrivateKey(file, id, audience) => {
                Self::PrivateKey(file, id, audience.or(defaults.assertion_audience))
            }
            other => other,
        }
    }

    /// The method that is used with an issuer that offers these.
    ///
    /// # Errors
    /// The issuer offers no method for a secret.
    pub fn method(&self, offered: &OfferedMethods) -> Result<ClientMethod, ClientAuthError> {
        match self {
            Self::Secret(_, method) => secret_method(*method, offered),
            Self::PrivateKey(..) => Ok(ClientMethod::PrivateKeyJwt),
            Self::Public => Ok(ClientMethod::None),
        }
    }

    /// The secret or key itself.
    ///
    /// # Errors
    /// It cannot be read, or is not a key.
    pub fn authentication(&self) -> anyhow::Result<ClientAuthentication> {
        match self {
            Self::Public => Ok(ClientAuthentication::Public),
            Self::Secret(location, method) => {
                let secret = location.read().with_context(|| match location {
                    SecretLocation::File(path) => {
                        format!("the client_secret_file {}", path.display())
                    }
                    SecretLocation::Env(_) => "client_secret_env".to_owned(),
                })?;
                Ok(ClientAuthentication::Secret { secret, method: *method })
            }
            Self::PrivateKey(path, key_id, audience) => {
                let pem = SecretLocation::File(path.clone()).text()?;
                let rsa = EncodingKey::from_rsa_pem(pem.as_bytes());
                let rsa = rsa.map(|key| (key, Algorithm::RS256));
                // The PEM does not tell the kind of key in words: a key that is not RSA may be one of P-256.
                let either = rsa.or_else(|_| {
                    EncodingKey::from_ec_pem(pem.as_bytes()).map(|key| (key, Algorithm::ES256))
                });
                let Ok((key, algorithm)) = either else {
                    bail!(
                        "the private_key_file {}: expected the PEM of an RSA or P-256 private key, before any certificate",
                        path.display()
                    );
                };
                Ok(ClientAuthentication::PrivateKey {
                    key,
                    algorithm,
                    key_id: key_id.clone(),
                    thumbprint: thumbprint(&pem),
                    audience: audience.unwrap_or_default(),
                })
            }
        }
    }

    fn fingerprint(&self) -> Result<Fingerprint, SecretError> {
        match self {
            Self::Secret(location, _) => location.fingerprint(),
            Self::PrivateKey(path, ..) => SecretLocation::File(path.clone()).fingerprint(),
            Self::Public => Ok(Fingerprint::of_bytes(b"")),
        }
    }
}

/// SHA-256 of the first certificate of a PEM file, in base64url (RFC 7515 section 4.1.8).
fn thumbprint(pem: &str) -> Option<String> {
    // The key before it is not read: no copy of it must be left in memory.
    let certificate = pem.get(pem.find("-----BEGIN CERTIFICATE-----")?..)?;
    let certificate = Pem::iter_from_buffer(certificate.as_bytes()).next()?.ok()?;
    let digest = digest::digest(&digest::SHA256, &certificate.contents);
    Some(URL_SAFE_NO_PAD.encode(digest))
}
