//! Checks routes to servers whose address the agent gives: each route must wait for all variables that belong to such
//! an address.
//!
//! Without one of them HAProxy connects to the client's own destination, or to the address of another request. The
//! shipped routes say which variables belong together.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{Report, Rule, Variant, guard::Guard, servers, shipped::PLAIN};
use crate::haproxy_config::{
    condition::{Condition, Term},
    document::{Line, Section},
    lint::lines::{addresses, target},
};

const PREFIX: &str = "txn.identity.";

/// An alternative of a shipped route: what it waits for.
struct Wanted {
    /// How its servers are reached.
    by: Transport,
    /// The variables of the agent that it waits for.
    names: BTreeSet<String>,
}

/// How servers are reached whose address the agent gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Https,
    Http,
}

static SHIPPED: LazyLock<Vec<Wanted>> = LazyLock::new(|| {
    let mut wanted = Vec::new();
    for front in PLAIN.iter().filter(|section| section.kind == "frontend") {
        let acls = super::acls(front.lines.iter().map(|line| &**line));
        for line in front.lines.iter().filter(|line| is_use(line)) {
            let named = |s: &&Section| s.kind == "backend" && target(line) == Some(&s.name);
            let Some(by) = PLAIN.iter().find(named).and_then(|section| by(section, &[])) else {
                continue;
            };
            // Each alternative of the condition is a way of its own.
            let ways = Condition::parse(&line.words, &acls).any;
            wanted.extend(ways.iter().map(|way| Wanted { by, names: found(way, PREFIX) }));
        }
    }
    wanted
});

fn is_use(line: &Line) -> bool {
    line.words.first().is_some_and(|word| word == "use_backend")
}

/// How the servers of a section are reached, if all of them take the address that rules set.
fn by(section: &Section, defaults: &[&Line]) -> Option<Transport> {
    let mut servers = addresses(section).peekable();
    servers.peek()?;
    let tls = addresses(section).any(|(line, _)| servers::is_tls(line, defaults));
    servers.all(|(_, address)| address.is_anywhere()).then_some(if tls {
        Transport::Https
    } else {
        Transport::Http
    })
}

/// The variables of the agent that certainly have a value where these terms hold.
fn found(way: &[Term], prefix: &str) -> BTreeSet<String> {
    let name = |term: &Term| {
        // A negated term says nothing about a value.
        let first = term.any.first().filter(|_| !term.negated)?;
        let name = first.fetch.strip_prefix("var(")?.strip_suffix(')')?.strip_prefix(prefix)?;
        term.any.iter().all(|test| test.fetch == first.fetch).then(|| name.to_owned())
    };
    way.iter().filter_map(name).collect()
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let routes = guard.rules("use_backend").iter().chain(guard.rules("default_backend"));
    for (_, line, when) in routes {
        let Some(name) = target(line).filter(|_| !variant.known.contains(&line.at)) else {
            continue;
        };
        let led = variant.named(name).iter().find(|section| section.kind == "backend");
        let by = led.and_then(|section| by(section, &servers::defaults(section, variant)));
        let Some(by) = by else { continue };
        let always = [Vec::new()];
        let ways = if when.is_always() || when.unless { &always[..] } else { &when.any };
        for way in ways {
            check_way(guard, line, name, by, &found(way, &guard.prefix), report);
        }
    }
}

fn check_way(
    guard: &Guard<'_>,
    line: &Line,
    name: &str,
    by: Transport,
    has: &BTreeSet<String>,
    report: &mut Report,
) {
    // A TCP stream has no Host.
    let needed = |name: &&String| guard.http || *name != "dst_host";
    let lacking = |wanted: &Wanted| -> Vec<String> {
        wanted.names.difference(has).filter(needed).cloned().collect()
    };
    // The finding names what is missing compared with the most similar shipped route.
    let nearest = SHIPPED
        .iter()
        .filter(|wanted| wanted.by == by)
        .map(|wanted| (lacking(wanted), wanted))
        .min_by_key(|(lacking, _)| lacking.len());
    let Some((lacking, wanted)) = nearest.filter(|(lacking, _)| !lacking.is_empty()) else {
        return;
    };
    let what = format!(
        "requests reach '{name}' without the agent's {}: HAProxy then uses the client's own destination, or the address of another request",
        lacking.join(", ")
    );
    let terms: Vec<String> = wanted
        .names
        .iter()
        .filter(needed)
        .map(|name| format!("{{ {} -m found }}", guard.var(name)))
        .collect();
    let fix = format!("use_backend {name} if {}", terms.join(" "));
    report.add(Rule::RouteNotAgents, line.at, what, fix);
}

/// Reports servers without an address in backends that the agent names: no address comes with a name.
pub(super) fn check_named(variant: &Variant<'_>, report: &mut Report) {
    let lines = || variant.guards.iter().flat_map(|guard| &guard.lines);
    let routed: BTreeSet<&str> = lines().filter_map(|line| target(line)).collect();
    for section in variant.sections.iter().filter(|s| s.kind == "backend") {
        if !variant.reach.is_workspace(section) || routed.contains(section.name.as_str()) {
            continue;
        }
        for (line, _) in addresses(section).filter(|(_, address)| address.is_anywhere()) {
            let what = format!(
                "the agent names '{}' and gives no address for it: HAProxy uses the client's own destination",
                section.name
            );
            report.add(Rule::RouteNotAgents, line.at, what, "server NAME ADDRESS:PORT");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_routes_say_what_belongs_to_an_address() {
        let mut wanted: Vec<_> = SHIPPED
            .iter()
            .map(|w| {
                (w.by == Transport::Https, w.names.iter().map(String::as_str).collect::<Vec<_>>())
            })
            .collect();
        wanted.sort();
        let want = [
            (false, vec!["dst_host", "dst_ip", "host_port"]),
            (false, vec!["dst_ip", "dst_port"]),
            (true, vec!["dst_host", "dst_ip", "sni", "tls_port"]),
        ];
        assert_eq!(wanted, want);
    }
}
