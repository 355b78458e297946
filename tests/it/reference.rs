//! The reference of the configuration and its JSON Schema say what the reader takes: each key is tried.

use std::collections::BTreeSet;

use identity_spoa::{
    config::{
        Config,
        reference::{self, Key, Kind, TABLES, Table},
    },
    diagnostics::{self, Format},
};
use serde_json::Value;

use crate::support::haproxy::root;

/// No key is called so.
const NOBODYS: &str = "zzzzzzzzzzzzzzzzzzzzzzzz";

/// A configuration that holds together, and what stands in each table of it.
fn base(path: &str, kind: &str) -> Vec<(&'static str, &'static str)> {
    let mut tables = vec![
        ("[agent]", "listen = ['127.0.0.1:0']"),
        ("[[issuer]]", "name = 'a'\nissuer = 'https://a.test'\naudience = 'x'"),
        ("[[host]]", "preset = 'ona'\ndomain = 'x.test'"),
        ("[workspaces]", "file = 'w.yaml'"),
    ];
    let secret = "client_id = 'a'\nclient_secret_env = 'A'";
    let more = match path {
        "issuer.claims" => ("[issuer.claims]", ""),
        "issuer.claims.groups" => ("[[issuer.claims.groups]]", "claim = 'a'"),
        "issuer.require" => ("[[issuer.require]]", "claim = 'a'\nany_of = ['b']"),
        "issuer.introspection" => ("[issuer.introspection]", secret),
        "issuer.sign_in" => ("[issuer.sign_in]", secret),
        "sign_in" => {
            tables.insert(2, ("[issuer.sign_in]", secret));
            ("[sign_in]", "host = 'l.test'\nlisten = '127.0.0.1:1'\nkeys_file = 'k'")
        }
        "sign_in.pages" => {
            tables.insert(2, ("[issuer.sign_in]", secret));
            tables.push(("[sign_in]", "host = 'l.test'\nlisten = '127.0.0.1:1'\nkeys_file = 'k'"));
            ("[sign_in.pages]", "")
        }
        "shared" => {
            tables.insert(2, ("[issuer.sign_in]", secret));
            tables.push(("[sign_in]", "host = 'l.test'\nlisten = '127.0.0.1:1'\nkeys_file = 'k'"));
            ("[shared]", "url = 'redis://s.test:6379/0'")
        }
        "haproxy" => ("[haproxy]", "sockets = ['unix:/s']"),
        "tunnels" => {
            tables.push(("[haproxy]", "sockets = ['unix:/s']"));
            ("[tunnels]", "")
        }
        "credentials" => ("[credentials]", ""),
        "certificate" => ("[[certificate]]", "name = 'c'\nidentity = 'uri'"),
        "destinations" => ("[destinations]", ""),
        "policy" => ("[policy]", "directory = 'p'\nshadow = 'q'"),
        "audit" => ("[audit]", "file = 'a'"),
        "traces" => ("[traces]", "endpoint = 'https://t.test/v1/traces'"),
        "metrics" => ("[metrics]", "listen = '127.0.0.1:0'"),
        "admin" => ("[admin]", "socket = 's'\nrevocations = 'r'"),
        "source" => {
            tables.push(("[admin]", "socket = 's'\nrevocations = 'r'"));
            let there = match kind {
                "file" => "name = 's'\nkind = 'file'\nfile = 'x.yaml'",
                "api" => "name = 's'\nkind = 'api'",
                "jupyterhub" => {
                    "name = 's'\nkind = 'jupyterhub'\nurl = 'https://h.test'\ntoken_env = 'T'\nroutes_token_env = 'R'\nroutes_listen = '127.0.0.1:0'\nhost = 'h.test'"
                }
                "coder" => {
                    "name = 's'\nkind = 'coder'\nurl = 'https://h.test'\ntoken_env = 'T'\ndestination = 'http://{workspace}.test:{port}'"
                }
                "gitpod" => {
                    "name = 's'\nkind = 'gitpod'\nurl = 'https://h.test'\ntoken_env = 'T'\norganization_id = 'o'\ndestination = 'http://{workspace}.test:{port}'"
                }
                "kubernetes" => "name = 's'\nkind = 'kubernetes'\nresource = 'devworkspace'",
                "ona" => "name = 's'\nkind = 'ona'\ntoken_env = 'T'",
                other => panic!("no example of a source of kind {other}"),
            };
            ("[[source]]", there)
        }
        _ => return tables,
    };
    // Tables of an issuer follow it.
    let place = if path.starts_with("issuer.") { 2 } else { tables.len() };
    tables.insert(place, more);
    tables
}

