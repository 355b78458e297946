//! The key `issuer` of sources and of records in lists.
//!
//! The same login name, e-mail address or group can belong to different people at two issuers. So
//! every name of a person, group or organization is resolved to the issuers that it belongs to.
//! With a single issuer in the configuration the key may be left out; with several it must be
//! there.

use std::collections::BTreeSet;

use toml_span::{DeserError, Deserialize, Error, Span, Value};

use crate::{
    diagnostics::{Word, mistake, nearest},
    workspaces::IssuerNames,
};

/// The value of `issuer`: the name of a configured issuer, or a list of names whose issuers vouch
/// for the same people.
pub(crate) struct IssuerKey {
    names: Vec<Box<str>>,
    span: Span,
}

impl<'de> Deserialize<'de> for IssuerKey {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let names: Vec<_> = match value.as_str() {
            Some(_) => vec![Word::deserialize(value)?.0],
            None => Vec::<Word>::deserialize(value)?.into_iter().map(|word| word.0).collect(),
        };
        if names.is_empty() {
            return Err(mistake(span, "expected the name of at least one issuer").into());
        }
        Ok(Self { names, span })
    }
}

impl IssuerKey {
    /// Returns the issuers that are named, or the only configured issuer if none is named.
    ///
    /// `at` is where the key would have to stand; the error for a missing key points there.
    ///
    /// # Errors
    /// A name is not configured, or there is no name although several issuers are
    /// configured.
    pub(crate) fn resolve(
        named: Option<&Self>,
        at: Span,
        configured: &BTreeSet<&str>,
    ) -> Result<IssuerNames, Error> {
        let Some(named) = named else {
            let mut all = configured.iter();
            return match (all.next(), all.next()) {
                // With one issuer there is nothing to confuse.
                (Some(only), None) => Ok(IssuerNames::one(only)),
                // Without an issuer there is no identity that could match.
                (None, _) => Ok(IssuerNames::default()),
                _ => Err(missing(at, configured)),
            };
        };
        match named.names.iter().find(|name| !configured.contains(&***name)) {
            None => Ok(named.names.iter().cloned().collect()),
            Some(unknown) => {
                let hint = match nearest(unknown, configured.iter().copied()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("expected one of {}", listed(configured)),
                };
                let message = format!("the issuer '{unknown}' is not configured: {hint}");
                Err(mistake(named.span, message))
            }
        }
    }
}

fn missing(at: Span, configured: &BTreeSet<&str>) -> Error {
    let message = format!(
        "add 'issuer': the same name, e-mail address or group can belong to different people at each \
         issuer, and several are configured ({}); name the one whose people these are, or list all \
         that vouch for the same people",
        listed(configured)
    );
    mistake(at, message)
}

fn listed(configured: &BTreeSet<&str>) -> String {
    configured.iter().copied().collect::<Vec<_>>().join(", ")
}
