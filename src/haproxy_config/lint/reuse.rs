//! Reuse of the last allow: accepts the shipped lines, word for word and in their order, and no others.
//!
//! Nothing here judges what a rule of reuse does: [`known`] only compares lines with the shipped ones. A changed
//! line is then reported by the checks that report every such line (`verdict-scope`, `verdict-made`). Two things may differ: the
//! deadline, and the header for tokens that the agent's configuration names, which has a rule more. [`check_made`] finds
//! lines that would make HAProxy reuse more, [`check_skipped`] lines of the operator that a reused request
//! never comes to, [`check_servers`] servers of the backend `reused` that are not the shipped ones.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use super::{Agent, Report, Rule, Variant, ends, guard, servers, shipped::FILE};
use crate::haproxy_config::{
    document::{At, Line, Section},
    lint::lines::is_server,
};

/// The condition of the shipped file under which its lines of reuse stand.
pub(crate) const CONDITION: &str = "defined(GATE_REUSE)";
/// The largest deadline in milliseconds that a rule may give.
const MAX_MILLIS: u32 = 60_000;
/// The backends for requests that the agent was asked about. `reused` does the same for reused allows.
const ASKED: [&str; 2] = ["workspace", "workspace-tls"];
/// The backend for reused allows.
const REUSED: &str = "reused";

type Words = Vec<String>;

/// Shipped lines that stand together, in the backend of this name or in any front end.
struct Run {
    backend: Option<String>,
    lines: Vec<Words>,
}

/// The shipped lines of reuse: those that are in the file with [`CONDITION`] and not without it.
static SHIPPED: LazyLock<Vec<Run>> = LazyLock::new(|| {
    let reuse = FILE.conditions().iter().position(|condition| condition == CONDITION);
    let without = FILE.variant(|condition| Some(condition) != reuse);
    let usual: BTreeSet<At> =
        without.iter().flat_map(|section| &section.lines).map(|line| line.at).collect();
    let mut runs = Vec::new();
    for section in FILE.variant(|_| true) {
        let backend = (section.kind == "backend").then_some(&section.name);
        for lines in section.lines.chunk_by(|a, b| usual.contains(&a.at) == usual.contains(&b.at)) {
            // These lines are there without reuse too.
            if lines.iter().any(|line| usual.contains(&line.at)) {
                continue;
            }
            let rules = lines.iter().filter(|line| backend.is_none() || is_part_of_rules(line));
            let lines = rules.map(|line| line.words.clone()).collect();
            runs.push(Run { backend: backend.cloned(), lines });
        }
    }
    runs
});

/// The servers of the shipped backend `reused`.
static SERVERS: LazyLock<Vec<Words>> = LazyLock::new(|| {
    let sections = FILE.variant(|_| true);
    let lines = sections.iter().filter(|s| s.name == REUSED).flat_map(|section| &section.lines);
    lines.filter(|line| is_server(line)).map(|line| line.words.clone()).collect()
});

/// The rules and routes of the shipped file after the agent was asked, in every variant of it. The backend `reused` has
/// rules of its own that do the same.
static LATER: LazyLock<BTreeSet<Words>> = LazyLock::new(|| {
    let mut later = BTreeSet::new();
    for section in FILE.variants().flatten().filter(|section| section.kind == "frontend") {
        let asked = section.lines.iter().skip_while(|line| !asks(line));
        later.extend(asked.filter(|line| matters(line)).map(|line| line.words.clone()));
    }
    later
});

fn is_rule(line: &Line) -> bool {
    line.words.first().is_some_and(|word| word == "http-request")
}

/// Whether a line of a backend is a rule, or an ACL or choice of server that belongs to the rules.
fn is_part_of_rules(line: &Line) -> bool {
    line.words.first().is_some_and(|w| ["http-request", "acl", "use-server"].contains(&w.as_str()))
}

/// Whether a line is a rule or a route.
fn matters(line: &Line) -> bool {
    is_rule(line) || line.words.first().is_some_and(|word| word == "use_backend")
}

fn asks(line: &Line) -> bool {
    line.words.iter().any(|word| word == "send-spoe-group")
}

