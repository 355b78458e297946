//! Checks what comes to HAProxy from outside of requests: client addresses from a PROXY header, and programs that
//! HAProxy starts.

use std::net::IpAddr;

use super::{Report, Rule, Variant, address::Address, guard::Guard};
use crate::haproxy_config::document::{Line, Section};

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    for guard in variant.guards {
        check_proxies(guard, report);
    }
    let programs = variant.sections.iter().filter(|section| section.kind == "program");
    for section in programs.filter(|_| !variant.guards.is_empty()) {
        check_program(section, report);
    }
}

/// Reports addresses at which any client can send a PROXY header, and so claim any address.
fn check_proxies(guard: &Guard<'_>, report: &mut Report) {
    const FIX: &str = "tcp-request connection expect-proxy layer4 if { src ADDRESS-OF-THE-PROXY }   # instead of accept-proxy";
    let what = "every client can claim any address in a PROXY header";
    let binds = || guard.section.lines.iter().filter(|line| is_bind(line));
    let is_open = |line: &Line| line.words.get(1).is_some_and(|address| is_open(address));
    for line in binds().filter(|line| is_open(line)) {
        if line.words.iter().any(|word| word == "accept-proxy") {
            report.add(Rule::AddressForged, line.at, what, FIX);
        }
    }
    // A front end for the local machine or a private network has a proxy in front.
    if !binds().any(|line| is_open(line)) {
        return;
    }
    for (_, line, when) in guard.rules("tcp-request") {
        if when.is_always() && line.words.iter().any(|word| word == "expect-proxy") {
            report.add(Rule::AddressForged, line.at, what, FIX);
        }
    }
}

fn is_bind(line: &Line) -> bool {
    line.words.first().is_some_and(|word| word == "bind")
}

/// Whether clients beyond a private network reach one of these addresses. An address that only the environment knows is
/// not judged.
fn is_open(addresses: &str) -> bool {
    addresses.split(',').any(|address| match Address::read(address) {
        Address::Network(IpAddr::V4(ip), _) => {
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local())
        }
        Address::Network(IpAddr::V6(ip), _) => {
            !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
        Address::Local(_) | Address::Name(..) => false,
    })
}

/// Reports a program, which runs with HAProxy's rights and can use its sockets.
fn check_program(section: &Section, report: &mut Report) {
    let command =
        section.lines.iter().find(|line| line.words.first().is_some_and(|word| word == "command"));
    let what = format!(
        "not judged: the program '{}' runs with HAProxy's rights, and could use its sockets and change its files",
        section.name
    );
    let fix = "start it as a service of its own, with no more rights than it needs";
    report.add(Rule::NotJudged, command.map_or(section.at, |line| line.at), what, fix);
}
