//! Looks through an audit log: who reached what, and when.

use std::{collections::BTreeMap, io, path::PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::verify::Lines;

/// Which records are wanted; what is not said does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The login name, e-mail address or subject.
    pub user: Option<String>,
    /// The workspace's id.
    pub workspace: Option<String>,
    /// The reason's id.
    pub reason: Option<String>,
    /// `allow`, `sign_in`, `deny` or `unavailable`.
    pub verdict: Option<String>,
    /// The event, for records that are no decisions.
    pub event: Option<String>,
    /// From this moment on, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Before this moment.
    pub until_ms: Option<u64>,
}

/// What somebody did at a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The issuer that vouches for the user.
    pub issuer: String,
    /// The issuer's id of the user.
    pub subject: String,
    /// The user in one word, at the last request.
    pub user: String,
    /// The workspace.
    pub workspace: String,
    /// Its owner in one word, at the last request.
    pub owner: String,
    /// Requests that were allowed.
    pub allowed: u64,
    /// Requests that were not.
    pub refused: u64,
    /// The first request, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// The last.
    pub last_ms: u64,
    /// How often each reason decided.
    pub reasons: BTreeMap<String, u64>,
}

/// Summaries by issuer, subject and workspace.
pub type Summaries = BTreeMap<(String, String, String), Summary>;

fn text<'v>(record: &'v Value, name: &str) -> &'v str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(record: &Value, name: &str) -> Option<u64> {
    record.get(name).and_then(Value::as_u64)
}

impl Filter {
    /// Whether the record is wanted.
    #[must_use]
    pub fn wants(&self, record: &Value) -> bool {
        let is = |wanted: &Option<String>, names: &[&str]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| names.iter().any(|name| text(record, name) == wanted))
        };
        let time = number(record, "time_ms").unwrap_or_default();
        is(&self.user, &["user", "subject"])
            && is(&self.workspace, &["workspace"])
            && is(&self.reason, &["reason"])
            && is(&self.verdict, &["verdict"])
            && is(&self.event, &["event"])
            && self.since_ms.is_none_or(|since| time >= since)
            && self.until_ms.is_none_or(|until| time < until)
    }
}

/// Gives every wanted record to `each`, with its line. Returns how many lines are no records; only
/// verification says why.
///
/// # Errors
/// A file cannot be read, or what `each` says.
pub fn select(
    files: &[PathBuf],
    filter: &Filter,
    mut each: impl FnMut(&Value, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut unreadable = 0;
    for path in files {
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            match serde_json::from_slice::<Value>(line.bytes) {
                Ok(record) if record.is_object() => {
                    if filter.wants(&record) {
                        each(&record, line.bytes)?;
                    }
                }
                _ => unreadable += 1,
            }
        }
    }
    Ok(unreadable)
}

/// Adds a decision to the summary of its user and workspace. Other records change nothing.
pub fn summarise(summaries: &mut Summaries, record: &Value) {
    let verdict = text(record, "verdict");
    if verdict.is_empty() {
        return;
    }
    let key = ["issuer", "subject", "workspace"].map(|name| text(record, name).to_owned());
    let [issuer, subject, workspace] = key.clone();
    let time = number(record, "time_ms").unwrap_or_default();
    let from = number(record, "from_ms").unwrap_or(time);
    let count = number(record, "count").unwrap_or(1);
    let summary = summaries.entry(key.into()).or_insert_with(|| Summary {
        issuer,
        subject,
        workspace,
        first_ms: from,
        ..Summary::default()
    });
    summary.first_ms = summary.first_ms.min(from);
    if time >= summary.last_ms {
        summary.last_ms = time;
        text(record, "user").clone_into(&mut summary.user);
        text(record, "owner").clone_into(&mut summary.owner);
    }
    if verdict == "allow" {
        summary.allowed += count;
    } else {
        summary.refused += count;
    }
    *summary.reasons.entry(text(record, "reason").to_owned()).or_default() += count;
}

/// A cell of CSV (RFC 4180), always quoted. A spreadsheet takes a cell that begins with one of `=+-@` for a
/// formula, whatever the quotes: an apostrophe before it makes it text.
#[must_use]
pub fn cell(text: &str) -> String {
    let risky = text
        .trim_start()
        .starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'])
        || text.starts_with(['\t', '\r', '\n']);
    format!("\"{}{}\"", if risky { "'" } else { "" }, text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_wants_what_was_said() {
        let record = json!({"time_ms": 100, "user": "alice", "subject": "s-1", "workspace": "w",
            "verdict": "allow", "reason": "owner"});
        let filter = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.wants(&record)
        };
        assert!(filter(|_| ()));
        assert!(filter(|f| f.user = Some("alice".into())));
        assert!(filter(|f| f.user = Some("s-1".into())));
        assert!(!filter(|f| f.user = Some("bob".into())));
        assert!(!filter(|f| f.workspace = Some("v".into())));
        assert!(!filter(|f| f.reason = Some("public".into())));
        assert!(!filter(|f| f.event = Some("revoke".into())));
        assert!(filter(|f| (f.since_ms, f.until_ms) = (Some(100), Some(101))));
        assert!(!filter(|f| f.since_ms = Some(101)));
        assert!(!filter(|f| f.until_ms = Some(100)));
    }

    #[test]
    fn a_summary_counts_folded_records_too() {
        let mut all = Summaries::new();
        for record in [
            json!({"time_ms": 10, "verdict": "allow", "reason": "owner", "issuer": "i",
                "subject": "s", "workspace": "w", "user": "alice"}),
            json!({"time_ms": 90, "from_ms": 11, "count": 7, "verdict": "allow", "reason": "owner",
                "issuer": "i", "subject": "s", "workspace": "w", "user": "alicia"}),
            json!({"time_ms": 5, "verdict": "deny", "reason": "not_permitted", "issuer": "i",
                "subject": "s", "workspace": "w", "user": "al"}),
            json!({"time_ms": 5, "event": "sign_in", "issuer": "i", "subject": "s"}),
        ] {
            summarise(&mut all, &record);
        }
        let summary = all.values().next().unwrap();
        assert_eq!((all.len(), summary.allowed, summary.refused), (1, 8, 1));
        assert_eq!((summary.first_ms, summary.last_ms, &*summary.user), (5, 90, "alicia"));
        assert_eq!(summary.reasons["owner"], 8);
    }

    proptest! {
        #[test]
        fn no_cell_is_a_formula_or_more_than_a_cell(text in "\\PC*|[=+\\-@\t\r\n\", ]*.*") {
            let cell = cell(&text);
            let inner = cell.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
            prop_assert!(!inner.trim_start().starts_with(['=', '+', '-', '@']), "{}", cell);
            prop_assert!(!inner.replace("\"\"", "").contains('"'), "{}", cell);
            prop_assert!(inner.replace("\"\"", "\"").ends_with(&text));
        }
    }
}
