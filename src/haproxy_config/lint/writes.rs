//! Checks that only the agent writes its variables: no rule, converter, script or other SPOE engine does.

use super::{
    Files, Report, Rule, Variant,
    guard::{self, SpoeFiles},
    shipped,
};
use crate::haproxy_config::{
    document::{At, Line},
    spoe::Engine,
};

/// What writes a variable: actions, and converters anywhere in a sample.
const WRITERS: [&str; 3] = ["set-var(", "set-var-fmt(", "do-resolve("];
/// Variables that the rules of reuse compare with.
const REUSE: [&str; 4] =
    ["txn.reuse", "sess.identity_asked", "sess.identity_reused", "proc.identity_epoch"];
/// What else a Lua script can do to get past the agent: change requests, maps and servers, answer, connect, and run
/// code that is not in the script.
const SCRIPTED: [&str; 25] = [
    "req_set_",
    "req_add_",
    "req_rep_",
    "req_del_",
    ":set_header",
    ":add_header",
    ":rep_header",
    ":del_header",
    ":set_uri",
    ":set_path",
    ":set_query",
    ":set_method",
    "set_map",
    ":set_addr",
    "set_priority",
    "register_service",
    "register_filter",
    "core.tcp",
    "httpclient",
    "load(",
    "loadstring",
    "loadfile",
    "dofile",
    "debug.",
    "string.char",
];

/// The variables that a line writes.
pub(super) fn written(line: &Line) -> impl Iterator<Item = &str> {
    // `set-var` of the `global` section has the name as a word of its own.
    let global = match &line.words[..] {
        [keyword, name, ..] if keyword == "set-var" || keyword == "set-var-fmt" => {
            Some(name.as_str())
        }
        _ => None,
    };
    let words = line.words.iter().filter(|word| line.has_call && word.contains('('));
    let inside = words.flat_map(|word| WRITERS.iter().flat_map(move |writer| names(word, writer)));
    global.into_iter().chain(inside)
}

/// The names that follow a writer in a word.
fn names<'w>(word: &'w str, writer: &'static str) -> impl Iterator<Item = &'w str> {
    word.match_indices(writer).filter_map(move |(place, _)| {
        let rest = word.get(place + writer.len()..)?;
        let end = rest.find([',', ')']).unwrap_or(rest.len());
        Some(rest.get(..end)?.trim_matches(['\'', '"', '\\', ' ', '\t']))
    })
}

/// Whether a name belongs to the agent, in a scope that rules read. A name with a variable of the environment in it
/// belongs to the agent if it could.
fn is_protected(name: &str, prefix: &str) -> bool {
    let base = prefix.strip_prefix("txn.").unwrap_or(prefix);
    // Both directions: the known part can be shorter or longer than the protected prefix.
    let protected = |whole: &str| match name.split_once("${") {
        Some((known, _)) => known.starts_with(whole) || whole.starts_with(known),
        None => name.starts_with(whole),
    };
    ["txn.", "sess.", "proc."].iter().any(|scope| protected(&format!("{scope}{base}")))
        || REUSE.iter().any(|name| protected(name))
}

pub(super) fn check(
    variant: &Variant<'_>,
    files: Files<'_>,
    spoe: &mut SpoeFiles,
    report: &mut Report,
) {
    let prefix = variant.prefix();
    for section in variant.sections {
        for line in section.lines.iter().filter(|line| !variant.known.contains(&line.at)) {
            if variant.writes(line).iter().any(|name| is_protected(name, prefix)) {
                report.add(Rule::VerdictMade, line.at, MADE, MADE_FIX);
            }
            if section.kind == "global" {
                check_script(line, files, report);
            }
            check_engine(line, variant, spoe, files, report);
        }
    }
    for guard in variant.guards {
        check_own_engine(&guard.engine, prefix, report);
    }
}

const MADE: &str = "this line writes a variable that only the agent may write";
const MADE_FIX: &str =
    "remove it; reuse is written by 'haproxy generate' with 'verdict_cache_ms' in [agent]";

/// Reports scripts that can write the agent's variables or change requests.
fn check_script(line: &Line, files: Files<'_>, report: &mut Report) {
    let [keyword, name, ..] = &line.words[..] else { return };
    if keyword != "lua-load" && keyword != "lua-load-per-thread" {
        return;
    }
    let Some(source) = files(name) else {
        let what = format!(
            "not judged: the script '{name}' cannot be read, and could write the agent's variables"
        );
        report.add(
            Rule::NotJudged,
            line.at,
            what,
            "--root DIR, where the files of this HAProxy are",
        );
        return;
    };
    let text = source.text.as_str();
    // Searched as text: comments and strings are found too, which errs on the safe side.
    let writes = text.match_indices("set_var").any(|(place, _)| {
        let rest = text.get(place + "set_var".len()..).unwrap_or_default();
        let name = rest.trim_start().strip_prefix('(').map(str::trim_start);
        let name = name.and_then(|name| name.strip_prefix(['"', '\''])?.split_once(['"', '\'']));
        // A name that is not written out can be any name.
        name.is_none_or(|(name, rest)| {
            !rest.trim_start().starts_with(',')
                || name.contains('\\')
                || is_protected(name, "txn.identity.")
        })
    });
    if writes || SCRIPTED.iter().any(|call| text.contains(call)) {
        let what =
            format!("the script '{name}' can write the agent's variables or change requests");
        let fix = "write out the names of variables it sets (txn:set_var(\"txn.mine\", …)), outside of txn.identity, and leave headers to rules";
        report.add(Rule::VerdictMade, line.at, what, fix);
    } else if text.contains("require") {
        let what =
            format!("the script '{name}' runs others, which could write the agent's variables");
        report.add(Rule::NotJudged, line.at, what, "put what it needs into the script itself");
    }
}

