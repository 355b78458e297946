//! The configuration file: what was typed. Each table refuses keys it does not know.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
    time::Duration,
};

use toml_span::{DeserError, Deserialize, Span, Spanned, Value, de_helpers::TableHelper};

use super::{
    Config, Haproxy, Metrics, Shared, SignIn, Source, SourceKind, Tunnels,
    certificate::RawCertificate,
    issuer::RawIssuer,
    source::{RawSource, RawWorkspaces},
};
use crate::{
    admin::AdminSettings,
    agent::{AgentSettings, Listen},
    audit,
    authz::policy::PolicySettings,
    config::values::{Parsed, number, small},
    diagnostics::{Format, choice, mistake},
    identity::credential::Sources,
    unix_socket::SocketOwner,
    workspaces::{
        destination::{BackendName, Ranges},
        pattern::{HostPatterns, PatternError, PatternSpec, Preset},
        source::SourceId,
    },
};

impl<'de> Deserialize<'de> for Config {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let value_span = value.span;
        let mut table = TableHelper::new(value)?;
        let agent = table.required::<AgentSettings>("agent");
        let issuers = table.required_s::<Vec<RawIssuer>>("issuer");
        let credentials = table.optional::<Sources>("credentials");
        let certificates = table.optional::<Vec<RawCertificate>>("certificate").unwrap_or_default();
        let mut hosts = table.required_s::<Vec<RawHost>>("host");
        let workspaces = table.optional::<RawWorkspaces>("workspaces").unwrap_or_default();
        let mut listed = table.optional::<Vec<RawSource>>("source").unwrap_or_default();
        let ranges = table.optional::<Ranges>("destinations").unwrap_or_default();
        let policies = table.optional_s::<PolicySettings>("policy");
        let audit = table.optional::<audit::Settings>("audit").unwrap_or_default();
        let admin = table.optional::<AdminSettings>("admin");
        let metrics = table.optional::<Metrics>("metrics");
        let traces = table.optional("traces");
        let sign_in = table.optional::<SignIn>("sign_in");
        let shared = table.optional_s::<Shared>("shared");
        let haproxy = table.optional::<Haproxy>("haproxy");
        let tunnels = table.optional_s::<Tunnels>("tunnels");
        if agent.as_ref().is_ok_and(|agent| agent.reuse.is_some())
            && credentials.as_ref().is_some_and(|from| from.query.is_some() || from.subprotocol)
        {
            let message = "'reuse_ms' of [agent] does not go with 'query' or 'subprotocol' of [credentials]: HAProxy does not compare tokens there";
            table.errors.push(mistake(value_span, message));
        }
        if let (None, Some(tunnels)) = (&haproxy, &tunnels) {
            let message = "[tunnels] needs [haproxy] with 'sockets': without them no tunnel is tracked or cut";
            table.errors.push(mistake(tunnels.span, message));
        }
        for (empty, span, what) in [
            issuers.as_ref().map(|i| (i.value.is_empty(), i.span, "issuer")),
            hosts.as_ref().map(|h| (h.value.is_empty(), h.span, "host")),
        ]
        .into_iter()
        .flatten()
        {
            if empty {
                table.errors.push(mistake(span, format!("expected at least one [[{what}]]")));
            }
        }
        let file = workspaces.file.as_ref();
        let no_hosts = &mut [][..];
        let raw_hosts = hosts.as_mut().map_or(no_hosts, |hosts| &mut hosts.value);
        let found = check_sources(file, &listed, raw_hosts, admin.is_some(), value_span);
        if table.errors.is_empty() || !listed.is_empty() {
            table.errors.extend(found);
        }
        table.errors.extend(listed.iter().filter_map(|raw| check_backend(raw, &ranges)));
        if let Ok(issuers) = &issuers {
            table.errors.extend(check_issuers(&issuers.value, &certificates));
            let names = names(&issuers.value, &certificates);
            let joined = listed.iter_mut().map(|source| source.join(&names));
            table.errors.extend(joined.filter_map(Result::err));
        }
        if let (Some(policies), Ok(issuers)) = (&policies, &issuers) {
            let names = names(&issuers.value, &certificates);
            if let Some(name) = names.into_iter().find(|name| name.contains('/')) {
                let message = format!(
                    "policies call people \"ISSUER/SUBJECT\", so with [policy] the name {name:?} must have no '/'"
                );
                table.errors.push(mistake(policies.span, message));
            }
        }
        if sign_in.is_some()
            && issuers.as_ref().is_ok_and(|i| i.value.iter().all(|i| i.issuer.client.is_none()))
        {
            let message =
                "[sign_in] needs an issuer with a table [issuer.sign_in], at which people sign in";
            table.errors.push(mistake(value_span, message));
        }
        table
            .errors
            .extend(shared.as_ref().and_then(|shared| check_shared(shared, sign_in.as_ref())));
        table.finalize(None)?;
        let policy = workspaces.policy(ranges);
        let listed = listed.into_iter().map(|raw| raw.source);
        let sources: Vec<_> = workspaces.file.into_iter().chain(listed).collect();
        Ok(Self {
            agent: agent?,
            issuers: issuers?.value.into_iter().map(|raw| raw.issuer).collect(),
            credentials,
            certificates: certificates.into_iter().map(|raw| raw.rule).collect(),
            hosts: hosts?.value.into_iter().map(|raw| raw.spec).collect(),
            sources,
            policy,
            policies: policies.map(|policies| policies.value),
            audit,
            sign_in,
            shared: shared.map(|shared| shared.value),
            admin,
            haproxy,
            tunnels: tunnels.map(|tunnels| tunnels.value).unwrap_or_default(),
            metrics,
            traces,
            fingerprint: None,
            text: (String::new(), Format::Toml),
        })
    }
}

