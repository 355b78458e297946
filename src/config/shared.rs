//! The table `[shared]`: where several agents share sessions and revocations.

use std::{path::PathBuf, time::Duration};

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use crate::{
    config::values::{Parsed, seconds},
    diagnostics::mistake,
    sessions::shared::Address,
};

/// Where several agents share sessions and revocations.
#[derive(Debug)]
pub struct Shared {
    /// The store.
    pub address: Address,
    /// Who we are to it.
    pub user: Option<String>,
    /// The password, where it asks for one.
    pub password: Option<Password>,
    /// Certificates of a private authority, PEM.
    pub authority: Option<PathBuf>,
    /// How all names in it begin.
    pub prefix: String,
    /// How long sessions count after it was last heard.
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

impl<'de> Deserialize<'de> for Shared {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let address = table.required::<Parsed<Address>>("url");
        let user = table.optional::<String>("username");
        let file = table.optional::<String>("password_file").map(PathBuf::from);
        let env = table.optional::<String>("password_env");
        let authority = table.optional::<String>("ca_file").map(PathBuf::from);
        let prefix = table.optional_s::<String>("prefix");
        let keep = seconds(&mut table, "keep_seconds", 0..=86_400, Duration::from_mins(5));
        let password = match (file, env) {
            (Some(file), None) => Some(Password::File(file)),
            (None, Some(env)) => Some(Password::Env(env)),
            (None, None) => None,
            (Some(_), Some(_)) => {
                let message = "expected 'password_file' or 'password_env', found both";
                table.errors.push(mistake(span, message));
                None
            }
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if let Some(prefix) = &prefix
            && (prefix.value.is_empty() || !prefix.value.bytes().all(plain))
        {
            let message = "expected a name of letters, digits, '-' and '_'";
            table.errors.push(mistake(prefix.span, message));
        }
        table.finalize(None)?;
        let prefix = prefix.map_or_else(|| "identity-spoa".into(), |prefix| prefix.value);
        Ok(Self { address: address?.0, user, password, authority, prefix, keep })
    }
}
