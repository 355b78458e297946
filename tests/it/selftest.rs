//! `haproxy selftest`: a good gate passes, and each broken gate fails.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{ALICES, Haproxy, Stage, Version, agent::program, haproxy::root, host, until};

/// A stage with alice's token in a file.
async fn stage(version: &Version) -> (Stage, PathBuf) {
    let stage = Stage::start(version).await;
    let token = stage.directory.path().join("alice.token");
    std::fs::write(&token, stage.idp.token_of("alice")).unwrap();
    (stage, token)
}

async fn selftest(url: String, args: &[&str]) -> Output {
    let args: Vec<_> = args.iter().map(ToString::to_string).collect();
    let run = move || {
        let mut command = Command::new(program());
        command.args(["haproxy", "selftest", "--url", &url, "--host", &host(ALICES)]).args(args);
        command.output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_gate_passes_every_check() {
    for version in Version::all() {
        let (stage, token) = stage(version).await;
        let with_token = ["--token-file", token.to_str().unwrap(), "--echo"];
        for (url, more) in [
            (format!("http://{}", stage.haproxy.http), None),
            (format!("https://{}", stage.haproxy.https), Some("--insecure")),
        ] {
            let args: Vec<_> = with_token.into_iter().chain(more).collect();
            let output = selftest(url, &args).await;
            let text = text(&output);
            assert_eq!(output.status.code(), Some(0), "{version:?}\n{text}");
            assert!(text.contains("\n0 of "), "{text}");
            assert!(text.contains("pass  no-token: "), "{text}");
            // Without sign-in the path of the agent's pages is not reserved; everything else is tried.
            assert_eq!(text.matches("skip  ").count(), 1, "{text}");
            assert!(!text.contains(&stage.idp.token_of("alice")[..20]), "{text}");
        }
    }
}

/// The checks that fail on a gate with a changed configuration.
async fn broken(changes: &[(&str, &str)]) -> Vec<String> {
    let (stage, token) = stage(Version::newest()).await;
    let copy = tempfile::tempdir_in(stage.directory.path()).unwrap();
    let shipped = root().join("haproxy");
    copy_all(&shipped, copy.path());
    let gate = copy.path().join("haproxy.cfg");
    let mut text_of = std::fs::read_to_string(&gate).unwrap();
    for (from, to) in changes {
        assert!(text_of.contains(from), "{from}");
        text_of = text_of.replace(from, to);
    }
    std::fs::write(&gate, text_of).unwrap();
    let haproxy = Haproxy::start_from(
        copy.path(),
        Version::newest(),
        stage.directory.path(),
        &stage.agent.socket(),
        stage.alice.address(),
    )
    .await;
    until("the gate to open", async || {
        let mut client = crate::support::Client::connect(haproxy.http).await;
        let token = stage.idp.token_of("alice");
        (client.get(&host(ALICES), Some(&token)).await.status == 200).then_some(())
    })
    .await;
    let url = format!("http://{}", haproxy.http);
    let output = selftest(url, &["--token-file", token.to_str().unwrap(), "--echo"]).await;
    let text = text(&output);
    let failed: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("FAIL  ")?.split_once(": "))
        .map(|(id, _)| id.to_owned())
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!failed.is_empty())), "{text}");
    assert_eq!(text.matches("      fix: ").count(), failed.len(), "{text}");
    failed
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Requests without a verdict are routed, as in many real configurations.
const OPEN: (&str, &str) = ("default_backend nowhere", "default_backend named");

#[tokio::test(flavor = "multi_thread")]
async fn f1_a_gate_without_its_refusals_fails() {
    let allow_all = ("acl allowed var(txn.identity.allow) -m bool", "acl allowed always_true");
    let failed = broken(&[OPEN, allow_all]).await;
    for id in [
        "no-token",
        "garbage-token",
        "unsigned-token",
        "spoofed-identity",
        "unknown-host",
        "routed-by-header",
        "two-tokens",
        "two-tokens-one-good",
        "asked-again",
        "smuggling-both",
    ] {
        assert!(failed.iter().any(|found| found == id), "{id} not in {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_a_verdict_that_outlives_its_request_fails() {
    let sticky = (
        "acl allowed var(txn.identity.allow) -m bool",
        "http-request set-var(sess.ok) bool(true) if { var(txn.identity.allow) -m bool }\n    \
         acl allowed var(sess.ok) -m bool",
    );
    // HAProxy closes a connection after a body with two lengths, whatever the rules are.
    assert_eq!(broken(&[OPEN, sticky]).await, ["asked-again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_p1_a_gate_that_forwards_what_it_must_delete_fails() {
    let spoofed = ("    http-request del-header ^x[^a-z0-9]forwarded", "    # ");
    assert_eq!(broken(&[spoofed]).await, ["spoofed-headers-arrive"]);
    let token = ("http-request del-header Authorization unless", "# ");
    assert_eq!(broken(&[token]).await, ["token-travels"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_its_agent_is_closed_but_does_not_pass() {
    let (mut stage, _) = stage(Version::newest()).await;
    stage.agent.kill();
    let url = format!("http://{}", stage.haproxy.http);
    until("HAProxy to notice", async || {
        let reply = stage.get(&host(ALICES), None).await;
        (reply.status == 503).then_some(())
    })
    .await;
    let output = selftest(url, &[]).await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("refused, but because the agent does not answer"), "{text}");
    assert!(!text.contains("let through"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_distinguished_from_an_open_gate() {
    let unused = crate::support::haproxy::free_port();
    for (url, args) in [
        (format!("http://{unused}"), &[][..]),
        ("ftp://127.0.0.1".into(), &[]),
        (format!("http://{unused}"), &["--echo"]),
        (format!("http://{unused}"), &["--token-file", "no-such-file"]),
        (format!("https://{unused}"), &["--ca", "no-such-file"]),
    ] {
        let output = selftest(url, args).await;
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    }
    // A gate whose certificate is not signed by a known authority.
    let stage = Stage::start(Version::newest()).await;
    let output = selftest(format!("https://{}", stage.haproxy.https), &[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("cannot reach"), "{}", text(&output));
}
