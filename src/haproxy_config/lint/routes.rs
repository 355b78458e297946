//! Checks where requests go after the agent was asked: the agent chooses the workspace, and no rule and no client does.

use std::cell::LazyCell;

use super::{
    Report, Rule, Variant,
    expression::{Piece, agents, calls, pieces},
    guard::{Asked, Guard},
    shipped,
};
use crate::haproxy_config::{
    condition::{Condition, Term, Test},
    document::{Line, Section},
    lint::lines::{addresses, is_reserved, is_server},
};

/// The agent's variables about the workspace and its address.
const PLACE: [&str; 10] = [
    "backend",
    "dst_ip",
    "dst_port",
    "host_port",
    "tls_port",
    "dst_host",
    "sni",
    "workspace",
    "endpoint",
    "owner",
];
/// A variable that is set only where the agent gives an address, besides those that `set-dst` rules take.
const ADDRESS: [&str; 1] = ["sni"];

/// Where a route leads.
enum RouteTarget<'v> {
    /// To a backend that the agent names.
    Agents,
    /// To a backend without servers, or to none.
    Nowhere,
    /// To servers with fixed addresses.
    Fixed(&'v Section),
    /// To servers that take the address that rules set.
    Anywhere,
    /// To a name that only the client or the environment decides.
    Unknown,
}

fn target<'v>(line: &Line, guard: &Guard<'_>, variant: &'v Variant<'_>) -> RouteTarget<'v> {
    let Some(name) = line.words.get(1) else { return RouteTarget::Nowhere };
    if name.contains('%') {
        return if is_agents(name, &guard.prefix) {
            RouteTarget::Agents
        } else {
            RouteTarget::Unknown
        };
    }
    if name.contains("${") {
        return RouteTarget::Unknown;
    }
    variant.named(name).first().copied().map_or(RouteTarget::Nowhere, of_section)
}

/// Whether a name is the agent's own, or is looked up from its variables in a map, whose values an administrator wrote.
fn is_agents(name: &str, prefix: &str) -> bool {
    let pieces = pieces(name);
    // A map with a default would lead unknown workspaces to one place.
    let mapped = |piece: &Piece<'_>| match piece {
        Piece::Sample(sample) => {
            let last = calls(sample).and_then(|calls| calls.last().map(|call| call.name));
            last.is_some_and(|name| name.starts_with("map"))
                && agents(sample, prefix).is_some_and(|name| PLACE.contains(&name))
        }
        Piece::Text(_) => true,
        Piece::Alias(_) => false,
    };
    is_backend(name, prefix) || pieces.iter().all(mapped)
}

/// Whether a name is exactly the one that the agent gives, which is one that its configuration permits.
pub(super) fn is_backend(name: &str, prefix: &str) -> bool {
    matches!(&pieces(name)[..], [Piece::Sample(sample)] if *sample == format!("var({prefix}backend)"))
}

fn of_section(section: &Section) -> RouteTarget<'_> {
    let mut servers = addresses(section).peekable();
    if servers.peek().is_none() {
        return RouteTarget::Nowhere;
    }
    if servers.all(|(_, address)| address.is_anywhere()) {
        RouteTarget::Anywhere
    } else {
        RouteTarget::Fixed(section)
    }
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    if guard.asked == Asked::Never {
        return;
    }
    let rules = || guard.rules("use_backend").iter().chain(guard.rules("default_backend"));
    let chosen = rules()
        .any(|(_, line, _)| matches!(target(line, guard, variant), RouteTarget::Agents))
        || guard.lines.iter().any(|line| destination(line).is_some_and(|(_, sets)| sets.is_some()));
    // A gate with a single workspace needs no choice.
    let fixed = |line: &Line| match target(line, guard, variant) {
        RouteTarget::Fixed(section) => Some(section.name.clone()),
        _ => None,
    };
    let mut only: Vec<String> = rules()
        .filter(|(_, line, when)| !guard.is_route_to_pages(line.at) && !is_pages(when, guard))
        .filter_map(|(_, line, _)| fixed(line))
        .collect();
    only.sort();
    only.dedup();
    let alone = !chosen && only.len() < 2;
    for (_, line, when) in rules() {
        if guard.is_route_to_pages(line.at) || variant.known.contains(&line.at) {
            continue;
        }
        let given = by_agent(when, guard, Addressed::Yes);
        let is_default = line.words.first().is_some_and(|word| word == "default_backend");
        let name = line.words.get(1).map_or("", String::as_str);
        let what = format!("this route to '{name}' is not the agent's choice");
        let fine = match target(line, guard, variant) {
            RouteTarget::Agents | RouteTarget::Nowhere => true,
            RouteTarget::Anywhere => is_default || alone || given,
            // If the agent gave an address, the servers have to take it, which `check_addressed` checks.
            RouteTarget::Fixed(_) if alone || given || is_pages(when, guard) => true,
            // The route is the shipped one, so the servers are wrong.
            RouteTarget::Fixed(section) if shipped::has_line(&line.words) => {
                for (server, _) in addresses(section) {
                    report.add(Rule::RouteNotAgents, server.at, what.clone(), fix(guard));
                }
                true
            }
            RouteTarget::Fixed(_) | RouteTarget::Unknown => false,
        };
        if !fine {
            report.add(Rule::RouteNotAgents, line.at, what, fix(guard));
        }
    }
    check_addressed(guard, variant, report);
}

