//! Which e-mail addresses of an issuer are taken as verified.
//!
//! An address identifies a person to platforms that know their members by it, so one that its owner could have made up
//! must never be used. Issuers differ in how they vouch: with `email_verified`, with a claim of another name, as text, or
//! not at all because their administrators alone give out addresses. All but the first are the operator's choice.

use serde_json::{Map, Value};

use super::ClaimPath;

/// How an issuer vouches for e-mail addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailVouching {
    /// The claim that says whether the address is verified.
    pub claim: ClaimPath,
    /// Which values of the claim mean that it is.
    pub form: VouchingForm,
    /// Domains whose addresses need no claim, in lower case.
    pub managed_domains: Vec<Box<str>>,
}

/// The values of a claim that mean yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VouchingForm {
    /// `true`.
    Strict,
    /// `true`, `"true"`, `1` and `"1"`: chosen for an issuer that is known to write so.
    Lenient,
}

/// Whether an address is used, and why or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailStanding {
    /// The claim says that it is verified.
    Verified,
    /// Its domain is managed.
    Managed,
    /// There is no claim about it.
    NoClaim,
    /// The claim says yes in a form that is not accepted here.
    OtherForm,
    /// The claim says anything else.
    Unverified,
}

impl EmailVouching {
    /// By the values of a claim.
    #[must_use]
    pub const fn by(claim: ClaimPath, form: VouchingForm) -> Self {
        Self { claim, form, managed_domains: vec![] }
    }

    /// What the issuer says about an address. The domain is compared without regard to the case of ASCII letters.
    #[must_use]
    pub fn standing(&self, claims: &Map<String, Value>, email: &str) -> EmailStanding {
        if self.is_managed(email) {
            return EmailStanding::Managed;
        }
        let Some(value) = self.claim.find(claims) else { return EmailStanding::NoClaim };
        match (value, self.form) {
            (Value::Bool(true), _) => EmailStanding::Verified,
            (value, form) if is_yes_in_another_form(value) => match form {
                VouchingForm::Lenient => EmailStanding::Verified,
                VouchingForm::Strict => EmailStanding::OtherForm,
            },
            _ => EmailStanding::Unverified,
        }
    }

    fn is_managed(&self, email: &str) -> bool {
        // With a second "@" it depends on the reader which part is the domain.
        let Some((local, domain)) = email.split_once('@') else { return false };
        let mut managed = self.managed_domains.iter();
        !local.is_empty() && managed.any(|managed| managed.eq_ignore_ascii_case(domain))
    }
}

impl EmailStanding {
    /// Whether the address may be used.
    #[must_use]
    pub const fn is_used(self) -> bool {
        matches!(self, Self::Verified | Self::Managed)
    }
}

impl Default for EmailVouching {
    fn default() -> Self {
        Self::by(ClaimPath::named("email_verified"), VouchingForm::Strict)
    }
}

fn is_yes_in_another_form(value: &Value) -> bool {
    match value {
        Value::String(text) => text == "true" || text == "1",
        Value::Number(number) => number.as_u64() == Some(1),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn standing(vouching: &EmailVouching, claims: Value, email: &str) -> EmailStanding {
        let Value::Object(claims) = claims else { panic!("not an object: {claims}") };
        vouching.standing(&claims, email)
    }

    #[test]
    fn q13_only_true_vouches_except_where_the_operator_names_the_claim() {
        let usual = EmailVouching::default();
        let named = EmailVouching::by(ClaimPath::named("email_verified"), VouchingForm::Lenient);
        for (value, by_default, where_named) in [
            (json!(true), EmailStanding::Verified, EmailStanding::Verified),
            (json!("true"), EmailStanding::OtherForm, EmailStanding::Verified),
            (json!(1), EmailStanding::OtherForm, EmailStanding::Verified),
            (json!("1"), EmailStanding::OtherForm, EmailStanding::Verified),
            (json!(false), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!("false"), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!(0), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!(-1), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!(2), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!(1.5), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!("yes"), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!("true "), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!(""), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!(null), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!([true]), EmailStanding::Unverified, EmailStanding::Unverified),
            (json!({"true": true}), EmailStanding::Unverified, EmailStanding::Unverified),
        ] {
            let claims = json!({"email_verified": value});
            assert_eq!(standing(&usual, claims.clone(), "a@x.test"), by_default, "{value}");
            assert_eq!(standing(&named, claims, "a@x.test"), where_named, "{value}");
        }
        assert_eq!(standing(&named, json!({}), "a@x.test"), EmailStanding::NoClaim);
        // Another claim than the one that is named never vouches.
        let edov = EmailVouching::by(ClaimPath::named("xms_edov"), VouchingForm::Lenient);
        let both = json!({"email_verified": true, "xms_edov": "0"});
        assert_eq!(standing(&edov, both, "a@x.test"), EmailStanding::Unverified);
        let other = json!({"email_verified": true});
        assert_eq!(standing(&edov, other, "a@x.test"), EmailStanding::NoClaim);
    }

    #[test]
    fn q13_a_managed_domain_needs_no_claim_and_is_exactly_that_domain() {
        let managed =
            EmailVouching { managed_domains: vec!["corp.test".into()], ..EmailVouching::default() };
        for email in ["alice@corp.test", "Alice@CORP.test"] {
            for claims in [json!({}), json!({"email_verified": false})] {
                assert_eq!(standing(&managed, claims, email), EmailStanding::Managed, "{email}");
            }
        }
        for email in [
            "alice@evil.test",
            "alice@sub.corp.test",
            "alice@xcorp.test",
            "alice@corp.test.evil.test",
            "alice@corp.test@evil.test",
            "\"a@corp.test\"@evil.test",
            "alice@evil.test@corp.test",
            "@corp.test",
            "corp.test",
            "alice@corp.test ",
            "alice@corp.test.",
            "alice@corp.te\u{17f}t",
            "",
        ] {
            assert!(!standing(&managed, json!({}), email).is_used(), "{email}");
        }
        let nothing = EmailVouching::default();
        assert_eq!(standing(&nothing, json!({}), "alice@corp.test"), EmailStanding::NoClaim);
    }
}
