//! The HTTP client of the agent's own requests: to issuers and to the APIs of platforms.
//!
//! The variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment are honoured. Addresses of
//! loopback are never reached through a proxy: there they would be those of the proxy's machine, which could answer in
//! place of a provider or platform on this one.

use reqwest::{Client, ClientBuilder};
use url::{Host, Url};

/// The variables that name a proxy, in both spellings that are in use.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A client for addresses that are reached through the proxy of the environment, and one for the others.
#[derive(Clone, Debug)]
pub struct HttpClient {
    usual: Client,
    direct: Client,
}

impl HttpClient {
    /// A client of each kind with these settings. Without a proxy in the environment both are one.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn build(builder: impl Fn() -> ClientBuilder) -> Result<Self, reqwest::Error> {
        let direct = builder().no_proxy().build()?;
        let usual =
            if proxy_variables().next().is_some() { builder().build()? } else { direct.clone() };
        Ok(Self { usual, direct })
    }

    /// The client for an address. Redirects to other addresses must not be followed by it.
    #[must_use]
    pub fn of(&self, url: &Url) -> &Client {
        if is_loopback(url) { &self.direct } else { &self.usual }
    }
}

/// Whether an address is one of this machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            // RFC 6761 section 6.3.
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

/// The variables of the environment that name a proxy.
pub fn proxy_variables() -> impl Iterator<Item = &'static str> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    PROXY_VARIABLES.into_iter().filter(is_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q16_addresses_of_this_machine_are_recognised_in_every_spelling() {
        for here in [
            "http://127.0.0.1:8080/x",
            "https://127.255.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]:1/",
            "http://[::ffff:127.0.0.1]/",
            "https://LOCALHOST:8443/",
            "https://localhost./",
            "http://idp.localhost/",
        ] {
            assert!(is_loopback(&here.parse().unwrap()), "{here}");
        }
        for elsewhere in [
            "https://idp.example.com/",
            "http://127.0.0.1.evil.test/",
            "http://localhost.evil.test/",
            "http://notlocalhost/",
            "http://[::2]/",
            "http://[::ffff:10.0.0.1]/",
            "http://10.0.0.1/",
            "http://0.0.0.0/",
            "mailto:a@localhost",
        ] {
            assert!(!is_loopback(&elsewhere.parse().unwrap()), "{elsewhere}");
        }
    }
}
