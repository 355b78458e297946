//! The tables `[[issuer]]`: whose tokens are accepted.
//!
//! A preset has the defaults of a well-known provider and refuses what cannot work with it, or what would accept tokens of
//! strangers; each key that is set wins over it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jsonwebtoken::Algorithm;
use toml_span::{DeserError, Value};

use super::{
    key::{Kind, Shape},
    kinds::{At, Choice, Form, List, NonEmpty, Parsed, Seconds, Words, words_of},
    section::{Report, Section, table},
};
use crate::{
    diagnostics::{Word, mistake},
    identity::{
        profile::{
            ALGORITHMS, Authority, ClaimPath, ClaimPaths, EmailVouching, IssuerUrl, MatchBy,
            Profile, TokenKinds, VouchingForm, secure_url,
        },
        provider::FetchSchedule,
        settings::{IntrospectionSettings, IssuerSettings},
    },
};

mod authorize;
mod claims;
mod client;
mod email;
mod names;
mod preset;

use claims::{ClaimsTable, RequireTable};
use client::{ClientTable, IntrospectionTable};
use email::EmailDomain;
use names::IssuerNames;
use preset::Preset;

table! {
    /// An issuer (identity provider) whose tokens are accepted.
    IssuerTable = "issuer", repeated;
    /// Its name in lists of workspaces, in logs and in the audit log.
    name: required Word, example("\"example\"");
    /// Its identifier, exactly as in the `iss` of its tokens; an https URL. Some presets have one.
    issuer: optional Parsed<IssuerUrl>, used("\"https://idp.example.com\"");
    /// One audience or several. An access token must have at least one of them in `aud`. In an ID token that a program sends, each entry of `aud` must be one of them or of `trusted_audiences`, and `azp` one of them; with several entries, `azp` is required. Sign-in with a browser checks `client_id` instead.
    audience: required Audience, example("\"workspaces\"");
    /// Defaults for a well-known provider: see docs/providers/.
    preset: optional Choice<Preset>, example("\"keycloak\"");
    /// The fields by which a person is recognised as owner or as a person with a grant. Only the first of them that the record of the workspace has is compared, whatever the token has.
    matching as "match": default List<Choice<MatchBy>> = vec![MatchBy::Subject];
    /// The types of token that are accepted.
    token_types: optional Kinds, note("those of the preset, or else access tokens"), example("[\"at+jwt\", \"access\"]");
    /// The signature algorithms that are accepted.
    algorithms: optional List<Choice<Algorithm>>, note("all that are supported"), example("[\"ES256\"]");
    /// Other audiences that an ID token may name in `aud` next to one of `audience`, such as the project at ZITADEL. None of them can be `azp`.
    trusted_audiences: optional NonEmpty<Word>, example("[\"285641290152214531\"]");
    /// The claim that names the audience of an access token without `aud`.
    audience_claim: optional ClaimPath, note("`\"client_id\"` with the preset `cognito`, or else none"), example("\"client_id\"");
    /// The claim by which the issuer vouches for the e-mail address. If it is set, `true`, `"true"`, `1` and `"1"` are accepted.
    email_verified_claim: optional ClaimPath, note("that of the preset, or else `\"email_verified\"`, which must be `true`"), example("\"email_verified\"");
    /// Domains whose e-mail addresses only the administrators of the issuer can give to a person: an address of such a domain is used whatever the issuer says about it. Domains below them are other domains.
    managed_email_domains: optional NonEmpty<EmailDomain>, example("[\"example.com\"]");
    /// The Entra tenants that are accepted: they replace `{tenantid}` in `issuer` and `also_issuers`. With one tenant, its own addresses are used.
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
        let email = EmailVouching {
            managed_domains: self.managed_email_domains.unwrap_or_default(),
            ..match self.email_verified_claim {
                Some(claim) => EmailVouching::by(claim, VouchingForm::Lenient),
                None => preset.map_or_else(Default::default, Preset::email_vouching),
            }
        };
        if !email.managed_domains.is_empty() && self.tenants.as_ref().is_some_and(|t| t.len() > 1) {
            report.mistake(
                "with several 'tenants', each could give its people addresses of 'managed_email_domains': write an [[issuer]] for each tenant",
            );
        }
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
            identifier: names.identifier,
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
            trusted_audiences: self.trusted_audiences.unwrap_or_default(),
            audience_claim: self.audience_claim.or_else(|| preset?.audience_claim()),
            email,
            ..defaults
        };
        let client_defaults = preset.map_or_else(Default::default, Preset::client);
        let introspection = self.introspection.map(|settings| IntrospectionSettings {
            key: settings.key.or(&client_defaults),
            ..settings
        });
        let client = self.sign_in.map(|client| client.or(&client_defaults));
        Some(IssuerSettings {
            profile: Arc::new(profile),
            jwks_uri: names.jwks_uri,
            ca_file: self.ca_file,
            introspection,
            client,
            key_cache_file: self.key_cache_file,
            schedule: FetchSchedule {
                refresh: self.refresh_seconds,
                unknown_key: self.unknown_key_seconds,
                max_stale: self.max_stale_seconds,
            },
        })
    }
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
