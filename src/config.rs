//! The configuration. Each key is declared once, by [`section::table!`] in the file of its table; [`reference`] says how
//! to add one.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use url::Url;

use crate::{
    audit,
    authz::{limits::Limits, policy},
    diagnostics::{Format, Mistakes},
    fingerprint::Fingerprint,
    haproxy,
    identity::{
        Profile, certificate::CertificateRule, credential::TokenLocations, provider::FetchSchedule,
    },
    sessions::{Lifetime, flow::PublicUrls},
    sign_in::page::PageSettings,
    sources::{coder, gitpod, http::ApiCredential, hub, kubernetes, ona},
    workspaces::{
        destination::DestinationTemplate, pattern::PatternSpec, reconcile::core::ReconcileTiming,
        registry::SourceRules, source::IdentityMapping,
    },
};

mod agent;
mod audit_table;
mod certificate;
pub mod difference;
mod document;
mod facts;
mod hosts;
mod issuer;
mod key;
mod kinds;
mod pages;
mod policy_table;
mod redis;
pub mod reference;
mod section;
mod sign_in;
mod site;
mod source;
mod traces;
mod tunnels;
mod warnings;
mod workspaces;

use section::Section;

pub use redis::{Password, Redis};

/// A configuration that holds together.
#[derive(Debug)]
pub struct Config {
    /// Where HAProxy reaches the agent.
    pub agent: crate::agent::AgentSettings,
    /// Whose tokens count; at least one, with different names and identifiers.
    pub issuers: Vec<Issuer>,
    /// Where tokens may be beside the Authorization header.
    pub credentials: Option<TokenLocations>,
    /// Which client certificates count.
    pub certificates: Vec<CertificateRule>,
    /// Which hosts are workspaces; at least one.
    pub hosts: Vec<PatternSpec>,
    /// Where workspaces come from; at least one, with different names.
    pub sources: Vec<Source>,
    /// What holds for all workspaces.
    pub limits: Limits,
    /// Policies beyond ownership; none unless said.
    pub policies: Option<policy::PolicySettings>,
    /// Where decisions are recorded.
    pub audit: audit::AuditSettings,
    /// How people sign in with a browser; not at all unless said.
    pub sign_in: Option<SignIn>,
    /// Where several agents share sessions and revocations.
    pub redis: Option<Redis>,
    /// How administrators reach the agent; not at all unless said.
    pub admin: Option<crate::admin::AdminSettings>,
    /// How the agent reaches HAProxy to cut tunnels; not at all unless said.
    pub haproxy: Option<Haproxy>,
    /// What holds for tunnels.
    pub tunnels: Tunnels,
    /// Where spans of decisions go; nowhere unless said.
    pub traces: Option<crate::traces::TraceSettings>,
    /// Where metrics are beside the administrator's socket; nowhere unless said.
    pub metrics: Option<Metrics>,
    /// Of the file it was read from.
    pub fingerprint: Option<Fingerprint>,
    /// The name of the file that it was read from.
    pub file: String,
    /// The file as it was typed, and its language.
    pub text: (String, Format),
}

/// How the agent reaches HAProxy.
#[derive(Debug, PartialEq, Eq)]
pub struct Haproxy {
    /// The sockets of processes and of masters; at least one.
    pub sockets: Vec<haproxy::Socket>,
    /// The frontends whose tunnels are the gate's, before a question comes from one.
    pub frontends: Vec<Box<[u8]>>,
}

/// What holds for tunnels.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// What the operator decided.
    pub settings: crate::tunnels::TunnelSettings,
    /// Where tunnels outlive the agent; nowhere unless said.
    pub file: Option<PathBuf>,
}

/// Where workspaces come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The operator's name for it.
    pub name: Box<str>,
    /// What holds for its workspaces.
    pub rules: SourceRules,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are a few in a process")]
pub enum SourceKind {
    /// A list in a file, followed as it changes.
    File(PathBuf),
    /// Whatever is written through the administrator's API, each for so long at most.
    Api(Duration),
    /// A JupyterHub, and where it tells of its routes.
    Hub(Platform, hub::HubSettings, hub::server::RouteApiSettings),
    /// A Coder deployment.
    Coder(Platform, coder::CoderSettings),
    /// A Gitpod classic organization.
    Gitpod(Platform, gitpod::GitpodSettings),
    /// A Kubernetes cluster, and how often all of it is listed.
    Kubernetes(kubernetes::KubernetesSettings, ReconcileTiming),
    /// An Ona organization.
    Ona(Platform, ona::OnaSettings),
}

impl SourceKind {
    /// How the people of a platform are joined to identities; records of the other kinds say so themselves.
    pub(crate) const fn identity_mapping_mut(&mut self) -> Option<&mut IdentityMapping> {
        match self {
            Self::File(_) | Self::Api(_) => None,
            Self::Hub(_, settings, _) => Some(&mut settings.identity_mapping),
            Self::Coder(_, settings) => Some(&mut settings.identity_mapping),
            Self::Gitpod(_, settings) => Some(&mut settings.identity_mapping),
            Self::Kubernetes(settings, _) => Some(&mut settings.identity_mapping),
            Self::Ona(_, settings) => Some(&mut settings.identity_mapping),
        }
    }

