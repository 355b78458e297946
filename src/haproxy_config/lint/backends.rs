//! Checks that backends of workspaces do not share connections, that the agent's pages are served by the agent, that
//! plain http is redirected, and that logs have no credentials.

use std::collections::BTreeSet;

use super::{Report, Rule, Variant, address::Address, guard::Guard, verdict::place};
use crate::{
    haproxy_config::{
        condition::{Condition, Test},
        document::Line,
        lint::lines::{acts, is_reserved, target},
    },
    sessions::flow::PATHS,
};

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    for guard in variant.guards.iter().filter(|guard| guard.http) {
        check_pages(guard, report);
        check_reserved(guard, variant, report);
        check_plain(guard, report);
        check_logs(guard, report);
    }
    check_reuse(variant, report);
}

/// Reports backends of workspaces that share connections between clients.
fn check_reuse(variant: &Variant<'_>, report: &mut Report) {
    let reach = &variant.reach;
    let routed: BTreeSet<_> = variant
        .guards
        .iter()
        .flat_map(|guard| &guard.lines)
        .filter_map(|line| target(line))
        .collect();
    for section in variant.sections.iter().filter(|section| reach.is_workspace(section)) {
        let name = section.name.as_str();
        // A public site that the list of workspaces could name: its route is reported, not its connections.
        let site = reach.is_elsewhere(section) && !routed.contains(name);
        let http = variant.setting(section, "mode").is_some_and(|(_, mode)| mode == "http");
        if !http || site {
            continue;
        }
        let reuse = variant.setting(section, "http-reuse");
        // HAProxy's default is `safe`, which shares connections after the first request.
        if reuse.is_none_or(|(_, how)| how != "never") {
            let what = match reuse {
                Some((_, how)) => format!("'{name}' leads to workspaces with 'http-reuse {how}'"),
                None => format!("'{name}' leads to workspaces without 'http-reuse never'"),
            };
            let at = reuse.map_or(section.at, |(at, _)| at);
            report.add(Rule::SharedConnection, at, what, "http-reuse never");
        }
    }
}

/// Reports routes by which other requests come to the backend of the agent's pages.
fn check_pages(guard: &Guard<'_>, report: &mut Report) {
    for line in guard.routes_to_pages_of_others() {
        let name = target(line).unwrap_or_default();
        let what =
            format!("'{name}' is for the agent's pages, and this route leads other requests there");
        report.add(
            Rule::ReservedPath,
            line.at,
            what,
            "remove it; 'default_backend nowhere' is for requests without a destination",
        );
    }
}

/// With sign-in, requests for the agent's pages must go to the agent before any other rule takes them.
fn check_reserved(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    // The path of health checks is not a page: HAProxy answers there by itself.
    let is_probe = |line: &Line| line.words.first().is_some_and(|word| word == "monitor-uri");
    let mut lines = guard.lines.iter().filter(|line| !is_probe(line));
    let knows = guard.names.acls.values().flat_map(|tests| tests.iter()).any(is_reserved)
        || lines.any(|line| line.words.iter().any(|w| w.starts_with(PATHS)));
    let fix = format!(
        "acl sign_in path_beg {PATHS}\nuse_backend identity-web if sign_in\nhttp-request allow if sign_in   # above 'send-spoe-group'"
    );
    if !knows {
        if variant.agent.sign_in {
            let what =
                format!("[sign_in] is configured, and no rule leads {PATHS} to the agent's pages");
            report.lacks(Rule::ReservedPath, place(guard), what, fix);
        }
        return;
    }
    let takes = |when: &Condition| {
        // A further term would exempt some of the requests from the rule.
        let whole = |terms: &Vec<crate::haproxy_config::condition::Term>| match &terms[..] {
            [term] => !term.negated && term.any.iter().any(is_reserved),
            _ => false,
        };
        when.is_always() || (!when.unless && when.any.iter().any(whole))
    };
    let mut rules =
        guard.rules("http-request").iter().filter(|(_, line, _)| acts(line, &["allow"]));
    if rules.any(|(number, _, when)| takes(when) && guard.is_for_pages(*number, when)) {
        return;
    }
    let first = guard.rules("use_backend").iter().chain(guard.rules("default_backend")).next();
    let at = first.map_or_else(|| place(guard), |(_, line, _)| line.at);
    let what = format!(
        "requests for {PATHS} can reach a workspace: their route to the agent's pages is not the first one"
    );
    report.add(Rule::ReservedPath, at, what, fix);
}

fn check_plain(guard: &Guard<'_>, report: &mut Report) {
    // `ssl_fc` is true for connections over TLS.
    let secure = |test: &Test| test.fetch == "ssl_fc";
    let mut ends = guard.rules("http-request").iter().filter(|(_, line, _)| {
        acts(line, &["redirect", "deny", "reject", "return", "silent-drop"])
    });
    let refused = ends.any(|(_, _, when)| !when.is_always() && when.holds_without(secure));
    let mut redirects = guard.rules("redirect").iter();
    if refused || redirects.any(|(_, _, when)| when.holds_without(secure)) {
        return;
    }
    for line in
        guard.section.lines.iter().filter(|line| line.words.first().is_some_and(|w| w == "bind"))
    {
        let address = line.words.get(1).map_or("", String::as_str);
        let options = line.words.get(2..).unwrap_or_default();
        let has = |name: &str| options.iter().any(|word| word == name);
        // A proxy in front can terminate TLS.
        if has("ssl")
            || has("accept-proxy")
            || address.split(',').all(|address| Address::read(address).is_local())
        {
            continue;
        }
        let what = format!("{address} serves plain http and does not redirect to https");
        let fix = "http-request redirect scheme https code 301 unless { ssl_fc }   # above 'send-spoe-group'";
        report.add(Rule::PlainHttp, line.at, what, fix);
    }
}

/// Whether a line can write parts of a request to the log.
fn is_recorded(line: &Line) -> bool {
    match &line.words[..] {
        [http, action, ..] if http == "http-request" => action == "capture",
        [keyword, ..] => {
            let formats = ["log-format", "error-log-format", "unique-id-format"];
            keyword == "capture" || formats.iter().any(|format| keyword.starts_with(format))
        }
        [] => false,
    }
}

fn check_logs(guard: &Guard<'_>, report: &mut Report) {
    // Fetches and headers that can hold a token or a session.
    let secret = [
        "hdr(authorization)",
        "hdr(cookie)",
        "hdr(set-cookie)",
        "req.hdrs",
        "res.hdrs",
        "http_auth_bearer",
        "http_auth_pass",
        "cook(__host-identity",
    ];
    for line in guard.lines.iter().filter(|line| is_recorded(line)) {
        let text = line.words.join(" ").to_ascii_lowercase();
        let captures = text.starts_with("capture request header authorization")
            || text.starts_with("capture request header cookie")
            || text.starts_with("capture response header set-cookie")
            || text.starts_with("capture cookie __host-identity")
            || text.starts_with("http-request capture") && secret.iter().any(|s| text.contains(s));
        let format = text.split(' ').next().is_some_and(|word| word.contains("-format"));
        let logs = format && secret.iter().any(|s| text.contains(s));
        if captures || logs {
            let what = "credentials are written to the log";
            let fix = "remove it; decision=%[var(txn.identity.decision_id)] joins the log and the audit log";
            report.add(Rule::SecretLogged, line.at, what, fix);
        }
    }
}
