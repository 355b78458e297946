//! What HAProxy's configuration must know of the agent's, for `haproxy generate` and `haproxy lint`.

use super::Config;
use crate::{
    agent::Listen,
    haproxy_config::{
        generate::{Facts, Version},
        lint::MARGIN,
        room::{Groups, HeaderRoom},
    },
};

/// How much longer than its pattern the identifier of a tenant's issuer can be, in bytes.
const TENANT: usize = 64;

impl Config {
    /// The values of this configuration that HAProxy's must fit.
    #[must_use]
    pub fn haproxy_facts(&self, version: Version) -> Facts {
        let credentials = self.credentials.as_ref();
        let response_timeout = self.agent.response_timeout;
        let sign_in = self
            .sign_in
            .as_ref()
            .map(|sign_in| (sign_in.sessions.urls.login.to_string(), sign_in.listen.to_string()));
        Facts {
            version,
            agent: address(&self.agent.listen),
            processing: response_timeout + MARGIN,
            response_timeout,
            sign_in,
            login_port: self.sign_in.as_ref().map_or(443, |sign_in| sign_in.sessions.urls.port),
            header: credentials.and_then(|sources| Some(sources.header.as_ref()?.as_str().into())),
            cookie: credentials.is_some_and(|sources| sources.cookie.is_some()),
            query: credentials.is_some_and(|sources| sources.query.is_some()),
            subprotocol: credentials.is_some_and(|sources| sources.subprotocol),
            metadata: self.agent.resource_metadata,
            several: self.sign_in.as_ref().is_some_and(|sign_in| sign_in.sessions.redis.is_some()),
            reuse: self.agent.reuse,
            room: self.header_room(),
        }
    }

    /// The room that HAProxy needs for the headers about people of this configuration.
    #[must_use]
    pub fn header_room(&self) -> HeaderRoom {
        let profiles = || self.issuers.iter().map(|issuer| &issuer.profile);
        let longest = profiles().map(|profile| profile.issuer.as_str().len()).max();
        let has_groups = profiles().any(|profile| !profile.claims.groups.is_empty());
        let groups = if has_groups { Groups::Possible } else { Groups::Never };
        HeaderRoom::for_headers(longest.unwrap_or_default() + TENANT, groups)
    }
}

/// The address at which HAProxy connects to the agent. A unix socket is preferred, since TCP takes twice as much time.
fn address(listen: &[Listen]) -> Option<String> {
    let unix = listen.iter().find_map(|listen| match listen {
        Listen::Unix(path) => {
            Some(format!("unix@{}", std::path::absolute(path).as_deref().unwrap_or(path).display()))
        }
        Listen::Tcp(_) | Listen::Systemd => None,
    });
    unix.or_else(|| {
        listen.iter().find_map(|listen| match listen {
            // A listener on all addresses is reached on loopback.
            Listen::Tcp(address) if address.ip().is_unspecified() && address.port() != 0 => {
                let loopback = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
                Some(format!("{loopback}:{}", address.port()))
            }
            Listen::Tcp(address) if address.port() != 0 => Some(address.to_string()),
            _ => None,
        })
    })
}
