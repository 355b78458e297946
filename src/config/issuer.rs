//! The tables `[[issuer]]`: whose tokens are accepted.
//!
//! A preset has the defaults of a well-known provider and refuses what cannot work with it, or what would accept tokens of
//! strangers; each key that is set wins over it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jsonwebtoken::Algorithm;
use toml_span::{DeserError, Spanned, Value};
use url::Url;

use super::{
    key::{Kind, Shape},
    kinds::{At, Choice, Form, List, Parsed, Seconds, Words, words_of},
    section::{Report, Section, table},
};
use crate::{
    diagnostics::{Word, mistake},
    identity::{
        profile::{
            ALGORITHMS, AcceptedIssuer, Authority, ClaimPaths, IssuerUrl, MatchBy, Profile, TENANT,
            TokenKinds, secure_url,
        },
        provider::FetchSchedule,
        settings::IssuerSettings,
    },
};

mod claims;
mod client;
mod preset;

use claims::{ClaimsTable, RequireTable};
use client::{ClientTable, IntrospectionTable};
use preset::Preset;

table! {
    /// An issuer (identity provider) whose tokens are accepted.
    IssuerTable = "issuer", repeated;
    /// Its name in lists of workspaces, in logs and in the audit log.
    name: required Word, example("\"example\"");
    /// Its identifier, exactly as in the `iss` of its tokens; an https URL. Some presets have one.
    issuer: optional Parsed<IssuerUrl>, used("\"https://idp.example.com\"");
    /// One audience or several. An access token must have at least one of them in `aud`; an ID token must have no others in `aud` and `azp`.
    audience: required Audience, example("\"workspaces\"");
    /// Defaults for a well-known provider: see docs/providers/.
    preset: optional Choice<Preset>, example("\"keycloak\"");
    /// The fields by which a person is recognised as owner or as a person with a grant. The first field that both the token and the record of the workspace have is compared.
    matching as "match": default List<Choice<MatchBy>> = vec![MatchBy::Subject];
    /// The types of token that are accepted.
    token_types: optional Kinds, note("those of the preset, or else access tokens"), example("[\"at+jwt\", \"access\"]");
    /// The signature algorithms that are accepted.
    algorithms: optional List<Choice<Algorithm>>, note("all that are supported"), example("[\"ES256\"]");
    /// The Entra tenants that are accepted: they replace `{tenantid}` in `issuer` and `also_issuers`.
    tenants: optional List<Tenant>, example("[\"72f988bf-86f1-41af-91ab-2d7cd011db47\"]");
    /// Other spellings of the identifier that tokens may have in `iss`.
    also_issuers: optional List<Word>, example("[\"idp.example.com\"]");
    /// Claims that a token must have.
    require: optional List<RequireTable>;
    /// The maximum age of a token by its `iat`, even if its `exp` is later.
    max_age_seconds: optional Seconds<60, 31_536_000>, example("43200");
    /// How far the clocks of agent and issuer may differ.
    leeway_seconds: default Seconds<0, 60> = Profile::LEEWAY;
    /// The organization of everyone who has a token of this issuer. Alternative to `claims.organization`.
    organization: optional Word, example("\"example\"");
    /// Which claim each field of the identity is read from.
    claims: optional ClaimsTable;
    /// How the issuer is asked about opaque tokens (RFC 7662). Only one issuer can have it.
    introspection: optional IntrospectionTable;
    /// How people sign in at this issuer with a browser.
    sign_in: optional ClientTable;
    /// The address of its key set. With it no discovery is needed.
    jwks_uri: optional At<String>, note("from the discovery document"), example("\"https://idp.example.com/keys\"");
    /// The address of its discovery document.
    discovery_url: optional At<String>, note("ISSUER/.well-known/openid-configuration"), example("\"https://idp.example.com/.well-known/openid-configuration\"");
    /// Certificates of a private authority, PEM; trusted in addition to those of the system.
    ca_file: optional PathBuf, example("\"idp-ca.pem\"");
    /// A file in which the issuer's public keys are stored, so that an agent that restarts during an outage of the issuer has keys.
    key_cache_file: optional PathBuf, note("in memory"), example("\"idp-keys.json\"");
    /// The maximum time between two fetches of the keys.
    refresh_seconds: default Seconds<60, 86_400> = FetchSchedule::default().refresh;
    /// The minimum time between two fetches because of an unknown key id.
    unknown_key_seconds: default Seconds<1, 3600> = FetchSchedule::default().unknown_key;
    /// How long the last good keys are used while the issuer does not answer.
    max_stale_seconds: default Seconds<60, 604_800> = FetchSchedule::default().max_stale;
}