    /// The operator's words for where its workspaces are, if there are any.
    #[must_use]
    pub const fn template(&self) -> Option<&DestinationTemplate> {
        match self {
            Self::File(_) | Self::Api(_) | Self::Hub(..) => None,
            Self::Coder(_, coder::CoderSettings { destination, .. })
            | Self::Gitpod(_, gitpod::GitpodSettings { destination, .. }) => Some(destination),
            Self::Kubernetes(kubernetes::KubernetesSettings { destination, .. }, _)
            | Self::Ona(_, ona::OnaSettings { destination, .. }) => destination.as_ref(),
        }
    }
}

/// Where a platform is and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Platform {
    /// The address of its API.
    pub url: Url,
    /// Who we are to it.
    pub credential: ApiCredential,
    /// Certificates of a private authority, PEM.
    pub authority: Option<PathBuf>,
    /// How often it is asked.
    pub timing: ReconcileTiming,
}

/// How people sign in with a browser.
#[derive(Debug)]
pub struct SignIn {
    /// Where HAProxy finds the pages.
    pub listen: SocketAddr,
    /// The login host, and the port of HAProxy's https.
    pub urls: PublicUrls,
    /// The ring of keys.
    pub keys: PathBuf,
    /// Where sessions outlive the agent; nowhere unless said.
    pub sessions: Option<PathBuf>,
    /// How long sessions last.
    pub lifetime: Lifetime,
    /// How often providers are asked whether a session in use still counts; never unless said.
    pub refresh: Option<Duration>,
    /// What people see.
    pub pages: PageSettings,
}

/// We as a client of an issuer at which people sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Our name at the issuer.
    pub id: Box<str>,
    /// How we prove it.
    pub key: ClientKey,
    /// What is asked for.
    pub scopes: String,
    /// What people call the issuer; its configured name unless said.
    pub label: Option<Box<str>>,
}

/// Where metrics and the agent's health can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The address.
    pub listen: SocketAddr,
}

/// An issuer and how its keys are fetched.
#[derive(Debug)]
pub struct Issuer {
    /// What it is trusted to say.
    pub profile: Arc<Profile>,
    /// The key set's address, instead of discovery.
    pub jwks_uri: Option<Url>,
    /// Certificates of a private authority, PEM.
    pub authority: Option<PathBuf>,
    /// How the issuer is asked about opaque tokens; not at all unless said.
    pub introspection: Option<Introspection>,
    /// How people sign in at it; not at all unless said.
    pub client: Option<Client>,
    /// Where the last good key set is kept over a restart.
    pub key_cache_file: Option<PathBuf>,
    /// When keys are fetched.
    pub schedule: FetchSchedule,
}

/// How an issuer is asked about opaque tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// Our name at the issuer.
    pub client_id: Box<str>,
    /// How we prove it.
    pub key: ClientKey,
    /// The endpoint, instead of the discovery document's.
    pub endpoint: Option<String>,
    /// How long an answer is kept at most.
    pub keep: Duration,
}

/// How we prove to an issuer who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKey {
    /// A secret in a file.
    SecretFile(PathBuf),
    /// A secret in a variable of the environment.
    SecretEnv(String),
    /// A private key, PEM, with what the issuer calls it.
    PrivateKey(PathBuf, Option<String>),
}

impl Config {
    /// Reads a configuration file. Paths in it are relative to its directory.
    ///
    /// # Errors
    /// The file cannot be read, or the mistakes in it, all of them.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Mistakes::whole(&name, format!("cannot read the configuration: {e}")))?;
        let format = Format::of(path).unwrap_or(Format::Toml);
        let directory = path.parent().unwrap_or(Path::new(""));
        let config = Self::parse(&name, &text, format, directory)?;
        let fingerprint = Some(Fingerprint::of_bytes(text.as_bytes()));
        Ok(Self { fingerprint, file: name, text: (text, format), ..config })
    }

    /// Reads the text of a configuration called `name`. Paths in it are relative to `directory`.
    ///
    /// # Errors
    /// The mistakes in it, all of them.
    pub fn parse(
        name: &str,
        text: &str,
        format: Format,
        directory: &Path,
    ) -> Result<Self, Mistakes> {
        read::<document::Document>(name, text, format, directory)
    }

    /// The configured names of the issuers.
    #[must_use]
    pub fn issuer_names(&self) -> BTreeSet<&str> {
        let issuers = self.issuers.iter().map(|issuer| &issuer.profile.authority);
        let all = issuers.chain(self.certificates.iter().map(|rule| &rule.authority));
        all.map(|authority| &*authority.name).collect()
    }

    /// The keys that can only change with a restart and differ from `other`'s: they say where the agent listens,
    /// where it keeps what must outlive it, and how it reaches HAProxy.
    #[must_use]
    pub fn fixed_that_differ(&self, other: &Self) -> Vec<String> {
        difference::fixed(&other.text.0, &self.text.0, self.text.1)
    }
}

/// Reads a document, with every mistake in it at once. Paths in it are relative to a directory.
fn read<S: Section>(
    name: &str,
    text: &str,
    format: Format,
    directory: &Path,
) -> Result<S::Value, Mistakes> {
    crate::diagnostics::tree(text, format)
        .and_then(|mut root| section::read::<S>(&mut root, directory))
        .map_err(|errors| crate::diagnostics::mistakes(name, text, errors))
}
