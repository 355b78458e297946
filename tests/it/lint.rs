//! `haproxy lint`: each mistake is found in its line, and the shipped files have none.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use identity_spoa::haproxy_config::{
    document::Source,
    known_bugs::Release,
    lint::{Agent, Finding, Rule, lint},
};
use strum::VariantArray as _;

use crate::support::{
    agent::program,
    haproxy::{root, without_reuse},
};

pub(crate) mod edits;
mod kinds;

fn source(path: &Path) -> Option<Source> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(Source { name: path.file_name()?.to_str()?.into(), text: completed(&text) })
}

/// Completes an example with the shipped rules that every gate must have, so that it shows its own mistake and no
/// other.
fn completed(text: &str) -> String {
    const MARK: &str = "    # shipped: what protects\n";
    if !text.contains(MARK) {
        return text.to_owned();
    }
    let shipped = std::fs::read_to_string(root().join("haproxy/haproxy.cfg")).unwrap();
    let mut depth = 0;
    let mut rules = String::new();
    for line in shipped.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [".if", ..] => depth += 1,
            [".endif", ..] => depth -= 1,
            ["backend", ..] => break,
            ["http-request" | "http-response" | "http-after-response", action, name, ..]
                if depth == 0 =>
            {
                let ours = ["Authorization", "Cookie", "Set-Cookie", "Sec-WebSocket-Protocol"]
                    .contains(&name);
                let protects = ["del-header", "replace-header", "deny"].contains(&action) && !ours
                    || line.contains("METH_CONNECT")
                    || name == "Connection"
                    || action == "set-var(txn.upgrades)"
                    || line.contains("txn.rounds");
                if protects {
                    rules += &format!("{line}\n");
                }
            }
            _ => {}
        }
    }
    text.replacen(MARK, &rules, 1)
}

fn findings(directory: &str, names: &[&str], agent: &Agent) -> Vec<Finding> {
    let directory = root().join(directory);
    let sources: Vec<_> = names.iter().map(|name| source(&directory.join(name)).unwrap()).collect();
    lint(&sources, &|name| source(&directory.join(name)), agent)
}

fn text(findings: &[Finding]) -> String {
    let line = |f: &Finding| format!("{}:{}: {}: {}\n", f.file, f.line, f.rule.id(), f.what);
    findings.iter().map(line).collect()
}

#[test]
fn the_shipped_configuration_has_no_mistakes() {
    for names in [&["haproxy.cfg"][..], &["haproxy.cfg", "tcp.cfg"]] {
        let found = findings("haproxy", names, &Agent::default());
        assert!(found.is_empty(), "{}", text(&found));
    }
}

#[test]
fn each_mistake_in_an_example_is_found_in_its_line_and_no_other() {
    let directory = root().join("tests/data/lint");
    let (mut rules, mut wrong) = (BTreeSet::new(), String::new());
    let mut names: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".spoe.cfg"))
        .collect();
    names.sort();
    for name in &names {
        // The expected findings are comments in the lines themselves.
        let spoe = name.replace(".cfg", ".spoe.cfg");
        let mut want = BTreeSet::new();
        for file in [name, &spoe] {
            let Some(source) = source(&directory.join(file)) else { continue };
            for (index, line) in source.text.lines().enumerate() {
                let expected = line.split_once("# expect: ").map(|(_, rules)| rules);
                for rule in expected.unwrap_or_default().split_whitespace() {
                    want.insert((file.clone(), index + 1, rule.to_owned()));
                }
            }
        }
        assert_eq!(want.is_empty(), name.starts_with("good"), "{name}");
        // The first line may say which release of HAProxy reads the example.
        let first = std::fs::read_to_string(directory.join(name)).unwrap();
        let release = first.strip_prefix("# HAProxy version ").and_then(Release::said);
        let agent = Agent { release, ..Agent::default() };
        let found = findings("tests/data/lint", &[name], &agent);
        let place = |f: &Finding| (f.file.clone(), f.line, f.rule.id().to_owned());
        let places: BTreeSet<_> = found.iter().map(place).collect();
        if places != want {
            wrong += &format!("{name}: expected {want:?}, found\n{}", text(&found));
        }
        assert!(found.iter().all(|f| !f.why.is_empty() && !f.fix.is_empty()), "{name}");
        rules.extend(found.iter().map(|finding| finding.rule));
    }
    assert!(wrong.is_empty(), "{wrong}");
    let missing: Vec<_> = Rule::VARIANTS.iter().filter(|rule| !rules.contains(rule)).collect();
    assert!(missing.is_empty(), "no example in tests/data/lint for {missing:?}");
}

