//! Reuse of the last allow: the shipped lines, word for word and in their order, and no others.
//!
//! Nothing here judges what a rule of reuse does. Whoever changes one is told that the verdict is kept beyond
//! its request, or made by a rule, as of any other line that does so.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{Report, Rule, Variant};
use crate::haproxy::{
    document::{Document, Section, Source},
    generate::GATE,
};

/// The condition under which the shipped file has them.
pub(in crate::haproxy) const CONDITION: &str = "defined(GATE_REUSE)";
/// The most milliseconds that HAProxy may be told.
const LONGEST: u32 = 60_000;

/// The lines, from the first `acl` to the last rule.
static SHIPPED: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let lines = GATE.lines().skip_while(|line| *line != format!(".if {CONDITION}")).skip(1);
    let lines: Vec<_> = lines.take_while(|line| *line != ".else").collect();
    let text = format!("frontend f\n{}\n", lines.join("\n"));
    let document = Document::read(&[Source { name: "haproxy.cfg".into(), text }]);
    let sections = document.variant(|_| true);
    sections.into_iter().flat_map(|section| section.lines).map(|line| line.words).collect()
});

/// The numbers of the lines of a section that are the shipped ones, all of them.
pub(super) fn known(section: &Section) -> BTreeSet<usize> {
    let shipped = &*SHIPPED;
    if shipped.is_empty() {
        return BTreeSet::new();
    }
    let found = section.lines.windows(shipped.len()).position(|window| {
        window.iter().zip(shipped).all(|(line, shipped)| {
            line.words.len() == shipped.len()
                && line.words.iter().zip(shipped).all(|(word, shipped)| is_same(word, shipped))
        })
    });
    found.map(|start| (start..start + shipped.len()).collect()).unwrap_or_default()
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
    let ours = ["txn.reuse", "sess.identity_reuse"];
    for section in variant.sections {
        let known = known(section);
        for (_, line) in section.lines.iter().enumerate().filter(|(n, _)| !known.contains(n)) {
            let mut set = line.words.iter().filter_map(|word| {
                word.strip_prefix("set-var(").or_else(|| word.strip_prefix("set-var-fmt("))
            });
            let makes =
                |name: &str| name == allow || ours.iter().any(|ours| name.starts_with(ours));
            if set.any(makes) {
                let what = "a rule says what only the agent may say";
                let fix =
                    "remove it; reuse is written by 'haproxy generate' with 'reuse_ms' in [agent]";
                report.add(Rule::VerdictMade, line.at, what, fix);
            }
        }
    }
}
