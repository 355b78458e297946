//! Where requests go behind the question: the agent chooses the workspace, and no rule or client does.

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

/// What the agent says about the place of a workspace.
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
/// What is found only where the agent gives an address, beside what rules take for one.
const ADDRESS: [&str; 1] = ["sni"];

/// Where a route leads.
enum Target<'v> {
    /// To a back end that the agent names.
    Agents,
    /// To a back end without servers, or to none.
    Nowhere,
    /// To servers of fixed addresses.
    Fixed(&'v Section),
    /// To servers whose address is the destination that rules set.
    Anywhere,
    /// To what only the client or the environment knows.
    Unknown,
}

fn target<'v>(line: &Line, guard: &Guard<'_>, variant: &'v Variant<'_>) -> Target<'v> {
    let Some(name) = line.words.get(1) else { return Target::Nowhere };
    if name.contains('%') {
        return if is_agents(name, &guard.prefix) { Target::Agents } else { Target::Unknown };
    }
    if name.contains("${") {
        return Target::Unknown;
    }
    variant.named(name).first().copied().map_or(Target::Nowhere, of_section)
}

/// Whether a name is one of those that the agent may give; or is made of the agent's word on the place by a map,
/// whose names an administrator wrote.
fn is_agents(name: &str, prefix: &str) -> bool {
    let pieces = pieces(name);
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

/// Whether a name is the one that the agent gives: it names only what its configuration permits.
pub(super) fn is_backend(name: &str, prefix: &str) -> bool {
    matches!(&pieces(name)[..], [Piece::Sample(sample)] if *sample == format!("var({prefix}backend)"))
}

fn of_section(section: &Section) -> Target<'_> {
    let mut servers = addresses(section).peekable();
    if servers.peek().is_none() {
        return Target::Nowhere;
    }
    if servers.all(|(_, address)| address.is_anywhere()) {
        Target::Anywhere
    } else {
        Target::Fixed(section)
    }
}

pub(super) fn check(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    if guard.asked == Asked::Never {
        return;
    }
    let rules = || guard.rules("use_backend").iter().chain(guard.rules("default_backend"));
    let chosen = rules().any(|(_, line, _)| matches!(target(line, guard, variant), Target::Agents))
        || guard.lines.iter().any(|line| destination(line).is_some_and(|(_, sets)| sets.is_some()));
    // A gate for one workspace alone needs no choice.
    let fixed = |line: &Line| match target(line, guard, variant) {
        Target::Fixed(section) => Some(section.name.clone()),
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
        let what = format!("the agent does not choose this way to '{name}'");
        let fine = match target(line, guard, variant) {
            Target::Agents | Target::Nowhere => true,
            Target::Anywhere => is_default || alone || given,
            // Where the agent gives an address, it is for the servers to take it.
            Target::Fixed(_) if alone || given || is_pages(when, guard) => true,
            // The route is the shipped one: it is the servers that are not.
            Target::Fixed(section) if shipped::has_line(&line.words) => {
                for (server, _) in addresses(section) {
                    report.add(Rule::RouteNotAgents, server.at, what.clone(), fix(guard));
                }
                true
            }
            Target::Fixed(_) | Target::Unknown => false,
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

/// Whether a route is meant for our pages, where no rule lets requests for them pass.
fn is_pages(when: &Condition, guard: &Guard<'_>) -> bool {
    let reserved =
        |way: &Vec<Term>| way.iter().any(|t| !t.negated && t.any.iter().all(is_reserved));
    guard.pages.is_none() && !when.is_always() && !when.unless && when.any.iter().all(reserved)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Addressed {
    /// The agent must name the place.
    No,
    /// That it gave an address is enough.
    Yes,
}

/// Whether each way a route is taken depends on what the agent says of the place.
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
        Some("str" | "ip") => PLACE.contains(&name) && (test.from_file || !test.values.is_empty()),
        _ => false,
    }
}

/// Where the agent gives an address, the servers must leave it, and its port, to the rules.
fn check_addressed(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let mut anywhere = false;
    for (_, line, when) in guard.rules("use_backend").iter().chain(guard.rules("default_backend")) {
        let name = line.words.get(1).map_or("", String::as_str);
        let sections = variant.named(name).iter().filter(|s| s.kind == "backend");
        for section in sections {
            let found = addresses(section).any(|(_, address)| address.is_anywhere());
            anywhere |= found && !variant.known.contains(&line.at);
            let given =
                by_agent(when, guard, Addressed::Yes) && !by_agent(when, guard, Addressed::No);
            for (server, address) in addresses(section) {
                if (found || given) && !(address.is_anywhere() && address.leaves_port()) {
                    let what = format!(
                        "'{name}' is for addresses that the agent gives, and this is another one"
                    );
                    report.add(Rule::RouteNotAgents, server.at, what, "server direct 0.0.0.0:0");
                }
            }
        }
    }
    let sets = |action: &str, name: &str| {
        guard.lines.iter().any(|line| {
            destination(line) == Some((action, Some(name))) && {
                let when = Condition::of(&line.words, &guard.names.acls);
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
            let what =
                format!("nothing sets the destination by {variable}: the client's own is used");
            let fix = format!("{kind} {action} {variable} if {{ {variable} -m found }}");
            report.lacks(Rule::RouteNotAgents, guard.asked_at(), what, fix);
        }
    }
}

/// The action of a rule that sets an address (`set-dst`), and the agent's variable of the shipped prefix or
/// any other that it takes, if it takes one.
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

/// Addresses of both sides of a connection, in guarded sections and wherever they lead.
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
                let what = format!("'{action}' takes an address that the agent does not give");
                let fix = match allowed.first() {
                    Some(value) => {
                        format!("http-request {action} {value} if {{ {value} -m found }}")
                    }
                    None => "remove it; a proxy in front tells the client's address by 'accept-proxy' on the bind line".into(),
                };
                report.add(Rule::RouteNotAgents, line.at, what, fix);
            }
        }
    }
    check_servers(variant, report);
}

/// Servers that rules choose among.
fn check_servers(variant: &Variant<'_>, report: &mut Report) {
    for section in variant.reach.guarded_sections() {
        let acls = super::acls(section.lines.iter().map(|line| &**line));
        for line in
            section.lines.iter().filter(|l| l.words.first().is_some_and(|w| w == "use-server"))
        {
            let Some(guard) = variant.guards.first() else { return };
            let name = line.words.get(1).map_or("", String::as_str);
            let when = Condition::of(&line.words, &acls);
            let dynamic = pieces(name).iter().all(|piece| match piece {
                Piece::Sample(sample) => {
                    agents(sample, &guard.prefix).is_some_and(|n| PLACE.contains(&n))
                }
                _ => false,
            });
            let others = section.lines.iter().filter(|line| is_server(line)).count() > 1;
            if others && !dynamic && !by_agent(&when, guard, Addressed::No) {
                let what = format!("the agent does not choose the server '{name}'");
                report.add(Rule::RouteNotAgents, line.at, what, fix(guard));
            }
        }
    }
}
