//! A `[[source]]` table: a platform that knows workspaces. Its keys depend on its kind.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use toml_span::{Span, Spanned};

use super::{
    Platform, Source, SourceKind,
    kinds::{At, Choice, Form, Number, Parsed, Seconds, Words, words_of},
    section::{Report, Section, table},
    workspaces::ListFile,
};
use crate::{
    diagnostics::Word,
    identity::profile::{MatchBy, secure_url},
    sources::{
        coder, gitpod,
        http::ApiCredential,
        hub,
        issuer_key::IssuerKey,
        kubernetes::{self, Resource},
        ona,
    },
    workspaces::{
        Admission,
        destination::DestinationTemplate,
        host::Host,
        reconcile::core::ReconcileTiming,
        registry::{SourceRules, UndeclaredPorts},
        source::IdentityMapping,
    },
};

const FILE: &[&str] = &["file"];
const API: &[&str] = &["api"];
const HUB: &[&str] = &["jupyterhub"];
const CODER: &[&str] = &["coder"];
const GITPOD: &[&str] = &["gitpod"];
const KUBERNETES: &[&str] = &["kubernetes"];
const ONA: &[&str] = &["ona"];
/// Kinds with an API over HTTP.
const HTTP: &[&str] = &["jupyterhub", "coder", "gitpod", "ona"];
/// Kinds that say who is who.
const PLATFORMS: &[&str] = &["jupyterhub", "coder", "gitpod", "kubernetes", "ona"];

table! {
    /// A platform that knows workspaces: see docs/platforms/.
    SourceTable = "source", repeated;
    /// What `[[host]]`, logs and metrics call it.
    name: required Word, example("\"example\"");
    /// What it is.
    kind: required Choice<KindName>;
    /// No endpoint of it admits more.
    max_admission: default Choice<Admission> = SourceRules::default().max_admission;
    /// Whether owners reach ports that the platform does not list.
    undeclared_ports: default Choice<UndeclaredPorts> = SourceRules::default().undeclared_ports;
    /// Owners are let in so long after the platform last confirmed a workspace.
    stale_seconds: optional Seconds<1, 86_400>, note("300; jupyterhub: 60"), example("60");
    /// All others, never longer than owners.
    stale_open_seconds: default Seconds<1, 86_400> = SourceRules::default().stale_open_after;
    /// Where its API is.
    url: optional At<String>, of(HTTP), note("ona: `https://app.ona.com/api`"), example("\"https://platform.example.com\"");
    /// A file with a token, read again for every question; or `token_env`.
    token_file: optional PathBuf, of(HTTP), example("\"platform-token\"");
    /// A variable of the environment with a token.
    token_env: optional String, of(HTTP), example("\"PLATFORM_TOKEN\"");
    /// A private authority beside the system's, PEM.
    ca_file: optional PathBuf, of(HTTP), example("\"platform-ca.pem\"");
    /// The time between complete lists.
    resync_seconds: optional Seconds<1, 3600>, of(PLATFORMS), note("60; coder, gitpod: 5; jupyterhub: 30"), example("60");
    /// The issuer (or `[[certificate]]` rule) whose people it has, or several that vouch for the same people; required where several are configured.
    issuer: optional IssuerKey, of(PLATFORMS), example("\"example\"");
    /// The organization of its workspaces, as that issuer calls it.
    organization: optional Word, of(PLATFORMS), example("\"example\"");
    /// Where a workspace is, made from its id and port.
    destination: required DestinationTemplate, of(&["coder", "gitpod"]), example("\"http://{workspace}.internal:{port}\"");
    /// Where a workspace is, made from its id and port.
    other_destination as "destination": optional DestinationTemplate, of(&["kubernetes", "ona"]), example("\"http://{workspace}.internal:{port}\"");
    /// The list: `.yaml`, `.toml` or `.json`.
    file: required ListFile, of(FILE), example("\"more.yaml\"");
    /// How long a workspace may be held that is written through the API.
    lease_seconds: default Seconds<1, 86_400> = Duration::from_mins(5), of(API);
    /// The hub's own host.
    host: required Parsed<Host>, of(HUB), example("\"hub.example.com\"");
    /// Where the hub tells of its routes, `IP:PORT`.
    routes_listen: required Parsed<SocketAddr>, of(HUB), example("\"127.0.0.1:9013\"");
    /// A file with the token that the hub shows there; or `routes_token_env`.
    routes_token_file: optional PathBuf, of(HUB), example("\"routes-token\"");
    /// A variable of the environment with that token.
    routes_token_env: optional String, of(HUB), example("\"ROUTES_TOKEN\"");
    /// Who reaches the hub itself.
    hub_admission: default Choice<Admission> = Admission::Authenticated, of(HUB);
    /// Whether people with whom a workspace is shared reach it.
    shares: optional bool, of(&["jupyterhub", "ona"]), note("jupyterhub: true, ona: false");
    /// Whose ports have no name of their own.
    agent: default Word = "main".into(), of(CODER);
    /// Whether shared ports are admitted.
    port_shares: default bool = true, of(CODER);
    /// The organization whose workspaces are listed.
    organization_id: required Word, of(GITPOD), example("\"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\"");
    /// How old a running workspace may be.
    lookback_days: default Number<1, 365, i64> = 30, of(GITPOD);
    /// What the cluster's workspaces are.
    resource: required Choice<Resource>, of(KUBERNETES), example("\"devworkspace\"");
    /// The editor's port, with `resource = "gitpod"`.
    ide_port: default Number<1, 65_535, u16> = IDE_PORT, of(KUBERNETES);
    /// Only this namespace.
    namespace: optional Word, of(KUBERNETES), note("all"), example("\"workspaces\"");
    /// How the cluster is reached.
    kubeconfig: optional PathBuf, of(KUBERNETES), note("as a pod in it"), example("\"kubeconfig\"");
    /// What the owner in a record is.
    owner: default Choice<MatchBy> = MatchBy::Subject, of(KUBERNETES);
    /// Whether the organization's policies limit what is shared.
    policies: default bool = true, of(ONA);
}

