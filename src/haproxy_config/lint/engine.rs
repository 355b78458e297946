//! Checks the SPOE file: how long HAProxy waits for the agent, and whether the arguments are those that the agent
//! needs.

use std::{sync::LazyLock, time::Duration};

use super::{Agent, Report, Rule, guard::Guard};
use crate::haproxy_config::{
    document::{At, Source},
    shipped::SPOE,
    spoe::{Block, Engine},
};

/// Arguments that the agent always needs, with the samples that let it see every header.
const NEEDED: [(&str, &str); 6] = [
    ("host", "req.fhdr(host)"),
    ("hosts", "req.fhdr_cnt(host)"),
    ("authorization", "req.fhdr(authorization)"),
    ("authorizations", "req.fhdr_cnt(authorization)"),
    ("cookie", "req.fhdr(cookie)"),
    ("cookies", "req.fhdr_cnt(cookie)"),
];
/// Arguments for tokens in the query.
const QUERY: [(&str, &str); 1] = [("query", "query")];
const PROTOCOLS: [(&str, &str); 2] = [
    ("protocols", "req.fhdr(sec-websocket-protocol)"),
    ("protocol_lines", "req.fhdr_cnt(sec-websocket-protocol)"),
];
const BROWSER: [(&str, &str); 9] = [
    ("fetch_mode", "req.fhdr(sec-fetch-mode)"),
    ("fetch_dest", "req.fhdr(sec-fetch-dest)"),
    ("accept", "req.fhdr(accept)"),
    ("upgrade", "req.fhdr(upgrade)"),
    ("requested_with", "req.fhdr(x-requested-with)"),
    ("fetch_site", "req.fhdr(sec-fetch-site)"),
    ("origin", "req.fhdr(origin)"),
    ("preflight_method", "req.fhdr(access-control-request-method),bytes(0,33)"),
    ("preflight_headers", "req.fhdr(access-control-request-headers),bytes(0,1025)"),
];
/// For pages that show a workspace in a frame.
const FRAMES: [(&str, &str); 1] = [("referer", "req.fhdr(referer),bytes(0,300)")];
/// For policies. The client may also be another sample than `src`.
const POLICIES: [(&str, &str); 3] = [("method", "method"), ("path", "path"), ("client", "src")];

pub(super) fn check(guard: &Guard<'_>, agent: &Agent, report: &mut Report) {
    let Some(section) = &guard.engine.agent else { return };
    if section.line(&["option", "set-on-error"]).is_none() {
        let what = "'option set-on-error' is missing";
        report.add(Rule::NoSetOnError, section.at, what, "option set-on-error spoe_error");
    }
    if section.line(&["option", "var-prefix"]).is_none() {
        let what = "'option var-prefix' is missing";
        report.add(Rule::NoVarPrefix, section.at, what, "option var-prefix identity");
    }
    check_processing(section, agent, report);
    check_pipelining(section, report);
    let Some(message) = guard.engine.message(guard.message()) else { return };
    check_shipped(message, report);
    if !guard.http {
        check_certificate(message, report);
        return;
    }
    let mut wanted = NEEDED.to_vec();
    // Sign-in needs the query for its own pages and returns to it afterwards.
    if agent.query || agent.sign_in {
        wanted.extend(QUERY);
    }
    if agent.subprotocol {
        wanted.extend(PROTOCOLS);
    }
    if agent.sign_in || agent.cookie {
        wanted.extend(BROWSER);
    }
    if agent.frames && (agent.sign_in || agent.cookie) {
        wanted.extend(FRAMES);
    }
    if agent.policies {
        wanted.extend(POLICIES);
    }
    // An argument that is there must be right even if this agent does not need it.
    for (name, sample) in listed() {
        // HAProxy sends repeated arguments all, and the agent takes the last.
        let found = message.args().filter(|(n, _)| n == name).map(|(_, sample)| sample).last();
        let at = args(message);
        match found {
            Some(found) if equals(found, sample) || *name == "client" => {}
            // The sample without its limits (`bytes(…)`) says at least as much.
            Some(found) if sample.starts_with(found) && found.ends_with(')') => {}
            Some(found) => {
                let what = format!("the argument '{name}' is {found}");
                report.add(Rule::Arguments, at, what, format!("{name}={sample}"));
            }
            None if wanted.contains(&(*name, *sample)) => {
                let what = format!("the argument '{name}' is missing");
                report.add(Rule::Arguments, at, what, format!("args … {name}={sample}"));
            }
            None => {}
        }
    }
    check_token(message, agent, report);
    check_certificate(message, report);
}

