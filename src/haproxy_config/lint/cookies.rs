//! Checks that browsers get cookies of the agent's name from the agent only: those of workspaces are dropped, and no
//! rule sets others.

use std::collections::BTreeSet;

use super::{
    Report, Rule, Variant,
    expression::{Piece, pieces},
    forged::is_agents,
    guard::Guard,
    required::covers,
    shipped,
    verdict::place,
};
use crate::{
    haproxy_config::{
        document::Line,
        lint::lines::{Ruled, is_server, target},
    },
    sessions::COOKIE,
};

/// Set-Cookie values by which a workspace could set a cookie of the agent's.
fn forged() -> [String; 4] {
    let lower = COOKIE.to_ascii_lowercase();
    [
        format!("{COOKIE}=x"),
        format!("  {COOKIE}_pre=x"),
        format!("{lower}=x"),
        format!("={COOKIE}=x"),
    ]
}

/// Whether a rule removes such cookies from responses.
fn drops(line: &Line, variant: &Variant<'_>) -> bool {
    match &line.words[..] {
        [http, action, name, rest @ ..]
            if http == "http-response" && name.eq_ignore_ascii_case("set-cookie") =>
        {
            match (action.as_str(), rest) {
                ("del-header", _) => true,
                ("replace-header", [pattern, ..]) => variant.patterns.get(pattern).map_or_else(
                    || pattern.contains(COOKIE),
                    |pattern| forged().iter().all(|cookie| pattern.is_match(cookie)),
                ),
                _ => false,
            }
        }
        _ => false,
    }
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    if !guard.http {
        return;
    }
    let drops = |line: &Line| drops(line, variant);
    // The rule may also stand in each backend that the guard routes to.
    let backends = || {
        let routed: BTreeSet<_> = guard.lines.iter().filter_map(|line| target(line)).collect();
        let reached = variant.sections.iter().filter(move |s| routed.contains(s.name.as_str()));
        reached.filter(|s| s.kind == "backend" && s.lines.iter().any(|line| is_server(line)))
    };
    let in_each =
        backends().next().is_some() && backends().all(|s| s.lines.iter().any(|line| drops(line)));
    let rules = guard.rules("http-response");
    let covered = |(_, line, when): &Ruled<'_>| drops(line) && covers(when, guard, variant);
    if rules.iter().any(covered) || in_each {
        return;
    }
    let like = rules.iter().find(|(_, line, _)| drops(line));
    let at = like.map_or_else(|| place(guard), |(_, line, _)| line.at);
    let fix = format!(
        "http-response replace-header Set-Cookie (?i)^[[:space:]]*(=[[:space:]]*)*{COOKIE}.* %[str()]"
    );
    let what = format!("cookies named {COOKIE} are not removed from the responses of workspaces");
    report.lacks(Rule::CookieNotDropped, at, what, fix);
}

/// Reports rules that give browsers a cookie, unless its name is written out and is not the agent's.
pub(super) fn check_given(variant: &Variant<'_>, report: &mut Report) {
    if variant.guards.is_empty() {
        return;
    }
    // Cookies that are set before the rule that drops them are dropped too. Rules of backends come before all of the
    // front end.
    let dropped: BTreeSet<_> = variant
        .guards
        .iter()
        .flat_map(|guard| {
            let rules = guard.rules("http-response");
            let last = rules.iter().rposition(|(_, line, _)| drops(line, variant)).unwrap_or(0);
            rules.iter().take(last).map(|(_, line, _)| line.at)
        })
        .collect();
    for section in variant.reach.guarded_sections() {
        for line in &section.lines {
            let Some(kind) = line.words.first().filter(|kind| kind.starts_with("http-")) else {
                continue;
            };
            let early = kind == "http-response"
                && (section.kind == "backend" || dropped.contains(&line.at));
            let prefix = variant.prefix();
            let set = !early && kind != "http-request" && sets(line, prefix);
            let gives = set || returned(line).any(|value| !is_own(value, prefix));
            let is_shipped = || shipped::has_line(&line.words) || variant.known.contains(&line.at);
            if gives && !is_shipped() {
                let what = format!("this rule could give browsers a cookie named {COOKIE}");
                let fix = "write out another name: Set-Cookie \"NAME=…\"";
                report.add(Rule::CookieNotDropped, line.at, what, fix);
            }
        }
    }
}

/// Whether a rule gives responses a cookie whose name is not known.
fn sets(line: &Line, prefix: &str) -> bool {
    /// Regular expressions that keep the whole old value.
    const WHOLE: [&str; 4] = ["(.*)", "^(.*)", "(.*)$", "^(.*)$"];
    let [_, action, name, rest @ ..] = &line.words[..] else { return false };
    // These actions take names from a sample, so the name is unknown.
    if action.ends_with("-headers-bin") {
        return action != "del-headers-bin";
    }
    if !name.eq_ignore_ascii_case("set-cookie") {
        return false;
    }
    match (action.as_str(), rest) {
        ("set-header" | "add-header", [value, ..]) => !is_own(value, prefix),
        ("replace-header" | "replace-value", [pattern, value, ..]) => {
            let kept = WHOLE.contains(&pattern.as_str()) && value.starts_with("\\1");
            // The shipped rule empties a cookie; browsers ignore it.
            let empty = value == "%[str()]" || value.is_empty();
            !kept && !empty && (value.contains('\\') || !is_own(value, prefix))
        }
        _ => false,
    }
}

/// The cookies of a response that HAProxy itself makes.
fn returned(line: &Line) -> impl Iterator<Item = &str> {
    line.words.windows(3).filter_map(|three| match three {
        [hdr, name, value] if hdr == "hdr" && name.eq_ignore_ascii_case("set-cookie") => {
            Some(value.as_str())
        }
        _ => None,
    })
}

/// Whether a value begins with a cookie name that is written out and is not the agent's, or is a variable of the agent.
fn is_own(value: &str, prefix: &str) -> bool {
    let named = match pieces(value).first() {
        Some(Piece::Text(text)) => text.split_once('=').is_some_and(|(name, _)| {
            let name = name.trim().to_ascii_lowercase();
            !name.is_empty() && !name.starts_with(&COOKIE.to_ascii_lowercase())
        }),
        _ => false,
    };
    named || is_agents(value, prefix)
}
