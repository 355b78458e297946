//! Checks that credentials do not reach workspaces under another name, and that the agent is asked with the client's
//! own credentials.
//!
//! The shipped rules delete Authorization and cookies; a copy of them in another header or a variable would travel on.
//! Variables are followed to the samples that they come from.

use super::{
    Report, Rule, Variant,
    expression::{Call, Piece, calls, pieces},
    forged::Values,
    guard::Guard,
    shipped,
};
use crate::{haproxy_config::document::Line, sessions::COOKIE};

/// Headers that hold credentials.
const HEADERS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];
/// Fetches of a header.
const FETCHES: [&str; 3] = ["hdr", "fhdr", "shdr"];
/// Fetches of cookies.
const COOKIES: [&str; 2] = ["cook", "cook_val"];
/// Fetches that return credentials whatever their arguments are.
const ALWAYS: [&str; 4] = ["hdrs", "hdrs_bin", "http_auth_pass", "http_auth_bearer"];
/// Converters that do not let the credential be recovered.
const HASHES: [&str; 18] = [
    "sha1",
    "sha2",
    "digest",
    "hmac",
    "md5",
    "crc32",
    "crc32c",
    "xxh32",
    "xxh64",
    "xxh3",
    "djb2",
    "sdbm",
    "wt6",
    "length",
    "bool",
    "strcmp",
    "secure_memcmp",
    "jwt_payload_query",
];
/// Request actions whose text goes to the workspace, or to the place a browser is redirected to.
const CARRIES: [&str; 13] = [
    "set-header",
    "add-header",
    "replace-header",
    "replace-value",
    "set-query",
    "set-path",
    "set-pathq",
    "set-uri",
    "replace-path",
    "replace-pathq",
    "replace-uri",
    "set-method",
    "redirect",
];
/// Actions by which HAProxy itself answers.
const ANSWERS: [&str; 2] = ["return", "deny"];
/// How many variables are followed, one to the next, to the samples they come from.
const MAX_STEPS: usize = 4;

pub(super) fn check(variant: &Variant<'_>, values: &Values<'_>, report: &mut Report) {
    for guard in variant.guards.iter().filter(|guard| guard.http) {
        check_asked(guard, variant, values, report);
    }
    if variant.guards.is_empty() {
        return;
    }
    let early = |line: &Line| variant.guards.iter().any(|guard| is_early(line, guard));
    for line in variant.reach.guarded_lines() {
        if !carries(line) || variant.known.contains(&line.at) || shipped::has_line(&line.words) {
            continue;
        }
        // These headers are deleted after the agent was asked.
        if is_header(line, variant) && early(line) {
            continue;
        }
        let mut texts =
            line.words.iter().skip(2).take_while(|word| *word != "if" && *word != "unless");
        if texts.any(|text| has_credential(text, variant, values, 0)) {
            let what =
                "a credential goes to the workspace under another name, or back to the browser";
            let fix = "remove it; %[var(txn.identity.user)] says who it is";
            report.add(Rule::CredentialTravels, line.at, what, fix);
        }
    }
}

fn carries(line: &Line) -> bool {
    match &line.words[..] {
        [kind, action, ..] if kind.starts_with("http-") => {
            // Scripts of the workspace's pages read responses, and would see cookies that are hidden from scripts
            // (`HttpOnly`).
            CARRIES.contains(&action.as_str()) || ANSWERS.contains(&action.as_str())
        }
        [redirect, ..] => redirect == "redirect",
        [] => false,
    }
}

/// Whether a rule sets a header that holds credentials.
fn is_header(line: &Line, variant: &Variant<'_>) -> bool {
    line.words.get(2).is_some_and(|name| holds_credentials(name, variant))
}

/// Whether a header of this name holds credentials.
fn holds_credentials(name: &str, variant: &Variant<'_>) -> bool {
    let own = variant.agent.header.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name));
    own || HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name))
}

/// Whether a rule comes before the agent is asked.
fn is_early(line: &Line, guard: &Guard<'_>) -> bool {
    let mut rules = guard.rules("http-request").iter();
    let place = rules.find(|(_, rule, _)| rule.at == line.at);
    place.is_some_and(|(number, ..)| !guard.is_after(*number))
}