/// Checks the arguments about the header in which programs may send tokens. Both must be about that header, and without
/// the agent's configuration about the same one.
fn check_token(message: &Block, agent: &Agent, report: &mut Report) {
    let found = |name: &str| {
        message.args().filter(|(found, _)| *found == name).map(|(_, sample)| sample).last()
    };
    let passed = found("token").and_then(|sample| sample.split_once('(')?.1.strip_suffix(')'));
    let passed = passed.map(|header| header.trim_end_matches(",-1"));
    let Some(header) = agent.header.as_deref().or(passed) else {
        // An argument that is there must be right even if this agent does not need it.
        for name in ["token", "tokens"] {
            if let Some(sample) = found(name) {
                let what = format!("the argument '{name}' is {sample}");
                let fix = "remove it, or pass token=req.fhdr(NAME) tokens=req.fhdr_cnt(NAME)";
                report.add(Rule::Arguments, args(message), what, fix);
            }
        }
        return;
    };
    let header = header.to_ascii_lowercase();
    for (name, sample) in
        [("token", format!("req.fhdr({header})")), ("tokens", format!("req.fhdr_cnt({header})"))]
    {
        match found(name) {
            Some(found) if equals(found, &sample) => {}
            Some(found) => {
                let what = format!("the argument '{name}' is {found}");
                report.add(Rule::Arguments, args(message), what, format!("{name}={sample}"));
            }
            None => {
                let what = format!("the argument '{name}' is missing");
                report.add(Rule::Arguments, args(message), what, format!("args … {name}={sample}"));
            }
        }
    }
}

/// Whether two spellings mean the same sample. `req.hdr` without an occurrence splits values at commas, and is another
/// one.
fn equals(found: &str, sample: &str) -> bool {
    let bare = |text: &str| text.to_ascii_lowercase().replace(",-1)", ")").replace("req.", "");
    bare(found) == bare(sample)
}

/// Without `certificate_result` the agent cannot know that HAProxy verified the certificate.
fn check_certificate(message: &Block, report: &mut Report) {
    let has = |name: &str| message.args().any(|(found, _)| found == name);
    if has("certificate") && !has("certificate_result") {
        let what = "the argument 'certificate' needs the argument 'certificate_result'";
        let fix = "args … certificate_result=ssl_c_verify";
        report.add(Rule::Arguments, args(message), what, fix);
    }
}

/// The arguments of all lists above.
fn listed() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let lists: [&'static [(&str, &str)]; 6] =
        [&NEEDED, &QUERY, &PROTOCOLS, &BROWSER, &FRAMES, &POLICIES];
    lists.into_iter().flatten()
}

/// The shipped SPOE file.
static SHIPPED: LazyLock<Engine> = LazyLock::new(|| {
    let source = Source { name: "identity.spoe.cfg".into(), text: SPOE.into() };
    Engine::read(&source, 0, Some("identity"))
});

/// Reports arguments of a shipped name with another sample: the agent would read something else. The lists above judge
/// theirs, and the client may be another sample.
fn check_shipped(message: &Block, report: &mut Report) {
    let is_listed = |name: &str| listed().any(|(listed, _)| *listed == name);
    let shipped = SHIPPED.message(&message.name).into_iter().flat_map(Block::args);
    for (name, sample) in shipped.filter(|(name, _)| !is_listed(name)) {
        for (_, found) in message.args().filter(|(found, _)| *found == name) {
            if !equals(found, sample) {
                let what = format!("the argument '{name}' is {found}");
                report.add(Rule::Arguments, args(message), what, format!("{name}={sample}"));
            }
        }
    }
}