/// The mistakes in the base with one line more in a table, which replaces one of the same key.
fn mistakes(table: &Table, kind: &str, key: &str, value: &str) -> Vec<String> {
    let heading = match (table.path, table.repeated) {
        ("", _) => String::new(),
        (path, true) => format!("[[{path}]]"),
        (path, false) => format!("[{path}]"),
    };
    let mut text = String::new();
    if heading.is_empty() {
        text = format!("{key} = {value}\n");
    }
    let mut met = heading.is_empty();
    for (found, lines) in base(table.path, kind) {
        // At the top, a table of the same name would be there twice.
        if heading.is_empty() && found.trim_matches(['[', ']']) == key {
            continue;
        }
        text += &format!("{found}\n");
        for line in lines.lines() {
            let replaced = found == heading && line.split(' ').next() == Some(key);
            if !replaced {
                text += &format!("{line}\n");
            }
        }
        if found == heading {
            text += &format!("{key} = {value}\n");
            met = true;
        }
    }
    assert!(met, "no {heading} in the base of {}", table.path);
    match diagnostics::read::<Config>("agent.toml", &text, Format::Toml) {
        Ok(_) => vec![],
        Err(mistakes) => mistakes.as_slice().iter().map(|m| m.message.clone()).collect(),
    }
}

/// The kinds of source, or one without a name for other tables.
fn kinds(table: &Table) -> Vec<&'static str> {
    let kind = table.keys.iter().find(|key| key.name == "kind");
    match kind.map(|key| key.kind) {
        Some(Kind::Choice(kinds)) => kinds.to_vec(),
        _ => vec![""],
    }
}

#[test]
fn the_reader_and_the_reference_know_the_same_keys() {
    let mut wrong = String::new();
    for table in &TABLES {
        for kind in kinds(table) {
            let mistakes = mistakes(table, kind, NOBODYS, "1");
            let known = mistakes.iter().find_map(|message| {
                message.strip_prefix(&format!("unknown key '{NOBODYS}': expected one of "))
            });
            let known = known.unwrap_or_else(|| panic!("[{}] {kind}: {mistakes:?}", table.path));
            let known: BTreeSet<_> = known.split(", ").collect();
            let said = table.keys.iter().filter(|key| key.is_of(kind));
            let said: BTreeSet<_> = said.map(|key| key.name).collect();
            for key in known.difference(&said) {
                wrong += &format!("[{}] {kind}: the reference lacks '{key}'\n", table.path);
            }
            for key in said.difference(&known) {
                wrong += &format!("[{}] {kind}: the reader has no '{key}'\n", table.path);
            }
        }
    }
    assert!(wrong.is_empty(), "add to src/config/reference/ what is missing:\n{wrong}");
}

