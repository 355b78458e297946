//! Finds conditions and routes that look at a part of Host only. A client chooses Host freely: every comparison with a
//! part of it can be satisfied by a foreign host.

use std::{borrow::Cow, collections::BTreeSet};

use super::{Report, Rule, guard::Guard};
use crate::haproxy_config::{
    condition::{Condition, Test, step},
    document::{At, Line},
};

/// Samples that are the Host header, or begin with it.
const FETCHES: [&str; 6] = ["hdr", "req.hdr", "req.fhdr", "fhdr", "base", "url_dom"];
/// Matching methods that compare a part.
const PARTS: [&str; 6] = ["beg", "end", "sub", "dom", "dir", "reg"];
/// Further lines that decide where a request goes.
const OTHERS: [&str; 2] = ["use-server", "force-persist"];
/// Actions of `http-request` that do not decide where a request goes.
const HARMLESS: [&str; 6] =
    ["redirect", "set-header", "add-header", "del-header", "set-log-level", "capture"];

pub(super) fn check(guard: &Guard<'_>, report: &mut Report) {
    let ruled = ["http-request", "tcp-request", "use_backend"].map(|kind| guard.rules(kind));
    let others = guard.lines.iter().filter(|line| is_about(line, &OTHERS));
    let others =
        others.map(|line| (*line, Cow::Owned(Condition::parse(&line.words, &guard.names.acls))));
    let ruled = ruled.into_iter().flatten().map(|(_, line, when)| (*line, Cow::Borrowed(&**when)));
    let all: Vec<_> = ruled.chain(others).collect();
    let mut used = BTreeSet::new();
    for (line, when) in &all {
        // Such rules may look at a part of Host: the request goes where it went before.
        if line.words.get(1).is_some_and(|action| HARMLESS.contains(&action.as_str())) {
            continue;
        }
        for term in when.terms() {
            // An ACL that no rule uses decides nothing.
            if let Some(name) = &term.name {
                used.insert(name.as_str());
                continue;
            }
            for test in term.any.iter() {
                check_test(test, line.at, report);
            }
        }
        if line.words.iter().any(|word| line.has_call && is_map_of_part(word)) {
            let what = "a map is searched by a part of Host";
            let fix = "req.hdr(host),host_only,lower,map_str(FILE), with whole names in the file";
            report.add(Rule::HostInPart, line.at, what, fix);
        }
    }
    // A named ACL is reported at its own line.
    for (at, test) in used.iter().flat_map(|name| guard.acl_lines(name)) {
        check_test(test, at, report);
    }
}

/// Whether a word is a sample that looks a part of Host up in a map.
fn is_map_of_part(word: &str) -> bool {
    let follows = |names: &[&str], before: &str, after: &str| {
        word.match_indices(after).any(|(place, _)| {
            let name = word.get(..place).unwrap_or_default();
            names.iter().any(|known| name.strip_suffix(known).is_some_and(|n| n.ends_with(before)))
        })
    };
    word.contains("map_") && follows(&FETCHES, "", "(host") && follows(&PARTS, "map_", "(")
}

fn check_test(test: &Test, at: At, report: &mut Report) {
    if let Some(how) = compares_part(test) {
        let what = format!("only a part of Host is compared, by '{how}'");
        report.add(Rule::HostInPart, at, what, fix(test));
    }
}

fn is_about(line: &Line, keywords: &[&str]) -> bool {
    line.words.first().is_some_and(|word| keywords.contains(&word.as_str()))
}

/// How a test compares a part of Host, or `None` if it does not.
fn compares_part(test: &Test) -> Option<String> {
    step();
    let fetch = test.fetch.to_ascii_lowercase();
    let (name, rest) = fetch.split_once('(').unwrap_or((&fetch, ""));
    let (bare, suffix) = match name.rsplit_once('_') {
        Some((bare, suffix)) if PARTS.contains(&suffix) => (bare, Some(suffix)),
        _ => (name, None),
    };
    let header = rest.split([')', ',']).next().unwrap_or_default().trim();
    let of_host = match bare {
        "base" | "url_dom" => true,
        _ => FETCHES.contains(&bare) && header == "host",
    };
    // `hdr_beg(host)` is the same as `hdr(host) -m beg`.
    let method = suffix.or(test.method.as_deref()).filter(|method| PARTS.contains(method))?;
    if !of_host || (method == "reg" && test.values.iter().all(|value| is_whole(value))) {
        return None;
    }
    Some(suffix.map_or_else(|| format!("-m {method}"), |_| name.to_owned()))
}

/// Whether a regular expression covers the text from its beginning to its end.
fn is_whole(pattern: &str) -> bool {
    let ends = pattern.ends_with('$') && !pattern.ends_with("\\$");
    if !pattern.trim_start_matches("(?i)").starts_with('^') || !ends {
        return false;
    }
    // An alternative outside parentheses has only one of the two anchors.
    let mut depth = 0_usize;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => return false,
            _ => {}
        }
    }
    true
}

fn fix(test: &Test) -> String {
    let value = test.values.first().map_or("NAME", String::as_str);
    let anchored = |pattern: &str| format!("req.hdr(host),host_only -m reg '{pattern}'");
    if value.contains(['^', '$', '(', '[', '\\', '*']) {
        // The expression in the file, with anchors.
        let ended = format!("{value}$");
        let (flags, rest) = match value.strip_prefix("(?i)") {
            Some(rest) => ("(?i)", rest),
            None => ("", value),
        };
        let bare = rest.trim_start_matches('^').trim_end_matches('$');
        let whole = [ended, format!("^{value}"), format!("{flags}^(?:{bare})$")];
        return whole.iter().find(|pattern| is_whole(pattern)).map_or_else(
            || "req.hdr(host),host_only -m str -i NAME".to_owned(),
            |pattern| anchored(pattern),
        );
    }
    // A whole name can be compared as it is.
    let is_name = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    if is_name && !value.starts_with('.') && !value.ends_with('.') {
        return format!("req.hdr(host),host_only -m str -i {value}");
    }
    let domain = value.trim_matches('.').replace('.', "\\.");
    format!(
        "req.hdr(host),host_only,lower -m reg '^[a-z0-9-]+\\.{domain}$'   # or leave it to the agent's [[host]]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fix_of_an_expression_is_that_expression_of_the_whole() {
        for (pattern, want) in [
            (r"^(?i)(admin|ops)\.example\.com", r"'^(?i)(admin|ops)\.example\.com$'"),
            (r"[a-z]+\.ws\.test$", r"'^[a-z]+\.ws\.test$'"),
            (r"^a\.test$|b", r"'^(?:a\.test$|b)$'"),
            ("(?i)ws", "'(?i)^(?:ws)$'"),
        ] {
            let test = Test { values: vec![pattern.into()], ..Test::default() };
            assert_eq!(fix(&test), format!("req.hdr(host),host_only -m reg {want}"), "{pattern}");
        }
        let test = Test { values: vec![".ws.example.com".into()], ..Test::default() };
        assert!(fix(&test).contains(r"'^[a-z0-9-]+\.ws\.example\.com$'"), "{}", fix(&test));
    }

    #[test]
    fn only_an_expression_of_the_whole_is_whole() {
        for (pattern, whole) in [
            (r"^[a-z]+\.ws\.test$", true),
            (r"^(a|b)\.test$", true),
            (r"(?i)^a$", true),
            (r"^a\.test$|b", false),
            (r"^a|b$", false),
            (r"a\.test$", false),
            (r"^a\.test", false),
            (r"^a\$", false),
            ("", false),
        ] {
            assert_eq!(is_whole(pattern), whole, "{pattern}");
        }
    }
}