/// What is wrong with the backends to which a source's template leads.
fn check_backend(raw: &RawSource, ranges: &Ranges) -> Option<toml_span::Error> {
    let checked = match raw.source.kind.template()?.backend()? {
        BackendName::Whole(name) => ranges.backends.check(name),
        BackendName::Prefix(prefix) => ranges.backends.check_prefix(prefix),
    };
    checked.err().map(|error| mistake(raw.span, error.to_string()))
}

/// What is wrong with the store of several agents beside the way people sign in.
fn check_shared(shared: &Spanned<Shared>, sign_in: Option<&SignIn>) -> Option<toml_span::Error> {
    let message = match sign_in {
        None => "[shared] needs the table [sign_in], whose 'keys_file' seals what is shared",
        Some(sign_in) if sign_in.sessions.is_some() => {
            "sessions are either in the 'sessions_file' of [sign_in] or in the store of [shared]"
        }
        Some(_) => return None,
    };
    Some(mistake(shared.span, message))
}

/// The configured names of the issuers and certificate rules.
fn names<'r>(issuers: &'r [RawIssuer], certificates: &'r [RawCertificate]) -> BTreeSet<&'r str> {
    let of_issuers = issuers.iter().map(|raw| &raw.issuer.profile.authority);
    let all = of_issuers.chain(certificates.iter().map(|raw| &raw.rule.authority));
    all.map(|authority| &*authority.name).collect()
}

/// What is wrong with the issuers together, and with certificate rules beside them.
fn check_issuers(issuers: &[RawIssuer], certificates: &[RawCertificate]) -> Vec<toml_span::Error> {
    let named = |i: &RawIssuer| vec![i.issuer.profile.authority.name.to_string()];
    let mut errors: Vec<_> = repeated(issuers, "name", named).collect();
    for raw in certificates {
        let name = &raw.rule.authority.name;
        let issuers = issuers.iter().filter(|i| named(i).contains(&name.to_string()));
        let same = certificates.iter().filter(|c| c.rule.authority.name == *name);
        if issuers.count() + same.count() > 1 {
            let message = format!("the name {name:?} is used more than once");
            errors.push(mistake(raw.span, message));
        }
    }
    let asked = |raw: &&RawIssuer| raw.issuer.introspection.is_some();
    for raw in issuers.iter().filter(asked).skip(1) {
        errors.push(mistake(
            raw.span,
            "another issuer has 'introspection' already: an opaque token does not tell whose it is, so only one can be asked",
        ));
    }
    let accepted =
        |i: &RawIssuer| i.issuer.profile.accepted.iter().map(|a| a.iss.to_string()).collect();
    errors.extend(repeated(issuers, "issuer identifier", accepted));
    errors
}