impl Section for IssuerTable {
    type Value = IssuerSettings;

    fn build(mut self, report: &mut Report) -> Option<IssuerSettings> {
        let names = IssuerNames::new(&mut self, report);
        let require = self.require.unwrap_or_default();
        let preset = self.preset;
        let tokens = self.token_types;
        let tokens = tokens.unwrap_or_else(|| preset.map_or_else(Default::default, Preset::tokens));
        let claims = preset.map_or_else(ClaimPaths::default, Preset::claims);
        let claims = match self.claims {
            Some(typed) => typed.over(claims),
            None => claims,
        };
        if let (Some(found), Some(names)) =
            (self.introspection.as_ref().and_then(|i| i.endpoint.as_ref()), &names)
            && let Err(error) = secure_url(found, names.issuer.is_plain())
        {
            report.mistake(format!("{error}, found {found:?}"));
        }
        if self.organization.is_some() && claims.organization.is_some() {
            report.mistake(
                "set either 'organization', the same for all people, or 'claims.organization'",
            );
        }
        if let (Some(preset), Some(names)) = (preset, &names)
            && let Some(message) = preset.objection(names.issuer.as_str(), tokens, &require)
        {
            report.mistake(message);
        }
        let names = names?;
        let authority = Authority {
            name: self.name?,
            identifier: names.issuer.as_str().into(),
            accepted: names.accepted.iter().map(|accepted| accepted.iss.clone()).collect(),
            matching: self.matching,
        };
        let defaults = Profile::new(&authority.name, names.issuer, self.audience?);
        let profile = Profile {
            authority: Arc::new(authority),
            discovery: names.discovery,
            accepted: names.accepted,
            algorithms: self.algorithms.unwrap_or(defaults.algorithms),
            tokens,
            leeway: self.leeway_seconds,
            max_age: self.max_age_seconds,
            claims,
            require,
            organization: self.organization,
            ..defaults
        };
        Some(IssuerSettings {
            profile: Arc::new(profile),
            jwks_uri: names.jwks_uri,
            ca_file: self.ca_file,
            introspection: self.introspection,
            client: self.sign_in,
            key_cache_file: self.key_cache_file,
            schedule: FetchSchedule {
                refresh: self.refresh_seconds,
                unknown_key: self.unknown_key_seconds,
                max_stale: self.max_stale_seconds,
            },
        })
    }
}

/// The identifiers of an issuer, and the addresses of what it publishes.
struct IssuerNames {
    issuer: IssuerUrl,
    accepted: Vec<AcceptedIssuer>,
    discovery: Url,
    jwks_uri: Option<Url>,
}

impl IssuerNames {
    /// The names, or `None` after a mistake that was reported.
    fn new(table: &mut IssuerTable, report: &mut Report) -> Option<Self> {
        let preset = table.preset;
        let issuer = match (table.issuer.take(), preset.and_then(Preset::issuer)) {
            (Some(typed), _) => typed,
            (None, Some(default)) => default.parse().ok()?,
            (None, None) => {
                report.missing("issuer");
                return None;
            }
        };
        let tenants = table.tenants.as_deref().unwrap_or_default();
        let mut texts = vec![Box::from(issuer.as_str())];
        texts.extend(preset.into_iter().flat_map(Preset::spellings).map(|s| Box::from(*s)));
        texts.extend(table.also_issuers.take().unwrap_or_default());
        let template = texts.iter().any(|text| text.contains(TENANT));
        if template == tenants.is_empty() {
            let message = if template {
                format!(
                    "an issuer with \"{TENANT}\" needs 'tenants': list the tenants whose tokens are accepted, or give the \
                     issuer of one tenant, such as \"https://login.microsoftonline.com/TENANT-ID/v2.0\""
                )
            } else {
                format!(
                    "'tenants' needs an issuer with \"{TENANT}\": remove 'tenants', as this issuer is of one tenant"
                )
            };
            report.mistake(message);
            return None;
        }
        let plain = issuer.is_plain();
        let mut address = |found: Option<Spanned<String>>| {
            let found = found?;
            secure_url(&found.value, plain)
                .map_err(|error| {
                    report.mistake_at(found.span, format!("{error}, found {:?}", found.value));
                })
                .ok()
        };
        let jwks_uri = address(table.jwks_uri.take());
        let discovery = match address(table.discovery_url.take()) {
            Some(url) => url,
            None => default_discovery(&issuer)?,
        };
        Some(Self { accepted: accepted(&texts, tenants), issuer, discovery, jwks_uri })
    }
}

