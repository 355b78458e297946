//! Sign-in with a browser, as a server: the pages, the client of each provider, and the questions that are asked of
//! providers later on.
//!
//! [`web`] serves the pages at the login host and below one path of each workspace host; [`client`] is this program as
//! an OpenID Connect client; [`page`] has what people see; [`logout`] reads the logout tokens of providers;
//! [`refresh`] asks providers again about sessions that are in use. The sessions themselves and the values that travel
//! through browsers are in [`crate::sessions`], where the gate finds them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{identity::Identity, sessions::BrowserSessions};

pub mod client;
pub mod logout;
pub mod page;
pub mod record;
pub mod refresh;
pub mod web;

use client::Client;
use page::Pages;

/// Sign-in of the running agent. The sessions last as long as the process; what [`Configured`] has changes with the
/// configuration.
pub struct SignIn {
    /// The sessions, shared with the gate.
    pub browser: Arc<BrowserSessions>,
    configured: ArcSwap<Configured>,
}

/// What a reload of the configuration changes.
pub struct Configured {
    /// The providers at which people sign in; at least one.
    pub clients: Arc<[Arc<Client>]>,
    /// What people see.
    pub pages: Arc<Pages>,
}

impl SignIn {
    /// Sign-in at these sessions.
    #[must_use]
    pub fn new(browser: Arc<BrowserSessions>, configured: Configured) -> Self {
        Self { browser, configured: ArcSwap::from_pointee(configured) }
    }

    /// The providers and pages of the current configuration.
    #[must_use]
    pub fn configured(&self) -> Arc<Configured> {
        self.configured.load_full()
    }

    /// Puts those of another configuration in their place.
    pub fn replace(&self, configured: Configured) {
        self.configured.store(Arc::new(configured));
    }
}

impl Configured {
    /// The provider at which this person signed in, whatever its configured name is now: no other may see the tokens
    /// that it gave for the session.
    #[must_use]
    pub fn client_of(&self, identity: &Identity) -> Option<Arc<Client>> {
        let is_it = |client: &&Arc<Client>| client.accepts(&identity.issuer);
        self.clients.iter().find(is_it).cloned()
    }

    /// The provider of that configured name.
    #[must_use]
    pub fn client(&self, issuer: &str) -> Option<Arc<Client>> {
        self.clients.iter().find(|client| client.issuer() == issuer).cloned()
    }
}
