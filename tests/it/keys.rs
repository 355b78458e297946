//! Keys: fetched off the request's way, kept through faults, changed at once.

use std::{
    io::BufRead,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use identity_spoa::{
    identity::provider::{FetchError, Fetcher, Provider},
    time::Timestamp,
};

use crate::support::{self, ALICES, Stage, Version, certificates::Authority, host, machine, until};
use dev_idp::{DevIdp, Fault, Faults, TokenRequest};

fn provider(issuer: &str) -> Provider {
    provider_with(issuer, "")
}

fn provider_with(issuer: &str, settings: &str) -> Provider {
    let table = format!(
        "[[issuer]]\nname = 'dev'\nissuer = '{issuer}'\naudience = 'workspaces'\n{settings}"
    );
    let issuer = support::issuers(&table).unwrap().remove(0);
    Provider::new(issuer.profile, issuer.schedule, Fetcher::new(None, None).unwrap())
}

#[tokio::test]
async fn k1_k2_k5_a_bad_answer_is_refused_and_the_last_good_keys_stay() {
    let idp = DevIdp::start().await;
    let other = DevIdp::start().await;
    let provider = provider(idp.issuer());
    provider.fetch().await.unwrap();
    let digest = *provider.keys(Timestamp::now()).unwrap().set.digest();
    idp.rotate(false);
    let jwks = |jwks| Faults { jwks, ..Faults::default() };
    let discovery = |discovery| Faults { discovery, jwks: Fault::Status(500), ..Faults::default() };
    for (faults, want) in [
        (jwks(Fault::Status(500)), "expected status 200, got 500"),
        (jwks(Fault::Garbage), "not a JSON Web Key Set"),
        (jwks(Fault::Empty), "not a JSON Web Key Set"),
        (jwks(Fault::Oversize), "larger than"),
        (jwks(Fault::Redirect(format!("{}/jwks", other.issuer()))), "got 302"),
        (discovery(Fault::WrongIssuer), "exactly equal"),
        (discovery(Fault::Garbage), "not a discovery document"),
    ] {
        idp.set_faults(faults);
        // The first attempt may still use the address it knows; the second looks it up again.
        let _ = provider.fetch().await;
        let error = provider.fetch().await.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert_eq!(*provider.keys(Timestamp::now()).unwrap().set.digest(), digest);
    }
    assert_eq!(other.counters().jwks, 0);
    idp.set_faults(Faults::default());
    provider.fetch().await.unwrap();
    assert_ne!(*provider.keys(Timestamp::now()).unwrap().set.digest(), digest);
    // K5: but not for ever.
    let day = std::time::Duration::from_hours(24);
    assert!(provider.keys(Timestamp::now().plus(day)).is_none());
}

#[tokio::test]
async fn an_error_of_a_fetch_names_the_address_and_the_cause() {
    let mut idp = DevIdp::start().await;
    idp.halt();
    let provider = provider(idp.issuer());
    // A connection that was accepted before the end is reset first.
    let error = until("the provider to be gone", async || {
        provider.fetch().await.err().filter(|error| error.to_string().contains("refused"))
    })
    .await;
    assert!(matches!(error, FetchError::Request { .. }));
    let text = error.to_string();
    assert!(text.contains(idp.issuer()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn k11_the_agent_starts_while_the_provider_is_down_and_recovers_by_itself() {
    let mut idp = DevIdp::start().await;
    let issuer = idp.issuer().to_owned();
    idp.halt();
    let directory = tempfile::tempdir().unwrap();
    let workspace = dev_workspace::DevWorkspace::start("a").await;
    let other = dev_workspace::DevWorkspace::start("b").await;
    std::fs::write(directory.path().join("agent.toml"), crate::support::config(&issuer)).unwrap();
    let list = crate::support::workspaces(&workspace, &other, "running");
    std::fs::write(directory.path().join("workspaces.yaml"), list).unwrap();
    let agent = crate::support::AgentProcess::start(directory.path()).await;
    let mut peer = crate::wire::Peer::unix(&agent.socket()).await;
    let token = idp.token_of("alice");
    assert_eq!(peer.ask(&host(ALICES), Some(&token)).await.as_deref(), Some("keys_unavailable"));
    // What needs no keys works all the same.
    assert_eq!(peer.ask_public().await.as_deref(), Some("public"));
    until("the complaint", async || {
        agent.log().contains("fetching the keys of an issuer failed").then_some(())
    })
    .await;
    idp.restart().await;
    while peer.ask(&host(ALICES), Some(&token)).await.unwrap() != "owner" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k6_a_new_key_counts_at_once_and_a_removed_one_no_longer() {
    let stage = Stage::start(Version::newest()).await;
    let old = stage.idp.token_of("alice");
    assert_eq!(stage.get_with(&host(ALICES), Some(&old)).await.status, 200);
    stage.idp.rotate(false);
    // The old key is still known, and so is the old token.
    assert_eq!(stage.get_with(&host(ALICES), Some(&old)).await.status, 200);
    let reply = stage.get(&host(ALICES), Some("alice")).await;
    eprintln!("first request with an unknown key: {:?}", reply.took);
    assert_eq!(reply.status, 200, "{}", reply.body);
    // The new set has no old key: the cached token is verified again, and refused.
    let reply = stage.get_with(&host(ALICES), Some(&old)).await;
    assert_eq!((reply.status, reply.body.contains("token_key")), (401, true), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn k3_an_unknown_key_of_a_provider_that_hangs_costs_a_bounded_wait() {
    let stage = Stage::start(Version::newest()).await;
    stage.idp.set_faults(Faults { jwks: Fault::Hang, ..Faults::default() });
    let request = TokenRequest { sign_with: "unpublished".into(), ..TokenRequest::default() };
    let token = stage.idp.token(&request);
    let reply = stage.get_with(&host(ALICES), Some(&token)).await;
    machine::took(
        std::time::Duration::from_millis(490),
        "an unknown key while the provider hangs",
        &reply,
    );
    assert_eq!((reply.status, reply.body.contains("deadline")), (503, true), "{}", reply.body);
    // Others do not wait.
    assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 200);
}

#[tokio::test]
async fn k4_one_made_up_key_id_does_not_keep_the_next_real_key_out() {
    let idp = DevIdp::start().await;
    let provider = provider(idp.issuer());
    provider.fetch().await.unwrap();
    // A request during a fetch waits for that fetch.
    assert!(provider.refetch().is_some() && provider.refetch().is_some());
    provider.fetch().await.unwrap();
    assert!(provider.refetch().is_some(), "the second one that was saved up");
    provider.fetch().await.unwrap();
    assert!(provider.refetch().is_none());
}

#[tokio::test]
async fn k12_the_last_good_keys_survive_a_restart_and_a_damaged_file_is_ignored() {
    let mut idp = DevIdp::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let issuer = idp.issuer().to_owned();
    let again = || provider(&issuer).with_file(path.clone());
    let known = |provider: &Provider| provider.keys(Timestamp::now()).map(|k| *k.set.digest());
    let first = again();
    assert_eq!(known(&first), None);
    first.fetch().await.unwrap();
    let digest = known(&first);
    assert!(digest.is_some());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = again();
    assert_eq!(known(&second), digest);
    // Not for longer than without a restart.
    let late = Timestamp::now().plus(std::time::Duration::from_hours(24));
    assert!(second.keys(late).is_none());

    let text = std::fs::read_to_string(&path).unwrap();
    for damaged in [
        text.replace("RSA", "RSB"),
        text.replace("fetched_ms\":1", "fetched_ms\":2"),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ] {
        assert_ne!(damaged, text);
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(known(&again()), None);
    }
    std::fs::write(&path, &text).unwrap();
    assert_eq!(known(&again()), digest);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap();
    assert_eq!(known(&again()), None, "another user may have written it");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let elsewhere = DevIdp::start().await;
    assert_eq!(known(&provider(elsewhere.issuer()).with_file(path.clone())), None);
    idp.halt();
    assert!(again().fetch().await.is_err());
    assert_eq!(known(&again()), digest, "a failed fetch takes nothing away");
}

/// Serves the files of a directory by TLS; killed when dropped.
pub(crate) struct TlsFiles {
    child: std::process::Child,
    pub port: u16,
}

impl TlsFiles {
    pub(crate) fn start(directory: &std::path::Path, pem: &str) -> Self {
        std::fs::write(directory.join("server.pem"), pem).unwrap();
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key"])
            .args(["server.pem", "-WWW"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let line = lines.map(Result::unwrap).find(|line| line.starts_with("ACCEPT")).unwrap();
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for TlsFiles {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_keys_come_from_whom_a_trusted_authority_vouches_for_and_no_one_else() {
    let idp = DevIdp::start().await;
    let keys = reqwest::get(format!("{}/jwks", idp.issuer())).await.unwrap().text().await.unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let named = |name: &str| [rcgen::SanType::DnsName(name.try_into().unwrap())];
    for (name, trusted, works) in [
        ("localhost", Some(&ours), true),
        ("localhost", Some(&theirs), false),
        ("localhost", None, false),
        ("elsewhere.test", Some(&ours), false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let certificate = ours.certificate("server", &named(name), |_| ());
        let server = TlsFiles::start(directory.path(), &certificate.pem);
        let issuer = format!("https://localhost:{}", server.port);
        let document = serde_json::json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")});
        std::fs::create_dir(directory.path().join(".well-known")).unwrap();
        let well_known = directory.path().join(".well-known/openid-configuration");
        std::fs::write(well_known, document.to_string()).unwrap();
        std::fs::write(directory.path().join("jwks"), &keys).unwrap();
        let table = format!("[[issuer]]\nname = 'dev'\nissuer = '{issuer}'\naudience = 'a'\n");
        let configured = support::issuers(&table).unwrap().remove(0);
        let fetcher = Fetcher::new(None, trusted.map(|a| a.pem().as_bytes())).unwrap();
        let provider = Provider::new(configured.profile, configured.schedule, fetcher);
        match provider.fetch().await {
            Ok(_) => assert!(works, "{name}"),
            Err(error) => {
                assert!(!works && error.to_string().contains("certificate"), "{name}: {error}");
            }
        }
    }
}