fn fix(guard: &Guard<'_>) -> String {
    let backend = guard.var("backend");
    format!(
        "use_backend %[{backend}] if {{ {backend} -m found }}   # with the destination \"backend:NAME\" in the list of workspaces"
    )
}

/// Whether a route is for the agent's pages although no rule lets requests for them pass.
fn is_pages(when: &Condition, guard: &Guard<'_>) -> bool {
    let reserved =
        |way: &Vec<Term>| way.iter().any(|t| !t.negated && t.any.iter().all(is_reserved));
    guard.pages.is_none() && !when.is_always() && !when.unless && when.any.iter().all(reserved)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Addressed {
    /// The agent must name the place.
    No,
    /// An address from the agent is enough.
    Yes,
}

/// Whether every alternative of a route depends on what the agent says about the place.
fn by_agent(when: &Condition, guard: &Guard<'_>, addressed: Addressed) -> bool {
    let says = |term: &Term| {
        !term.negated
            && !term.any.is_empty()
            && term.any.iter().all(|test| is_place(test, guard, addressed))
    };
    !when.unless && !when.is_always() && when.any.iter().all(|way| way.iter().any(says))
}

fn is_place(test: &Test, guard: &Guard<'_>, addressed: Addressed) -> bool {
    let name = test.fetch.strip_prefix("var(").and_then(|n| n.strip_suffix(')'));
    let Some(name) = name.and_then(|name| name.strip_prefix(&guard.prefix)) else { return false };
    match test.method.as_deref() {
        Some("found") => {
            let mut taken = shipped::taken("set-dst").chain(shipped::taken("set-dst-port"));
            addressed == Addressed::Yes && (ADDRESS.contains(&name) || taken.any(|n| n == name))
        }
        // A comparison with a fixed place of the agent's is the agent's choice.
        Some("str" | "ip") => PLACE.contains(&name) && (test.from_file || !test.values.is_empty()),
        _ => false,
    }
}

/// Checks that servers of routes with an address from the agent take the address and the port.
fn check_addressed(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let mut anywhere = false;
    for (_, line, when) in guard.rules("use_backend").iter().chain(guard.rules("default_backend")) {
        let name = line.words.get(1).map_or("", String::as_str);
        let sections = variant.named(name).iter().filter(|s| s.kind == "backend");
        for section in sections {
            let found = addresses(section).any(|(_, address)| address.is_anywhere());
            // The backend `reused` takes its address from other variables.
            anywhere |= found && !variant.known.contains(&line.at);
            let given =
                by_agent(when, guard, Addressed::Yes) && !by_agent(when, guard, Addressed::No);
            for (server, address) in addresses(section) {
                if (found || given) && !(address.is_anywhere() && address.leaves_port()) {
                    let what = format!(
                        "'{name}' is for addresses from the agent, and this server has another one"
                    );
                    report.add(Rule::RouteNotAgents, server.at, what, "server direct 0.0.0.0:0");
                }
            }
        }
    }
    let sets = |action: &str, name: &str| {
        guard.lines.iter().any(|line| {
            destination(line) == Some((action, Some(name))) && {
                let when = Condition::parse(&line.words, &guard.names.acls);
                let found = |term: &Term| {
                    !term.negated
                        && term.any.iter().all(|test| is_place(test, guard, Addressed::Yes))
                };
                when.is_always()
                    || (!when.unless && when.any.iter().any(|way| way.iter().all(found)))
            }
        })
    };
    let kind = if guard.http { "http-request" } else { "tcp-request content" };
    for (action, name) in [("set-dst", "dst_ip"), ("set-dst-port", "dst_port")] {
        if anywhere && !sets(action, name) {
            let variable = guard.var(name);
            let what = format!(
                "no rule sets the destination from {variable}: HAProxy uses the client's own"
            );
            let fix = format!("{kind} {action} {variable} if {{ {variable} -m found }}");
            report.lacks(Rule::RouteNotAgents, guard.asked_at(), what, fix);
        }
    }
}

/// The action of a rule that sets an address (`set-dst`), and the agent's variable that it takes, if it takes one.
fn destination(line: &Line) -> Option<(&str, Option<&str>)> {
    let (action, value) = match &line.words[..] {
        [http, action, value, ..] if http == "http-request" => (action, value),
        [tcp, _, action, value, ..] if tcp == "tcp-request" => (action, value),
        _ => return None,
    };
    if !["set-dst", "set-dst-port", "set-src", "set-src-port"].contains(&action.as_str()) {
        return None;
    }
    let name = value.strip_prefix("var(txn.").and_then(|rest| rest.strip_suffix(')'));
    let name = name.and_then(|name| name.split_once('.')).map(|(_, name)| name);
    Some((action, name.filter(|name| shipped::taken(action).any(|taken| taken == *name))))
}

/// Reports rules that set an address from another source than the agent, in guards and behind them.
pub(super) fn check_destinations(variant: &Variant<'_>, report: &mut Report) {
    if variant.guards.is_empty() {
        return;
    }
    for line in variant.reach.guarded_lines() {
        if variant.known.contains(&line.at) {
            continue;
        }
        if let Some((action, _)) = destination(line) {
            let prefix = variant.prefix();
            let allowed: Vec<_> =
                shipped::taken(action).map(|name| format!("var({prefix}{name})")).collect();
            let value = line.words.iter().skip_while(|word| *word != action).nth(1);
            if !value.is_some_and(|value| allowed.contains(value)) {
                let what = format!("'{action}' takes an address that is not the agent's");
                let fix = match allowed.first() {
                    Some(value) => {
                        format!("http-request {action} {value} if {{ {value} -m found }}")
                    }
                    None => "remove it; a proxy in front passes the client's address by 'accept-proxy' on the bind line".into(),
                };
                report.add(Rule::RouteNotAgents, line.at, what, fix);
            }
        }
    }
    check_servers(variant, report);
}

/// Reports choices among the servers of a backend that the agent does not make.
fn check_servers(variant: &Variant<'_>, report: &mut Report) {
    for section in variant.reach.guarded_sections() {
        let acls = LazyCell::new(|| super::acls(section.lines.iter().map(|line| &**line)));
        let chosen = |line: &&Line| {
            line.words.first().is_some_and(|word| word == "use-server")
                && !variant.known.contains(&line.at)
        };
        for line in section.lines.iter().map(|line| &**line).filter(chosen) {
            let Some(guard) = variant.guards.first() else { return };
            let name = line.words.get(1).map_or("", String::as_str);
            let when = Condition::parse(&line.words, &acls);
            let dynamic = pieces(name).iter().all(|piece| match piece {
                Piece::Sample(sample) => {
                    agents(sample, &guard.prefix).is_some_and(|n| PLACE.contains(&n))
                }
                _ => false,
            });
            // With one server there is nothing to choose.
            let others = section.lines.iter().filter(|line| is_server(line)).count() > 1;
            if others && !dynamic && !by_agent(&when, guard, Addressed::No) {
                let what = format!("the server '{name}' is not the agent's choice");
                report.add(Rule::RouteNotAgents, line.at, what, fix(guard));
            }
        }
    }
}