const IDE_PORT: u16 = 23_000;

/// A source, before the issuers that it names are looked up.
pub(super) struct RawSource {
    pub(super) source: Source,
    issuer: Option<IssuerKey>,
    pub(super) span: Span,
}

impl RawSource {
    /// Joins the people of the source to the issuers that it names, where its records do not do so themselves.
    ///
    /// # Errors
    /// See [`IssuerKey::resolve`].
    pub(super) fn join(&mut self, issuers: &BTreeSet<&str>) -> Result<(), toml_span::Error> {
        if let Some(identity_mapping) = self.source.kind.identity_mapping_mut() {
            identity_mapping.issuers =
                IssuerKey::resolve(self.issuer.as_ref(), self.span, issuers)?;
        }
        Ok(())
    }
}

impl Section for SourceTable {
    type Value = RawSource;

    fn build(mut self, report: &mut Report) -> Option<RawSource> {
        let kind = self.kind?;
        let rules = self.rules(kind);
        let issuer = self.issuer.take();
        let name = self.name.take();
        let kind = match kind {
            KindName::File => SourceKind::File(self.file?),
            KindName::Api => SourceKind::Api(self.lease_seconds),
            KindName::Hub => self.hub(report)?,
            KindName::Coder => {
                let platform = self.platform(kind, report);
                let identity_mapping = self.identity_mapping();
                let Self { destination, agent, port_shares, .. } = self;
                let settings = coder::CoderSettings {
                    identity_mapping,
                    destination: destination?,
                    agent,
                    port_shares,
                };
                SourceKind::Coder(platform?, settings)
            }
            KindName::Gitpod => {
                let platform = self.platform(kind, report);
                let identity_mapping = self.identity_mapping();
                let (id, destination) = (self.organization_id?, self.destination?);
                let lookback_days = self.lookback_days;
                let settings =
                    gitpod::GitpodSettings { id, identity_mapping, destination, lookback_days };
                SourceKind::Gitpod(platform?, settings)
            }
            KindName::Kubernetes => self.kubernetes()?,
            KindName::Ona => {
                let platform = self.platform(kind, report);
                let settings = ona::OnaSettings {
                    identity_mapping: self.identity_mapping(),
                    destination: self.other_destination,
                    shares: self.shares.unwrap_or(false),
                    policies: self.policies,
                };
                SourceKind::Ona(platform?, settings)
            }
        };
        Some(RawSource { source: Source { name: name?, rules, kind }, issuer, span: report.span })
    }
}

impl SourceTable {
    fn rules(&self, kind: KindName) -> SourceRules {
        let usual = SourceRules::default();
        let stale_after = match kind {
            // A hub that ends leaves its routes behind, to ports that may soon belong to others.
            KindName::Hub => usual.stale_open_after,
            _ => usual.stale_after,
        };
        let stale_after = self.stale_seconds.unwrap_or(stale_after);
        let rules = SourceRules {
            max_admission: self.max_admission,
            undeclared_ports: self.undeclared_ports,
            stale_after,
            stale_open_after: self.stale_open_seconds.min(stale_after),
        };
        match kind {
            KindName::File | KindName::Api => rules.never_stale(),
            _ => rules,
        }
    }

