//! Reuse of the last allow: the shipped lines, word for word and in their order, and no others.
//!
//! Nothing here judges what a rule of reuse does. Whoever changes one is told that the verdict is kept beyond
//! its request, or made by a rule, as of any other line that does so. What is added beside the shipped lines is
//! told where reuse would go past it.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{Report, Rule, Variant};
use crate::haproxy::{
    condition::Condition,
    document::{At, Document, Line, Section, Source},
    generate::GATE,
};

/// The condition under which the shipped file has them.
pub(in crate::haproxy) const CONDITION: &str = "defined(GATE_REUSE)";
/// The most milliseconds that HAProxy may be told.
const LONGEST: u32 = 60_000;
/// Where requests go that were decided for themselves.
const DECIDED: [&str; 2] = ["workspace", "workspace-tls"];

type Words = Vec<String>;

/// Lines that stand together, in a backend of this name or in any front end.
struct Run {
    backend: Option<String>,
    lines: Vec<Words>,
}

/// The shipped lines.
static SHIPPED: LazyLock<Vec<Run>> = LazyLock::new(|| {
    let mut runs = Vec::new();
    for block in blocks() {
        let begins = block.lines().any(|line| line.starts_with("backend "));
        let text = if begins { block } else { format!("frontend f\n{block}") };
        let document = Document::read(&[Source { name: "haproxy.cfg".into(), text }]);
        for section in document.variant(|_| true) {
            let rules = section.lines.into_iter().filter(|line| !begins || is_rule(line));
            let lines = rules.map(|line| line.words).collect();
            runs.push(Run { backend: begins.then_some(section.name), lines });
        }
    }
    runs
});

/// The first words of every rule of the shipped file.
static RULES: LazyLock<BTreeSet<Words>> = LazyLock::new(|| {
    let document = Document::read(&[Source { name: "haproxy.cfg".into(), text: GATE.into() }]);
    let lines = document.variants().flatten().flat_map(|section| section.lines);
    lines.filter(is_rule).map(|line| beginning(&line)).collect()
});

fn is_rule(line: &Line) -> bool {
    line.words.first().is_some_and(|word| word == "http-request")
}

/// What a rule does to what: the rest depends on the place.
fn beginning(line: &Line) -> Words {
    line.words.iter().take(3).cloned().collect()
}

/// The texts between `.if` and its `.endif`.
fn blocks() -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in GATE.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        match (&mut open, word) {
            (None, ".if") if line.ends_with(CONDITION) => open = Some((0, String::new())),
            (Some((0, text)), ".endif") => {
                blocks.push(std::mem::take(text));
                open = None;
            }
            (Some((depth, text)), _) => {
                match word {
                    ".if" => *depth += 1,
                    ".endif" => *depth -= 1,
                    _ => {}
                }
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
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
    let prefix = variant.guards.first().map_or("txn.identity.", |guard| &guard.prefix);
    let allow = format!("{prefix}allow)");
    let ours = ["txn.reuse", "sess.identity.", "sess.identity_asked"];
    for section in variant.sections {
        let known = known(section);
        for line in section.lines.iter().filter(|line| !known.contains(&line.at)) {
            let mut set = line.words.iter().filter_map(|word| {
                word.strip_prefix("set-var(").or_else(|| word.strip_prefix("set-var-fmt("))
            });
            let makes =
                |name: &str| name == allow || ours.iter().any(|ours| name.starts_with(ours));
            let sends = |word: &String| word.trim_start_matches('!') == "reuse_hit";
            if set.any(makes) || line.words.iter().any(sends) {
                let what = "a rule says what only the agent may say";
                let fix =
                    "remove it; reuse is written by 'haproxy generate' with 'reuse_ms' in [agent]";
                report.add(Rule::VerdictMade, line.at, what, fix);
            }
        }
    }
}

/// Where allows are reused: rules that were added, and that reuse goes past; and limits under which HAProxy
/// could remember half of an answer.
pub(super) fn check_skipped(variant: &Variant<'_>, report: &mut Report) {
    let mut reuses = false;
    for guard in variant.guards {
        let known = known(guard.section);
        let Some(end) = guard.section.lines.iter().rposition(|line| known.contains(&line.at))
        else {
            continue;
        };
        reuses = true;
        let first = guard.section.lines.iter().position(|line| known.contains(&line.at));
        let later = guard.section.lines.iter().skip(first.unwrap_or(end));
        let matters = |line: &&Line| {
            let when = Condition::of(&line.words, &guard.acls);
            // What refuses only what is not allowed has nothing to say of these.
            !known.contains(&line.at) && !when.spares(|test| guard.is_verdict(test))
        };
        skipped(later.filter(matters), report);
    }
    if !reuses {
        return;
    }
    for section in variant.sections {
        if section.kind == "backend" && DECIDED.contains(&section.name.as_str()) {
            skipped(section.lines.iter(), report);
        }
        let limits = |line: &&Line| {
            let limit = line.words.first().is_some_and(|word| word.starts_with("tune.vars."));
            limit && line.words.get(1).is_some_and(|size| size != "0")
        };
        for line in section.lines.iter().filter(limits) {
            let what = "the memory for variables is limited, and allows are reused";
            let fix = "remove the limit, or 'reuse_ms' from [agent]";
            report.add(Rule::ReuseHalf, line.at, what, fix);
        }
    }
}

fn skipped<'l>(lines: impl Iterator<Item = &'l Line>, report: &mut Report) {
    for line in lines.filter(|line| is_rule(line) && !RULES.contains(&beginning(line))) {
        let what = "requests whose last allow is reused do not come to this rule";
        let fix =
            "move it above 'acl reuse_hit' in the front end; a rule there is for every request";
        report.add(Rule::ReuseSkips, line.at, what, fix);
    }
}
