//! The tables `[sign_in]` and `[issuer.sign_in]`; `[sign_in.pages]` is in [`super::pages`].

use std::{path::PathBuf, time::Duration};

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use super::{Client, SignIn};
use crate::{
    config::values::{Parsed, client_key, number, seconds},
    diagnostics::{Word, mistake},
    sessions::{Lifetime, flow::Places},
    workspaces::host::Host,
};

impl<'de> Deserialize<'de> for SignIn {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let host = table.required::<Parsed<Host>>("host");
        let port = number(&mut table, "port", 1..=65_535).and_then(|port| u16::try_from(port).ok());
        let listen = table.required::<Parsed<std::net::SocketAddr>>("listen");
        let keys = table.required::<String>("keys_file").map(PathBuf::from);
        let sessions = table.optional::<String>("sessions_file").map(PathBuf::from);
        let idle = seconds(&mut table, "idle_seconds", 60..=2_592_000, Duration::from_hours(8));
        let absolute =
            seconds(&mut table, "absolute_seconds", 60..=2_592_000, Duration::from_hours(24));
        let refresh = seconds(&mut table, "refresh_seconds", 0..=86_400, Duration::from_mins(5));
        let pages = table.optional("pages").unwrap_or_default();
        table.finalize(None)?;
        let places = Places { login: host?.0.as_str().into(), port: port.unwrap_or(443) };
        let lifetime = Lifetime { idle: idle.min(absolute), absolute };
        let refresh = Some(refresh).filter(|every| !every.is_zero());
        Ok(Self { listen: listen?.0, places, keys: keys?, sessions, lifetime, refresh, pages })
    }
}

impl<'de> Deserialize<'de> for Client {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let id = table.required::<Word>("client_id");
        let key = client_key(&mut table, span);
        let scopes = table.optional::<String>("scopes");
        let label = table.optional::<Word>("label").map(|label| label.0);
        table.finalize(None)?;
        let Some(key) = key else { return Err(mistake(span, "no client key").into()) };
        let scopes = scopes.unwrap_or_else(|| "openid email profile".into());
        Ok(Self { id: id?.0, key, scopes, label })
    }
}
