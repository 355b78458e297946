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
