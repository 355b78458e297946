//! `doctor`: each usual mistake is found, with a remedy.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{self, agent::program};
use dev_idp::{DevIdp, Fault, Faults, TokenRequest};
use dev_workspace::DevWorkspace;

struct Patient {
    idp: DevIdp,
    directory: tempfile::TempDir,
}

impl Patient {
    async fn new() -> Self {
        let idp = DevIdp::start().await;
        let directory = tempfile::tempdir().unwrap();
        let workspace = DevWorkspace::start("a").await;
        let other = DevWorkspace::start("other").await;
        std::fs::write(directory.path().join("agent.toml"), support::config(idp.issuer())).unwrap();
        let list = support::workspaces(&workspace, &other, "running");
        std::fs::write(directory.path().join("workspaces.yaml"), list).unwrap();
        Self { idp, directory }
    }

    /// The output and the exit status; no part of a token is in the output.
    async fn examine(&self, token: Option<&str>) -> (String, i32) {
        let mut command = Command::new(program());
        command.args(["doctor", "--config"]).arg(self.directory.path().join("agent.toml"));
        command.env("RUST_LOG", "trace");
        if let Some(token) = token {
            let file = self.directory.path().join("token");
            std::fs::write(&file, format!("{token}\n")).unwrap();
            command.arg("--token-file").arg(file);
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        if let Some(token) = token {
            for part in token.split('.').filter(|part| part.len() > 8) {
                assert!(!text.contains(part), "a part of the token is shown: {text}");
            }
        }
        (text, output.status.code().unwrap())
    }

    fn token(&self, claims: Value) -> String {
        let Value::Object(claims) = claims else { panic!() };
        self.idp.token(&TokenRequest { claims, ..TokenRequest::default() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_provider_and_a_valid_token_have_no_failure() {
    let patient = Patient::new().await;
    let token = patient.idp.token_of("alice");
    let (text, status) = patient.examine(Some(&token)).await;
    assert_eq!(status, 0, "{text}");
    for want in [
        "is the configured one",
        "4 of 4 can verify",
        "clock: within 0 s",
        "verified: \"alice\"",
        "\"leads\"",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert!(!text.contains("FAIL"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_provider_is_found_with_a_remedy() {
    let patient = Patient::new().await;
    for (discovery, jwks, want) in [
        (Fault::WrongIssuer, Fault::Ok, "if it is the right provider, set issuer"),
        (Fault::Status(404), Fault::Ok, "expected status 200, got 404"),
        (Fault::Garbage, Fault::Ok, "not a discovery document"),
        (Fault::Ok, Fault::Status(500), "got 500"),
        (Fault::Ok, Fault::Garbage, "not a JSON Web Key Set"),
        (Fault::Ok, Fault::Oversize, "larger than"),
    ] {
        patient.idp.set_faults(Faults { discovery, jwks, ..Faults::default() });
        let (text, status) = patient.examine(None).await;
        assert_eq!(status, 1, "{text}");
        assert!(text.contains(want) && text.contains("-> "), "{want}: {text}");
    }
    let mut patient = Patient::new().await;
    patient.idp.halt();
    support::until("the provider to be gone", async || {
        let (text, status) = patient.examine(None).await;
        (status == 1 && text.contains("refused")).then_some(())
    })
    .await;
}

/// Lines for the table `[[issuer]]`, and tables of the issuer.
fn configured(patient: &Patient, lines: &str, tables: &str) {
    let text = support::config(patient.idp.issuer());
    let text = text.replacen("[[issuer]]\n", &format!("[[issuer]]\n{lines}\n"), 1);
    let text = text.replacen("\n[[host]]", &format!("\n{tables}\n\n[[host]]"), 1);
    std::fs::write(patient.directory.path().join("agent.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn q14_q15_q16_each_habit_of_a_provider_is_named_with_the_setting_that_accepts_it() {
    let patient = Patient::new().await;
    let sign_in = "[issuer.sign_in]\nclient_id = 'gate'\nclient_secret_env = 'PATH'";
    configured(&patient, "", sign_in);
    let id_token = json!({"nonce": "n", "aud": ["gate", "project"], "azp": "gate"});
    let of_client = json!({"nonce": "n", "aud": "gate", "groups": null});
    for (claims, status, want) in [
        (json!({"aud": null, "client_id": "workspaces"}), 1, "audience_claim = \"client_id\""),
        (id_token.clone(), 1, "trusted_audiences = [\"project\"]"),
        (json!({"nonce": "n", "aud": "gate", "azp": "other"}), 1, "'azp'"),
        (of_client.clone(), 0, "lacks groups: sign-in asks userinfo for it"),
    ] {
        let (text, found) = patient.examine(Some(&patient.token(claims.clone()))).await;
        assert!(found == status && text.contains(want), "{claims}: {text}");
    }
    configured(&patient, "trusted_audiences = ['project']", sign_in);
    let (text, status) = patient.examine(Some(&patient.token(id_token))).await;
    assert!(status == 0 && text.contains("judged as at sign-in"), "{text}");
    configured(&patient, "audience_claim = 'client_id'", &format!("{sign_in}\nuserinfo = 'never'"));
    let cognito = json!({"aud": null, "client_id": "workspaces"});
    let (text, status) = patient.examine(Some(&patient.token(cognito))).await;
    assert!(status == 0 && text.contains("verified: \"alice\""), "{text}");
    let (text, status) = patient.examine(Some(&patient.token(of_client))).await;
    assert!(status == 0 && text.contains("userinfo = \"when_needed\""), "{text}");
    assert!(text.contains("sign-in: the agent authenticates by client_secret_basic"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q13_each_way_not_to_vouch_for_an_address_is_named_with_the_setting_that_accepts_it() {
    let patient = Patient::new().await;
    for (claims, want) in [
        (json!({"email": null}), "the token has no \"email\""),
        (json!({"email_verified": null}), "\"xms_edov\" at Entra"),
        (json!({"email_verified": "true"}), "set email_verified_claim = \"email_verified\""),
        (json!({"email_verified": 1}), "set email_verified_claim = \"email_verified\""),
        (json!({"email_verified": false}), "'managed_email_domains'"),
    ] {
        let (text, status) = patient.examine(Some(&patient.token(claims.clone()))).await;
        assert_eq!(status, 0, "{text}");
        assert!(text.contains("no verified e-mail") && text.contains(want), "{claims}: {text}");
    }
    configured(&patient, "managed_email_domains = ['example.com']", "");
    let (text, _) = patient.examine(Some(&patient.token(json!({"email_verified": false})))).await;
    assert!(!text.contains("no verified e-mail"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q16_loopback_is_never_reached_through_a_proxy_and_other_addresses_are() {
    let patient = Patient::new().await;
    // It answers nothing, and remembers what it was asked for.
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = proxy.accept().await.unwrap();
        let mut head = [0; 256];
        let length = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await.unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    let examine = async |no_proxy: &str| {
        let mut command = Command::new(program());
        command.args(["doctor", "--config"]).arg(patient.directory.path().join("agent.toml"));
        command.env("HTTP_PROXY", &address).env("HTTPS_PROXY", &address).env("NO_PROXY", no_proxy);
        command.env_remove("http_proxy").env_remove("https_proxy").env_remove("no_proxy");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = examine("").await;
    assert!(text.contains("4 of 4 can verify") && !text.contains("proxy:"), "{text}");
    assert!(!asked.is_finished(), "nothing of it went to the proxy");
    let config = support::config("https://idp.example.test");
    std::fs::write(patient.directory.path().join("agent.toml"), config).unwrap();
    let text = examine("").await;
    assert!(text.contains("proxy: HTTPS_PROXY, HTTP_PROXY"), "{text}");
    let head = asked.await.unwrap();
    assert!(head.starts_with("CONNECT idp.example.test:443 "), "{head}");
    let text = examine("example.test").await;
    assert!(text.contains("FAIL") && !text.contains("tunnel"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_usual_mistake_in_a_token_is_found_with_a_remedy() {
    let patient = Patient::new().await;
    let issuer = patient.idp.issuer();
    for (claims, want) in [
        (json!({"aud": "account"}), "audience mapper"),
        (json!({"aud": "elsewhere"}), "ask the provider for a token for \"workspaces\""),
        (json!({"exp": 1_700_000_000}), "s ago: get a new one"),
        (json!({"iss": format!("{issuer}/")}), "only a slash at the end differs"),
        (json!({"iss": "https://sts.windows.net/x/"}), "requestedAccessTokenVersion"),
        (json!({"iss": "https://elsewhere\u{1b}[31m"}), "\\u{1b}"),
        (json!({"nonce": "n"}), "of a type that 'token_types' does not list"),
        (json!({"cnf": {"jkt": "x"}}), "DPoP"),
        (json!({"sub": null}), "each token needs"),
    ] {
        let token = patient.token(claims.clone());
        let (text, status) = patient.examine(Some(&token)).await;
        assert!(status == 1 && text.contains(want), "{claims}: {text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    let unpublished = TokenRequest { sign_with: "unpublished".into(), ..TokenRequest::default() };
    for (token, want) in [
        (patient.idp.token(&unpublished), "does not publish the key"),
        ("eyJhbGciOiJkaXIifQ..aaaa.bbbb.cccc".to_owned(), "without an audience"),
        ("some-opaque-token".to_owned(), "[issuer.introspection]"),
    ] {
        let (text, status) = patient.examine(Some(&token)).await;
        assert!(status == 1 && text.contains(want), "{want}: {text}");
    }
    let unverified = patient.token(json!({"email_verified": false, "preferred_username": null}));
    let (text, status) = patient.examine(Some(&unverified)).await;
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("no verified e-mail") && text.contains("no login name"), "{text}");
}