/// The places of those lines of a section that are shipped lines of reuse. They count only as a whole: in a front end the
/// rules and the route to the backend `reused`, in that backend all of its rules.
pub(super) fn known(section: &Section, agent: &Agent) -> BTreeSet<At> {
    let here = |run: &&Run| match &run.backend {
        Some(name) => section.kind == "backend" && section.name == *name,
        None => section.kind != "backend",
    };
    let runs = SHIPPED.iter().filter(here).filter(|run| !run.lines.is_empty());
    // One missing run makes all of them unknown, so that every line of them is reported.
    let lines: Vec<&Line> =
        section.lines.iter().map(|line| &**line).filter(|line| !removes_more(line)).collect();
    let found: Option<Vec<&[&Line]>> =
        runs.map(|run| window(&lines, &run.lines, agent.header.as_deref())).collect();
    found.into_iter().flatten().flatten().map(|line| line.at).collect()
}

/// Whether a line deletes, from every request, a header that no shipped line of reuse names.
fn removes_more(line: &Line) -> bool {
    let [keyword, action, name] = &line.words[..] else { return false };
    let is_shipped = || {
        SHIPPED.iter().flat_map(|run| &run.lines).any(|words| {
            words.get(1) == Some(action)
                && words.get(2).is_some_and(|shipped| shipped.eq_ignore_ascii_case(name))
        })
    };
    keyword == "http-request" && action == "del-header" && !is_shipped()
}

/// Those of these lines that are the shipped ones, one after another.
fn window<'w, 's>(
    lines: &'w [&'s Line],
    shipped: &[Words],
    header: Option<&str>,
) -> Option<&'w [&'s Line]> {
    lines.windows(shipped.len()).find(|window| {
        window.iter().zip(shipped).all(|(line, shipped)| {
            line.words.len() == shipped.len()
                && line
                    .words
                    .iter()
                    .zip(shipped)
                    .all(|(word, shipped)| is_same(word, shipped, header))
        })
    })
}

/// How samples name the header for tokens in the shipped lines.
const TOKEN_HEADER: &str = "(proxy-authorization)";

/// Whether two words are the same, except that the deadline may be another one, and that the header for tokens is that of
/// the agent's configuration. Without a configuration it may be any.
fn is_same(word: &str, shipped: &str, header: Option<&str>) -> bool {
    let millis = |word: &str| word.strip_prefix("1:").and_then(|n| n.parse::<u32>().ok());
    if let (Some(millis), Some(_)) = (millis(word), millis(shipped)) {
        return millis <= MAX_MILLIS;
    }
    let Some((before, _)) = shipped.split_once(TOKEN_HEADER) else { return word == shipped };
    let found = word.strip_prefix(before).and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
    let Some((found, _)) = found else { return false };
    header.is_none_or(|header| header.eq_ignore_ascii_case(found))
        && word == shipped.replace(TOKEN_HEADER, &format!("({found})"))
}

/// Reports rules that make a verdict, or that make HAProxy reuse more than the agent said.
pub(super) fn check_made(variant: &Variant<'_>, report: &mut Report) {
    for section in variant.sections {
        let known = &variant.known;
        let reuses = section.lines.iter().any(|line| known.contains(&line.at));
        let inherited = guard::inherited(section, variant.sections);
        let lines = inherited.into_iter().chain([section]).flat_map(|section| &section.lines);
        for line in lines.filter(|line| reuses && widens(line, known)) {
            let what = "a second 'acl' of this name: HAProxy reuses an allow for requests that differ from the compared one";
            report.add(Rule::VerdictMade, line.at, what, "give it another name");
        }
        for line in section.lines.iter().filter(|line| !known.contains(&line.at)) {
            if line.words.iter().any(|word| word.trim_start_matches('!') == "reuse_hit") {
                let what = "this line writes a variable that only the agent may write";
                let fix = "remove it; reuse is written by 'haproxy generate' with 'verdict_cache_ms' in [agent]";
                report.add(Rule::VerdictMade, line.at, what, fix);
            }
        }
    }
}

/// Whether a line adds an alternative to an ACL of reuse. HAProxy takes several lines of one name as alternatives,
/// wherever they stand.
fn widens(line: &Line, known: &BTreeSet<At>) -> bool {
    match &line.words[..] {
        [keyword, name, ..] if keyword == "acl" => {
            (name.starts_with("reuse_") || name == "METH_GET") && !known.contains(&line.at)
        }
        _ => false,
    }
}