/// Each spelling of the identifier, or one for each tenant if it is a template.
fn accepted(texts: &[Box<str>], tenants: &[Box<str>]) -> Vec<AcceptedIssuer> {
    let spellings = |text: &str| {
        if !text.contains(TENANT) {
            return vec![AcceptedIssuer { iss: text.into(), tenant: None }];
        }
        let tenant = |tenant: &str| AcceptedIssuer {
            iss: text.replace(TENANT, tenant).into(),
            tenant: Some(tenant.into()),
        };
        tenants.iter().map(|id| tenant(id)).collect()
    };
    texts.iter().flat_map(|text| spellings(text)).collect()
}

/// The default address of the discovery document; for a template that of Entra's document for all tenants.
fn default_discovery(issuer: &IssuerUrl) -> Option<Url> {
    let base: IssuerUrl = issuer.as_str().replace(TENANT, "organizations").parse().ok()?;
    Some(base.discovery())
}

/// The id of an Entra tenant: a GUID. Names such as "common" are refused, since they accept every tenant there is.
struct Tenant;

impl Form for Tenant {
    type Value = Box<str>;

    fn parse(text: &str) -> Result<Box<str>, String> {
        let lengths = text.split('-').map(str::len);
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        if digits && lengths.eq([8, 4, 4, 4, 12]) {
            return Ok(text.into());
        }
        Err(format!(
            "expected a tenant id in lower case such as \"72f988bf-86f1-41af-91ab-2d7cd011db47\", found {text:?}"
        ))
    }
}

/// The types of token that are accepted; at least one.
struct Kinds;

#[derive(Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
enum TokenKind {
    #[strum(serialize = "at+jwt")]
    Typed,
    Access,
    Id,
}

words_of!(TokenKind);

impl Kind for Kinds {
    type Value = TokenKinds;

    fn shape() -> Shape {
        List::<Choice<TokenKind>>::shape()
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<TokenKinds, DeserError> {
        let kinds = List::<Choice<TokenKind>>::read(value, base)?;
        if kinds.is_empty() {
            let message = "expected at least one of \"at+jwt\", \"access\", \"id\"";
            return Err(mistake(value.span, message).into());
        }
        let has = |kind| kinds.contains(&kind);
        Ok(TokenKinds {
            typed_access: has(TokenKind::Typed),
            access: has(TokenKind::Access),
            id: has(TokenKind::Id),
        })
    }
}

/// One audience or several; an empty one would accept any token of the issuer.
struct Audience;

impl Kind for Audience {
    type Value = Vec<String>;

    fn shape() -> Shape {
        Shape::TextOr(Box::new(List::<String>::shape()))
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Vec<String>, DeserError> {
        let audience = match value.as_str() {
            Some(_) => vec![String::read(value, base)?],
            None => List::<String>::read(value, base)?,
        };
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(mistake(
                value.span,
                "expected the audience that tokens for workspaces carry; without one, any token of \
                 the issuer would be accepted",
            )
            .into());
        }
        Ok(audience)
    }
}

impl Words for Algorithm {
    fn words() -> Vec<(&'static str, Self)> {
        ALGORITHMS.into()
    }
}
