//! The domains of e-mail addresses that an issuer manages.

use crate::config::kinds::Form;

/// A domain in lower case, such as `example.com`.
pub(super) struct EmailDomain;

impl Form for EmailDomain {
    type Value = Box<str>;

    fn parse(text: &str) -> Result<Box<str>, String> {
        // Addresses are compared in lower case, and the internet has no domain of one label.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let labels: Vec<_> = text.split('.').collect();
        let are_labels = labels.iter().all(|label| !label.is_empty() && label.bytes().all(plain));
        if labels.len() < 2 || !are_labels {
            return Err(format!(
                "expected a domain in lower case such as \"example.com\", without \"@\", found {text:?}"
            ));
        }
        Ok(text.into())
    }
}
