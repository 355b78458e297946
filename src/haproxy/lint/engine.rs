//! The SPOE file: how long HAProxy waits, what it says and what it is told.

use std::{sync::LazyLock, time::Duration};

use super::{Agent, Report, Rule, guard::Guard};
use crate::haproxy::{
    document::{At, Source},
    generate::SPOE,
    spoe::{Block, Engine},
};

/// Arguments that the agent needs, with the samples that let it see every header.
const NEEDED: [(&str, &str); 6] = [
    ("host", "req.fhdr(host)"),
    ("hosts", "req.fhdr_cnt(host)"),
    ("authorization", "req.fhdr(authorization)"),
    ("authorizations", "req.fhdr_cnt(authorization)"),
    ("cookie", "req.fhdr(cookie)"),
    ("cookies", "req.fhdr_cnt(cookie)"),
];
/// What else is asked about, where the agent's configuration needs it.
const QUERY: [(&str, &str); 1] = [("query", "query")];
const PROTOCOLS: [(&str, &str); 2] = [
    ("protocols", "req.fhdr(sec-websocket-protocol)"),
    ("protocol_lines", "req.fhdr_cnt(sec-websocket-protocol)"),
];
const BROWSER: [(&str, &str); 7] = [
    ("fetch_mode", "req.fhdr(sec-fetch-mode)"),
    ("fetch_dest", "req.fhdr(sec-fetch-dest)"),
    ("accept", "req.fhdr(accept)"),
    ("upgrade", "req.fhdr(upgrade)"),
    ("requested_with", "req.fhdr(x-requested-with)"),
    ("fetch_site", "req.fhdr(sec-fetch-site)"),
    ("origin", "req.fhdr(origin)"),
];
/// Which client it is, another sample may say as well.
const POLICIES: [(&str, &str); 3] = [("method", "method"), ("path", "path"), ("client", "src")];

pub(super) fn check(guard: &Guard<'_>, agent: &Agent, report: &mut Report) {
    let Some(section) = &guard.engine.agent else { return };
    if section.line(&["option", "set-on-error"]).is_none() {
        let what = "there is no 'option set-on-error'";
        report.add(Rule::NoSetOnError, section.at, what, "option set-on-error spoe_error");
    }
    if section.line(&["option", "var-prefix"]).is_none() {
        let what = "there is no 'option var-prefix'";
        report.add(Rule::NoVarPrefix, section.at, what, "option var-prefix identity");
    }
    check_processing(section, agent, report);
    let Some(message) = guard.engine.message(guard.message()) else { return };
    check_shipped(message, report);
    if !guard.http {
        check_certificate(message, report);
        return;
    }
    let mut wanted = NEEDED.to_vec();
    if agent.query || agent.sign_in {
        wanted.extend(QUERY);
    }
    if agent.subprotocol {
        wanted.extend(PROTOCOLS);
    }
    if agent.sign_in || agent.cookie {
        wanted.extend(BROWSER);
    }
    if agent.policies {
        wanted.extend(POLICIES);
    }
    // What is there must be right, whether needed or not.
    let known = NEEDED.iter().chain(&QUERY).chain(&PROTOCOLS).chain(&BROWSER).chain(&POLICIES);
    for (name, sample) in known {
        let found = message.args().filter(|(n, _)| n == name).map(|(_, sample)| sample).last();
        let at = args(message);
        match found {
            Some(found) if equals(found, sample) || *name == "client" => {}
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
    check_certificate(message, report);
}

/// `req.hdr` splits at commas; the other spellings are the same.
fn equals(found: &str, sample: &str) -> bool {
    let bare = |text: &str| text.to_ascii_lowercase().replace(",-1)", ")").replace("req.", "");
    bare(found) == bare(sample)
}

/// A certificate counts only beside HAProxy's word that it verified it.
fn check_certificate(message: &Block, report: &mut Report) {
    let has = |name: &str| message.args().any(|(found, _)| found == name);
    if has("certificate") && !has("certificate_result") {
        let what = "the argument 'certificate_result' is missing beside 'certificate'";
        let fix = "args … certificate_result=ssl_c_verify";
        report.add(Rule::Arguments, args(message), what, fix);
    }
}

/// The shipped SPOE file.
static SHIPPED: LazyLock<Engine> = LazyLock::new(|| {
    let source = Source { name: "identity.spoe.cfg".into(), text: SPOE.into() };
    Engine::read(&source, 0, Some("identity"))
});

/// Arguments of the shipped names are what the agent takes them for. Which client it is, another sample may
/// say as well, and what has a list of its own is judged by that.
fn check_shipped(message: &Block, report: &mut Report) {
    let listed = |name: &str| {
        let lists = NEEDED.iter().chain(&QUERY).chain(&PROTOCOLS).chain(&BROWSER).chain(&POLICIES);
        lists.into_iter().any(|(listed, _)| *listed == name)
    };
    let shipped = SHIPPED.message(&message.name).into_iter().flat_map(Block::args);
    for (name, sample) in shipped.filter(|(name, _)| !listed(name)) {
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
    let within = agent.answer_within;
    let fix = format!("timeout processing {}ms", (within + MARGIN).as_millis());
    let Some(line) = section.line(&["timeout", "processing"]) else {
        let what = "there is no 'timeout processing'";
        report.add(Rule::ProcessingTimeout, section.at, what, fix);
        return;
    };
    let word = line.words.get(2).map_or("", String::as_str);
    match time(word) {
        Some(waits) if waits > within => {}
        Some(_) => {
            let ms = within.as_millis();
            let what = format!("HAProxy waits {word}, and the agent answers within {ms}ms");
            report.add(Rule::ProcessingTimeout, line.at, what, fix);
        }
        None => {
            let what = format!("'{word}' is no time");
            report.add(Rule::ProcessingTimeout, line.at, what, fix);
        }
    }
}

/// By how much HAProxy waits longer than the agent takes at most.
pub(in crate::haproxy) const MARGIN: Duration = Duration::from_millis(200);

/// A time as HAProxy reads it: a number, in milliseconds unless a unit follows.
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
