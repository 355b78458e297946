//! Where requests go: workspaces, our own pages, and the ways there.

use std::collections::BTreeSet;

use regex::Regex;

use super::{
    Report, Rule, Variant,
    guard::Guard,
    pages,
    question::{acts, place},
};
use crate::haproxy::{
    condition::{Condition, Test},
    document::{Line, Section},
};
use crate::session::{COOKIE, flow::PATHS};

pub(super) fn check(variant: &Variant<'_>, report: &mut Report) {
    let ours: BTreeSet<_> = variant.guards.iter().flat_map(|guard| pages::all(guard)).collect();
    let mut routed = BTreeSet::new();
    for guard in variant.guards.iter().filter(|guard| guard.http) {
        routed.extend(targets(&guard.lines).filter(|name| !ours.contains(name)));
        check_cookies(guard, variant, report);
        check_reserved(guard, variant, report);
        check_plain(guard, report);
        check_logs(guard, report);
    }
    check_reuse(variant, &ours, &routed, report);
    check_unguarded(variant, &routed, report);
}

/// The names that lines route to; those made from samples begin with `%`.
fn targets<'l>(lines: &[&'l Line]) -> impl Iterator<Item = &'l str> {
    lines.iter().filter_map(|line| match &line.words[..] {
        [keyword, name, ..] if keyword == "use_backend" || keyword == "default_backend" => {
            Some(name.as_str())
        }
        _ => None,
    })
}

fn has_servers(section: &Section) -> bool {
    let serves = |line: &Line| {
        line.words.first().is_some_and(|word| word == "server" || word == "server-template")
    };
    section.lines.iter().any(serves)
}

