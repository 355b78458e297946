//! The table `[policy]`.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use crate::{
    authz::policy::{Mode, PolicySettings},
    diagnostics::{choice, mistake},
};

impl<'de> Deserialize<'de> for PolicySettings {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let directory = table.optional::<String>("directory").map(PathBuf::from);
        let mode = table.optional::<RawMode>("mode").map(|raw| raw.0);
        let shadow = table.optional::<String>("shadow").map(PathBuf::from);
        let shadow_mode = table.optional_s::<RawMode>("shadow_mode");
        let zone = table.optional::<Zone>("time_zone").map_or(TimeZone::UTC, |zone| zone.0);
        if directory.is_none() && shadow.is_none() && table.errors.is_empty() {
            let message = "[policy] needs a 'directory' of policies that are enforced, or a 'shadow' of some that are only put on record";
            table.errors.push(mistake(span, message));
        }
        if let (Some(mode), None) = (&shadow_mode, &shadow) {
            table.errors.push(mistake(mode.span, "'shadow_mode' needs a 'shadow'"));
        }
        table.finalize(None)?;
        let mode = mode.unwrap_or_default();
        let shadow_mode = shadow_mode.map_or(mode, |raw| raw.value.0);
        Ok(Self { directory, mode, shadow, shadow_mode, zone })
    }
}

struct RawMode(Mode);

impl<'de> Deserialize<'de> for RawMode {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let modes = [Mode::Narrow, Mode::Replace].map(|mode| (mode.id(), mode));
        choice(value, &modes).map(Self)
    }
}

struct Zone(TimeZone);

impl<'de> Deserialize<'de> for Zone {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        TimeZone::get(&text).map(Self).map_err(|error| {
            let message = format!(
                "expected a time zone such as \"Europe/Berlin\", found {text:?}: {error} (is tzdata installed?)"
            );
            mistake(value.span, message).into()
        })
    }
}
