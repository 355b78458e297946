//! Reports rules by which a request changes a map or a list that decides where later requests go, or what workspaces
//! are told about a person.
//!
//! Lint accepts a map on the way from the agent's variables to a backend or a header, because an administrator wrote its
//! values. That holds only while no rule writes them. Maps belong to the whole process, so rules of every section are
//! looked at. Lists by which rules only refuse, such as blocked addresses, may change.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, Rule, Variant};
use crate::haproxy_config::{
    document::Line,
    lint::lines::{PASSES, acts, target},
};

/// Actions that change a map or a list, with the name of its file in parentheses.
const CHANGES: [&str; 4] = ["set-map(", "del-map(", "add-acl(", "del-acl("];
/// Actions of `http-request` and `tcp-request` whose value decides where a request goes or what its headers say.
const DECIDES: [&str; 11] = [
    "set-dst",
    "set-dst-port",
    "set-src",
    "set-src-port",
    "set-header",
    "add-header",
    "replace-header",
    "replace-value",
    "set-var",
    "set-var-fmt",
    "do-resolve",
];
/// Kinds of files that HAProxy 3.0 and later name before the path.
const KINDS: [&str; 3] = ["file@", "virt@", "opt@"];

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    let changes: Vec<(&Line, &str)> = variant
        .sections
        .iter()
        .flat_map(|section| &section.lines)
        .filter(|line| line.has_call)
        .filter_map(|line| Some((&**line, changed(line)?)))
        .collect();
    // Hardly any file changes maps: nothing else is looked at then.
    if changes.is_empty() || variant.guards.is_empty() {
        return;
    }
    let deciding = deciding(variant);
    for (line, file) in changes {
        // A name from the environment could be any of them.
        let unknown = file.contains("${") || deciding.iter().any(|name| name.contains("${"));
        if deciding.contains(file) || unknown && !deciding.is_empty() {
            let what = format!(
                "requests change '{file}', which decides where other requests go or what their headers say"
            );
            let fix =
                "remove it; let an administrator change the file, or 'set map' at the runtime API";
            report.add(Rule::RouteNotAgents, line.at, what, fix);
        }
    }
}

/// The file that a line changes.
fn changed(line: &Line) -> Option<&str> {
    let mut words = line.words.iter().skip(1).take(3);
    words.find_map(|word| {
        let rest = CHANGES.iter().find_map(|action| word.strip_prefix(action))?;
        Some(file(rest.split([')', ',']).next().unwrap_or(rest)))
    })
}

/// The path of a map or list, without quotes and its kind.
fn file(name: &str) -> &str {
    let name = name.trim_matches(['"', '\'', ' ']);
    KINDS.iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name)
}

/// The files that decide something in guards and behind them.
fn deciding<'v>(variant: &Variant<'v>) -> BTreeSet<&'v str> {
    let own = variant.reach.guarded_lines();
    let lines: Vec<&Line> =
        own.chain(variant.guards.iter().flat_map(|g| g.lines.iter().copied())).collect();
    let mut acls: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &lines {
        if let [acl, name, ..] = &line.words[..]
            && acl == "acl"
        {
            acls.entry(name).or_default().extend(files(line));
        }
    }
    let mut found = BTreeSet::new();
    for line in lines.iter().filter(|line| decides(line)) {
        found.extend(files(line));
        let named = line.words.iter().filter_map(|word| acls.get(word.trim_start_matches('!')));
        found.extend(named.flatten());
    }
    found
}

fn decides(line: &Line) -> bool {
    let action = |action: &String| {
        let name = action.split('(').next().unwrap_or_default();
        DECIDES.contains(&name)
    };
    target(line).is_some()
        || line.words.first().is_some_and(|word| word == "use-server")
        || acts(line, &PASSES)
        || line.words.iter().skip(1).take(2).any(action)
}

/// The files that a line looks something up in: maps, and lists of values.
fn files(line: &Line) -> impl Iterator<Item = &str> {
    let maps = line.words.iter().filter(|word| line.has_call && word.contains("map"));
    let maps = maps.flat_map(|word| {
        word.match_indices("map").filter_map(move |(place, _)| {
            let (name, arguments) = word.get(place..)?.split_once('(')?;
            let is_map = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            is_map.then(|| file(arguments.split([')', ',']).next().unwrap_or(arguments)))
        })
    });
    let lists = line.words.windows(2).filter_map(|two| match two {
        [flag, name] if flag == "-f" => Some(file(name)),
        _ => None,
    });
    maps.chain(lists)
}