/// Back ends with servers that requests are routed to must not share connections.
fn check_reuse(
    variant: &Variant<'_>,
    ours: &BTreeSet<&str>,
    routed: &BTreeSet<&str>,
    report: &mut Report,
) {
    let any = variant.guards.iter().any(|guard| {
        let backend = guard.var("backend");
        routed.iter().any(|name| name.starts_with('%') && name.contains(&backend))
    });
    let elsewhere: BTreeSet<_> = unguarded(variant).flat_map(lines_of).filter_map(target).collect();
    for section in variant.sections.iter().filter(|s| s.kind == "backend" || s.kind == "listen") {
        let name = section.name.as_str();
        let guarded = variant.guards.iter().any(|guard| guard.section.at == section.at);
        let reached = routed.contains(name)
            || (section.kind == "listen" && guarded)
            || (any && section.kind == "backend" && !elsewhere.contains(name));
        let http = variant.setting(section, "mode").is_some_and(|(_, mode)| mode == "http");
        if !reached || !http || !has_servers(section) || ours.contains(name) {
            continue;
        }
        let reuse = variant.setting(section, "http-reuse");
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

/// Sections with clients of their own that do not ask.
fn unguarded<'v>(variant: &'v Variant<'_>) -> impl Iterator<Item = &'v Section> {
    let fronts = variant.sections.iter().filter(|s| s.kind == "frontend" || s.kind == "listen");
    fronts.filter(|s| !variant.guards.iter().any(|guard| guard.section.at == s.at))
}

fn lines_of(section: &Section) -> impl Iterator<Item = &Line> {
    section.lines.iter()
}

fn target(line: &Line) -> Option<&str> {
    targets(&[line]).next()
}

fn check_unguarded(variant: &Variant<'_>, routed: &BTreeSet<&str>, report: &mut Report) {
    let served: BTreeSet<_> = variant
        .sections
        .iter()
        .filter(|section| section.kind == "backend" && has_servers(section))
        .map(|section| section.name.as_str())
        .collect();
    for section in unguarded(variant) {
        for line in &section.lines {
            let to = target(line).filter(|name| routed.contains(name) && served.contains(name));
            if let Some(name) = to {
                let what = format!("'{}' leads to '{name}' and does not ask", section.name);
                let fix = "filter spoe engine identity config identity.spoe.cfg\nhttp-request send-spoe-group identity authorize\nhttp-request deny deny_status 503 unless { var(txn.identity.allow) -m bool }";
                report.add(Rule::Unguarded, line.at, what, fix);
            }
        }
    }
}

/// What a workspace could try to set.
fn forged() -> [String; 4] {
    let lower = COOKIE.to_ascii_lowercase();
    [
        format!("{COOKIE}=x"),
        format!("  {COOKIE}_pre=x"),
        format!("{lower}=x"),
        format!("={COOKIE}=x"),
    ]
}

fn check_cookies(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let drops = |line: &Line| match &line.words[..] {
        [http, action, name, rest @ ..]
            if http == "http-response" && name.eq_ignore_ascii_case("set-cookie") =>
        {
            match (action.as_str(), rest) {
                ("del-header", []) => true,
                ("replace-header", [pattern, ..]) => Regex::new(pattern).map_or_else(
                    |_| pattern.contains(COOKIE),
                    |pattern| forged().iter().all(|cookie| pattern.is_match(cookie)),
                ),
                _ => false,
            }
        }
        _ => false,
    };
    let backends = || {
        let routed: BTreeSet<_> = targets(&guard.lines).collect();
        let reached = variant.sections.iter().filter(move |s| routed.contains(s.name.as_str()));
        reached.filter(|section| section.kind == "backend" && has_servers(section))
    };
    let in_each = backends().next().is_some() && backends().all(|s| s.lines.iter().any(drops));
    if !guard.lines.iter().copied().any(drops) && !in_each {
        let fix = format!(
            "http-response replace-header Set-Cookie (?i)^[[:space:]]*=?[[:space:]]*{COOKIE}.* %[str()]"
        );
        let what = format!("cookies called {COOKIE} are not dropped from workspaces' responses");
        report.add(Rule::CookieNotDropped, place(guard), what, fix);
    }
}

fn is_reserved(test: &Test) -> bool {
    let reserved = PATHS.trim_end_matches('/');
    let value = |value: &String| value.trim_end_matches('/') == reserved;
    test.values.iter().any(value)
        && (test.fetch == "path_beg"
            || test.fetch == "path" && test.method.as_deref() == Some("beg"))
}

/// With sign-in, requests for our own pages go to the agent's, before anything else.
fn check_reserved(guard: &Guard<'_>, variant: &Variant<'_>, report: &mut Report) {
    let knows = guard.acls.values().flatten().any(is_reserved)
        || guard.lines.iter().any(|line| line.words.iter().any(|w| w.starts_with(PATHS)));
    let fix = format!(
        "acl sign_in path_beg {PATHS}\nuse_backend identity-web if sign_in\nhttp-request allow if sign_in   # above the question"
    );
    if !knows {
        if variant.agent.sign_in {
            let what = format!("[sign_in] is configured, and {PATHS} is not served by the agent");
            report.lacks(Rule::ReservedPath, place(guard), what, fix);
        }
        return;
    }
    let takes = |when: &Condition| {
        let whole = |terms: &Vec<crate::haproxy::condition::Term>| match &terms[..] {
            [term] => !term.negated && term.any.iter().any(is_reserved),
            _ => false,
        };
        when.is_always() || (!when.unless && when.any.iter().any(whole))
    };
    let mut rules = guard.rules("http-request").filter(|(_, line, _)| acts(line, &["allow"]));
    if rules.any(|(number, _, when)| takes(&when) && pages::of(guard, number, &when).is_some()) {
        return;
    }
    let first = guard.rules("use_backend").chain(guard.rules("default_backend")).next();
    let at = first.map_or_else(|| place(guard), |(_, line, _)| line.at);
    let what =
        format!("the first route is not that of {PATHS}: those requests can reach a workspace");
    report.add(Rule::ReservedPath, at, what, fix);
}

/// Addresses where nobody but this machine can listen in.
fn is_local(address: &str) -> bool {
    const LOCAL: [&str; 11] = [
        "127.",
        "localhost",
        "[::1]",
        "::1:",
        "ipv4@127.",
        "ipv6@::1",
        "ipv6@[::1]",
        "unix@",
        "abns@",
        "/",
        "fd@",
    ];
    LOCAL.iter().any(|local| address.starts_with(local))
}

fn check_plain(guard: &Guard<'_>, report: &mut Report) {
    let secure = |test: &Test| test.fetch == "ssl_fc";
    let mut ends = guard.rules("http-request").filter(|(_, line, _)| {
        acts(line, &["redirect", "deny", "reject", "return", "silent-drop"])
    });
    let refused = ends.any(|(_, _, when)| !when.is_always() && when.holds_without(secure));
    let mut redirects = guard.rules("redirect");
    if refused || redirects.any(|(_, _, when)| when.holds_without(secure)) {
        return;
    }
    for line in
        guard.section.lines.iter().filter(|line| line.words.first().is_some_and(|w| w == "bind"))
    {
        let address = line.words.get(1).map_or("", String::as_str);
        let options = line.words.get(2..).unwrap_or_default();
        let has = |name: &str| options.iter().any(|word| word == name);
        // Behind another proxy, TLS may have ended there.
        if has("ssl") || has("accept-proxy") || address.split(',').all(is_local) {
            continue;
        }
        let what = format!("{address} takes requests in the clear, and answers them");
        let fix =
            "http-request redirect scheme https code 301 unless { ssl_fc }   # above the question";
        report.add(Rule::PlainHttp, line.at, what, fix);
    }
}

fn check_logs(guard: &Guard<'_>, report: &mut Report) {
    let secret = ["hdr(authorization)", "hdr(cookie)", "hdr(set-cookie)"];
    for line in &guard.lines {
        let text = line.words.join(" ").to_ascii_lowercase();
        let captures = text.starts_with("capture request header authorization")
            || text.starts_with("capture request header cookie")
            || text.starts_with("capture response header set-cookie")
            || text.starts_with("capture cookie __host-identity")
            || text.starts_with("http-request capture") && secret.iter().any(|s| text.contains(s));
        let logs = text.starts_with("log-format") && secret.iter().any(|s| text.contains(s));
        if captures || logs {
            let what = "a header with credentials is written to the log";
            let fix = "remove it; decision=%[var(txn.identity.decision_id)] joins the log and the audit trail";
            report.add(Rule::SecretLogged, line.at, what, fix);
        }
    }
}
