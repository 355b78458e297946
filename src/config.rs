//! The configuration: what an operator writes into `agent.toml`, read and checked.
//!
//! Each key is declared once, with `table!` in the file of its table below `config/`: its type, range, default and
//! documentation. [`Config::load`] reads a file by these declarations and reports every mistake in it at once; [`reference`]
//! makes the JSON Schema, `docs/configuration.md` and the annotated example from the same declarations; [`difference`]
//! tells what a changed file changes and whether that needs a restart; [`inputs`] reads the files that it names.
//!
//! A table's `Section::build` turns its keys into the settings of the subsystem that uses them, whose type belongs to that
//! subsystem. What must hold between tables is checked in `document`. The configuration holds no secret, only where
//! each one is, and reading it opens no file but its own.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use crate::{
    audit,
    authz::{limits::Limits, policy},
    diagnostics::{Format, Mistakes},
    fingerprint::Fingerprint,
    identity::{
        certificate::CertificateRule, credential::TokenLocations, settings::IssuerSettings,
    },
    sign_in::settings::SignInSettings,
    sources::settings::SourcesSettings,
    tunnels::settings::TrackingSettings,
    workspaces::pattern::PatternSpec,
};

mod agent;
mod audit_table;
mod certificate;
pub mod difference;
mod document;
mod facts;
mod hosts;
pub mod inputs;
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

/// A configuration that was read and checked: its parts fit together.
#[derive(Debug)]
pub struct Config {
    /// Where HAProxy reaches the agent, and what that may cost.
    pub agent: crate::agent::AgentSettings,
    /// The issuers whose tokens are accepted; at least one, with different names and identifiers.
    pub issuers: Vec<IssuerSettings>,
    /// Where a token may be besides the Authorization header.
    pub credentials: Option<TokenLocations>,
    /// The client certificates that are accepted as identities.
    pub certificates: Vec<CertificateRule>,
    /// The hosts that are workspaces; at least one pattern.
    pub hosts: Vec<PatternSpec>,
    /// The sources of workspaces; at least one.
    pub sources: SourcesSettings,
    /// What the operator allows for all workspaces.
    pub limits: Limits,
    /// The policies that narrow or widen ownership; none by default.
    pub policies: Option<policy::PolicySettings>,
    /// Where decisions are recorded.
    pub audit: audit::AuditSettings,
    /// How people sign in with a browser; they cannot by default.
    pub sign_in: Option<SignInSettings>,
    /// How administrators reach the agent; they cannot by default.
    pub admin: Option<crate::admin::AdminSettings>,
    /// How tunnels are tracked and closed; without `[haproxy]` none is.
    pub tunnels: Option<TrackingSettings>,
    /// Where spans of decisions go; nowhere by default.
    pub traces: Option<crate::traces::TraceSettings>,
    /// Where metrics and health can be read besides the admin socket.
    pub metrics: Option<MetricsSettings>,
    /// The fingerprint of the file that it was read from; none for a text.
    pub fingerprint: Option<Fingerprint>,
    /// The name of the file that it was read from.
    pub file: String,
    /// The text that was read, and its language: a later text is compared with it.
    pub text: (String, Format),
}

/// Where metrics and health can be read besides the admin socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The address of the listener.
    pub listen: SocketAddr,
}

impl Config {
    /// Reads a configuration file. Paths in it are relative to its directory.
    ///
    /// # Errors
    /// That the file cannot be read, or every mistake in it.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Mistakes::whole(&name, format!("cannot read the configuration: {e}")))?;
        let format = Format::from_path(path).unwrap_or(Format::Toml);
        let directory = path.parent().unwrap_or(Path::new(""));
        let config = Self::parse(&name, &text, format, directory)?;
        let fingerprint = Some(Fingerprint::of_bytes(text.as_bytes()));
        Ok(Self { fingerprint, file: name, text: (text, format), ..config })
    }

    /// Reads the text of a configuration called `name`. Paths in it are relative to `directory`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(
        name: &str,
        text: &str,
        format: Format,
        directory: &Path,
    ) -> Result<Self, Mistakes> {
        read::<document::Document>(name, text, format, directory)
    }

    /// The configured names of the issuers and certificate rules.
    #[must_use]
    pub fn issuer_names(&self) -> BTreeSet<&str> {
        let issuers = self.issuers.iter().map(|issuer| &issuer.profile.authority);
        let all = issuers.chain(self.certificates.iter().map(|rule| &rule.authority));
        all.map(|authority| &*authority.name).collect()
    }

    /// The keys that differ from those of `other` and can only change with a restart: where the agent listens, where it
    /// stores what must outlive it, and how it reaches HAProxy.
    #[must_use]
    pub fn changes_that_need_restart(&self, other: &Self) -> Vec<String> {
        difference::needing_restart(&other.text.0, &self.text.0, self.text.1)
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
