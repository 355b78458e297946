//! What is made of the declarations of keys is true: each key is tried with the reader, in a configuration that is made
//! of examples.

use std::{collections::BTreeSet, path::Path};

use identity_spoa::{
    config::{
        Config,
        reference::{self, Key, Shape, Table, tables},
    },
    diagnostics::{Format, Mistake},
};
use serde_json::Value;

use crate::support::haproxy::root;

/// No key is called so.
const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzzzzzz";
/// Tables that every configuration has here.
const ALWAYS: [&str; 4] = ["agent", "issuer", "host", "workspaces"];
/// Tables that need others.
const NEEDS: [(&str, &[&str]); 6] = [
    ("issuer.sign_in.authorize", &["issuer.sign_in"]),
    ("sign_in", &["issuer.sign_in"]),
    ("sign_in.pages", &["issuer.sign_in", "sign_in"]),
    ("shared", &["issuer.sign_in", "sign_in"]),
    ("tunnels", &["haproxy"]),
    ("source", &["admin"]),
];
/// Keys of which a table needs one or another, or that another key needs.
const ALSO: [(&str, &[&str]); 5] = [
    ("issuer.introspection", &["client_secret_env"]),
    ("issuer.sign_in", &["client_secret_env"]),
    ("policy", &["directory", "shadow"]),
    ("audit", &["file"]),
    ("source", &["url", "token_env", "routes_token_env"]),
];

/// A configuration that holds together and has a table. A key of that stands in its last line, with its value, or is
/// not there.
fn text(table: &Table, kind: &str, key: &str, value: Option<&str>) -> String {
    let more = NEEDS.iter().find(|(path, _)| *path == table.path).map_or(&[][..], |(_, more)| more);
    let own = value.map(|value| format!("{key} = {value}\n")).unwrap_or_default();
    // At the top, a table of the same name would be there twice.
    let mut text = if table.path.is_empty() { own.clone() } else { String::new() };
    for other in tables() {
        let is_own = other.path == table.path;
        let is_there = is_own || ALWAYS.contains(&other.path) || more.contains(&other.path);
        if other.path.is_empty() || !is_there || table.path.is_empty() && other.path == key {
            continue;
        }
        text += &format!("{}\n", other.heading());
        let also = ALSO.iter().find(|(path, _)| *path == other.path);
        for line in other.keys.iter().filter(|line| line.is_for_kind(kind)) {
            let needed = line.required || line.used;
            let needed = needed || also.is_some_and(|(_, names)| names.contains(&line.name));
            if needed && !(is_own && line.name == key) {
                let kind = format!("{kind:?}");
                let example = line.example.unwrap_or(&kind);
                text += &format!("{} = {example}\n", line.name);
            }
        }
        if is_own {
            text += &own;
        }
    }
    text
}

fn mistakes(text: &str) -> Vec<Mistake> {
    let read = Config::parse("agent.toml", text, Format::Toml, "".as_ref());
    read.err().into_iter().flatten().collect()
}

/// Tries each key of each table, with each kind that the table can have.
fn each_key(mut wrong: impl FnMut(&Table, &str, &Key) -> Option<String>) {
    let mut all = String::new();
    for table in tables() {
        for kind in table.kinds().unwrap_or_else(|| vec![""]) {
            for key in table.keys.iter().filter(|key| key.is_for_kind(kind) && key.name != "kind") {
                if let Some(wrong) = wrong(&table, kind, key) {
                    all += &format!("[{}] {kind} {}: {wrong}\n", table.path, key.name);
                }
            }
        }
    }
    assert!(all.is_empty(), "{all}");
}

#[test]
fn a_table_takes_the_keys_that_are_declared_and_no_other() {
    for table in tables() {
        for kind in table.kinds().unwrap_or_else(|| vec![""]) {
            let found = mistakes(&text(&table, kind, UNKNOWN, Some("1")));
            let unknown = format!("unknown key '{UNKNOWN}': expected one of ");
            let [only] = found.as_slice() else { panic!("[{}] {kind}: {found:?}", table.path) };
            let known: BTreeSet<_> =
                only.message.strip_prefix(&unknown).unwrap().split(", ").collect();
            let declared = table.keys.iter().filter(|key| key.is_for_kind(kind));
            assert_eq!(known, declared.map(|key| key.name).collect(), "[{}] {kind}", table.path);
        }
    }
}

