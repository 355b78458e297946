//! Checks headers about one connection (RFC 9110 7.6.1): the shipped rules alone decide which of them a workspace gets.

use std::cell::LazyCell;

use super::{Report, Rule, Variant, shipped};
use crate::haproxy_config::{
    condition::{Condition, Test},
    document::{Line, Section},
};

/// Headers by which a request can become a tunnel, lose other headers, or end at another place.
const HOPS: [&str; 7] = [
    "connection",
    "upgrade",
    "http2-settings",
    "transfer-encoding",
    "te",
    "keep-alive",
    "proxy-connection",
];
/// Values that do not name other headers.
const PLAIN: [&str; 3] = ["close", "keep-alive", "websocket"];

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    if variant.guards.is_empty() {
        return;
    }
    for section in variant.reach.guarded_sections() {
        check_status(section, report);
    }
    for line in variant.reach.guarded_lines() {
        let Some((name, value)) = given(line) else { continue };
        if variant.known.contains(&line.at)
            || shipped::has_line(&line.words)
            || PLAIN.contains(&value.to_ascii_lowercase().as_str())
        {
            continue;
        }
        let what = format!("'{name}' gets another value than in the shipped rules");
        let fix = "remove it; part 4 of the shipped haproxy.cfg sets what a workspace needs";
        report.add(Rule::RuleMissing, line.at, what, fix);
    }
}

/// Reports rules by which status 101 of a tunnel becomes another status, which later rules would not recognize.
fn check_status(section: &Section, report: &mut Report) {
    let acls = LazyCell::new(|| super::acls(section.lines.iter().map(|line| &**line)));
    for line in &section.lines {
        let sets = matches!(&line.words[..], [http, set, ..] if http == "http-response" && set == "set-status");
        // The condition must list single other statuses.
        let other = |test: &Test| {
            let values = || test.values.iter().map(String::as_str);
            let plain = |value: &str| value.len() == 3 && value.parse::<u16>().is_ok();
            test.fetch == "status" && values().all(|value| plain(value) && value != "101")
        };
        if sets && !Condition::parse(&line.words, &acls).needs(other) {
            let what = "a response with status 101 gets another status: the rule that refuses tunnels without an upgrade does not see it";
            let fix = "http-response set-status NUMBER if { status OTHER }   # not 101";
            report.add(Rule::RuleMissing, line.at, what, fix);
        }
    }
}

/// The header of [`HOPS`] that a rule gives a value, with the value.
fn given(line: &Line) -> Option<(&str, &str)> {
    const SETS: [&str; 4] = ["set-header", "add-header", "replace-header", "replace-value"];
    let [http, action, name, rest @ ..] = &line.words[..] else { return None };
    let sets = http == "http-request" && SETS.contains(&action.as_str());
    let about = HOPS.contains(&name.to_ascii_lowercase().as_str());
    let place = usize::from(action.starts_with("replace"));
    (sets && about).then(|| (name.as_str(), rest.get(place).map_or("", String::as_str)))
}
