//! An `[[issuer]]` table: what was typed, with the defaults of its preset.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use toml_span::{DeserError, Deserialize, Span, Value, de_helpers::TableHelper};
use url::Url;

use super::{Client, Introspection, Issuer};
use crate::{
    config::values::{Parsed, number, seconds},
    diagnostics::{Word, choice, mistake},
    identity::{
        profile::{
            ALGORITHMS, AcceptedIssuer, Authority, ClaimPath, ClaimPaths, GroupRule, IssuerUrl,
            MatchBy, Profile, Requirement, TENANT, TokenKinds, secure_url,
        },
        provider::Schedule,
    },
};

mod introspection;
mod preset;

use preset::Preset;

/// An issuer with its place in the file.
pub(super) struct RawIssuer {
    pub issuer: Issuer,
    pub span: Span,
}

impl<'de> Deserialize<'de> for RawIssuer {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let preset = table.optional::<RawPreset>("preset").map(|preset| preset.0);
        let name = table.required::<Word>("name");
        let tenants = table.optional::<Vec<Tenant>>("tenants").unwrap_or_default();
        let tenants: Vec<_> = tenants.into_iter().map(|tenant| tenant.0).collect();
        let names = Names::read(&mut table, preset, &tenants, span);
        let audience = table.required::<Audience>("audience");
        let algorithms = table.optional::<Vec<RawAlgorithm>>("algorithms");
        let tokens = table.optional::<RawKinds>("tokens").map(|kinds| kinds.0);
        let tokens = tokens.unwrap_or_else(|| preset.map_or_else(Default::default, Preset::tokens));
        let matching = table.optional::<Vec<RawMatch>>("match");
        let organization = table.optional::<Word>("organization");
        let paths = preset.map_or_else(ClaimPaths::default, Preset::claims);
        let paths = match table.take("claims") {
            Some((_, mut value)) => {
                read_claims(&mut value, paths).map_err(|e| table.errors.extend(e.errors)).ok()
            }
            None => Some(paths),
        };
        let require: Vec<_> = table.optional::<Vec<RawRequirement>>("require").unwrap_or_default();
        let require: Vec<_> = require.into_iter().map(|requirement| requirement.0).collect();
        let leeway = number(&mut table, "leeway_seconds", 0..=60);
        let max_age = number(&mut table, "max_age_seconds", 60..=31_536_000);
        let authority = table.optional::<String>("ca_file").map(PathBuf::from);
        let introspection = table.optional::<Introspection>("introspection");
        let client = table.optional::<Client>("sign_in");
        if let (Some(found), Some(names)) =
            (introspection.as_ref().and_then(|i| i.endpoint.as_ref()), &names)
            && let Err(error) = secure_url(found, names.issuer.is_plain())
        {
            table.errors.push(mistake(span, format!("{error}, found {found:?}")));
        }
        let keys_file = table.optional::<String>("keys_file").map(PathBuf::from);
        let defaults = Schedule::default();
        let schedule = Schedule {
            refresh: seconds(&mut table, "refresh_seconds", 60..=86_400, defaults.refresh),
            unknown_key: seconds(&mut table, "unknown_key_seconds", 1..=3600, defaults.unknown_key),
            max_stale: seconds(&mut table, "max_stale_seconds", 60..=604_800, defaults.max_stale),
        };
        if organization.is_some() && paths.as_ref().is_some_and(|c| c.organization.is_some()) {
            table.errors.push(mistake(
                span,
                "set either 'organization', the same for everybody, or 'claims.organization'",
            ));
        }
        if let (Some(preset), Some(names)) = (preset, &names)
            && let Some(message) = preset.objection(names.issuer.as_str(), tokens, &require)
        {
            table.errors.push(mistake(span, message));
        }
        table.finalize(None)?;
        let (Some(names), Some(paths)) = (names, paths) else {
            return Err(mistake(span, "the issuer cannot be read").into());
        };
        let mut profile = Profile::new(&name?.0, names.issuer, audience?.0);
        profile.authority = Arc::new(Authority {
            name: profile.authority.name.clone(),
            identifier: profile.issuer.as_str().into(),
            accepted: names.accepted.iter().map(|accepted| accepted.iss.clone()).collect(),
            matching: matching.map_or_else(
                || vec![MatchBy::Subject],
                |rules| rules.into_iter().map(|rule| rule.0).collect(),
            ),
        });
        if let Some(algorithms) = algorithms {
            profile.algorithms = algorithms.into_iter().map(|name| name.0).collect();
        }
        if let Some(leeway) = leeway {
            profile.leeway = Duration::from_secs(leeway);
        }
        let profile = Profile {
            discovery: names.discovery,
            accepted: names.accepted,
            tokens,
            max_age: max_age.map(Duration::from_secs),
            claims: paths,
            require,
            organization: organization.map(|o| o.0),
            ..profile
        };
        let (profile, jwks_uri) = (Arc::new(profile), names.jwks_uri);
        let issuer =
            Issuer { profile, jwks_uri, authority, introspection, client, keys_file, schedule };
        Ok(Self { issuer, span })
    }
}

