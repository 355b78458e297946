//! The text of a list of workspaces, in TOML, YAML or JSON.
//!
//! It turns text into [`Workspace`]s and reports every mistake with its line. [`super`] follows the
//! file, and the admin API uses [`parse_one`] for a single record. Names of people, groups and
//! organizations are resolved to issuers here, so a record that exists names only configured
//! issuers.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use toml_span::{DeserError, Deserialize, Error, Span, Value, de_helpers::TableHelper};

use crate::{
    diagnostics::{self, Choice, Format, Mistakes, mistake},
    sources::issuer_key::IssuerKey,
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, Grantee, IssuerNames, Organization, Person,
        Phase, Protocol, Revision, Workspace, destination::AllowedBackends,
    },
};

mod fields;
pub mod review;

use fields::{
    PlainText, RawApp, RawDestination, RawEndpoint, RawGrant, RawId, RawPerson, with_address,
};

/// Parses a list of workspaces.
///
/// `issuers` are the configured names of the issuers. If there are several, every person, group and
/// organization must name its issuer.
///
/// # Errors
/// All mistakes in the text, each with its line.
pub fn parse(
    file: &str,
    text: &str,
    format: Format,
    issuers: &BTreeSet<&str>,
    backends: &AllowedBackends,
) -> Result<Vec<Workspace>, Mistakes> {
    let list = diagnostics::read::<List>(file, text, format)?;
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    let mut workspaces = Vec::with_capacity(list.0.len());
    for record in list.0 {
        let span = record.span;
        errors.extend(record.forbidden_backends(backends));
        let workspace = record.resolve_issuers(issuers, &mut errors);
        // Neither of two records with one id can be preferred, so the list is refused.
        if !seen.insert(workspace.id.clone()) {
            let id = &workspace.id;
            errors.push(mistake(span, format!("the workspace '{id}' is listed twice")));
        }
        workspaces.push(workspace);
    }
    if errors.is_empty() {
        Ok(workspaces)
    } else {
        Err(diagnostics::mistakes(file, text, DeserError { errors }))
    }
}

/// Parses one record of such a list, in JSON or YAML.
///
/// # Errors
/// All mistakes in the text, each with its line.
pub fn parse_one(
    name: &str,
    text: &str,
    issuers: &BTreeSet<&str>,
    backends: &AllowedBackends,
) -> Result<Workspace, Mistakes> {
    let record = diagnostics::read::<RawWorkspace>(name, text, Format::Yaml)?;
    let mut errors = Vec::new();
    errors.extend(record.forbidden_backends(backends));
    let workspace = record.resolve_issuers(issuers, &mut errors);
    if errors.is_empty() {
        Ok(workspace)
    } else {
        Err(diagnostics::mistakes(name, text, DeserError { errors }))
    }
}

struct List(Vec<RawWorkspace>);

impl<'de> Deserialize<'de> for List {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let list = table.required("workspaces");
        table.finalize(None)?;
        Ok(Self(list?))
    }
}

/// A workspace before the issuers of its people are resolved.
struct RawWorkspace {
    workspace: Workspace,
    span: Span,
    /// The default for the owner, grants and organization that name no issuer.
    issuer: Option<IssuerKey>,
    owner: IssuerRef,
    /// The issuer of each grant, in the order of the workspace's grants.
    grants: Vec<IssuerRef>,
    organization: Option<Box<str>>,
    /// The backends that the record names, and where.
    backends: Vec<(Arc<str>, Span)>,
    /// What is permitted in its grants and has no effect.
    useless: Vec<Error>,
}

/// The issuer that a part of a record names, and where that part is.
struct IssuerRef {
    issuer: Option<IssuerKey>,
    span: Span,
}

impl RawWorkspace {
    /// The mistakes about backends that the record must not name.
    fn forbidden_backends(&self, backends: &AllowedBackends) -> Vec<Error> {
        let check = |(name, span): &(Arc<str>, Span)| {
            backends.check(name).err().map(|error| mistake(*span, error.to_string()))
        };
        self.backends.iter().filter_map(check).collect()
    }

