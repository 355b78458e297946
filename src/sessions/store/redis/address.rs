//! Where the shared store is, and how the agent authenticates to it.

use std::{fmt, str::FromStr, time::Duration};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

/// How the store is reached and used.
#[derive(Debug)]
pub struct RedisSettings {
    /// The address.
    pub address: Address,
    /// The user name of the agent; the default user if there is none.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// Certificates of a private authority, PEM.
    pub authority: Option<Vec<u8>>,
    /// The prefix of all keys in the store.
    pub prefix: String,
    /// How long sessions stay valid after the store last answered.
    pub max_staleness: Duration,
}

/// The address of a store: `redis://`, `rediss://` (TLS) or `redis+unix://`, without a password.
#[derive(Clone, Debug)]
pub struct Address(ConnectionInfo);

/// A text is not the address of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected \"redis://HOST:PORT/DATABASE\", \"rediss://…\" (TLS) or \"redis+unix:///PATH\", without a password in it"
)]
pub struct AddressError;

impl RedisSettings {
    /// The address with the user name and password.
    pub(super) fn connection_info(&self) -> ConnectionInfo {
        let info = self.address.0.clone();
        let mut redis = info.redis_settings().clone();
        if let Some(user) = &self.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password.expose_secret());
        }
        info.set_redis_settings(redis)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let info = text.into_connection_info().map_err(|_| AddressError)?;
        let supported = match info.addr() {
            // "#insecure" would accept any certificate.
            ConnectionAddr::TcpTls { insecure, .. } => !insecure,
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) => true,
            _ => false,
        };
        let has_password = info.redis_settings().password().is_some();
        (supported && !has_password).then_some(Self(info)).ok_or(AddressError)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.addr().fmt(f)
    }
}
