//! The configuration file: what was typed. Each table refuses keys it does not know.

use std::{
    collections::HashSet, ops::RangeInclusive, path::PathBuf, str::FromStr, sync::Arc,
    time::Duration,
};

use jsonwebtoken::Algorithm;
use toml_span::{DeserError, Deserialize, Span, Value, de_helpers::TableHelper, value::ValueInner};

use super::{
    Agent, Audit, Config, Issuer, Listen, Owner,
    document::{choice, mistake, parsed},
};
use crate::{
    decision::{Policy, UndeclaredPorts},
    identity::{
        profile::{ALGORITHMS, ClaimPath, ClaimPaths, IssuerUrl, MatchBy, Profile, secure_url},
        provider::Schedule,
    },
    workspace::pattern::{HostPatterns, PatternError, PatternSpec, Preset},
};

impl<'de> Deserialize<'de> for Config {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let agent = table.required::<Agent>("agent");
        let issuers = table.required_s::<Vec<RawIssuer>>("issuer");
        let hosts = table.required_s::<Vec<RawHost>>("host");
        let workspaces = table.required::<RawWorkspaces>("workspaces");
        let audit = table.optional::<Audit>("audit").unwrap_or_default();
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
        if let Ok(issuers) = &issuers {
            let named = |i: &RawIssuer| i.issuer.profile.name.to_string();
            let identified = |i: &RawIssuer| i.issuer.profile.issuer.as_str().to_owned();
            table.errors.extend(repeated(&issuers.value, "name", named));
            table.errors.extend(repeated(&issuers.value, "issuer identifier", identified));
        }
        table.finalize(None)?;
        let workspaces = workspaces?;
        Ok(Self {
            agent: agent?,
            issuers: issuers?.value.into_iter().map(|raw| raw.issuer).collect(),
            hosts: hosts?.value.into_iter().map(|raw| raw.0).collect(),
            workspaces: workspaces.file,
            policy: workspaces.policy,
            audit,
        })
    }
}

fn repeated<'i>(
    issuers: &'i [RawIssuer],
    what: &'static str,
    key: impl Fn(&RawIssuer) -> String + 'i,
) -> impl Iterator<Item = toml_span::Error> + 'i {
    let mut seen = HashSet::new();
    issuers.iter().filter_map(move |issuer| {
        let key = key(issuer);
        let message = format!("the {what} {key:?} is used by another [[issuer]] already");
        (!seen.insert(key)).then(|| mistake(issuer.span, message))
    })
}

impl<'de> Deserialize<'de> for Agent {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let listen = table.required_s::<Vec<Parsed<Listen>>>("listen");
        if let Ok(listen) = &listen
            && listen.value.is_empty()
        {
            table.errors.push(mistake(listen.span, "expected at least one address"));
        }
        let socket_mode = table.optional::<Mode>("socket_mode").map_or(0o660, |mode| mode.0);
        let socket_owner = table.optional::<Owner>("socket_owner").unwrap_or_default();
        let workers = number(&mut table, "workers", 1..=1024);
        let answer_within = number(&mut table, "answer_within_ms", 10..=10_000);
        let connections = number(&mut table, "connections", 1..=100_000);
        let waiting = number(&mut table, "waiting", 0..=1_000_000);
        let tokens = number(&mut table, "tokens", 0..=10_000_000);
        table.finalize(None)?;
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            listen: listen?.value.into_iter().map(|listen| listen.0).collect(),
            socket_mode,
            socket_owner,
            workers: workers.map_or_else(cores, small),
            answer_within: Duration::from_millis(answer_within.unwrap_or(300)),
            connections: connections.map_or(1024, small),
            waiting: waiting.map_or(1024, small),
            tokens: tokens.unwrap_or(100_000),
        })
    }
}

struct RawIssuer {
    issuer: Issuer,
    span: Span,
}