#[test]
fn what_the_agents_configuration_needs_is_demanded_of_haproxys() {
    let slow =
        Agent { response_timeout: std::time::Duration::from_millis(500), ..Agent::default() };
    let found = findings("haproxy", &["haproxy.cfg"], &slow);
    assert_eq!(text(&found).matches("processing-timeout").count(), 1, "{}", text(&found));
    assert_eq!(found[0].fix, "timeout processing 700ms");
    let all =
        Agent { sign_in: true, cookie: true, query: true, subprotocol: true, ..Agent::default() };
    let found = findings("haproxy", &["haproxy.cfg"], &all);
    for name in ["query", "protocols", "protocol_lines", "fetch_mode", "origin", "referer"] {
        let missing = format!("the argument '{name}' is missing");
        assert!(text(&found).contains(&missing), "{missing}\n{}", text(&found));
    }
    // If any page may show a workspace in a frame, the agent needs no Referer.
    let found = findings("haproxy", &["haproxy.cfg"], &Agent { frames: false, ..all.clone() });
    assert!(!text(&found).contains("referer"), "{}", text(&found));
    let policies = Agent { policies: true, ..Agent::default() };
    assert!(findings("haproxy", &["haproxy.cfg"], &policies).is_empty());
    let found = text(&findings("tests/data/lint", &["arguments.cfg"], &policies));
    for (name, is_missing) in [("method", true), ("client", true), ("path", false)] {
        let missing = format!("the argument '{name}' is missing");
        assert_eq!(found.contains(&missing), is_missing, "{found}");
    }
    let found = text(&findings("tests/data/lint", &["good.cfg"], &all));
    for missing in [
        "good.cfg:8: reserved-path: [sign_in] is configured",
        "good.cfg:8: credential-travels: the token is not removed from the query",
        "good.cfg:8: credential-travels: the token is not removed from Sec-WebSocket-Protocol",
    ] {
        assert!(found.contains(missing), "{missing}\n{found}");
    }
}

fn run_program(args: &[&str]) -> Output {
    Command::new(program())
        .args(["haproxy", "lint"])
        .args(args)
        .current_dir(root())
        .output()
        .unwrap()
}

