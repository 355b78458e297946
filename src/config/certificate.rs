//! A `[[certificate]]` table.

use std::sync::Arc;

use toml_span::{DeserError, Deserialize, Span, Value, de_helpers::TableHelper};

use super::issuer::RawMatch;
use crate::{
    diagnostics::{Word, choice},
    identity::{
        certificate::{CertificateRule, Field},
        profile::{Authority, MatchBy},
    },
};

/// A rule with its place in the file.
pub(super) struct RawCertificate {
    pub rule: CertificateRule,
    pub span: Span,
}

impl<'de> Deserialize<'de> for RawCertificate {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let name = table.required::<Word>("name");
        let field = table.required::<RawField>("identity");
        let prefix = table.optional::<Word>("prefix").map_or_else(Box::default, |word| word.0);
        let issuer = table.optional::<Word>("issuer").map(|word| word.0);
        let matching = table.optional::<Vec<RawMatch>>("match");
        table.finalize(None)?;
        let matching = matching.map_or_else(
            || vec![MatchBy::Subject],
            |rules| rules.into_iter().map(|rule| rule.0).collect(),
        );
        let (name, field) = (name?.0, field?.0);
        // Without the certificate's issuer: a subject that was revoked stays so under the next authority.
        let identifier = format!("certificate:{}:{prefix}", field.id()).into();
        let authority = Arc::new(Authority { name, identifier, accepted: [].into(), matching });
        Ok(Self { rule: CertificateRule { authority, field, prefix, issuer }, span })
    }
}

struct RawField(Field);

impl<'de> Deserialize<'de> for RawField {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let fields = [Field::CommonName, Field::DnsName, Field::Email, Field::Uri];
        choice(value, &fields.map(|field| (field.id(), field))).map(Self)
    }
}
