//! The tables `[[source]]`: the platforms and files that list workspaces.
//!
//! Which keys a source has depends on its `kind`; each key below names its kinds. The issuers that a source refers to are
//! looked up afterwards, when the whole document is read.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use toml_span::{Span, Spanned};

use super::{
    kinds::{At, Choice, Form, Number, Parsed, Seconds, Words, words_of},
    section::{Report, Section, table},
    workspaces::ListFile,
};
use crate::{
    diagnostics::Word,
    identity::profile::{MatchBy, secure_url},
    sources::{
        coder,
        cross_origin::CrossOriginKey,
        gitpod,
        http::ApiCredential,
        hub,
        issuer_key::IssuerKey,
        kubernetes::{self, Resource},
        ona,
        settings::{PlatformSettings, SourceKind, SourceSettings},
    },
    workspaces::{
        Admission, CorsAnswers,
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
/// The kinds that are called over HTTP.
const HTTP: &[&str] = &["jupyterhub", "coder", "gitpod", "ona"];
/// The kinds whose people are joined to identities by this table; lists and the API name issuers themselves.
const PLATFORMS: &[&str] = &["jupyterhub", "coder", "gitpod", "kubernetes", "ona"];

table! {
    /// A platform or file that lists workspaces: see docs/platforms/.
    SourceTable = "source", repeated;
    /// The name of the source in `[[host]]`, logs and metrics.
    name: required Word, example("\"example\"");
    /// The kind of source, which says which other keys it has.
    kind: required Choice<KindName>;
    /// The widest admission of its endpoints: a wider one in a record is lowered to this.
    max_admission: default Choice<Admission> = SourceRules::default().max_admission;
    /// Whether owners may reach ports that the platform does not list.
    undeclared_ports: default Choice<UndeclaredPorts> = SourceRules::default().undeclared_ports;
    /// Which pages of other origins may use its endpoints with the cookie or certificate of their visitor: none, those of the same workspace's other endpoints, or a list of origins, which may contain `same-workspace`.
    cross_origin: optional CrossOriginKey, note("`same-workspace`"), example("[\"same-workspace\", \"https://dashboard.example.com\"]");
    /// Who answers CORS to these pages, preflights included: the gate, or the workspace itself. Preflights then reach the workspace without a sign-in.
    cors_answers: default Choice<CorsAnswers> = CorsAnswers::default();
    /// How long owners and people with a grant are let in after the platform last confirmed a workspace.
    stale_seconds: optional Seconds<1, 86_400>, for_kinds(PLATFORMS), note("300; jupyterhub: 60"), example("300");
    /// How long people other than the owner and those with a grant are let in after the last confirmation; never longer than `stale_seconds`.
    stale_open_seconds: default Seconds<1, 86_400> = SourceRules::default().stale_open_after, for_kinds(PLATFORMS);
    /// The address of the platform's API.
    url: optional At<String>, for_kinds(HTTP), note("ona: `https://app.ona.com/api`"), example("\"https://platform.example.com\"");
    /// A file with a token for the API. It is read again for every call. Alternative to `token_env`.
    token_file: optional PathBuf, for_kinds(HTTP), example("\"platform-token\"");
    /// An environment variable with a token for the API.
    token_env: optional String, for_kinds(HTTP), example("\"PLATFORM_TOKEN\"");
    /// Certificates of a private authority, PEM; trusted in addition to those of the system.
    ca_file: optional PathBuf, for_kinds(HTTP), example("\"platform-ca.pem\"");
    /// The time between two complete lists of all workspaces.
    resync_seconds: optional Seconds<1, 3600>, for_kinds(PLATFORMS), note("60; coder, gitpod: 5; jupyterhub: 30"), example("60");
    /// The issuer or `[[certificate]]` rule whose identities the platform's people have, or a list of several. Required if several are configured.
    issuer: optional IssuerKey, for_kinds(PLATFORMS), example("\"example\"");
    /// The organization of its workspaces, by its name at that issuer.
    organization: optional Word, for_kinds(PLATFORMS), example("\"example\"");
    /// The destination of a workspace, made from its id and port.
    destination: required DestinationTemplate, for_kinds(&["coder", "gitpod"]), example("\"http://{workspace}.internal:{port}\"");
    /// The destination of a workspace, made from its id and port; by default the platform names it.
    other_destination as "destination": optional DestinationTemplate, for_kinds(&["kubernetes", "ona"]), example("\"http://{workspace}.internal:{port}\"");
    /// The list of workspaces: `.yaml`, `.toml` or `.json`.
    file: required ListFile, for_kinds(FILE), example("\"more.yaml\"");
    /// The maximum lease of a workspace that is written through the admin API.
    lease_seconds: default Seconds<1, 86_400> = Duration::from_mins(5), for_kinds(API);
    /// The host of the hub itself.
    host: required Parsed<Host>, for_kinds(HUB), example("\"hub.example.com\"");
    /// Where the agent listens for the hub's routes, `IP:PORT`.
    routes_listen: required Parsed<SocketAddr>, for_kinds(HUB), example("\"127.0.0.1:9013\"");
    /// A file with the token that the hub presents there. Alternative to `routes_token_env`.
    routes_token_file: optional PathBuf, for_kinds(HUB), example("\"routes-token\"");
    /// An environment variable with that token.
    routes_token_env: optional String, for_kinds(HUB), example("\"ROUTES_TOKEN\"");
    /// Who may reach the hub itself.
    hub_admission: default Choice<Admission> = Admission::Authenticated, for_kinds(HUB);
    /// Whether people with whom the platform shares a workspace may reach it.
    shares: optional bool, for_kinds(&["jupyterhub", "ona"]), note("jupyterhub: true, ona: false");
    /// The Coder agent of a workspace whose ports are served; those of its other agents are not.
    agent: default Word = "main".into(), for_kinds(CODER);
    /// Whether ports that are shared at the platform get the admission that they have there.
    port_shares: default bool = true, for_kinds(CODER);
    /// The id of the organization whose workspaces are listed.
    organization_id: required Word, for_kinds(GITPOD), example("\"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\"");
    /// The maximum age of a running workspace; older ones are not listed.
    lookback_days: default Number<1, 365, i64> = 30, for_kinds(GITPOD);
    /// The kind of objects that are the cluster's workspaces.
    resource: required Choice<Resource>, for_kinds(KUBERNETES), example("\"devworkspace\"");
    /// The editor's port, with `resource = "gitpod"`.
    ide_port: default Number<1, 65_535, u16> = IDE_PORT, for_kinds(KUBERNETES);
    /// Only objects in this namespace are listed.
    namespace: optional Word, for_kinds(KUBERNETES), note("all"), example("\"workspaces\"");
    /// A file that says how the cluster is reached.
    kubeconfig: optional PathBuf, for_kinds(KUBERNETES), note("as a pod of the cluster"), example("\"kubeconfig\"");
    /// Which field of an identity the owner in a record is compared with.
    owner: default Choice<MatchBy> = MatchBy::Subject, for_kinds(KUBERNETES);
    /// Whether the organization's policies limit what may be shared.
    policies: default bool = true, for_kinds(ONA);
}

/// The port of the editor in workspaces of Gitpod.
const IDE_PORT: u16 = 23_000;

/// A source whose issuers are not looked up yet.
pub(super) struct RawSource {
    pub(super) source: SourceSettings,
    issuer: Option<IssuerKey>,
    pub(super) span: Span,
}

impl RawSource {
    /// Looks up the issuers of its people; records of the other kinds name issuers themselves.
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
        Some(RawSource {
            source: SourceSettings { name: name?, rules, kind },
            issuer,
            span: report.span,
        })
    }
}

impl SourceTable {
    fn rules(&self, kind: KindName) -> SourceRules {
        let defaults = SourceRules::default();
        let stale_after = match kind {
            // Routes stay after a hub has ended, and lead to ports that other people may soon have.
            KindName::Hub => defaults.stale_open_after,
            _ => defaults.stale_after,
        };
        let stale_after = self.stale_seconds.unwrap_or(stale_after);
        let rules = SourceRules {
            max_admission: self.max_admission,
            undeclared_ports: self.undeclared_ports,
            stale_after,
            stale_open_after: self.stale_open_seconds.min(stale_after),
            cross_origin: self.cross_origin.clone().unwrap_or_default(),
            cors_answers: self.cors_answers,
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

    /// Where the platform's API is, and how it is called.
    fn platform(&mut self, kind: KindName, report: &mut Report) -> Option<PlatformSettings> {
        let url = match (self.url.take(), kind.default_url()) {
            (Some(Spanned { value, span }), _) => match secure_url(&value, true) {
                Ok(url) => Some(url),
                Err(error) => {
                    report.mistake_at(span, format!("{error}, found {value:?}"));
                    None
                }
            },
            (None, Some(default)) => default.parse().ok(),
            (None, None) => {
                report.mistake("the key 'url' is missing here: the address of the platform's API");
                None
            }
        };
        let credential = credential(
            (self.token_file.take(), "token_file"),
            (self.token_env.take(), "token_env"),
            report,
        );
        let (ca_file, timing) = (self.ca_file.take(), self.timing(kind));
        Some(PlatformSettings { url: url?, credential: credential?, ca_file, timing })
    }

    fn timing(&self, kind: KindName) -> ReconcileTiming {
        let defaults = ReconcileTiming::default();
        let resync = match kind {
            // These platforms report few changes or none, so lists must be frequent.
            KindName::Coder | KindName::Gitpod => Duration::from_secs(5),
            // The hub does not report when a server is shared: only lists show it.
            KindName::Hub => Duration::from_secs(30),
            _ => defaults.list_interval,
        };
        ReconcileTiming { list_interval: self.resync_seconds.unwrap_or(resync), ..defaults }
    }

    /// How the platform's people are joined to identities; [`RawSource::join`] adds the issuers.
    fn identity_mapping(&mut self) -> IdentityMapping {
        IdentityMapping { organization: self.organization.take(), ..IdentityMapping::default() }
    }
}

/// The token that is in a file or in an environment variable: exactly one of the two keys must be set.
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

/// The kinds of source, by their words in the configuration.
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
    /// The address of the platform's public service, if it has one.
    fn default_url(self) -> Option<&'static str> {
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
        // The type has a function of the same name, which is called here.
        Self::parse(text).map_err(|error| error.to_string())
    }
}