/// What the issuer is called and where it publishes.
struct Names {
    issuer: IssuerUrl,
    accepted: Vec<AcceptedIssuer>,
    discovery: Url,
    jwks_uri: Option<Url>,
}

impl Names {
    /// Reads the keys that name the issuer. `None` if there was a mistake, which is in the table then.
    fn read(
        table: &mut TableHelper<'_>,
        preset: Option<Preset>,
        tenants: &[Box<str>],
        span: Span,
    ) -> Option<Self> {
        let usual = preset.and_then(Preset::issuer);
        let typed = match usual {
            Some(_) => table.optional_s::<Parsed<IssuerUrl>>("issuer"),
            None => table.required_s("issuer").ok(),
        };
        let also = table.optional::<Vec<Word>>("also_issuers").unwrap_or_default();
        let discovery = table.optional_s::<String>("discovery_url");
        let jwks_uri = table.optional_s::<String>("jwks_uri");
        let issuer = match (typed, usual) {
            (Some(typed), _) => typed.value.0,
            (None, usual) => usual?.parse().ok()?,
        };
        let mut texts = vec![Box::from(issuer.as_str())];
        texts.extend(preset.into_iter().flat_map(Preset::spellings).map(|s| Box::from(*s)));
        texts.extend(also.into_iter().map(|word| word.0));
        let template = texts.iter().any(|text| text.contains(TENANT));
        if template == tenants.is_empty() {
            let message = format!(
                "'tenants' and an issuer with \"{TENANT}\" belong together: list the tenants whose tokens count"
            );
            table.errors.push(mistake(span, message));
            return None;
        }
        let plain = issuer.is_plain();
        let mut address = |found: Option<toml_span::Spanned<String>>| {
            let found = found?;
            secure_url(&found.value, plain)
                .map_err(|error| {
                    let message = format!("{error}, found {:?}", found.value);
                    table.errors.push(mistake(found.span, message));
                })
                .ok()
        };
        let jwks_uri = address(jwks_uri);
        let discovery = match address(discovery) {
            Some(url) => url,
            None => usual_discovery(&issuer)?,
        };
        Some(Self { accepted: accepted(&texts, tenants), issuer, discovery, jwks_uri })
    }
}

/// Each text, or one for each tenant where it is a template.
fn accepted(texts: &[Box<str>], tenants: &[Box<str>]) -> Vec<AcceptedIssuer> {
    let of = |text: &str| {
        if !text.contains(TENANT) {
            return vec![AcceptedIssuer { iss: text.into(), tenant: None }];
        }
        let tenant = |tenant: &str| AcceptedIssuer {
            iss: text.replace(TENANT, tenant).into(),
            tenant: Some(tenant.into()),
        };
        tenants.iter().map(|id| tenant(id)).collect()
    };
    texts.iter().flat_map(|text| of(text)).collect()
}

