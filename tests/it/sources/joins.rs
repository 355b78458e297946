//! People of platforms and lists are people of the issuers that are named there, and of no other.

use identity_spoa::config::Config;

use super::*;

/// A source of each kind that names people itself, without `issuer`.
const PLATFORMS: [(&str, &str); 6] = [
    ("coder", "url = 'https://p.test'\ntoken_env = 'T'\ndestination = 'backend:b'\n"),
    (
        "gitpod",
        "url = 'https://p.test'\ntoken_env = 'T'\norganization_id = 'o'\ndestination = 'backend:b'\n",
    ),
    ("ona", "url = 'https://p.test'\ntoken_env = 'T'\n"),
    ("kubernetes", "resource = 'devworkspace'\n"),
    ("kubernetes", "resource = 'gitpod'\nowner = 'email'\n"),
    (
        "jupyterhub",
        "url = 'https://p.test'\ntoken_env = 'T'\nhost = 'hub.test'\nroutes_listen = '127.0.0.1:0'\nroutes_token_env = 'T'\n",
    ),
];
const SECOND: &str =
    "[[issuer]]\nname = 'partner'\nissuer = 'https://partner.test'\naudience = 'w'\n";
const CERTIFICATE: &str = "[[certificate]]\nname = 'machines'\nidentity = 'common_name'\n";

/// The mistakes in a configuration with one issuer, `corp`, and what else it says.
fn mistakes(rest: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let text = format!(
        "[agent]\nlisten = ['127.0.0.1:0']\n[admin]\nsocket = 'a'\nrevocations = 'r'\n\
         [destinations]\nbackends = ['b']\n\
         [[host]]\npreset = 'gitpod'\ndomain = 'x.test'\n\
         [[issuer]]\nname = 'corp'\nissuer = 'https://corp.test'\naudience = 'w'\n{rest}"
    );
    std::fs::write(&path, text).unwrap();
    Config::load(&path).map_or_else(|mistakes| mistakes.to_string(), |_| String::new())
}

#[test]
fn s2_with_several_issuers_a_source_of_each_kind_says_whose_people_it_has() {
    for (kind, keys) in PLATFORMS {
        let source =
            |issuer: &str| format!("[[source]]\nname = 'p'\nkind = '{kind}'\n{keys}{issuer}\n");
        assert_eq!(mistakes(&source("")), "", "{kind}: one issuer needs no name");
        for other in [SECOND, CERTIFICATE] {
            let found = mistakes(&format!("{other}{}", source("")));
            assert!(found.contains("add 'issuer'"), "{kind}: {found}");
            assert!(found.contains("(corp, "), "{kind}: {found}");
            assert_eq!(mistakes(&format!("{other}{}", source("issuer = 'corp'"))), "", "{kind}");
        }
        // Whichever issuers there are.
        for all in ["", SECOND] {
            let found = mistakes(&format!("{all}{}", source("issuer = 'crop'")));
            assert!(found.contains("'crop' is not configured: did you mean 'corp'?"), "{found}");
            let found = mistakes(&format!("{all}{}", source("issuer = ['corp', 'elsewhere']")));
            assert!(found.contains("'elsewhere' is not configured: expected one of"), "{found}");
            let found = mistakes(&format!("{all}{}", source("issuer = []")));
            assert!(found.contains("expected the name of at least one issuer"), "{found}");
        }
        let both = source("issuer = ['corp', 'partner']");
        assert_eq!(mistakes(&format!("{SECOND}{both}")), "", "{kind}");
    }
}

#[test]
fn s2_a_list_and_the_api_name_no_issuer_for_all_their_records() {
    for (kind, keys) in [("file", "file = 'w.yaml'\n"), ("api", "")] {
        let source = format!("[[source]]\nname = 'p'\nkind = '{kind}'\n{keys}");
        assert_eq!(mistakes(&format!("{SECOND}{source}")), "", "{kind}: each record says it");
        let found = mistakes(&format!("{source}issuer = 'corp'\n"));
        assert!(found.contains("unknown key 'issuer'"), "{kind}: {found}");
    }
}

/// Coder with a workspace of alice, and an agent with a second provider.
async fn two_providers(issuer: &str) -> (Stage, DevIdp) {
    let deployment = Arc::new(Mutex::new(Coder::default()));
    let workspace = coder_workspace("dev", "alice", 1, "running");
    deployment.lock().unwrap().workspaces.insert("dev--alice".into(), workspace);
    let address = coder(deployment).await;
    let partner = DevIdp::start().await;
    let settings = format!(
        "[[issuer]]\nname = 'partner'\nissuer = '{}'\naudience = 'workspaces'\nmatch = ['username', 'email']\n\
         [[source]]\nname = 'coder'\nkind = 'coder'\nurl = 'http://{address}'\ntoken_file = 'token'\n\
         destination = 'backend:coder'\nresync_seconds = 1\nissuer = {issuer}\n\
         [[host]]\npreset = 'coder'\ndomain = 'apps.test'\nsource = 'coder'\n\
         [destinations]\nbackends = ['coder']\n",
        partner.issuer()
    );
    (Stage::start(&settings, &[("token", "coder-token\n")]).await, partner)
}

