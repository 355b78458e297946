//! Client certificates as identities: for machines, and for TCP streams, which have no token.
//!
//! HAProxy verifies the chain, the dates and the proof of the key; this module only reads a certificate that HAProxy
//! verified. A [`CertificateRule`] says which field names the person.
//!
//! The invariant: a field with several values gives no identity, since the rule cannot choose between them.

use std::sync::Arc;

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{Authority, Identity, TokenIds, claims::MAX_SUBJECT, groups::JoinedGroups};
use crate::time::Timestamp;

/// The longest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// The field of a certificate that names the person or machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateField {
    /// The common name of the subject.
    CommonName,
    /// The DNS name among the alternative names.
    DnsName,
    /// The e-mail address among the alternative names.
    Email,
    /// The URI among the alternative names, such as a SPIFFE id.
    Uri,
}

/// A rule about which certificates are identities (`[[certificate]]` of the configuration).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// The name of the rule, and how its identities are matched with people.
    pub authority: Arc<Authority>,
    /// The field that has the subject.
    pub field: CertificateField,
    /// How the value of the field must begin; the subject is the rest.
    pub prefix: Box<str>,
    /// The issuer that the certificate must have, as RFC 4514 text.
    pub issuer: Option<Box<str>>,
}

impl CertificateRule {
    /// The identity of a verified certificate; `None` if the rule does not apply to it.
    ///
    /// A certificate with several values in the field has none: the rule cannot choose between them.
    #[must_use]
    pub fn identify(&self, der: &[u8], now: Timestamp) -> Option<Identity> {
        if der.len() > MAX_CERTIFICATE {
            return None;
        }
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        let issuer = certificate.issuer().to_string();
        let of_issuer = self.issuer.as_ref().is_none_or(|wanted| **wanted == *issuer);
        let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        let expires = Timestamp::from_secs(end);
        // HAProxy checked the dates when the connection began, which may be long ago.
        if !rest.is_empty() || !of_issuer || expires <= now {
            return None;
        }
        let value = self.field.value(&certificate)?;
        let subject = value.strip_prefix(&*self.prefix)?;
        let plain = subject.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if subject.is_empty() || subject.len() > MAX_SUBJECT || !plain {
            return None;
        }
        let email =
            (self.field == CertificateField::Email).then(|| value.to_ascii_lowercase().into());
        Some(Identity {
            authority: Arc::clone(&self.authority),
            // Nothing is decided by this text, so characters that cannot stand in a header are dropped.
            issuer: issuer.chars().filter(|c| !c.is_control()).collect::<String>().into(),
            subject: subject.into(),
            email,
            username: None,
            groups: vec![],
            groups_joined: JoinedGroups::default(),
            groups_overage: false,
            organization: None,
            token: TokenIds::default(),
            bound_to: None,
            expires,
        })
    }
}

impl CertificateField {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::CommonName => "common_name",
            Self::DnsName => "dns_name",
            Self::Email => "email",
            Self::Uri => "uri",
        }
    }

    /// The value of the field, if there is exactly one.
    fn value<'c>(self, certificate: &'c X509Certificate<'_>) -> Option<&'c str> {
        let mut values = match self {
            Self::CommonName => {
                let names = certificate.subject().iter_common_name();
                names.filter_map(|name| name.as_str().ok()).collect()
            }
            Self::DnsName | Self::Email | Self::Uri => self.alternative_names(certificate),
        };
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Some(value),
            _ => None,
        }
    }

    fn alternative_names<'c>(self, certificate: &'c X509Certificate<'_>) -> Vec<&'c str> {
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
        let of_kind = |name: &'c GeneralName<'_>| match (self, name) {
            (Self::DnsName, GeneralName::DNSName(name))
            | (Self::Email, GeneralName::RFC822Name(name))
            | (Self::Uri, GeneralName::URI(name)) => Some(*name),
            _ => None,
        };
        names.value.general_names.iter().filter_map(of_kind).collect()
    }
}
