//! What an operator configures of an issuer, and how its parts are built from that.
//!
//! The configuration reads these settings; [`IssuerSettings::build`] makes the provider that fetches the issuer's keys,
//! [`IssuerSettings::build_introspector`] what asks it about opaque tokens. [`IssuerSettings::inputs`] tells whether a
//! later configuration describes the same issuer, so that a reload leaves one alone that did not change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use jsonwebtoken::{Algorithm, EncodingKey};
use url::Url;

use super::{
    Profile,
    introspection::{ClientAuthentication, IntrospectionClient, Introspector},
    provider::{FetchSchedule, Fetcher, Provider},
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
    /// What people call the issuer; its configured name by default.
    pub label: Option<Box<str>>,
}

/// How the agent proves to an issuer which client it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKey {
    /// By a secret that both know.
    Secret(SecretLocation),
    /// By signatures of a private key in a PEM file; with the key id that the issuer knows, if any.
    PrivateKey(PathBuf, Option<String>),
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

impl ClientKey {
    /// The secret or key itself.
    ///
    /// # Errors
    /// It cannot be read, or is not a key.
    pub fn authentication(&self) -> anyhow::Result<ClientAuthentication> {
        match self {
            Self::Secret(location) => {
                let secret = location.read().with_context(|| match location {
                    SecretLocation::File(path) => {
                        format!("the client_secret_file {}", path.display())
                    }
                    SecretLocation::Env(_) => "client_secret_env".to_owned(),
                })?;
                Ok(ClientAuthentication::Secret(secret))
            }
            Self::PrivateKey(path, key_id) => {
                let pem = SecretLocation::File(path.clone()).text()?;
                let rsa = EncodingKey::from_rsa_pem(pem.as_bytes());
                let rsa = rsa.map(|key| (key, Algorithm::RS256));
                // The PEM does not tell the kind of key in words: a key that is not RSA may be one of P-256.
                let either = rsa.or_else(|_| {
                    EncodingKey::from_ec_pem(pem.as_bytes()).map(|key| (key, Algorithm::ES256))
                });
                let Ok((key, algorithm)) = either else {
                    bail!(
                        "the private_key_file {}: expected the PEM of an RSA or P-256 private key",
                        path.display()
                    );
                };
                Ok(ClientAuthentication::PrivateKey { key, algorithm, key_id: key_id.clone() })
            }
        }
    }

    fn fingerprint(&self) -> Result<Fingerprint, SecretError> {
        match self {
            Self::Secret(location) => location.fingerprint(),
            Self::PrivateKey(path, _) => SecretLocation::File(path.clone()).fingerprint(),
        }
    }
}