impl<'de> Deserialize<'de> for RawIssuer {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let name = table.required::<Word>("name");
        let issuer = table.required::<Parsed<IssuerUrl>>("issuer");
        let audience = table.required::<Audience>("audience");
        let algorithms = table.optional::<Vec<RawAlgorithm>>("algorithms");
        let matching = table.optional::<Vec<RawMatch>>("match");
        let organization = table.optional::<Word>("organization");
        let claims = table.optional::<ClaimPaths>("claims");
        let leeway = number(&mut table, "leeway_seconds", 0..=60);
        let jwks_uri = table.optional_s::<String>("jwks_uri");
        let authority = table.optional::<String>("ca_file").map(PathBuf::from);
        let defaults = Schedule::default();
        let schedule = Schedule {
            refresh: seconds(&mut table, "refresh_seconds", 60..=86_400, defaults.refresh),
            unknown_key: seconds(&mut table, "unknown_key_seconds", 1..=3600, defaults.unknown_key),
            max_stale: seconds(&mut table, "max_stale_seconds", 60..=604_800, defaults.max_stale),
        };
        let plain = issuer.as_ref().is_ok_and(|issuer| issuer.0.is_plain());
        let jwks_uri = jwks_uri.and_then(|text| match secure_url(&text.value, plain) {
            Ok(url) => Some(url),
            Err(error) => {
                table.errors.push(mistake(text.span, format!("{error}, found {:?}", text.value)));
                None
            }
        });
        if organization.is_some() && claims.as_ref().is_some_and(|c| c.organization.is_some()) {
            table.errors.push(mistake(
                span,
                "set either 'organization', the same for everybody, or 'claims.organization'",
            ));
        }
        table.finalize(None)?;
        let profile = Profile {
            name: name?.0,
            issuer: issuer?.0,
            audience: audience?.0,
            algorithms: algorithms.map_or_else(
                || ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
                |names| names.into_iter().map(|name| name.0).collect(),
            ),
            leeway: Duration::from_secs(leeway.unwrap_or(30)),
            matching: matching.map_or_else(
                || vec![MatchBy::Subject],
                |rules| rules.into_iter().map(|rule| rule.0).collect(),
            ),
            claims: claims.unwrap_or_default(),
            organization: organization.map(|o| o.0),
        };
        let issuer = Issuer { profile: Arc::new(profile), jwks_uri, authority, schedule };
        Ok(Self { issuer, span })
    }
}

impl Default for ClaimPaths {
    fn default() -> Self {
        Self {
            email: ClaimPath::named("email"),
            username: ClaimPath::named("preferred_username"),
            groups: ClaimPath::named("groups"),
            organization: None,
        }
    }
}

impl<'de> Deserialize<'de> for ClaimPaths {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let defaults = Self::default();
        let mut table = TableHelper::new(value)?;
        let mut path = |key| table.optional::<RawPath>(key).map(|path| path.0);
        let paths = Self {
            email: path("email").unwrap_or(defaults.email),
            username: path("username").unwrap_or(defaults.username),
            groups: path("groups").unwrap_or(defaults.groups),
            organization: path("organization"),
        };
        table.finalize(None)?;
        Ok(paths)
    }
}

struct RawPath(ClaimPath);

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let path = ClaimPath::new(&text)
            .ok_or_else(|| mistake(value.span, "expected a claim's name or \"/a/json/pointer\""))?;
        Ok(Self(path))
    }
}

struct RawHost(PatternSpec);

impl<'de> Deserialize<'de> for RawHost {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let preset = table.optional::<RawPreset>("preset");
        let domain = table.optional_s::<String>("domain");
        let agent = table.optional::<String>("agent");
        let pattern = table.optional_s::<String>("pattern");
        let id = table.optional_s::<String>("id");
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
                Some((PatternSpec { regex: pattern.value, id }, pattern.span))
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
        spec.map(|(spec, _)| Self(spec))
            .ok_or_else(|| mistake(span, "expected 'preset' or 'pattern'").into())
    }
}