const ALICES: &str = "code--dev--alice.apps.test";
/// All people with an account at Coder.
const WIKI: &str = "wiki--dev--alice.apps.test";

/// The reason for a person of the second provider, once its keys are fetched.
async fn reason_of(stage: &Stage, provider: &DevIdp, host: &str, who: &str) -> String {
    let mut peer = Peer::unix(&stage.agent.socket()).await;
    let token = provider.token_of(who);
    until("the keys", async || {
        let reason = peer.ask(host, Some(&token)).await.unwrap();
        (reason != "keys_unavailable").then_some(reason)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_alice_of_the_second_provider_is_not_the_owner() {
    let (stage, partner) = two_providers("'dev'").await;
    stage.until(ALICES, Some("alice"), "owner").await;
    assert_eq!(reason_of(&stage, &partner, ALICES, "alice").await, "not_permitted");
    assert_eq!(reason_of(&stage, &partner, WIKI, "alice").await, "not_permitted");
    assert_eq!(reason_of(&stage, &partner, WIKI, "bob").await, "not_permitted");
    assert_eq!(stage.reason(WIKI, Some("bob")).await, "organization");
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_source_may_name_several_issuers_of_the_same_people() {
    let (stage, partner) = two_providers("['dev', 'partner']").await;
    stage.until(ALICES, Some("alice"), "owner").await;
    assert_eq!(reason_of(&stage, &partner, ALICES, "alice").await, "owner");
    assert_eq!(reason_of(&stage, &partner, ALICES, "bob").await, "not_permitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_record_that_was_written_for_one_issuer_stays_its_when_another_is_added() {
    let stage = Stage::start(API, &[]).await;
    let body = "{ id: job-1, owner: { username: alice }, organization: acme, phase: running, destination: '10.0.0.1:80' }";
    let put = |path: &'static str, body: String| {
        let socket = stage.socket();
        async move { admin(&socket, "PUT", path, &body).await }
    };
    let one = "/v1/sources/builds/workspaces/job-1";
    let (status, text) = put(one, body.into()).await;
    assert_eq!(status, 200, "{text}");
    stage.until("job-1.ci.test", Some("alice"), "owner").await;
    let partner = DevIdp::start().await;
    let path = stage.directory.path().join("agent.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let more = format!(
        "{config}\n[[issuer]]\nname = 'partner'\nissuer = '{}'\naudience = 'workspaces'\nmatch = ['username', 'email']\n",
        partner.issuer()
    );
    std::fs::write(&path, more).unwrap();
    stage.agent.signal("-HUP");
    until("the second provider to be known", async || {
        let reason = reason_of(&stage, &partner, "job-1.ci.test", "alice").await;
        (reason != "token_issuer").then_some(()).map(|()| assert_eq!(reason, "not_permitted"))
    })
    .await;
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "owner");
    // From now on records say whose people they name.
    let (status, text) = put(one, body.into()).await;
    assert_eq!(status, 422, "{text}");
    assert!(text.to_string().contains("add 'issuer'"), "{text}");
    let by_email = body.replace("username: alice", "email: alice@example.com");
    let (status, text) = put(one, by_email).await;
    assert_eq!(status, 422, "an e-mail address says no more than a name: {text}");
    let (status, text) = put(one, body.replace("{ id", "{ issuer: partner, id")).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(reason_of(&stage, &partner, "job-1.ci.test", "alice").await, "owner");
    assert_eq!(stage.reason("job-1.ci.test", Some("alice")).await, "not_permitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_reload_that_adds_an_issuer_to_a_source_without_one_is_refused() {
    let settings = KUBERNETES.replace("kubeconfig = 'kubeconfig'", "kubeconfig = 'nowhere'");
    let stage = Stage::start(&settings, &[]).await;
    let path = stage.directory.path().join("agent.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{config}\n{SECOND}")).unwrap();
    stage.agent.signal("-HUP");
    let note = until("the refusal", async || {
        let audit_log = std::fs::read_to_string(stage.directory.path().join("audit.jsonl")).ok()?;
        audit_log.lines().find(|line| line.contains("reload_refused")).map(str::to_owned)
    })
    .await;
    assert!(note.contains("add 'issuer'"), "{note}");
}
