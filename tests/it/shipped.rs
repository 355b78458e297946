//! What is shipped is what works: configurations, and what the README says of them.

use identity_spoa::{decision::Reason, identity::Refusal, session::page::texts::Text};

use crate::support::{
    Version,
    haproxy::{root, without_reuse},
};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn each_haproxy_takes_the_shipped_configuration_without_a_warning() {
    for version in Version::all() {
        for env in [
            vec![],
            vec![("GATE_NAMED_BACKEND", "127.0.0.1:1".to_owned())],
            vec![("GATE_LOGIN_HOST", "login.test".to_owned())],
        ] {
            let (good, text) = version.check(&env);
            assert!(good, "{version:?}: {text}");
            for word in ["WARNING", "ALERT"] {
                assert!(!text.contains(word), "{version:?}: {text}");
            }
        }
    }
}

#[test]
fn the_readme_names_every_reason_and_every_variable() {
    let readme = read("README.md");
    let reasons = Reason::ALL.map(Reason::id);
    let refusals = Refusal::ALL.map(Refusal::id);
    for id in reasons.iter().chain(&refusals) {
        assert!(readme.contains(&format!("`{id}`")), "README.md does not explain the reason {id}");
    }
    let configuration = read("haproxy/haproxy.cfg");
    for part in configuration.split("txn.identity.").skip(1) {
        let name: String =
            part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        assert!(
            readme.contains(&format!("`{name}`")),
            "README.md does not explain the variable {name}"
        );
    }
}

#[test]
fn the_texts_of_the_pages_are_on_file() {
    assert_eq!(read("docs/texts.toml"), Text::reference(), "write it: see CONTRIBUTING.md");
}

#[test]
#[ignore = "writes docs/texts.toml"]
fn the_texts_are_written() {
    std::fs::write(root().join("docs/texts.toml"), Text::reference()).unwrap();
}

#[test]
fn f1_the_verdict_is_in_scope_txn_and_nowhere_else() {
    let configuration = ["haproxy.cfg", "tcp.cfg", "identity.spoe.cfg"]
        .map(|name| read(&format!("haproxy/{name}")))
        .concat();
    // Reuse is the one exception, and off unless it is asked for.
    assert!(configuration.contains("var(sess.identity.reuse_of)"));
    let configuration = without_reuse(&configuration);
    for scope in ["sess.", "proc."] {
        assert!(!configuration.contains(&format!("var({scope}")), "{scope}");
    }
    assert!(configuration.contains("unless allowed"));
    assert!(configuration.contains("option set-on-error"));
}