fn has_credential(text: &str, variant: &Variant<'_>, values: &Values<'_>, steps: usize) -> bool {
    pieces(text).iter().any(|piece| match piece {
        Piece::Sample(sample) => is_credential(sample, variant, values, steps),
        _ => false,
    })
}

fn is_credential(sample: &str, variant: &Variant<'_>, values: &Values<'_>, steps: usize) -> bool {
    let Some(calls) = calls(sample) else { return false };
    let Some((first, converters)) = calls.split_first() else { return false };
    // A digest of a credential cannot be used as one.
    if converters.iter().any(|call| HASHES.contains(&call.name)) {
        return false;
    }
    let variable = |name: &str| {
        let mut given = values.get(name.trim()).iter().take(16);
        steps < MAX_STEPS
            && given.any(|value| {
                if value.contains("%[") {
                    has_credential(value, variant, values, steps + 1)
                } else {
                    is_credential(value, variant, values, steps + 1)
                }
            })
    };
    // `concat` appends the value of a variable.
    let appended = |call: &Call<'_>| call.name == "concat" && call.args.split(',').any(variable);
    let fetched = match first.name {
        "var" => variable(first.args.split(',').next().unwrap_or_default()),
        name => is_fetch(name.strip_prefix("req.").unwrap_or(name), first.args, variant),
    };
    fetched || converters.iter().any(appended)
}

fn is_fetch(name: &str, args: &str, variant: &Variant<'_>) -> bool {
    let argument = args.split(',').next().unwrap_or_default().trim().to_ascii_lowercase();
    if FETCHES.contains(&name) {
        let protocol = variant.agent.subprotocol && argument == "sec-websocket-protocol";
        return holds_credentials(&argument, variant) || protocol;
    }
    // The agent's configuration says which cookie holds tokens, and its name is not known here.
    let ours = || argument.is_empty() || argument.starts_with(&COOKIE.to_ascii_lowercase());
    ALWAYS.contains(&name) || COOKIES.contains(&name) && (ours() || variant.agent.cookie)
}

/// Reports rules that ask the agent with a credential from the file: every client would become the person it belongs
/// to.
fn check_asked(guard: &Guard<'_>, variant: &Variant<'_>, values: &Values<'_>, report: &mut Report) {
    for (number, line, _) in guard.rules("http-request") {
        let Some(value) = given(line, variant) else { continue };
        if guard.is_after(*number) || shipped::has_line(&line.words) {
            continue;
        }
        let written = |piece: &Piece<'_>| match piece {
            Piece::Text(_) => true,
            Piece::Alias(_) => false,
            Piece::Sample(sample) => is_written(sample, values, 0),
        };
        // Deleting the credential only makes the client anonymous.
        let empty = value.is_empty() || value == "%[str()]";
        let ours = value.contains(&format!("{COOKIE}="));
        if ours || !empty && pieces(value).iter().all(written) {
            let what =
                "the agent is asked with a credential from this file, and not with the client's";
            report.add(Rule::VerdictMade, line.at, what, "remove it");
        }
    }
}

/// The value that a rule gives to a header of credentials. A replacement that keeps part of the old value is left out,
/// unless it adds a cookie of the agent's name.
fn given<'l>(line: &'l Line, variant: &Variant<'_>) -> Option<&'l str> {
    let [_, action, _, rest @ ..] = &line.words[..] else { return None };
    let value = match (action.as_str(), rest) {
        ("set-header" | "add-header", [value, ..]) => value,
        ("replace-header" | "replace-value", [_, value, ..])
            if !value.contains('\\') || value.contains(COOKIE) =>
        {
            value
        }
        _ => return None,
    };
    is_header(line, variant).then_some(value)
}

/// Whether the value of a sample stands in the file or the environment.
fn is_written(sample: &str, values: &Values<'_>, steps: usize) -> bool {
    const WRITTEN: [&str; 5] = ["str", "env", "int", "bool", "bin"];
    let calls = calls(sample).unwrap_or_default();
    let Some(first) = calls.first() else { return false };
    if first.name == "var" {
        let given = values.get(first.args.split(',').next().unwrap_or_default().trim());
        let written = |value: &&str| !value.contains("%[") && is_written(value, values, steps + 1);
        return steps < MAX_STEPS && !given.is_empty() && given.iter().all(written);
    }
    WRITTEN.contains(&first.name) || calls.iter().any(|call| call.name.starts_with("map"))
}
