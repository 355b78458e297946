//! The table `[audit]`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use toml_span::{DeserError, Value};

use super::{
    key::{Kind, Shape},
    kinds::{Choice, Number, Parsed, Seconds, words_of},
    section::{Report, Section, table},
};
use crate::audit::{AuditSettings, CheckpointInterval, Rotation, SyslogAddress, WhenFull, verify};

const DAY: u64 = 86_400;

table! {
    /// Where each decision is recorded.
    AuditTable = "audit", restart;
    /// The file; `-` is standard output.
    file: optional Output, note("standard output"), example("\"audit.jsonl\"");
    /// Records that may wait to be written.
    buffer_kib: default Number<16, 1_048_576, usize> = AuditSettings::default().buffer / 1024;
    /// What happens to requests whose record cannot be kept: refused, or allowed and the number of lost records is on record.
    when_full: default Choice<WhenFull> = WhenFull::default();
    /// Whether records go to standard output too.
    stdout: optional bool, note("only where there is no `file` and no `syslog`");
    /// Syslog on this machine: `unix:/dev/log`, `udp:IP:PORT` or `tcp:IP:PORT`.
    syslog: optional Parsed<SyslogAddress>, example("\"unix:/dev/log\"");
    /// The key that signs checkpoints.
    key_file: optional PathBuf, note("`FILE.key`, made if absent"), example("\"audit.jsonl.key\"");
    /// A checkpoint is made after so many records.
    checkpoint_records: default Number<1, { verify::MAX_RECORDS }> = CheckpointInterval::default().records;
    /// Or after so long.
    checkpoint_seconds: default Seconds<1, 3600> = CheckpointInterval::default().time;
    /// A new file is begun at this size.
    rotate_mib: optional Number<1, 1_048_576>, example("1024");
    /// Or at this age.
    rotate_hours: optional Number<1, 8784>, example("24");
    /// Old files are removed after this time.
    keep_days: optional Number<1, 36_525>, note("never"), example("90");
    /// Identical allows within this time become one record with a count; 0: never.
    dedupe_seconds: default Seconds<0, 3600> = Duration::ZERO;
}

impl Section for AuditTable {
    type Value = AuditSettings;

    fn build(self, report: &mut Report) -> Option<AuditSettings> {
        let to_stdout = matches!(self.file, Some(Output::Stdout));
        let (file, key) = match self.file {
            Some(Output::File(file)) => (Some(file.clone()), beside(&file)),
            Some(Output::Device(file)) => (Some(file), None),
            Some(Output::Stdout) | None => (None, None),
        };
        let rotates =
            self.rotate_mib.is_some() || self.rotate_hours.is_some() || self.keep_days.is_some();
        if rotates && file.is_none() && report.is_clean() {
            report.mistake("'rotate_mib', 'rotate_hours' and 'keep_days' need a 'file'");
        }
        let nowhere = file.is_none() && self.syslog.is_none();
        Some(AuditSettings {
            stdout: self.stdout.unwrap_or(nowhere) || to_stdout || nowhere,
            key: self.key_file.or(key),
            file,
            syslog: self.syslog,
            buffer: self.buffer_kib * 1024,
            when_full: self.when_full,
            checkpoint: CheckpointInterval {
                records: self.checkpoint_records,
                time: self.checkpoint_seconds,
            },
            rotation: Rotation {
                size: self.rotate_mib.map(|mib| mib * 1024 * 1024),
                age: self.rotate_hours.map(Duration::from_hours),
                keep: self.keep_days.map(|days| Duration::from_secs(days * DAY)),
            },
            dedupe: Some(self.dedupe_seconds).filter(|time| !time.is_zero()),
        })
    }
}

/// The key of a file: beside it, since the agent can write to that directory.
fn beside(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    Some(file.with_file_name(format!("{name}.key")))
}

/// Where records go.
enum Output {
    Stdout,
    /// Of the system, with no key beside it.
    Device(PathBuf),
    File(PathBuf),
}

impl Kind for Output {
    type Value = Self;

    fn shape() -> Shape {
        Shape::Path
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        Ok(match &*text {
            "-" => Self::Stdout,
            device if Path::new(device).starts_with("/dev") => Self::Device(device.into()),
            file => Self::File(base.join(file)),
        })
    }
}

words_of!(WhenFull);
