//! What an operator configures of the sources of workspaces.
//!
//! `SourcesSettings::build`, in [`feeds`](super::feeds), makes all of them with the registry that they write into. A
//! reload that finds equal settings and equal certificates keeps the sources that run.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::Context as _;
use url::Url;

use super::{coder, gitpod, http::ApiCredential, hub, kubernetes, ona};
use crate::{
    fingerprint::Fingerprint,
    workspaces::{
        destination::{DestinationLimits, DestinationTemplate},
        reconcile::core::ReconcileTiming,
        registry::SourceRules,
        source::IdentityMapping,
    },
};

/// All sources of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct SourcesSettings {
    /// In the order of the configuration, with different names.
    pub sources: Vec<SourceSettings>,
    /// Where workspaces may be.
    pub ranges: DestinationLimits,
    /// The configured names of issuers and certificate rules, which records of workspaces refer to.
    pub issuers: BTreeSet<Box<str>>,
}

/// One source of workspaces.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// The operator's name for it.
    pub name: Box<str>,
    /// What holds for its workspaces.
    pub rules: SourceRules,
    /// Which platform or file it is.
    pub kind: SourceKind,
}

/// The kinds of source, with the settings of each.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are a few in a process")]
pub enum SourceKind {
    /// A list in a file, followed as it changes.
    File(PathBuf),
    /// Workspaces that are written through the admin API, each for at most this time.
    Api(Duration),
    /// A JupyterHub, and where it reports its routes.
    Hub(PlatformSettings, hub::HubSettings, hub::server::RouteApiSettings),
    /// A Coder deployment.
    Coder(PlatformSettings, coder::CoderSettings),
    /// A Gitpod Classic organization.
    Gitpod(PlatformSettings, gitpod::GitpodSettings),
    /// A Kubernetes cluster, and how often all of it is listed.
    Kubernetes(kubernetes::KubernetesSettings, ReconcileTiming),
    /// An Ona organization.
    Ona(PlatformSettings, ona::OnaSettings),
}

/// Where the API of a platform is, and how it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct PlatformSettings {
    /// The address of its API.
    pub url: Url,
    /// The agent's token there.
    pub credential: ApiCredential,
    /// A file with certificates of a private authority, PEM.
    pub ca_file: Option<PathBuf>,
    /// How often it is called.
    pub timing: ReconcileTiming,
}

impl SourcesSettings {
    /// The certificates of private authorities as they are now: a file that was replaced under its name differs.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn authorities(&self) -> anyhow::Result<Vec<Fingerprint>> {
        let all = self.sources.iter().filter_map(|source| source.kind.platform());
        let files = all.filter_map(PlatformSettings::authority);
        files.map(|pem| Ok(Fingerprint::of_bytes(&pem?))).collect()
    }

    /// Whether one of them is a JupyterHub, which reports its routes to a listener that cannot be opened twice.
    #[must_use]
    pub fn has_hub(&self) -> bool {
        self.sources.iter().any(|source| matches!(source.kind, SourceKind::Hub(..)))
    }
}

impl SourceKind {
    /// The platform's API, if it has one over HTTP that is configured here.
    #[must_use]
    pub const fn platform(&self) -> Option<&PlatformSettings> {
        match self {
            Self::File(_) | Self::Api(_) | Self::Kubernetes(..) => None,
            Self::Hub(platform, ..)
            | Self::Coder(platform, _)
            | Self::Gitpod(platform, _)
            | Self::Ona(platform, _) => Some(platform),
        }
    }

    /// How the people of a platform are joined to identities; the records of a file and of the API say so themselves.
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

    /// The operator's template for the destinations of its workspaces, if there is one.
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

impl PlatformSettings {
    /// The certificates of the private authority, if one is configured.
    pub(crate) fn authority(&self) -> Option<anyhow::Result<Vec<u8>>> {
        let path = self.ca_file.as_ref()?;
        let read = std::fs::read(path);
        Some(read.with_context(|| format!("cannot read the ca_file {}", path.display())))
    }
}
