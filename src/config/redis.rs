//! The table `[redis]`: the store in which several agents share sessions and revocations.

use std::{path::PathBuf, time::Duration};

use super::{
    key::Shown,
    kinds::{Form, Parsed, Seconds},
    section::{Report, Section, table},
};
use crate::sessions::store::redis::Address;

/// The store in which several agents share sessions and revocations.
#[derive(Debug)]
pub struct Redis {
    /// Where the store is.
    pub address: Address,
    /// The user name of the agent.
    pub user: Option<String>,
    /// The password, if the store requires one.
    pub password: Option<Password>,
    /// Certificates of a private authority, PEM.
    pub authority: Option<PathBuf>,
    /// The prefix of all keys in the store.
    pub prefix: String,
    /// How long sessions stay valid after the store last answered.
    pub max_staleness: Duration,
}

/// Where a password is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
}

table! {
    /// A Redis (6.2 or later) or Valkey in which several agents share sessions and revocations; needs `[sign_in]`.
    RedisTable = "redis", restart;
    /// `redis://HOST:PORT/DATABASE`, `rediss://…` (TLS) or `redis+unix:///PATH`, without a password.
    url: required Parsed<Address>, example("\"rediss://redis.example.com:6379/0\"");
    /// The user name of the agent.
    username: optional String, example("\"identity-spoa\"");
    /// A file with the password.
    password_file: optional PathBuf, example("\"redis-password\"");
    /// A variable of the environment with the password.
    password_env: optional String, example("\"REDIS_PASSWORD\"");
    /// A private authority instead of the system's, PEM.
    ca_file: optional PathBuf, example("\"redis-ca.pem\"");
    /// The prefix of all keys in the store.
    prefix: default Prefix = "identity-spoa".into();
    /// How long sessions stay valid after the store last answered; then their requests get 503.
    max_staleness_seconds: default Seconds<0, 86_400> = Duration::from_mins(5);
}

impl Section for RedisTable {
    type Value = Redis;

    fn build(self, report: &mut Report) -> Option<Redis> {
        let password = match (self.password_file, self.password_env) {
            (Some(_), Some(_)) => {
                report.mistake("expected 'password_file' or 'password_env', found both");
                return None;
            }
            (file, env) => file.map(Password::File).or(env.map(Password::Env)),
        };
        Some(Redis {
            address: self.url?,
            user: self.username,
            password,
            authority: self.ca_file,
            prefix: self.prefix,
            max_staleness: self.max_staleness_seconds,
        })
    }
}

/// The prefix of keys in the store.
struct Prefix;

impl Form for Prefix {
    type Value = String;

    fn parse(text: &str) -> Result<String, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if text.is_empty() || !text.bytes().all(plain) {
            return Err("expected a name of letters, digits, '-' and '_'".into());
        }
        Ok(text.into())
    }
}

impl Shown for Prefix {
    fn show(value: &String) -> String {
        format!("{value:?}")
    }
}
