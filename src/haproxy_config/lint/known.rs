//! Checks the release of HAProxy, where it is given: a known bug needs another release, or the line that avoids it.

use super::{Report, Rule, Variant};
use crate::haproxy_config::document::At;

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    let Some(release) = variant.agent.release else { return };
    let globals = || variant.sections.iter().filter(|section| section.kind == "global");
    let at = globals().next().map_or(At { file: 0, line: 1 }, |section| section.at);
    for bug in release.known_bugs() {
        let has = |word: Option<&String>| word.is_some_and(|word| word == bug.workaround);
        if globals().flat_map(|section| &section.lines).any(|line| has(line.words.first())) {
            continue;
        }
        let what = format!("HAProxy {release} has a known bug: {bug}");
        let fix = format!("{}   # in the section 'global', or another release", bug.workaround);
        report.lacks(Rule::KnownBug, at, what, fix);
    }
}