#[test]
fn each_key_takes_its_default_and_its_example() {
    each_key(|table, kind, key| {
        let values = [key.default.as_deref(), key.example];
        values.into_iter().flatten().find_map(|value| {
            let text = text(table, kind, key.name, Some(value));
            let line = format!("{} = {value}", key.name);
            let line = text.lines().position(|found| found == line).unwrap() + 1;
            let at = |mistake: &&Mistake| mistake.place.is_some_and(|(found, _)| found == line);
            mistakes(&text).iter().find(at).map(ToString::to_string)
        })
    });
}

#[test]
fn each_path_is_relative_to_the_file() {
    let mut tried = 0;
    each_key(|table, kind, key| {
        let value = match (key.shape)() {
            Shape::Path => "'here.yaml'",
            _ if ["agent.listen", "haproxy.sockets"]
                .contains(&&*format!("{}.{}", table.path, key.name)) =>
            {
                "['unix:here.yaml']"
            }
            _ => return None,
        };
        let text = text(table, kind, key.name, Some(value));
        // Some do not go with another key of that configuration.
        let directory = Path::new("/etc/gate");
        let config = Config::parse("agent.toml", &text, Format::Toml, directory).ok()?;
        tried += 1;
        let found = format!("{config:?}").contains("\"/etc/gate/here.yaml\"");
        (!found).then(|| format!("{config:?}"))
    });
    assert!(tried > 20, "only {tried}");
}

#[test]
fn each_key_refuses_what_is_not_of_its_kind() {
    each_key(|table, kind, key| {
        let (bad, expected) = complaint(&(key.shape)());
        let found = mistakes(&text(table, kind, key.name, Some(bad)));
        let is_told = found.iter().any(|mistake| mistake.message.contains(&expected));
        (!is_told).then(|| format!("{bad}: expected {expected:?}, found {found:?}"))
    });
}

/// A value that a key must refuse, and with which words.
fn complaint(shape: &Shape) -> (&'static str, String) {
    match shape {
        Shape::Text | Shape::Path => ("7", "expected a string, found integer".into()),
        Shape::Bool => ("'x'", "expected a bool, found string".into()),
        Shape::Number(from, to) => ("'x'", format!("expected a number from {from} to {to}")),
        Shape::Ratio => ("0.0", "expected a number above 0, at most 1".into()),
        Shape::Choice(words) => ("'zzz'", format!("expected one of {}; found", words.join(", "))),
        Shape::List(inner) => match &**inner {
            Shape::Choice(_) => ("['zzz']", complaint(inner).1),
            _ => ("7", "expected an array, found integer".into()),
        },
        Shape::TextOr(inner) => complaint(inner),
        Shape::Table(_) => ("7", "expected a table, found integer".into()),
    }
}

#[test]
fn what_is_required_is_missed() {
    each_key(|table, kind, key| {
        let missing = format!("the key '{}' is missing here", key.name);
        let found = mistakes(&text(table, kind, key.name, None));
        let missed = found.iter().any(|mistake| mistake.message == missing);
        // An issuer's identifier is known where there is a preset.
        let sometimes = (table.path, key.name) == ("issuer", "issuer");
        (missed != key.required && !sometimes).then(|| format!("{found:?}"))
    });
}

#[test]
fn the_files_in_docs_are_what_the_program_prints() {
    let pretty = serde_json::to_string_pretty(&reference::schema()).unwrap() + "\n";
    for (file, args, want) in [
        ("docs/agent.schema.json", &["schema"][..], pretty),
        ("docs/configuration.md", &["schema", "--markdown"], reference::markdown()),
        ("docs/agent.example.toml", &["schema", "--example"], reference::example()),
    ] {
        let there = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        let how = format!("cargo run -q -- {} > {file}", args.join(" "));
        assert!(there == want, "{file} is not what the program prints: {how}");
        let output = std::process::Command::new(crate::support::agent::program())
            .args(args)
            .output()
            .unwrap();
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

#[test]
fn the_annotated_example_can_be_loaded_and_has_every_key() {
    let example = reference::example();
    assert!(mistakes(&example).is_empty(), "{:?}", mistakes(&example));
    let schema = jsonschema::validator_for(&reference::schema()).unwrap();
    assert!(schema.is_valid(&json(&example)));
    let has = |section: &str, start: &str| {
        section.lines().any(|line| line.trim_start_matches('#').starts_with(start))
    };
    each_key(|table, _, key| {
        let (heading, start) = (table.heading(), format!("{} = ", key.name));
        let mut own = example.split("\n\n").filter(|section| has(section, &heading));
        let is_table = (key.shape)().table().is_some();
        (!is_table && !own.any(|section| has(section, &start))).then(|| "not in the example".into())
    });
}