#[test]
fn the_command_prints_place_reason_and_fix_and_its_status_says_whether_it_found_any() {
    let output = run_program(&["haproxy/haproxy.cfg"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let example = "tests/data/lint/plain-http.cfg";
    let output = run_program(&[example]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let want = format!("{example}:6: plain-http: :80 serves plain http");
    assert!(text.starts_with(&want), "{text}");
    assert!(
        text.contains("\n    why: a token sent over plain http can be read on the way\n"),
        "{text}"
    );
    assert!(text.contains("\n    fix: http-request redirect scheme https"), "{text}");
    let output = run_program(&["--json", example]);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found[0]["rule"], "plain-http");
    assert_eq!(found[0]["line"], 6);
    for wrong in [&["no-such-file.cfg"][..], &[], &["--config", "no-such.toml", example]] {
        assert_eq!(run_program(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn f1_a_configuration_without_its_default_deny_is_never_clean() {
    // Takes away the verdict from the rule that refuses.
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap();
    let deny =
        shipped.text.lines().find(|line| line.trim_end().ends_with("unless allowed")).unwrap();
    for changed in [
        shipped.text.replace(deny, ""),
        shipped.text.replace(deny, &deny.replace("unless allowed", "if answer_403")),
        shipped.text.replace("var(txn.identity.allow) -m bool", "var(sess.identity.allow) -m bool"),
        shipped.text.replace("var(txn.identity.allow) -m bool", "always_true"),
    ] {
        let files = |name: &str| source(&root().join("haproxy").join(name));
        let changed = Source { name: "haproxy.cfg".into(), text: changed };
        let found = lint(&[changed], &files, &Agent::default());
        assert!(
            found.iter().any(|f| matches!(f.rule, Rule::NoDefaultDeny | Rule::DenyDepends)),
            "{}",
            text(&found)
        );
    }
}

#[test]
fn f1_reuse_is_accepted_only_as_it_is_shipped() {
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap().text;
    let found = |text: String| {
        let files = |name: &str| source(&root().join("haproxy").join(name));
        lint(&[Source { name: "haproxy.cfg".into(), text }], &files, &Agent::default())
    };
    let is_told = |found: &[Finding]| {
        found.iter().any(|f| matches!(f.rule, Rule::VerdictScope | Rule::VerdictMade))
    };
    assert!(found(shipped.clone()).is_empty());
    let blocks: Vec<_> = shipped.split(".if defined(GATE_REUSE)\n").skip(1).collect();
    // The rules around the request to the agent, the route, and the backend.
    assert_eq!(blocks.len(), 3);
    let (rules, _) = blocks[0].split_once(".endif\n").unwrap();
    let (route, _) = blocks[1].split_once(".endif\n").unwrap();
    let (backend, _) = blocks[2].split_once(".if defined(GATE_LOGIN_HOST)\n").unwrap();
    let mut tries = Vec::new();
    for block in [rules, route, backend] {
        let start = shipped.find(block).unwrap();
        let mut is_first = true;
        for (at, line) in lines_of(block) {
            let is_ours = ["http-request", "acl", "use_backend", "use-server"]
                .iter()
                .any(|keyword| line.trim_start().starts_with(keyword));
            let before = std::mem::replace(&mut is_first, !is_ours && !line.contains('#'));
            if !is_ours {
                continue;
            }
            // Without the line, with a line before it, with another condition, and slightly changed.
            for other in [
                String::new(),
                // Other lines may stand before the first one.
                if before { String::new() } else { format!("    acl x always_true\n{line}") },
                line.replacen(" if ", " unless ", 1),
                line.replacen("strcmp(", "add(", 1),
                line.replacen("secure_memcmp(", "strcmp(", 1),
                line.replacen("sess.identity.", "sess.identity.x_", 1),
                format!("{line} {{ always_false }}"),
            ] {
                if other != line {
                    tries.push((start + at, line, other));
                }
            }
        }
    }
    edits::each(&tries, |(start, line, other)| {
        let mut text = shipped.clone();
        text.replace_range(*start..start + line.len(), other);
        assert!(is_told(&found(text)), "{line}\n{other}");
    });
    assert!(tries.len() > 200, "{}", tries.len());
    // Servers at another address, without TLS or with a weight.
    for (old, new) in [
        ("server http 0.0.0.0:0 weight 0\n", "server http 10.0.0.9:80 weight 0\n"),
        ("server http 0.0.0.0:0 weight 0\n", "server http 0.0.0.0:0\n"),
        ("server http 0.0.0.0:0 weight 0\n", "server http 0.0.0.0:0 weight 1\n"),
        (
            "server http 0.0.0.0:0 weight 0\n",
            "server http 0.0.0.0:0 weight 0 ssl verify required\n",
        ),
        ("server https 0.0.0.0:0 weight 0 ssl ", "server https 0.0.0.0:0 weight 0 "),
        ("server https 0.0.0.0:0 weight 0 ", "server https 0.0.0.0:0 "),
        (
            "    server http 0.0.0.0:0 weight 0\n",
            "    server http 0.0.0.0:0 weight 0\n    server b 0.0.0.0:0\n",
        ),
        (
            "server https 0.0.0.0:0 weight 0 ssl verify required ca-file \"${GATE_UPSTREAM_CA}\" sni var(txn.identity.sni)",
            "server https 0.0.0.0:0 weight 0 ssl verify required ca-file \"${GATE_UPSTREAM_CA}\"",
        ),
    ] {
        let changed = shipped.replacen(old, new, 1);
        assert_ne!(changed, shipped, "{old}");
        let found = found(changed);
        assert!(found.iter().any(|f| f.rule == Rule::RouteNotAgents), "{new}\n{}", text(&found));
    }
    let other = shipped.replace("${GATE_UPSTREAM_CA}", "/etc/ssl/inside.pem");
    assert!(found(other.clone()).is_empty(), "{}", text(&found(other)));
    let late = shipped.replace("\"1:${GATE_REUSE-0}\"", "1:60001");
    assert!(is_told(&found(late)), "longer than may be said");
    let first = rules.lines().next().unwrap();
    for rule in [
        "set-var(txn.reuse_hit) str(x)",
        "set-var-fmt(sess.identity_asked_all) \"%[src]\"",
        "set-var(sess.identity.reuse_of) str(x)",
    ] {
        let text = shipped.replacen(first, &format!("    http-request {rule}\n{first}"), 1);
        assert!(is_told(&found(text)), "{rule}");
    }
}

/// The lines of a text, with the index at which each begins.
fn lines_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        (start, line.trim_end_matches('\n'))
    })
}

#[test]
fn f1_rules_that_reused_requests_skip_are_found() {
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap().text;
    let found = |text: String, rule: Rule| {
        let files = |name: &str| source(&root().join("haproxy").join(name));
        let found = lint(&[Source { name: "haproxy.cfg".into(), text }], &files, &Agent::default());
        found.iter().any(|finding| finding.rule == rule)
    };
    let after = |place: &str, line: &str| {
        assert_eq!(shipped.matches(place).count(), 1, "{place}");
        shipped.replacen(place, &format!("{place}    {line}\n"), 1)
    };
    let own = "http-request deny if { path_beg /admin }";
    for place in [
        "    http-request send-spoe-group identity authorize\n",
        "    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n    http-request set-header X-Unique-ID %[unique-id]\n    http-request set-header X-Identity-Decision-Id %[var(txn.identity.decision_id)]\n    http-request set-header X-Identity-Workspace %[var(txn.identity.workspace)] if { var(txn.identity.workspace) -m len gt 0 }\n    # A subject has a meaning only together with its issuer.\n    http-request set-header X-Identity-Subject %[var(txn.identity.subject)] if { var(txn.identity.subject) -m len gt 0 } { var(txn.identity.issuer) -m len gt 0 }\n",
        "    default_backend nowhere\n",
        "backend workspace\n",
        "backend workspace-tls\n",
    ] {
        assert!(found(after(place, own), Rule::ReuseSkips), "{place}");
    }
    for place in ["frontend gate\n", "    filter spoe engine identity config identity.spoe.cfg\n"] {
        assert!(!found(after(place, own), Rule::ReuseSkips), "{place}");
    }
    // Even if the line is like a shipped one, and wherever it leads.
    for own in [
        "http-request return status 403 if { path_beg /admin }",
        "http-request del-header Authorization",
        "http-request del-header Cookie if { path_beg /api }",
        "http-request set-header Host inside.test",
        "http-request del-header HTTP2-Settings",
        "use_backend own if { path_beg /own/ }",
    ] {
        let place = "    http-request send-spoe-group identity authorize\n";
        assert!(found(after(place, own), Rule::ReuseSkips), "{own}");
    }
    let way = "use_backend own if { path_beg /own/ }";
    for place in ["    unique-id-format %[uuid()]\n", "    default_backend nowhere\n"] {
        assert!(found(after(place, way), Rule::ReuseSkips), "{place}");
    }
    for own in [
        "http-response del-header X-Powered-By",
        "tcp-request content reject if { src 192.0.2.1 }",
        "server direct 0.0.0.0:0 source 10.1.1.1",
    ] {
        assert!(found(after("backend workspace\n", own), Rule::ReuseSkips), "{own}");
        let both = after("backend workspace\n", own).replacen(
            "backend reused\n",
            &format!("backend reused\n    {own}\n"),
            1,
        );
        assert!(!found(both, Rule::ReuseSkips), "{own}");
    }
    // Another line of the same name is an alternative.
    for own in [
        "acl reuse_client src 10.0.0.0/8",
        "acl reuse_holds always_true",
        "acl reuse_epoch always_true",
        "acl METH_GET method GET POST",
    ] {
        for place in ["    default_backend nowhere\n", "defaults\n"] {
            assert!(found(after(place, own), Rule::VerdictMade), "{place} {own}");
        }
    }
    let limit = "tune.vars.sess-max-size 1000";
    assert!(found(after("\nglobal\n", limit), Rule::ReuseHalf));
    assert!(!found(after("\nglobal\n", "tune.vars.sess-max-size 0"), Rule::ReuseHalf));
    // Without reuse both are accepted.
    assert!(!found(without_reuse(&after("\nglobal\n", limit)), Rule::ReuseHalf));
    assert!(!found(without_reuse(&after("    default_backend nowhere\n", own)), Rule::ReuseSkips));
}

/// Runs the command in a directory with these files.
fn lint_in(files: &[(&str, &[u8])], args: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let mut command = Command::new(program());
    let output = command
        .args(["haproxy", "lint"])
        .args(args)
        .current_dir(directory.path())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn files_are_found_where_haproxy_finds_them_and_read_whatever_their_bytes() {
    let shipped = |name: &str| std::fs::read(root().join("haproxy").join(name)).unwrap();
    let gate = String::from_utf8(shipped("haproxy.cfg")).unwrap();
    let (before, after) = gate.split_at(gate.find("\nfrontend gate").unwrap());
    let spoe = shipped("identity.spoe.cfg");
    // In a directory the files are read in the order of their names; hidden files and others are ignored.
    let files: &[(&str, &[u8])] = &[
        ("conf.d/20-gate.cfg", after.as_bytes()),
        ("conf.d/10-global.cfg", before.as_bytes()),
        ("conf.d/.hidden.cfg", b"frontend x\n"),
        ("conf.d/notes.txt", b"frontend x\n"),
        ("identity.spoe.cfg", &spoe),
    ];
    assert_eq!(lint_in(files, &["conf.d"]), (Some(0), "no mistakes found\n".into()));
    assert_eq!(lint_in(&[("conf.d/x.txt", b"")], &["conf.d"]).0, Some(2));
    // A comment in Latin-1.
    let mut latin = b"# caf\xe9\n".to_vec();
    latin.extend(gate.as_bytes());
    let files: &[(&str, &[u8])] = &[("haproxy.cfg", &latin), ("identity.spoe.cfg", &spoe)];
    assert_eq!(lint_in(files, &["haproxy.cfg"]), (Some(0), "no mistakes found\n".into()));
    // A path of the machine that HAProxy runs on: below --root, or in the directory of the file.
    let absolute =
        gate.replace("config identity.spoe.cfg", "config /no-such-place/identity.spoe.cfg");
    let files: &[(&str, &[u8])] =
        &[("haproxy.cfg", absolute.as_bytes()), ("image/no-such-place/identity.spoe.cfg", &spoe)];
    let (status, text) = lint_in(files, &["haproxy.cfg"]);
    assert!(status == Some(1) && text.contains("spoe-unreadable"), "{text}");
    let found = lint_in(files, &["--root", "image", "haproxy.cfg"]);
    assert_eq!(found, (Some(0), "no mistakes found\n".into()));
    let files: &[(&str, &[u8])] =
        &[("haproxy.cfg", absolute.as_bytes()), ("identity.spoe.cfg", &spoe)];
    assert_eq!(lint_in(files, &["haproxy.cfg"]).0, Some(0));
}

/// The findings for the shipped file with one text in place of another, and a changed SPOE file.
fn edited(old: &str, new: &str, spoe: impl Fn(String) -> String) -> Vec<Finding> {
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap();
    assert!(shipped.text.contains(old), "{old}");
    let gate = Source { text: shipped.text.replacen(old, new, 1), ..shipped };
    let files = |name: &str| {
        let found = source(&root().join("haproxy").join(name))?;
        Some(Source { text: spoe(found.text), ..found })
    };
    lint(&[gate], &files, &Agent::default())
}

#[test]
fn defaults_are_followed_through_the_chain_that_they_make() {
    let gate = "frontend gate\n";
    let chain = "defaults base from deeper\n    timeout client 60s\nfrontend gate from base\n";
    let found = edited(gate, chain, |spoe| spoe);
    let spoe = source(&root().join("haproxy/identity.spoe.cfg")).unwrap();
    // There is no 'deeper', so the mode is not known, and the checks for HTTP are skipped.
    assert!(!found.is_empty());
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap();
    let text = shipped.text.replacen("defaults\n", "defaults deeper\n", 1);
    let text = text.replacen(gate, chain, 1);
    let files = |_: &str| Some(spoe.clone());
    let found = lint(&[Source { text, ..shipped }], &files, &Agent::default());
    assert!(found.is_empty(), "{}", self::text(&found));
}

#[test]
fn one_mistake_is_one_finding_with_the_line_that_makes_it() {
    let top = "    # --- 1. Delete what only the gate may set; refuse what must not pass";
    let found = edited(top, &format!("    http-request allow\n{top}"), |spoe| spoe);
    assert_eq!(found.len(), 1, "{}", text(&found));
    assert_eq!(found[0].rule, Rule::Bypass);
    let acl = "    acl allowed var(txn.identity.allow) -m bool\n";
    let found = edited(acl, &format!("{acl}    acl allowed src 10.0.0.0/8\n"), |spoe| spoe);
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap().text;
    let line = shipped.lines().position(|line| line == acl.trim_end()).unwrap() + 2;
    assert!(
        found.iter().any(|f| f.line == line && f.rule == Rule::VerdictMade),
        "{}",
        text(&found)
    );
    let named = format!("'allowed' is any of the lines {}, {line}", line - 1);
    assert!(text(&found).contains(&named), "{named}\n{}", text(&found));
    let found = edited(top, top, |spoe| spoe.replace("var-prefix identity", "var-prefix gate"));
    assert_eq!(found.len(), 1, "{}", text(&found));
    assert!(found[0].what.contains("the prefix differs"), "{}", found[0].what);
}

#[test]
fn another_engine_whose_file_is_not_there_is_not_judged() {
    let filter = "    filter spoe engine identity config identity.spoe.cfg\n";
    let waf = "    filter spoe engine crowdsec config /etc/haproxy/crowdsec.cfg\n";
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap();
    let gate =
        Source { text: shipped.text.replacen(filter, &format!("{waf}{filter}"), 1), ..shipped };
    let files = |name: &str| source(&root().join("haproxy").join(name));
    let found = lint(&[gate], &files, &Agent::default());
    assert_eq!(found.len(), 1, "{}", text(&found));
    assert_eq!(found[0].rule, Rule::NotJudged);
    assert!(found[0].what.contains("not judged"), "{}", found[0].what);
    assert!(found[0].fix.contains("--root"), "{}", found[0].fix);
}

#[test]
fn local_addresses_and_new_sections_are_known() {
    let directory = root().join("tests/data/lint");
    let good = source(&directory.join("good.cfg")).unwrap();
    let files = |name: &str| source(&directory.join(name));
    for address in
        ["abnsz@gate", "uxst@/run/gate.sock", "sockpair@4", "ipv4@localhost:80", "[::1]:80", "fd@3"]
    {
        let text = good.text.replace("bind 127.0.0.1:8080", &format!("bind {address}"));
        let found = lint(&[Source { text, ..good.clone() }], &files, &Agent::default());
        assert!(found.is_empty(), "{address}: {}", self::text(&found));
    }
    for section in
        ["healthcheck x\n    type httpchk\n", "acme x\n    directory y\n", "log-profile x\n"]
    {
        let text = format!("{}\n{section}    server x 10.0.0.9:80\n", good.text);
        let found = lint(&[Source { text, ..good.clone() }], &files, &Agent::default());
        assert!(found.is_empty(), "{section}: {}", self::text(&found));
    }
}

#[test]
fn q7_the_room_for_the_headers_of_a_configuration_must_be_there() {
    let shipped = |name: &str| std::fs::read(root().join("haproxy").join(name)).unwrap();
    let gate = String::from_utf8(shipped("haproxy.cfg")).unwrap();
    let spoe = shipped("identity.spoe.cfg");
    let agent = b"[agent]\nlisten = ['unix:spop.sock']\n[[issuer]]\nname = 'x'\nissuer = 'https://idp.example.com'\naudience = ['x']\n\
        [[host]]\npreset = 'ona'\ndomain = 'x.test'\n[workspaces]\nfile = 'w.yaml'\n";
    let linted = |gate: &str| {
        let files: &[(&str, &[u8])] = &[
            ("haproxy.cfg", gate.as_bytes()),
            ("identity.spoe.cfg", &spoe),
            ("agent.toml", agent),
            ("w.yaml", b"workspaces: []\n"),
        ];
        lint_in(files, &["haproxy.cfg", "--config", "agent.toml"])
    };
    assert_eq!(linted(&gate), (Some(0), "no mistakes found\n".into()));
    let line = |name: &str| gate.lines().find(|line| line.contains(name)).unwrap();
    let (buffers, rewrites) = (line("    tune.bufsize "), line("    tune.maxrewrite "));
    for (sizes, finds) in [
        ([buffers, ""], true),
        (["", ""], true),
        // HAProxy takes no more than half of its buffer.
        (["", rewrites], true),
        (["    tune.bufsize 65536", rewrites], false),
        (["    tune.bufsize 64k", "    tune.maxrewrite 16k"], false),
        (["    tune.bufsize 64k", "    tune.maxrewrite 56k"], false),
        ([buffers, "    tune.maxrewrite 4096"], true),
    ] {
        let changed = gate.replace(buffers, sizes[0]).replace(rewrites, sizes[1]);
        let (status, text) = linted(&changed);
        assert_eq!(status == Some(1), finds, "{sizes:?} {text}");
        assert_eq!(text.contains(": header-room: "), finds, "{sizes:?} {text}");
        assert_eq!(text.contains("fix: tune.bufsize "), finds, "{sizes:?} {text}");
    }
}

#[test]
fn q9_a_release_with_a_known_bug_is_found_where_it_is_given() {
    for (release, status) in
        [("3.0.22", 1), ("3.2.18", 1), ("3.3.9", 1), ("3.2.19", 0), ("2.6.12-1+deb12u4", 0)]
    {
        let output = run_program(&["haproxy/haproxy.cfg", "--haproxy-release", release]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{release} {text}");
        assert_eq!(text.contains(": known-bug: "), status == 1, "{release} {text}");
        assert_eq!(text.contains("haproxy/issues/3355"), status == 1, "{release} {text}");
    }
    assert_eq!(
        run_program(&["haproxy/haproxy.cfg", "--haproxy-release", "3.2"]).status.code(),
        Some(2)
    );
}
