//! The tables `[haproxy]` and `[tunnels]`.

use std::path::PathBuf;

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use super::{Haproxy, Tunnels};
use crate::{
    config::values::{Parsed, number, small},
    diagnostics::mistake,
    haproxy::Socket,
    tunnels::Settings,
};

impl<'de> Deserialize<'de> for Haproxy {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let sockets = table.required_s::<Vec<Parsed<Socket>>>("sockets");
        if let Ok(sockets) = &sockets
            && sockets.value.is_empty()
        {
            table.errors.push(mistake(sockets.span, "expected at least one socket"));
        }
        let frontends = table.optional::<Vec<String>>("frontends").unwrap_or_default();
        table.finalize(None)?;
        Ok(Self {
            sockets: sockets?.value.into_iter().map(|socket| socket.0).collect(),
            frontends: frontends.into_iter().map(|name| name.into_bytes().into()).collect(),
        })
    }
}

impl<'de> Deserialize<'de> for Tunnels {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let default = Settings::default();
        let mut table = TableHelper::new(value)?;
        let most = number(&mut table, "max", 8..=1_000_000).map_or(default.most, small);
        let longest = number(&mut table, "max_seconds", 1..=31_536_000);
        let longest = longest.map(std::time::Duration::from_secs);
        let outlive_token = table.optional::<bool>("outlive_token").unwrap_or_default();
        let cut_unknown = table.optional::<bool>("cut_unknown").unwrap_or_default();
        let file = table.optional::<String>("file").map(PathBuf::from);
        table.finalize(None)?;
        let settings = Settings { most, longest, outlive_token, cut_unknown, ..default };
        Ok(Self { settings, file })
    }
}
