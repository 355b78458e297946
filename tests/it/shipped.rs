//! The shipped files work, and the documents describe them.

use identity_spoa::{authz::reason::Reason, identity::TokenError, sign_in::page::texts::Text};

use crate::support::{
    ALICES, AgentProcess, Client, Haproxy, Stage, Version,
    agent::program,
    haproxy::{root, without_reuse},
    host, until,
};
use dev_idp::DevIdp;

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
fn the_documents_explain_every_reason_and_every_variable() {
    let page = read("docs/reasons.md");
    let reasons = Reason::ALL.map(Reason::id);
    let token_errors = TokenError::ALL.map(TokenError::id);
    for id in reasons.iter().chain(&token_errors) {
        assert!(page.contains(&format!("`{id}`")), "docs/reasons.md does not explain {id}");
    }
    // Those of a sign-in that cannot go on.
    let source = read("src/sign_in/page.rs");
    let outages = source.split("impl Outage").nth(1).unwrap().split("\nimpl ").next().unwrap();
    let ids = regex::Regex::new("=> \"([a-z_]+)\",").unwrap();
    let ids: Vec<_> = ids.captures_iter(outages).map(|found| found[1].to_owned()).collect();
    assert!(ids.len() >= 5, "{ids:?}");
    for id in ids {
        let row = format!("\n| `{id}` | ");
        assert!(page.contains(&row), "docs/reasons.md does not explain {id} of a sign-in");
    }
    let page = read("docs/variables.md");
    let configuration = read("haproxy/haproxy.cfg");
    for part in configuration.split("txn.identity.").skip(1) {
        let name: String =
            part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        assert!(page.contains(&format!("`{name}`")), "docs/variables.md does not explain {name}");
    }
}

#[test]
fn the_documents_explain_what_the_shipped_files_take_from_the_environment() {
    let page = read("docs/variables.md");
    let name = regex::Regex::new("(GATE|IDENTITY)_[A-Z0-9_]*[A-Z0-9]").unwrap();
    for file in ["haproxy.cfg", "tcp.cfg", "identity.spoe.cfg"] {
        for name in name.find_iter(&read(&format!("haproxy/{file}"))) {
            let name = name.as_str();
            assert!(
                page.contains(&format!("`{name}`")),
                "docs/variables.md lacks {name} of {file}"
            );
        }
    }
}

#[test]
fn the_readme_is_short() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150);
    for line in readme.lines().filter(|line| !line.starts_with('|')) {
        assert!(line.chars().count() <= 100, "wrap it: {line}");
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
    // Reuse is the one exception. By default it is off.
    assert!(configuration.contains("var(sess.identity.reuse_of)"));
    let configuration = without_reuse(&configuration);
    for scope in ["sess.", "proc."] {
        assert!(!configuration.contains(&format!("var({scope}")), "{scope}");
    }
    assert!(configuration.contains("unless allowed"));
    assert!(configuration.contains("option set-on-error"));
}

/// A plain request and one over https, to a gate with the files of a directory.
async fn redirected(
    files: &std::path::Path,
    version: &Version,
    stage: &Stage,
    agent: &AgentProcess,
) {
    let directory = stage.directory.path();
    // Without the exception that other tests need.
    std::fs::write(directory.join("haproxy.env"), "GATE_PLAIN\n").unwrap();
    let haproxy =
        Haproxy::start_from(files, version, directory, &agent.socket(), stage.bob.address()).await;
    let token = stage.idp.token_of("alice");
    let at = host(ALICES);
    let reply = Client::connect(haproxy.http).await.get(&at, Some(&token)).await;
    assert_eq!(reply.status, 301, "{version:?}");
    assert_eq!(reply.header("location"), Some(format!("https://{at}/")), "{version:?}");
    assert!(reply.header("strict-transport-security").is_none(), "it means nothing in the clear");
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .resolve(&at, haproxy.https)
        .build()
        .unwrap();
    let url = format!("https://{at}:{}/", haproxy.https.port());
    for (token, status) in [(Some(&token), 200), (None, 401)] {
        let reply = until("the gate to open", async || {
            let request = token.iter().fold(client.get(&url), reqwest::RequestBuilder::bearer_auth);
            let reply = request.send().await.unwrap();
            (reply.status() != 503).then_some(reply)
        })
        .await;
        assert_eq!(reply.status(), status, "{version:?}");
        let hsts: Vec<_> = reply.headers().get_all("strict-transport-security").iter().collect();
        assert_eq!(hsts, ["max-age=31536000"], "{version:?} {status}");
    }
    assert!(!haproxy.log().contains("gate gate/<NOSRV> 200"), "{version:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_with_a_certificate_plain_http_is_only_redirected() {
    for version in Version::all() {
        let stage = Stage::with(version, DevIdp::start().await).await;
        redirected(&root().join("haproxy"), version, &stage, &stage.agent).await;
        let written = tempfile::tempdir_in(stage.directory.path()).unwrap();
        let done = std::process::Command::new(program())
            .args(["haproxy", "generate", "--config"])
            .arg(stage.directory.path().join("agent.toml"))
            .arg("--out")
            .arg(written.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        redirected(written.path(), version, &stage, &stage.agent).await;
    }
}

#[test]
fn s13_no_file_that_is_handed_out_serves_tokens_in_the_clear() {
    for file in ["packaging/compose.yaml", "packaging/kubernetes/gate.yaml"] {
        let text = read(file);
        assert!(text.contains("GATE_CERT") && !text.contains("GATE_PLAIN"), "{file}");
    }
}
