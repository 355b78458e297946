//! What an operator configures of browser sessions, and how their store is built from that.
//!
//! Sessions are in memory, in a file, or in a Redis that several agents share. [`SessionSettings::build`] opens the one
//! that is configured; a command that only inspects a configuration gets sessions in memory, since the file or store
//! belongs to the running agent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;

use super::{
    BrowserSessions, Lifetime, Sessions,
    flow::PublicUrls,
    keyring::Keyring,
    store::{
        SessionStore,
        file::FileStore,
        memory::MemoryStore,
        redis::{Address, RedisSettings, RedisStore},
    },
};
use crate::{
    identity::profile::Authority,
    secret::{self, SecretLocation},
    time::Timestamp,
};

/// How long sessions last, and where they are stored.
#[derive(Debug)]
pub struct SessionSettings {
    /// The login host, and the port of HAProxy's https.
    pub urls: PublicUrls,
    /// The file with the keys that encrypt sessions and what travels through browsers.
    pub keys: PathBuf,
    /// The file in which sessions outlive the agent; they are in memory by default.
    pub file: Option<PathBuf>,
    /// The Redis in which several agents share sessions and revocations.
    pub redis: Option<SharedStoreSettings>,
    /// How long sessions last.
    pub lifetime: Lifetime,
}

/// The Redis or Valkey in which several agents share sessions and revocations.
#[derive(Debug)]
pub struct SharedStoreSettings {
    /// Where it is.
    pub address: Address,
    /// The agent's user name there.
    pub user: Option<String>,
    /// The password, where it asks for one.
    pub password: Option<SecretLocation>,
    /// A file with certificates of a private authority, PEM.
    pub ca_file: Option<PathBuf>,
    /// What all names of the agents' keys in it begin with.
    pub prefix: String,
    /// How long sessions stay valid while it does not answer.
    pub max_staleness: Duration,
}

/// What sessions are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The running agent, which has the file or store to itself.
    Run,
    /// A command that looks at a configuration.
    Inspect,
}

impl SessionSettings {
    /// The sessions, with those of an earlier agent that are stored and whose issuer is one of `authorities`. Must be
    /// called within the runtime.
    ///
    /// # Errors
    /// The keys, the file or what is needed for Redis cannot be read.
    pub fn build(
        &self,
        authorities: Vec<Arc<Authority>>,
        purpose: Purpose,
    ) -> anyhow::Result<BrowserSessions> {
        secret::warn_if_readable(&self.keys);
        let keyring = Keyring::read(&self.keys).with_context(|| self.keys_name())?;
        let keyring = Arc::new(keyring);
        // Only the running agent uses the store: another command would be a second user of the file.
        let redis = self.redis.as_ref().filter(|_| purpose == Purpose::Run);
        let redis = redis.map(|redis| redis.build(Arc::clone(&keyring))).transpose()?;
        let file = self.file.as_ref().filter(|_| purpose == Purpose::Run);
        let store: Arc<dyn SessionStore> = match (&redis, file) {
            (Some(redis), _) => Arc::clone(redis) as _,
            (None, Some(path)) => {
                let store = FileStore::open(path, Arc::clone(&keyring));
                Arc::new(store.with_context(|| format!("the sessions_file {}", path.display()))?)
            }
            (None, None) => Arc::new(MemoryStore),
        };
        let (lifetime, now) = (self.lifetime, Timestamp::now());
        let sessions = Sessions::load(lifetime, store, Arc::clone(&keyring), authorities, now)
            .context("loading the sessions")?;
        let urls = self.urls.clone();
        Ok(BrowserSessions { sessions: Arc::new(sessions), redis, keyring, urls })
    }

    /// Makes the file of keys if it is absent: only the running agent does, before anything reads it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn make_keys(&self) -> anyhow::Result<()> {
        Keyring::create_if_absent(&self.keys).with_context(|| self.keys_name())?;
        Ok(())
    }

    fn keys_name(&self) -> String {
        format!("the encryption_keys_file of [sign_in], {}", self.keys.display())
    }
}

impl SharedStoreSettings {
    /// The store, which is not asked before its first use.
    fn build(&self, keyring: Arc<Keyring>) -> anyhow::Result<Arc<RedisStore>> {
        let authority = self.ca_file.as_ref().map(|path| {
            std::fs::read(path)
                .with_context(|| format!("cannot read the ca_file {} of [redis]", path.display()))
        });
        let password = self.password.as_ref().map(|location| {
            location.read().with_context(|| match location {
                SecretLocation::File(path) => format!("the password_file {}", path.display()),
                SecretLocation::Env(_) => "password_env".to_owned(),
            })
        });
        let settings = RedisSettings {
            address: self.address.clone(),
            user: self.user.clone(),
            password: password.transpose()?,
            authority: authority.transpose()?,
            prefix: self.prefix.clone(),
            max_staleness: self.max_staleness,
        };
        Ok(Arc::new(RedisStore::new(&settings, keyring).context("the store of [redis]")?))
    }
}
