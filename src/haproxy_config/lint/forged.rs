//! Checks the values of identity headers: headers about a person must carry the agent's variables, headers about the
//! connection only what HAProxy itself knows.
//!
//! A workspace believes these headers. A value that a client can choose would let it be any person.

use std::collections::BTreeMap;

use super::{
    Report, Rule, Variant,
    expression::{Call, Piece, agents, calls, is_pure, pieces},
    headers::FAMILIES,
    shipped,
};
use crate::haproxy_config::document::Line;

/// Headers about the connection, alone or behind `x-forwarded-`: HAProxy's own values are right for them.
const TRANSPORT: [&str; 17] = [
    "for",
    "proto",
    "host",
    "port",
    "ssl",
    "server",
    "by",
    "prefix",
    "scheme",
    "protocol",
    "uri",
    "path",
    "method",
    "client-cert",
    "x-real-ip",
    "x-client-ip",
    "x-unique-id",
];
/// Fetches about the connection, or about the request as the agent judged it.
const FACTS: [&str; 34] = [
    "src",
    "src_port",
    "dst",
    "dst_port",
    "fc_src",
    "fc_src_port",
    "fc_dst",
    "fc_dst_port",
    "bc_src",
    "bc_dst",
    "fe_name",
    "fe_id",
    "be_name",
    "hostname",
    "unique-id",
    "uuid",
    "date",
    "method",
    "path",
    "pathq",
    "url",
    "query",
    "base",
    "capture.req.uri",
    "capture.req.method",
    "capture.req.ver",
    "req.ver",
    "str",
    "int",
    "bool",
    "bin",
    "env",
    "nbsrv",
    "rand",
];
/// Actions that give a header a value.
const SETS: [&str; 4] = ["set-header", "add-header", "replace-header", "replace-value"];
/// How many variables are followed, one to the next, to the samples they come from.
const MAX_STEPS: usize = 4;

/// What a header is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// Which person makes the request.
    Person,
    /// Where the request comes from, and how.
    Transport,
    /// Anything else.
    Other,
}

fn about(name: &str) -> About {
    // CGI servers make the same variable of a name whatever stands between its words.
    let name = name.to_ascii_lowercase();
    let name = name.replace(|c: char| !(c.is_ascii_alphanumeric() || "${}".contains(c)), "-");
    let family = FAMILIES.iter().any(|family| name.starts_with(family));
    let last = name.strip_prefix("x-forwarded-").unwrap_or(&name);
    let known = family || name == "x-client-ip" || name == "x-unique-id";
    if name == "forwarded" || known && TRANSPORT.contains(&last) {
        return About::Transport;
    }
    // A name from the environment could be that of any header.
    if family || name.contains("${") { About::Person } else { About::Other }
}

/// The values that rules give to variables, by the names of the variables.
pub(super) struct Values<'v>(BTreeMap<&'v str, Vec<&'v str>>);

impl<'v> Values<'v> {
    pub(super) fn collect(variant: &Variant<'v>) -> Self {
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let lines = variant.sections.iter().flat_map(|section| &section.lines);
        for line in lines.filter(|line| !variant.writes(line).is_empty()) {
            let place = line.words.iter().position(|word| word.starts_with("set-var"));
            let Some(place) = place else { continue };
            let (Some(action), Some(value)) = (line.words.get(place), line.words.get(place + 1))
            else {
                continue;
            };
            if let Some(name) = action.split_once('(').map(|(_, rest)| rest) {
                let name = name.split([',', ')']).next().unwrap_or_default();
                values.entry(name).or_default().push(value);
            }
        }
        Self(values)
    }

    /// The values that rules give to a variable.
    pub(super) fn get(&self, name: &str) -> &[&'v str] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a client cannot choose any part of a sample, except parts of the request that the agent judges.
    fn is_fact(&self, sample: &str, prefix: &str, steps: usize) -> bool {
        if agents(sample, prefix).is_some() {
            return true;
        }
        let Some(calls) = calls(sample) else { return false };
        let Some((first, converters)) = calls.split_first() else { return false };
        let host = |call: &Call<'_>| {
            let header = call.args.split(',').next().unwrap_or_default();
            ["hdr", "req.hdr", "req.fhdr"].contains(&call.name)
                && header.eq_ignore_ascii_case("host")
        };
        let known = match first.name {
            "var" => {
                let name = first.args.split(',').next().unwrap_or_default();
                // Every rule that sets the variable must set a fact; which one ran last is not known.
                let values = self.get(name);
                let fact = |value: &&str| {
                    if value.contains('%') {
                        return self.are_facts(value, prefix, steps + 1);
                    }
                    self.is_fact(value, prefix, steps + 1)
                };
                steps < MAX_STEPS
                    && !values.is_empty()
                    && values.len() < 16
                    && values.iter().all(fact)
            }
            name => FACTS.contains(&name) || name.starts_with("ssl_") || host(first),
        };
        let plain = |call: &Call<'_>| {
            is_pure(call) || ["iif", "concat"].contains(&call.name) && !call.args.contains("txn.")
        };
        known && converters.iter().all(plain)
    }

    /// [`Self::is_fact`] for all samples of a text.
    pub(super) fn are_facts(&self, text: &str, prefix: &str, steps: usize) -> bool {
        // Captured headers come from the client.
        const CAPTURED: [&str; 5] = ["hr", "hrl", "hs", "hsl", "CC"];
        pieces(text).iter().all(|piece| match piece {
            Piece::Text(_) => true,
            Piece::Alias(name) => !CAPTURED.contains(name),
            Piece::Sample(sample) => self.is_fact(sample, prefix, steps),
        })
    }
}

