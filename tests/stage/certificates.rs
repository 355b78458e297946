//! An authority for client certificates, made for one test.

use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair, SanType};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A client's certificate and key.
pub struct Certificate {
    pub der: Vec<u8>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate with a common name and alternative names; `change` does the rest.
    pub fn certificate(
        &self,
        common_name: &str,
        names: &[SanType],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, DnValue::Utf8String(common_name.to_owned()));
        params.subject_alt_names = names.to_vec();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        Certificate { der: certificate.der().to_vec(), pem }
    }

    /// A certificate with one URI.
    pub fn of_uri(&self, uri: &str) -> Certificate {
        self.certificate("client", &[SanType::URI(uri.try_into().unwrap())], |_| ())
    }
}