    fn hub(mut self, report: &mut Report) -> Option<SourceKind> {
        let platform = self.platform(KindName::Hub, report);
        let token = credential(
            (self.routes_token_file.take(), "routes_token_file"),
            (self.routes_token_env.take(), "routes_token_env"),
            report,
        );
        let settings = hub::HubSettings {
            identity_mapping: self.identity_mapping(),
            host: self.host?,
            hub_admission: self.hub_admission,
            shares: self.shares.unwrap_or(true),
        };
        let listen = hub::server::RouteApiSettings { address: self.routes_listen?, token: token? };
        Some(SourceKind::Hub(platform?, settings, listen))
    }

    fn kubernetes(mut self) -> Option<SourceKind> {
        let resource = match self.resource? {
            Resource::Gitpod { .. } => Resource::Gitpod { ide_port: self.ide_port },
            Resource::DevWorkspace => Resource::DevWorkspace,
        };
        let timing = self.timing(KindName::Kubernetes);
        let settings = kubernetes::KubernetesSettings {
            resource,
            identity_mapping: self.identity_mapping(),
            namespace: self.namespace.map(String::from),
            kubeconfig: self.kubeconfig,
            owner: self.owner,
            destination: self.other_destination,
        };
        Some(SourceKind::Kubernetes(settings, timing))
    }

    /// Where a platform is and how it is asked.
    fn platform(&mut self, kind: KindName, report: &mut Report) -> Option<Platform> {
        let url = match (self.url.take(), kind.usual_url()) {
            (Some(Spanned { value, span }), _) => match secure_url(&value, true) {
                Ok(url) => Some(url),
                Err(error) => {
                    report.mistake_at(span, format!("{error}, found {value:?}"));
                    None
                }
            },
            (None, Some(usual)) => usual.parse().ok(),
            (None, None) => {
                report.mistake("the key 'url' is missing here: where the platform's API is");
                None
            }
        };
        let credential = credential(
            (self.token_file.take(), "token_file"),
            (self.token_env.take(), "token_env"),
            report,
        );
        let (authority, timing) = (self.ca_file.take(), self.timing(kind));
        Some(Platform { url: url?, credential: credential?, authority, timing })
    }

    fn timing(&self, kind: KindName) -> ReconcileTiming {
        let usual = ReconcileTiming::default();
        let resync = match kind {
            // Lists are all there is, or nearly.
            KindName::Coder | KindName::Gitpod => Duration::from_secs(5),
            // With whom servers are shared is told by nothing else.
            KindName::Hub => Duration::from_secs(30),
            _ => usual.list_interval,
        };
        ReconcileTiming { list_interval: self.resync_seconds.unwrap_or(resync), ..usual }
    }

    /// How people are joined to identities, without the issuers: [`RawSource::join`] looks these up.
    fn identity_mapping(&mut self) -> IdentityMapping {
        IdentityMapping { organization: self.organization.take(), ..IdentityMapping::default() }
    }
}

/// A token, which is in a file or in a variable of the environment.
fn credential(
    (file, in_file): (Option<PathBuf>, &str),
    (variable, in_variable): (Option<String>, &str),
    report: &mut Report,
) -> Option<ApiCredential> {
    match (file, variable) {
        (Some(file), None) => Some(ApiCredential::File(file)),
        (None, Some(name)) => Some(ApiCredential::Env(name)),
        _ => {
            report.mistake(format!("expected either '{in_file}' or '{in_variable}'"));
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
enum KindName {
    File,
    Api,
    #[strum(serialize = "jupyterhub")]
    Hub,
    Coder,
    Gitpod,
    Kubernetes,
    Ona,
}

impl KindName {
    /// The address of the platform's public service, where there is one.
    fn usual_url(self) -> Option<&'static str> {
        match self {
            Self::Ona => Some("https://app.ona.com/api"),
            _ => None,
        }
    }
}

words_of!(KindName);

impl Words for Resource {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("gitpod", Self::Gitpod { ide_port: IDE_PORT }), ("devworkspace", Self::DevWorkspace)]
    }
}

impl Form for DestinationTemplate {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        // The type's own function, of the same name.
        Self::parse(text).map_err(|error| error.to_string())
    }
}