/// Where allows are reused, reports the operator's lines that reused requests do not come to, and limits on memory
/// under which HAProxy could remember half of an answer.
pub(super) fn check_skipped(variant: &Variant<'_>, report: &mut Report) {
    let mut reuses = false;
    let backends = variant.sections.iter().filter(|s| s.kind == "backend" && s.name == REUSED);
    let theirs: Vec<&Line> = backends.flat_map(|s| s.lines.iter().map(|line| &**line)).collect();
    for guard in variant.guards {
        let known = &variant.known;
        let Some(first) = guard.lines.iter().position(|line| known.contains(&line.at)) else {
            continue;
        };
        reuses = true;
        let kinds = ["http-request", "use_backend"];
        for (number, line, when) in kinds.iter().flat_map(|kind| guard.rules(kind)) {
            // HAProxy looks at routes after all rules, wherever they stand.
            let passed = !is_rule(line) || *number > first;
            let shipped = || known.contains(&line.at) || LATER.contains(&line.words) || asks(line);
            // The backend of reused requests deletes the header as well.
            let shipped = || shipped() || (removes_more(line) && is_done_by(line, &theirs));
            // A reused request is allowed: a rule for refused requests only never concerns it.
            if !passed || ends::is_idle(line) || guard.spares_allowed(when) || shipped() {
                continue;
            }
            if is_rule(line) {
                let fix = "move it above 'acl reuse_hit', where rules apply to every request";
                skips(line, fix, report);
            } else if guard
                .pages_name()
                .is_none_or(|name| line.words.get(1).is_none_or(|w| w != name))
            {
                let fix = "remove it; give the workspace the destination 'backend:NAME', which is never reused";
                skips(line, fix, report);
            }
        }
    }
    if !reuses {
        return;
    }
    for section in variant.sections {
        if section.kind == "backend" && ASKED.contains(&section.name.as_str()) {
            for line in section.lines.iter().filter(|line| !is_done_by(line, &theirs)) {
                skips(line, "add it to the backend 'reused' too", report);
            }
        }
        let limits = |line: &&Arc<Line>| {
            // 0 means unlimited.
            let limit = line.words.first().is_some_and(|word| word.starts_with("tune.vars."));
            limit && line.words.get(1).is_some_and(|size| size != "0")
        };
        for line in section.lines.iter().filter(limits) {
            let what = "the memory for variables is limited, and allows are reused";
            let fix = "remove the limit, or 'verdict_cache_ms' from [agent]";
            report.add(Rule::ReuseHalf, line.at, what, fix);
        }
    }
}

/// Whether one of these lines does the same. Servers may have other names and weights.
fn is_done_by(line: &Line, lines: &[&Line]) -> bool {
    let same = |other: &&Line| {
        is_server(line) && is_server(other) && server(&line.words).eq(server(&other.words))
    };
    lines.iter().any(|other| other.words == line.words || same(other))
}

/// The words of a server's line without its name and weight.
fn server(words: &[String]) -> impl Iterator<Item = &String> {
    let weight = words.iter().position(|word| word == "weight");
    let of_weight = move |n: usize| weight.is_some_and(|weight| n == weight || n == weight + 1);
    words.iter().enumerate().filter(move |(n, _)| *n != 1 && !of_weight(*n)).map(|(_, word)| word)
}

fn skips(line: &Line, fix: &str, report: &mut Report) {
    let what = "reused requests skip this line";
    report.add(Rule::ReuseSkips, line.at, what, fix);
}

/// Reports servers of the backend `reused` that are not the shipped ones: at another address, without TLS for
/// workspaces over https, or with a weight, by which a retry could go to the other server.
pub(super) fn check_servers(variant: &Variant<'_>, report: &mut Report) {
    let reused = variant.sections.iter().filter(|s| s.kind == "backend" && s.name == REUSED);
    let reused = reused.filter(|s| s.lines.iter().any(|line| variant.known.contains(&line.at)));
    for section in reused {
        let defaults = servers::defaults(section, variant);
        for line in section.lines.iter().filter(|line| is_server(line)) {
            let is_shipped = |words: &Words| {
                let tls = words.iter().any(|word| word == "ssl");
                words.get(1) == line.words.get(1)
                    && fixed(words).all(|word| line.words.contains(word))
                    && guard::after(line, "weight") == Some("0")
                    && servers::is_tls(line, &defaults) == tls
            };
            if !SERVERS.iter().any(is_shipped) {
                let what =
                    "the backend 'reused' needs the shipped servers, and this is not one of them";
                let shipped: Vec<_> = SERVERS.iter().map(|words| words.join(" ")).collect();
                report.add(Rule::RouteNotAgents, line.at, what, shipped.join("\n"));
            }
        }
    }
}

/// The words of a shipped server that must stay. The authority of certificates may be another one.
fn fixed(words: &[String]) -> impl Iterator<Item = &String> {
    let authority = words.iter().position(|word| word == "ca-file").map(|place| place + 1);
    words.iter().enumerate().filter(move |(n, _)| Some(*n) != authority).map(|(_, word)| word)
}
