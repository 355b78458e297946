//! Configurations in the documents are loaded by what reads them in production.

use std::process::Command;

use identity_spoa::{
    config::{Config, reference},
    haproxy_config::{
        document::Source,
        lint::{Agent, lint},
    },
};

use super::markdown::{self, Block};
use crate::support::{Version, agent::program, haproxy::root};

/// All blocks of a language in docs/ and README.md that do not say why they are not loaded.
fn blocks(language: &str) -> Vec<Block> {
    let pages = markdown::all().into_iter();
    let pages = pages.filter(|page| page.file.starts_with("docs/") || page.file == "README.md");
    let blocks = pages.flat_map(|page| page.blocks);
    blocks.filter(|block| block.language == language && block.excused().is_none()).collect()
}

/// A configuration of which the block is a part: what it needs and does not have comes from here.
fn completed(text: &str) -> String {
    let has =
        |table: &str| text.lines().any(|line| line.split('#').next().unwrap().trim() == table);
    let mut whole = String::new();
    if !has("[agent]") {
        whole += "[agent]\nlisten = ['127.0.0.1:0']\n";
    }
    let own = text.lines().find_map(|line| line.strip_prefix("issuer = \"")?.split('"').next());
    let of_issuer = text.trim_start().starts_with("[issuer.");
    if !has("[[issuer]]") {
        // Sources name whose people they have.
        let name = own.filter(|name| !name.contains(':')).unwrap_or("corp");
        whole += &format!(
            "[[issuer]]\nname = '{name}'\nissuer = 'https://idp.example.com'\naudience = 'workspaces'\nmatch = ['subject', 'email', 'username']\n"
        );
    }
    if of_issuer {
        // Continues the issuer that stands before it.
        whole += text;
        whole.push('\n');
    }
    if !has("[[host]]") {
        whole += "[[host]]\npreset = 'gitpod'\ndomain = 'x.example.com'\n";
    }
    if !has("[workspaces]") && !has("[[source]]") {
        whole += "[workspaces]\nfile = 'workspaces.yaml'\n";
    }
    if text.contains("[sign_in.pages]") && !has("[sign_in]") {
        whole += "[sign_in]\nhost = 'login.example.com'\nlisten = '127.0.0.1:9011'\nencryption_keys_file = 'keys'\n";
    }
    let sign_in = has("[sign_in]") || whole.contains("[sign_in]");
    if sign_in && !has("[issuer.sign_in]") && !has("[[issuer]]") {
        whole = whole.replacen(
            "match = ['subject', 'email', 'username']\n",
            "match = ['subject', 'email', 'username']\n[issuer.sign_in]\nclient_id = 'gate'\nclient_secret_file = 'secret'\n",
            1,
        );
    }
    if has("[issuer.sign_in]") && !sign_in {
        whole += "[sign_in]\nhost = 'login.example.com'\nlisten = '127.0.0.1:9011'\nencryption_keys_file = 'keys'\n";
    }
    if text.contains("kind = \"api\"") && !has("[admin]") {
        whole += "[admin]\nsocket = 'admin.sock'\nrevocations = 'revocations.jsonl'\n";
    }
    if !of_issuer {
        whole += text;
    }
    whole
}

#[test]
fn every_configuration_of_the_agent_in_a_document_is_a_good_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let schema = jsonschema::validator_for(&reference::schema()).unwrap();
    let mut wrong = String::new();
    let blocks = blocks("toml");
    for block in &blocks {
        let whole = completed(&block.text);
        std::fs::write(&path, &whole).unwrap();
        if let Ok(value) = toml::from_str::<toml::Table>(&whole) {
            let errors = serde_json::to_value(value).unwrap();
            for error in schema.iter_errors(&errors) {
                wrong +=
                    &format!("{}: schema: {error} at {}\n", block.place(), error.instance_path());
            }
        }
        if let Err(mistakes) = Config::load(&path) {
            wrong += &format!("{}:\n{mistakes}\n{}\n", block.place(), completed(&block.text));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(blocks.len() > 15, "only {} blocks", blocks.len());
}

#[test]
fn the_pages_of_okta_and_entra_have_a_whole_configuration_that_is_good_by_itself() {
    let blocks = blocks("toml");
    for page in ["docs/providers/okta.md", "docs/providers/entra.md"] {
        let whole = blocks.iter().filter(|block| block.place().starts_with(page));
        let whole: Vec<_> = whole.filter(|block| block.text.starts_with("[agent]")).collect();
        assert_eq!(whole.len(), 1, "{page}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, &whole[0].text).unwrap();
        let config = Config::load(&path).unwrap_or_else(|mistakes| panic!("{page}: {mistakes}"));
        let issuer = &config.issuers[0];
        assert!(issuer.client.is_some() && config.sign_in.is_some() && config.admin.is_some());
        assert!(config.audit.file.is_some() && !config.hosts.is_empty(), "{page}");
        assert_eq!(config.warnings(), [], "{page}");
    }
}

#[test]
fn every_list_of_workspaces_in_a_document_is_a_good_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut count = 0;
    for block in blocks("yaml") {
        let list = block.text.starts_with("workspaces:");
        assert!(list, "{}: no list of workspaces; say why it is not loaded", block.place());
        // Whom the list speaks of.
        let config = "[[issuer]]\nname = 'corp'\nissuer = 'https://idp.example.com'\naudience = 'workspaces'\n\
            [[certificate]]\nname = 'laptops'\nidentity = 'email'\nmatch = ['email']\n";
        let alone = config.split("[[certificate]]").next().unwrap();
        let named = block.text.contains("issuer:");
        let config = completed(if named { config } else { alone });
        std::fs::write(directory.path().join("agent.toml"), config).unwrap();
        std::fs::write(directory.path().join("workspaces.yaml"), &block.text).unwrap();
        let output = Command::new(program())
            .args(["check", "--config", "agent.toml"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {output:?}", block.place());
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn every_configuration_of_haproxy_in_a_document_is_taken_and_has_no_mistakes() {
    for block in blocks("haproxy") {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("haproxy.cfg"), &block.text).unwrap();
        let spoe = std::fs::read_to_string(root().join("haproxy/identity.spoe.cfg")).unwrap();
        std::fs::write(directory.path().join("identity.spoe.cfg"), &spoe).unwrap();
        std::fs::write(directory.path().join("tcp.cfg"), "global\n").unwrap();
        for version in Version::all() {
            let (good, text) = version.check_in(directory.path(), &[]);
            assert!(good, "{} {version:?}: {text}", block.place());
        }
        let source = Source { name: "haproxy.cfg".into(), text: block.text.clone() };
        let include =
            |_: &str| Some(Source { name: "identity.spoe.cfg".into(), text: spoe.clone() });
        let found = lint(&[source], &include, &Agent::default());
        assert!(found.is_empty(), "{}: {found:#?}", block.place());
    }
}
