//! The table `[audit]`: where decisions and events are recorded, and for how long.

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
    /// Where each decision and event is recorded.
    AuditTable = "audit", restart;
    /// The audit file; `-` is standard output.
    file: optional Output, note("standard output"), example("\"audit.jsonl\"");
    /// How many KiB of records may wait to be written.
    buffer_kib: default Number<16, 1_048_576, usize> = AuditSettings::default().buffer / 1024;
    /// What happens to a request whose record cannot be written: `deny` refuses it; `count` allows it and later records the number of lost records.
    when_full: default Choice<WhenFull> = WhenFull::default();
    /// Whether records go to standard output as well.
    stdout: optional bool, note("true without `file` and `syslog`, else false");
    /// A syslog on this machine: `unix:/dev/log`, `udp:IP:PORT` or `tcp:IP:PORT`.
    syslog: optional Parsed<SyslogAddress>, example("\"unix:/dev/log\"");
    /// The private key that signs checkpoints.
    key_file: optional PathBuf, note("`FILE.key`, created if it does not exist"), example("\"audit.jsonl.key\"");
    /// A checkpoint is written after this many records, or earlier after `checkpoint_seconds`.
    checkpoint_records: default Number<1, { verify::MAX_RECORDS }> = CheckpointInterval::default().records;
    /// A checkpoint is written after this time if there are new records.
    checkpoint_seconds: default Seconds<1, 3600> = CheckpointInterval::default().time;
    /// The audit file is rotated when it reaches this size.
    rotate_mib: optional Number<1, 1_048_576>, note("never"), example("1024");
    /// The audit file is rotated when it reaches this age.
    rotate_hours: optional Number<1, 8784>, note("never"), example("24");
    /// Rotated files are removed after this time.
    retention_days: optional Number<1, 36_525>, note("never"), example("90");
    /// Identical allows within this time become one record with a count; 0 turns that off.
    dedupe_seconds: default Seconds<0, 3600> = Duration::ZERO;
}

impl Section for AuditTable {
    type Value = AuditSettings;

    fn build(self, report: &mut Report) -> Option<AuditSettings> {
        let to_stdout = matches!(self.file, Some(Output::Stdout));
        let (file, key) = match self.file {
            Some(Output::File(file)) => (Some(file.clone()), default_key(&file)),
            Some(Output::Device(file)) => (Some(file), None),
            Some(Output::Stdout) | None => (None, None),
        };
        let rotates = self.rotate_mib.is_some()
            || self.rotate_hours.is_some()
            || self.retention_days.is_some();
        if rotates && file.is_none() && report.is_clean() {
            report.mistake("'rotate_mib', 'rotate_hours' and 'retention_days' need a 'file'");
        }
        // Records must go somewhere: without any output that is standard output, whatever `stdout` says.
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
                keep: self.retention_days.map(|days| Duration::from_secs(days * DAY)),
            },
            dedupe: Some(self.dedupe_seconds).filter(|time| !time.is_zero()),
        })
    }
}

/// The default key of an audit file: next to it, since the agent can write to that directory.
fn default_key(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    Some(file.with_file_name(format!("{name}.key")))
}

/// What `file` names.
enum Output {
    /// `-`: standard output.
    Stdout,
    /// A device such as `/dev/stderr`, whose directory can hold no key.
    Device(PathBuf),
    /// A file, which is appended to and may be rotated.
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