/// What is wrong with the sources together, and with hosts that name one; hosts get its number.
fn check_sources(
    file: Option<&Source>,
    listed: &[RawSource],
    hosts: &mut [RawHost],
    has_admin: bool,
    span: Span,
) -> Vec<toml_span::Error> {
    let mut errors = Vec::new();
    if file.is_none() && listed.is_empty() {
        let message = "no workspaces: expected [workspaces] with 'file', or a [[source]]";
        errors.push(mistake(span, message));
    }
    let is_api = |raw: &&RawSource| matches!(raw.source.kind, SourceKind::Api(_));
    if let Some(raw) = listed.iter().find(is_api).filter(|_| !has_admin) {
        let message =
            "a source of kind \"api\" needs the table [admin]: it is written through that socket";
        errors.push(mistake(raw.span, message));
    }
    let mut names: Vec<&str> = file.iter().map(|file| &*file.name).collect();
    for raw in listed {
        let name = &*raw.source.name;
        if names.contains(&name) {
            let message = format!("the name {name:?} is used by another source already");
            errors.push(mistake(raw.span, message));
        }
        names.push(name);
    }
    for host in hosts {
        let Some(wanted) = &host.source else { continue };
        host.spec.source = names.iter().position(|name| *name == wanted.value).map(SourceId::new);
        if host.spec.source.is_none() {
            let names = names.join(", ");
            let message = format!("there is no source {:?}: expected one of {names}", wanted.value);
            errors.push(mistake(wanted.span, message));
        }
    }
    errors
}

fn repeated<'i>(
    issuers: &'i [RawIssuer],
    what: &'static str,
    keys: impl Fn(&RawIssuer) -> Vec<String> + 'i,
) -> impl Iterator<Item = toml_span::Error> + 'i {
    let mut seen = HashSet::new();
    issuers.iter().filter_map(move |issuer| {
        let again = keys(issuer).into_iter().find(|key| !seen.insert(key.clone()))?;
        let message = format!("the {what} {again:?} is used by another [[issuer]] already");
        Some(mistake(issuer.span, message))
    })
}

impl<'de> Deserialize<'de> for AgentSettings {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let listen = table.required_s::<Vec<Parsed<Listen>>>("listen");
        if let Ok(listen) = &listen
            && listen.value.is_empty()
        {
            table.errors.push(mistake(listen.span, "expected at least one address"));
        }
        let socket_mode = table.optional::<Mode>("socket_mode").map_or(0o660, |mode| mode.0);
        let socket_owner = table.optional::<SocketOwner>("socket_owner").unwrap_or_default();
        let resource_metadata = table.optional::<bool>("resource_metadata").unwrap_or(false);
        let workers = number(&mut table, "workers", 1..=1024);
        let answer_within = number(&mut table, "answer_within_ms", 10..=10_000);
        let reuse = number(&mut table, "reuse_ms", 0..=60_000).filter(|millis| *millis > 0);
        let connections = number(&mut table, "connections", 1..=100_000);
        let waiting = number(&mut table, "waiting", 0..=1_000_000);
        let tokens = number(&mut table, "tokens", 0..=10_000_000);
        let follow_file = table.optional::<bool>("follow_file").unwrap_or(true);
        table.finalize(None)?;
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            listen: listen?.value.into_iter().map(|listen| listen.0).collect(),
            socket_mode,
            socket_owner,
            resource_metadata,
            workers: workers.map_or_else(cores, small),
            answer_within: Duration::from_millis(answer_within.unwrap_or(300)),
            reuse: reuse.map(Duration::from_millis),
            connections: connections.map_or(1024, small),
            waiting: waiting.map_or(1024, small),
            tokens: tokens.unwrap_or(100_000),
            follow_file,
        })
    }
}

