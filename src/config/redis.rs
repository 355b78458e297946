//! The table `[redis]`: the store in which several agents share sessions and revocations.

use std::{path::PathBuf, time::Duration};

use super::{
    key::Shown,
    kinds::{Form, Parsed, Seconds},
    section::{Report, Section, table},
};
use crate::{
    secret::SecretLocation,
    sessions::{settings::SharedStoreSettings, store::redis::Address},
};

table! {
    /// The Redis (6.2 or later) or Valkey in which several agents share sessions and revocations; needs `[sign_in]`.
    RedisTable = "redis", restart;
    /// `redis://HOST:PORT/DATABASE`, `rediss://…` (TLS) or `redis+unix:///PATH`, without a password.
    url: required Parsed<Address>, example("\"rediss://redis.example.com:6379/0\"");
    /// The agent's user name at Redis.
    username: optional String, example("\"identity-spoa\"");
    /// A file with the password.
    password_file: optional PathBuf, example("\"redis-password\"");
    /// An environment variable with the password.
    password_env: optional String, example("\"REDIS_PASSWORD\"");
    /// Certificates of a private authority, PEM; trusted instead of those of the system.
    ca_file: optional PathBuf, example("\"redis-ca.pem\"");
    /// The beginning of all names that the agents use in Redis.
    prefix: default Prefix = "identity-spoa".into();
    /// How long sessions stay valid while Redis does not answer. Afterwards requests with a session get 503.
    max_staleness_seconds: default Seconds<0, 86_400> = Duration::from_mins(5);
}

impl Section for RedisTable {
    type Value = SharedStoreSettings;

    fn build(self, report: &mut Report) -> Option<SharedStoreSettings> {
        let password = match (self.password_file, self.password_env) {
            (Some(_), Some(_)) => {
                report.mistake("expected 'password_file' or 'password_env', found both");
                return None;
            }
            (file, env) => file.map(SecretLocation::File).or(env.map(SecretLocation::Env)),
        };
        Some(SharedStoreSettings {
            address: self.url?,
            user: self.username,
            password,
            ca_file: self.ca_file,
            prefix: self.prefix,
            max_staleness: self.max_staleness_seconds,
        })
    }
}

/// The beginning of names in Redis, of characters that no pattern or separator there has.
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
