//! Checks that HAProxy's buffers have room for the headers that the gate adds.
//!
//! With a configuration of the agent, the room is what that needs, and it must be there. Without one, only sizes that the
//! file sets are judged, by what the shipped file has.

use super::{Report, Rule, Variant};
use crate::haproxy_config::{
    document::At,
    room::{self, HeaderRoom},
};

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    if !variant.guards.iter().any(|guard| guard.http) {
        return;
    }
    let needed = variant.agent.room.unwrap_or_default();
    let buffers = size(variant, "tune.bufsize");
    let rewrites = size(variant, "tune.maxrewrite");
    if variant.agent.room.is_none() && buffers.is_none() && rewrites.is_none() {
        return;
    }
    let globals = || variant.sections.iter().filter(|section| section.kind == "global");
    let first = globals().next().or(variant.sections.first());
    let at = rewrites.or(buffers).map(|(at, _)| at);
    let at = at.or(first.map(|section| section.at)).unwrap_or(At { file: 0, line: 1 });
    let has = HeaderRoom {
        bufsize: buffers.map_or(room::DEFAULT.bufsize, |(_, size)| size),
        maxrewrite: rewrites.map_or(room::DEFAULT.maxrewrite, |(_, size)| size),
    };
    if has.effective() < needed.maxrewrite {
        let what = format!(
            "HAProxy keeps {} bytes free for headers, and the gate adds up to {}",
            has.effective(),
            needed.maxrewrite
        );
        report.lacks(Rule::HeaderRoom, at, what, needed.lines());
    } else if has.left() < room::REQUEST {
        let what = format!(
            "{} bytes are left for a request's own headers, and browsers send up to {}",
            has.left(),
            room::REQUEST
        );
        report.lacks(Rule::HeaderRoom, at, what, needed.lines());
    }
}

/// The last size that the sections `global` give, and where.
fn size(variant: &Variant<'_>, keyword: &str) -> Option<(At, u32)> {
    let globals = variant.sections.iter().filter(|section| section.kind == "global");
    let lines = globals.flat_map(|section| &section.lines);
    lines.rev().find_map(|line| match &line.words[..] {
        [word, size, ..] if word == keyword => Some((line.at, room::parse(size)?)),
        _ => None,
    })
}
