//! Checks the certificates of servers that HAProxy connects to, and who can reach HAProxy's runtime API and page of
//! statistics.

use super::{Report, Rule, Variant, address::Address, expression::agents, guard};
use crate::haproxy_config::{
    document::{Line, Section},
    lint::lines::{addresses, target},
};

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    for section in variant.sections {
        match section.kind.as_str() {
            "global" => check_global(section, variant, report),
            "frontend" | "listen" => check_statistics(section, variant, report),
            "backend" if variant.reach.is_workspace(section) => {
                check_statistics(section, variant, report);
            }
            _ => {}
        }
        let connects = ["backend", "listen", "defaults"].contains(&section.kind.as_str());
        // A public site may connect to its servers as it likes.
        let site = variant.reach.is_elsewhere(section) && !variant.reach.is_workspace(section);
        if connects && !site && !variant.guards.is_empty() {
            check_section(section, variant, report);
        }
    }
    for guard in variant.guards {
        check_routes(guard, variant, report);
    }
}

fn has(line: &Line, words: &[&str]) -> bool {
    line.words.windows(words.len()).any(|window| window.iter().eq(words.iter()))
}

fn is_server(line: &Line) -> bool {
    line.words.first().is_some_and(|w| w == "server" || w == "server-template")
}

/// The `default-server` lines that apply to a section.
pub(super) fn defaults<'s>(section: &'s Section, variant: &'s Variant<'_>) -> Vec<&'s Line> {
    let chain = guard::inherited(section, variant.sections).into_iter().chain([section]);
    let lines = chain.flat_map(|section| section.lines.iter().map(|line| &**line));
    lines.filter(|line| line.words.first().is_some_and(|word| word == "default-server")).collect()
}

fn check_section(section: &Section, variant: &Variant<'_>, report: &mut Report) {
    let defaults = defaults(section, variant);
    for line in &section.lines {
        let is_default = line.words.first().is_some_and(|word| word == "default-server");
        if (is_server(line) || is_default) && has(line, &["verify", "none"]) {
            let what = "the server's certificate is not verified";
            report.add(Rule::ServerUnverified, line.at, what, "verify required ca-file @system-ca");
        }
    }
    if !variant.reach.is_workspace(section) {
        return;
    }
    check_source(section, &defaults, report);
    for (line, address) in addresses(section).filter(|(line, _)| is_server(line)) {
        let all = || defaults.iter().copied().chain([line]);
        if !is_tls(line, &defaults) {
            continue;
        }
        let name = all().rev().find_map(|line| guard::after(line, "sni"));
        let fits = match name {
            // The agent gives the address, so it must give the name too.
            Some(sample) if address.is_anywhere() => agents(sample, variant.prefix())
                .is_some_and(|name| name == "sni" || name == "dst_host"),
            Some(_) => true,
            // A fixed address may have a fixed name in its certificate.
            None => {
                !address.is_anywhere()
                    && all().any(|line| guard::after(line, "verifyhost").is_some())
            }
        };
        if !fits {
            let what = "a certificate of any name is accepted";
            let fix = format!("sni var({}sni)", variant.prefix());
            report.add(Rule::ServerUnverified, line.at, what, fix);
        }
    }
}

/// Whether a server is reached over TLS.
pub(super) fn is_tls(line: &Line, defaults: &[&Line]) -> bool {
    let says = |word: &str| line.words.iter().any(|w| w == word);
    says("ssl")
        || !says("no-ssl") && defaults.iter().any(|line| line.words.iter().any(|w| w == "ssl"))
}

/// Reports source addresses that a client could choose by a header.
fn check_source(section: &Section, defaults: &[&Line], report: &mut Report) {
    let own = section.lines.iter().map(|line| &**line);
    for line in own.chain(defaults.iter().copied()) {
        let named =
            guard::after(line, "usesrc").is_some_and(|source| source.starts_with("hdr_ip("));
        if named {
            let what = "the client chooses the source address that the workspace sees";
            report.add(Rule::RouteNotAgents, line.at, what, "usesrc clientip");
        }
    }
}

