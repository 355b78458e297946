//! Searches and summarizes audit logs for `audit query`, `audit export` and `policy replay`.
//!
//! Files are read line by line, so that logs of any size need little memory. Nothing is verified here: a line that is not
//! a record is counted, and [`super::verify`] says what is wrong with it.

use std::{collections::BTreeMap, io, path::PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::lines::Lines;

/// Which records are selected. Every field that is set must match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A login name, e-mail address or subject. Addresses match in any case.
    pub user: Option<String>,
    /// The id of a decision.
    pub decision: Option<String>,
    /// The id of a workspace.
    pub workspace: Option<String>,
    /// The id of a reason.
    pub reason: Option<String>,
    /// A verdict: `allow`, `sign_in`, `deny` or `unavailable`.
    pub verdict: Option<String>,
    /// The id of an event. Decisions have none.
    pub event: Option<String>,
    /// The earliest time, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// The time before which records must be, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
}

/// What one user did at one workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The issuer of the user.
    pub issuer: String,
    /// The user's subject at the issuer.
    pub subject: String,
    /// The name of the user, by the last request.
    pub user: String,
    /// The id of the workspace.
    pub workspace: String,
    /// The name of its owner, by the last request.
    pub owner: String,
    /// Requests that were allowed.
    pub allowed: u64,
    /// Requests that were not allowed.
    pub refused: u64,
    /// The time of the first request, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// The time of the last request, in milliseconds since the Unix epoch.
    pub last_ms: u64,
    /// How many decisions each reason has.
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
    /// Whether the filter selects the record.
    #[must_use]
    pub fn selects(&self, record: &Value) -> bool {
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| text(record, name) == wanted)
        };
        let time = number(record, "time_ms").unwrap_or_default();
        self.user.as_deref().is_none_or(|user| is_about(record, user))
            && self.decision.as_deref().is_none_or(|id| names_decision(record, id))
            && is(&self.workspace, "workspace")
            && is(&self.reason, "reason")
            && is(&self.verdict, "verdict")
            && is(&self.event, "event")
            && self.since_ms.is_none_or(|since| time >= since)
            && self.until_ms.is_none_or(|until| time < until)
    }
}

/// Whether the record is about this user. Addresses are recorded in lower case.
fn is_about(record: &Value, user: &str) -> bool {
    let email = text(record, "email");
    text(record, "user") == user
        || text(record, "subject") == user
        || (!email.is_empty() && email.eq_ignore_ascii_case(user))
}

/// Whether the record is the decision of this id, an event of it such as its tunnel, or a count of its reuse.
fn names_decision(record: &Value, id: &str) -> bool {
    text(record, "decision_id") == id || text(record, "reused_of") == id
}

/// Passes every selected record to `each`, with its line. Returns how many lines are not records.
///
/// `on_read` gets the number of bytes of each line, for a display of progress.
///
/// # Errors
/// A file cannot be read, or `each` fails.
pub fn select(
    files: &[PathBuf],
    filter: &Filter,
    on_read: &mut dyn FnMut(u64),
    mut each: impl FnMut(&Value, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut unreadable = 0;
    for path in files {
        let mut lines = Lines::open(path)?;
        while let Some(line) = lines.next()? {
            on_read(line.length);
            match serde_json::from_slice::<Value>(line.bytes) {
                Ok(record) if record.is_object() => {
                    if filter.selects(&record) {
                        each(&record, line.bytes)?;
                    }
                }
                _ => unreadable += 1,
            }
        }
    }
    Ok(unreadable)
}

/// Adds a decision to the summary of its user and workspace. Events are skipped.
pub fn summarize(summaries: &mut Summaries, record: &Value) {
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

/// A cell of CSV (RFC 4180), always quoted. Spreadsheets run a cell that begins with one of `=+-@` as a formula, even if it is
/// quoted; an apostrophe before it makes it text.
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
    fn a_filter_selects_records_where_every_given_field_matches() {
        let record = json!({"time_ms": 100, "user": "alice", "subject": "s-1", "workspace": "w",
            "email": "alice@corp.example", "decision_id": "d-1", "reused_of": "d-0", "verdict": "allow", "reason": "owner"});
        let filter = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.selects(&record)
        };
        assert!(filter(|_| ()));
        assert!(filter(|f| f.user = Some("alice".into())));
        assert!(filter(|f| f.user = Some("s-1".into())));
        assert!(filter(|f| f.user = Some("Alice@Corp.example".into())));
        assert!(!filter(|f| f.user = Some(String::new())));
        assert!(filter(|f| f.decision = Some("d-1".into())));
        assert!(filter(|f| f.decision = Some("d-0".into())));
        assert!(!filter(|f| f.decision = Some("d-2".into())));
        assert!(!filter(|f| f.user = Some("bob".into())));
        assert!(!filter(|f| f.workspace = Some("v".into())));
        assert!(!filter(|f| f.reason = Some("public".into())));
        assert!(!filter(|f| f.event = Some("revoke".into())));
        assert!(filter(|f| (f.since_ms, f.until_ms) = (Some(100), Some(101))));
        assert!(!filter(|f| f.since_ms = Some(101)));
        assert!(!filter(|f| f.until_ms = Some(100)));
    }

    #[test]
    fn a_summary_counts_deduplicated_records_too() {
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
            summarize(&mut all, &record);
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