    /// Resolves the issuers of all people and groups in the record.
    fn resolve_issuers(self, configured: &BTreeSet<&str>, errors: &mut Vec<Error>) -> Workspace {
        let Self { mut workspace, span, issuer, owner, grants, organization, .. } = self;
        let mut resolve = |named: Option<&IssuerKey>, at| {
            IssuerKey::resolve(named, at, configured).unwrap_or_else(|error| {
                errors.push(error);
                IssuerNames::default()
            })
        };
        let default = issuer.map(|named| resolve(Some(&named), span));
        let mut issuers_of = |issuer_ref: &IssuerRef| match (&issuer_ref.issuer, &default) {
            (None, Some(default)) => default.clone(),
            (named, _) => resolve(named.as_ref(), issuer_ref.span),
        };
        workspace.owner.issuers = issuers_of(&owner);
        for (grant, issuer_ref) in workspace.grants.iter_mut().zip(&grants) {
            match &mut grant.to {
                Grantee::User(Person { issuers, .. }) | Grantee::Group { issuers, .. } => {
                    *issuers = issuers_of(issuer_ref);
                }
                Grantee::PlatformGroup(_) => {}
            }
        }
        // Without an issuer of its own, the organization belongs to the owner's issuers.
        workspace.organization = organization.map(|name| {
            let issuers = default.unwrap_or_else(|| workspace.owner.issuers.clone());
            Organization { issuers, name }
        });
        workspace
    }
}

impl<'de> Deserialize<'de> for RawWorkspace {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let id = table.required::<RawId>("id");
        let issuer = table.optional::<IssuerKey>("issuer");
        let owner = table.required::<RawPerson>("owner");
        let organization = table.optional::<PlainText>("organization");
        let phase = table.required::<Choice<Phase>>("phase");
        let admission =
            table.optional::<Choice<Admission>>("admission").map_or(Admission::Grants, |a| a.0);
        let destination = table.optional_s::<RawDestination>("destination");
        let protocol = table.optional_s::<Choice<Protocol>>("protocol");
        let origins = fields::origins(&mut table);
        let grants = table.optional::<Vec<RawGrant>>("grants").unwrap_or_default();
        let mut raw_endpoints = table.optional::<Vec<RawEndpoint>>("ports").unwrap_or_default();
        raw_endpoints.extend(
            table.optional::<Vec<RawApp>>("apps").unwrap_or_default().into_iter().map(|a| a.0),
        );

        let main_backend = destination.iter().filter_map(|d| d.value.backend(d.span));
        let other_backends = raw_endpoints.iter().filter_map(|raw| raw.backend.clone());
        let backends = main_backend.chain(other_backends).collect();
        let mut endpoints = Vec::new();
        let mut address = None;
        match (destination, &protocol) {
            (Some(destination), protocol) => {
                // Ports without a destination of their own are at the same address.
                if let Destination::Address(at) = &destination.value.0 {
                    address = Some(at.address);
                }
                let endpoint = Endpoint {
                    name: EndpointName::Main,
                    protocol: protocol.as_ref().map_or(Protocol::Http, |p| p.value.0),
                    admission,
                    destination: destination.value.0,
                    origins: origins.clone(),
                };
                let checked = with_address(endpoint).map_err(|m| mistake(destination.span, m));
                match checked {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(error) => table.errors.push(error),
                }
            }
            (None, Some(protocol)) => table.errors.push(mistake(
                protocol.span,
                "'protocol' is that of 'destination', which is missing: each entry of 'ports' and 'apps' has its own",
            )),
            (None, None) => {}
        }
        for raw in raw_endpoints {
            let span = raw.span;
            match raw.endpoint(admission, &origins, address) {
                Err(message) => table.errors.push(mistake(span, message)),
                Ok(endpoint) if endpoints.iter().any(|e| e.name == endpoint.name) => {
                    table.errors.push(mistake(span, format!("{} is listed twice", endpoint.name)));
                }
                Ok(endpoint) => endpoints.push(endpoint),
            }
        }
        let useless = grants.iter().flat_map(|grant| review::grant(grant, &endpoints)).collect();
        // After another mistake, endpoints may only be missing because of it.
        if endpoints.is_empty() && table.errors.is_empty() {
            table.errors.push(mistake(
                span,
                "the workspace has no way in: expected 'destination', or 'ports' with destinations",
            ));
        }
        table.finalize(None)?;

        let RawPerson { person: owner, issuer_ref } = owner?;
        let (grants, grant_issuers) = grants.into_iter().map(RawGrant::split).unzip();
        Ok(Self {
            workspace: Workspace {
                id: id?.0,
                instance: None,
                revision: Revision::default(),
                organization: None,
                owner_label: owner.to_string().into(),
                owner,
                grants,
                phase: phase?.0,
                address,
                template: None,
                endpoints,
                paths: vec![],
            },
            span,
            issuer,
            owner: issuer_ref,
            grants: grant_issuers,
            organization: organization.map(|o| o.0),
            backends,
            useless,
        })
    }
}

#[cfg(test)]
mod tests;
