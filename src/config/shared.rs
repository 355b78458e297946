//! The table `[shared]`: where several agents share sessions and revocations.

use std::{path::PathBuf, time::Duration};

use super::{
    key::Shown,
    kinds::{Form, Parsed, Seconds},
    section::{Report, Section, table},
};
use crate::sessions::shared::Address;

/// Where several agents share sessions and revocations.
#[derive(Debug)]
pub struct Shared {
    /// The store.
    pub address: Address,
    /// The agent's name there.
    pub user: Option<String>,
    /// The password, where it asks for one.
    pub password: Option<Password>,
    /// Certificates of a private authority, PEM.
    pub authority: Option<PathBuf>,
    /// How all names in it begin.
    pub prefix: String,
    /// How long sessions are valid after it was last heard.
    pub keep: Duration,
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

table! {
    /// A Redis (6.2 or later) or Valkey in which several agents share sessions and revocations; needs `[sign_in]`.
    SharedTable = "shared", restart;
    /// `redis://HOST:PORT/DATABASE`, `rediss://…` (TLS) or `redis+unix:///PATH`, without a password.
    url: required Parsed<Address>, example("\"rediss://redis.example.com:6379/0\"");
    /// The agent's name at the store.
    username: optional String, example("\"identity-spoa\"");
    /// A file with the password.
    password_file: optional PathBuf, example("\"redis-password\"");
    /// A variable of the environment with the password.
    password_env: optional String, example("\"REDIS_PASSWORD\"");
    /// A private authority instead of the system's, PEM.
    ca_file: optional PathBuf, example("\"redis-ca.pem\"");
    /// How all names in it begin.
    prefix: default Prefix = "identity-spoa".into();
    /// Sessions are valid so long after the store was last heard; then 503.
    keep_seconds: default Seconds<0, 86_400> = Duration::from_mins(5);
}

impl Section for SharedTable {
    type Value = Shared;

    fn build(self, report: &mut Report) -> Option<Shared> {
        let password = match (self.password_file, self.password_env) {
            (Some(_), Some(_)) => {
                report.mistake("expected 'password_file' or 'password_env', found both");
                return None;
            }
            (file, env) => file.map(Password::File).or(env.map(Password::Env)),
        };
        Some(Shared {
            address: self.url?,
            user: self.username,
            password,
            authority: self.ca_file,
            prefix: self.prefix,
            keep: self.keep_seconds,
        })
    }
}

/// How names in the store begin.
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
