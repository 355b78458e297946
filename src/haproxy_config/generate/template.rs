//! Turns a shipped file into a generated one.
//!
//! There are no marks in the shipped files. What this agent does not need is found by its meaning: `.if` branches whose
//! condition is decided, rules that wait for a variable that this agent never sets, ACLs that no rule uses any more,
//! and optional arguments of the SPOE file, which are written out in comments there.

use std::collections::BTreeSet;

use super::{Facts, Version};
use crate::haproxy_config::{
    condition::{Acls, Condition, Term, Test, add_acl},
    line::{Environment, words},
    lint::REUSE,
};

/// The lines that say where the file comes from. They replace what the shipped file says about itself.
fn head(facts: &Facts) -> String {
    format!(
        "#\n# Written by 'identity-spoa haproxy generate' for HAProxy {}, from the agent's configuration. Change that\n# and generate it again.\n",
        facts.version
    )
}

/// A generated `haproxy.cfg` or `tcp.cfg`.
pub(super) fn gate(template: &str, facts: &Facts) -> String {
    let lines = decide(template, facts);
    let lines = without_dead_rules(&lines, facts);
    let mut text = String::new();
    let mut section = "";
    // The first paragraph describes the file. The next one is about the shipped file only.
    let title = lines.iter().take_while(|line| line.starts_with("# ")).count();
    let about = lines.iter().take_while(|line| line.starts_with('#')).count();
    for line in lines.iter().take(title).filter(|line| is_present(line, &lines)) {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&head(facts));
    for line in lines.iter().skip(about) {
        // Sections begin at the margin in the shipped files.
        let split = split(line);
        if !line.starts_with([' ', '\t', '#', '.']) && !split.is_empty() {
            section = line;
        }
        text.push_str(&specialised(line, &split, section, facts));
        text.push('\n');
    }
    squeezed(text)
}

/// A generated `haproxy.cfg` in parts, by their names.
///
/// What the file's `defaults` say about workspaces is in their backends, since a front end that exists already has
/// `defaults` of its own.
pub(super) fn parts(gate: &str) -> [(&'static str, String); 4] {
    let lines: Vec<&str> = gate.lines().collect();
    let place = |begin: &str| lines.iter().position(|line| line.trim_start().starts_with(begin));
    let (first, log) = (place("# --- 1."), place("# --- 7."));
    let between = |from: Option<usize>, to: Option<usize>| {
        lines.get(from.unwrap_or(0)..to.unwrap_or(lines.len())).unwrap_or_default()
    };
    let front = between(first, log).join("\n");
    // What follows the front end, in paragraphs: each backend with its comment, without the example.
    let rest = between(log, None);
    let end = rest.iter().position(|line| line.is_empty()).unwrap_or(rest.len());
    let (log, backends) = rest.split_at(end);
    let paragraphs = backends.split(|line| line.is_empty()).filter(|lines| !lines.is_empty());
    let own = paragraphs.filter(|lines| !lines.contains(&"backend named"));
    let settings = of_workspaces(&lines);
    let backends: Vec<String> =
        own.map(|lines| with_settings(lines, &settings).join("\n")).collect();
    let backends = backends.join("\n\n");
    let is_needed = |line: &&&str| match &split(line)[..] {
        [presetenv, name, _] if presetenv == "presetenv" => {
            let used = format!("${{{name}}}");
            front.contains(&used) || backends.contains(&used)
        }
        [keyword, ..] => keyword.starts_with("tune."),
        [] => false,
    };
    let global: Vec<&str> = lines.iter().filter(is_needed).copied().collect();
    let text = |text: String| text.trim_end().to_owned() + "\n";
    [
        ("global", text(global.join("\n"))),
        ("frontend", text(front)),
        ("log", text(log.join("\n"))),
        ("backends", text(backends)),
    ]
}

/// The lines of `defaults` that concern workspaces: how long a tunnel may be silent, and the answer for a workspace that
/// does not accept a connection.
fn of_workspaces<'g>(gate: &[&'g str]) -> Vec<&'g str> {
    let defaults = gate.iter().skip_while(|line| **line != "defaults").skip(1);
    let section = defaults.take_while(|line| line.is_empty() || line.starts_with([' ', '#']));
    let mut comments = Vec::new();
    let mut settings = Vec::new();
    for line in section {
        let words = split(line);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["timeout", "tunnel", ..] | ["http-error", "status", "503", ..] => {
                settings.append(&mut comments);
                settings.push(*line);
            }
            [] if is_comment(line) => comments.push(*line),
            _ => comments.clear(),
        }
    }
    settings
}

