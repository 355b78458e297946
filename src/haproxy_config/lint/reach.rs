//! Finds the backends that lead to workspaces, and reports sections that lead there without asking the agent.
//!
//! A backend leads to workspaces if a guard routes there, or if the agent could name it. Where the agent's
//! configuration is given, only backends that it permits can be named.

use std::{cell::LazyCell, collections::BTreeSet};

use super::{
    Agent, Report, Rule, Variant,
    address::Address,
    guard::{self, Guard},
    headers::Strips,
    routes,
};
use crate::haproxy_config::{
    condition::{Condition, Test},
    document::{At, Line, Section},
    lint::lines::{addresses, is_server, is_unknown, target},
};

/// Which sections lead to workspaces.
pub(super) struct Reach<'v> {
    sections: &'v [Section],
    /// The sections that ask the agent.
    guards: BTreeSet<At>,
    /// The backends that guards route to, and those that the agent could name.
    workspaces: BTreeSet<&'v str>,
    /// The addresses of their servers.
    addresses: BTreeSet<Address>,
    /// The gate's own backends: the agent's pages, and the agent.
    ours: BTreeSet<String>,
    /// The backends that sections without a guard route to by name.
    elsewhere: BTreeSet<&'v str>,
    /// What [`Self::guarded_sections`] gives.
    guarded: Vec<&'v Section>,
}

impl<'v> Reach<'v> {
    pub(super) fn new(sections: &'v [Section], guards: &[Guard<'v>], agent: &Agent) -> Self {
        let mut ours: BTreeSet<String> =
            guards.iter().filter_map(Guard::pages_name).map(str::to_owned).collect();
        // The agent's backend is named in the SPOE file, not by a route.
        for agent in guards.iter().filter_map(|guard| guard.engine.agent.as_ref()) {
            ours.extend(agent.after(&["use-backend"]).cloned());
        }
        let mut routed: BTreeSet<&'v str> = BTreeSet::new();
        let (mut any, mut by_agent) = (false, true);
        for guard in guards {
            for name in guard.lines.iter().copied().filter_map(target) {
                routed.insert(name);
                // A name from a sample can be that of any backend.
                any |= is_unknown(name);
                by_agent &= !is_unknown(name) || routes::is_backend(name, &guard.prefix);
            }
        }
        // If only the agent names backends, it names those that its configuration permits.
        let permitted = agent.backends.as_ref().filter(|_| by_agent);
        let guarded: BTreeSet<At> = guards.iter().map(|guard| guard.section.at).collect();
        let elsewhere = sections.iter().filter(|s| is_front(s) && !guarded.contains(&s.at));
        let elsewhere: BTreeSet<&str> = elsewhere
            .flat_map(|section| guard::all_lines(section, sections))
            .filter_map(target)
            .collect();
        // A public site that the agent must not name is not a workspace.
        let site = |name: &str| {
            elsewhere.contains(name) && permitted.is_some_and(|known| known.check(name).is_err())
        };
        let is_workspace = |section: &&Section| {
            // A backend without servers (a table, a fixed answer) leads nowhere.
            let serves = section.lines.iter().any(|line| is_server(line));
            let name = section.name.as_str();
            let reached = match section.kind.as_str() {
                "backend" => routed.contains(name) || any && !site(name),
                "listen" => guarded.contains(&section.at) || routed.contains(name),
                _ => false,
            };
            serves && reached && !ours.contains(&section.name)
        };
        let found: Vec<&'v Section> = sections.iter().filter(is_workspace).collect();
        let mut reach = Self {
            sections,
            guards: guarded,
            workspaces: found.iter().map(|section| section.name.as_str()).collect(),
            addresses: found
                .iter()
                .flat_map(|s| addresses(s))
                .map(|(_, address)| address)
                .collect(),
            ours,
            elsewhere,
            guarded: Vec::new(),
        };
        reach.guarded = reach.find_guarded();
        reach
    }

    fn find_guarded(&self) -> Vec<&'v Section> {
        let is_guarded = |section: &Section| {
            let is_site =
                || self.is_elsewhere(section) && !self.workspaces.contains(section.name.as_str());
            self.is_guard(section)
                || section.kind == "backend" && !self.is_ours(section) && !is_site()
        };
        let mut guarded: Vec<bool> = self.sections.iter().map(is_guarded).collect();
        // Defaults stand before the sections that inherit from them.
        for (number, section) in self.sections.iter().enumerate().rev() {
            let inherits = guarded.get(number) == Some(&true);
            if let Some(from) = section.defaults.and_then(|from| guarded.get_mut(from)) {
                *from |= inherits;
            }
        }
        let all = self.sections.iter().zip(guarded);
        all.filter_map(|(section, is_guarded)| is_guarded.then_some(section)).collect()
    }

    /// Whether a section leads to workspaces.
    pub(super) fn is_workspace(&self, section: &Section) -> bool {
        (section.kind == "backend" || self.guards.contains(&section.at))
            && self.workspaces.contains(section.name.as_str())
    }

    /// Whether a section asks the agent.
    pub(super) fn is_guard(&self, section: &Section) -> bool {
        self.guards.contains(&section.at)
    }

    /// Whether a backend is one of the gate's own.
    pub(super) fn is_ours(&self, section: &Section) -> bool {
        self.ours.contains(&section.name)
    }

    /// Whether sections without a guard route to a backend by name, as to a public site.
    pub(super) fn is_elsewhere(&self, section: &Section) -> bool {
        self.elsewhere.contains(section.name.as_str())
    }

    /// The guards, the backends except those of public sites, and the defaults that they inherit from.
    pub(super) fn guarded_sections(&self) -> impl Iterator<Item = &'v Section> {
        self.guarded.iter().copied()
    }

    /// The lines of [`Self::guarded_sections`].
    pub(super) fn guarded_lines(&self) -> impl Iterator<Item = &'v Line> {
        self.guarded_sections().flat_map(|section| section.lines.iter().map(|line| &**line))
    }
}

