//! How values of several tables are read.

use crate::{
    config::ClientKey,
    diagnostics::{mistake, parsed},
};
use std::ops::RangeInclusive;
/// A string that parses as `T`.
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use toml_span::DeserError;
use toml_span::Deserialize;
use toml_span::Span;
use toml_span::Value;
use toml_span::de_helpers::TableHelper;
use toml_span::value::ValueInner;
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        parsed(value).map(Self)
    }
}

pub(super) fn number(
    table: &mut TableHelper<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    let (_, mut value) = table.take(key)?;
    let span = value.span;
    match value.take() {
        ValueInner::Integer(n) if u64::try_from(n).is_ok_and(|n| range.contains(&n)) => {
            u64::try_from(n).ok()
        }
        _ => {
            let message = format!("expected a number from {} to {}", range.start(), range.end());
            table.errors.push(mistake(span, message));
            None
        }
    }
}

pub(super) fn seconds(
    table: &mut TableHelper<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
    default: Duration,
) -> Duration {
    number(table, key, range).map_or(default, Duration::from_secs)
}

/// A number whose range fits every machine.
pub(super) fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The keys of a client: a secret in a file or the environment, or a private key.
pub(super) fn client_key(table: &mut TableHelper<'_>, span: Span) -> Option<ClientKey> {
    let secret_file = table.optional::<String>("client_secret_file").map(PathBuf::from);
    let secret_env = table.optional::<String>("client_secret_env");
    let key_file = table.optional::<String>("private_key_file").map(PathBuf::from);
    let key_id = table.optional::<String>("key_id");
    match (secret_file, secret_env, key_file, key_id) {
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
    }
}