/// The lines of a backend, with these settings if it leads to workspaces: those share no connection between clients.
fn with_settings<'g>(backend: &[&'g str], settings: &[&'g str]) -> Vec<&'g str> {
    let mut lines = backend.to_vec();
    let server = lines.iter().position(|line| split(line).first().is_some_and(|w| w == "server"));
    if let (Some(server), true) =
        (server, lines.iter().any(|line| line.trim() == "http-reuse never"))
    {
        // Above the servers and their comment.
        let comments = lines.iter().take(server).rev().take_while(|line| is_comment(line)).count();
        let at = server - comments;
        lines.splice(at..at, settings.iter().copied());
    }
    lines
}

/// Whether a line of the first paragraph stays. `#   backend NAME  …` is for files that have the backend.
fn is_present(title: &str, lines: &[&str]) -> bool {
    let mut words = title.split_whitespace().skip(1);
    let (Some("backend"), Some(name)) = (words.next(), words.next()) else { return true };
    lines.iter().any(|line| line.strip_prefix("backend ") == Some(name))
}

/// The text without repeated empty lines, which removed lines leave behind.
fn squeezed(mut text: String) -> String {
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

/// A generated `identity.spoe.cfg`.
pub(super) fn spoe(template: &str, facts: &Facts) -> String {
    let mut text = String::new();
    let template = &reuse_decided(template, facts);
    let optional = optional_arguments(template, facts);
    let blocks = blocks(template);
    for block in blocks {
        // Optional arguments are in the `args` line already where they are needed.
        if block.iter().any(|line| is_optional(line)) {
            continue;
        }
        for line in block {
            let spec = match split(line).as_slice() {
                [timeout, processing, _] if timeout == "timeout" && processing == "processing" => {
                    format!("    timeout processing {}ms", facts.processing.as_millis())
                }
                [args, ..] if args == "args" && line.contains("authorization=") => {
                    [&[line.to_owned()], &optional[..]].concat().join(" ")
                }
                [] => line.replace(
                    "within 300 ms",
                    &format!("within {} ms", facts.response_timeout.as_millis()),
                ),
                _ => line.to_owned(),
            };
            text.push_str(&spec);
            text.push('\n');
        }
        // The head follows the first line, which says what the file is.
        if text.lines().count() == 1 {
            text.push_str(&head(facts));
        }
    }
    squeezed(text)
}

/// The SPOE file with or without the arguments for reuse, and the comment above them.
fn reuse_decided(template: &str, facts: &Facts) -> String {
    let start = format!(".if {REUSE}");
    let mut lines: Vec<&str> = Vec::new();
    let mut inside = false;
    for line in template.lines() {
        if line == start {
            inside = true;
            while facts.reuse.is_none() && lines.last().is_some_and(|line| is_comment(line)) {
                lines.pop();
            }
        } else if inside && line == ".endif" {
            inside = false;
        } else if !inside || facts.reuse.is_some() {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n"
}

/// The file as blocks: each run of comment lines, and each other line alone.
fn blocks(template: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in template.lines() {
        let comment = line.starts_with('#');
        match blocks.last_mut() {
            Some(last) if comment && last.last().is_some_and(|l| l.starts_with('#')) => {
                last.push(line);
            }
            _ => blocks.push(vec![line]),
        }
    }
    blocks
}

/// Whether a comment writes out arguments: `#     name=sample name=sample`.
fn is_optional(line: &str) -> bool {
    line.strip_prefix("#  ").is_some_and(|rest| {
        let mut words = rest.split_whitespace().peekable();
        words.peek().is_some() && words.all(|word| word.contains('='))
    })
}

/// The optional arguments that this agent needs, each once.
fn optional_arguments(template: &str, facts: &Facts) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let lines = template.lines().filter(|line| is_optional(line));
    let words = lines.flat_map(|line| line.trim_start_matches('#').split_whitespace());
    // An argument can stand in several comments and is needed once.
    let needed = |word: &&str| {
        let (name, sample) = word.split_once('=').unwrap_or((word, ""));
        facts.asks(name, sample) && seen.insert(name.to_owned())
    };
    words.filter(needed).map(|word| with_header(word, facts)).collect()
}

/// The text with the header for tokens that the agent's configuration names, as samples have it.
fn with_header(text: &str, facts: &Facts) -> String {
    match &facts.header {
        Some(header) => {
            let sample = format!("({})", header.to_ascii_lowercase());
            text.replace("(proxy-authorization)", &sample)
        }
        None => text.to_owned(),
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn split(line: &str) -> Vec<String> {
    words(line, &Environment::new()).unwrap_or_default()
}

/// The lines of the branches that are taken. A condition that the facts do not decide stays in the file.
fn decide<'t>(template: &'t str, facts: &Facts) -> Vec<&'t str> {
    struct Open {
        /// Whether the condition stays in the file.
        stays: bool,
        /// Whether an earlier branch is certainly taken.
        taken: bool,
        /// Whether the lines of this branch stay.
        active: bool,
    }
    let mut open: Vec<Open> = Vec::new();
    let mut lines = Vec::new();
    for line in template.lines() {
        let (word, condition) = line.split_once(' ').unwrap_or((line, ""));
        let outer = open.iter().rev().skip(1).all(|open| open.active);
        let active = open.iter().all(|open| open.active);
        match (word, open.last_mut()) {
            (".if", _) => {
                let known = facts.decides(condition.trim());
                if active && known.is_none() {
                    lines.push(line);
                }
                // The comment above a removed condition is removed too.
                while known == Some(false) && lines.last().is_some_and(|l| is_comment(l)) {
                    lines.pop();
                }
                open.push(Open {
                    stays: active && known.is_none(),
                    taken: known == Some(true),
                    active: active && known != Some(false),
                });
            }
            // In the shipped files these only follow conditions that the facts do not decide.
            (".elif" | ".else", Some(last)) => {
                last.active = outer && !last.taken;
                if last.stays {
                    lines.push(line);
                }
            }
            (".endif", Some(last)) => {
                if last.stays {
                    lines.push(line);
                }
                open.pop();
            }
            _ if active => lines.push(line),
            _ => {}
        }
    }
    lines
}

/// The lines without rules that HAProxy would never follow, and without ACLs that are no longer used.
fn without_dead_rules<'t>(lines: &[&'t str], facts: &Facts) -> Vec<&'t str> {
    let mut acls = Acls::new();
    for line in lines {
        if let [acl, name, rest @ ..] = &split(line)[..]
            && acl == "acl"
        {
            add_acl(&mut acls, name, rest);
        }
    }
    let least =
        Facts { sign_in: None, query: false, subprotocol: false, metadata: false, ..facts.clone() };
    // A comment belongs to the rules below it that the smallest configuration lacks, and is removed with the last of
    // them.
    let gone: Vec<_> = lines.iter().map(|line| is_dead(line, &acls, facts)).collect();
    let could: Vec<_> = lines.iter().map(|line| is_dead(line, &acls, &least)).collect();
    let kept = lines.iter().enumerate().filter(|(index, line)| {
        if !is_comment(line) {
            return gone.get(*index) == Some(&false);
        }
        // The rules below this comment, up to the next comment.
        let mut below = lines.iter().zip(gone.iter().zip(&could)).skip(index + 1);
        let first = below.by_ref().find(|(line, _)| !is_comment(line));
        let run: Vec<_> =
            first.into_iter().chain(below).take_while(|(_, (_, could))| **could).collect();
        run.is_empty() || run.iter().any(|(_, (gone, _))| !**gone)
    });
    let kept: Vec<_> = kept.map(|(_, line)| *line).collect();
    // An ACL goes with the last rule that uses it; HAProxy would keep it without a word.
    let used: BTreeSet<String> = kept
        .iter()
        .flat_map(|line| {
            let words = split(line);
            let skip =
                if words.first().is_some_and(|word| word == "acl") { words.len() } else { 0 };
            words.into_iter().skip(skip).map(|word| word.trim_start_matches('!').to_owned())
        })
        .collect();
    let unused = |line: &&str| match &split(line)[..] {
        [acl, name, ..] => acl == "acl" && !used.contains(name),
        _ => false,
    };
    kept.into_iter().filter(|line| !unused(line)).collect()
}

