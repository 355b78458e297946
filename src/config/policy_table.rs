//! The table `[policy]`: which policies are enforced, and which are only recorded.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::{
    key::Shown,
    kinds::{At, Choice, Form, Words},
    section::{Report, Section, table},
};
use crate::authz::policy::{PolicyMode, PolicySettings};

table! {
    /// Policies in the language Cedar that narrow or widen ownership: see docs/policy.md. At least `directory` or `shadow` is required.
    PolicyTable = "policy";
    /// The directory of the policies that are enforced: all files `*.cedar` in it.
    directory: optional PathBuf, example("\"policies\"");
    /// What enforced policies may do. `narrow`: they only forbid what ownership allows. `replace`: they may also permit what ownership refuses to a person who is signed in.
    mode: default Choice<PolicyMode> = PolicyMode::default();
    /// The directory of shadow policies: they are not enforced; what they would have decided is recorded.
    shadow: optional PathBuf, example("\"policies-next\"");
    /// What shadow policies may do.
    shadow_mode: optional At<Choice<PolicyMode>>, note("as `mode`");
    /// The time zone in which policies see hours and weekdays, such as `Europe/Berlin`.
    time_zone: default Zone = TimeZone::UTC;
}

impl Section for PolicyTable {
    type Value = PolicySettings;

    fn build(self, report: &mut Report) -> Option<PolicySettings> {
        let Self { directory, mode, shadow, shadow_mode, time_zone: zone } = self;
        if directory.is_none() && shadow.is_none() && report.is_clean() {
            report.mistake(
                "[policy] needs a 'directory' of policies that are enforced, or a 'shadow' directory of policies that are only recorded",
            );
        }
        if let (Some(mode), None) = (&shadow_mode, &shadow) {
            report.mistake_at(mode.span, "'shadow_mode' needs a 'shadow'");
        }
        let shadow_mode = shadow_mode.map_or(mode, |mode| mode.value);
        Some(PolicySettings { directory, mode, shadow, shadow_mode, zone })
    }
}

impl Words for PolicyMode {
    fn words() -> Vec<(&'static str, Self)> {
        [Self::Narrow, Self::Replace].map(|mode| (mode.id(), mode)).into()
    }
}

/// A time zone by its name in the database of the system (tzdata).
struct Zone;

impl Form for Zone {
    type Value = TimeZone;

    fn parse(text: &str) -> Result<TimeZone, String> {
        TimeZone::get(text).map_err(|error| {
            format!(
                "expected a time zone such as \"Europe/Berlin\", found {text:?}: {error} (is tzdata installed?)"
            )
        })
    }
}

impl Shown for Zone {
    fn show(value: &TimeZone) -> String {
        format!("{:?}", value.iana_name().unwrap_or_default())
    }
}
