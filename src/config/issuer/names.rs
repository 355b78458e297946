//! The identifiers of an issuer: its spellings in tokens, its tenants, and the addresses that follow from them.

use toml_span::Spanned;
use url::Url;

use super::{IssuerTable, preset::Preset};
use crate::{
    config::section::Report,
    identity::profile::{AcceptedIssuer, IssuerUrl, TENANT, secure_url},
};

/// The identifiers of an issuer, and the addresses of what it publishes.
pub(super) struct IssuerNames {
    /// The identifier as configured, which may be a template. Revocations and sessions know the issuer by it, so it stays
    /// the same when a tenant is added.
    pub(super) identifier: Box<str>,
    /// The identifier that the discovery document must have: that of the only tenant, if there is only one.
    pub(super) issuer: IssuerUrl,
    pub(super) accepted: Vec<AcceptedIssuer>,
    pub(super) discovery: Url,
    pub(super) jwks_uri: Option<Url>,
}

impl IssuerNames {
    /// The names, or `None` after a mistake that was reported.
    pub(super) fn new(table: &mut IssuerTable, report: &mut Report) -> Option<Self> {
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
        let identifier = issuer.as_str().into();
        let accepted = accepted(&texts, tenants);
        // A registration of one tenant may be used at that tenant's own addresses only (Entra: AADSTS50194).
        let issuer = match tenants {
            [only] => issuer.as_str().replace(TENANT, only).parse().ok()?,
            _ => issuer,
        };
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
        Some(Self { identifier, issuer, accepted, discovery, jwks_uri })
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

/// The default address of the discovery document; for several tenants that of Entra's document for all of them.
fn default_discovery(issuer: &IssuerUrl) -> Option<Url> {
    let base: IssuerUrl = issuer.as_str().replace(TENANT, "organizations").parse().ok()?;
    Some(base.discovery())
}