/// Whether every alternative of a rule waits for a variable that the agent never sets.
fn is_dead(line: &str, acls: &Acls, facts: &Facts) -> bool {
    let words = split(line);
    let rule = words.first().is_some_and(|word| {
        ["http-request", "http-response", "http-after-response", "tcp-request", "use_backend"]
            .contains(&word.as_str())
    });
    if !rule {
        return false;
    }
    // Rules that remove a token from a part of the request where this agent accepts none.
    let place = match &words[..] {
        [_, set, ..] if set == "set-query" => facts.query,
        [_, _, name, ..] if name == "Sec-WebSocket-Protocol" => facts.subprotocol,
        _ => true,
    };
    if !place {
        return true;
    }
    let when = Condition::parse(&words, acls);
    let never = |test: &Test| {
        let name = test.fetch.strip_prefix("var(txn.identity.").and_then(|n| n.strip_suffix(')'));
        name.is_some_and(|name| !facts.says(name))
    };
    let dead = |term: &Term| !term.negated && !term.any.is_empty() && term.any.iter().all(never);
    !when.unless && !when.is_always() && when.any.iter().all(|way| way.iter().any(dead))
}

/// The line with the addresses and times of the agent's configuration.
fn specialised(line: &str, words: &[String], section: &str, facts: &Facts) -> String {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let indent = || line.len() - line.trim_start().len();
    let instead = |text: String| format!("{:indent$}{text}", "", indent = indent());
    match (&words[..], &facts.agent) {
        (["presetenv", "IDENTITY_AGENT", _], Some(agent)) => {
            return instead(format!("presetenv IDENTITY_AGENT {agent}"));
        }
        (["tune.bufsize", _], _) => {
            return instead(format!("tune.bufsize {}", facts.room.bufsize));
        }
        (["tune.maxrewrite", _], _) => {
            return instead(format!("tune.maxrewrite {}", facts.room.maxrewrite));
        }
        (["tcp-request", "inspect-delay", _], _) => {
            let seconds = facts.processing.as_secs() + 2;
            return instead(format!("tcp-request inspect-delay {seconds}s"));
        }
        (["mode", "tcp"], _)
            if section == "backend identity-agent" && facts.version >= Version::V3_2 =>
        {
            return instead("mode spop".into());
        }
        _ => {}
    }
    let mut text = with_header(line, facts);
    if let (["http-request", "del-header", "Proxy-Authorization"], Some(header)) =
        (&words[..], &facts.header)
        && !header.eq_ignore_ascii_case("Proxy-Authorization")
    {
        // Proxy-Authorization goes in any case: a client may send a token there by mistake.
        text = format!("{line}\n{}", instead(format!("http-request del-header {header}")));
    }
    if let Some(reuse) = facts.reuse {
        text = with(&text, "GATE_REUSE", &reuse.as_millis().to_string());
    }
    if let Some((host, pages)) = &facts.sign_in {
        // The address that programs are told has the port in it.
        if facts.login_port != 443 {
            text = text
                .replace("-login.invalid}/", &format!("-login.invalid}}:{}/", facts.login_port));
        }
        text = with(&text, "GATE_LOGIN_HOST", host);
        text = with(&text, "GATE_LOGIN_PAGES", pages);
    }
    text
}

/// The line with a value for `${NAME}` and `${NAME-default}`.
fn with(line: &str, name: &str, value: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    let start = &format!("${{{name}");
    while let Some((before, after)) = rest.split_once(start) {
        let (default, after) = after.split_once('}').unwrap_or((after, ""));
        if default.is_empty() || default.starts_with('-') {
            text.push_str(before);
            text.push_str(value);
        } else {
            text.push_str(before);
            text.push_str(start);
            text.push_str(default);
            text.push('}');
        }
        rest = after;
    }
    text.push_str(rest);
    text
}
