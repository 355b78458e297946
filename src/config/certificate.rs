//! A `[[certificate]]` table.

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
    /// Client certificates that HAProxy verified, as identities. The first rule that fits decides.
    CertificateTable = "certificate", repeated;
    /// What lists of workspaces call it.
    name: required Word, example("\"laptops\"");
    /// What of the certificate is the subject; of several values none is taken.
    identity: required Choice<CertificateField>, example("\"email\"");
    /// Only values that begin so are taken, without it.
    prefix: optional Word;
    /// Only certificates of this issuer, such as `CN=Corp Machines`.
    issuer: optional Word, example("\"CN=Corp Machines\"");
    /// As for issuers.
    matching as "match": default List<Choice<MatchBy>> = vec![MatchBy::Subject];
}

impl Section for CertificateTable {
    type Value = CertificateRule;

    fn build(self, _: &mut Report) -> Option<CertificateRule> {
        let (name, field, prefix) = (self.name?, self.identity?, self.prefix.unwrap_or_default());
        // Without the certificate's issuer: a subject that was revoked stays so under the next authority.
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
