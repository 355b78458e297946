//! The table `[audit]`.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use crate::{
    audit::{CheckpointEvery, Rotation, Settings, SyslogAddress, WhenFull, verify},
    config::values::{Parsed, number, small},
    diagnostics::{choice, mistake},
};

const DAY: u64 = 86_400;
const SECONDS: RangeInclusive<u64> = 1..=3600;

impl<'de> Deserialize<'de> for Settings {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let defaults = Self::default();
        let file = table.optional::<String>("file");
        let to_stdout = file.as_deref() == Some("-");
        let file = file.filter(|file| file != "-").map(PathBuf::from);
        let syslog = table.optional::<Parsed<SyslogAddress>>("syslog").map(|parsed| parsed.0);
        let stdout = table.optional::<bool>("stdout");
        let kib = number(&mut table, "buffer_kib", 16..=1_048_576);
        let when_full = table.optional::<RawWhenFull>("when_full").unwrap_or_default();
        let key = table.optional::<String>("key_file").map(PathBuf::from);
        let records = number(&mut table, "checkpoint_records", 1..=verify::MAX_RECORDS);
        let seconds = number(&mut table, "checkpoint_seconds", SECONDS);
        let mib = number(&mut table, "rotate_mib", 1..=1_048_576);
        let hours = number(&mut table, "rotate_hours", 1..=8784);
        let days = number(&mut table, "keep_days", 1..=36_525);
        let fold = number(&mut table, "fold_seconds", 0..=3600);
        let rotates = mib.is_some() || hours.is_some() || days.is_some();
        if rotates && file.is_none() && table.errors.is_empty() {
            let message = "'rotate_mib', 'rotate_hours' and 'keep_days' need a 'file'";
            table.errors.push(mistake(span, message));
        }
        table.finalize(None)?;
        // A file has its key beside it unless said: the directory is one the agent can write to.
        let key = key.or_else(|| {
            let name = file.as_ref()?.file_name()?.to_str()?;
            let device = file.as_ref()?.starts_with("/dev");
            let key = file.as_ref()?.with_file_name(format!("{name}.key"));
            (!device).then_some(key)
        });
        let nowhere = file.is_none() && syslog.is_none();
        Ok(Self {
            stdout: stdout.unwrap_or(nowhere) || to_stdout || nowhere,
            file,
            syslog,
            buffer: kib.map_or(defaults.buffer, |kib| small(kib) * 1024),
            when_full: when_full.0,
            key,
            checkpoint: CheckpointEvery {
                records: records.unwrap_or(defaults.checkpoint.records),
                time: seconds.map_or(defaults.checkpoint.time, Duration::from_secs),
            },
            rotation: Rotation {
                size: mib.map(|mib| mib * 1024 * 1024),
                age: hours.map(Duration::from_hours),
                keep: days.map(|days| Duration::from_secs(days * DAY)),
            },
            fold: fold.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }
}

#[derive(Default)]
struct RawWhenFull(WhenFull);

impl<'de> Deserialize<'de> for RawWhenFull {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("deny", WhenFull::Deny), ("count", WhenFull::Count)]).map(Self)
    }
}