fn is_front(section: &Section) -> bool {
    section.kind == "frontend" || section.kind == "listen"
}

/// Reports sections that lead to workspaces and do not ask the agent.
pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    let reach = &variant.reach;
    check_permitted(variant, report);
    check_pages(variant, report);
    if reach.workspaces.is_empty() {
        return;
    }
    let fronts = variant.sections.iter().filter(|s| is_front(s) && !reach.guards.contains(&s.at));
    for section in fronts.filter(|section| !passes_nothing(section, variant)) {
        for line in guard::all_lines(section, variant.sections) {
            let Some(name) = target(line) else { continue };
            // A name from a sample could be that of a workspace.
            let leads = if is_unknown(name) { Some(name.to_owned()) } else { leads(name, variant) };
            if let Some(to) = leads {
                let what = format!("'{}' leads to '{to}' and does not ask the agent", section.name);
                report.add(Rule::Unguarded, line.at, what, FIX);
            }
        }
        let own = addresses(section).filter(|(_, address)| reach.addresses.contains(address));
        for (line, _) in own.filter(|_| section.kind == "listen") {
            let what = format!(
                "'{}' leads to the server of a workspace and does not ask the agent",
                section.name
            );
            report.add(Rule::Unguarded, line.at, what, FIX);
        }
    }
}

/// Reports sections that lead to the agent's pages and do not delete the headers from which the agent makes them.
fn check_pages(variant: &Variant<'_>, report: &mut Report) {
    const HEADERS: [&str; 2] = ["x-identity-user", "x_identity_user"];
    let reach = &variant.reach;
    let names: BTreeSet<&str> = variant.guards.iter().filter_map(Guard::pages_name).collect();
    let of_pages = names.iter().flat_map(|name| variant.named(name)).flat_map(|s| addresses(s));
    let servers: BTreeSet<Address> = of_pages.map(|(_, address)| address).collect();
    let fronts = variant.sections.iter().filter(|s| is_front(s) && !reach.guards.contains(&s.at));
    for section in fronts.filter(|_| !names.is_empty()) {
        let leads = |name: &str| {
            let sections = variant.named(name).iter();
            let mut same = sections.flat_map(|s| addresses(s)).map(|(_, address)| address);
            names.contains(name) || same.any(|address| servers.contains(&address))
        };
        let mut routes = guard::all_lines(section, variant.sections)
            .filter(|line| target(line).is_some_and(&leads));
        let own = || {
            let mut own = addresses(section).filter(|(_, address)| servers.contains(address));
            own.next().map(|(line, _)| line)
        };
        let Some(line) = routes.next().or_else(own) else { continue };
        let lines = guard::all_lines(section, variant.sections).enumerate();
        let strips = Strips::among(lines, variant.patterns);
        let deleted = HEADERS.iter().all(|name| strips.takes(name, usize::MAX));
        if !deleted && !passes_nothing(section, variant) {
            let what = format!(
                "'{}' leads to the agent's pages, and a client's own X-Identity-User is not deleted",
                section.name
            );
            let fix = "http-request del-header ^x[^a-z0-9]identity([^a-z0-9]|$) -m reg";
            report.add(Rule::HeaderNotStripped, line.at, what, fix);
        }
    }
}

