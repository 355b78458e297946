//! Client certificates as identities: for machines, and for TCP streams that carry no token.
//!
//! HAProxy checks the chain, the dates and the key; here a certificate that it verified is only read.

use std::sync::Arc;

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{Authority, Identity, TokenIds, claims::MAX_SUBJECT, groups::JoinedGroups};
use crate::time::Timestamp;

/// The longest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// Which part of a certificate says who it is.
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

/// A kind of certificate that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// Its name, and how its identities are joined to people.
    pub authority: Arc<Authority>,
    /// Who it is.
    pub field: CertificateField,
    /// Only values that start so count; it is taken off.
    pub prefix: Box<str>,
    /// Only certificates of this issuer (RFC 4514 text) count.
    pub issuer: Option<Box<str>>,
}

impl CertificateRule {
    /// The identity that a verified certificate stands for; `None` if the rule is not about it.
    ///
    /// Of several values in the field none counts: which is meant is anybody's guess.
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

    /// The one value of the field.
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
