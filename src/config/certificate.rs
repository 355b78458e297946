//! The tables `[[certificate]]`: which client certificates are accepted, and who each stands for.

use std::sync::Arc;

use super::{
    kinds::{Choice, List, Words},
    section::{Report, Section, table},
};
use crate::{
    diagnostics::Word,
    identity::{
        certificate::{CertificateField, CertificateRule},
        profile::{Authority, MatchBy},
    },
};

table! {
    /// Client certificates that HAProxy verified, as identities. The first rule that applies to a certificate decides.
    CertificateTable = "certificate", repeated;
    /// The name of the rule in lists of workspaces, like the name of an issuer.
    name: required Word, example("\"laptops\"");
    /// The part of the certificate that is the subject. A certificate with several values there is not accepted.
    identity: required Choice<CertificateField>, example("\"email\"");
    /// Only values that begin with this are accepted; it is removed from the subject.
    prefix: optional Word;
    /// Only certificates with this issuer are accepted, such as `CN=Corp Machines`.
    issuer: optional Word, example("\"CN=Corp Machines\"");
    /// The fields by which a person is recognised as owner or as a person with a grant, as for issuers.
    matching as "match": default List<Choice<MatchBy>> = vec![MatchBy::Subject];
}

impl Section for CertificateTable {
    type Value = CertificateRule;

    fn build(self, _: &mut Report) -> Option<CertificateRule> {
        let (name, field, prefix) = (self.name?, self.identity?, self.prefix.unwrap_or_default());
        // The identifier does not contain the certificate's issuer: a revoked subject stays revoked when the authority
        // that signs certificates is replaced.
        let identifier = format!("certificate:{}:{prefix}", field.id()).into();
        let authority =
            Authority { name, identifier, accepted: [].into(), matching: self.matching };
        let issuer = self.issuer;
        Some(CertificateRule { authority: Arc::new(authority), field, prefix, issuer })
    }
}

impl Words for CertificateField {
    fn words() -> Vec<(&'static str, Self)> {
        let fields = [Self::CommonName, Self::DnsName, Self::Email, Self::Uri];
        fields.map(|field| (field.id(), field)).into()
    }
}

impl Words for MatchBy {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("subject", Self::Subject), ("email", Self::Email), ("username", Self::Username)]
    }
}
