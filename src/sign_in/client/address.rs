//! The address at a provider where people sign in, with its parameters.

use std::collections::BTreeSet;

use url::Url;

/// An address whose parameters are each there once.
///
/// The invariant: what was set first stays. So neither the operator's parameters nor those in the provider's own
/// discovery document replace those that protect a sign-in.
pub(super) struct Address {
    url: Url,
    /// The parameters of the discovery document, which come last: Azure AD B2C has one for the policy.
    before: Vec<(String, String)>,
    names: BTreeSet<String>,
}

impl Address {
    pub(super) fn new(mut url: Url) -> Self {
        let before = url.query_pairs().into_owned().collect();
        url.set_query(None);
        Self { url, before, names: BTreeSet::new() }
    }

    /// Sets a parameter of the agent.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.add(name, value);
    }

    /// Adds a parameter, if there is none of this name yet.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        if self.names.insert(name.to_owned()) {
            self.url.query_pairs_mut().append_pair(name, value);
        }
    }

    pub(super) fn url(mut self) -> Url {
        for (name, value) in std::mem::take(&mut self.before) {
            self.add(&name, &value);
        }
        self.url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q16_no_parameter_replaces_one_that_protects_the_sign_in() {
        let url = "https://idp.example.com/authorize?p=B2C_1_in&state=evil&nonce=&STATE=x&acr_values=theirs";
        let mut address = Address::new(url.parse().unwrap());
        let ours = [
            ("state", "s"),
            ("nonce", "n"),
            ("redirect_uri", "https://login"),
            ("prompt", "login"),
        ];
        for (name, value) in ours {
            address.set(name, value);
        }
        for (name, value) in [
            ("state", "evil"),
            ("nonce", "evil"),
            ("redirect_uri", "https://evil"),
            ("prompt", "none"),
            ("acr_values", "mfa & more"),
        ] {
            address.add(name, value);
        }
        let url = address.url();
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        let want = [
            ("state", "s"),
            ("nonce", "n"),
            ("redirect_uri", "https://login"),
            ("prompt", "login"),
            ("acr_values", "mfa & more"),
            ("p", "B2C_1_in"),
            ("STATE", "x"),
        ];
        assert_eq!(pairs, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