fn args(message: &Block) -> At {
    message.line(&["args"]).map_or(message.at, |line| line.at)
}

fn check_processing(section: &Block, agent: &Agent, report: &mut Report) {
    let within = agent.response_timeout;
    let fix = format!("timeout processing {}ms", (within + MARGIN).as_millis());
    let Some(line) = section.line(&["timeout", "processing"]) else {
        let what = "'timeout processing' is missing";
        report.add(Rule::ProcessingTimeout, section.at, what, fix);
        return;
    };
    let word = line.words.get(2).map_or("", String::as_str);
    match time(word) {
        // If HAProxy gives up first, the agent's reason is lost.
        Some(waits) if waits > within => {}
        Some(_) => {
            let ms = within.as_millis();
            let what = format!("HAProxy waits only {word}, and the agent may take {ms}ms");
            report.add(Rule::ProcessingTimeout, line.at, what, fix);
        }
        None => {
            let what = format!("'{word}' is not a time");
            report.add(Rule::ProcessingTimeout, line.at, what, fix);
        }
    }
}

/// HAProxy 3.1 and later must ask one request at a time on each connection; with several it can stop reading.
fn check_pipelining(section: &Block, report: &mut Report) {
    // One entry for each open condition: whether it holds for every HAProxy that needs the option.
    let mut open: Vec<bool> = Vec::new();
    let mut wrong = Some(section.at);
    for line in &section.lines {
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        match &words[..] {
            [".if", condition @ ..] => open.push(is_for_all(&condition.concat())),
            // Another branch holds for other versions only.
            [".elif" | ".else", ..] => {
                open.pop();
                open.push(false);
            }
            [".endif", ..] => {
                open.pop();
            }
            ["no", "option", "pipelining", ..] if open.iter().all(|holds| *holds) => wrong = None,
            ["option", "pipelining", ..] => wrong = Some(line.at),
            _ => {}
        }
    }
    if let Some(at) = wrong {
        let what = "HAProxy sends several requests at a time on one connection to the agent: 'no option pipelining' is missing";
        let fix = ".if version_atleast(3.1)\n    no option pipelining\n.endif";
        report.add(Rule::Pipelining, at, what, fix);
    }
}

/// Whether a condition holds for HAProxy 3.1 and every later one.
fn is_for_all(condition: &str) -> bool {
    let version = condition.strip_prefix("version_atleast(").and_then(|v| v.strip_suffix(')'));
    let mut parts = version.into_iter().flat_map(|v| v.trim().trim_matches('"').split('.'));
    let mut next = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), minor) => (major, minor.unwrap_or(0)) <= (3, 1),
        _ => false,
    }
}

/// How much longer than the agent's limit HAProxy waits in generated files.
pub(crate) const MARGIN: Duration = Duration::from_millis(200);

/// Reads a time of HAProxy's: a number and a unit, milliseconds by default.
fn time(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let micros = match text.get(digits.len()..)? {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number.checked_mul(micros)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_that_hold_for_every_haproxy_from_3_1_on_are_recognized() {
        for (condition, all) in [
            ("version_atleast(3.1)", true),
            ("version_atleast(\"3.0\")", true),
            ("version_atleast(2.6.1)", true),
            ("version_atleast(3.2)", false),
            ("version_before(3.1)", false),
            ("defined(X)", false),
            ("", false),
        ] {
            assert_eq!(is_for_all(condition), all, "{condition}");
        }
    }

    #[test]
    fn times_are_read_as_haproxy_does() {
        for (text, ms) in
            [("500ms", Some(500)), ("2s", Some(2000)), ("300", Some(300)), ("1m", Some(60_000))]
        {
            assert_eq!(time(text), ms.map(Duration::from_millis), "{text}");
        }
        for text in ["", "ms", "5y", "-1s", "99999999999999999d"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
