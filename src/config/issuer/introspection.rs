//! An `[issuer.introspection]` table.

use std::{path::PathBuf, time::Duration};

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use crate::config::{
    ClientKey, Introspection,
    document::mistake,
    file::{Word, number},
};

/// The longest time that an answer may be kept, in seconds: so long a token may live on after its issuer
/// took it back.
const MAX_KEEP: u64 = 60;

impl<'de> Deserialize<'de> for Introspection {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let client_id = table.required::<Word>("client_id");
        let secret_file = table.optional::<String>("client_secret_file").map(PathBuf::from);
        let secret_env = table.optional::<String>("client_secret_env");
        let key_file = table.optional::<String>("private_key_file").map(PathBuf::from);
        let key_id = table.optional::<String>("key_id");
        let endpoint = table.optional::<String>("endpoint");
        let keep = number(&mut table, "cache_seconds", 1..=MAX_KEEP);
        let key = match (secret_file, secret_env, key_file, key_id) {
            (Some(file), None, None, None) => Some(ClientKey::SecretFile(file)),
            (None, Some(name), None, None) => Some(ClientKey::SecretEnv(name)),
            (None, None, Some(file), id) => Some(ClientKey::PrivateKey(file, id)),
            _ => {
                table.errors.push(mistake(
                    span,
                    "expected exactly one of 'client_secret_file', 'client_secret_env' and 'private_key_file' (with 'key_id')",
                ));
                None
            }
        };
        table.finalize(None)?;
        let Some(key) = key else { return Err(mistake(span, "no client key").into()) };
        let keep = Duration::from_secs(keep.unwrap_or(MAX_KEEP));
        Ok(Self { client_id: client_id?.0, key, endpoint, keep })
    }
}
