//! Headers about one connection (RFC 9110 7.6.1): the shipped rules decide which of them a workspace gets.

use super::{Report, Rule, Variant, shipped};
use crate::haproxy::document::Line;

/// Headers by which a request becomes a tunnel, loses other headers, or ends elsewhere.
const HOPS: [&str; 7] = [
    "connection",
    "upgrade",
    "http2-settings",
    "transfer-encoding",
    "te",
    "keep-alive",
    "proxy-connection",
];
/// Values that say nothing of other headers.
const PLAIN: [&str; 3] = ["close", "keep-alive", "websocket"];

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    if variant.guards.is_empty() {
        return;
    }
    for line in variant.reach.guarded_lines() {
        let Some((name, value)) = given(line) else { continue };
        if variant.known.contains(&line.at)
            || shipped::has_line(&line.words)
            || PLAIN.contains(&value.to_ascii_lowercase().as_str())
        {
            continue;
        }
        let what = format!("'{name}' is given another value than by the shipped rules");
        let fix = "remove it; section 4 of the shipped haproxy.cfg says what travels on of it";
        report.add(Rule::RuleMissing, line.at, what, fix);
    }
}

/// The header about the connection that a rule gives a value to.
fn given(line: &Line) -> Option<(&str, &str)> {
    const SETS: [&str; 4] = ["set-header", "add-header", "replace-header", "replace-value"];
    let [http, action, name, rest @ ..] = &line.words[..] else { return None };
    let sets = http == "http-request" && SETS.contains(&action.as_str());
    let about = HOPS.contains(&name.to_ascii_lowercase().as_str());
    let place = usize::from(action.starts_with("replace"));
    (sets && about).then(|| (name.as_str(), rest.get(place).map_or("", String::as_str)))
}
