//! Where workspaces come from: the tables `[workspaces]`, `[[source]]` and `[destinations]`.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use toml_span::{DeserError, Deserialize, Span, Spanned, Value, de_helpers::TableHelper};

use super::{Format, Platform, Source, SourceKind, issuer::RawMatch};
use crate::{
    authz::limits::{Framing, Limits},
    config::values::{Parsed, number, seconds},
    diagnostics::{Word, choice, mistake},
    identity::profile::{MatchBy, secure_url},
    sources::{
        coder, gitpod,
        http::Credential,
        hub,
        kubernetes::{self, Resource},
        ona,
        words::{Named, RawAdmission},
    },
    workspaces::{
        Admission,
        destination::{Backends, Ranges, Template},
        host::Host,
        reconcile::core::Timing,
        registry::{SourceRules, UndeclaredPorts},
        source::Joining,
    },
};

/// The name of the source that `[workspaces]` stands for.
pub(super) const FILE: &str = "file";

/// How long a workspace that is written through the API may be held, unless said.
const LEASE: Duration = Duration::from_mins(5);

/// What holds for all sources, and the list of workspaces if there is one.
pub(super) struct RawWorkspaces {
    pub(super) file: Option<Source>,
    pub(super) max_admission: Admission,
    framing: Framing,
}

impl Default for RawWorkspaces {
    fn default() -> Self {
        Self { file: None, max_admission: Admission::Public, framing: Framing::default() }
    }
}

impl RawWorkspaces {
    pub(super) fn policy(&self, ranges: Ranges) -> Limits {
        Limits { max_admission: self.max_admission, ranges, framing: self.framing }
    }
}

impl<'de> Deserialize<'de> for RawWorkspaces {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let file = table.optional::<ListFile>("file").map(|file| file.0);
        let undeclared = table.optional::<RawUndeclared>("undeclared_ports");
        let max_admission = table.optional::<RawAdmission>("max_admission");
        let framing = table.optional::<RawFraming>("framing").map(|framing| framing.0);
        table.finalize(None)?;
        let undeclared_ports = undeclared.map(|u| u.0).unwrap_or_default();
        let rules = SourceRules { undeclared_ports, ..SourceRules::default() };
        let file = file.map(|path| Source {
            name: FILE.into(),
            rules: rules.never_stale(),
            kind: SourceKind::File(path),
        });
        let max_admission = max_admission.map_or(Admission::Public, |a| a.0);
        Ok(Self { file, max_admission, framing: framing.unwrap_or_default() })
    }
}

/// A list of workspaces, by the name of its file.
struct ListFile(PathBuf);

impl<'de> Deserialize<'de> for ListFile {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if Format::of(text.as_ref().as_ref()).is_none() {
            let message = format!(
                "expected a file name that ends in .toml, .yaml, .yml or .json, found {text:?}"
            );
            return Err(mistake(value.span, message).into());
        }
        Ok(Self(text.into_owned().into()))
    }
}

struct RawUndeclared(UndeclaredPorts);

impl<'de> Deserialize<'de> for RawUndeclared {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("deny", UndeclaredPorts::Deny), ("owner", UndeclaredPorts::Owner)])
            .map(Self)
    }
}

struct RawFraming(Framing);

impl<'de> Deserialize<'de> for RawFraming {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let choices =
            [("workspace", Framing::Workspace), ("site", Framing::Site), ("any", Framing::Any)];
        choice(value, &choices).map(Self)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let mut nets = |key| -> Vec<IpNet> {
            let nets = table.optional::<Vec<Net>>(key).unwrap_or_default();
            nets.into_iter().map(|net| net.0).collect()
        };
        let (allow, only) = (nets("allow"), nets("only"));
        let names = table.optional::<Vec<Spanned<String>>>("backends").unwrap_or_default();
        let mut backends = Backends::default();
        for name in &names {
            if let Err(error) = Backends::parse([name.value.as_str()]) {
                table.errors.push(mistake(name.span, error.to_string()));
            }
        }
        if let Ok(read) = Backends::parse(names.iter().map(|name| name.value.as_str())) {
            backends = read;
        }
        table.finalize(None)?;
        Ok(Self::new(allow, only).with(backends))
    }
}

struct Net(IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let net = text.parse().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
        net.map(Self).map_err(|_| {
            let message =
                format!("expected an address or a range such as \"10.0.0.0/8\", found {text:?}");
            mistake(value.span, message).into()
        })
    }
}

/// A `[[source]]`, before the names in it are looked up.
pub(super) struct RawSource {
    pub(super) source: Source,
    /// The issuers that it names.
    issuer: Option<Named>,
    pub(super) span: Span,
}