struct RawHost {
    spec: PatternSpec,
    source: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for RawHost {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let preset = table.optional::<RawPreset>("preset");
        let domain = table.optional_s::<String>("domain");
        let agent = table.optional::<String>("agent");
        let pattern = table.optional_s::<String>("pattern");
        let id = table.optional_s::<String>("id");
        let source = table.optional_s::<String>("source");
        let id_span = id.as_ref().map(|id| id.span);
        let spec = match (preset, pattern) {
            (Some(preset), None) if id.is_none() => match domain {
                Some(domain) if is_domain(&domain.value) => {
                    let agent = agent.as_deref().unwrap_or("main");
                    Some((preset.0.spec(&domain.value, agent), domain.span))
                }
                Some(domain) => {
                    let message = format!(
                        "expected a domain in lower case such as \"gitpod.example.com\", found {:?}",
                        domain.value
                    );
                    table.errors.push(mistake(domain.span, message));
                    None
                }
                None => {
                    table.errors.push(mistake(span, "a 'preset' needs the 'domain' of the hosts"));
                    None
                }
            },
            (None, Some(pattern)) if domain.is_none() && agent.is_none() => {
                let id = id.map_or_else(|| "{workspace}".to_owned(), |id| id.value);
                Some((PatternSpec { regex: pattern.value, id, source: None }, pattern.span))
            }
            _ if !table.errors.is_empty() => None,
            _ => {
                table.errors.push(mistake(
                    span,
                    "a [[host]] has either 'preset' with 'domain' (and 'agent'), or 'pattern' (and 'id')",
                ));
                None
            }
        };
        if let Some((spec, span)) = &spec
            && let Err(errors) = HostPatterns::new(std::slice::from_ref(spec))
        {
            for (_, error) in errors {
                let at = match error {
                    PatternError::Template(_) => id_span.unwrap_or(*span),
                    _ => *span,
                };
                table.errors.push(mistake(at, error.to_string()));
            }
        }
        table.finalize(None)?;
        spec.map(|(spec, _)| Self { spec, source })
            .ok_or_else(|| mistake(span, "expected 'preset' or 'pattern'").into())
    }
}

fn is_domain(text: &str) -> bool {
    crate::workspaces::host::Host::parse(text.as_bytes()).is_ok_and(|host| host.as_str() == text)
}

struct RawPreset(Preset);

impl<'de> Deserialize<'de> for RawPreset {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let presets = [("gitpod", Preset::Gitpod), ("ona", Preset::Ona), ("coder", Preset::Coder)];
        choice(value, &presets).map(Self)
    }
}

impl<'de> Deserialize<'de> for Sources {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let cookie = table.optional::<Token>("cookie").map(|name| name.0);
        let query = table.optional::<Token>("query").map(|name| name.0);
        let subprotocol = table.optional::<bool>("subprotocol").unwrap_or(false);
        table.finalize(None)?;
        Ok(Self { cookie, query, subprotocol })
    }
}

/// The name of a cookie or parameter, of characters that need no escaping in either.
struct Token(Box<str>);

impl<'de> Deserialize<'de> for Token {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || !text.bytes().all(plain) {
            let message =
                format!("expected a name of letters, digits, '-', '_' and '.', found {text:?}");
            return Err(mistake(value.span, message).into());
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let listen = table.required::<Parsed<std::net::SocketAddr>>("listen");
        table.finalize(None)?;
        Ok(Self { listen: listen?.0 })
    }
}

impl<'de> Deserialize<'de> for AdminSettings {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let socket = table.required::<String>("socket").map(PathBuf::from);
        let socket_mode = table.optional::<Mode>("socket_mode").map_or(0o600, |mode| mode.0);
        let socket_owner = table.optional::<SocketOwner>("socket_owner").unwrap_or_default();
        let revocations = table.required::<String>("revocations").map(PathBuf::from);
        table.finalize(None)?;
        Ok(Self { socket: socket?, socket_mode, socket_owner, revocations: revocations? })
    }
}

/// A file mode, written in octal as text: `"0660"`.
struct Mode(u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(mistake(
                value.span,
                format!("expected a file mode in octal such as \"0660\", found {text:?}"),
            )
            .into()),
        }
    }
}

impl<'de> Deserialize<'de> for SocketOwner {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let unknown = |what, name| {
            let message = format!(
                "no {what} {name:?} on this machine: expected \"USER\", \"USER:GROUP\" or \":GROUP\""
            );
            mistake(value.span, message)
        };
        let (user, group) = text.split_once(':').unwrap_or((&text, ""));
        let user = match user {
            "" if !group.is_empty() => None,
            name => match nix::unistd::User::from_name(name) {
                Ok(Some(user)) => Some(user.uid.as_raw()),
                _ => return Err(unknown("user", name).into()),
            },
        };
        let group = match group {
            "" => None,
            name => match nix::unistd::Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                _ => return Err(unknown("group", name).into()),
            },
        };
        Ok(Self { user, group })
    }
}
