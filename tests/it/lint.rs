//! `haproxy lint`: each mistake is found where it is, and what is shipped has none.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use identity_spoa::haproxy::{
    document::Source,
    lint::{Agent, Finding, Rule, lint},
};

use crate::support::{agent::PROGRAM, haproxy::root};

fn source(path: &Path) -> Option<Source> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(Source { name: path.file_name()?.to_str()?.into(), text })
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
        // What is expected stands in the line itself, as a comment.
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
        let found = findings("tests/data/lint", &[name], &Agent::default());
        let place = |f: &Finding| (f.file.clone(), f.line, f.rule.id().to_owned());
        let places: BTreeSet<_> = found.iter().map(place).collect();
        if places != want {
            wrong += &format!("{name}: expected {want:?}, found\n{}", text(&found));
        }
        assert!(found.iter().all(|f| !f.why.is_empty() && !f.fix.is_empty()), "{name}");
        rules.extend(found.iter().map(|finding| finding.rule));
    }
    assert!(wrong.is_empty(), "{wrong}");
    let missing: Vec<_> = Rule::ALL.iter().filter(|rule| !rules.contains(rule)).collect();
    assert!(missing.is_empty(), "no example in tests/data/lint for {missing:?}");
}

#[test]
fn what_the_agents_configuration_needs_is_missed_where_haproxys_lacks_it() {
    let slow = Agent { answer_within: std::time::Duration::from_millis(500), ..Agent::default() };
    let found = findings("haproxy", &["haproxy.cfg"], &slow);
    assert_eq!(text(&found).matches("processing-timeout").count(), 1, "{}", text(&found));
    assert_eq!(found[0].fix, "timeout processing 700ms");
    let all =
        Agent { sign_in: true, cookie: true, query: true, subprotocol: true, ..Agent::default() };
    let found = findings("haproxy", &["haproxy.cfg"], &all);
    for name in ["query", "protocols", "protocol_lines", "fetch_mode", "origin"] {
        let missing = format!("the argument '{name}' is missing");
        assert!(text(&found).contains(&missing), "{missing}\n{}", text(&found));
    }
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
        "good.cfg:8: credential-travels: the token is not taken out of the query",
        "good.cfg:8: credential-travels: the token is not taken out of Sec-WebSocket-Protocol",
    ] {
        assert!(found.contains(missing), "{missing}\n{found}");
    }
}

fn program(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(["haproxy", "lint"]).args(args).current_dir(root()).output().unwrap()
}

#[test]
fn the_command_shows_place_reason_and_fix_and_says_by_its_status_what_it_found() {
    let output = program(&["haproxy/haproxy.cfg"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let example = "tests/data/lint/plain-http.cfg";
    let output = program(&[example]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let want = format!("{example}:6: plain-http: :80 takes requests in the clear");
    assert!(text.starts_with(&want), "{text}");
    assert!(
        text.contains("\n    why: a token sent in the clear is a token given away\n"),
        "{text}"
    );
    assert!(text.contains("\n    fix: http-request redirect scheme https"), "{text}");
    let output = program(&["--json", example]);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found[0]["rule"], "plain-http");
    assert_eq!(found[0]["line"], 6);
    for wrong in [&["no-such-file.cfg"][..], &[], &["--config", "no-such.toml", example]] {
        assert_eq!(program(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn f1_a_configuration_without_its_default_deny_is_never_clean() {
    // Whatever single line of the shipped rules of enforcement goes, but for those that only choose the
    // answer: the lint must notice the one that matters.
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
fn f1_reuse_is_known_as_it_is_shipped_and_in_no_other_form() {
    let shipped = source(&root().join("haproxy/haproxy.cfg")).unwrap().text;
    let start = shipped.find(".if defined(GATE_REUSE)\n").unwrap();
    let end = start + shipped[start..].find(".else\n").unwrap();
    let (block, count) = (&shipped[start..end], shipped[start..end].lines().count());
    let found = |text: String| {
        let files = |name: &str| source(&root().join("haproxy").join(name));
        lint(&[Source { name: "haproxy.cfg".into(), text }], &files, &Agent::default())
    };
    let is_told = |found: &[Finding]| {
        found.iter().any(|f| matches!(f.rule, Rule::VerdictScope | Rule::VerdictMade))
    };
    assert!(found(shipped.clone()).is_empty());
    let rules: Vec<_> = block.lines().filter(|line| line.starts_with("    http-request")).collect();
    assert!(rules.len() > 20 && count > rules.len());
    for rule in rules {
        // Without it, after another one, with another condition, and a bit different.
        for other in [
            String::new(),
            format!("    http-request set-var(txn.x) int(1)\n{rule}"),
            rule.replacen(" if ", " unless ", 1),
            rule.replacen("field(", "field(1", 1),
            rule.replacen("txn.identity.", "txn.identity.x_", 1),
        ] {
            if other != rule {
                let text = shipped.replacen(rule, &other, 1);
                assert!(is_told(&found(text)), "{other}");
            }
        }
    }
    let late = shipped.replace("\"1:${GATE_REUSE-0}\"", "1:60001");
    assert!(is_told(&found(late)), "longer than anybody may say");
    for rule in ["set-var(txn.reuse_hit) bool(true)", "set-var-fmt(sess.identity_reuse) \"%[src]\""]
    {
        let line = format!("    http-request {rule}\n{}", block.lines().nth(4).unwrap());
        let text = shipped.replacen(block.lines().nth(4).unwrap(), &line, 1);
        assert!(is_told(&found(text)), "{rule}");
    }
}
