//! Whether a pattern spells out all its hosts, so that one workspace may own them.

use regex_syntax::hir::{Hir, HirKind};

/// Returns whether a pattern is literal text apart from the captures `port` and `app`.
///
/// Alternatives of text and optional text are literal too. Classes and repetitions are not: with them, hosts
/// that the operator did not think of could reach the workspace, `app.example.com` without a backslash being
/// the usual mistake.
pub(super) fn is_literal(regex: &str) -> bool {
    regex_syntax::parse(regex).is_ok_and(|hir| has_text(&hir) && spells_out(&hir))
}

fn spells_out(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) => true,
        HirKind::Class(_) => false,
        HirKind::Repetition(repeated) => repeated.max == Some(1) && spells_out(&repeated.sub),
        HirKind::Capture(capture) => {
            matches!(capture.name.as_deref(), Some("port" | "app")) || spells_out(&capture.sub)
        }
        HirKind::Concat(all) | HirKind::Alternation(all) => all.iter().all(spells_out),
    }
}

/// Without any text, the captures alone would be the pattern.
fn has_text(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(_) => true,
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => false,
        HirKind::Repetition(repeated) => repeated.min > 0 && has_text(&repeated.sub),
        HirKind::Capture(capture) => {
            !matches!(capture.name.as_deref(), Some("port" | "app")) && has_text(&capture.sub)
        }
        HirKind::Concat(all) => all.iter().any(has_text),
        HirKind::Alternation(all) => all.iter().all(has_text),
    }
}