/// Where the agent gives a name for the certificate, the connection must use TLS.
fn check_routes(guard: &guard::Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let sni = guard.var("sni");
    for (_, line, when) in guard.rules("use_backend") {
        let needs = when.needs(|test| test.fetch == sni && test.method.as_deref() == Some("found"));
        let Some(name) = target(line).filter(|_| needs) else { continue };
        for section in variant.named(name).iter().filter(|s| s.kind == "backend") {
            let defaults = defaults(section, variant);
            for (server, _) in addresses(section).filter(|(line, _)| !is_tls(line, &defaults)) {
                let what = format!(
                    "'{name}' is for workspaces over https, and this server uses plain http"
                );
                let fix = format!("ssl verify required ca-file @system-ca sni {sni}");
                report.add(Rule::ServerUnverified, server.at, what, fix);
            }
        }
    }
}

fn check_global(section: &Section, variant: &Variant<'_>, report: &mut Report) {
    for line in &section.lines {
        match &line.words[..] {
            [keyword, how, ..]
                if keyword == "ssl-server-verify"
                    && how == "none"
                    && !variant.guards.is_empty() =>
            {
                let what = "certificates of servers are not verified";
                report.add(Rule::ServerUnverified, line.at, what, "ssl-server-verify required");
            }
            [stats, socket, address, options @ ..] if stats == "stats" && socket == "socket" => {
                check_socket(line, address, options, report);
            }
            _ => {}
        }
    }
}

/// The runtime API has no password. A client that connects can do what its level permits.
fn check_socket(line: &Line, address: &str, options: &[String], report: &mut Report) {
    let option = |name: &str| {
        let place = options.iter().position(|word| word == name)?;
        options.get(place + 1).map(String::as_str)
    };
    // This level can read statistics and nothing else.
    if option("level") == Some("user") {
        return;
    }
    let open = address.split(',').find(|part| match Address::read(part) {
        Address::Local(_) => false,
        Address::Network(..) => true,
        // An address from the environment is not known here, unless a family stands before it.
        Address::Name(..) => !part.starts_with("${"),
    });
    if let Some(open) = open {
        let what = format!("every client that reaches {open} can use the runtime API");
        let fix = "stats socket /run/haproxy/admin.sock mode 600 level admin";
        report.add(Rule::SocketOpen, line.at, what, fix);
    }
    // The last digit of the mode is for all other users; 2 is the right to write.
    let others = option("mode").and_then(|mode| mode.chars().last()).and_then(|c| c.to_digit(8));
    if others.is_some_and(|bits| bits & 2 != 0) {
        let what = "all users of this machine can write to the socket of the runtime API";
        report.add(Rule::SocketOpen, line.at, what, "mode 600");
    }
}

/// Reports the page of statistics in sections of workspaces: every person who reaches one workspace could read it.
fn check_shown(section: &Section, variant: &Variant<'_>, lines: &[&Line], report: &mut Report) {
    const SHOWS: [&str; 6] = ["enable", "uri", "realm", "scope", "refresh", "http-request"];
    let reach = &variant.reach;
    if variant.guards.is_empty() || !(reach.is_guard(section) || reach.is_workspace(section)) {
        return;
    }
    let shows = |line: &&&Line| {
        matches!(&line.words[..], [stats, word, ..]
            if stats == "stats" && (SHOWS.contains(&word.as_str()) || word.starts_with("show-")))
    };
    if let Some(line) = lines.iter().find(shows) {
        let what = "the page of statistics is open to people who reach a workspace";
        let fix =
            "listen stats\n    bind 127.0.0.1:8404\n    stats enable   # a section of its own";
        report.add(Rule::StatisticsOpen, line.at, what, fix);
    }
}

/// Reports a page of statistics that takes commands, such as stopping a server, without a password.
fn check_statistics(section: &Section, variant: &Variant<'_>, report: &mut Report) {
    let lines = || {
        let chain = guard::inherited(section, variant.sections).into_iter().chain([section]);
        chain.flat_map(|section| &section.lines)
    };
    let is = |line: &Line, what: &str| matches!(&line.words[..], [stats, word, ..] if stats == "stats" && word == what);
    let refuses = |line: &Line| {
        is(line, "http-request") && line.words.get(2).is_some_and(|w| w == "auth" || w == "deny")
    };
    // A password protects the page and its commands.
    if lines().any(|line| is(line, "auth") || refuses(line)) {
        return;
    }
    check_shown(section, variant, &lines().map(|line| &**line).collect::<Vec<_>>(), report);
    for line in lines().filter(|line| is(line, "admin")) {
        let what = "the page of statistics accepts commands without a password";
        report.add(Rule::SocketOpen, line.at, what, "stats auth USER:PASSWORD");
    }
}
