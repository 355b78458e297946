//! `login`: people at a terminal, against the development provider and a real gate.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::{ALICES, Stage, Version, agent::program, host, until};

struct Terminal {
    child: Child,
    said: std::path::PathBuf,
}

impl Terminal {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let said = directory.join("said");
        let child = Command::new(program())
            .args(["login", "--client-id", "cli", "--cache"])
            .arg(directory.join("tokens.json"))
            .args(args)
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        Self { child, said }
    }

    async fn says(&self, what: &str) -> String {
        until(what, async || {
            let said = std::fs::read_to_string(&self.said).unwrap();
            let line = said.lines().find(|line| line.contains(what)).map(str::to_owned);
            line.filter(|_| said.ends_with('\n'))
        })
        .await
    }

    fn printed(self) -> (bool, String) {
        let output = self.child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

/// A browser without a session here: follows to the end.
async fn browse(url: &str) -> (u16, String) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = http.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_gets_a_token_that_opens_the_workspace() {
    let stage = Stage::start(Version::newest()).await;
    let directory = tempfile::tempdir().unwrap();
    let issuer = ["--issuer", stage.idp.issuer()];
    let terminal = Terminal::start(directory.path(), &[&issuer[..], &["--browser"]].concat());
    let address = terminal.says("/authorize").await;
    for part in ["code_challenge_method=S256", "state=", "127.0.0.1"] {
        assert!(address.contains(part), "{address}");
    }
    // Other pages can send a browser to that port too.
    let back = address.split("redirect_uri=").nth(1).unwrap().split('&').next().unwrap();
    let back = back.replace("%3A", ":").replace("%2F", "/");
    for odd in ["?code=x&state=y", "?error=access_denied&state=y", "", "/else"] {
        assert_eq!(browse(&format!("{back}{odd}")).await.0, 404, "{odd}");
    }
    let (status, text) = browse(&address).await;
    assert_eq!((status, text.as_str()), (200, "You are signed in. You can close this window."));
    let (done, printed) = terminal.printed();
    assert!(done, "{printed}");
    let token = printed.trim_end();
    assert_eq!(stage.get_with(&host(ALICES), Some(token)).await.status, 200);
    // The next call needs no sign-in, and other users cannot read the stored token.
    let args = [&issuer[..], &["--format", "header"]].concat();
    let (done, header) = Terminal::start(directory.path(), &args).printed();
    assert!(done);
    assert_eq!(header, format!("Authorization: Bearer {token}\n"));
    let cache = directory.path().join("tokens.json");
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut mode = std::fs::metadata(&cache).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        mode.set_mode(0o644);
        std::fs::set_permissions(&cache, mode.clone()).unwrap();
        assert!(!Terminal::start(directory.path(), &issuer).printed().0, "readable by others");
        mode.set_mode(0o600);
        std::fs::set_permissions(&cache, mode).unwrap();
    }
    // A token that ends is renewed without a person.
    let text = std::fs::read_to_string(&cache).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    for entry in kept.as_object_mut().unwrap().values_mut() {
        entry["end"] = 1.into();
        entry["token"] = "ended".into();
    }
    std::fs::write(&cache, kept.to_string()).unwrap();
    let args = [&issuer[..], &["--format", "git", "get"]].concat();
    let (done, printed) = Terminal::start(directory.path(), &args).printed();
    assert!(done);
    let token = printed.lines().find_map(|line| line.strip_prefix("credential=")).unwrap();
    assert!(printed.starts_with("capability[]=authtype\nauthtype=Bearer\n"), "{printed}");
    assert_eq!(stage.get_with(&host(ALICES), Some(token)).await.status, 200);
    assert_eq!(stage.idp.counters().refresh, 1);
    for operation in ["store", "erase"] {
        let args = [&issuer[..], &["--format", "git", operation]].concat();
        assert_eq!(Terminal::start(directory.path(), &args).printed(), (true, String::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_screen_a_code_is_entered_somewhere_else() {
    let stage =
        Stage::changed(Version::newest(), dev_idp::DevIdp::start().await, |_, config, _| {
            *config = config.replace("[agent]\n", "[agent]\nresource_metadata = true\n");
        })
        .await;
    let directory = tempfile::tempdir().unwrap();
    // The workspace's address names the provider whose tokens are accepted; another provider is refused.
    let gate = format!("http://{}", stage.haproxy.http);
    let refused = Terminal::start(directory.path(), &["--gate", &gate]);
    refused.says("name it with --issuer").await;
    assert!(!refused.printed().0);
    let terminal = Terminal::start(directory.path(), &["--issuer", stage.idp.issuer()]);
    let line = terminal.says("enter the code").await;
    assert!(line.contains("WDJB-MJHT"), "{line}");
    stage.idp.approve_devices("alice");
    let (done, printed) = terminal.printed();
    assert!(done, "{printed}");
    assert_eq!(stage.get_with(&host(ALICES), Some(printed.trim_end())).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_an_answer_from_another_provider_signs_no_person_in() {
    let idp = dev_idp::DevIdp::start().await;
    let directory = tempfile::tempdir().unwrap();
    let args = ["--issuer", idp.issuer(), "--browser"];
    let terminal = Terminal::start(directory.path(), &args);
    let address = terminal.says("/authorize").await;
    let parameter = |name: &str| {
        let value = address.split(&format!("{name}=")).nth(1).unwrap();
        value.split('&').next().unwrap().replace("%3A", ":").replace("%2F", "/")
    };
    let back = format!(
        "{}?code=x&state={}&iss=https%3A%2F%2Fevil.test",
        parameter("redirect_uri"),
        parameter("state")
    );
    assert_eq!(browse(&back).await.0, 400);
    let (done, printed) = terminal.printed();
    assert!(!done && printed.is_empty());
}
