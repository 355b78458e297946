//! What an operator configures of sign-in with a browser, and how its clients and pages are built from that.
//!
//! A reload builds [`Configured`] again; where the pages listen and where sessions are stored changes with a restart
//! only.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;

use super::{
    Configured,
    client::Client,
    page::{PageSettings, Pages},
};
use crate::{
    identity::{provider::Provider, settings::IssuerSettings},
    sessions::settings::SessionSettings,
};

/// How people sign in with a browser.
#[derive(Debug)]
pub struct SignInSettings {
    /// Where HAProxy finds the pages.
    pub listen: SocketAddr,
    /// How often a provider is asked whether a session in use is still valid; never by default.
    pub refresh: Option<Duration>,
    /// What people see.
    pub pages: PageSettings,
    /// Where the sessions are stored, and how long they last.
    pub sessions: SessionSettings,
}

impl SignInSettings {
    /// The clients of all issuers at which people sign in, and the pages. `issuers` and `providers` are in the same
    /// order.
    ///
    /// # Errors
    /// A secret, a certificate or a file of the pages cannot be read.
    pub fn build(
        &self,
        issuers: &[IssuerSettings],
        providers: &[Arc<Provider>],
    ) -> anyhow::Result<Configured> {
        let (mut clients, mut labels) = (Vec::new(), Vec::new());
        for (issuer, provider) in issuers.iter().zip(providers) {
            let Some(client) = &issuer.client else { continue };
            let name = &issuer.profile.authority.name;
            let authentication = client
                .key
                .authentication()
                .with_context(|| format!("[issuer.sign_in] of the issuer '{name}'"))?;
            clients.push(Arc::new(Client::new(
                Arc::clone(provider),
                issuer.fetcher()?,
                client.clone(),
                authentication,
                self.refresh,
            )));
            labels.push((name.clone(), client.label.clone().unwrap_or_else(|| name.clone())));
        }
        let pages = Pages::load(self.pages.clone(), labels).context("the table [sign_in.pages]")?;
        Ok(Configured { clients: clients.into(), pages: Arc::new(pages) })
    }
}