impl RawSource {
    /// Joins the people of the source to the issuers that it names, where its records do not do so themselves.
    ///
    /// # Errors
    /// See [`Named::resolve`].
    pub(super) fn join(&mut self, issuers: &BTreeSet<&str>) -> Result<(), toml_span::Error> {
        if let Some(joining) = self.source.kind.joining_mut() {
            joining.issuers = Named::resolve(self.issuer.as_ref(), self.span, issuers)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum KindName {
    File,
    Api,
    Hub,
    Coder,
    Gitpod,
    Kubernetes,
    Ona,
}

impl KindName {
    /// Whether its people are named by a platform, and not by records that say whose they are.
    const fn is_platform(self) -> bool {
        !matches!(self, Self::File | Self::Api)
    }

    /// What the platform calls its public service, where there is one.
    fn usual_url(self) -> Option<&'static str> {
        match self {
            Self::Ona => Some("https://app.ona.com/api"),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for RawSource {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let name = table.required::<Word>("name");
        let kind = table.required::<RawKind>("kind").ok().map(|kind| kind.0);
        let rules = rules(&mut table, kind);
        let platform_has = kind.is_some_and(KindName::is_platform);
        let issuer = if platform_has { table.optional::<Named>("issuer") } else { None };
        let kind = kind.and_then(|kind| match kind {
            KindName::File => {
                table.required::<ListFile>("file").ok().map(|file| SourceKind::File(file.0))
            }
            KindName::Api => {
                let longest = seconds(&mut table, "lease_seconds", 1..=86_400, LEASE);
                Some(SourceKind::Api(longest))
            }
            KindName::Hub => {
                let platform = platform(&mut table, span, kind);
                let token = credential(&mut table, span, "routes_token_file", "routes_token_env");
                let address = table.required::<Parsed<SocketAddr>>("routes_listen").ok();
                let host = table.required::<Parsed<Host>>("host").ok();
                let settings = host.map(|host| hub::Settings {
                    host: host.0,
                    joining: joining(&mut table),
                    hub_admission: table
                        .optional::<RawAdmission>("hub_admission")
                        .map_or(Admission::Authenticated, |a| a.0),
                    shares: table.optional("shares").unwrap_or(true),
                });
                let listen = address
                    .zip(token)
                    .map(|(address, token)| hub::server::Listen { address: address.0, token });
                Some(SourceKind::Hub(platform?, settings?, listen?))
            }
            KindName::Coder => {
                let platform = platform(&mut table, span, kind);
                let destination = table.required::<RawTemplate>("destination").ok();
                let joining = joining(&mut table);
                let agent = word(&mut table, "agent").unwrap_or_else(|| "main".into());
                let port_shares = table.optional("port_shares").unwrap_or(true);
                let destination = destination?.0;
                let settings = coder::Settings { joining, destination, agent, port_shares };
                Some(SourceKind::Coder(platform?, settings))
            }
            KindName::Gitpod => {
                let platform = platform(&mut table, span, kind);
                let id = table.required::<Word>("organization_id").ok();
                let destination = table.required::<RawTemplate>("destination").ok();
                let joining = joining(&mut table);
                let days = number(&mut table, "lookback_days", 1..=365).unwrap_or(30);
                let lookback_days = i64::try_from(days).unwrap_or(365);
                let (id, destination) = (id?.0, destination?.0);
                let settings = gitpod::Settings { id, joining, destination, lookback_days };
                Some(SourceKind::Gitpod(platform?, settings))
            }
            KindName::Kubernetes => kubernetes(&mut table),
            KindName::Ona => {
                let platform = platform(&mut table, span, kind);
                let settings = ona::Settings {
                    joining: joining(&mut table),
                    destination: table.optional::<RawTemplate>("destination").map(|t| t.0),
                    shares: table.optional("shares").unwrap_or(false),
                    policies: table.optional("policies").unwrap_or(true),
                };
                platform.map(|platform| SourceKind::Ona(platform, settings))
            }
        });
        table.finalize(None)?;
        let kind = kind.ok_or_else(|| mistake(span, "a source that cannot be read"))?;
        let rules = match kind {
            SourceKind::File(_) | SourceKind::Api(_) => rules.never_stale(),
            _ => rules,
        };
        Ok(Self { source: Source { name: name?.0, rules, kind }, issuer, span })
    }
}

fn rules(table: &mut TableHelper<'_>, kind: Option<KindName>) -> SourceRules {
    let mut usual = SourceRules::default();
    if matches!(kind, Some(KindName::Hub)) {
        // A hub that ends leaves its routes behind, to ports that may soon be somebody else's.
        usual.stale_after = usual.stale_open_after;
    }
    let stale_after = seconds(table, "stale_seconds", 1..=86_400, usual.stale_after);
    let open = usual.stale_open_after.min(stale_after);
    let stale_open_after = seconds(table, "stale_open_seconds", 1..=86_400, open).min(stale_after);
    SourceRules {
        max_admission: table
            .optional::<RawAdmission>("max_admission")
            .map_or(usual.max_admission, |a| a.0),
        undeclared_ports: table
            .optional::<RawUndeclared>("undeclared_ports")
            .map_or(usual.undeclared_ports, |u| u.0),
        stale_after,
        stale_open_after,
    }
}

fn kubernetes(table: &mut TableHelper<'_>) -> Option<SourceKind> {
    let resource = table.required::<RawResource>("resource").ok().map(|resource| resource.0);
    let ide_port = number(table, "ide_port", 1..=65_535).and_then(|port| u16::try_from(port).ok());
    let resource = match (resource, ide_port) {
        (Some(Resource::Gitpod { .. }), Some(ide_port)) => Some(Resource::Gitpod { ide_port }),
        (resource, _) => resource,
    };
    let settings = kubernetes::Settings {
        resource: resource.unwrap_or(Resource::DevWorkspace),
        namespace: word(table, "namespace").map(String::from),
        kubeconfig: table.optional::<String>("kubeconfig").map(PathBuf::from),
        owner: table.optional::<RawMatch>("owner").map_or(MatchBy::Subject, |owner| owner.0),
        joining: joining(table),
        destination: table.optional::<RawTemplate>("destination").map(|t| t.0),
    };
    let timing = timing(table, Timing::default().resync);
    resource.map(|_| SourceKind::Kubernetes(settings, timing))
}

fn timing(table: &mut TableHelper<'_>, usual: Duration) -> Timing {
    let resync = seconds(table, "resync_seconds", 1..=3600, usual);
    Timing { resync, ..Timing::default() }
}

/// Where a platform is and how it is asked.
fn platform(table: &mut TableHelper<'_>, span: Span, kind: KindName) -> Option<Platform> {
    let url = match table.optional_s::<String>("url") {
        Some(url) => secure_url(&url.value, true)
            .map_err(|error| mistake(url.span, format!("{error}, found {:?}", url.value))),
        None => kind.usual_url().and_then(|url| url.parse().ok()).ok_or_else(|| {
            mistake(span, "the key 'url' is missing here: where the platform's API is")
        }),
    };
    let url = url.map_err(|error| table.errors.push(error)).ok();
    let credential = credential(table, span, "token_file", "token_env");
    let authority = table.optional::<String>("ca_file").map(PathBuf::from);
    let usual = match kind {
        // Lists are all there is, or nearly.
        KindName::Coder | KindName::Gitpod => Duration::from_secs(5),
        // With whom servers are shared is told by nothing else.
        KindName::Hub => Duration::from_secs(30),
        _ => Timing::default().resync,
    };
    let timing = timing(table, usual);
    Some(Platform { url: url?, credential: credential?, authority, timing })
}

/// A token, which is in a file or in a variable of the environment.
fn credential(
    table: &mut TableHelper<'_>,
    span: Span,
    in_file: &'static str,
    in_variable: &'static str,
) -> Option<Credential> {
    let file = table.optional::<String>(in_file);
    let variable = table.optional::<String>(in_variable);
    match (file, variable) {
        (Some(file), None) => Some(Credential::File(file.into())),
        (None, Some(name)) => Some(Credential::Env(name)),
        _ => {
            let message = format!("expected either '{in_file}' or '{in_variable}'");
            table.errors.push(mistake(span, message));
            None
        }
    }
}

/// How people are joined to identities, without the issuers: [`RawSource::join`] looks these up.
fn joining(table: &mut TableHelper<'_>) -> Joining {
    Joining { organization: word(table, "organization"), ..Joining::default() }
}

fn word(table: &mut TableHelper<'_>, key: &'static str) -> Option<Box<str>> {
    table.optional::<Word>(key).map(|word| word.0)
}

struct RawKind(KindName);

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(
            value,
            &[
                ("file", KindName::File),
                ("api", KindName::Api),
                ("jupyterhub", KindName::Hub),
                ("coder", KindName::Coder),
                ("gitpod", KindName::Gitpod),
                ("kubernetes", KindName::Kubernetes),
                ("ona", KindName::Ona),
            ],
        )
        .map(Self)
    }
}

struct RawResource(Resource);

impl<'de> Deserialize<'de> for RawResource {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let gitpod = Resource::Gitpod { ide_port: 23_000 };
        choice(value, &[("gitpod", gitpod), ("devworkspace", Resource::DevWorkspace)]).map(Self)
    }
}

struct RawTemplate(Template);

impl<'de> Deserialize<'de> for RawTemplate {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        Template::parse(&text)
            .map(Self)
            .map_err(|error| mistake(value.span, error.to_string()).into())
    }
}