/// The issuer's own; for a template, Entra's document for all tenants.
fn usual_discovery(issuer: &IssuerUrl) -> Option<Url> {
    let base: IssuerUrl = issuer.as_str().replace(TENANT, "organizations").parse().ok()?;
    Some(base.discovery())
}

fn read_claims(value: &mut Value<'_>, defaults: ClaimPaths) -> Result<ClaimPaths, DeserError> {
    let mut table = TableHelper::new(value)?;
    let mut path = |key| table.optional::<RawPath>(key).map(|path| path.0);
    let (subject, email, username) = (path("subject"), path("email"), path("username"));
    let organization = path("organization");
    let groups = table.optional::<RawGroups>("groups");
    table.finalize(None)?;
    Ok(ClaimPaths {
        subject: subject.unwrap_or(defaults.subject),
        email: email.unwrap_or(defaults.email),
        username: username.unwrap_or(defaults.username),
        groups: groups.map_or(defaults.groups, |groups| groups.0),
        organization: organization.or(defaults.organization),
    })
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

/// One claim by its name, or a list of rules.
struct RawGroups(Vec<GroupRule>);

impl<'de> Deserialize<'de> for RawGroups {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        if value.as_str().is_some() {
            let claim = RawPath::deserialize(value)?.0;
            return Ok(Self(vec![GroupRule { claim, strip: "".into(), prefix: "".into() }]));
        }
        let rules = Vec::<RawGroupRule>::deserialize(value)?;
        Ok(Self(rules.into_iter().map(|rule| rule.0).collect()))
    }
}

struct RawGroupRule(GroupRule);

impl<'de> Deserialize<'de> for RawGroupRule {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let claim = table.required::<RawPath>("claim");
        let strip = table.optional::<Word>("strip").map_or_else(Box::default, |word| word.0);
        let prefix = table.optional::<Word>("prefix").map_or_else(Box::default, |word| word.0);
        table.finalize(None)?;
        Ok(Self(GroupRule { claim: claim?.0, strip, prefix }))
    }
}

struct RawRequirement(Requirement);

impl<'de> Deserialize<'de> for RawRequirement {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let claim = table.required::<RawPath>("claim");
        let any_of = table.required::<Vec<Word>>("any_of");
        if any_of.as_ref().is_ok_and(Vec::is_empty) {
            table.errors.push(mistake(span, "expected at least one value in 'any_of'"));
        }
        table.finalize(None)?;
        let any_of = any_of?.into_iter().map(|word| word.0).collect();
        Ok(Self(Requirement { claim: claim?.0, any_of }))
    }
}

/// The id of an Entra tenant: a GUID, so that nobody allows "common" and with it the whole world.
struct Tenant(Box<str>);

impl<'de> Deserialize<'de> for Tenant {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let lengths = text.split('-').map(str::len);
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        if digits && lengths.eq([8, 4, 4, 4, 12]) {
            return Ok(Self(text.into()));
        }
        let message = format!(
            "expected a tenant id in lower case such as \"72f988bf-86f1-41af-91ab-2d7cd011db47\", found {text:?}"
        );
        Err(mistake(value.span, message).into())
    }
}

struct RawKinds(TokenKinds);

impl<'de> Deserialize<'de> for RawKinds {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let kinds = Vec::<RawKind>::deserialize(value)?;
        if kinds.is_empty() {
            return Err(
                mistake(span, "expected at least one of \"at+jwt\", \"access\", \"id\"").into()
            );
        }
        let has = |kind| kinds.iter().any(|k| k.0 == kind);
        Ok(Self(TokenKinds {
            typed_access: has(Kind::Typed),
            access: has(Kind::Access),
            id: has(Kind::Id),
        }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Typed,
    Access,
    Id,
}

struct RawKind(Kind);

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("at+jwt", Kind::Typed), ("access", Kind::Access), ("id", Kind::Id)])
            .map(Self)
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

pub(super) struct RawMatch(pub(super) MatchBy);

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

struct RawPreset(Preset);

impl<'de> Deserialize<'de> for RawPreset {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &Preset::ALL).map(Self)
    }
}
