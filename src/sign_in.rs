//! Sign-in with a browser: the web server, the OpenID Connect client, and what happens to a session afterwards.
//!
//! [`web`] serves the pages at the login host and below one path of each workspace's host; [`page`] has what they say
//! and how they look. [`client`] talks to the providers, [`refresh`] asks them about sessions in use, and
//! [`logout`] verifies their logout tokens. [`record`] writes the audit records.
//!
//! The sessions themselves and the values that travel through browsers are in [`crate::sessions`], where the gate finds
//! them. Sessions last as long as the process or the store; providers and pages change with a reload.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{identity::Identity, sessions::BrowserSessions};

pub mod client;
pub mod logout;
pub mod page;
pub mod record;
pub mod refresh;
pub mod settings;
pub mod web;

use client::Client;
use page::Pages;

/// Sign-in of the running agent.
pub struct SignIn {
    /// The sessions, shared with the gate.
    pub browser: Arc<BrowserSessions>,
    configured: ArcSwap<Configured>,
}

/// What a reload of the configuration changes.
pub struct Configured {
    /// The providers at which people sign in; at least one.
    pub clients: Arc<[Arc<Client>]>,
    /// The pages in the operator's words.
    pub pages: Arc<Pages>,
}

impl SignIn {
    /// Sign-in with these sessions.
    #[must_use]
    pub fn new(browser: Arc<BrowserSessions>, configured: Configured) -> Self {
        Self { browser, configured: ArcSwap::from_pointee(configured) }
    }

    /// The providers and pages of the current configuration.
    #[must_use]
    pub fn configured(&self) -> Arc<Configured> {
        self.configured.load_full()
    }

    /// Replaces the providers and pages after a reload.
    pub fn replace(&self, configured: Configured) {
        self.configured.store(Arc::new(configured));
    }
}

impl Configured {
    /// The client of the provider at which this person signed in, whatever its configured name is now. No other provider
    /// may see the tokens of the session.
    #[must_use]
    pub fn client_of(&self, identity: &Identity) -> Option<Arc<Client>> {
        let is_it = |client: &&Arc<Client>| client.accepts(&identity.issuer);
        self.clients.iter().find(is_it).cloned()
    }

    /// The client of the provider with this configured name.
    #[must_use]
    pub fn client(&self, issuer: &str) -> Option<Arc<Client>> {
        self.clients.iter().find(|client| client.issuer() == issuer).cloned()
    }
}
