//! Checks that the request that arrives at a workspace is the one that the agent judged: after the agent was asked,
//! host, path and method stay as they are, unless the agent gives another value.

use super::{
    Report, Rule, Variant,
    expression::{Piece, agents, pieces},
    forged::Values,
    guard::{self, Asked, Guard},
    shipped,
};
use crate::haproxy_config::document::Line;

/// Actions that change the path or the method.
const CHANGES: [&str; 6] =
    ["set-path", "set-pathq", "set-method", "replace-path", "replace-pathq", "normalize-uri"];
/// Actions that change the path and the host.
const URIS: [&str; 2] = ["set-uri", "replace-uri"];
/// Headers that some servers take the method from.
const METHODS: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    if guard.asked == Asked::Never {
        return;
    }
    let asked = guard.asked_at().line;
    for (_, line, when) in guard.rules("http-request").iter().filter(|(n, ..)| guard.is_after(*n)) {
        if changes_host(line, guard) {
            let what = "the request arrives with another host than the agent judged";
            let host = guard.var("dst_host");
            let fix = format!("http-request set-header Host %[{host}] if {{ {host} -m found }}");
            report.add(Rule::RouteNotAgents, line.at, what, fix);
        }
        let ours = variant.known.contains(&line.at) || shipped::has_line(&line.words);
        // A refused request does not reach a workspace.
        if let Some(part) = changed(line).filter(|_| !ours && !guard.spares_allowed(when)) {
            let what = format!("the request arrives with another {part} than the agent judged");
            let fix = format!(
                "move it above line {asked}, where the agent is asked: it then judges the new value"
            );
            report.add(Rule::NotAsJudged, line.at, what, fix);
        }
    }
}

fn changes_host(line: &Line, guard: &Guard<'_>) -> bool {
    const SETS: [&str; 4] = ["set-header", "add-header", "replace-header", "replace-value"];
    match &line.words[..] {
        [_, action, name, value, ..] if name.eq_ignore_ascii_case("host") => {
            let own = pieces(value);
            let given = matches!(&own[..], [Piece::Sample(s)] if agents(s, &guard.prefix) == Some("dst_host"));
            // Setting Host to itself changes nothing.
            let judged = value == "%[req.hdr(host)]";
            SETS.contains(&action.as_str()) && !given && !judged
        }
        [_, action, ..] => URIS.contains(&action.as_str()),
        _ => false,
    }
}

/// The part of a request that a rule changes.
fn changed(line: &Line) -> Option<&'static str> {
    let [_, action, rest @ ..] = &line.words[..] else { return None };
    if is_method(line) || action == "set-method" {
        return Some("method");
    }
    // Normalizing the query or the fragment changes neither path nor method.
    let query = ["query-sort-by-name", "fragment-encode", "fragment-strip"];
    let other = rest.first().is_some_and(|word| query.contains(&word.as_str()));
    (CHANGES.contains(&action.as_str()) && !other).then_some("path")
}

fn is_method(line: &Line) -> bool {
    let [_, action, name, ..] = &line.words[..] else { return false };
    let name = name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    ["set-header", "add-header"].contains(&action.as_str()) && METHODS.contains(&name.as_str())
}

/// A backend may change the path to what its workspace needs, but not to a value that the client chooses.
pub(super) fn check_backends(variant: &Variant<'_>, values: &Values<'_>, report: &mut Report) {
    if variant.guards.is_empty() {
        return;
    }
    for section in variant.reach.guarded_sections().filter(|section| section.kind == "backend") {
        for line in guard::all_lines(section, variant.sections) {
            let [http, action, value @ ..] = &line.words[..] else { continue };
            if http != "http-request" || variant.known.contains(&line.at) {
                continue;
            }
            let method = action == "set-method" || is_method(line);
            let path = CHANGES.contains(&action.as_str()) || URIS.contains(&action.as_str());
            // A fixed prefix is the backend's own; a sample of the client's is not.
            let chosen = || {
                let mut texts = value.iter().take_while(|word| *word != "if" && *word != "unless");
                texts.any(|text| !values.are_facts(text, variant.prefix(), 0))
            };
            if method || (path && chosen()) {
                let part = if method { "method" } else { "path" };
                let what = format!("the request arrives with another {part} than the agent judged");
                report.add(Rule::NotAsJudged, line.at, what, "remove it");
            }
        }
    }
}