/// Whether a text has variables of the agent and no other samples.
pub(super) fn is_agents(text: &str, prefix: &str) -> bool {
    let pieces = pieces(text);
    let samples = || pieces.iter().filter(|piece| !matches!(piece, Piece::Text(_)));
    let agents =
        |piece: &Piece<'_>| matches!(piece, Piece::Sample(s) if agents(s, prefix).is_some());
    samples().next().is_some() && samples().all(agents)
}

pub(super) fn check(variant: &Variant<'_>, values: &Values<'_>, report: &mut Report) {
    // Without a guard there is nothing that workspaces could trust.
    if variant.guards.is_empty() {
        return;
    }
    let prefix = variant.prefix();
    // FastCGI parameters are what a CGI program sees in place of headers.
    let scripts = variant.sections.iter().filter(|section| section.kind == "fcgi-app");
    let scripts = scripts.flat_map(|section| section.lines.iter().map(|line| &**line));
    for line in variant.reach.guarded_lines().chain(scripts) {
        let Some((name, value)) = given(line) else { continue };
        if variant.known.contains(&line.at) || shipped::has_line(&line.words) {
            continue;
        }
        let fine = match (about(name), value) {
            (About::Person, None) | (_, Some(Value::Any)) => false,
            (About::Other, _) | (About::Transport, None) => true,
            (About::Person, Some(Value::Text(text))) => is_agents(text, prefix),
            (About::Transport, Some(Value::Text(text) | Value::Changed(text))) => {
                values.are_facts(text, prefix, 0)
            }
            // The old value is the gate's own; a part of it may stay, and nothing of another source may come in.
            (About::Person, Some(Value::Changed(text))) => {
                is_agents(text, prefix)
                    || text.contains('\\')
                        && pieces(text).iter().all(|piece| matches!(piece, Piece::Text(_)))
            }
        };
        if !fine {
            let what = format!("the value of {name} is not the agent's");
            let fix = format!(
                "http-request set-header {name} %[var({prefix}user)] if {{ var({prefix}user) -m len gt 0 }}   # or another variable of the agent"
            );
            report.add(Rule::HeaderForged, line.at, what, fix);
        }
    }
}

/// The value that a header is given.
enum Value<'l> {
    /// A text with samples.
    Text(&'l str),
    /// A text that can contain parts of the old value.
    Changed(&'l str),
    /// Headers of any name from a sample.
    Any,
}

/// The header that a line sets, with the value. An option has none: HAProxy makes it.
fn given(line: &Line) -> Option<(&str, Option<Value<'_>>)> {
    const GIVE: [&str; 5] =
        ["http-request", "unique-id-header", "http-send-name-header", "option", "set-param"];
    if !line.words.first().is_some_and(|word| GIVE.contains(&word.as_str())) {
        return None;
    }
    let words: Vec<&str> = line.words.iter().take(6).map(String::as_str).collect();
    match &words[..] {
        ["http-request", action, ..] if action.ends_with("-headers-bin") => {
            (*action != "del-headers-bin").then_some(("every header", Some(Value::Any)))
        }
        ["http-request", "early-hint", ..] => None,
        ["http-request", action, name, value, ..] if SETS.contains(action) => {
            let value = match *action {
                "set-header" | "add-header" => Value::Text(value),
                _ => Value::Changed(words.get(4).copied().unwrap_or_default()),
            };
            Some((name, Some(value)))
        }
        ["unique-id-header" | "http-send-name-header", name, ..] => Some((name, None)),
        // A parameter of FastCGI: `HTTP_NAME` is a header (RFC 3875), anything else a variable of its own.
        ["set-param", name, value, ..] => {
            Some((name.strip_prefix("HTTP_").unwrap_or(name), Some(Value::Text(value))))
        }
        ["option", "forwardfor" | "originalto", rest @ ..] => {
            let place = rest.iter().position(|word| *word == "header")?;
            rest.get(place + 1).map(|name| (*name, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_about_a_person_the_connection_or_neither() {
        for (name, person) in [
            ("X-Forwarded-User", true),
            ("x_forwarded_email", true),
            ("X-Identity-Subject", true),
            ("Remote-User", true),
            ("X-Auth-Request-User", true),
            ("X-Forwarded-For", false),
            ("X-Real-IP", false),
            ("Forwarded", false),
            ("X-Own", false),
        ] {
            assert_eq!(about(name) == About::Person, person, "{name}");
        }
        assert!(about("X-Own") == About::Other && about("X-Client-IP") == About::Transport);
    }

    #[test]
    fn a_text_is_the_agents_with_nothing_else_in_it() {
        let prefix = "txn.identity.";
        for (text, want) in [
            ("%[var(txn.identity.user)]", true),
            ("user=%[var(txn.identity.user),lower]", true),
            ("%[var(txn.identity.user)]%[req.hdr(x)]", false),
            ("admin", false),
            ("%ci", false),
        ] {
            assert_eq!(is_agents(text, prefix), want, "{text}");
        }
    }
}