fn is_domain(text: &str) -> bool {
    crate::workspace::host::Host::parse(text.as_bytes()).is_ok_and(|host| host.as_str() == text)
}

struct RawPreset(Preset);

impl<'de> Deserialize<'de> for RawPreset {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let presets = [("gitpod", Preset::Gitpod), ("ona", Preset::Ona), ("coder", Preset::Coder)];
        choice(value, &presets).map(Self)
    }
}

struct RawWorkspaces {
    file: PathBuf,
    policy: Policy,
}

impl<'de> Deserialize<'de> for RawWorkspaces {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let file = table.required_s::<String>("file");
        let undeclared = table.optional::<RawUndeclared>("undeclared_ports");
        if let Ok(file) = &file
            && super::Format::of(file.value.as_ref()).is_none()
        {
            let message = format!(
                "expected a file name that ends in .toml, .yaml, .yml or .json, found {:?}",
                file.value
            );
            table.errors.push(mistake(file.span, message));
        }
        table.finalize(None)?;
        let undeclared_ports = undeclared.map(|u| u.0).unwrap_or_default();
        Ok(Self { file: file?.value.into(), policy: Policy { undeclared_ports } })
    }
}

struct RawUndeclared(UndeclaredPorts);

impl<'de> Deserialize<'de> for RawUndeclared {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("deny", UndeclaredPorts::Deny), ("owner", UndeclaredPorts::Owner)])
            .map(Self)
    }
}

/// Some ten thousand records.
const DEFAULT_AUDIT_KIB: usize = 4096;

impl Default for Audit {
    fn default() -> Self {
        Self { file: None, buffer: DEFAULT_AUDIT_KIB * 1024 }
    }
}

impl<'de> Deserialize<'de> for Audit {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let file = table.optional::<String>("file").filter(|file| file != "-").map(PathBuf::from);
        let kib = number(&mut table, "buffer_kib", 16..=1_048_576);
        table.finalize(None)?;
        Ok(Self { file, buffer: kib.map_or(DEFAULT_AUDIT_KIB, small) * 1024 })
    }
}

/// A string that parses as `T`.
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        parsed(value).map(Self)
    }
}

/// Text that can stand in logs and headers.
struct Word(Box<str>);

impl<'de> Deserialize<'de> for Word {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(mistake(value.span, "expected text without control characters").into());
        }
        Ok(Self(text.into()))
    }
}

/// One audience or several.
struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let audience = match value.as_str() {
            Some(_) => vec![String::deserialize(value)?],
            None => Vec::<String>::deserialize(value)?,
        };
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(mistake(
                span,
                "expected the audience that tokens for workspaces carry; without one, any token of \
                 the issuer would count",
            )
            .into());
        }
        Ok(Self(audience))
    }
}

struct RawAlgorithm(Algorithm);

impl<'de> Deserialize<'de> for RawAlgorithm {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &ALGORITHMS).map(Self)
    }
}

struct RawMatch(MatchBy);

impl<'de> Deserialize<'de> for RawMatch {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let rules = [
            ("subject", MatchBy::Subject),
            ("email", MatchBy::Email),
            ("username", MatchBy::Username),
        ];
        choice(value, &rules).map(Self)
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

impl<'de> Deserialize<'de> for Owner {
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

fn number(
    table: &mut TableHelper<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    let (_, mut value) = table.take(key)?;
    let span = value.span;
    match value.take() {
        ValueInner::Integer(n) if u64::try_from(n).is_ok_and(|n| range.contains(&n)) => {
            u64::try_from(n).ok()
        }
        _ => {
            let message = format!("expected a number from {} to {}", range.start(), range.end());
            table.errors.push(mistake(span, message));
            None
        }
    }
}

fn seconds(
    table: &mut TableHelper<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
    default: Duration,
) -> Duration {
    number(table, key, range).map_or(default, Duration::from_secs)
}

/// A number whose range fits every machine.
fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