/// Reports the gate's own backends if the agent's configuration permits lists of workspaces to name them.
fn check_permitted(variant: &Variant<'_>, report: &mut Report) {
    let Some(permitted) = &variant.agent.backends else { return };
    let ours = |s: &&Section| s.kind == "backend" && variant.reach.is_ours(s);
    for section in variant.sections.iter().filter(ours) {
        if permitted.check(&section.name).is_ok() {
            let what = format!(
                "'{}' belongs to the gate, and 'backends' of [destinations] permits lists of workspaces to name it",
                section.name
            );
            let fix = "in 'backends' of [destinations], name only backends of workspaces";
            report.add(Rule::RouteNotAgents, section.at, what, fix);
        }
    }
}

const FIX: &str = "filter spoe engine identity config identity.spoe.cfg\nhttp-request send-spoe-group identity authorize\nhttp-request deny deny_status 503 unless { var(txn.identity.allow) -m bool }";

/// The backend of workspaces that a route leads to, by its name or by the address of its server.
fn leads(name: &str, variant: &Variant<'_>) -> Option<String> {
    let reach = &variant.reach;
    let section = variant.named(name).first()?;
    if is_agent(name, variant) {
        return Some(name.to_owned());
    }
    // Another backend with the same server is the same workspace.
    let same = addresses(section).any(|(_, address)| reach.addresses.contains(&address));
    (reach.workspaces.contains(name) || same).then(|| name.to_owned())
}

/// Whether a backend is the agent's. A client that reaches it could send requests in HAProxy's place.
fn is_agent(name: &str, variant: &Variant<'_>) -> bool {
    let agents = variant.guards.iter().filter_map(|guard| guard.engine.agent.as_ref());
    agents.flat_map(|agent| agent.after(&["use-backend"])).any(|used| used == name)
}

/// Whether a rule ends every request of a section.
fn passes_nothing(section: &Section, variant: &Variant<'_>) -> bool {
    const ENDS: [&str; 6] = ["deny", "reject", "return", "redirect", "tarpit", "silent-drop"];
    let http = variant.setting(section, "mode").is_some_and(|(_, mode)| mode == "http");
    let tls = section.lines.iter().any(|line| {
        line.words.first().is_some_and(|w| w == "bind") && line.words.iter().any(|w| w == "ssl")
    });
    let secure = |test: &Test| test.fetch == "ssl_fc";
    let acls = LazyCell::new(|| super::acls(section.lines.iter().map(|line| &**line)));
    for line in guard::all_lines(section, variant.sections) {
        let action = match &line.words[..] {
            [http_request, action, ..] if http_request == "http-request" && http => action,
            [tcp, content, action, ..] if tcp == "tcp-request" && content != "inspect-delay" => {
                action
            }
            [redirect, ..] if redirect == "redirect" && http => redirect,
            _ => continue,
        };
        let when = Condition::parse(&line.words, &acls);
        // A rule that lets pass comes before the one that ends.
        if ["allow", "accept"].contains(&action.as_str()) {
            return false;
        }
        // On a section without TLS, a redirect of plain http is one of everything.
        let all = when.is_always() || (!tls && when.holds_without(secure));
        if ENDS.contains(&action.as_str()) && all {
            return true;
        }
    }
    false
}