#[test]
fn each_key_takes_what_the_reference_says_and_nothing_else() {
    let mut wrong = String::new();
    for table in &TABLES {
        for kind in kinds(table) {
            for key in table.keys.iter().filter(|key| key.is_of(kind)) {
                if key.name == "kind" && table.path == "source" {
                    continue;
                }
                let (bad, said) = complaint(key);
                let found = mistakes(table, kind, key.name, bad);
                if !found.iter().any(|message| message.contains(&said)) {
                    wrong += &format!(
                        "[{}] {kind} {} = {bad}: expected {said:?}, found {found:?}\n",
                        table.path, key.name
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A value that a key must refuse, and with which words.
fn complaint(key: &Key) -> (&'static str, String) {
    match key.kind {
        Kind::Text => ("7", "expected a string, found integer".into()),
        Kind::Texts | Kind::TextOrTexts | Kind::TextOrTables(_) => {
            ("7", "expected an array, found integer".into())
        }
        Kind::Bool => ("'x'", "expected a bool, found string".into()),
        Kind::Number(from, to) => ("'x'", format!("expected a number from {from} to {to}")),
        Kind::Choice(words) => ("'zzz'", format!("expected one of {}; found", words.join(", "))),
        Kind::Choices(words) => ("['zzz']", format!("expected one of {}; found", words.join(", "))),
        Kind::Table(path) => {
            let repeated = TABLES.iter().any(|table| table.path == path && table.repeated);
            let what = if repeated { "an array" } else { "a table" };
            ("7", format!("expected {what}, found integer"))
        }
    }
}

#[test]
fn what_is_required_is_missed() {
    let mut wrong = String::new();
    for table in TABLES.iter().filter(|table| !table.path.is_empty()) {
        for kind in kinds(table) {
            for key in table.keys.iter().filter(|key| key.is_of(kind) && key.name != "kind") {
                // A line that is there already goes; an unknown one takes its place.
                let text = without(table, kind, key.name);
                let missed = diagnostics::read::<Config>("agent.toml", &text, Format::Toml)
                    .err()
                    .is_some_and(|mistakes| {
                        let missing = format!("the key '{}' is missing here", key.name);
                        mistakes.as_slice().iter().any(|m| m.message == missing)
                    });
                // An issuer's identifier and a platform's address are known where there is a preset.
                let sometimes = ["issuer", "url"].contains(&key.name);
                if missed != key.required && !sometimes {
                    wrong += &format!("[{}] {kind} {}: {missed}\n", table.path, key.name);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The base without a key.
fn without(table: &Table, kind: &str, key: &str) -> String {
    let heading = |found: &str| found.trim_matches(['[', ']']) == table.path;
    let mut text = String::new();
    for (found, lines) in base(table.path, kind) {
        text += &format!("{found}\n");
        for line in lines.lines() {
            if !(heading(found) && line.split(' ').next() == Some(key)) {
                text += &format!("{line}\n");
            }
        }
    }
    text
}

#[test]
fn the_files_in_docs_are_what_the_program_prints() {
    let pretty = serde_json::to_string_pretty(&reference::schema()).unwrap() + "\n";
    for (file, args, want) in [
        ("docs/agent.schema.json", &["schema"][..], pretty),
        ("docs/configuration.md", &["schema", "--markdown"], reference::markdown()),
    ] {
        let there = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        let how = format!("cargo run -q -- {} > {file}", args.join(" "));
        assert!(there == want, "{file} is not what the program prints: {how}");
        let output =
            std::process::Command::new(crate::support::agent::PROGRAM).args(args).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), want);
    }
}

fn json(toml: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(toml).unwrap()).unwrap()
}

#[test]
fn the_schema_takes_the_readmes_configuration_and_refuses_mistakes_in_it() {
    let schema = jsonschema::validator_for(&reference::schema()).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("## Configuration\n\n```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let errors: Vec<_> = schema
        .iter_errors(&json(example))
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for (from, to) in [
        ("[agent]\n", "[agent]\nworkres = 2\n"),
        ("[agent]\n", "[agent]\nworkers = 0\n"),
        ("audience = \"workspaces\"", "audience = 7"),
        ("match = [\"subject\", \"email\"]", "match = [\"name\"]"),
        ("kind = \"ona\"", "kind = \"onna\""),
        ("kind = \"ona\"", "kind = \"api\""),
    ] {
        assert!(example.contains(from), "{from}");
        let wrong = json(&example.replacen(from, to, 1));
        assert!(!schema.is_valid(&wrong), "{to}");
    }
}
