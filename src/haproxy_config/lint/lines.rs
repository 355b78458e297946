//! What single lines mean, for all checks: actions of rules, servers with their addresses, names that routes lead to.

use std::sync::Arc;

use super::address::Address;
use crate::{
    haproxy_config::{
        condition::{Condition, Test},
        document::{Line, Section},
    },
    sessions::flow::PATHS,
};

/// Actions that end a request.
pub(super) const REFUSALS: [&str; 6] =
    ["deny", "reject", "return", "tarpit", "silent-drop", "redirect"];

/// Actions that end the rules and let the request pass.
pub(super) const PASSES: [&str; 2] = ["allow", "accept"];

/// A rule: its index among the lines of its section, its line, and its condition.
pub(super) type Ruled<'v> = (usize, &'v Line, Arc<Condition>);

/// Whether the rule has one of these actions.
pub(super) fn acts(line: &Line, actions: &[&str]) -> bool {
    let action = match &line.words[..] {
        [tcp, content, action, ..] if tcp == "tcp-request" && content == "content" => action,
        [http, action, ..] if http == "http-request" => action,
        _ => return false,
    };
    actions.contains(&action.as_str())
}

/// Whether a line gives a section a server to connect to.
pub(super) fn is_server(line: &Line) -> bool {
    match &line.words[..] {
        [keyword, ..] if ["server", "server-template", "dispatch"].contains(&keyword.as_str()) => {
            true
        }
        [option, what, ..] => {
            option == "option" && ["transparent", "http_proxy"].contains(&what.as_str())
        }
        _ => false,
    }
}

/// The servers of a section, with their addresses.
pub(super) fn addresses(section: &Section) -> impl Iterator<Item = (&Line, Address)> {
    section.lines.iter().filter(|line| is_server(line)).map(|line| {
        let word = |n: usize| line.words.get(n).map_or("", String::as_str);
        let address = match word(0) {
            "server" => word(2),
            "server-template" => word(3),
            "dispatch" => word(1),
            // `option transparent` connects to the address that the client connected to.
            _ => "*",
        };
        (&**line, Address::read(address))
    })
}

/// The name that a line routes to. It contains `%` if it is made of samples.
pub(super) fn target(line: &Line) -> Option<&str> {
    match &line.words[..] {
        [keyword, name, ..] if keyword == "use_backend" || keyword == "default_backend" => {
            Some(name.as_str())
        }
        _ => None,
    }
}

/// Whether only the request or the environment decides which name this is.
pub(super) fn is_unknown(name: &str) -> bool {
    name.contains('%') || name.contains("${")
}

/// Whether a test is about the path of the agent's pages.
pub(super) fn is_reserved(test: &Test) -> bool {
    let reserved = PATHS.trim_end_matches('/');
    let value = |value: &String| value.trim_end_matches('/') == reserved;
    test.values.iter().any(value)
        && (test.fetch == "path_beg"
            || test.fetch == "path" && test.method.as_deref() == Some("beg"))
}
