//! An `[issuer.introspection]` table.

use std::time::Duration;

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use crate::{
    config::{
        Introspection,
        values::{client_key, number},
    },
    diagnostics::{Word, mistake},
};

/// The longest time that an answer may be kept, in seconds: so long a token may live on after its issuer
/// took it back.
const MAX_KEEP: u64 = 60;

impl<'de> Deserialize<'de> for Introspection {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let client_id = table.required::<Word>("client_id");
        let key = client_key(&mut table, span);
        let endpoint = table.optional::<String>("endpoint");
        let keep = number(&mut table, "cache_seconds", 1..=MAX_KEEP);
        table.finalize(None)?;
        let Some(key) = key else { return Err(mistake(span, "no client key").into()) };
        let keep = Duration::from_secs(keep.unwrap_or(MAX_KEEP));
        Ok(Self { client_id: client_id?.0, key, endpoint, keep })
    }
}