/// Reports another SPOE engine whose variables have the prefix of the agent's.
fn check_engine(
    line: &Line,
    variant: &Variant<'_>,
    spoe: &mut SpoeFiles,
    files: Files<'_>,
    report: &mut Report,
) {
    let is_filter = matches!(&line.words[..], [f, spoe, ..] if f == "filter" && spoe == "spoe");
    if !is_filter {
        return;
    }
    let (name, file) = (guard::after(line, "engine"), guard::after(line, "config"));
    // The agent's own filter can stand in several sections.
    let same = |guard: &guard::Guard<'_>| {
        guard.filter.at == line.at
            || (guard::after(guard.filter, "engine") == name
                && guard::after(guard.filter, "config") == file)
    };
    if variant.guards.iter().any(same) {
        return;
    }
    let file = file.unwrap_or_default();
    let Some((number, source)) = guard::spoe_file(file, spoe, files, report) else {
        let name = name.unwrap_or_default();
        let what = format!("not judged: the file '{file}' of the engine '{name}' cannot be read");
        report.add(
            Rule::NotJudged,
            line.at,
            what,
            "--root DIR, where the files of this HAProxy are",
        );
        return;
    };
    let engine = Engine::read(source, *number, name);
    if guard::prefix(&engine, name) == variant.prefix() {
        let what = "another SPOE agent writes variables with the prefix of identity-spoa";
        report.add(
            Rule::VerdictMade,
            line.at,
            what,
            "option var-prefix NAME   # another prefix, in its SPOE file",
        );
    }
    check_messages(&engine, variant.prefix(), report);
}

/// Checks the variables that HAProxy itself writes for the agent's engine, and converters in its arguments.
fn check_own_engine(engine: &Engine, prefix: &str, report: &mut Report) {
    let agent = engine.agent.iter().flat_map(|agent| &agent.lines);
    for line in agent {
        if let [option, what, name, ..] = &line.words[..]
            && option == "option"
            && ["set-on-error", "set-process-time", "set-total-time"].contains(&what.as_str())
            // HAProxy writes these variables in place of the agent.
            && shipped::is_variable(name)
        {
            let what = format!("HAProxy writes '{name}' itself, also when the agent fails");
            report.add(Rule::VerdictMade, line.at, what, "option set-on-error spoe_error");
        }
    }
    check_messages(engine, prefix, report);
}

fn check_messages(engine: &Engine, prefix: &str, report: &mut Report) {
    for line in engine.messages.iter().flat_map(|message| &message.lines) {
        if written(line).any(|name| is_protected(name, prefix)) {
            let at: At = line.at;
            report.add(Rule::VerdictMade, at, MADE, "remove the converter");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_writing_is_seen() {
        for (words, protected) in [
            ("http-request set-var(txn.identity.allow) bool(true)", true),
            ("http-request set-var(txn.identity.allow,ifnotexists) bool(true)", true),
            ("http-request set-var-fmt(txn.identity.user) x", true),
            ("http-request unset-var(txn.identity.cookie)", true),
            ("http-after-response set-var(txn.identity.x) x", true),
            ("acl x req.hdr(a),set-var(txn.identity.user) -m found", true),
            ("http-request do-resolve(txn.identity.dst_ip,dns) hdr(host)", true),
            ("log-format %[src,set-var('txn.identity.allow')]", true),
            ("set-var proc.identity_epoch str(x)", true),
            ("http-request set-var(sess.identity.dst_ip) src", true),
            ("http-request set-var(txn.${X}) src", true),
            ("http-request set-var(${X}) src", true),
            ("http-request set-var(txn.own.${X}) src", false),
            ("http-request set-var(txn.identify) src", false),
            ("http-request set-var(req.identity.allow) src", false),
            ("http-request deny unless { var(txn.identity.allow) -m bool }", false),
        ] {
            let words = words.split(' ').map(str::to_owned).collect();
            let line = Line::new(At::default(), words);
            let found = written(&line).any(|name| is_protected(name, "txn.identity."));
            assert_eq!(found, protected, "{line:?}");
        }
    }
}
