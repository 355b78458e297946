//! Reuse of the last allow: the shipped lines, word for word and in their order, and no others.
//!
//! Nothing here judges what a rule of reuse does. Whoever changes one is told that the verdict is kept beyond
//! its request, or made by a rule, as of any other line that does so. What is added beside the shipped lines is
//! told where reuse would go past it.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use super::{Report, Rule, Variant, ends, guard, shipped::FILE};
use crate::haproxy_config::{
    condition::Condition,
    document::{At, Line, Section},
};

/// The condition under which the shipped file has them.
pub(crate) const CONDITION: &str = "defined(GATE_REUSE)";
/// The most milliseconds that HAProxy may be told.
const LONGEST: u32 = 60_000;
/// Where requests go that were decided for themselves, and where what is reused goes.
const DECIDED: [(&str, &str); 2] = [("workspace", "reused"), ("workspace-tls", "reused-tls")];

type Words = Vec<String>;

/// Lines that stand together, in a backend of this name or in any front end.
struct Run {
    backend: Option<String>,
    lines: Vec<Words>,
}

/// The shipped lines: what is there under the condition, and not without it.
static SHIPPED: LazyLock<Vec<Run>> = LazyLock::new(|| {
    let reuse = FILE.conditions().iter().position(|condition| condition == CONDITION);
    let without = FILE.variant(|condition| Some(condition) != reuse);
    let usual: BTreeSet<At> =
        without.iter().flat_map(|section| &section.lines).map(|line| line.at).collect();
    let mut runs = Vec::new();
    for section in FILE.variant(|_| true) {
        let backend = (section.kind == "backend").then_some(&section.name);
        for lines in section.lines.chunk_by(|a, b| usual.contains(&a.at) == usual.contains(&b.at)) {
            if lines.iter().any(|line| usual.contains(&line.at)) {
                continue;
            }
            let rules = lines.iter().filter(|line| backend.is_none() || is_rule(line));
            let lines = rules.map(|line| line.words.clone()).collect();
            runs.push(Run { backend: backend.cloned(), lines });
        }
    }
    runs
});

/// The rules of the shipped file behind the question, and where they lead, in all their forms. What they do to
/// other requests the backends of reuse do, too.
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

/// A rule, or a way to go.
fn matters(line: &Line) -> bool {
    is_rule(line) || line.words.first().is_some_and(|word| word == "use_backend")
}

fn asks(line: &Line) -> bool {
    line.words.iter().any(|word| word == "send-spoe-group")
}

/// The places of the lines of a section that are shipped ones, in whole runs.
pub(super) fn known(section: &Section) -> BTreeSet<At> {
    let mut known = BTreeSet::new();
    let here = |run: &&Run| match &run.backend {
        Some(name) => section.kind == "backend" && section.name == *name,
        None => section.kind != "backend",
    };
    for Run { lines, .. } in SHIPPED.iter().filter(here).filter(|run| !run.lines.is_empty()) {
        let found = section.lines.windows(lines.len()).find(|window| {
            window.iter().zip(lines).all(|(line, shipped)| {
                line.words.len() == shipped.len()
                    && line.words.iter().zip(shipped).all(|(word, shipped)| is_same(word, shipped))
            })
        });
        known.extend(found.into_iter().flatten().map(|line| line.at));
    }
    known
}

/// The same word, but for the deadline.
fn is_same(word: &str, shipped: &str) -> bool {
    let millis = |word: &str| word.strip_prefix("1:").and_then(|n| n.parse::<u32>().ok());
    match (millis(word), millis(shipped)) {
        (Some(millis), Some(_)) => millis <= LONGEST,
        _ => word == shipped,
    }
}

/// Rules that make a verdict, or say that one may be reused.
pub(super) fn check_made(variant: &Variant<'_>, report: &mut Report) {
    for section in variant.sections {
        let known = &variant.known;
        let reuses = section.lines.iter().any(|line| known.contains(&line.at));
        let inherited = guard::inherited(section, variant.sections);
        let lines = inherited.into_iter().chain([section]).flat_map(|section| &section.lines);
        for line in lines.filter(|line| reuses && widens(line, known)) {
            let what =
                "another 'acl' of this name: more requests count as the same than were compared";
            report.add(Rule::VerdictMade, line.at, what, "give it another name");
        }
        for line in section.lines.iter().filter(|line| !known.contains(&line.at)) {
            if line.words.iter().any(|word| word.trim_start_matches('!') == "reuse_hit") {
                let what = "a rule says what only the agent may say";
                let fix = "remove it; reuse is written by 'haproxy generate' with 'verdict_cache_ms' in [agent]";
                report.add(Rule::VerdictMade, line.at, what, fix);
            }
        }
    }
}

/// HAProxy takes several lines of one name as alternatives, wherever they stand.
fn widens(line: &Line, known: &BTreeSet<At>) -> bool {
    match &line.words[..] {
        [keyword, name, ..] if keyword == "acl" => {
            (name.starts_with("reuse_") || name == "METH_GET") && !known.contains(&line.at)
        }
        _ => false,
    }
}

/// Where allows are reused: rules that were added, and that reuse goes past; and limits under which HAProxy
/// could remember half of an answer.
pub(super) fn check_skipped(variant: &Variant<'_>, report: &mut Report) {
    let mut reuses = false;
    for guard in variant.guards {
        let known = &variant.known;
        let first = guard.section.lines.iter().position(|line| known.contains(&line.at));
        let Some(first) = first else { continue };
        reuses = true;
        for (number, line) in guard.section.lines.iter().enumerate() {
            // HAProxy goes through the ways after all rules, wherever they stand.
            let passed = !is_rule(line) || number > first;
            let shipped = || known.contains(&line.at) || LATER.contains(&line.words) || asks(line);
            if !matters(line) || !passed || ends::is_idle(line) || shipped() {
                continue;
            }
            // What is only for requests that are not allowed has nothing to say of these.
            let when = Condition::of(&line.words, &guard.names.acls);
            if guard.spares_allowed(&when) {
                continue;
            }
            if is_rule(line) {
                let fix = "move it above 'acl reuse_hit'; a rule there is for every request";
                skips(line, fix, report);
            } else if guard
                .pages_name()
                .is_none_or(|name| line.words.get(1).is_none_or(|w| w != name))
            {
                let fix = "remove it; a destination 'backend:NAME' leads a workspace there, and is not reused";
                skips(line, fix, report);
            }
        }
    }
    if !reuses {
        return;
    }
    for section in variant.sections {
        let twin =
            DECIDED.iter().find(|(name, _)| section.kind == "backend" && section.name == *name);
        if let Some((_, twin)) = twin {
            let twin = variant.sections.iter().find(|s| s.kind == "backend" && s.name == *twin);
            let lines = twin.into_iter().flat_map(|twin| &twin.lines);
            let theirs: BTreeSet<_> = lines.map(|line| &line.words).collect();
            for line in section.lines.iter().filter(|line| !theirs.contains(&line.words)) {
                skips(line, "write it into the backend for what is reused, too", report);
            }
        }
        let limits = |line: &&Arc<Line>| {
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

fn skips(line: &Line, fix: &str, report: &mut Report) {
    let what = "requests whose last allow is reused do not come to this line";
    report.add(Rule::ReuseSkips, line.at, what, fix);
}
