//! The shipped file, as the checks compare with it. So there is no second list of its rules.

use std::{collections::BTreeSet, sync::LazyLock};

use crate::haproxy_config::{
    document::{Document, Section, Source},
    shipped::GATE,
};

/// All variants of the shipped file.
pub(super) static FILE: LazyLock<Document> =
    LazyLock::new(|| Document::read(&[Source { name: "haproxy.cfg".into(), text: GATE.into() }]));

/// The variant where no condition holds: the rules that every gate needs.
pub(super) static PLAIN: LazyLock<Vec<Section>> = LazyLock::new(|| FILE.variant(|_| false));

/// The lines of the front end, of all variants.
static FRONT: LazyLock<BTreeSet<Vec<String>>> = LazyLock::new(|| {
    let fronts = FILE.variants().flatten().filter(|section| section.kind == "frontend");
    fronts.flat_map(|section| section.lines).map(|line| line.words.clone()).collect()
});

/// The agent's variables that the shipped rules use, without the one that HAProxy sets when the agent fails.
static VARIABLES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    let parts = GATE.split("txn.identity.").skip(1);
    let name = |part: &'static str| {
        // The name ends at the parenthesis of `var(…)`.
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        part.get(..end).filter(|name| !name.is_empty() && *name != "spoe_error")
    };
    parts.filter_map(name).collect()
});

/// The agent's variables that an action of the shipped rules takes (`set-dst`, `set-dst-port`).
pub(super) fn taken(action: &str) -> impl Iterator<Item = &'static str> {
    let rules = FRONT.iter().filter(move |words| words.get(1).is_some_and(|word| word == action));
    rules.filter_map(|words| words.get(2)?.strip_prefix("var(txn.identity.")?.strip_suffix(')'))
}

/// Whether the shipped front end has this line.
pub(super) fn has_line(words: &[String]) -> bool {
    FRONT.contains(words)
}

/// Whether the shipped rules use this variable of the agent.
pub(super) fn is_variable(name: &str) -> bool {
    VARIABLES.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_known() {
        for name in ["allow", "user", "dst_ip", "backend", "sni"] {
            assert!(is_variable(name), "{name}");
        }
        assert!(!is_variable("spoe_error") && !is_variable("x"));
        assert!(taken("set-dst").eq(["dst_ip"]) && taken("set-dst-port").any(|n| n == "dst_port"));
        let words = "default_backend nowhere".split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(has_line(&words));
        assert!(PLAIN.iter().any(|section| section.kind == "frontend"));
    }
}
